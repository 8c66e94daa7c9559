// Databases and extensions that come and go; servers that cannot serve.

import { assert, note, test, until } from '../e2e/lib/tap.mjs';
import { RawClient } from '../e2e/lib/raw.mjs';
import { createRole, createTable, pg, port, sql, status, token } from '../e2e/lib/server.mjs';
import { freePort, gatewayPids, listening, log, restart, running, served, server } from './lib/cluster.mjs';

await createRole('reader');
await createTable('rows', 'id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY', { roles: ['reader'] });
const apikey = token('reader');

const psql = (database, text) => server('psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', database, '-c', text);
const stateOf = async (database) =>
  (await sql('SELECT state, message FROM rtsync.status() WHERE database = $1', [database]))[0];

// A row reaches a client of the tests' own database.
async function works() {
  const client = await served({ apikey });
  await client.joinOk('rows', [{ event: '*', schema: 'public', table: 'rows' }]);
  await sql('INSERT INTO rows DEFAULT VALUES');
  await client.frame('the row', () => client.changes().length === 1);
  client.close();
}

async function timed(what, limit, action) {
  const start = performance.now();
  await action();
  const took = performance.now() - start;
  note(`${what} took ${took.toFixed(0)} ms`);
  assert.ok(took < limit, `${what} took ${took} ms`);
}

test('DROP DATABASE succeeds at once, with the engine running and clients connected', async () => {
  const other = await freePort();
  await sql('CREATE DATABASE doomed');
  await sql(`ALTER DATABASE doomed SET rtsync.port = ${other}`);
  await psql('doomed', 'CREATE EXTENSION rtsync');
  await until('its engine', async () => (await stateOf('doomed'))?.state === 'running', { every: 50 });
  await until('its gateway', () => listening(other), { every: 50 });
  const client = await RawClient.open({ apikey, base: `ws://127.0.0.1:${other}` });
  await client.joinOk('idle', []);
  await timed('DROP DATABASE', 20_000, () => sql('DROP DATABASE doomed'));
  await client.waitClosed();
  await until('the port to be free', async () => !(await listening(other)));
  assert.deepEqual(await sql("SELECT slot_name FROM pg_replication_slots WHERE database = 'doomed'"), []);
  await works();
});

test('CREATE DATABASE ... TEMPLATE and ALTER DATABASE RENAME are not held up', async () => {
  const other = await freePort();
  await sql('CREATE DATABASE model');
  await sql(`ALTER DATABASE model SET rtsync.port = ${other}`);
  await psql('model', 'CREATE EXTENSION rtsync');
  await until('its engine', async () => (await stateOf('model'))?.state === 'running', { every: 50 });
  await timed('CREATE DATABASE ... TEMPLATE', 20_000, () => sql('CREATE DATABASE copy TEMPLATE model'));
  await sql(`ALTER DATABASE copy SET rtsync.port = ${await freePort()}`);
  await timed('ALTER DATABASE ... RENAME', 20_000, () => sql('ALTER DATABASE model RENAME TO renamed'));
  await timed('DROP DATABASE', 20_000, () => sql('DROP DATABASE renamed'));
  await timed('DROP DATABASE', 20_000, () => sql('DROP DATABASE copy'));
});

test('DROP EXTENSION succeeds at once and takes engine, slot and port with it; CREATE brings them back', async () => {
  const client = await RawClient.open({ apikey });
  await client.joinOk('idle', []);
  await timed('DROP EXTENSION', 20_000, () => psql('postgres', 'DROP EXTENSION rtsync'));
  await client.waitClosed();
  await until('the slot to be gone', async () =>
    (await sql("SELECT FROM pg_replication_slots WHERE plugin = 'rtsync'")).length === 0, { every: 50 });
  await until('the port to be free', async () => !(await listening(port)));
  await until('the gateway to be gone', async () => (await gatewayPids()).length === 0);
  await sql('CREATE EXTENSION rtsync');
  await running();
  await sql('GRANT reader TO rtsync_authenticator');
  await works();
});

test('a database in another encoding than UTF-8: what clients are told at any time is no danger', async () => {
  const other = await freePort();
  await sql("CREATE DATABASE latin TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'");
  await sql(`ALTER DATABASE latin SET rtsync.port = ${other}`);
  await psql('dbname=latin client_encoding=UTF8', 'CREATE EXTENSION rtsync');
  await psql('dbname=latin client_encoding=UTF8', `CREATE TABLE t\u00fcren (id int PRIMARY KEY, name text); GRANT SELECT ON t\u00fcren TO reader;
    CREATE PUBLICATION rtsync FOR TABLE t\u00fcren`);
  await until('its engine', async () => (await stateOf('latin'))?.state === 'running', { every: 50 });
  await until('its gateway', () => listening(other), { every: 50 });
  const engine = async () => (await sql("SELECT pid FROM rtsync.status() WHERE database = 'latin'"))[0].pid;
  const pid = await engine();
  const client = await RawClient.open({ apikey, base: `ws://127.0.0.1:${other}` });
  await client.joinOk('long', [{ event: '*', schema: 'public', table: 't\u00fcren' }]);
  await psql('dbname=latin client_encoding=UTF8', "INSERT INTO t\u00fcren VALUES (1, 'gr\u00fcn')");
  await client.frame('the row', () => client.changes().some((c) => c.table === 't\u00fcren' && c.record.name === 'gr\u00fcn'));
  await psql('dbname=latin client_encoding=UTF8', 'REVOKE SELECT ON t\u00fcren FROM reader');
  await client.frame('the name in words', (f) => /permission denied for table public\.t\u00fcren/.test(f.text));
  await client.joinOk('short', []);
  const exp = Math.floor(Date.now() / 1000) + 2;
  client.send('realtime:short', 'access_token', { access_token: token('reader', { exp }) });
  await client.frame('the end', (f) => f.topic === 'realtime:short' && /Token has expired/.test(f.text));
  assert.equal(await engine(), pid);
  client.close();
  await sql('DROP DATABASE latin');
});

test('CREATE EXTENSION that is rolled back starts nothing', async () => {
  await sql('CREATE DATABASE undone');
  await server('psql', '-X', '-q', '-d', 'undone', '-c', 'BEGIN', '-c', 'CREATE EXTENSION rtsync', '-c', 'ROLLBACK');
  await works();
  assert.notEqual((await stateOf('undone'))?.state, 'running');
  await timed('DROP DATABASE', 20_000, () => sql('DROP DATABASE undone'));
});

test('a second database on the same port is told so, and the first is not disturbed', async () => {
  const { length } = await log();
  await sql('CREATE DATABASE second');
  await psql('second', 'CREATE EXTENSION rtsync');
  await until('a log line that names the port', async () => {
    const lines = (await log()).slice(length).split('\n');
    return lines.some((line) => /"second"/.test(line) && line.includes(String(port)) && /in use/i.test(line));
  }, { every: 100 });
  await works();
  const other = await freePort();
  await sql(`ALTER DATABASE second SET rtsync.port = ${other}`);
  await until('the second to run on a port of its own', async () => {
    const row = await stateOf('second');
    return row?.state === 'running' && !row.message && (await listening(other));
  }, { timeout: 60_000, every: 200 });
  await works();
  await sql('DROP DATABASE second');
});

// Policies that do worse than to raise an error
const poisons = [
  ['recursion without end', 'BEGIN RETURN poison(); END'],
  ['a gigabyte', "BEGIN RETURN length(repeat('x', 1000000000)) > 0 AND length(repeat('y', 1073741800) || 'yyyyyyyyyyyyyyyyyyyyyyy') > 0; END"],
  ['an error of class FATAL in a sub-block', "BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN true; END"],
  ['a table that is gone', 'BEGIN RETURN EXISTS (SELECT FROM no_such_table); END'],
  ['a sleep', 'BEGIN PERFORM pg_sleep(3600); RETURN true; END'],
  ['a lock', "BEGIN PERFORM pg_advisory_lock(4711); RETURN true; END"],
];
for (const [what, body] of poisons) {
  test(`a poison policy (${what}) does not keep the others from being served`, async () => {
    await createRole('poisoned');
    await createTable('bitter', 'id int PRIMARY KEY', { roles: ['poisoned', 'reader'] });
    await sql(`CREATE OR REPLACE FUNCTION poison() RETURNS bool LANGUAGE plpgsql AS $$ ${body} $$`);
    await sql(`ALTER TABLE bitter ENABLE ROW LEVEL SECURITY;
      CREATE POLICY poison ON bitter FOR SELECT TO poisoned USING (poison());
      CREATE POLICY fine ON bitter FOR SELECT TO reader USING (true)`);
    const fine = await RawClient.open({ apikey });
    await fine.joinOk('fine', [{ event: '*', schema: 'public', table: 'bitter' }]);
    const victim = await RawClient.open({ apikey: token('poisoned') });
    await victim.joinOk('bitter', [{ event: '*', schema: 'public', table: 'bitter' }]);
    const holder = new pg.Client();
    await holder.connect();
    await holder.query('SELECT pg_advisory_lock(4711)');
    for (let n = 1; n <= 3; n++) await sql('INSERT INTO bitter VALUES ($1)', [n]);
    await fine.frame('all rows', () => fine.changes().length === 3, { timeout: 60_000 });
    assert.equal(victim.changes().length, 0);
    await holder.end();
    fine.close();
    victim.close();
    await works();
  });
}

//
// Servers that cannot serve: a state with a reason, no crash loop, a running server
//

test('no free replication slot: says so, and goes on when there is one', async () => {
  const [{ n }] = await sql("SELECT current_setting('max_replication_slots')::int AS n");
  await sql('ALTER SYSTEM SET max_replication_slots = 1');
  await psql('postgres', 'DROP EXTENSION rtsync');
  await until('our slot to be gone', async () =>
    (await sql("SELECT FROM pg_replication_slots WHERE plugin = 'rtsync'")).length === 0, { every: 50 });
  await restart('fast');
  await sql("SELECT pg_create_physical_replication_slot('taken')");
  await sql('CREATE EXTENSION rtsync; GRANT reader TO rtsync_authenticator');
  const row = await until('the state', async () => {
    const found = await stateOf('postgres');
    return found?.state === 'waiting' && found;
  }, { every: 50 });
  assert.match(row.message, /replication slot/);
  await sql("SELECT pg_drop_replication_slot('taken')");
  await running({ timeout: 60_000 });
  await works();
  await sql(`ALTER SYSTEM SET max_replication_slots = ${n}`);
}, { timeout: 240_000 });

// Starts with a setting that is too low, and finds the reason in the status.
async function waitsWith(setting, value, reason) {
  await sql(`ALTER SYSTEM SET ${setting} = '${value}'`);
  await restart('fast');
  const row = await until(`the state under ${setting} = ${value}`, async () => {
    const found = await stateOf('postgres').catch(() => null);
    return found?.state === 'waiting' && found;
  }, { every: 50 });
  note(row.message.replaceAll('\n', ' '));
  assert.match(row.message, reason);
  const lines = (await log()).split('\n').length;
  await new Promise((resolve) => setTimeout(resolve, 3000));
  assert.ok((await log()).split('\n').length - lines < 20, 'the log is not flooded');
  await sql(`ALTER SYSTEM RESET ${setting}`);
  await restart('fast');
  await running();
  await works();
}

test('wal_level below logical: the server starts, and the state says why nothing is served', async () => {
  await psql('postgres', 'DROP EXTENSION rtsync'); // a server with a logical slot does not start at this level
  await until('our slot to be gone', async () =>
    (await sql("SELECT FROM pg_replication_slots WHERE plugin = 'rtsync'")).length === 0, { every: 50 });
  await sql("ALTER SYSTEM SET wal_level = 'replica'");
  await restart('fast');
  await sql('CREATE EXTENSION rtsync; GRANT reader TO rtsync_authenticator');
  const row = await until('the state', async () => {
    const found = await stateOf('postgres');
    return found?.state === 'waiting' && found;
  }, { every: 50 });
  assert.match(row.message, /wal_level/);
  await sql('ALTER SYSTEM RESET wal_level');
  await restart('fast');
  await running();
  await works();
});

test('no worker slot: the server starts, and the state says why nothing is served', () =>
  waitsWith('max_worker_processes', 2, /worker/));

test('the status is the engine’s own', async () => {
  const row = await status();
  assert.equal(row.state, 'running');
});
