// Each client gets exactly what row security lets its role and claims see.

import { assert, atEnd, note, sleep, test, until } from './lib/tap.mjs';
import { connect, subscribe, versions } from './lib/clients.mjs';
import { RawClient } from './lib/raw.mjs';
import { createRole, createTable, database, selectAs, sql, token } from './lib/server.mjs';

const user = (n) => `00000000-0000-4000-8000-00000000000${n}`;
for (const role of ['e2e_owner', 'e2e_member', 'e2e_auditor']) await createRole(role);
const roles = ['e2e_owner', 'e2e_member', 'e2e_auditor'];

//
// Two tables, three roles, 200 random changes
//

await createTable('e2e_teams', 'user_id uuid, team int', { roles });
await createTable('notes', 'id int PRIMARY KEY, owner uuid, team int, body text', { roles, full: true });
await createTable('tasks', 'id int PRIMARY KEY, team int NOT NULL, hidden bool, title text', { full: true });
await sql(`
  ALTER PUBLICATION rtsync DROP TABLE e2e_teams;
  INSERT INTO e2e_teams VALUES ('${user(1)}', 1), ('${user(2)}', 2), ('${user(2)}', 3);
  GRANT SELECT ON tasks TO e2e_owner, e2e_member;
  GRANT SELECT (id, team) ON tasks TO e2e_auditor;
  ALTER TABLE notes ENABLE ROW LEVEL SECURITY;
  ALTER TABLE tasks ENABLE ROW LEVEL SECURITY;
  -- the owner's claim, a constant for one role, everything for another
  CREATE POLICY own ON notes FOR SELECT TO e2e_owner USING (owner = (SELECT rtsync.uid()));
  CREATE POLICY team ON notes FOR SELECT TO e2e_member USING (team = (rtsync.jwt() ->> 'team')::int);
  CREATE POLICY loud ON notes FOR SELECT TO e2e_auditor USING (body LIKE 'audit%' OR team IS NULL);
  -- a membership table, a restrictive policy, all rows but not all columns
  CREATE POLICY team ON tasks FOR SELECT TO e2e_owner, e2e_member
    USING (EXISTS (SELECT FROM e2e_teams t WHERE t.user_id = rtsync.uid() AND t.team = tasks.team));
  CREATE POLICY visible ON tasks AS RESTRICTIVE FOR SELECT TO e2e_member USING (NOT hidden);
  CREATE POLICY all_rows ON tasks FOR SELECT TO e2e_auditor USING (true);
`);

// What a client holds: the rows that it was given, and what the events made of
// them since.  When it is told to refetch, it is given them anew.
class Holder {
  constructor(role, claims) {
    Object.assign(this, { role, claims, tables: { notes: new Map(), tasks: new Map() }, arrived: 0, refetches: 0 });
    this.waiting = null; // events that arrive while the rows are fetched
    this.columns = { notes: '*', tasks: role === 'e2e_auditor' ? 'id, team' : '*' };
  }

  select(table) {
    return selectAs(this.role, this.claims, `SELECT ${this.columns[table]} FROM ${table} ORDER BY id`);
  }

  async load() {
    if (this.waiting) {
      this.again = true;
      return;
    }
    do {
      this.again = false;
      this.waiting = [];
      for (const [table, held] of Object.entries(this.tables)) {
        const rows = await this.select(table);
        held.clear();
        for (const row of rows) held.set(row.id, row);
      }
      const events = this.waiting;
      this.waiting = null;
      for (const event of events) this.apply(event);
    } while (this.again);
  }

  refetch({ status }) {
    if (status !== 'refetch') return;
    this.refetches++;
    this.load();
  }

  apply(event) {
    if (this.waiting) {
      this.waiting.push(event);
      return;
    }
    const { eventType, table, new: row, old } = event;
    this.arrived++;
    const held = this.tables[table];
    if (old?.id !== undefined) held.delete(old.id);
    if (eventType !== 'DELETE') held.set(row.id, row);
  }

  async differences() {
    const found = [];
    for (const [table, held] of Object.entries(this.tables)) {
      const wanted = await this.select(table);
      const has = [...held.values()].sort((a, b) => a.id - b.id);
      try {
        assert.deepEqual(has, wanted);
      } catch {
        found.push(`${this.role} ${JSON.stringify(this.claims)} ${table}: holds ${JSON.stringify(has)} but SELECT gives ${JSON.stringify(wanted)}`);
      }
    }
    return found;
  }
}

// A reproducible sequence of numbers
function randomFrom(seed) {
  let state = seed;
  return (n) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * n);
  };
}

test('two tables, three roles, 200 random changes: each client holds exactly its rows', async () => {
  await sql(`TRUNCATE notes, tasks;
    INSERT INTO notes SELECT i, '${user(1)}', i % 3, 'note' FROM generate_series(1, 10) i;
    INSERT INTO tasks SELECT i, i % 4, i % 2 = 0, 'task' FROM generate_series(1, 10) i`);
  const holders = [];
  for (const version of versions) {
    for (const [role, claims] of [
      ['e2e_owner', { sub: user(1) }],
      ['e2e_owner', { sub: user(2) }],
      ['e2e_member', { sub: user(2), team: 1 }],
      ['e2e_auditor', {}],
    ]) {
      const holder = new Holder(role, claims);
      const client = connect(version, token(role, claims));
      atEnd(() => client.disconnect());
      const channel = client.channel('rows');
      for (const table of ['notes', 'tasks'])
        channel.on('postgres_changes', { event: '*', schema: 'public', table }, (event) => holder.apply(event));
      channel.on('system', {}, (message) => holder.refetch(message));
      await new Promise((resolve, reject) =>
        channel.subscribe((status, error) => (status === 'SUBSCRIBED' ? resolve() : reject(error ?? new Error(status)))));
      await holder.load();
      holders.push(holder);
    }
  }

  const random = randomFrom(20260102);
  const id = () => 1 + random(20);
  const owner = () => [`'${user(1)}'`, `'${user(2)}'`, 'NULL'][random(3)];
  const team = () => ['0', '1', '2', '3', 'NULL'][random(5)];
  const body = () => ["'note'", "'audit me'", 'NULL'][random(3)];
  const change = () => [
    () => `INSERT INTO notes VALUES (${id()}, ${owner()}, ${team()}, ${body()}) ON CONFLICT DO NOTHING`,
    () => `UPDATE notes SET owner = ${owner()}, body = ${body()} WHERE id = ${id()}`,
    () => `UPDATE notes SET team = ${team()} WHERE id % 5 = ${random(5)}`,
    () => `UPDATE notes SET id = id + 100 WHERE id = ${id()} AND NOT EXISTS (SELECT FROM notes n WHERE n.id = notes.id + 100)`,
    () => `DELETE FROM notes WHERE id = ${id()}`,
    () => `INSERT INTO tasks VALUES (${id()}, ${random(4)}, ${random(2) === 0}, 'task') ON CONFLICT DO NOTHING`,
    () => `UPDATE tasks SET hidden = NOT hidden WHERE id = ${id()}`,
    () => `UPDATE tasks SET team = ${random(4)} WHERE id = ${id()}`,
    () => `DELETE FROM tasks WHERE id = ${id()}`,
    () => `UPDATE e2e_teams SET team = ${random(4)} WHERE ctid = (SELECT min(ctid) FROM e2e_teams)`,
    () => `BEGIN; DELETE FROM tasks WHERE id = 3; INSERT INTO tasks VALUES (3, ${random(4)}, false, 'again'); COMMIT`,
  ][random(11)]();
  for (let n = 0; n < 200; n++) await sql(change());

  // Everything has arrived when the last difference is gone; what remains
  // after a while is a real one.
  let left;
  try {
    await until('all clients to hold their rows', async () => {
      left = (await Promise.all(holders.map((h) => h.differences()))).flat();
      return left.length === 0;
    }, { timeout: 60_000, every: 200 });
  } catch {
    assert.fail(left.join('\n'));
  }
  const total = (name) => holders.reduce((sum, h) => sum + h[name], 0);
  note(`${total('arrived')} events and ${total('refetches')} refetches for ${holders.length} clients`);
});

//
// One rule at a time
//

await createRole('e2e_viewer');
await createTable('rooms', 'id int PRIMARY KEY, owner uuid, secret text', { roles: ['e2e_viewer'], full: true });
await createTable('keyed', 'id int PRIMARY KEY, owner uuid', { roles: ['e2e_viewer'] });
await createTable('sentinels', 'id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY', { roles: ['e2e_viewer'] });
await sql(`
  ALTER TABLE rooms ENABLE ROW LEVEL SECURITY;
  CREATE POLICY own ON rooms FOR SELECT TO e2e_viewer USING (owner = rtsync.uid());
  ALTER TABLE keyed ENABLE ROW LEVEL SECURITY;
  CREATE POLICY own ON keyed FOR SELECT TO e2e_viewer USING (owner = rtsync.uid() OR owner IS NULL);
`);
const on = (table) => ({ event: '*', schema: 'public', table });

// Joins a fresh client to tables as user n; "seen" runs SQL and returns, for
// short, what the client was sent for it.
async function viewer(n, tables, bindings = tables.map(on)) {
  const client = await RawClient.open({ apikey: token('e2e_viewer', { sub: user(n) }) });
  atEnd(() => client.close());
  await client.joinOk('rows', [...bindings, on('sentinels')]);
  client.seen = async (statement) => {
    const before = client.frames.length;
    await sql(statement);
    const [{ id }] = await sql('INSERT INTO sentinels DEFAULT VALUES RETURNING id');
    await client.frame('the sentinel', (f) => f.payload?.data?.table === 'sentinels' && f.payload.data.record.id === id);
    return client.frames.slice(before)
      .filter((f) => f.event === 'postgres_changes' && f.payload.data.table !== 'sentinels')
      .map(({ payload: { data } }) => [data.type, data.record ?? data.old_record]);
  };
  return client;
}

test('a row that leaves the view is a DELETE with its key, one that enters is an UPDATE', async () => {
  await sql('TRUNCATE rooms');
  const one = await viewer(1, ['rooms']);
  const two = await viewer(2, ['rooms']);
  assert.deepEqual(await one.seen(`INSERT INTO rooms VALUES (1, '${user(1)}', 's')`),
    [['INSERT', { id: 1, owner: user(1), secret: 's' }]]);
  assert.deepEqual(await one.seen(`UPDATE rooms SET owner = '${user(2)}', secret = 't'`), [['DELETE', { id: 1 }]]);
  assert.deepEqual(await two.seen('SELECT'), []);
  assert.deepEqual(two.changes('rows').filter((c) => c.table === 'rooms').map((c) => [c.type, c.record]),
    [['UPDATE', { id: 1, owner: user(2), secret: 't' }]]);
  assert.deepEqual(await one.seen("UPDATE rooms SET secret = 'u'"), []);
});

test('a DELETE is not told to those who could not see the row', async () => {
  await sql(`TRUNCATE rooms; INSERT INTO rooms VALUES (1, '${user(1)}', 's'), (2, '${user(2)}', 't')`);
  const one = await viewer(1, ['rooms']);
  const seen = await one.seen('DELETE FROM rooms');
  assert.deepEqual(seen.map(([type, row]) => [type, row.id]), [['DELETE', 1]]);
});

test('what the WAL does not say about an old row is unknown, not NULL: the DELETE is withheld', async () => {
  await sql(`TRUNCATE keyed; INSERT INTO keyed VALUES (1, '${user(1)}'), (2, '${user(2)}'), (3, NULL)`);
  const one = await viewer(1, ['keyed']);
  assert.deepEqual(await one.seen('DELETE FROM keyed'), []);
});

test('filters are looked at together with the policy, and a row leaves by them too', async () => {
  await sql('TRUNCATE rooms');
  const one = await viewer(1, [], [{ ...on('rooms'), filter: 'secret=eq.a' }]);
  assert.deepEqual((await one.seen(`INSERT INTO rooms VALUES (1, '${user(1)}', 'a'), (2, '${user(2)}', 'a'), (3, '${user(1)}', 'b')`))
    .map(([type, row]) => [type, row.id]), [['INSERT', 1]]);
  assert.deepEqual(await one.seen("UPDATE rooms SET secret = 'b'"), [['DELETE', { id: 1 }]]);
});

test('columns without the SELECT right are absent, and cannot be filtered on', async () => {
  await createTable('partly', 'id int PRIMARY KEY, shown text, hidden text');
  await sql('GRANT SELECT (id, shown) ON partly TO e2e_viewer');
  const one = await viewer(1, ['partly']);
  assert.deepEqual(await one.seen("INSERT INTO partly VALUES (1, 'a', 'b')"), [['INSERT', { id: 1, shown: 'a' }]]);
  const { columns } = one.changes('rows').find((c) => c.table === 'partly');
  assert.deepEqual(columns.map((c) => c.name), ['id', 'shown']);
  await one.join('filtered', [{ ...on('partly'), filter: 'hidden=eq.b' }]);
  await one.frame('a refusal', (f) => f.topic === 'realtime:filtered' &&
    (f.payload.status === 'error') && /hidden/.test(JSON.stringify(f.payload)));
  await sql("INSERT INTO partly VALUES (2, 'a', 'b')");
  await one.seen('SELECT');
  assert.equal(one.changes('filtered').length, 0);
});

test('a table without any right is not shown at all', async () => {
  await createTable('forbidden', 'id int PRIMARY KEY');
  const client = await viewer(1, []);
  await client.join('forbidden', [on('forbidden')]);
  assert.deepEqual(await client.seen('INSERT INTO forbidden VALUES (1)'), []);
});

test('row security without a policy shows nothing', async () => {
  await createTable('closed', 'id int PRIMARY KEY', { roles: ['e2e_viewer'] });
  await sql('ALTER TABLE closed ENABLE ROW LEVEL SECURITY');
  const one = await viewer(1, ['closed']);
  assert.deepEqual(await one.seen('INSERT INTO closed VALUES (1)'), []);
});

test('changes of policy and grant reach live subscriptions', async () => {
  await createTable('shifting', 'id int PRIMARY KEY', { roles: ['e2e_viewer'] });
  const one = await viewer(1, ['shifting']);
  const ids = async (n) => (await one.seen(`INSERT INTO shifting VALUES (${n})`)).map(([, row]) => row.id);
  assert.deepEqual(await ids(1), [1]);
  await sql('ALTER TABLE shifting ENABLE ROW LEVEL SECURITY');
  assert.deepEqual(await ids(2), []);
  await sql('CREATE POLICY big ON shifting FOR SELECT TO e2e_viewer USING (id > 10)');
  assert.deepEqual(await ids(3), []);
  assert.deepEqual(await ids(11), [11]);
  await sql('ALTER POLICY big ON shifting USING (id > 20)');
  assert.deepEqual(await ids(12), []);
  assert.deepEqual(await ids(21), [21]);
  await sql('REVOKE SELECT ON shifting FROM e2e_viewer');
  assert.deepEqual(await ids(22), []);
  await sql('GRANT SELECT ON shifting TO e2e_viewer');
  assert.deepEqual(await ids(23), [23]);
  await sql('ALTER PUBLICATION rtsync DROP TABLE shifting');
  assert.deepEqual(await ids(24), []);
});

test('a policy that fails denies its own subscribers, who are told; others lose nothing', async () => {
  await createTable('fragile', 'id int PRIMARY KEY, n int', { roles: ['e2e_viewer', 'e2e_owner'] });
  await sql(`ALTER TABLE fragile ENABLE ROW LEVEL SECURITY;
    CREATE POLICY divide ON fragile FOR SELECT TO e2e_viewer USING (1 / n > 0);
    CREATE POLICY fine ON fragile FOR SELECT TO e2e_owner USING (true)`);
  const poisoned = await viewer(1, ['fragile', 'rooms']);
  const fine = await RawClient.open({ apikey: token('e2e_owner') });
  atEnd(() => fine.close());
  await fine.joinOk('fine', [on('fragile')]);
  await sql(`INSERT INTO fragile VALUES (1, 1); INSERT INTO fragile VALUES (2, 0); INSERT INTO fragile VALUES (3, 1);
             TRUNCATE rooms; INSERT INTO rooms VALUES (5, '${user(1)}', 's')`);
  await fine.frame('all three', () => fine.changes('fine').length === 3);
  await poisoned.frame('the other table', () => poisoned.changes('rows').some((c) => c.table === 'rooms'));
  assert.ok(!poisoned.changes('rows').some((c) => c.record?.id === 2));
  const system = await poisoned.frame('a system message', (f) => f.event === 'system' && f.payload.status === 'error');
  assert.equal(system.payload.extension, 'postgres_changes');
});

test('a sub-query that fails for one of many subscribers costs that one the row', async () => {
  await createTable('shared', 'id int PRIMARY KEY, team int, n int', { roles: ['e2e_viewer'], full: true });
  await sql(`ALTER TABLE shared ENABLE ROW LEVEL SECURITY;
    GRANT SELECT ON e2e_teams TO e2e_viewer;
    CREATE POLICY divide ON shared USING (EXISTS (SELECT FROM e2e_teams t
      WHERE t.team = shared.team AND t.user_id = rtsync.uid() AND 10 / (right(rtsync.uid()::text, 1)::int - n) IS NOT NULL))`);
  await sql(`DELETE FROM e2e_teams; INSERT INTO e2e_teams
    SELECT ('00000000-0000-4000-8000-00000000000' || i)::uuid, 7 FROM generate_series(1, 8) i`);
  const viewers = await Promise.all([1, 2, 3, 4, 5, 6, 7, 9].map((n) => viewer(n, ['shared'])));
  const seen = async (statement) => {
    const [first, ...rest] = viewers.map((v) => v.changes('rows').length);
    await viewers[0].seen(statement);
    await sql("INSERT INTO shared VALUES (1000, 7, 100); DELETE FROM shared WHERE id = 1000");
    await Promise.all(viewers.slice(0, 7).map((v, i) => v.frame('the last row', () =>
      v.changes('rows').slice([first, ...rest][i]).some((c) => c.type === 'DELETE' && c.old_record.id === 1000))));
    return viewers.map((v, i) => v.changes('rows').slice([first, ...rest][i])
      .filter((c) => c.table === 'shared' && (c.record?.id ?? c.old_record.id) !== 1000).map((c) => c.type).join());
  };
  assert.deepEqual(await seen('INSERT INTO shared VALUES (1, 7, 100)'), [...Array(7).fill('INSERT'), '']);
  assert.deepEqual(await seen('INSERT INTO shared VALUES (2, 7, 4)'), [...Array(3).fill('INSERT'), '', ...Array(3).fill('INSERT'), '']);
  assert.deepEqual(await seen('UPDATE shared SET team = 8 WHERE id = 1'), [...Array(7).fill('DELETE'), '']);
  assert.deepEqual(await seen('UPDATE shared SET n = 5 WHERE id = 2'),
    ['UPDATE', 'UPDATE', 'UPDATE', '', '', 'UPDATE', 'UPDATE', '']);
  await viewers[3].frame('a system message', (f) => f.event === 'system' && f.payload.status === 'error');
  assert.ok(!viewers[0].frames.some((f) => f.event === 'system' && f.payload.status === 'error'));
});

test('of 60 subscribers each gets what its memberships or the array in its claims let it see', async () => {
  await createTable('crowd', 'id int PRIMARY KEY, team int, owner uuid, open bool DEFAULT false', { roles: ['e2e_viewer'], full: true });
  await sql(`ALTER TABLE crowd ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON crowd USING (false);
    GRANT SELECT ON e2e_teams TO e2e_viewer;
    CREATE FUNCTION e2e_sleepy(int) RETURNS bool LANGUAGE plpgsql STABLE AS 'BEGIN RETURN $1 % 2 = 1; END'`);
  const uid = (i) => `00000000-0000-4000-8000-0000000000${i}`;
  const claims = Array.from({ length: 60 }, (_, i) => ({ sub: uid(i + 10), teams: [i % 7, i % 5, 'x', null], role: 'e2e_viewer' }));
  claims[0].teams = { 3: 'an object', 4: 1 };
  claims[1].teams = '3';
  claims[2].teams = 3;
  delete claims[3].teams;
  delete claims[4].sub;
  const client = await RawClient.open({ apikey: token('e2e_viewer') });
  atEnd(() => client.close());
  for (const [i, c] of claims.entries())
    await client.joinOk(`crowd${i}`, [on('crowd'), on('sentinels')], { accessToken: token('e2e_viewer', c) });
  // The rows that each is told of; all are touched, many in a transaction.
  const told = async (statement) => {
    client.frames.length = 0;
    await sql(statement);
    const [{ id }] = await sql('INSERT INTO sentinels DEFAULT VALUES RETURNING id');
    await until('the sentinels', () => client.changes().filter((c) => c.table === 'sentinels' && c.record.id === id).length === 60);
    return claims.map((_, i) => client.changes(`crowd${i}`).filter((c) => c.table === 'crowd' && c.type !== 'DELETE')
      .map((c) => c.record.id).join());
  };
  const selected = () => Promise.all(claims.map(async (c) => {
    try {
      return (await selectAs('e2e_viewer', c, 'SELECT id FROM crowd ORDER BY id')).map((r) => r.id).join();
    } catch (error) {
      if (!['22023', '22P02'].includes(error.code)) throw error;
      return ''; // claims that the policy cannot read
    }
  }));
  const mine = 'm.user_id = (SELECT rtsync.uid())';
  for (const policy of [
    `EXISTS (SELECT FROM e2e_teams m WHERE m.team = crowd.team AND ${mine})`,
    `team IN (SELECT m.team FROM e2e_teams m WHERE ${mine})`,
    `owner = rtsync.uid() OR open OR team IN (SELECT m.team FROM e2e_teams m WHERE ${mine})`,
    `EXISTS (SELECT FROM e2e_teams m JOIN e2e_teams o ON o.team = m.team + 1 WHERE o.user_id = crowd.owner AND ${mine})`,
    `e2e_sleepy(id) AND owner = rtsync.uid()`,
    `rtsync.jwt() -> 'teams' @> to_jsonb(team)`,
    `rtsync.jwt() -> 'teams' ? team::text`,
    `team::text IN (SELECT jsonb_array_elements_text(rtsync.jwt() -> 'teams'))`,
    `EXISTS (SELECT FROM jsonb_array_elements_text(rtsync.jwt() -> 'teams') t WHERE t = team::text)`,
  ]) {
    await sql(`ALTER POLICY p ON crowd USING (${policy}); TRUNCATE e2e_teams, crowd;
      INSERT INTO e2e_teams SELECT ('00000000-0000-4000-8000-0000000000' || 10 + i)::uuid, i % 8 FROM generate_series(0, 59) i`);
    const all = `SELECT i, nullif(i % 9, 8), ('00000000-0000-4000-8000-0000000000' || 10 + 7 * i % 80)::uuid, i % 11 = 0 FROM generate_series(1, 30) i`;
    assert.deepEqual(await told(`INSERT INTO crowd ${all}`), await selected(), policy);
    // memberships change, and those of one transaction count for its rows
    await sql("DELETE FROM e2e_teams WHERE team = 3; UPDATE e2e_teams SET team = 4 WHERE user_id = '" + uid(30) + "'");
    assert.deepEqual(await told(`UPDATE crowd SET id = id`), await selected(), policy);
    assert.deepEqual(await told(`BEGIN; INSERT INTO e2e_teams VALUES ('${uid(31)}', 5), ('${uid(32)}', NULL), (NULL, 5);
      UPDATE crowd SET id = id WHERE id < 3; UPDATE crowd SET id = id WHERE id >= 3; COMMIT`), await selected(), policy);
    // a single row, too
    await sql('DELETE FROM crowd WHERE id <> 5');
    assert.deepEqual(await told('UPDATE crowd SET id = id'), await selected(), policy);
  }
});

test('principals whose claims decide nothing share a group, and no longer when they do', async () => {
  const N = 20;
  await createTable('common', 'id int PRIMARY KEY, owner uuid, pad text', { roles: ['e2e_viewer'] });
  await sql('ALTER TABLE common ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON common USING (true)');
  // The engine says once a second how many there are: what was there when this began.
  const groups = async () => {
    const [{ now }] = await sql('SELECT clock_timestamp()::text AS now');
    return until('the count', async () => {
      const [row] = await sql('SELECT groups, updated > $1 AS yes FROM rtsync.pg_stat_rtsync WHERE datname = current_database()', [now]);
      return row.yes && row;
    }).then((row) => row.groups);
  };
  const uid = (i) => `00000000-0000-4000-8000-0000000000${10 + i}`;
  const client = await RawClient.open({ apikey: token('e2e_viewer') });
  atEnd(() => client.close());
  const join = (i, binding = {}) => client.joinOk(`common${i}`, [{ ...on('common'), ...binding }],
    { accessToken: token('e2e_viewer', { sub: uid(i) }) });
  let last = 0;
  // The ids that each is told of, of one row for each of them, written in one transaction
  const told = async (n = N) => {
    const first = last;
    last += N;
    await sql(`INSERT INTO common SELECT ${first} + i, ('00000000-0000-4000-8000-0000000000' || 10 + i)::uuid
      FROM generate_series(0, ${N - 1}) i; INSERT INTO sentinels DEFAULT VALUES`);
    await quiet();
    return Array.from({ length: n }, (_, i) => client.changes(`common${i}`)
      .filter((c) => c.type === 'INSERT' && c.record.id >= first).map((c) => c.record.id - first));
  };
  const watcher = await RawClient.open({ apikey: token('e2e_viewer') });
  atEnd(() => watcher.close());
  await watcher.joinOk('sentinels', [on('sentinels')]);
  // What is sent is in order: the others' connection has it when it answers.
  const quiet = async () => {
    const [{ id }] = await sql('INSERT INTO sentinels DEFAULT VALUES RETURNING id');
    await watcher.frame('the sentinel', () => watcher.changes().some((c) => c.record.id === id));
    await client.heartbeat();
  };
  const everything = Array.from({ length: N }, () => Array.from({ length: N }, (_, i) => i));
  const own = Array.from({ length: N }, (_, i) => [i]);

  const others = await groups();
  const grown = (n) => until(`${n} groups`, async () => await groups() - others === n);
  for (let i = 0; i < N; i++) await join(i);
  await grown(1);
  assert.deepEqual(await told(), everything);
  for (let round = 0; round < 2; round++) {
    await sql('ALTER POLICY p ON common USING (owner = (SELECT rtsync.uid()))');
    assert.deepEqual(await told(), own, 'the claims decide');
    await grown(N);
    await sql('ALTER POLICY p ON common USING (id >= 0)');
    assert.deepEqual(await told(), everything, 'they do not');
    await grown(1);
  }
  await sql(`ALTER POLICY p ON common USING (owner = rtsync.uid())`);
  await sql(`DROP POLICY p ON common; CREATE POLICY p ON common USING (current_user = 'e2e_viewer')`);
  assert.deepEqual(await told(), everything, 'the role decides, as ever');
  await sql(`CREATE FUNCTION e2e_claimed() RETURNS uuid LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN rtsync.uid(); END';
    ALTER POLICY p ON common USING (owner = e2e_claimed())`);
  assert.deepEqual(await told(), own, 'what cannot be looked into may read the claims');
  await sql('ALTER TABLE common DISABLE ROW LEVEL SECURITY');
  assert.deepEqual(await told(), everything, 'no row security');
  await grown(1);

  // filters are shared as well; conditions, which can read claims, are not
  for (let i = 0; i < 3; i++) {
    await join(20 + i, { filter: 'id=gt.5' });
    await join(30 + i, { rtsync: { where: 'owner = rtsync.uid()' } });
  }
  await grown(5);
  // who leaves, and who comes with another token, takes nothing from the rest
  await client.call('realtime:common0', 'phx_leave', {}, null);
  client.send('realtime:common1', 'access_token', { access_token: token('e2e_viewer', { sub: uid(0) }) });
  assert.deepEqual((await told()).slice(1), everything.slice(1));
});

test('a policy that never ends is stopped, and the others are served', async () => {
  await createTable('endless', 'id int PRIMARY KEY', { roles: ['e2e_viewer'] });
  await sql(`CREATE OR REPLACE FUNCTION e2e_sleep() RETURNS bool LANGUAGE plpgsql AS
      $$ BEGIN PERFORM pg_sleep(3600); RETURN true; END $$;
    ALTER TABLE endless ENABLE ROW LEVEL SECURITY;
    CREATE POLICY slow ON endless FOR SELECT TO e2e_viewer USING (e2e_sleep())`);
  const one = await viewer(1, ['endless', 'rooms']);
  await sql(`TRUNCATE rooms; INSERT INTO endless VALUES (1); INSERT INTO rooms VALUES (1, '${user(1)}', 's')`);
  await one.frame('the other table', () => one.changes('rows').some((c) => c.table === 'rooms'));
  assert.ok(!one.changes('rows').some((c) => c.table === 'endless'));
});

test('a policy can neither write nor change who it runs as', async () => {
  await createTable('nosy', 'id int PRIMARY KEY', { roles: ['e2e_viewer'] });
  await createTable('nosy_log', 'line text');
  await sql(`GRANT INSERT ON nosy_log TO e2e_viewer;
    CREATE OR REPLACE FUNCTION e2e_nosy() RETURNS bool LANGUAGE plpgsql AS
      $$ BEGIN
           BEGIN PERFORM set_config('role', 'postgres', false); EXCEPTION WHEN OTHERS THEN NULL; END;
           PERFORM set_config('request.jwt.claims', '{"sub": "${user(2)}"}', false);
           INSERT INTO nosy_log VALUES (current_user);
           RETURN true;
         END $$;
    ALTER TABLE nosy ENABLE ROW LEVEL SECURITY;
    CREATE POLICY nosy ON nosy FOR SELECT TO e2e_viewer USING (e2e_nosy())`);
  const one = await viewer(1, ['nosy', 'rooms']);
  assert.deepEqual(await one.seen('INSERT INTO nosy VALUES (1)'), []);
  assert.deepEqual(await sql('SELECT * FROM nosy_log'), []);
  // and the claims that it set serve nobody
  assert.deepEqual((await one.seen(`TRUNCATE rooms; INSERT INTO rooms VALUES (1, '${user(1)}', 's'), (2, '${user(2)}', 't')`))
    .map(([, row]) => row.id), [1]);
});

test('rolled back changes and savepoints send nothing', async () => {
  await sql('TRUNCATE rooms');
  const one = await viewer(1, ['rooms']);
  const row = (id) => `INSERT INTO rooms VALUES (${id}, '${user(1)}', 's')`;
  assert.deepEqual(await one.seen(`BEGIN; ${row(1)}; ROLLBACK`), []);
  assert.deepEqual((await one.seen(`BEGIN; ${row(2)}; SAVEPOINT s; ${row(3)}; ROLLBACK TO s; ${row(4)}; COMMIT`))
    .map(([, r]) => r.id), [2, 4]);
});

const refetches = (client) =>
  client.frames.filter((f) => f.event === 'system' && f.payload.status === 'refetch').map((f) => f.payload);

test('TRUNCATE tells its subscribers to refetch', async () => {
  const one = await viewer(1, ['rooms']);
  const other = await viewer(1, ['keyed']);
  assert.deepEqual(await one.seen('TRUNCATE rooms'), []);
  assert.equal(refetches(one).length, 1);
  assert.equal(refetches(one)[0].extension, 'rtsync');
  await other.seen('SELECT');
  assert.equal(refetches(other).length, 0);
});

test('a change of what a policy reads tells those who depend on it to refetch, and nobody else', async () => {
  await sql(`TRUNCATE e2e_teams, tasks; INSERT INTO tasks VALUES (1, 7, false, 'task')`);
  const depends = await RawClient.open({ apikey: token('e2e_owner', { sub: user(5) }) });
  const free = await RawClient.open({ apikey: token('e2e_auditor') });
  for (const client of [depends, free]) {
    atEnd(() => client.close());
    await client.joinOk('tasks', [on('tasks')]);
  }
  await sql(`INSERT INTO e2e_teams VALUES ('${user(5)}', 7)`);
  await depends.frame('the refetch', () => refetches(depends).length > 0);
  // The stream goes on: rows that enter by the new membership are told.
  await sql("UPDATE tasks SET title = 'seen' WHERE id = 1");
  await depends.frame('the row', () => depends.changes('tasks').some((c) => c.record?.title === 'seen'));
  await free.frame('the row', () => free.changes('tasks').some((c) => c.record?.id === 1));
  assert.equal(refetches(free).length, 0);
});

test('a subscriber that reads after an event finds the row', async () => {
  await sql('TRUNCATE rooms');
  const one = await viewer(1, ['rooms']);
  let missing = 0;
  const checks = [];
  one.socket.on('message', (data) => {
    const message = JSON.parse(data.toString());
    const record = message[4]?.data?.record;
    if (message[4]?.data?.table !== 'rooms') return;
    checks.push(database.query('SELECT FROM rooms WHERE id = $1', [record.id]).then((r) => (missing += r.rowCount ? 0 : 1)));
  });
  for (let n = 1; n <= 300; n++) sql(`INSERT INTO rooms VALUES (${n}, '${user(1)}', 's')`);
  await until('300 events', () => checks.length === 300);
  await Promise.all(checks);
  assert.equal(missing, 0);
});

test('delete_visibility = key sends the key of what cannot be decided to every subscriber', async () => {
  const set = async (value) => {
    await sql(`ALTER SYSTEM SET rtsync.delete_visibility = ${value}`);
    await sql('SELECT pg_reload_conf()');
  };
  const one = await viewer(1, ['keyed']);
  await set('key');
  let id = 100;
  await until('a DELETE', async () => {
    await sql(`INSERT INTO keyed VALUES (${++id}, '${user(2)}')`);
    const seen = await one.seen(`DELETE FROM keyed WHERE id = ${id}`);
    return seen.length > 0 && assert.deepEqual(seen, [['DELETE', { id }]]) === undefined;
  }, { every: 50 });
  await set('policy');
  await until('no DELETE', async () => {
    await sql(`INSERT INTO keyed VALUES (${++id}, '${user(2)}')`);
    return (await one.seen(`DELETE FROM keyed WHERE id = ${id}`)).length === 0;
  }, { every: 50 });
});

test("the publication's row filter, column list and operations hold for everybody", async () => {
  await createTable('narrow', 'id int PRIMARY KEY, level int, secret text', { roles: ['e2e_viewer'] });
  await sql('ALTER PUBLICATION rtsync DROP TABLE narrow');
  await sql('ALTER TABLE narrow REPLICA IDENTITY FULL');
  await sql('ALTER PUBLICATION rtsync ADD TABLE narrow WHERE (level > 5)');
  const one = await viewer(1, ['narrow']);
  assert.deepEqual((await one.seen("INSERT INTO narrow VALUES (1, 1, 'a'), (2, 9, 'b')")).map(([, r]) => r.id), [2]);
  assert.deepEqual((await one.seen('UPDATE narrow SET level = 3 WHERE id = 2')).map(([type]) => type), ['DELETE']);

  await createTable('columns', 'id int PRIMARY KEY, shown int, secret text', { roles: ['e2e_viewer'] });
  await sql('ALTER PUBLICATION rtsync DROP TABLE columns');
  await sql('ALTER PUBLICATION rtsync ADD TABLE columns (id, shown)');
  const two = await viewer(1, ['columns']);
  assert.deepEqual(await two.seen("INSERT INTO columns VALUES (1, 1, 'a')"), [['INSERT', { id: 1, shown: 1 }]]);
});

test('the rows of a partition are told under its name', async () => {
  await sql(`DROP TABLE IF EXISTS parted;
    CREATE TABLE parted (id int PRIMARY KEY, body text) PARTITION BY RANGE (id);
    CREATE TABLE parted_low PARTITION OF parted FOR VALUES FROM (0) TO (100);
    CREATE TABLE parted_high PARTITION OF parted FOR VALUES FROM (100) TO (200);
    GRANT SELECT ON parted, parted_low, parted_high TO e2e_viewer;
    ALTER PUBLICATION rtsync ADD TABLE parted`);
  const one = await viewer(1, ['parted_low']);
  assert.deepEqual(await one.seen("INSERT INTO parted VALUES (1, 'low'), (101, 'high')"),
    [['INSERT', { id: 1, body: 'low' }]]);
});

// A table, and two that inherit from it with columns of their own, one by way of the other.
async function family(name) {
  await sql(`DROP TABLE IF EXISTS ${name} CASCADE`);
  await createTable(name, 'id int PRIMARY KEY, owner uuid, body text', { roles: ['e2e_viewer'], full: true });
  await sql(`CREATE TABLE ${name}_child (extra text, body text, owner uuid, id int NOT NULL UNIQUE);
    ALTER TABLE ${name}_child INHERIT ${name}, REPLICA IDENTITY FULL;
    CREATE TABLE ${name}_grandchild (more int DEFAULT 1) INHERITS (${name}_child);
    ALTER TABLE ${name}_grandchild REPLICA IDENTITY FULL;
    ALTER TABLE ${name} ENABLE ROW LEVEL SECURITY;
    ALTER TABLE ${name}_child ENABLE ROW LEVEL SECURITY;
    CREATE POLICY own ON ${name} FOR SELECT TO e2e_viewer USING (owner = (SELECT rtsync.uid()))`);
}

test('rows of tables that inherit are rows of the table above, under the policies of that one', async () => {
  await family('heirs');
  const one = await viewer(1, ['heirs']);
  const two = await viewer(2, ['heirs']);
  const row = { id: 1, owner: user(1), body: 'a' };
  assert.deepEqual(await one.seen(`INSERT INTO heirs_child VALUES ('x', 'a', '${user(1)}', 1)`), [['INSERT', row]]);
  assert.deepEqual(await one.seen("UPDATE heirs SET body = 'b'"), [['UPDATE', { ...row, body: 'b' }]]);
  assert.deepEqual(await one.seen(`UPDATE heirs_child SET owner = '${user(2)}'`), [['DELETE', { id: 1 }]]);
  assert.deepEqual((await two.seen(`INSERT INTO heirs_grandchild (id, owner, body) VALUES (2, '${user(2)}', 'c')`)).map(([type, r]) => [type, r.id]),
    [['INSERT', 2]]);
  assert.deepEqual((await two.seen('DELETE FROM heirs')).map(([type, r]) => [type, r.id]), [['DELETE', 1], ['DELETE', 2]]);
  assert.deepEqual([one, two].flatMap(refetches), []);
});

test('a table that inherits is one of its own too', async () => {
  await family('ours');
  await sql(`ALTER PUBLICATION rtsync ADD TABLE ours_child; GRANT SELECT ON ours_child TO e2e_viewer;
    CREATE POLICY theirs ON ours_child FOR SELECT TO e2e_viewer USING (true)`);
  const one = await viewer(1, ['ours', 'ours_child']);
  const seen = await one.seen(`INSERT INTO ours_child VALUES ('x', 'a', '${user(1)}', 1), ('y', 'b', '${user(2)}', 2)`);
  assert.deepEqual(seen.map(([, r]) => [r.id, r.extra ?? null]), [[1, 'x'], [1, null], [2, 'y']]);
});

test('TRUNCATE of a table that inherits, and rows in it that cannot be told apart, are told above', async () => {
  await family('vague');
  await sql(`INSERT INTO vague_child VALUES ('x', 'a', '${user(1)}', 1), ('x', 'a', '${user(1)}', 2)`);
  const one = await viewer(1, ['vague']);
  assert.deepEqual(await one.seen('TRUNCATE ONLY vague_child'), []);
  assert.equal(refetches(one).length, 1);
  await sql(`ALTER TABLE vague_child REPLICA IDENTITY DEFAULT; INSERT INTO vague_child VALUES ('x', 'a', '${user(1)}', 1)`);
  const two = await viewer(1, ['vague']);
  assert.deepEqual(await two.seen('DELETE FROM vague_child'), []);
  assert.equal(refetches(two).length, 1);
});

test('what is told above is told once for each commit, and again behind rows that came in between', async () => {
  await family('throng');
  await sql('ALTER TABLE throng_child REPLICA IDENTITY NOTHING; ALTER TABLE throng_grandchild REPLICA IDENTITY NOTHING');
  const one = await viewer(1, ['throng']);
  await one.seen(`INSERT INTO throng_child SELECT 'x', 'a', '${user(1)}', g FROM generate_series(1, 1500) g`);
  const told = async (statement) => {
    const before = refetches(one).length;
    const types = (await one.seen(statement)).map(([type]) => type);
    return [refetches(one).length - before, types];
  };
  assert.deepEqual(await told('TRUNCATE ONLY throng_child, ONLY throng_grandchild'), [1, []]);
  const row = (id) => `INSERT INTO throng_child VALUES ('x', 'a', '${user(1)}', ${id});`;
  assert.deepEqual(await told(`BEGIN; TRUNCATE ONLY throng_child; ${row(1)} TRUNCATE ONLY throng_child; COMMIT`), [2, ['INSERT']]);
  await sql(`INSERT INTO throng_child SELECT 'x', 'a', '${user(1)}', g FROM generate_series(1, 400) g`);
  const [times] = await told("UPDATE throng_child SET body = 'b'");
  assert.ok(times >= 1 && times <= 3, `told ${times} times of 400 rows`); // once in each part of the history
  assert.deepEqual(await told(`TRUNCATE ONLY throng_child; TRUNCATE ONLY throng_child`), [1, []], 'one transaction');
  assert.deepEqual(await told(`BEGIN; TRUNCATE ONLY throng_child; COMMIT; BEGIN; TRUNCATE ONLY throng_child; COMMIT`), [2, []]);
});

test('a row filter above that asks for what the WAL does not tell of a row below', async () => {
  await family('sieve');
  await sql(`ALTER TABLE sieve_child ADD PRIMARY KEY (id), REPLICA IDENTITY DEFAULT;
    ALTER PUBLICATION rtsync DROP TABLE ONLY sieve;
    ALTER PUBLICATION rtsync ADD TABLE ONLY sieve WHERE (body = 'open')`);
  const one = await viewer(1, ['sieve']);
  const seen = await one.seen(`INSERT INTO sieve_child VALUES ('x', 'open', '${user(1)}', 1), ('x', 'shut', '${user(1)}', 2), ('x', 'open', '${user(1)}', 3)`);
  assert.deepEqual(seen.map(([type, { id }]) => [type, id]), [['INSERT', 1], ['INSERT', 3]]);
  for (const statement of ["UPDATE sieve_child SET body = 'shut' WHERE id = 1", 'UPDATE sieve_child SET id = 4 WHERE id = 3', 'DELETE FROM sieve_child WHERE id = 4']) {
    const before = refetches(one).length;
    assert.deepEqual(await one.seen(statement), []);
    assert.equal(refetches(one).length, before + 1, statement);
  }
  await sql('ALTER TABLE sieve_child REPLICA IDENTITY FULL');
  await one.seen(`INSERT INTO sieve_child VALUES ('x', 'open', '${user(1)}', 5)`);
  const before = refetches(one).length;
  assert.deepEqual(await one.seen("UPDATE sieve_child SET body = 'shut' WHERE id = 5"), [['DELETE', { id: 5 }]]);
  assert.equal(refetches(one).length, before);
});

test('tables that begin to inherit, and that do so no more, are told above', async () => {
  await family('kin');
  const one = await viewer(1, ['kin']);
  const told = async (statement) => {
    const before = refetches(one).length;
    await sql(statement);
    await until(`to be told of ${statement}`, () => refetches(one).length > before);
  };
  await told(`CREATE TABLE kin_late (LIKE kin); INSERT INTO kin_late VALUES (7, '${user(1)}', 'late');
    ALTER TABLE kin_late REPLICA IDENTITY FULL; ALTER TABLE kin_late INHERIT kin`);
  assert.deepEqual((await one.seen('DELETE FROM kin_late')).map(([type, r]) => [type, r.id]), [['DELETE', 7]]);
  await told('ALTER TABLE kin_late NO INHERIT kin');
  assert.deepEqual(await one.seen(`INSERT INTO kin_late VALUES (8, '${user(1)}', 'out')`), []);
  await told('DROP TABLE kin_grandchild');
});

test('a policy that reads a table reads those that inherit from it', async () => {
  await dependent('clan');
  await sql(`CREATE TABLE clan_more () INHERITS (clan_members); INSERT INTO clan VALUES (1, 1, 'a')`);
  const one = await viewer(1, ['clan']);
  await one.seen(`INSERT INTO clan_more VALUES ('${user(1)}', 1)`);
  assert.equal(refetches(one).length, 1);
  assert.deepEqual((await one.seen("UPDATE clan SET body = 'b'")).map(([type]) => type), ['UPDATE']);
});

test('a value that was not logged is not taken from a version that the subscriber may not see', async () => {
  await createTable('large', 'id int PRIMARY KEY, owner uuid, n int, body text', { roles: ['e2e_viewer'] });
  await sql(`ALTER TABLE large ALTER body SET STORAGE EXTERNAL;
    ALTER TABLE large ENABLE ROW LEVEL SECURITY;
    CREATE POLICY own ON large FOR SELECT TO e2e_viewer USING (owner = rtsync.uid());
    INSERT INTO large VALUES (1, '${user(1)}', 1, repeat('a', 10000))`);
  const one = await viewer(1, ['large']);
  const [[type, record]] = await one.seen(`BEGIN;
    UPDATE large SET n = 2;
    UPDATE large SET owner = '${user(2)}', body = repeat('s', 10000);
    COMMIT`);
  assert.equal(type, 'UPDATE');
  assert.deepEqual(record, { id: 1, owner: user(1), n: 2 });
});

test('a table that is locked, and whose values must be looked up, holds up nobody', async () => {
  await createTable('locked', 'id int PRIMARY KEY, n int, body text', { roles: ['e2e_viewer'] });
  await sql(`ALTER TABLE locked ALTER body SET STORAGE EXTERNAL; INSERT INTO locked VALUES (1, 1, repeat('a', 10000))`);
  const one = await viewer(1, ['locked']);
  const connection = await database.connect();
  try {
    await connection.query('BEGIN; UPDATE locked SET n = 2; COMMIT; BEGIN; LOCK TABLE locked');
    await one.seen('SELECT');
  } finally {
    await connection.query('ROLLBACK');
    connection.release();
  }
});

test('a filter sees no row whose policies cannot be decided', async () => {
  await createTable('unsure', 'id int PRIMARY KEY, owner uuid', { roles: ['e2e_viewer'] });
  await sql(`ALTER TABLE unsure ENABLE ROW LEVEL SECURITY;
    CREATE POLICY own ON unsure FOR SELECT TO e2e_viewer USING (owner IS NOT DISTINCT FROM rtsync.uid());
    INSERT INTO unsure VALUES (1471147114, '${user(2)}')`);
  const one = await viewer(1, [], [{ ...on('unsure'), rtsync: { where: "('x' || id)::int IS NULL" } }]);
  assert.deepEqual(await one.seen('DELETE FROM unsure'), []);
  assert.ok(one.frames.every((f) => !f.text.includes('1471147114')));
});

test('a row that was stored before a column was added has it as null', async () => {
  await createTable('older', 'id int PRIMARY KEY', { roles: ['e2e_viewer'], full: true });
  await sql('INSERT INTO older VALUES (1), (2)');
  await sql(`ALTER TABLE older ADD COLUMN gone_at timestamptz;
    ALTER TABLE older ENABLE ROW LEVEL SECURITY;
    CREATE POLICY there ON older FOR SELECT TO e2e_viewer USING (gone_at IS NULL)`);
  const one = await viewer(1, ['older']);
  assert.deepEqual(await one.seen('DELETE FROM older WHERE id = 1'), [['DELETE', { id: 1 }]]);
  assert.deepEqual(await one.seen('UPDATE older SET gone_at = now()'), [['DELETE', { id: 2 }]]);
});

test('the key of a row that left is what is known of it', async () => {
  await createTable('indexed', 'id int PRIMARY KEY, email text NOT NULL UNIQUE', { roles: ['e2e_viewer'] });
  await sql(`ALTER TABLE indexed REPLICA IDENTITY USING INDEX indexed_email_key;
    ALTER TABLE indexed ENABLE ROW LEVEL SECURITY;
    CREATE POLICY everybody ON indexed FOR SELECT TO e2e_viewer USING (true);
    INSERT INTO indexed VALUES (1, 'a')`);
  const one = await viewer(1, ['indexed']);
  assert.deepEqual(await one.seen('DELETE FROM indexed'), [['DELETE', { email: 'a' }]]);
});

// A table whose policy reads another, and a client that is told to refetch when that changes.
async function dependent(name) {
  await sql(`DROP TABLE IF EXISTS ${name}_members CASCADE; CREATE TABLE ${name}_members (user_id uuid, team int);
    ALTER TABLE ${name}_members ENABLE ROW LEVEL SECURITY;
    CREATE POLICY all_rows ON ${name}_members FOR SELECT TO e2e_viewer USING (true);
    GRANT SELECT ON ${name}_members TO e2e_viewer`);
  await createTable(name, 'id int PRIMARY KEY, team int, body text', { roles: ['e2e_viewer'], full: true });
  await sql(`ALTER TABLE ${name} ENABLE ROW LEVEL SECURITY;
    CREATE POLICY team ON ${name} FOR SELECT TO e2e_viewer USING
      (EXISTS (SELECT FROM ${name}_members m WHERE m.user_id = rtsync.uid() AND m.team = ${name}.team))`);
}

test('who is subject to a policy that reads a table hears when the row security of that table changes', async () => {
  await dependent('nested');
  const one = await viewer(1, ['nested']);
  await sql('CREATE POLICY none ON nested_members AS RESTRICTIVE FOR SELECT TO e2e_viewer USING (false)');
  await until('to be told', () => refetches(one).length > 0);
});

test('a change of what is published of a table is told', async () => {
  await createTable('fewer', 'id int PRIMARY KEY, level int', { roles: ['e2e_viewer'], full: true });
  const one = await viewer(1, ['fewer']);
  await sql('ALTER PUBLICATION rtsync DROP TABLE fewer; ALTER PUBLICATION rtsync ADD TABLE fewer WHERE (level > 5)');
  await until('to be told', () => refetches(one).length > 0);
});

test('a table that is renamed, replaced or made anew is told', async () => {
  await createTable('swapped', 'id int PRIMARY KEY', { roles: ['e2e_viewer'] });
  await createTable('rebuilt', 'id int PRIMARY KEY', { roles: ['e2e_viewer'] });
  const one = await viewer(1, ['swapped']);
  const errors = () => one.frames.filter((f) => f.event === 'system' && f.payload.status === 'error');
  await sql('BEGIN; ALTER TABLE swapped RENAME TO former; ALTER TABLE rebuilt RENAME TO swapped; COMMIT');
  await until('to be told', () => refetches(one).some((r) => /is another table now/.test(r.message)));
  await sql('INSERT INTO swapped VALUES (1)');
  await until('its change', () => one.changes().some((c) => c.table === 'swapped' && c.record.id === 1));
  await sql('INSERT INTO former VALUES (2)');
  assert.equal(errors().length, 0);
  await sql('ALTER TABLE swapped RENAME TO gone');
  await until('to be told', () => errors().some((r) => /swapped is no longer published/.test(r.payload.message)));
  const before = refetches(one).length;
  await createTable('swapped', 'id int PRIMARY KEY', { roles: ['e2e_viewer'] });
  await until('to be told', () => refetches(one).length > before);
  await sql('INSERT INTO swapped VALUES (3)');
  await until('its change', () => one.changes().some((c) => c.record.id === 3));
  assert.deepEqual(one.changes().map((c) => c.record.id), [1, 3]);
});

test('a table whose policy changes while it has another name is heard of when it has its own again', async () => {
  for (const [first, second, ids] of [['true', 'owner = rtsync.uid()', [3]], ['owner = rtsync.uid()', 'true', [3, 4]]]) {
    await createTable('nameless', 'id int PRIMARY KEY, owner uuid', { roles: ['e2e_viewer'] });
    await sql(`ALTER TABLE nameless ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON nameless USING (${first})`);
    const one = await viewer(1, ['nameless']);
    await one.seen('ALTER TABLE nameless RENAME TO renamed');
    await one.seen(`ALTER POLICY p ON renamed USING (${second})`);
    const before = refetches(one).length;
    await one.seen('ALTER TABLE renamed RENAME TO nameless');
    await until('to be told', () => refetches(one).length > before);
    const seen = await one.seen(`INSERT INTO nameless VALUES (3, '${user(1)}'), (4, '${user(2)}')`);
    assert.deepEqual(seen.map(([, { id }]) => id), ids);
  }
});

test('a table is made anew under its name, and the former one dropped', async () => {
  const make = async () => {
    await createTable('remade', 'id int PRIMARY KEY, owner uuid', { roles: ['e2e_viewer'] });
    await sql('ALTER TABLE remade ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON remade USING (owner = rtsync.uid())');
  };
  await make();
  const one = await viewer(1, ['remade']);
  for (let id = 1; id < 10; id++) {
    await sql(`ALTER TABLE remade RENAME TO remade_before`);
    await make();
    await sql('DROP TABLE remade_before');
    await sql(`INSERT INTO remade VALUES (${id}, '${user(1)}')`);
    await until(`row ${id}`, () => one.changes('rows').some((c) => c.record?.id === id));
  }
  const errors = one.frames.filter((f) => f.event === 'system' && f.payload.status === 'error').map((f) => f.payload.message);
  assert.deepEqual(errors.filter((message) => !/no longer published/.test(message)), []);
});

test('who listens to all tables is told of one that is renamed', async () => {
  await createTable('moved', 'id int PRIMARY KEY', { roles: ['e2e_viewer'] });
  await createTable('mover', 'id int PRIMARY KEY', { roles: ['e2e_viewer'] });
  const one = await RawClient.open({ apikey: token('e2e_viewer', { sub: user(1) }) });
  await one.joinOk('movers', [{ event: '*', schema: 'public' }]);
  await sql('BEGIN; ALTER TABLE moved RENAME TO mover_was; ALTER TABLE mover RENAME TO moved; COMMIT');
  const told = (table) => one.frames.some((f) => f.event === 'system' && f.payload.status === 'refetch' &&
    f.payload.message.includes(`public.${table} has changed`));
  await until('to be told of both', () => told('moved') && told('mover'));
  one.close();
});

test('a function that a policy calls, and the labels of an enum, are told when they change', async () => {
  await sql(`CREATE TYPE mood AS ENUM ('good', 'bad');
    CREATE FUNCTION lets(int) RETURNS bool LANGUAGE plpgsql STABLE AS 'BEGIN RETURN true; END'`);
  await createTable('called', 'id int PRIMARY KEY, mood mood', { roles: ['e2e_viewer'] });
  await sql('ALTER TABLE called ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON called USING (lets(id))');
  const one = await viewer(1, ['called']);
  const told = async (change) => {
    const before = refetches(one).length;
    await sql(change);
    await until(`to be told of ${change}`, () => refetches(one).length > before);
  };
  await told("ALTER TYPE mood RENAME VALUE 'bad' TO 'fair'");
  // the policies have no plan after this, and nothing makes one
  await sql('CREATE ROLE e2e_nobody; DROP ROLE e2e_nobody');
  await sleep(200);
  await told("CREATE OR REPLACE FUNCTION lets(int) RETURNS bool LANGUAGE plpgsql STABLE AS 'BEGIN RETURN false; END'");
});

test('a client that comes back hears that rows which its policies read have changed, though nobody was there', async () => {
  await dependent('absent');
  const join = async (rtsync) => {
    const client = await RawClient.open({ apikey: token('e2e_viewer', { sub: user(1) }) });
    atEnd(() => client.close());
    const reply = await client.joinOk('absent', [on('absent')], { config: { rtsync } });
    return { client, cursor: reply.response.rtsync.cursor, resumed: reply.response.rtsync.resumed };
  };
  const first = await join({ cursor: true });
  first.client.close();
  const second = await join({ since: first.cursor });
  assert.equal(second.resumed, true);
  await second.client.heartbeat();
  assert.deepEqual(refetches(second.client), []);
  second.client.close();
  await sleep(300); // until the engine knows that nobody is there
  await sql(`INSERT INTO absent_members VALUES ('${user(1)}', 1)`);
  const third = await join({ since: second.cursor });
  assert.equal(third.resumed, true);
  await until('to be told', () => refetches(third.client).length > 0);
});

test('a client that comes back with a cursor hears that it may see something else now', async () => {
  await createTable('comeback', 'id int PRIMARY KEY, owner uuid, body text', { roles: ['e2e_viewer'] });
  await sql(`ALTER TABLE comeback ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON comeback USING (owner = rtsync.uid())`);
  const claims = { sub: user(1), team: 1 };
  const join = async (rtsync, payload = claims, options = {}) => {
    const client = await RawClient.open({ apikey: token('e2e_viewer', payload) });
    atEnd(() => client.close());
    const { response } = await client.joinOk('comeback', [{ ...on('comeback'), ...options }], { config: { rtsync } });
    return { client, ...response.rtsync };
  };
  let last = 0;
  const write = () => sql(`INSERT INTO comeback VALUES (${++last}, '${user(1)}')`);
  // The cursor of a change, after which the client is gone
  const leave = async ({ client }) => {
    await write();
    const frame = await client.frame('the change', (f) => f.payload?.data?.record?.id === last);
    client.close();
    return frame.payload.rtsync.cursor;
  };
  const changed = 'the claims, the postgres_changes, or access to tables have changed';
  let cursor = await leave(await join({ cursor: true }));
  assert.match(cursor, /^[0-9a-f]+(:[0-9a-f]+){3}$/);
  const back = async (refetch, payload) => {
    await write();
    const one = await join({ since: cursor }, payload);
    if (refetch) {
      assert.deepEqual([one.resumed, one.refetch], [false, refetch]);
    } else {
      assert.equal(one.resumed, true, one.refetch);
      assert.equal(one.cursor, cursor);
      await one.client.frame('what it missed', (f) => f.payload?.data?.record?.id === last);
    }
    cursor = await leave(one);
  };
  await back(null);
  for (const [statement, refetch] of [
    ['ALTER POLICY p ON comeback USING (owner = rtsync.uid() AND id > 0)', changed],
    ['SELECT 1', null],
    ['CREATE POLICY q ON comeback AS RESTRICTIVE USING (true)', changed],
    ['DROP POLICY q ON comeback', changed],
    ['ALTER TABLE comeback DISABLE ROW LEVEL SECURITY', changed],
    ['ALTER TABLE comeback ENABLE ROW LEVEL SECURITY', changed],
    ['REVOKE SELECT ON comeback FROM e2e_viewer; GRANT SELECT ON comeback TO e2e_viewer', null],
    ['REVOKE SELECT ON comeback FROM e2e_viewer; GRANT SELECT (id, owner) ON comeback TO e2e_viewer', changed],
    ['GRANT SELECT ON comeback TO e2e_viewer', changed],
    ['ALTER TABLE comeback ADD COLUMN added int', changed],
    ['ALTER TABLE comeback RENAME added TO renamed', changed],
    ['ALTER TABLE comeback DROP COLUMN renamed', changed],
    ['ALTER PUBLICATION rtsync DROP TABLE comeback; ALTER PUBLICATION rtsync ADD TABLE comeback WHERE (id > 0)', changed],
    ['ALTER PUBLICATION rtsync DROP TABLE comeback; ALTER PUBLICATION rtsync ADD TABLE comeback', changed],
    ['ANALYZE comeback; CREATE INDEX ON comeback (body)', null],
  ]) {
    await sql(statement);
    note(statement);
    await back(refetch);
  }
  // other claims, but for when the token was made; a cursor of before there was the number
  await back(changed, { ...claims, team: 2 });
  await back(null, { ...claims, team: 2, iat: 1700000000, jti: 'another' });
  cursor = cursor.replace(/:[0-9a-f]+$/, '');
  await back('access to tables at the cursor is not known', { ...claims, team: 2 });

  // other rows, columns or events; but not another pace
  cursor = await leave(await join({ cursor: true }));
  for (const [options, refetch] of [
    [{ filter: 'id=gt.0' }, changed],
    [{ select: ['id', 'owner'] }, changed],
    [{ event: 'INSERT' }, changed],
    [{ rtsync: { where: 'id > 0' } }, changed],
    [{ rtsync: { view: true } }, changed],
    [{ rtsync: { interval: 20, snapshot: true } }, undefined],
    [{}, undefined],
  ]) {
    const one = await join({ cursor: true, since: cursor }, claims, options);
    assert.deepEqual([options, one.resumed, one.refetch], [options, refetch === undefined, refetch]);
    one.client.close();
  }

  // told while it was there: its cursors go on from what it was told
  const one = await join({ cursor: true });
  await sql('ALTER POLICY p ON comeback USING (owner = (SELECT rtsync.uid()))');
  await one.client.frame('to be told', (f) => f.event === 'system' && f.payload.status === 'refetch');
  cursor = await leave(one);
  await back(null);
});

for (const [what, change] of [
  ['rows that its policies read', `INSERT INTO slow_members VALUES ('${user(1)}', 1)`],
  ['its access', 'CREATE POLICY none ON slow AS RESTRICTIVE FOR SELECT TO e2e_viewer USING (false)'],
]) {
  test(`a client that did not read for a while hears that ${what} changed meanwhile`, async () => {
    await dependent('slow');
    await createTable('bulk', 'id int PRIMARY KEY, body text', { roles: ['e2e_viewer'] });
    const one = await viewer(1, ['slow', 'bulk']);
    one.socket.pause();
    for (let n = 0; n < 60; n++)
      await sql("INSERT INTO bulk SELECT $1 * 10 + i, repeat('x', 50000) FROM generate_series(1, 10) i", [n]);
    await sleep(500); // until the engine was told that the client does not read
    await sql(change);
    await sleep(500);
    assert.deepEqual(refetches(one), []);
    one.socket.resume();
    await until('the last row', () => one.changes().some((c) => c.table === 'bulk' && c.record.id === 600));
    await until('to be told', () => refetches(one).length > 0);
    one.close();
  });
}
