// What there is from some version of the server on: a limit to the time of a
// transaction (17), columns that are computed when they are read, and keys over
// periods of time (18).  Each test is there where the server has it.

import { assert, atEnd, test, until } from './lib/tap.mjs';
import { RawClient } from './lib/raw.mjs';
import { createRole, createTable, selectAs, sql, status, token } from './lib/server.mjs';

const [{ version }] = await sql("SELECT current_setting('server_version_num')::int / 10000 AS version");
const role = 'e2e_newer';
const claims = { sub: 'ann' };
await createRole(role);
await createTable('newer_marks', 'id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY', { roles: [role] });
if (version >= 18) {
  await sql('ALTER PUBLICATION rtsync SET (publish_generated_columns = stored)');
  atEnd(() => sql('ALTER PUBLICATION rtsync SET (publish_generated_columns = none)'));
}

// A client of bindings; seen() gives what it was sent up to now.
async function subscribe(bindings) {
  const client = await RawClient.open({ apikey: token(role, claims) });
  await client.joinOk('newer', [...bindings, { event: 'INSERT', schema: 'public', table: 'newer_marks' }]);
  await client.frame('to be subscribed', (f) => f.event === 'system' && f.payload.message === 'Subscribed to PostgreSQL');
  const seen = async () => {
    const [{ id }] = await sql('INSERT INTO newer_marks DEFAULT VALUES RETURNING id');
    await until('the mark', () => client.changes().some((c) => c.table === 'newer_marks' && c.record.id === id), { timeout: 30_000 });
    return client.changes().filter((c) => c.table !== 'newer_marks').map((c) => ({
      type: c.type, columns: c.columns.map(({ name }) => name).join(' '), record: c.record, old: c.old_record,
    }));
  };
  return { client, seen };
}

const kinds = version >= 18 ? ['STORED', 'VIRTUAL'] : ['STORED'];
for (const kind of kinds) {
  const shown = kind === 'STORED' ? ['id', 'n', 'twice'] : ['id', 'n'];
  const row = (id, n) => Object.fromEntries(Object.entries({ id, n, twice: 2 * n }).filter(([name]) => shown.includes(name)));
  const columns = shown.join(' ');
  const table = (options) => createTable('newer_generated', `id int PRIMARY KEY, n int NOT NULL, twice int GENERATED ALWAYS AS (n * 2) ${kind}`,
    { roles: [role], ...options });
  // From 18 on the server has no virtual column in an identity, and stored ones
  // only if the publication names them.
  const identity = kind === 'STORED' ? 'FULL' : 'USING INDEX newer_identity';
  const binding = { event: '*', schema: 'public', table: 'newer_generated' };

  test(`a column generated ${kind} in a policy and in filters: what is sent is what SELECT shows`, async () => {
    await table();
    await sql(`CREATE UNIQUE INDEX newer_identity ON newer_generated (id, n);
      ALTER TABLE newer_generated REPLICA IDENTITY ${identity}, ENABLE ROW LEVEL SECURITY;
      CREATE POLICY p ON newer_generated USING (twice >= 10);
      INSERT INTO newer_generated VALUES (1, 5), (2, 4)`);
    const all = await subscribe([{ ...binding, rtsync: { snapshot: true } }]);
    const filtered = await subscribe([{ ...binding, filter: 'twice=lt.100' }]);
    const where = await subscribe([{ ...binding, rtsync: { where: 'twice < 100 AND n > 0' } }]);
    await all.client.frame('the end of the snapshot', (f) => f.event === 'system' && f.payload.status === 'snapshot_end');
    assert.deepEqual((await all.seen()).map((c) => c.record), [row(1, 5)]);
    for (const statement of ['INSERT INTO newer_generated VALUES (3, 4)', 'INSERT INTO newer_generated VALUES (4, 60)',
      'UPDATE newer_generated SET n = 7 WHERE id = 3', 'UPDATE newer_generated SET n = 4 WHERE id = 4',
      'UPDATE newer_generated SET n = 8 WHERE id = 3', 'DELETE FROM newer_generated WHERE id = 2', 'DELETE FROM newer_generated WHERE id = 3'])
      await sql(statement);
    const common = [
      { type: 'UPDATE', columns, record: row(3, 7), old: {} }, // it enters the view
      { type: 'UPDATE', columns, record: row(3, 8), old: row(3, 7) },
      { type: 'DELETE', columns, record: undefined, old: { id: 3 } },
    ];
    const four = [
      { type: 'INSERT', columns, record: row(4, 60), old: undefined },
      { type: 'DELETE', columns, record: undefined, old: { id: 4 } },
    ];
    assert.deepEqual((await all.seen()).slice(1), [four[0], common[0], four[1], ...common.slice(1)]);
    assert.deepEqual(await filtered.seen(), common);
    assert.deepEqual(await where.seen(), common);
    assert.deepEqual(await selectAs(role, claims, 'SELECT id, n FROM newer_generated'), [{ id: 1, n: 5 }]);
    for (const { client } of [all, filtered, where]) client.close();
  });

  test(`a column generated ${kind} from what the WAL does not say is unknown in an old row`, async () => {
    await table();
    await sql(`ALTER TABLE newer_generated ENABLE ROW LEVEL SECURITY;
      CREATE POLICY p ON newer_generated USING (twice IS NULL OR twice >= 10);
      INSERT INTO newer_generated VALUES (1, 5), (2, 4)`);
    const { client, seen } = await subscribe([binding]);
    await sql('UPDATE newer_generated SET n = 6 WHERE id = 1');
    await sql('DELETE FROM newer_generated');
    assert.deepEqual((await seen()).map(({ type, record }) => [type, record]), [['UPDATE', row(1, 6)]]);
    client.close();
  });

  test(`columns generated ${kind} on both sides of a policy with a sub-query`, async () => {
    await table();
    await sql(`DROP TABLE IF EXISTS newer_members;
      CREATE TABLE newer_members (sub text, half int, team int GENERATED ALWAYS AS (half * 2) ${kind});
      INSERT INTO newer_members VALUES ('ann', 5), ('ann', 6), ('ben', 7);
      GRANT SELECT ON newer_members TO ${role};
      ALTER TABLE newer_generated ENABLE ROW LEVEL SECURITY;
      CREATE POLICY p ON newer_generated USING (twice IN (SELECT m.team FROM newer_members m WHERE m.sub = rtsync.jwt()->>'sub')
        OR EXISTS (SELECT FROM newer_members m WHERE m.sub = 'all' AND m.team = twice))`);
    const { client, seen } = await subscribe([binding]);
    await sql('INSERT INTO newer_generated SELECT i, i FROM generate_series(1, 9) i');
    assert.deepEqual((await seen()).map(({ record }) => record), [row(5, 5), row(6, 6)]);
    const before = client.frames.length;
    await sql("UPDATE newer_members SET sub = 'ann' WHERE sub = 'ben'");
    await client.frame('to be told', (f) => client.frames.indexOf(f) >= before && f.payload?.status === 'refetch');
    client.close();
  });

  test(`the right to read a column generated ${kind} is one of its own`, async () => {
    await table({ roles: [] });
    await sql(`GRANT SELECT (id, twice) ON newer_generated TO ${role}`);
    const { client, seen } = await subscribe([{ ...binding, filter: 'twice=gt.8' }]);
    await sql('INSERT INTO newer_generated VALUES (1, 4), (2, 5)');
    const { n, ...record } = row(2, 5);
    assert.deepEqual((await seen()).map((c) => c.record), [record]);
    await client.join('base', [{ ...binding, filter: 'n=gt.4' }]);
    await client.frame('a refusal', (f) => f.topic === 'realtime:base' && f.payload.status === 'error');
    client.close();
  });
}

if (version >= 17)
  test('the limit to the time of a transaction is not one of the engine', async () => {
    await createTable('newer_limit', 'id int PRIMARY KEY', { roles: [role] });
    await sql(`ALTER TABLE newer_limit ENABLE ROW LEVEL SECURITY;
      CREATE POLICY p ON newer_limit USING (id = CASE current_setting('transaction_timeout') WHEN '0' THEN 1 ELSE 2 END);
      DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET transaction_timeout = %L', current_database(), '1h'); END $$`);
    try {
      const { pid } = await status();
      await sql('SELECT pg_terminate_backend($1)', [pid]);
      await until('another engine', async () => {
        const row = await status();
        return row.state === 'running' && row.pid !== pid;
      }, { timeout: 30_000 });
      const client = await until('a connection', () => RawClient.open({ apikey: token(role, claims) }).catch(() => null), { timeout: 30_000, every: 100 });
      await client.joinOk('limit', [{ event: 'INSERT', schema: 'public', table: 'newer_limit' }]);
      await sql('INSERT INTO newer_limit VALUES (1), (2)');
      await client.frame('a row', (f) => f.event === 'postgres_changes', { timeout: 30_000 });
      assert.equal(client.changes()[0].record.id, 1);
      client.close();
    } finally {
      await sql("DO $$ BEGIN EXECUTE format('ALTER DATABASE %I RESET transaction_timeout', current_database()); END $$");
    }
  });

if (version >= 18)
  test('a virtual column is in no record, and cannot be selected', async () => {
    await createTable('newer_selected', 'id int PRIMARY KEY, twice int GENERATED ALWAYS AS (id * 2) VIRTUAL', { roles: [role] });
    const client = await RawClient.open({ apikey: token(role, claims) });
    await client.join('selected', [{ event: '*', schema: 'public', table: 'newer_selected', select: ['id', 'twice'] }]);
    await client.frame('a refusal', (f) => f.payload.status === 'error' && /invalid column for select twice/.test(f.text));
    client.close();
  });

if (version >= 18)
  test('a key over a period of time tells the rows apart, and finds what the WAL leaves out', async () => {
    await createTable('newer_period', `room int4range, during int4range, big text,
      PRIMARY KEY (room, during WITHOUT OVERLAPS)`, { roles: [role] });
    await sql('ALTER TABLE newer_period ALTER big SET STORAGE EXTERNAL');
    const big = 'b'.repeat(4000);
    // two that overlap in both, and are rows of their own all the same
    await sql(`INSERT INTO newer_period VALUES ('[1,10)', '[1,5)', 'a' || $1), ('[2,3)', '[2,4)', 'c' || $1)`, [big]);
    const { client, seen } = await subscribe([{ event: '*', schema: 'public', table: 'newer_period' }]);
    await sql("UPDATE newer_period SET during = '[1,6)' WHERE room = '[1,10)'");
    await sql("UPDATE newer_period SET during = '[2,5)' WHERE room = '[2,3)'");
    await seen(); // who is deleted before it is looked up is not found
    await sql("DELETE FROM newer_period WHERE room = '[2,3)'");
    const short = (row) => row?.big ? { ...row, big: row.big.slice(0, 3) + row.big.length } : row;
    const told = (await seen()).map(({ type, record, old }) => [type, short(record), old]);
    client.close();
    assert.deepEqual(told, [
      ['UPDATE', { room: '[1,10)', during: '[1,6)', big: 'abb4001' }, { room: '[1,10)', during: '[1,5)' }],
      ['UPDATE', { room: '[2,3)', during: '[2,5)', big: 'cbb4001' }, { room: '[2,3)', during: '[2,4)' }],
      ['DELETE', undefined, { room: '[2,3)', during: '[2,5)' }],
    ]);
  });
