// Tables that come and go leave nothing behind in the engine.
//
//	DROPPED_TABLES		how many come and go in each of five steps (default 300)
//
// cluster: -c rtsync.idle_timeout=0

import { readFileSync } from 'node:fs';
import { assert, note, test, until } from '../e2e/lib/tap.mjs';
import { RawClient } from '../e2e/lib/raw.mjs';
import { createRole, createTable, sql, status, token } from '../e2e/lib/server.mjs';

const COUNT = Number(process.env.DROPPED_TABLES ?? 300);
const STEPS = 5;
const WARM = 2; // from this step on memory must stay as it is
const ALLOWED = 6000; // kB; each table that is kept takes 15 kB and more, thus 13500 in all

const memoryOf = (pid) => Number(/RssAnon:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))[1]);

await createRole('dropped_a');
await sql('CREATE SCHEMA d; GRANT USAGE ON SCHEMA d TO dropped_a; ALTER PUBLICATION rtsync ADD TABLES IN SCHEMA d');
await createTable('dropped_end', 'id int PRIMARY KEY, pad text', { roles: ['dropped_a'] });
// What the history holds of a table keeps the table's description.
await sql("ALTER SYSTEM SET rtsync.history_size = '1MB'");
await sql('SELECT pg_reload_conf()');

// One table under a new name, another under the same
async function comeAndGo(number) {
  for (const name of [`t${number}`, 'same'])
    await sql(`CREATE TABLE d.${name} (id int PRIMARY KEY, owner uuid);
      GRANT SELECT ON d.${name} TO dropped_a; ALTER TABLE d.${name} ENABLE ROW LEVEL SECURITY;
      CREATE POLICY p ON d.${name} USING (owner = rtsync.uid() OR id > 0)`);
  for (const name of [`t${number}`, 'same']) await sql(`INSERT INTO d.${name} VALUES (${number})`);
  await sql(`DROP TABLE d.t${number}, d.same`);
}

test(`${STEPS * COUNT} tables that were listened to, and dropped, take no memory`, async () => {
  const { pid } = await status();
  await sql('CREATE TABLE d.same (id int PRIMARY KEY); GRANT SELECT ON d.same TO dropped_a');
  const bindings = [{ event: '*', schema: 'd' }, { event: '*', schema: 'd', table: 'same' },
    { event: '*', schema: 'public', table: 'dropped_end' }];
  const client = await RawClient.open({ apikey: token('dropped_a', { sub: '00000000-0000-4000-8000-000000000001' }) });
  await client.joinOk('dropped', bindings);
  await sql('DROP TABLE d.same');
  await sql('INSERT INTO dropped_end VALUES (0)');
  let warm;
  for (let step = 1; step <= STEPS; step++) {
    for (let i = 1; i <= COUNT; i++) await comeAndGo(step * COUNT + i);
    for (let i = 0; i < 40; i++) await sql(`INSERT INTO dropped_end SELECT -n, repeat('x', 1500) FROM generate_series(${step * 4000 + i * 50}, ${step * 4000 + i * 50 + 49}) n`);
    const ends = new Set();
    await until('the end of the step', async () => {
      const [{ id }] = await sql('INSERT INTO dropped_end SELECT 1 + max(id) FROM dropped_end RETURNING id');
      ends.add(id); // a burst may be too much for the history
      return client.changes().some(({ table, record }) => table === 'dropped_end' && ends.has(record.id));
    }, { timeout: 60_000, every: 20 });
    client.frames.length = 0;
    note(`${step * COUNT} tables: ${memoryOf(pid)} kB`);
    if (step === WARM) warm = memoryOf(pid);
  }
  await until('what was made for tables that are gone to be gone', () => memoryOf(pid) < warm + ALLOWED)
    .catch(() => assert.fail(`the engine has grown from ${warm} to ${memoryOf(pid)} kB`));
  assert.equal((await status()).pid, pid);

  // Who waits for a name hears of the next table that has it.
  await sql(`CREATE TABLE d.same (id int PRIMARY KEY); GRANT SELECT ON d.same TO dropped_a`);
  await sql('INSERT INTO d.same VALUES (7)');
  const event = await client.frame('the last table', (f) => f.event === 'postgres_changes' && f.payload.data.table === 'same' && f.payload.data.record.id === 7);
  assert.equal(event.payload.ids.length, 2);
  client.close();
}, { timeout: 300_000 });
