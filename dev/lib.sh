# shellcheck shell=bash
#
# dev/lib.sh: what the commands of this repository have in common.
#
# Source it; it sets ROOT (the repository) and defines the functions below.
# Everything that is built or downloaded for the commands goes under
# ROOT/build, which git ignores.

set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
umask 022
# A make that we start is nobody's part.
unset MAKEFLAGS MAKELEVEL MFLAGS

say()
{
	echo "$*" >&2
}

die()
{
	say "$(basename "$0"): $*"
	exit 1
}

# Try a command that depends on the network, several times if need be.
try_again()
{
	local attempt
	for attempt in 1 2 3 4; do
		"$@" && return
		say "\"$1\" failed (attempt $attempt of 5)"
		sleep $((attempt * 5))
	done
	"$@"
}

# Run a command under a lock of this name, so that any number of our commands
# may run side by side.  The command does not inherit the lock's descriptor: a
# server that it starts would hold the lock for ever.
with_lock()
{
	local name=$1
	shift
	mkdir -p "$ROOT/build"
	(
		flock 9
		"$@" 9>&-
	) 9>"$ROOT/build/.$name.lock"
}

# Print the pg_config to build with: PG_CONFIG, or the one in the PATH, or
# the newest of Debian's.  It counts only if the server and its headers are
# there, which Debian has in packages of their own.
find_pg_config()
{
	local candidate
	for candidate in "${PG_CONFIG:-}" "$(command -v pg_config || true)" \
		$(printf '%s\n' /usr/lib/postgresql/*/bin/pg_config | sort -rV)
	do
		if [ -n "$candidate" ] && [ -x "$candidate" ] &&
			[ -x "$("$candidate" --bindir)/postgres" ] &&
			[ -e "$("$candidate" --pgxs)" ] &&
			[ -e "$("$candidate" --includedir-server)/postgres.h" ]
		then
			echo "$candidate"
			return 0
		fi
	done
	return 1
}

# The Node that the clients need, where the system's is older
NODE_MAJOR=20
NODE_OWN=$ROOT/build/node/node_modules/node/bin

node_is_new_enough()
{
	local version
	version=$(node -p 'process.versions.node.split(".")[0]' 2>/dev/null) || return 1
	[ "$version" -ge "$NODE_MAJOR" ]
}

# Put a Node that is new enough first in the PATH, if dev/deps fetched one.
use_node()
{
	node_is_new_enough && return
	if [ -x "$NODE_OWN/node" ]; then
		PATH=$NODE_OWN:$PATH
		export PATH
	fi
	node_is_new_enough || die "Node $NODE_MAJOR or newer is needed; run dev/deps"
}

# A new scratch directory, which the server's user can enter too.
scratch_dir()
{
	local dir
	dir=$(mktemp -d "${TMPDIR:-/tmp}/rtsync-$1.XXXXXX")
	chmod 711 "$dir"
	echo "$dir"
}

# The lines of a server's log that tell of a crash, but for the PANIC with which
# PostgreSQL itself ends when there is no room for WAL
crashes()
{
	awk '
		/PANIC:.*No space left on device/ {
			match($0, /\[[0-9]+\]/)
			full["(PID " substr($0, RSTART + 1, RLENGTH - 2) ")"] = 1
			next
		}
		/was terminated by signal (4|6|7|8|11):/ {
			match($0, /\(PID [0-9]+\)/)
			if (!(substr($0, RSTART, RLENGTH) in full))
				print
			next
		}
		/PANIC:|TRAP:|Sanitizer/' "$1"
}

# A test's line: no process of the server has crashed, as its log says.  Clients
# get over that, and so would the tests.
check_log()
{
	local name=$1 found
	found=$(crashes "$2")
	if [ -n "$found" ]; then
		echo "not ok - ${name}no process of the server has crashed"
		head -n 5 <<<"$found" | sed 's/^/# /'
		return 1
	fi
	echo "ok - ${name}no process of the server has crashed"
}
