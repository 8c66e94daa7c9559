# Launcher, engines and gateways as processes: who starts when, who ends when,
# and what a database administrator meets on the way.
#
# TAP, to be run with prove.  Uses dev/cluster, so any user may run it.

use strict;
use warnings;
use sigtrap qw(die normal-signals);

use Cwd qw(abs_path);
use File::Basename qw(dirname);
use File::Temp qw(tempdir);
use IO::Socket::INET;
use Test::More;
use Time::HiRes qw(sleep time);

$SIG{PIPE} = 'IGNORE';

my $root = dirname(dirname(dirname(abs_path(__FILE__))));
my $dir;						# of the cluster under test
my @started;					# clusters to stop at the end

#
# The cluster
#

sub start_cluster
{
	my ($name, @settings) = @_;

	$dir = tempdir("rtsync-$name.XXXXXX", TMPDIR => 1, CLEANUP => 1);
	chmod 0711, $dir;
	my @options = map { ('-c', $_) } @settings;
	local $ENV{CLUSTER_WAIT} = 'server';
	push @started, $dir;
	system("$root/dev/cluster start $dir @options >/dev/null </dev/null") == 0
	  or BAIL_OUT('the cluster did not start');
	return;
}

sub stop_clusters
{
	system("$root/dev/cluster stop $_ </dev/null") for @started;
	@started = ();
	return;
}

END
{
	my $status = $?;
	stop_clusters();
	$? = $status;
}

# Run a command as the server's user; returns its exit code and its output.
sub run
{
	my (@command) = @_;

	my $pid = open(my $out, '-|') // die "fork: $!";
	if (!$pid)
	{
		open(STDERR, '>&', \*STDOUT);
		open(STDIN, '<', '/dev/null');
		exec("$root/dev/cluster", 'run', $dir, @command) or exit 127;
	}
	my $output = do { local $/; <$out> } // '';
	close($out);
	chomp $output;
	return ($? >> 8, $output);
}

sub try_sql
{
	my ($database, $sql) = @_;
	return run('psql', '-XqAt', '-v', 'ON_ERROR_STOP=1', '-d', $database,
		'-c', $sql);
}

sub sql
{
	my ($database, $sql) = @_;
	my ($rc, $output) = try_sql($database, $sql);
	fail("$sql: $output") if $rc != 0;
	return $output;
}

sub restart
{
	my ($mode) = @_;
	my ($rc) = run('sh', '-c',
		"pg_ctl restart -w -m $mode -l $dir/log >/dev/null 2>&1");
	is($rc, 0, "server restarts ($mode)");
	return;
}

sub log_text
{
	open(my $log, '<', "$dir/log") or die "$dir/log: $!";
	local $/;
	return <$log>;
}

sub log_count
{
	my ($pattern, $from) = @_;
	my $count = () = substr(log_text(), $from // 0) =~ /$pattern/g;
	return $count;
}

# Wait for what should take so many seconds, and on a busy machine takes more.
sub wait_until
{
	my ($seconds, $condition) = @_;
	my $deadline = time() + ($seconds < 120 ? 120 : $seconds);

	until ($condition->())
	{
		return 0 if time() > $deadline;
		sleep 0.02;
	}
	return 1;
}

#
# Engines and gateways
#

# One column of a database's row in rtsync.status()
sub status
{
	my ($database, $column) = @_;
	return sql('postgres',
		"SELECT $column FROM rtsync.status() WHERE database = '$database'");
}

sub state_becomes
{
	my ($database, $state, $name) = @_;
	my $now;
	ok(wait_until(20, sub { ($now = status($database, 'state')) eq $state }),
		$name // "engine of $database: $state")
	  or diag("state is \"$now\"\n" . substr(log_text(), -2000));
	return;
}

sub engine_pid { my ($database) = @_; return status($database, 'pid'); }

sub children
{
	my ($parent) = @_;
	my @children;

	foreach my $stat (glob '/proc/[0-9]*/stat')
	{
		open(my $file, '<', $stat) or next;
		my $line = <$file> // next;
		push @children, $1 if $line =~ /^(\d+) \(.*\) \S (\d+)/s && $2 == $parent;
	}
	return @children;
}

# The gateway of a database, waited for
sub gateway_pid
{
	my ($database) = @_;
	my @pids;
	wait_until(5, sub { @pids = children(engine_pid($database) || -1); @pids == 1 });
	return $pids[0];
}

# Ask the gateway in HTTP whether it serves; undef if nobody listens there
sub ask
{
	my ($port) = @_;
	my $socket = IO::Socket::INET->new(
		PeerAddr => '127.0.0.1', PeerPort => $port, Timeout => 30) or return;

	print $socket "GET /healthcheck HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
	my $line = <$socket> // '';
	return $line =~ / 200 / ? 1 : 0;
}

sub serves
{
	my ($port, $name) = @_;
	ok(wait_until(10, sub { ask($port) }), $name)
	  or diag(substr(log_text(), -2000));
	return;
}

sub refused
{
	my ($port, $name) = @_;
	ok(wait_until(5, sub { !defined(ask($port)) }), $name);
	return;
}

# Below those that outgoing connections get, which anybody may take at any time
sub free_port
{
	while (1)
	{
		my $socket = IO::Socket::INET->new(LocalAddr => '127.0.0.1',
			LocalPort => 20000 + int(rand(12000)), Listen => 1, ReuseAddr => 1);
		return $socket->sockport if $socket;
	}
}

# A statement that must succeed, and soon
sub succeeds_at_once
{
	my ($database, $sql, $name) = @_;
	my $start = time();
	my ($rc, $output) = try_sql($database, $sql);
	my $took = time() - $start;

	is($rc, 0, $name // $sql) or diag($output);
	cmp_ok($took, '<', 20, '... at once');
	return;
}

# A database with the extension, and a port of its own
sub create_served
{
	my ($database) = @_;
	my $port = free_port();

	sql('postgres', "CREATE DATABASE $database");
	sql('postgres', "ALTER DATABASE $database SET rtsync.port = $port");
	sql($database, "SET client_min_messages = warning; CREATE EXTENSION rtsync");
	state_becomes($database, 'running');
	return $port;
}

#
# The tests
#

sub test_start
{
	my $port = sql('postgres', 'SHOW rtsync.port');

	state_becomes('postgres', 'running');
	serves($port, 'the gateway serves');
	# an engine may still look whether there is something to serve elsewhere
	ok(wait_until(5, sub { sql('postgres', q{SELECT string_agg(backend_type || ':' || coalesce(datname, ''), ' '
			ORDER BY backend_type) FROM pg_stat_activity WHERE backend_type ~ 'rtsync'})
			eq 'rtsync engine:postgres rtsync launcher:' }),
		'pg_stat_activity shows launcher and engine');
	is( sql('postgres', q{SELECT database || ' ' || active FROM pg_replication_slots}),
		'postgres true', 'the engine holds one slot');
	return $port;
}

sub test_status_rights
{
	sql('postgres', 'CREATE ROLE plain; CREATE ROLE watcher IN ROLE pg_monitor');
	my ($rc, $output) = try_sql('postgres', 'SET ROLE plain; SELECT FROM rtsync.status()');
	like($output, qr/permission denied/, 'not everybody sees the status');
	is(sql('postgres', q{SET ROLE watcher; SELECT count(*) FROM rtsync.status()}),
		1, 'pg_monitor does');
	($rc, $output) = try_sql('postgres', 'SET ROLE plain; SHOW rtsync.jwt_secret');
	like($output, qr/must be superuser|permission denied to examine/, 'not everybody may ask for the secret');
	is(sql('postgres', 'SHOW rtsync.jwt_secret'), '********', 'nobody is told');
	is(sql('postgres', q{SELECT count(*) FROM pg_settings WHERE name = 'rtsync.jwt_secret'}),
		0, 'the secret is not in pg_settings');
	return;
}

sub test_settings
{
	foreach my $case (
		['rtsync.port', 0, qr/outside the valid range/],
		['rtsync.publication', q{''}, qr/cannot be empty/],
		['rtsync.listen_addresses', q{'a b'}, qr/List syntax is invalid/],
		['rtsync.delete_visibility', 'none', qr/Available values: policy, key/],
		['rtsync.prot', 1, qr/reserved prefix|unrecognized configuration/])
	{
		my ($name, $value, $error) = @$case;
		my ($rc, $output) = try_sql('postgres', "SET $name = $value");
		like($output, $error, "SET $name = $value is refused");
	}
	my ($rc, $output) = try_sql('postgres', 'SET ROLE plain; SET rtsync.port = 1');
	like($output, qr/permission denied/, 'only superusers may change a setting');
	($rc, $output) = try_sql('postgres',
		q{ALTER DATABASE template1 SET rtsync.jwt_secret = 'x'; ALTER DATABASE template1 RESET ALL});
	like($output, qr/every user can read a secret/, 'a secret in a catalog gets a warning');
	return;
}

sub test_port_in_use
{
	my ($first_port) = @_;
	my $from = length(log_text());

	sql('postgres', 'CREATE DATABASE second');
	sql('second', 'SET client_min_messages = warning; CREATE EXTENSION rtsync');
	state_becomes('second', 'running', 'a second database on the same port runs');
	ok(wait_until(10, sub { status('second', 'message') =~ /in use/ }),
		'... and says that the port is in use');
	is(status('second', 'listen_addresses IS NULL'), 't', '... and that it listens nowhere');
	sleep 2;
	is(log_count(qr/WARNING: .*second.*in use/, $from), 1, '... in one log line');
	is(ask($first_port), 1, 'the first database serves as before');

	my $port = free_port();
	sql('postgres', "ALTER DATABASE second SET rtsync.port = $port");
	serves($port, 'ALTER DATABASE SET rtsync.port takes effect at once');
	is(status('second', 'message'), '', '... and the message is gone');
	sql('postgres', 'DROP DATABASE second');
	refused($port, 'nobody listens after DROP DATABASE');
	return;
}

sub test_extension_comes_and_goes
{
	sql('postgres', 'CREATE DATABASE third');
	try_sql('third', 'SET client_min_messages = warning; BEGIN; CREATE EXTENSION rtsync; ROLLBACK');
	sleep 0.5;
	unlike(status('third', 'state'), qr/running/, 'a rolled back CREATE EXTENSION starts nothing');

	my $port = free_port();
	sql('postgres', "ALTER DATABASE third SET rtsync.port = $port");
	foreach my $drop ('DROP EXTENSION rtsync', 'DROP SCHEMA rtsync CASCADE')
	{
		sql('third', 'SET client_min_messages = warning; CREATE EXTENSION rtsync');
		state_becomes('third', 'running');
		serves($port, '... serves');
		succeeds_at_once('third', "SET client_min_messages = warning; $drop", $drop);
		refused($port, '... ends the gateway');
		ok(wait_until(5, sub { sql('third',
			q{SELECT count(*) FROM pg_replication_slots WHERE database = 'third'}) == 0 }),
			'... and drops the slot');
		ok(wait_until(5, sub { status('third', 'state') eq '' }), '... and the row of status()');
	}
	succeeds_at_once('postgres', 'DROP DATABASE third');
	return;
}

sub test_drop_database
{
	foreach my $round (1 .. 3)
	{
		create_served('fourth');
		succeeds_at_once('postgres', 'DROP DATABASE fourth');
	}
	foreach my $round (1 .. 5)
	{
		sql('postgres', 'CREATE DATABASE fourth');
		sql('fourth', 'SET client_min_messages = warning; CREATE EXTENSION rtsync');
		sleep 0.02 * $round;
		succeeds_at_once('postgres', 'DROP DATABASE fourth',
			'DROP DATABASE just after CREATE EXTENSION');
	}
	# the launcher may have looked at the databases before
	ok(wait_until(5, sub { sql('postgres', q{SELECT count(*) FROM rtsync.status()}) == 1 }),
		'no row is left');
	is(sql('postgres', 'SELECT count(*) FROM pg_replication_slots'), 1, 'no slot is left');
	return;
}

sub test_drop_while_starting
{
	# a slot cannot be made while an older transaction runs
	create_served('fifth');
	sql('fifth', 'DROP EXTENSION rtsync');
	sql('postgres', 'CREATE DATABASE sixth');
	my $pid = open(my $session, '|-', "$root/dev/cluster", 'run', $dir,
		'psql', '-Xq', '-d', 'sixth') // die $!;
	$session->autoflush(1);
	print $session "BEGIN; SELECT pg_current_xact_id() \\g /dev/null\n";
	ok(wait_until(5, sub { sql('postgres',
		q{SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction'}) == 1 }),
		'an older transaction runs');
	sql('fifth', 'SET client_min_messages = warning; CREATE EXTENSION rtsync');
	state_becomes('fifth', 'starting', 'an engine waits for it');
	succeeds_at_once('postgres', 'DROP DATABASE fifth', 'DROP DATABASE meanwhile');
	print $session "COMMIT;\n";
	close($session);
	sql('postgres', 'DROP DATABASE sixth');
	return;
}

sub test_rename_copy_move
{
	my $port = create_served('one');

	succeeds_at_once('postgres', 'ALTER DATABASE one RENAME TO uno');
	state_becomes('uno', 'running', 'the engine returns after RENAME');
	serves($port, '... and serves');

	succeeds_at_once('postgres', 'CREATE DATABASE due TEMPLATE uno');
	state_becomes('uno', 'running', 'the engine returns after having been copied');
	state_becomes('due', 'running', 'the copy has one too');
	serves($port, '... and the original serves');

	sql('postgres', 'ALTER ROLE postgres SET allow_in_place_tablespaces = on');
	sql('postgres', q{CREATE TABLESPACE space LOCATION ''});
	succeeds_at_once('postgres', 'ALTER DATABASE uno SET TABLESPACE space');
	state_becomes('uno', 'running', 'the engine returns after SET TABLESPACE');
	serves($port, '... and serves');

	my ($rc, $output) = try_sql('postgres',
		'BEGIN; ALTER DATABASE uno RENAME TO eins; ROLLBACK');
	is($rc, 0, 'RENAME is rolled back');
	state_becomes('uno', 'running', '... and the engine returns');
	succeeds_at_once('postgres', 'DROP DATABASE due');
	return $port;
}

sub test_hold_rights
{
	my ($port) = @_;
	my $pid = engine_pid('uno');

	try_sql('postgres', "SET ROLE plain; $_")
	  for ('DROP DATABASE uno', 'ALTER DATABASE uno RENAME TO x',
		'CREATE DATABASE x TEMPLATE uno', 'ALTER DATABASE uno SET rtsync.port = 1');
	sleep 0.3;
	is(engine_pid('uno'), $pid, 'who may not change the database does not stop its engine');

	my ($rc, $output) = try_sql('postgres', 'BEGIN; DROP DATABASE uno');
	like($output, qr/cannot run inside a transaction block/, 'DROP DATABASE in a transaction');
	is(engine_pid('uno'), $pid, '... does not stop it either');
	try_sql('uno', 'DROP DATABASE uno');
	is(engine_pid('uno'), $pid, '... nor does dropping the own database');

	open(my $session, '|-', "$root/dev/cluster", 'run', $dir,
		'env', 'PGAPPNAME=somebody', 'psql', '-Xq', '-d', 'uno') // die $!;
	ok(wait_until(5, sub { sql('postgres', q{SELECT count(*) FROM pg_stat_activity
		WHERE datname = 'uno' AND application_name = 'somebody'}) == 1 }), 'somebody is connected');
	($rc, $output) = try_sql('postgres', 'DROP DATABASE uno');
	like($output, qr/being accessed by other users/, 'so the database cannot be dropped');
	state_becomes('uno', 'running', '... and the engine returns');
	serves($port, '... and serves');
	close($session);

	($rc, $output) = try_sql('postgres', 'DROP DATABASE uno WITH (FORCE)');
	is($rc, 0, 'DROP DATABASE WITH (FORCE)') or diag($output);
	return;
}

sub test_killed_gateway
{
	my ($port) = @_;
	my $started = sql('postgres', 'SELECT pg_postmaster_start_time()');
	my $gateway = gateway_pid('postgres');
	my ($asked, $refused, $slowest) = (0, 0, 0);

	foreach my $round (1 .. 2)
	{
		my $killed = gateway_pid('postgres');
		kill 'KILL', $killed;
		my $start = time();
		my $answer;
		$refused++ if !defined($answer = ask($port));
		my $took = time() - $start;
		$slowest = $took if $took > $slowest;
		ok($answer, 'a client that comes just after kill -9 of the gateway is served');
		sleep 0.5;
	}
	is($refused, 0, 'nobody was refused');
	cmp_ok($slowest, '<', 5, 'the gateway is back at once');
	isnt(gateway_pid('postgres'), $gateway, '... and is another one');
	is(sql('postgres', 'SELECT pg_postmaster_start_time()'), $started,
		'PostgreSQL did not notice');
	like(log_text(), qr/rtsync gateway \(PID $gateway\) has ended: .*signal 9/, 'it is in the log');
	return;
}

sub test_terminated
{
	my ($port) = @_;
	my $pid = engine_pid('postgres');

	sql('postgres', "SELECT pg_terminate_backend($pid)");
	ok(wait_until(10, sub { my $now = engine_pid('postgres'); $now && $now != $pid }),
		'an engine that was terminated returns');
	state_becomes('postgres', 'running');
	serves($port, '... and serves');

	$pid = engine_pid('postgres');
	my $launcher = q{SELECT string_agg(pid::text, ' ') FROM pg_stat_activity
		WHERE backend_type = 'rtsync launcher'};
	my $before = sql('postgres', $launcher);
	sql('postgres', "SELECT pg_terminate_backend($before)");
	ok(wait_until(15, sub { my $now = sql('postgres', $launcher); $now ne '' && $now ne $before }),
		'a launcher that was terminated returns');
	sleep 0.3;
	is(engine_pid('postgres'), $pid, '... and leaves the engine alone');
	succeeds_at_once('postgres', 'CREATE DATABASE seventh');
	sql('seventh', 'SET client_min_messages = warning; CREATE EXTENSION rtsync');
	state_becomes('seventh', 'running', '... and starts new ones');
	succeeds_at_once('postgres', 'DROP DATABASE seventh');
	return;
}

sub test_restarts
{
	my ($port) = @_;

	foreach my $mode ('fast', 'immediate')
	{
		my ($engine, $gateway) = (engine_pid('postgres'), gateway_pid('postgres'));
		my $from = length(log_text());

		restart($mode);
		state_becomes('postgres', 'running');
		serves($port, "serves after restart -m $mode");
		ok(wait_until(2, sub { !-d "/proc/$engine" && !-d "/proc/$gateway" }),
			'... and no process is left over');
		is(log_count(qr/in use/, $from), 0, '... and the port was not held');
	}

	my $gateway = gateway_pid('postgres');
	kill 'STOP', $gateway;
	restart('fast');
	ok(wait_until(1, sub { !-d "/proc/$gateway" }), 'a gateway that hangs does not outlive a fast shutdown');
	state_becomes('postgres', 'running');
	serves($port, '... and the next one serves');

	my $engine = engine_pid('postgres');
	$gateway = gateway_pid('postgres');
	kill 'KILL', $engine;
	# gone when the server has taken notice
	wait_until(30, sub { !-d "/proc/$engine" });
	ok(wait_until(30, sub { (try_sql('postgres', 'SELECT'))[0] == 0 }),
		'the server recovers from kill -9 of an engine');
	state_becomes('postgres', 'running');
	serves($port, '... and serves');
	ok(wait_until(2, sub { !-d "/proc/$gateway" }), '... and the old gateway is gone');
	return;
}

sub test_occupied_port
{
	my ($port) = @_;

	run('pg_ctl', 'stop', '-w', '-m', 'fast');
	# the gateway ends when the server has, and a moment later
	my $squatter;
	ok(wait_until(5, sub { $squatter = IO::Socket::INET->new(LocalAddr => '127.0.0.1',
		LocalPort => $port, Listen => 1, ReuseAddr => 1) }), 'the port of a stopped server is free');
	my $from = length(log_text());
	is((run('sh', '-c', "pg_ctl start -w -l $dir/log >/dev/null"))[0], 0,
		'the server starts though the port is taken');
	ok(wait_until(10, sub { status('postgres', 'message') =~ /in use/ }),
		'... and status() says so');
	isnt(status('postgres', 'hint'), '', '... with a hint');
	close($squatter);
	serves($port, 'it serves when the port is free');
	is(log_count(qr/WARNING: .*in use/, $from), 1, '... and had complained once');
	return;
}

sub test_many_databases
{
	# more than the table of engines has entries
	my $sql = join("\n", map { "CREATE DATABASE many$_;" } (1 .. 70));
	my ($rc) = run('sh', '-c', "echo '$sql' | psql -XqAt -v ON_ERROR_STOP=1");
	is($rc, 0, '70 databases are made');
	sql('many70', 'SET client_min_messages = warning; CREATE EXTENSION rtsync');
	state_becomes('many70', 'running', 'the last of many databases has an engine');
	restart('fast');
	state_becomes('many70', 'running', '... and again after a restart');
	state_becomes('postgres', 'running');
	is(log_count(qr/cannot serve more than/), 0, '... without complaint');
	return;
}

sub test_not_preloaded
{
	run('sh', '-c', q{echo "shared_preload_libraries = ''" >> $PGDATA/postgresql.conf});
	restart('fast');
	sql('postgres', 'CREATE DATABASE bare');
	my ($rc, $output) = try_sql('bare', 'CREATE EXTENSION rtsync');
	like($output, qr/must be loaded via shared_preload_libraries/,
		'CREATE EXTENSION without preloading fails');
	like($output, qr/HINT: .*Add rtsync to shared_preload_libraries/, '... with a hint');
	return;
}

# A server that cannot serve: one clear line, a state, a retry
sub waits
{
	my ($from, $pattern, $name) = @_;

	state_becomes('postgres', 'waiting', "$name: waiting");
	like(status('postgres', 'message'), $pattern, '... and says why');
	isnt(status('postgres', 'hint'), '', '... with a hint');
	sleep 2.5;
	is(log_count(qr/WARNING: .*$pattern/, $from), 1, '... in one log line');
	is(log_count(qr/FATAL|ERROR|exited with exit code/, $from), 0, '... without errors');
	return;
}

sub test_missing_resources
{
	my $from = 0;

	start_cluster('lacking', 'wal_level=replica');
	waits(0, qr/wal_level is below/, 'wal_level = replica');

	sql('postgres', 'ALTER SYSTEM SET wal_level = logical');
	sql('postgres', 'ALTER SYSTEM SET max_replication_slots = 0');
	restart('fast');
	waits(restart_position(), qr/max_replication_slots/, 'max_replication_slots = 0');

	sql('postgres', 'ALTER SYSTEM SET max_replication_slots = 1');
	restart('fast');
	$from = restart_position();
	state_becomes('postgres', 'running', 'one slot is enough');
	sql('postgres', 'DROP EXTENSION rtsync');
	ok(wait_until(5, sub { sql('postgres', 'SELECT count(*) FROM pg_replication_slots') == 0 }),
		'the slot is dropped');
	sql('postgres', q{SELECT pg_create_physical_replication_slot('other')});
	sql('postgres', 'SET client_min_messages = warning; CREATE EXTENSION rtsync');
	waits($from, qr/all replication slots are in use/, 'no free slot');
	sql('postgres', q{SELECT pg_drop_replication_slot('other')});
	state_becomes('postgres', 'running', 'it runs as soon as there is a slot');

	# the server's own logical replication launcher has one, ours another
	sql('postgres', 'ALTER SYSTEM SET max_worker_processes = 2');
	restart('fast');
	waits(restart_position(), qr/out of background worker slots/, 'no worker slot');

	sql('postgres', 'ALTER SYSTEM SET max_worker_processes = 3');
	sql('postgres', "CREATE DATABASE other$_") for (1 .. 3);
	restart('fast');
	ok(wait_until(5, sub { sql('postgres', q{SELECT string_agg(state, ' ') FROM rtsync.status()})
		=~ /^(running|waiting|unknown)( waiting| unknown)*$/ }), 'one worker slot for several databases');
	sql('postgres', "DROP DATABASE other$_") for (1 .. 3);
	state_becomes('postgres', 'running', 'one worker slot is enough');
	my $port = sql('postgres', 'SHOW rtsync.port');
	serves($port, '... to serve');
	sql('postgres', 'CREATE DATABASE other');
	sql('other', 'SET client_min_messages = warning; CREATE EXTENSION rtsync');
	state_becomes('other', 'waiting', 'a second database waits for a worker slot');
	sleep 4;
	sql('postgres', 'DROP EXTENSION rtsync CASCADE');
	ok(wait_until(2, sub { sql('other', q{SELECT state FROM rtsync.status()
		WHERE database = current_database()}) eq 'running' }), '... and runs as soon as there is one');
	sql('postgres', 'SET client_min_messages = warning; CREATE EXTENSION rtsync');

	sql('postgres', 'ALTER SYSTEM SET max_worker_processes = 0');
	restart('fast');
	like(status('postgres', 'message'), qr/launcher does not run/,
		'without any worker slot, status() says that there is no launcher');
	return;
}

# Where the log of the present server process begins
sub restart_position
{
	return rindex(log_text(), 'starting PostgreSQL');
}

start_cluster('supervision');
my $port = test_start();
test_status_rights();
test_settings();
test_port_in_use($port);
test_extension_comes_and_goes();
test_drop_database();
test_drop_while_starting();
test_hold_rights(test_rename_copy_move());
test_killed_gateway($port);
test_terminated($port);
test_restarts($port);
test_occupied_port($port);
test_many_databases();
test_not_preloaded();
stop_clusters();
test_missing_resources();

done_testing();
