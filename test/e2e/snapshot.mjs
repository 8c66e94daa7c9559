// Snapshot with the stream: the rows that the role may see, then the changes
// after exactly that, with the real clients and while others write.

import { assert, atEnd, note, sleep, test, until } from './lib/tap.mjs';
import { connect, subscribe, versions } from './lib/clients.mjs';
import { RawClient } from './lib/raw.mjs';
import { createRole, createTable, database, pg, selectAs, sql, token } from './lib/server.mjs';

await createRole('snap_reader');
await createTable('shot', 'id int PRIMARY KEY, owner text, n int, note text', { roles: ['snap_reader'], full: true });
await sql(`ALTER TABLE shot ENABLE ROW LEVEL SECURITY;
  CREATE POLICY own ON shot FOR SELECT TO snap_reader USING (owner = rtsync.jwt() ->> 'sub')`);
const binding = (more = {}, options = {}) =>
  ({ event: '*', schema: 'public', table: 'shot', ...more, rtsync: { snapshot: true, ...options } });

const apply = (rows, { eventType, new: row, old }) => {
  if (eventType === 'DELETE') rows.delete(old.id);
  else rows.set(row.id, row);
};
const sorted = (rows) => [...rows].sort((a, b) => a.id - b.id);
const status = (name) => ({ extension, status: s }) => extension === 'rtsync' && s === name;

// A replica as an application with the stock client would keep it.
async function replica(client, topic, bindings) {
  const rows = new Map();
  const systems = [];
  const counts = { inserts: 0 };
  const channel = client.channel(topic);
  for (const b of bindings) {
    channel.on('postgres_changes', b, (event) => {
      counts.inserts += event.eventType === 'INSERT';
      apply(rows, event);
    });
  }
  channel.on('system', {}, (message) => systems.push(message));
  channel.subscribe();
  const ended = () => until('the end of the snapshot', () => systems.some(status('snapshot_end')), { timeout: 30_000 });
  return { rows, systems, channel, ended, counts };
}

// Writers at full speed until told to stop: rows come, go, change and change hands.
function writers(n, owners) {
  let stop = false;
  let commits = 0;
  const one = async () => {
    const connection = await database.connect();
    try {
      while (!stop) {
        const id = Math.floor(Math.random() * 6000);
        const owner = owners[Math.floor(Math.random() * owners.length)];
        const pick = Math.random();
        const text = pick < 0.3 ? `INSERT INTO shot VALUES (${id}, '${owner}', 0, 'new') ON CONFLICT (id) DO UPDATE SET n = shot.n + 1`
          : pick < 0.5 ? `DELETE FROM shot WHERE id = ${id}`
          : pick < 0.7 ? `UPDATE shot SET owner = '${owner}' WHERE id = ${id}`
          : `UPDATE shot SET n = n + 1 WHERE id BETWEEN ${id} AND ${id + 3}`;
        try {
          await connection.query(text);
          commits++;
        } catch (error) {
          if (error.code !== '40P01') throw error; // a deadlock
        }
      }
    } finally {
      connection.release();
    }
  };
  const all = Array.from({ length: n }, one);
  return { stop: async () => { stop = true; await Promise.all(all); return commits; } };
}

await sql(`INSERT INTO shot SELECT g, 'u' || g % 3, 0, repeat('x', g % 50) FROM generate_series(1, 5000) g`);

for (const version of versions) {
  test(`${version.name}: the rows come, then the changes, and nothing else is said`, async () => {
    const client = connect(version, token('snap_reader', { sub: 'u1' }));
    atEnd(() => client.disconnect());
    const sub = await replica(client, `still-${version.name}`, [binding()]);
    await sub.ended();
    const expected = await selectAs('snap_reader', { sub: 'u1' }, 'SELECT * FROM shot ORDER BY id');
    assert.deepEqual(sorted(sub.rows.values()), expected);
    assert.equal(sub.counts.inserts, expected.length);
    assert.deepEqual(sub.systems.map((s) => s.status), ['ok', 'snapshot_begin', 'snapshot_end']);
    await sql("INSERT INTO shot VALUES (100000, 'u1', 1, 'later')");
    await until('the change', () => sub.rows.has(100000));
    await sql('DELETE FROM shot WHERE id = 100000');
    await until('the deletion', () => !sub.rows.has(100000));
    await sub.channel.unsubscribe();
  });

  test(`${version.name}: snapshots and changes equal SELECT under concurrent writers`, async () => {
    const owners = ['u0', 'u1', 'u2'];
    const running = writers(4, owners);
    const subs = [];
    for (let round = 0; round < 8; round++) {
      const owner = owners[round % 3];
      const client = connect(version, token('snap_reader', { sub: owner }));
      atEnd(() => client.disconnect());
      const where = round % 2 ? 'n >= 1' : 'true';
      subs.push({ owner, where, ...(await replica(client, `busy-${round}`, [binding({}, { where })])) });
      await sleep(40);
    }
    await Promise.all(subs.map((s) => s.ended()));
    const commits = await running.stop();
    await sql("INSERT INTO shot SELECT 200000 + g, 'u' || g, 1, 'mark' FROM generate_series(0, 2) g");
    await until('the marks', () => subs.every((s) => s.rows.has(200000 + Number(s.owner[1]))));
    for (const s of subs) {
      const expected = await selectAs('snap_reader', { sub: s.owner }, `SELECT * FROM shot WHERE ${s.where} ORDER BY id`);
      assert.deepEqual(sorted(s.rows.values()), expected, `${s.owner} ${s.where}`);
      assert.ok(!s.systems.some(status('refetch')), JSON.stringify(s.systems));
      await s.channel.unsubscribe();
    }
    await sql('DELETE FROM shot WHERE id >= 200000');
    note(`${commits} commits, ${subs.length} snapshots`);
  });
}

const apikey = token('snap_reader', { sub: 'u1' });
const isRow = (f) => f.event === 'postgres_changes' && f.payload.rtsync?.snapshot === true;
const isSystem = (name) => (f) => f.event === 'system' && f.payload.extension === 'rtsync' && f.payload.status === name;

// A client that has joined one topic with these bindings.
async function raw(topic, bindings, { key = apikey, config = {} } = {}) {
  const client = await RawClient.open({ apikey: key });
  atEnd(() => client.close());
  const { response } = await client.joinOk(topic, bindings, { config });
  return Object.assign(client, {
    response,
    rows: () => client.frames.filter(isRow),
    ended: () => client.frame('snapshot_end', isSystem('snapshot_end')),
    refetch: () => client.frame('refetch', isSystem('refetch')),
  });
}

test('a row of a snapshot has the form of its INSERT, whatever the types', async () => {
  await sql(`DROP TABLE IF EXISTS shapes CASCADE; DROP TYPE IF EXISTS pair CASCADE; DROP DOMAIN IF EXISTS short CASCADE;
    CREATE TYPE pair AS (a int, b text); CREATE DOMAIN short AS varchar(9)`);
  await createTable('shapes', `id int PRIMARY KEY, gone int, s smallint, b bigint, n numeric, r real, d double precision, t text,
    c char(5), bo boolean, by bytea, da date, ti time, ts timestamp, tz timestamptz, iv interval, u uuid, j json, jb jsonb,
    ia int[], ta text[][], p pair, sh short, ip inet, ra int4range, bi bit(5), "Odd ""name" text,
    g int GENERATED ALWAYS AS (id * 2) STORED, big text`, { roles: ['snap_reader'] });
  await sql('ALTER TABLE shapes DROP COLUMN gone; ALTER TABLE shapes ALTER big SET STORAGE EXTERNAL');
  const live = await raw('shapes-live', [{ event: '*', schema: 'public', table: 'shapes' }]);
  await sql(`INSERT INTO shapes VALUES (1, -3, 9007199254740993, 1.50, 1.25, 0.1, E'q"\\u00e9\\n', 'ab', true, '\\xdead', '2026-01-02',
      '03:04:05.6', '2026-01-02 03:04', '2026-01-02 03:04+05', '1 day 2 h', '6f1ed002-ab55-4b1c-9c6b-000000000001', '{"a": [1]}',
      '{"a": [1]}', '{1,NULL}', '{{a,b},{c,d}}', '(1,x)', 'abc', '10.0.0.1/8', '[1,5)', '10101', 'odd', DEFAULT, repeat('x', 100000))`);
  await sql('INSERT INTO shapes (id) VALUES (2)');
  await sql("INSERT INTO shapes (id, d, n, tz, big) VALUES (3, 'NaN', 'NaN', 'infinity', repeat('y', 2000000))");
  await live.frame('the third row', (f) => f.event === 'postgres_changes' && f.payload.data.record.id === 3);
  const shot = await raw('shapes-shot', [{ event: '*', schema: 'public', table: 'shapes', rtsync: { snapshot: true } }]);
  await shot.ended();
  const plain = (data) => ({ ...data, commit_timestamp: null });
  assert.deepEqual(shot.rows().map((f) => plain(f.payload.data)), live.changes().map(plain));
  assert.equal(shot.rows().length, 3);
  assert.deepEqual(shot.rows()[2].payload.data.errors, ['Error 413: Payload Too Large']);
  assert.deepEqual(Object.keys(shot.rows()[0].payload), ['ids', 'data', 'rtsync']);
  const cut = (f) => /"data":\{.*?"record":(\{.*\}),"errors"/s.exec(f.text)[1];
  const one = (client) => client.frames.find((f) => f.payload?.data?.record?.id === 1);
  assert.equal(cut(one(shot)), cut(one(live)), 'the same text');
});

test('selected and permitted columns, filters and the publication decide as for changes', async () => {
  await createTable('cols', 'id int PRIMARY KEY, open text, secret text, kind int', {});
  await sql(`GRANT SELECT (id, open, kind) ON cols TO snap_reader;
    ALTER PUBLICATION rtsync SET TABLE cols WHERE (id < 90), shot, shapes;
    INSERT INTO cols SELECT g, 'o' || g, 's', g % 3 FROM generate_series(1, 100) g`);
  const shot = await raw('cols', [
    { event: '*', schema: 'public', table: 'cols', filter: 'kind=eq.1', rtsync: { snapshot: true } },
    { event: 'INSERT', schema: 'public', table: 'cols', select: ['open'], rtsync: { snapshot: true, where: "open like 'o1%'" } },
  ]);
  await shot.ended();
  const ids = shot.response.postgres_changes.map((b) => b.id);
  const of = (n) => shot.rows().filter((f) => f.payload.ids[0] === ids[n]).map((f) => f.payload.data);
  assert.deepEqual(of(0).map((d) => d.record), await sql('SELECT id, open, kind FROM cols WHERE kind = 1 AND id < 90 ORDER BY id'));
  assert.deepEqual(of(1).map((d) => d.record), await sql("SELECT open FROM cols WHERE open LIKE 'o1%' AND id < 90 ORDER BY id"));
  assert.deepEqual(of(1)[0].columns.map((c) => c.name), ['id', 'open']);
  await sql("INSERT INTO cols VALUES (0, 'o1new', 's', 1)");
  await shot.frame('the change, once for both', (f) => f.payload?.data?.record?.open === 'o1new' && !f.payload.rtsync);
});

test('a partitioned table is read through its root, with the root\'s policies', async () => {
  await sql(`DROP TABLE IF EXISTS parts CASCADE; CREATE TABLE parts (id int PRIMARY KEY, owner text) PARTITION BY RANGE (id);
    CREATE TABLE parts_b (owner text, id int NOT NULL); ALTER TABLE parts ATTACH PARTITION parts_b FOR VALUES FROM (100) TO (200);
    CREATE TABLE parts_a PARTITION OF parts FOR VALUES FROM (0) TO (100);
    ALTER TABLE parts ENABLE ROW LEVEL SECURITY; GRANT SELECT ON parts TO snap_reader;
    CREATE POLICY own ON parts FOR SELECT USING (owner = rtsync.jwt() ->> 'sub');
    INSERT INTO parts SELECT g, 'u' || g % 2 FROM generate_series(1, 199) g;
    ALTER PUBLICATION rtsync SET (publish_via_partition_root = true); ALTER PUBLICATION rtsync ADD TABLE parts`);
  try {
    const shot = await raw('parts', [{ event: '*', schema: 'public', table: 'parts', rtsync: { snapshot: true } }]);
    await shot.ended();
    const records = shot.rows().map((f) => f.payload.data.record).sort((a, b) => a.id - b.id);
    assert.deepEqual(records, await selectAs('snap_reader', { sub: 'u1' }, 'SELECT * FROM parts ORDER BY id'));
    assert.equal(records.length, 100);
  } finally {
    await sql('DROP TABLE parts; ALTER PUBLICATION rtsync SET (publish_via_partition_root = false)');
  }
});

test('rows of tables that inherit are read too', async () => {
  await createTable('above', 'id int PRIMARY KEY, owner text', { roles: ['snap_reader'], full: true });
  await sql(`CREATE TABLE below (more int) INHERITS (above); ALTER TABLE above ENABLE ROW LEVEL SECURITY;
    CREATE POLICY own ON above FOR SELECT USING (owner = rtsync.jwt() ->> 'sub');
    INSERT INTO above VALUES (1, 'u1'), (2, 'u2'); INSERT INTO below VALUES (3, 'u1', 7), (4, 'u2', 7)`);
  const shot = await raw('family', [{ event: '*', schema: 'public', table: 'above', rtsync: { snapshot: true } }]);
  await shot.ended();
  assert.deepEqual(shot.rows().map((f) => f.payload.data.record).sort((a, b) => a.id - b.id), [{ id: 1, owner: 'u1' }, { id: 3, owner: 'u1' }]);
});

test('what cannot be had is refused, with the reason', async () => {
  const client = await RawClient.open({ apikey });
  for (const [more, reason] of [
    [{ table: undefined }, '"snapshot" needs a schema and a table'],
    [{ event: 'DELETE' }, '"snapshot" needs the event INSERT or *'],
    [{ rtsync: { snapshot: 'yes' } }, 'invalid rtsync option "snapshot"'],
    [{ table: 'nowhere' }, 'Please check Realtime is enabled'],
  ]) {
    const topic = `refused-${reason}`;
    await client.join(topic, [binding(more.rtsync ? {} : more, more.rtsync ?? {})]);
    const { payload } = await client.frame('the reason', (f) => f.event === 'system' && f.payload.channel === topic);
    assert.equal(payload.status, 'error');
    assert.ok(payload.message.includes(reason), payload.message);
  }
  client.close();
});

test('bindings without a snapshot get everything from the join on, at its place', async () => {
  await createTable('beside', 'id int PRIMARY KEY', { roles: ['snap_reader'] });
  const running = writers(3, ['u1']);
  let last = 0;
  let writing = true;
  const beside = (async () => {
    while (writing) await sql('INSERT INTO beside VALUES ($1)', [++last]);
  })();
  await until('some rows', () => last > 10);
  const shot = await raw('beside', [binding(), { event: '*', schema: 'public', table: 'beside' }]);
  const [{ max }] = await sql('SELECT max(id) FROM beside');
  await shot.ended();
  writing = false;
  await Promise.all([running.stop(), beside]);
  await sql('INSERT INTO beside VALUES ($1)', [++last]);
  await shot.frame('the last one', (f) => f.payload?.data?.table === 'beside' && f.payload.data.record.id === last);
  const ids = shot.changes().filter((d) => d.table === 'beside').map((d) => d.record.id);
  assert.ok(ids[0] <= max + 1, `${ids[0]} ${max}`);
  assert.deepEqual(ids, Array.from({ length: ids.length }, (_, i) => ids[0] + i));
  assert.ok(shot.frames.findIndex(isSystem('snapshot_end')) < shot.frames.findIndex((f) => f.payload?.data?.table === 'beside'));
});

// A gate in a policy: its snapshot stops at row 500 while the test holds it.
await sql(`CREATE OR REPLACE FUNCTION gate() RETURNS boolean LANGUAGE plpgsql AS
  $$ BEGIN PERFORM pg_advisory_xact_lock_shared(42); RETURN true; END $$`);
async function gated(name, rows = 1000) {
  await createTable(name, 'id int PRIMARY KEY, filler text', { roles: ['snap_reader'], full: true });
  await sql(`INSERT INTO ${name} SELECT g, repeat('x', 1000) FROM generate_series(1, ${rows}) g;
    ALTER TABLE ${name} ENABLE ROW LEVEL SECURITY;
    CREATE POLICY gate ON ${name} FOR SELECT TO snap_reader USING (id <> 500 OR gate())`);
  const connection = await database.connect();
  await connection.query('SELECT pg_advisory_lock(42)');
  let open = false;
  return async () => {
    if (open) return;
    open = true;
    await connection.query('SELECT pg_advisory_unlock(42)');
    connection.release();
  };
}
const workers = () => sql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'rtsync snapshot'");
const sending = () => until('the query to end', async () =>
  (await sql("SELECT FROM pg_stat_activity WHERE backend_type = 'rtsync snapshot' AND query = 'sending a snapshot'")).length > 0);
const gone = () => until('the worker to end', async () => (await workers()).length === 0);
const gatedBinding = (table) => ({ event: '*', schema: 'public', table, rtsync: { snapshot: true } });

for (const [what, end] of [
  ['REVOKE', (t) => sql(`REVOKE SELECT ON ${t} FROM snap_reader`)],
  ['pg_terminate_backend', async () => sql('SELECT pg_terminate_backend($1)', [(await workers())[0].pid])],
]) {
  test(`${what} in the middle of a snapshot ends it, and the client is told`, async () => {
    const table = `gate_${what.length}`;
    const release = await gated(table);
    const shot = await raw(table, [gatedBinding(table)]);
    await shot.frame('its beginning', isSystem('snapshot_begin'));
    await end(table);
    await shot.refetch();
    const rows = shot.rows().length;
    await release();
    await gone();
    assert.equal(shot.rows().length, rows);
    assert.ok(!shot.frames.some(isSystem('snapshot_end')));
    shot.close();
  });
}

// A policy is made when the query of the snapshot is over: both need a lock.
test('another policy while the rows are sent ends a snapshot, and the client is told', async () => {
  await createTable('sent', 'id int PRIMARY KEY, filler text', { roles: ['snap_reader'] });
  await sql(`INSERT INTO sent SELECT g, repeat(md5(g::text), 30) FROM generate_series(1, 30000) g;
    ALTER TABLE sent ENABLE ROW LEVEL SECURITY; CREATE POLICY everybody ON sent FOR SELECT USING (true)`);
  const shot = await raw('sent', [gatedBinding('sent')]);
  shot.socket.pause();
  await sending();
  await sql('CREATE POLICY more ON sent AS RESTRICTIVE FOR SELECT USING (id < 10)');
  shot.socket.resume();
  const refetch = await shot.refetch();
  await gone();
  await shot.heartbeat();
  assert.ok(shot.rows().length < 30000);
  assert.ok(!shot.frames.slice(shot.frames.indexOf(refetch)).some(isRow));
  assert.ok(!shot.frames.some(isSystem('snapshot_end')));
  shot.close();
});

test('what commits while the snapshot is read, and began before, comes once and behind it', async () => {
  const release = await gated('gate_open');
  const open = await database.connect();
  await open.query("BEGIN; INSERT INTO gate_open VALUES (5000, 'open')");
  await sql("INSERT INTO gate_open VALUES (4999, 'done')"); // a later transaction, which the snapshot sees
  const shot = await raw('open', [gatedBinding('gate_open')]);
  await shot.frame('its beginning', isSystem('snapshot_begin'));
  await sql("INSERT INTO gate_open VALUES (5001, 'later')");
  await open.query('COMMIT');
  open.release();
  await release();
  await shot.ended();
  for (const id of [5000, 5001]) await shot.frame(`row ${id}`, (f) => f.payload?.data?.record?.id === id);
  assert.deepEqual(shot.changes().slice(1001).map((d) => d.record.id).sort(), [5000, 5001]);
  assert.equal(shot.rows().length, 1001);
  shot.close();
});

test('what commits after the join, and before the snapshot is taken, comes once', async () => {
  await createTable('waits', 'id int PRIMARY KEY', { roles: ['snap_reader'] });
  await createTable('waits_beside', 'id int PRIMARY KEY', { roles: ['snap_reader'] });
  const release = await gated('gate_queue');
  const blockers = [await raw('q1', [gatedBinding('gate_queue')]), await raw('q2', [gatedBinding('gate_queue')])];
  await Promise.all(blockers.map((b) => b.frame('its beginning', isSystem('snapshot_begin'))));
  const shot = await raw('waits', [gatedBinding('waits'), { event: '*', schema: 'public', table: 'waits_beside' }]);
  await sql('INSERT INTO waits VALUES (1)');
  await sql('INSERT INTO waits_beside VALUES (1)');
  assert.equal(shot.rows().length, 0, 'it waits for a worker');
  await release();
  await shot.ended();
  await shot.frame('the change beside', (f) => f.payload?.data?.table === 'waits_beside');
  await sql('INSERT INTO waits VALUES (2)');
  await shot.frame('the change', (f) => f.payload?.data?.record?.id === 2);
  assert.deepEqual(shot.changes().map((d) => `${d.table} ${d.record.id}`), ['waits 1', 'waits_beside 1', 'waits 2']);
  for (const c of [shot, ...blockers]) c.close();
});

test('rows that a policy reads change in the middle: refetch, and no more rows of before', async () => {
  await sql(`DROP TABLE IF EXISTS members; CREATE TABLE members (sub text); GRANT SELECT ON members TO snap_reader;
    INSERT INTO members VALUES ('u1')`);
  const release = await gated('gate_members');
  await sql(`CREATE POLICY member ON gate_members AS RESTRICTIVE FOR SELECT
    USING (EXISTS (SELECT FROM members WHERE sub = rtsync.jwt() ->> 'sub'))`);
  const shot = await raw('members', [gatedBinding('gate_members')]);
  await shot.frame('its beginning', isSystem('snapshot_begin'));
  await sql('DELETE FROM members');
  await shot.refetch();
  await release();
  await gone();
  assert.ok(!shot.frames.some(isSystem('snapshot_end')));
  shot.close();
});

test('a client that vanishes takes its worker with it', async () => {
  const release = await gated('gate_gone');
  const shot = await raw('gone', [gatedBinding('gate_gone')]);
  await shot.frame('its beginning', isSystem('snapshot_begin'));
  shot.close();
  await gone();
  await release();
});

// Sets a setting, and waits until the postmaster has it: new processes begin with that.
async function configureServer(name, value) {
  await sql(`ALTER SYSTEM SET ${name} = '${value}'`);
  await sql('SELECT pg_reload_conf()');
  await until(`${name} to be ${value}`, async () => {
    const fresh = new pg.Client();
    await fresh.connect();
    const { rows } = await fresh.query('SELECT current_setting($1) AS it', [name]);
    await fresh.end();
    return rows[0].it === value;
  });
}

test('an error in a policy, or a query that takes too long, is told', async () => {
  await createTable('failing', 'id int PRIMARY KEY', { roles: ['snap_reader'] });
  await sql(`INSERT INTO failing SELECT generate_series(0, 10); ALTER TABLE failing ENABLE ROW LEVEL SECURITY;
    CREATE POLICY div ON failing FOR SELECT USING (1 / id > -1)`);
  const failing = await raw('failing', [gatedBinding('failing')]);
  assert.match((await failing.refetch()).payload.message, /not completed: division by zero/);
  await configureServer('rtsync.snapshot_timeout', '500ms');
  const release = await gated('gate_late');
  try {
    const late = await raw('late', [gatedBinding('gate_late')]);
    assert.match((await late.refetch()).payload.message, /not completed: canceling statement/);
    await gone();
  } finally {
    await release();
    await configureServer('rtsync.snapshot_timeout', '1min');
    await sql('ALTER SYSTEM RESET rtsync.snapshot_timeout');
  }
});

test('DROP TABLE and ALTER TABLE wait for the query and not for the client', async () => {
  await createTable('large', 'id int PRIMARY KEY, filler text', { roles: ['snap_reader'] });
  await sql("INSERT INTO large SELECT g, repeat(md5(g::text), 30) FROM generate_series(1, 30000) g");
  const shot = await raw('large', [gatedBinding('large')]);
  shot.socket.pause();
  await sending();
  await sql("SET lock_timeout = '20s'; ALTER TABLE large ADD more int; RESET lock_timeout");
  shot.socket.resume();
  await until('the snapshot to end either way', () => shot.frames.some(isSystem('snapshot_end')) || shot.frames.some(isSystem('refetch')));
  note(`${shot.rows().length} rows, ${shot.frames.some(isSystem('refetch')) ? 'refetch' : 'completed'}`);
  await gone();
  shot.close();
});

test('equal snapshots that wait are shared, and a slow client holds up nobody', async () => {
  await createTable('common', 'id int PRIMARY KEY, filler text', { roles: ['snap_reader'] });
  await sql("INSERT INTO common SELECT g, repeat('x', 1000) FROM generate_series(1, 12000) g");
  const release = await gated('gate_common');
  const blockers = [await raw('b1', [gatedBinding('gate_common')]), await raw('b2', [gatedBinding('gate_common')])];
  await Promise.all(blockers.map((b) => b.frame('its beginning', isSystem('snapshot_begin'))));
  const many = [];
  for (let i = 0; i < 10; i++) many.push(await raw(`many-${i}`, [gatedBinding('common')]));
  assert.equal((await workers()).length, 2, 'no more than rtsync.max_snapshot_workers');
  many[0].socket.pause(); // it takes nothing
  await release();
  await Promise.all(many.slice(1).map((c) => c.ended()));
  many[0].socket.resume();
  await many[0].ended();
  for (const { frames } of many) {
    const begun = frames.map(isSystem('snapshot_begin')).lastIndexOf(true);
    assert.equal(frames.slice(begun).filter(isRow).length, 12000);
  }
  const begun = many.map((c) => c.frames.filter(isSystem('snapshot_begin')).length);
  note(`beginnings: ${begun.join(' ')}`);
  for (const c of [...many, ...blockers]) c.close();
});

test('who can go on from a cursor gets no snapshot, who cannot gets one', async () => {
  const first = await raw('cursors', [binding()], { config: { rtsync: { cursor: true } } });
  await first.ended();
  await sql("INSERT INTO shot VALUES (300000, 'u1', 0, '')");
  const { payload: { rtsync: { cursor } } } = await first.frame('a change', (f) => f.payload?.rtsync?.cursor && f.event === 'postgres_changes');
  first.close();
  await sql("INSERT INTO shot VALUES (300001, 'u1', 0, '')");
  const second = await raw('cursors', [binding()], { config: { rtsync: { since: cursor } } });
  await second.frame('what it missed', (f) => f.payload?.data?.record?.id === 300001);
  assert.equal(second.rows().length, 0);
  second.close();
  const third = await raw('cursors', [binding()], { config: { rtsync: { since: '1:1:1' } } });
  await third.ended();
  assert.ok(third.rows().length > 0);
  await sql('DELETE FROM shot WHERE id >= 300000');
  third.close();
});

test('a new token in the middle begins anew, with its rows', async () => {
  const release = await gated('gate_token');
  await sql(`CREATE POLICY own ON gate_token AS RESTRICTIVE FOR SELECT TO snap_reader
    USING ((id % 2 = 0) = (current_setting('request.jwt.claims')::json ->> 'sub' = 'u1'))`);
  const shot = await raw('token', [gatedBinding('gate_token')]);
  await shot.frame('its beginning', isSystem('snapshot_begin'));
  shot.send('realtime:token', 'access_token', { access_token: token('snap_reader', { sub: 'u2' }) }, '1');
  // who the rows are for is told before they come
  const answer = (f) => f.event === 'system' && f.payload.message === 'Subscribed to PostgreSQL';
  const since = await until('the answer to the token', () => {
    const answers = shot.frames.flatMap((f, i) => (answer(f) ? [i] : []));
    return answers.length === 2 && answers[1];
  });
  const now = () => shot.frames.slice(since);
  await until('the end of the snapshot', () => now().some(isSystem('snapshot_end')));
  const ids = now().filter(isRow).map((f) => f.payload.data.record.id);
  assert.deepEqual(ids, Array.from({ length: 500 }, (_, i) => 2 * i + 1));
  await release();
  await gone();
  shot.close();
});

test('they are counted, now and since the start', async () => {
  const read = async () => {
    const [row] = await sql(`SELECT snapshots, snapshots_failed AS failed, snapshots_running AS running, snapshots_waiting AS waiting
      FROM rtsync.pg_stat_rtsync WHERE datname = current_database()`);
    return Object.fromEntries(Object.entries(row).map(([name, value]) => [name, Number(value)]));
  };
  // about once a second
  await until('none to be left', async () => {
    const { running, waiting } = await read();
    return running === 0 && waiting === 0;
  });
  const before = await read();
  assert.ok(before.failed > 0, 'those that were to fail');
  const shot = await raw('counted', [binding()]);
  await shot.ended();
  await until('it to be counted', async () => (await read()).snapshots > before.snapshots);
  shot.close();
});
