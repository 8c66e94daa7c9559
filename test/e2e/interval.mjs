// Throttling for dashboards: at most one batch in an interval, the changes of
// one row merged into one.

import { randomUUID } from 'node:crypto';
import { assert, atEnd, note, sleep, test, until } from './lib/tap.mjs';
import { connect, subscribe, versions } from './lib/clients.mjs';
import { RawClient } from './lib/raw.mjs';
import { createRole, createTable, database, selectAs, sql, token } from './lib/server.mjs';

await createRole('slow_reader');
const claims = { sub: 'u1' };
const apikey = token('slow_reader', claims);
const binding = (table, interval, more = {}) => ({ event: '*', schema: 'public', table, rtsync: { interval, ...more } });
const isChange = (f) => f.event === 'postgres_changes';

await createTable('hot', 'id int PRIMARY KEY, n int', { roles: ['slow_reader'] });
await createTable('keyed', 'id int PRIMARY KEY, n int, big text', { roles: ['slow_reader'] });
await createTable('whole', 'id int PRIMARY KEY, n int, big text', { roles: ['slow_reader'], full: true });
await createTable('keyless', 'id int, n int', { roles: ['slow_reader'], full: true });
await createTable('many', 'id int PRIMARY KEY, owner text, n int', { roles: ['slow_reader'], full: true });
await sql(`ALTER TABLE many ENABLE ROW LEVEL SECURITY;
  CREATE POLICY own ON many FOR SELECT TO slow_reader USING (owner = rtsync.jwt() ->> 'sub')`);

for (const version of versions) {
  test(`${version.name}: a row that changes 1,000 times costs a few events`, async () => {
    await sql('DELETE FROM hot; INSERT INTO hot VALUES (1, 0)');
    const client = connect(version, apikey);
    atEnd(() => client.disconnect());
    const sub = await subscribe(client, `hot-${version.name}`, [binding('hot', 300)]);
    const begun = performance.now();
    await sql('DO $$ BEGIN FOR i IN 1..1000 LOOP UPDATE hot SET n = i; COMMIT; END LOOP; END $$');
    await until('the last state', () => sub.events.at(-1)?.new.n === 1000);
    const batches = Math.ceil((performance.now() - begun) / 300) + 1;
    assert.ok(sub.events.length <= batches, `${sub.events.length} events in ${batches} intervals`);
    assert.ok(sub.events.every((e) => e.eventType === 'UPDATE'));
    note(`${sub.events.length} events`);
    await sub.channel.unsubscribe();
  });
}

// What a client gets of one transaction, each event as [type, old id, new row].
async function batch(table, topic, text) {
  const client = connect(versions.at(-1), apikey);
  const sub = await subscribe(client, topic, [binding(table, 20)]);
  await sql(`BEGIN; ${text}; INSERT INTO ${table} VALUES (999, 0); COMMIT`);
  await until('the end', () => sub.events.some((e) => e.new.id === 999));
  client.disconnect();
  await sql(`DELETE FROM ${table} WHERE id = 999`);
  return sub.events.slice(0, -1);
}
const short = (events) => events.map((e) =>
  [e.eventType, e.eventType === 'INSERT' ? null : e.old.id, e.eventType === 'DELETE' ? null : [e.new.id, e.new.n]]);

for (const table of ['keyed', 'whole']) {
  test(`${table}: how changes of one row are merged`, async () => {
    const rules = [
      ['INSERT, UPDATE', (t) => `INSERT INTO ${t} VALUES (1, 1); UPDATE ${t} SET n = 2 WHERE id = 1`, [['INSERT', null, [1, 2]]]],
      ['INSERT, DELETE', (t) => `INSERT INTO ${t} VALUES (2, 1); DELETE FROM ${t} WHERE id = 2`, []],
      ['INSERT, DELETE, INSERT', (t) => `INSERT INTO ${t} VALUES (2, 1); DELETE FROM ${t} WHERE id = 2; INSERT INTO ${t} VALUES (2, 5)`,
        [['INSERT', null, [2, 5]]]],
      ['UPDATE, UPDATE', (t) => `UPDATE ${t} SET n = 3 WHERE id = 1; UPDATE ${t} SET n = 4 WHERE id = 1`, [['UPDATE', 1, [1, 4]]]],
      ['DELETE, INSERT', (t) => `DELETE FROM ${t} WHERE id = 1; INSERT INTO ${t} VALUES (1, 7)`, [['UPDATE', 1, [1, 7]]]],
      ['DELETE, INSERT, UPDATE, DELETE', (t) => `DELETE FROM ${t} WHERE id = 2; INSERT INTO ${t} VALUES (2, 7);
        UPDATE ${t} SET n = 8 WHERE id = 2; DELETE FROM ${t} WHERE id = 2`, [['DELETE', 2, null]]],
      ['UPDATE, DELETE', (t) => `UPDATE ${t} SET n = 9 WHERE id = 1; DELETE FROM ${t} WHERE id = 1`, [['DELETE', 1, null]]],
      ['another key', (t) => `INSERT INTO ${t} VALUES (3, 1); UPDATE ${t} SET n = 2 WHERE id = 3; UPDATE ${t} SET id = 4 WHERE id = 3;
        INSERT INTO ${t} VALUES (3, 5); UPDATE ${t} SET n = 6 WHERE id = 4; UPDATE ${t} SET n = 7 WHERE id = 4`,
        [['INSERT', null, [3, 2]], ['UPDATE', 3, [4, 2]], ['INSERT', null, [3, 5]], ['UPDATE', 4, [4, 7]]]],
      ['the order is that of the last changes', (t) => `UPDATE ${t} SET n = 8 WHERE id = 3; UPDATE ${t} SET n = 8 WHERE id = 4;
        UPDATE ${t} SET n = 9 WHERE id = 3`, [['UPDATE', 4, [4, 8]], ['UPDATE', 3, [3, 9]]]],
    ];
    for (const [name, text, expected] of rules) {
      assert.deepEqual(short(await batch(table, `rule-${table}`, text(table))), expected, name);
    }
  });

  test(`${table}: a large value that later changes leave alone is there`, async () => {
    await sql(`INSERT INTO ${table} VALUES (10, 0, 'small')`);
    const events = await batch(table, `big-${table}`, `UPDATE ${table} SET
      big = (SELECT string_agg(md5(g::text), '') FROM generate_series(1, 2000) g) WHERE id = 10;
      UPDATE ${table} SET n = 1 WHERE id = 10; UPDATE ${table} SET n = 2 WHERE id = 10`);
    assert.equal(events.length, 1);
    assert.equal(events[0].new.n, 2);
    assert.equal(events[0].new.big.length, 64000);
  });
}

test('the old record is the first one', async () => {
  await sql("INSERT INTO whole VALUES (20, 1, 'a')");
  const [event, ...rest] = await batch('whole', 'old', 'UPDATE whole SET n = 2 WHERE id = 20; UPDATE whole SET n = 3 WHERE id = 20');
  assert.deepEqual(rest, []);
  assert.deepEqual(event.old, { id: 20, n: 1, big: 'a' });
});

test('without a key nothing is merged', async () => {
  const events = await batch('keyless', 'keyless', 'INSERT INTO keyless VALUES (1, 1); UPDATE keyless SET n = 2; UPDATE keyless SET n = 3');
  assert.deepEqual(events.map((e) => e.eventType), ['INSERT', 'UPDATE', 'UPDATE']);
});

test('TRUNCATE is told in its place, and what came before is not merged with what follows', async () => {
  const client = connect(versions.at(-1), apikey);
  atEnd(() => client.disconnect());
  const sub = await subscribe(client, 'truncate', [binding('hot', 20)]);
  await sql('BEGIN; DELETE FROM hot; INSERT INTO hot VALUES (1, 1), (2, 2); TRUNCATE hot; INSERT INTO hot VALUES (1, 5); COMMIT');
  await until('the refetch', () => sub.systems.some((s) => s.status === 'refetch'));
  await until('the row', () => sub.events.some((e) => e.eventType === 'INSERT' && e.new.n === 5));
});

test('the stream ends in what SELECT gives, under random writers', async () => {
  const owners = ['u1', 'u2'];
  const subs = [];
  for (const [interval, sub] of [[10, 'u1'], [100, 'u1'], [400, 'u2'], [700, 'u1']]) {
    const client = connect(versions.at(-1), token('slow_reader', { sub }));
    atEnd(() => client.disconnect());
    subs.push({ sub, ...(await subscribe(client, `random-${interval}`, [binding('many', interval)])) });
  }
  const random = (n) => Math.floor(Math.random() * n);
  const statement = () => {
    const id = random(30);
    const other = random(30);
    const owner = owners[random(2)];
    return [
      `INSERT INTO many VALUES (${id}, '${owner}', 0) ON CONFLICT (id) DO UPDATE SET n = many.n + 1`,
      `DELETE FROM many WHERE id = ${id}`,
      `UPDATE many SET owner = '${owner}' WHERE id = ${id}`,
      `UPDATE many SET n = n + 1 WHERE id = ${id}`,
      `UPDATE many SET id = ${other} WHERE id = ${id} AND NOT EXISTS (SELECT FROM many m WHERE m.id = ${other})`,
    ][random(5)];
  };
  let commits = 0;
  const end = performance.now() + 4000;
  await Promise.all([1, 2, 3].map(async () => {
    const connection = await database.connect();
    while (performance.now() < end) {
      try {
        await connection.query(`BEGIN; ${Array.from({ length: 1 + random(3) }, statement).join('; ')}; COMMIT`);
        commits++;
      } catch (error) {
        await connection.query('ROLLBACK');
        if (!['40P01', '23505'].includes(error.code)) throw error; // a deadlock, a key that is there
      }
    }
    connection.release();
  }));
  await sql("INSERT INTO many VALUES (1001, 'u1', 0), (1002, 'u2', 0)");
  for (const { sub, events, systems } of subs) {
    await until('the last row', () => events.some((e) => e.new.id === (sub === 'u1' ? 1001 : 1002)));
    const rows = new Map();
    for (const { eventType, old, new: row } of events) {
      if (old?.id !== undefined) rows.delete(old.id);
      if (eventType !== 'DELETE') rows.set(row.id, row);
    }
    assert.deepEqual([...rows.values()].sort((a, b) => a.id - b.id),
      await selectAs('slow_reader', { sub }, 'SELECT * FROM many ORDER BY id'));
    assert.ok(!systems.some((s) => s.status === 'refetch'), JSON.stringify(systems));
  }
  note(`${commits} commits, ${subs.map((s) => s.events.length)} events`);
});

test('a right that is taken away within the interval takes what waits with it', async () => {
  await sql("DELETE FROM many; INSERT INTO many VALUES (1, 'u1', 0), (2, 'u1', 0)");
  const client = connect(versions.at(-1), apikey);
  atEnd(() => client.disconnect());
  const sub = await subscribe(client, 'revoked', [binding('many', 3000)]);
  // What follows a batch is sent 3 s later: within these the right must be gone,
  // however slow the machine.
  let n = 0;
  await until('it to be taken within the interval', async () => {
    const begun = performance.now();
    await sql('UPDATE many SET n = $1 WHERE id = 1', [++n]);
    await until('the first event', () => sub.events.some((e) => e.new.n === n));
    await sql('UPDATE many SET n = $1', [++n]);
    await sql('REVOKE SELECT ON many FROM slow_reader');
    if (performance.now() - begun < 3000) return true;
    await sql('GRANT SELECT ON many TO slow_reader');
    return false;
  }, { timeout: 100_000 });
  const before = sub.events.length;
  await until('the message', () => sub.systems.some((s) => s.extension === 'rtsync' || s.status === 'error'));
  await sql('UPDATE many SET n = $1', [++n]);
  await sleep(4000);
  assert.deepEqual(sub.events.slice(before), []);
  await sql('GRANT SELECT ON many TO slow_reader');
});

test('of a changed table it is told behind the changes from before', async () => {
  await sql('DELETE FROM hot; INSERT INTO hot VALUES (1, 0)');
  const client = await RawClient.open({ apikey });
  atEnd(() => client.close());
  await client.joinOk('altered', [binding('hot', 1000)]);
  await sql('UPDATE hot SET n = 1');
  await until('the first change', () => client.changes().length > 0);
  await sql('UPDATE hot SET n = 2');
  await sql('ALTER TABLE hot ADD COLUMN more int');
  const change = await client.frame('the change', (f) => isChange(f) && f.payload.data.record.n === 2);
  const order = () => client.frames.slice(client.frames.indexOf(change)).filter((f) => f.payload?.status === 'refetch');
  await until('the refetch behind it', () => order().length > 0);
  await sql('UPDATE hot SET n = 3');
  await client.frame('the next change', (f) => isChange(f) && f.payload.data.record?.n === 3);
  assert.equal(order().length, 1);
});

test('likewise behind those that wait while a large batch is sent', async () => {
  await sql('DELETE FROM keyed; DELETE FROM whole');
  const client = await RawClient.open({ apikey });
  atEnd(() => client.close());
  await client.joinOk('altered-amid', [binding('keyed', 1000), binding('whole', 1000)]);
  const beside = await RawClient.open({ apikey });
  atEnd(() => beside.close());
  await beside.joinOk('beside', [{ event: '*', schema: 'public', table: 'keyed' }]);
  await sql('INSERT INTO whole SELECT g, 0 FROM generate_series(1, 60000) g');
  await until('the batch has begun', () => client.changes().length > 5000); // the first one is small
  await sql('INSERT INTO keyed VALUES (1, 1)');
  await beside.frame('the change, which waits for the others', isChange);
  await sql('ALTER TABLE keyed ADD COLUMN more int');
  const change = await client.frame('the change', (f) => isChange(f) && f.payload.data.table === 'keyed', { timeout: 30_000 });
  await until('the refetch behind it', () => client.frames.slice(client.frames.indexOf(change))
    .some((f) => f.payload?.status === 'refetch'), { timeout: 30_000 });
  await sql('ALTER TABLE keyed DROP COLUMN more; DELETE FROM keyed; DELETE FROM whole');
});

async function raw(topic, bindings, options, key = apikey) {
  const client = await RawClient.open({ apikey: key });
  atEnd(() => client.close());
  const { response } = await client.joinOk(topic, bindings, { config: { rtsync: options } });
  const changes = () => client.frames.filter(isChange);
  const ids = () => changes().map((f) => f.payload.data.record?.id);
  return Object.assign(client, { response, ids, cursors: () => changes().map((f) => f.payload.rtsync.cursor) });
}

test('a batch is repeated as a whole, and each change for itself, or not at all', async () => {
  await sql('DELETE FROM hot');
  const bindings = [binding('hot', 10)];
  const first = await raw('cursor', bindings, { cursor: true });
  await sql('BEGIN; INSERT INTO hot VALUES (1, 0), (2, 0), (3, 0); UPDATE hot SET n = 1 WHERE id = 1; COMMIT');
  await until('the batch', () => first.ids().length === 3);
  assert.deepEqual(first.ids(), [2, 3, 1]);
  const [a, b, c] = first.cursors();
  assert.equal(a, b);
  assert.notEqual(b, c);

  const again = await raw('cursor', bindings, { since: a });
  assert.equal(again.response.rtsync.resumed, true);
  await until('it again', () => again.ids().length === 4);
  assert.deepEqual(again.changes().map((d) => [d.type, d.record.id, d.record.n]),
    [['INSERT', 1, 0], ['INSERT', 2, 0], ['INSERT', 3, 0], ['UPDATE', 1, 1]]);

  const behind = await raw('cursor', bindings, { since: c });
  await sql('INSERT INTO hot VALUES (4, 0)');
  await until('what follows', () => behind.ids().includes(4));
  assert.deepEqual(behind.ids(), [4]);
});

test('batches larger than a slice', async () => {
  await sql('DELETE FROM hot');
  const client = await raw('large', [binding('hot', 200)], { cursor: true });
  await sql('INSERT INTO hot SELECT g, 0 FROM generate_series(1, 5000) g');
  await sql('UPDATE hot SET n = 1');
  await until('all', () => new Set(client.changes().filter((d) => d.record.n === 1).map((d) => d.record.id)).size === 5000);
  const inserted = client.changes().filter((d) => d.type === 'INSERT').map((d) => d.record.id);
  assert.equal(inserted.length, 5000);
  const resumed = await raw('large', [binding('hot', 200)], { since: client.response.rtsync.cursor });
  await until('all again', () => resumed.changes().filter((d) => d.type === 'INSERT').length === 5000);
  note(`${client.ids().length} events`);
});

test('snapshot and interval together', async () => {
  await sql('DELETE FROM hot; INSERT INTO hot SELECT g, 0 FROM generate_series(1, 10) g');
  const client = connect(versions.at(-1), apikey);
  atEnd(() => client.disconnect());
  const sub = await subscribe(client, 'snapshot', [binding('hot', 50, { snapshot: true })]);
  await until('the end of the snapshot', () => sub.systems.some((s) => s.status === 'snapshot_end'));
  assert.equal(sub.events.length, 10);
  await sql('BEGIN; UPDATE hot SET n = 1; UPDATE hot SET n = 2; COMMIT');
  await until('the changes', () => sub.events.length === 20);
  assert.ok(sub.events.slice(10).every((e) => e.new.n === 2));
});

// The first connection had the row; the second must not take it for one that came and went.
for (const kind of ['session', 'cursor']) {
  for (const [what, gone] of [['deleted', 'DELETE FROM many WHERE id = 7'], ['given away', "UPDATE many SET owner = 'u2' WHERE id = 7"]]) {
    test(`a row that a client had, and that was ${what} while it was away, goes: ${kind}`, async () => {
      await sql('DELETE FROM many');
      const bindings = [binding('many', 200)];
      const session = randomUUID();
      const first = await raw('gone', bindings, kind === 'session' ? { session } : { cursor: true });
      await sql("INSERT INTO many VALUES (1, 'u1', 0)");
      await until('a row', () => first.ids().includes(1));
      for (let i = 0; i < 3; i++) await first.heartbeat();
      // a batch of which only the first event arrives, say
      await sql("INSERT INTO many VALUES (7, 'u1', 0), (8, 'u1', 0)");
      await until('the rows', () => first.ids().includes(8));
      await first.close();
      await sql(gone);
      const at = () => first.cursors()[first.ids().indexOf(7)];
      const second = await raw('gone', bindings, kind === 'session' ? { session } : { since: at() });
      assert.equal(second.response.rtsync.resumed, true);
      await sql("INSERT INTO many VALUES (9, 'u1', 0)");
      await until('what follows', () => second.ids().includes(9));
      assert.ok(second.changes().some((d) => d.type === 'DELETE' && d.old_record.id === 7), JSON.stringify(second.changes()));
      await second.close();
    });
  }
}

for (const more of [{}, { snapshot: true }]) {
  test(`a session goes on, or begins anew when claims have changed: ${JSON.stringify(more)}`, async () => {
    await sql('DELETE FROM hot; INSERT INTO hot VALUES (1, 0)');
    const session = randomUUID();
    const bindings = [binding('hot', 20, more)];
    const updates = (client) => client.changes().filter((d) => d.type === 'UPDATE').map((d) => d.record.n);
    const first = await raw('session', bindings, { session });
    if (more.snapshot) await first.frame('the end of the snapshot', (f) => f.payload?.status === 'snapshot_end');
    await sql('UPDATE hot SET n = 1');
    await until('the change', () => updates(first).includes(1));
    for (let i = 0; i < 3; i++) await first.heartbeat();
    await first.close();
    await sql('UPDATE hot SET n = 2; UPDATE hot SET n = 3');

    const second = await raw('session', bindings, { session });
    assert.equal(second.response.rtsync.resumed, true);
    await until('what was missed', () => updates(second).includes(3));
    for (let i = 0; i < 3; i++) await second.heartbeat();
    await second.close();

    const third = await raw('session', bindings, { session }, token('slow_reader', { ...claims, team: 1 }));
    assert.equal(third.response.rtsync.resumed, false);
    if (more.snapshot) await third.frame('the end of the snapshot', (f) => f.payload?.status === 'snapshot_end');
    await sql('BEGIN; UPDATE hot SET n = 4; UPDATE hot SET n = 5; COMMIT');
    await until('the change', () => updates(third).includes(5));
    assert.deepEqual(updates(third), [5]);
    await until('the one that is left', async () => {
      const rows = await sql(`SELECT state FROM rtsync.pg_stat_rtsync_subscription WHERE topic = 'session'`);
      return rows.length === 1 && rows[0].state === 'throttled';
    });
    await third.close();
  });
}

test('what an interval cannot be', async () => {
  const client = await RawClient.open({ apikey });
  atEnd(() => client.close());
  const refused = async (topic, bindings) => {
    await client.joinOk(topic, bindings);
    const { payload } = await client.frame('the error', (f) => f.topic === `realtime:${topic}` && f.event === 'system' &&
      f.payload.status === 'error');
    return payload.message;
  };
  for (const [i, wrong] of [9, 60_001, 10.5, -1].entries()) {
    assert.match(await refused(`wrong-${i}`, [binding('hot', wrong)]), /"interval" must be a whole number of milliseconds from 10 to 60000/);
  }
  assert.match(await refused('wrong-type', [binding('hot', '100')]), /invalid rtsync option "interval"/);
  assert.match(await refused('mixed', [binding('hot', 100), binding('many', 200)]), /all postgres_changes of a channel need the same/);
  assert.match(await refused('none', [binding('hot', 100), { event: '*', schema: 'public', table: 'many' }]), /need the same/);
});

async function viewers(table, interval, subs) {
  return Promise.all(subs.map(async (sub, i) => {
    const client = await RawClient.open({ apikey: token('slow_reader', { sub }) });
    atEnd(() => client.close());
    await client.joinOk(`${table}-${i}`, [binding(table, interval)]);
    const rows = () => client.changes().filter((d) => d.type === 'INSERT').map((d) => d.record.id);
    return Object.assign(client, { sub, rows, told: () => client.frames.filter((f) => f.event === 'system').map((f) => f.payload) });
  }));
}

// What the server wrote to its log, as far as it has this in it
const logged = async (text) => (await sql(`SELECT count(*)::int AS n FROM
  regexp_split_to_table(pg_read_file(current_setting('data_directory') || '/../log'), '\\n') line WHERE line LIKE $1`, [`%${text}%`]))[0].n;

test('for viewers of the same, a batch is decided once', async () => {
  await createTable('watched', 'id int PRIMARY KEY, n int', { roles: ['slow_reader'] });
  await sql(`CREATE FUNCTION look(id int) RETURNS bool LANGUAGE plpgsql STABLE AS
      $$ BEGIN IF id < 0 THEN RAISE EXCEPTION 'not this'; END IF; RAISE LOG 'looked at <%>', id; RETURN true; END $$;
    ALTER TABLE watched ENABLE ROW LEVEL SECURITY;
    CREATE POLICY look ON watched FOR SELECT USING (look(id))`);
  const all = await viewers('watched', 50, Array(6).fill('u1'));
  let id = 0;
  const insert = async () => {
    await sql(`INSERT INTO watched VALUES (${++id}, 0)`);
    await until('the row', () => all.every((v) => v.rows().includes(id)), { timeout: 30_000 });
    return logged(`looked at <${id}>`);
  };
  const first = await insert();
  assert.ok(first > 0, 'the log does not tell');
  // until they go in step; from then on it is so with each batch
  await until('a row that is asked about once', async () => await insert() === 1, { timeout: 30_000 });
  for (let i = 0; i < 3; i++) assert.equal(await insert(), 1);
  // all are told
  await sql('TRUNCATE watched');
  for (const viewer of all)
    await until('the refetch', () => viewer.told().some((m) => m.status === 'refetch'), { timeout: 30_000 });
  // what fails is told to each of them, and withheld from each
  await sql('INSERT INTO watched VALUES (-1, 0)');
  await insert();
  for (const viewer of all) {
    await until('the error', () => viewer.told().some((m) => m.status === 'error' && /not this/.test(m.message)), { timeout: 30_000 });
    assert.ok(!viewer.rows().includes(-1));
  }
});

test('viewers with other claims share their batches for as long as these decide nothing', async () => {
  await createTable('open', 'id int PRIMARY KEY, owner text', { roles: ['slow_reader'] });
  await sql('ALTER TABLE open ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON open FOR SELECT USING (true)');
  const all = await viewers('open', 50, ['u0', 'u1', 'u2', 'u3']);
  let id = 0;
  // a row for each, and one for all
  const round = async () => {
    const from = id + 1;
    await sql(`INSERT INTO open SELECT ${id} + g, coalesce('u' || nullif(g, 5) - 1, 'all') FROM generate_series(1, 5) g`);
    id += 5;
    await Promise.all(all.map((v) => until('the round', () => v.rows().includes(id), { timeout: 30_000 })));
    return all.map((v) => v.rows().filter((row) => row >= from).map((row) => row - from));
  };
  const everything = Array(4).fill([0, 1, 2, 3, 4]);
  for (let i = 0; i < 4; i++) assert.deepEqual(await round(), everything);
  await sql("ALTER POLICY p ON open USING (owner = rtsync.jwt() ->> 'sub' OR owner = 'all')");
  for (let i = 0; i < 4; i++) assert.deepEqual(await round(), [[0, 4], [1, 4], [2, 4], [3, 4]]);
  await sql('ALTER POLICY p ON open USING (true)');
  for (let i = 0; i < 4; i++) assert.deepEqual(await round(), everything);
  for (const viewer of all) assert.ok(viewer.told().some((m) => m.status === 'refetch'));
});
