// Snapshot with the stream: the rows that the role may see, then the changes
// after exactly that, with the real clients and while others write.

import { assert, atEnd, note, sleep, test, until } from './lib/tap.mjs';
import { connect, subscribe, versions } from './lib/clients.mjs';
import { RawClient } from './lib/raw.mjs';
import { createRole, createTable, database, selectAs, sql, token } from './lib/server.mjs';

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
