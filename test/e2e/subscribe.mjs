// After SUBSCRIBED, no commit is missed: subscribe, and write the moment it is
// reported, a thousand times over.

import { assert, atEnd, sleep, test } from './lib/tap.mjs';
import { connect, versions } from './lib/clients.mjs';
import { RawClient } from './lib/raw.mjs';
import { createRole, createTable, sql, token } from './lib/server.mjs';

const ROUNDS = 1000;
const WORKERS = 4; // connections of each version
const EARLY = 40; // joins just after a commit

await createRole('e2e_reader');
await createTable('moments', 'id int PRIMARY KEY, worker text', { roles: ['e2e_reader'] });
await sql(`ALTER TABLE moments ENABLE ROW LEVEL SECURITY;
  CREATE POLICY own ON moments FOR SELECT TO e2e_reader USING (worker = rtsync.jwt() ->> 'worker')`);

let next = 0;

// Subscribes, writes in the callback, waits for the event, leaves.
async function round(client, worker, id) {
  const channel = client.channel(`round-${id}`);
  let seen = false;
  let failure = null;
  channel
    .on('postgres_changes', { event: 'INSERT', schema: 'public', table: 'moments' }, (event) => {
      seen ||= event.new.id === id;
    })
    .subscribe((status, error) => {
      if (status === 'SUBSCRIBED') {
        sql('INSERT INTO moments VALUES ($1, $2)', [id, worker]).catch((e) => (failure = e));
      } else if (status !== 'CLOSED') {
        failure = error ?? new Error(status);
      }
    });
  for (const deadline = Date.now() + 30_000; !seen; await sleep(1)) {
    if (failure) throw failure;
    assert.ok(Date.now() < deadline, `round ${id} of ${worker} missed its event`);
  }
  await channel.unsubscribe();
}

test(`${ROUNDS} rounds of "subscribe, and write the moment SUBSCRIBED is reported"`, async () => {
  const workers = versions.flatMap((version) =>
    Array.from({ length: WORKERS }, async (_, n) => {
      const worker = `${version.name}-${n}`;
      const client = connect(version, token('e2e_reader', { worker }));
      atEnd(() => client.disconnect());
      // Some clients disconnect with their last channel: keep one.
      client.channel('anchor').subscribe();
      while (next < ROUNDS) await round(client, worker, ++next);
    }));
  await Promise.all(workers);
  const [{ count }] = await sql('SELECT count(*)::int FROM moments');
  assert.ok(count >= ROUNDS, `${count} rows`);
}, { timeout: 180_000 });

test('what was committed before a join is not heard', async () => {
  const reader = token('e2e_reader', { worker: 'early' });
  const bindings = [{ event: '*', schema: 'public', table: 'moments' }];
  const other = await RawClient.open({ apikey: reader }); // there is something to route
  await other.joinOk('early', bindings);
  for (let i = 0; i < EARLY; i++) {
    const client = await RawClient.open({ apikey: reader });
    await sql(`INSERT INTO moments SELECT n, 'early' FROM generate_series(${next + 1}, ${next += 2000}) n`);
    await client.joinOk(`early-${i}`, bindings);
    await sql('INSERT INTO moments VALUES ($1, $2)', [++next, 'early']);
    const first = await client.frame('an event', (f) => f.event === 'postgres_changes');
    assert.equal(first.payload.data.record.id, next);
    client.close();
  }
  other.close();
});
