// A transaction that cannot be decoded is skipped, once, and its clients are
// told to refetch: the engine neither ends, nor tries it again for ever.

import { assert, note, test, until } from '../e2e/lib/tap.mjs';
import { createRole, createTable, sql, status, token } from '../e2e/lib/server.mjs';
import { log, restart, running, served } from './lib/cluster.mjs';

await createRole('reader');
await createTable('calm', 'id int PRIMARY KEY', { roles: ['reader'] });
await createTable('fragile', 'id int PRIMARY KEY, a int', { roles: ['reader'] });
// what any server evaluates while it decodes
await sql('ALTER PUBLICATION rtsync SET TABLE calm, fragile WHERE (1 / id > -5)');
const bindings = ['calm', 'fragile'].map((table) => ({ event: '*', schema: 'public', table }));
const connect = () => served({ apikey: token('reader') });
const ids = (client) => client.changes().map(({ record }) => record.id);
const refetches = (client) => client.frames.filter((f) => f.event === 'system' && f.payload.status === 'refetch');
const skipped = async () => (await log()).match(/rtsync skipped transaction \d+, which committed at [0-9A-F]+\/[0-9A-F]+: division by zero/g) ?? [];

const client = await connect();
const { response } = await client.joinOk('t', bindings, { config: { rtsync: { cursor: true } } });
const { pid } = await status();

test('it is skipped, logged with its place, and told; what follows arrives', async () => {
  await sql('INSERT INTO calm VALUES (1)');
  await sql('BEGIN; INSERT INTO calm VALUES (2); INSERT INTO fragile VALUES (0); INSERT INTO calm VALUES (3); COMMIT');
  await sql('INSERT INTO calm VALUES (4)');
  await until('what follows', () => ids(client).includes(4));
  assert.equal(refetches(client).length, 1);
  assert.equal(refetches(client)[0].payload.message, 'a transaction could not be decoded');
  assert.equal(ids(client)[0], 1);
  const order = client.frames.filter((f) => f.payload.status === 'refetch' || f.event === 'postgres_changes');
  assert.equal(order.at(-1).event, 'postgres_changes', 'told in its place');
  assert.equal((await status()).pid, pid, 'the engine is the same process');
  assert.equal((await skipped()).length, 1);
  note((await skipped())[0]);
});

test('after it, DDL and decoding go on as ever', async () => {
  await sql('ALTER TABLE calm ADD COLUMN more text; INSERT INTO calm VALUES (5, $$x$$)');
  await until('the row', () => client.changes().some(({ record }) => record.id === 5 && record.more === 'x'));
  await sql('BEGIN; ALTER TABLE fragile ADD COLUMN b int; UPDATE fragile SET b = 1 WHERE id = 0; DELETE FROM fragile WHERE id = 0; COMMIT');
  await sql('INSERT INTO fragile VALUES (7, 7, 7)');
  await until('the row', () => client.changes().some(({ table, record }) => table === 'fragile' && record?.b === 7));
  assert.equal((await status()).pid, pid);
});

test('after a restart, who comes back from before it is told, too', async () => {
  const before = (await skipped()).length;
  await sql('ALTER SYSTEM SET max_prepared_transactions = 2');
  await restart('immediate');
  const now = await running();
  client.close();
  const again = await connect();
  // from the place of then, with the access of now: the columns have changed since
  const probe = await again.joinOk('probe', bindings, { config: { rtsync: { cursor: true } } });
  const access = probe.response.rtsync.cursor.split(':').at(-1);
  const since = response.rtsync.cursor.replace(/[^:]*$/, access);
  const reply = await again.joinOk('t', bindings, { config: { rtsync: { since } } });
  assert.equal(reply.response.rtsync.resumed, true);
  await until('all of it', () => again.changes().some(({ table, record }) => table === 'fragile' && record?.id === 7));
  assert.ok(refetches(again).some((f) => f.payload.message === 'a transaction could not be decoded'));
  note(`${(await skipped()).length - before} transactions were skipped again while the history was read`);
  await sql('INSERT INTO calm VALUES (100)');
  await until('a new row', () => ids(again).includes(100));
  assert.equal((await status()).pid, now.pid);
  again.close();
});

test('a prepared transaction is no exception', async () => {
  const other = await connect();
  await other.joinOk('t', bindings);
  await sql("BEGIN; INSERT INTO fragile VALUES (0); PREPARE TRANSACTION 'poison'");
  await sql("COMMIT PREPARED 'poison'");
  await sql('INSERT INTO calm VALUES (101)');
  await until('what follows', () => ids(other).includes(101));
  assert.equal(refetches(other).length, 1);
  other.close();
});
