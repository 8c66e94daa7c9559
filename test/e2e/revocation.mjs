// Each way to take a right away, to give it, or to change what is seen, while
// a client is subscribed: what it is told at once, and what becomes of a row
// that is written afterwards.  Nobody reconnects.

import { assert, atEnd, test, until } from './lib/tap.mjs';
import { RawClient } from './lib/raw.mjs';
import { createRole, createTable, sql, token } from './lib/server.mjs';

const SUB = '00000000-0000-4000-8000-000000000001';
for (const role of ['e2e_live', 'e2e_team', 'e2e_watcher']) await createRole(role);
await createTable('live_marks', 'id int PRIMARY KEY, n int', { roles: ['e2e_watcher'] });
await sql('INSERT INTO live_marks VALUES (1, 0)');

const watcher = await RawClient.open({ apikey: token('e2e_watcher') });
atEnd(() => watcher.close());
await watcher.joinOk('marks', [{ event: 'UPDATE', schema: 'public', table: 'live_marks' }]);

const binding = { event: '*', schema: 'e2e_lives', table: 'live' };
const REFETCH = 'refetch: access to table e2e_lives.live has changed';
const COLUMNS = 'id owner n';

// From PostgreSQL 16 on each membership says whether it is inherited.
const [{ by_membership: byMembership }] = await sql("SELECT current_setting('server_version_num')::int >= 160000 AS by_membership");
const inherit = (yes) => byMembership ? `GRANT e2e_team TO e2e_live WITH INHERIT ${yes}` :
  `ALTER ROLE e2e_live ${yes ? '' : 'NO'}INHERIT`;

// A table in a schema of its own, with everything at its default, and a client
async function begin() {
  await sql(`DROP SCHEMA IF EXISTS e2e_lives CASCADE; DROP SCHEMA IF EXISTS e2e_elsewhere CASCADE;
    CREATE SCHEMA e2e_lives; CREATE SCHEMA e2e_elsewhere;
    GRANT USAGE ON SCHEMA e2e_lives, e2e_elsewhere TO e2e_live;
    CREATE TABLE e2e_lives.live (id int PRIMARY KEY, owner uuid, n int);
    GRANT SELECT ON e2e_lives.live TO e2e_live;
    ALTER PUBLICATION rtsync ADD TABLE e2e_lives.live`);
  const client = await RawClient.open({ apikey: token('e2e_live', { sub: SUB }) });
  await client.joinOk('live', [binding]);
  await client.frame('to be subscribed', (f) => f.event === 'system' && f.payload.message === 'Subscribed to PostgreSQL');
  return { client, last: 0 };
}

// What it is told of a statement, each once, and of a row written after that:
// "INSERT" with its columns, or "nothing".
async function step(state, statement, table = 'e2e_lives.live') {
  const { client } = state;
  client.frames.length = 0;
  await sql(statement);
  const id = ++state.last;
  await sql(`INSERT INTO ${table} (id) VALUES ($1)`, [id]).catch((error) => assert.equal(error.code, '42P01', error.message));
  const [{ n }] = await sql('UPDATE live_marks SET n = n + 1 RETURNING n');
  await watcher.frame('the mark', (f) => f.payload?.data?.record?.n === n);
  if (!client.closed) await client.heartbeat();
  const told = new Set(client.frames.filter((f) => f.event === 'system')
    .map(({ payload: { status, message } }) => `${status}: ${message}`));
  if (client.frames.some((f) => f.event === 'phx_close')) told.add('closed');
  const row = client.changes('live').find((c) => c.record?.id === id);
  return [...told, row ? Object.keys(row.record).join(' ') : 'nothing'];
}

for (const [what, steps] of Object.entries({
  'policies': [
    ['ALTER TABLE e2e_lives.live ENABLE ROW LEVEL SECURITY', [REFETCH, 'nothing']],
    ['CREATE POLICY p ON e2e_lives.live USING (true)', [REFETCH, COLUMNS]],
    [`ALTER POLICY p ON e2e_lives.live USING (owner = rtsync.uid())`, [REFETCH, 'nothing']],
    [`ALTER POLICY p ON e2e_lives.live USING (owner IS NULL)`, [REFETCH, COLUMNS]],
    ['CREATE POLICY r ON e2e_lives.live AS RESTRICTIVE TO e2e_live USING (id < 0)', [REFETCH, 'nothing']],
    ['ALTER POLICY r ON e2e_lives.live TO e2e_team', [REFETCH, COLUMNS]],
    ['GRANT e2e_team TO e2e_live', [REFETCH, 'nothing']],
    ['REVOKE e2e_team FROM e2e_live', [REFETCH, COLUMNS]],
    ['DROP POLICY p ON e2e_lives.live', [REFETCH, 'nothing']],
    ['ALTER TABLE e2e_lives.live OWNER TO e2e_live', [REFETCH, COLUMNS]],
    ['ALTER TABLE e2e_lives.live FORCE ROW LEVEL SECURITY', [REFETCH, 'nothing']],
    ['ALTER TABLE e2e_lives.live NO FORCE ROW LEVEL SECURITY', [REFETCH, COLUMNS]],
    ['ALTER TABLE e2e_lives.live OWNER TO CURRENT_USER; GRANT SELECT ON e2e_lives.live TO e2e_live', [REFETCH, 'nothing']],
    ['ALTER ROLE e2e_live BYPASSRLS', [REFETCH, COLUMNS]],
    ['ALTER ROLE e2e_live NOBYPASSRLS', [REFETCH, 'nothing']],
    ['ALTER TABLE e2e_lives.live DISABLE ROW LEVEL SECURITY', [REFETCH, COLUMNS]],
  ],
  'privileges': [
    ['REVOKE SELECT ON e2e_lives.live FROM e2e_live', ['error: permission denied for table e2e_lives.live', 'nothing']],
    ['GRANT SELECT (id, n) ON e2e_lives.live TO e2e_live', [REFETCH, 'id n']],
    ['GRANT SELECT (owner) ON e2e_lives.live TO e2e_live', [REFETCH, COLUMNS]],
    ['REVOKE SELECT (n) ON e2e_lives.live FROM e2e_live', [REFETCH, 'id owner']],
    ['REVOKE SELECT ON e2e_lives.live FROM e2e_live; GRANT SELECT ON e2e_lives.live TO e2e_team; GRANT e2e_team TO e2e_live', [REFETCH, COLUMNS]],
    [inherit(false), ['error: permission denied for table e2e_lives.live', 'nothing']],
    [inherit(true), [REFETCH, COLUMNS]],
    ['REVOKE e2e_team FROM e2e_live', ['error: permission denied for table e2e_lives.live', 'nothing']],
    ['GRANT SELECT ON e2e_lives.live TO PUBLIC', [REFETCH, COLUMNS]],
    ['REVOKE USAGE ON SCHEMA e2e_lives FROM e2e_live', ['error: permission denied for table e2e_lives.live', 'nothing']],
    ['GRANT USAGE ON SCHEMA e2e_lives TO e2e_live', [REFETCH, COLUMNS]],
  ],
  'the publication': [
    ['ALTER PUBLICATION rtsync DROP TABLE e2e_lives.live', ['error: table e2e_lives.live is no longer published', 'nothing']],
    ['ALTER PUBLICATION rtsync ADD TABLE e2e_lives.live (id, n)', [REFETCH, 'id n']],
    ['ALTER PUBLICATION rtsync DROP TABLE e2e_lives.live; ALTER PUBLICATION rtsync ADD TABLE e2e_lives.live WHERE (id < 0)', [REFETCH, 'nothing']],
    ['ALTER PUBLICATION rtsync DROP TABLE e2e_lives.live; ALTER PUBLICATION rtsync ADD TABLE e2e_lives.live', [REFETCH, COLUMNS]],
    ["ALTER PUBLICATION rtsync SET (publish = 'update, delete')", [REFETCH, 'nothing']],
    ["ALTER PUBLICATION rtsync SET (publish = 'insert, update, delete, truncate')", [REFETCH, COLUMNS]],
  ],
  'ALTER TABLE': [
    ['ALTER TABLE e2e_lives.live ADD COLUMN added text', [REFETCH, `${COLUMNS} added`]],
    ["ALTER TABLE e2e_lives.live ADD COLUMN filled int DEFAULT 7", [REFETCH, `${COLUMNS} added filled`]],
    ['ALTER TABLE e2e_lives.live RENAME COLUMN added TO renamed', [REFETCH, `${COLUMNS} renamed filled`]],
    ['ALTER TABLE e2e_lives.live DROP COLUMN renamed', [REFETCH, `${COLUMNS} filled`]],
    ['ALTER TABLE e2e_lives.live ALTER n TYPE text', [REFETCH, `${COLUMNS} filled`]],
    ['ALTER TABLE e2e_lives.live ALTER n SET DEFAULT 5, ALTER n SET STORAGE EXTERNAL, ADD CHECK (id > 0)', [`${COLUMNS} filled`]],
    ['ALTER TABLE e2e_lives.live REPLICA IDENTITY FULL', [`${COLUMNS} filled`]],
    ['ALTER TABLE e2e_lives.live SET (fillfactor = 50), CLUSTER ON live_pkey', [`${COLUMNS} filled`]],
    ['CREATE INDEX ON e2e_lives.live (n)', [`${COLUMNS} filled`]],
    ['ALTER TABLE e2e_lives.live SET SCHEMA e2e_elsewhere', ['error: table e2e_lives.live is no longer published', 'nothing'], 'e2e_elsewhere.live'],
    ['ALTER TABLE e2e_elsewhere.live SET SCHEMA e2e_lives', [REFETCH, `${COLUMNS} filled`]],
    ['ALTER TABLE e2e_lives.live RENAME TO other', ['error: table e2e_lives.live is no longer published', 'nothing'], 'e2e_lives.other'],
    ['ALTER TABLE e2e_lives.other RENAME TO live', [REFETCH, `${COLUMNS} filled`]],
    ['ALTER SCHEMA e2e_lives RENAME TO e2e_gone', ['error: table e2e_lives.live is no longer published', 'nothing'], 'e2e_gone.live'],
    ['ALTER SCHEMA e2e_gone RENAME TO e2e_lives', [REFETCH, `${COLUMNS} filled`]],
    ['DROP TABLE e2e_lives.live', ['error: table e2e_lives.live is no longer published', 'nothing']],
  ],
  'a role that may not connect any more': [
    ['REVOKE e2e_live FROM rtsync_authenticator', ['error: You no longer have permission to read from this Channel topic: live', 'closed', 'nothing']],
  ],
  'a role that is dropped': [
    ['DROP OWNED BY e2e_live; DROP ROLE e2e_live', ['error: You no longer have permission to read from this Channel topic: live', 'closed', 'nothing']],
  ],
})) {
  test(`${what}: told and in force at the commit`, async () => {
    await createRole('e2e_live');
    const state = await begin();
    atEnd(() => state.client.close());
    assert.deepEqual(await step(state, 'SELECT 1'), [COLUMNS]);
    for (const [statement, expected, table] of steps)
      assert.deepEqual(await step(state, statement, table), expected, statement);
    await sql("DROP SCHEMA IF EXISTS e2e_lives CASCADE; DROP SCHEMA IF EXISTS e2e_elsewhere CASCADE");
    state.client.close();
  });
}
