// A streaming standby is promoted: the engine starts there, who comes from the
// old primary is told to refetch, and everything goes on.

import { randomUUID } from 'node:crypto';
import { assert, atEnd, test, until } from '../e2e/lib/tap.mjs';
import { RawClient } from '../e2e/lib/raw.mjs';
import { createRole, createTable, pg, sql, token } from '../e2e/lib/server.mjs';
import { freePort, listening, served, server } from './lib/cluster.mjs';

const dir = process.env.CLUSTER_DIR;
// The server's user may write there.
const standby = `${process.env.PGHOST}/standby`;
const [pgPort, port] = [await freePort(), await freePort()];
const base = `ws://127.0.0.1:${port}`;
const binding = { event: '*', schema: 'public', table: 'notes' };
const apikey = token('reader', { sub: 'ann' });

await createRole('reader');
await createTable('notes', 'id int PRIMARY KEY', { roles: ['reader'] });

let db;
async function onStandby(text) {
  if (!db) {
    const fresh = new pg.Client({ port: pgPort });
    fresh.on('error', () => {});
    await fresh.connect();
    db = fresh;
  }
  return (await db.query(text)).rows;
}

const shell = (text) => server('sh', '-c', text);
atEnd(async () => {
  await db?.end();
  await shell(`pg_ctl stop -D '${standby}' -m fast -w >/dev/null 2>&1`).catch(() => {});
});

// Clients of the primary, with all that they were sent
const cursors = await RawClient.open({ apikey });
const session = randomUUID();
let cursor;

test('a streaming standby serves nobody, and fails at nothing', async () => {
  cursor = (await cursors.joinOk('notes', [binding], { config: { rtsync: { cursor: true } } })).response.rtsync.cursor;
  const remembered = await RawClient.open({ apikey });
  await remembered.joinOk('notes', [binding], { config: { rtsync: { session } } });
  await remembered.heartbeat();
  await remembered.heartbeat();

  await shell(`pg_basebackup -D '${standby}' -R -X stream -c fast && chmod 700 '${standby}'`);
  await shell(`printf "port = ${pgPort}\\nrtsync.port = ${port}\\n" >>'${standby}/postgresql.conf'`);
  await shell(`pg_ctl start -w -D '${standby}' -l '${standby}.log' >/dev/null 2>&1 </dev/null`);
  await sql('INSERT INTO notes VALUES (1), (2)');
  await until('the rows on the standby', async () => (await onStandby('SELECT FROM notes')).length === 2);
  const frame = await cursors.frame('a row', (f) => f.event === 'postgres_changes');
  cursor = frame.payload.rtsync.cursor;
  assert.equal(await listening(port), false);
  const [state] = await onStandby('SELECT pg_is_in_recovery() AS recovery, count(*) FROM rtsync.status() WHERE state = \'running\'');
  assert.deepEqual(state, { recovery: true, count: '0' });
});

test('it is promoted: the engine starts there, and whoever comes with a place of the old one is told to refetch', async () => {
  await shell('pg_ctl stop -w -m immediate >/dev/null 2>&1');
  await until('the connection to end', () => cursors.closed);
  await shell(`pg_ctl promote -w -D '${standby}' >/dev/null 2>&1`);
  await until('the engine there', async () =>
    (await onStandby("SELECT FROM rtsync.status() WHERE state = 'running'")).length === 1, { timeout: 60_000, every: 50 });
  await until('its gateway', () => listening(port), { every: 50 });

  const client = await served({ apikey, base });
  const { response } = await client.joinOk('notes', [binding], { config: { rtsync: { since: cursor } } });
  assert.equal(response.rtsync.resumed, false);
  assert.equal(response.rtsync.refetch, 'the cursor is of another history');
  const other = await RawClient.open({ apikey, base });
  const reply = await other.joinOk('notes', [binding], { config: { rtsync: { session } } });
  assert.equal(reply.response.rtsync.refetch, 'the session is not known');

  await onStandby('INSERT INTO notes VALUES (3)');
  for (const c of [client, other]) await c.frame('the row', () => c.changes().some((change) => change.record.id === 3));

  // and from there on they go on
  const since = client.frames.find((f) => f.event === 'postgres_changes').payload.rtsync.cursor;
  client.close();
  other.close();
  await onStandby('INSERT INTO notes VALUES (4)');
  const again = await RawClient.open({ apikey, base });
  assert.equal((await again.joinOk('notes', [binding], { config: { rtsync: { since } } })).response.rtsync.resumed, true);
  await again.frame('the row that was missed', () => again.changes().some((change) => change.record.id === 4));
  again.close();
});

test('messages from SQL prove there what they proved before', async () => {
  const client = await RawClient.open({ apikey, base });
  await client.joinOk('room', []);
  await onStandby("SELECT rtsync.send('{\"a\": 1}', 'hello', 'room', false)");
  await until('the broadcast', () => client.frames.some((f) =>
    (f.binary ?? Buffer.from(f.text ?? '')).includes('hello')));
  client.close();
});

test('the old primary that is started again has its old history', async () => {
  await shell(`pg_ctl start -w -l '${dir}/log' >/dev/null 2>&1 </dev/null`);
  const client = await served({ apikey });
  const { response } = await client.joinOk('notes', [binding], { config: { rtsync: { since: cursor } } });
  assert.equal(response.rtsync.resumed, true);
  client.close();
});
