// cluster: -c rtsync.history_size=256MB -c rtsync.send_timeout=10min -c rtsync.idle_timeout=10min
//
// A client that asks for cursors is told where transactions end, behind the last
// change that it gets of each: so it can apply each as a whole, wherever its
// connection ended.

import { assert, atEnd, note, sleep, test, until } from '../e2e/lib/tap.mjs';
import { RawClient } from '../e2e/lib/raw.mjs';
import { createRole, createTable, sql, status, token, transaction } from '../e2e/lib/server.mjs';
import { gatewayPids, running } from './lib/cluster.mjs';

await createRole('reader');
for (const table of ['one', 'other']) {
  await createTable(table, 'id int PRIMARY KEY, hidden bool DEFAULT false, filler text', { roles: ['reader'], full: true });
  await sql(`ALTER TABLE ${table} ENABLE ROW LEVEL SECURITY; CREATE POLICY seen ON ${table} USING (NOT hidden)`);
}
await createTable('account', 'id int PRIMARY KEY, balance int', { roles: ['reader'] });
const apikey = token('reader');
const binding = (table, options) => ({ event: '*', schema: 'public', table, ...options });

// A client, whose "told" is what one channel was told: ids, and "end" for each
// end of a transaction; "cursors" has the cursor of each.
async function open(tables, rtsync, options) {
  const client = await RawClient.open({ apikey });
  atEnd(() => client.close());
  client.told = [];
  client.cursors = [];
  client.onFrame = ({ event, payload }) => {
    const end = event === 'system' && payload.extension === 'rtsync' && payload.status === 'commit';
    if (!end && event !== 'postgres_changes') return;
    client.told.push(end ? 'end' : (payload.data.record?.id ?? payload.data.old_record.id));
    client.cursors.push(payload.rtsync?.cursor);
  };
  client.reply = await client.joinOk('topic', tables.map((table) => binding(table, options)), { config: { rtsync } });
  return client;
}

let last = 0;
const next = () => ++last;
const insert = (table, id, hidden = false) => `INSERT INTO ${table} VALUES (${id}, ${hidden})`;

// Waits for a transaction behind all others.
async function marker(client) {
  const id = next();
  await transaction(insert('one', id));
  await until('the last transaction', () => client.told.at(-1) === 'end' && client.told.at(-2) === id);
  return id;
}

const place = (cursor) => cursor.split(':').slice(0, 2).join(':');

test('the end of each transaction is told once, behind its changes', async () => {
  const client = await open(['one', 'other'], { cursor: true });
  const plain = await open(['one', 'other'], {});
  const [a, b, c, d, e] = [next(), next(), next(), next(), next()];
  await transaction(insert('one', a), insert('other', b), insert('one', c), insert('other', next(), true));
  await transaction(insert('one', next(), true)); // nothing that is seen
  await transaction(insert('one', d));
  const first = last + 1;
  const [N, M] = [3000, 2000]; // what is seen, and what is not and comes behind, in more slices than one
  await transaction(`INSERT INTO other SELECT g, g >= ${first + N} FROM generate_series(${first}, ${first + N + M - 1}) g`);
  last += N + M;
  await transaction(`DELETE FROM other WHERE id = ${b}`, `UPDATE one SET id = ${e} WHERE id = ${d}`);
  const end = await marker(client);
  const many = Array.from({ length: N }, (_, n) => first + n);
  assert.deepEqual(client.told, [a, b, c, 'end', d, 'end', ...many, 'end', b, e, 'end', end, 'end']);
  client.told.forEach((what, i) => {
    if (what !== 'end') return;
    assert.equal(place(client.cursors[i]), place(client.cursors[i - 1]));
    assert.equal(client.cursors[i].split(':')[2], 'ffffffff');
  });
  const { text } = client.frames.find(({ payload }) => payload?.status === 'commit');
  assert.equal(text, `[null,null,"realtime:topic","system",{"message":"Transaction is complete","status":"commit",`
    + `"extension":"rtsync","rtsync":{"cursor":"${client.cursors[3]}"}}]`);
  await until('the other client to have it', () => plain.told.at(-1) === end);
  assert.deepEqual(plain.told, client.told.filter((what) => what !== 'end'));
  client.close();
  plain.close();
});

test('who comes back is told the end of what it had begun', async () => {
  const client = await open(['one', 'other'], { cursor: true });
  const ids = [next(), next(), next()];
  await transaction(insert('one', ids[0]), insert('other', ids[1]), insert('one', ids[2]));
  await marker(client);
  for (let n = 0; n < 4; n++) {
    const again = await open(['one', 'other'], { since: client.cursors[n] });
    assert.equal(again.reply.response.rtsync.resumed, true);
    await marker(again);
    await until('the first to have it too', () => client.told.at(-1) === 'end' && client.told.at(-2) === last);
    assert.deepEqual(again.told, client.told.slice(n + 1), `from change ${n + 1}`);
    assert.deepEqual(again.cursors, client.cursors.slice(n + 1));
    again.close();
  }
  client.close();
});

// What is hidden comes behind what is seen, and takes far longer: so most of what
// happens to a channel, happens between its last change and the end.
test('a client that stops reading, and goes on, is told each end in its place', async () => {
  const client = await open(['one'], { cursor: true });
  const bystander = await open(['one'], { cursor: true }, { filter: 'id=gte.0' }); // in a group of its own
  const sent = [];
  for (let n = 0; n < 90; n++) {
    if (n % 30 === 0) client.socket.pause();
    const goesOn = n % 30 === 24;
    const [seen, hidden] = [n % 10 === 9 ? 1500 : 250, goesOn ? 150_000 : 6000];
    const first = last + 1;
    last += seen + hidden;
    await sql(`INSERT INTO one SELECT g, g >= ${first + seen}, CASE WHEN g < ${first + seen} THEN repeat('x', 1500) END
      FROM generate_series(${first}, ${last}) g`);
    sent.push(...Array.from({ length: seen }, (_, i) => first + i), 'end');
    if (goesOn) {
      await until('what is seen', () => bystander.told.length >= sent.length - 1, { timeout: 60_000, every: 1 });
      client.socket.resume();
    }
    await until('the bystander to have it', () => bystander.told.length >= sent.length, { timeout: 60_000, every: 1 });
  }
  await until('all of it', () => client.told.length >= sent.length, { timeout: 60_000 });
  assert.deepEqual(bystander.told, sent);
  assert.deepEqual(client.told, sent);
  client.close();
  bystander.close();
});

test('with an interval, the end of a batch is the end of a transaction, for all that are served together', async () => {
  const clients = [];
  for (const rtsync of [{}, { cursor: true }, { cursor: true }]) clients.push(await open(['other'], rtsync, { rtsync: { interval: 100 } }));
  const plain = clients.shift();
  const ids = [];
  for (let n = 0; n < 20; n++) {
    ids.push(next(), next());
    const seen = [insert('other', ids.at(-2)), insert('other', ids.at(-1))];
    // now and then, and at the end, so much follows that is not seen that it is not served at once
    await transaction(...seen, `INSERT INTO other SELECT g, true FROM generate_series(${last + 1}, ${last + (n % 5 === 4 ? 5000 : 1)}) g`);
    last += 5000;
    await sleep(20); // so that there are several batches
  }
  await until('all of it', () => plain.told.length === ids.length);
  assert.deepEqual(plain.told, ids);
  for (const client of clients) {
    await until('all of it, with an end', () => client.told.filter((what) => what !== 'end').length === ids.length && client.told.at(-1) === 'end');
    assert.deepEqual(client.told.filter((what) => what !== 'end'), ids);
    let since = 0;
    for (const what of client.told) {
      if (what !== 'end') since++;
      else {
        assert.ok(since > 0 && since % 2 === 0, `${since} rows before an end`);
        since = 0;
      }
    }
    note(`${client.told.filter((what) => what === 'end').length} batches`);
    client.close();
  }
  plain.close();
});

// Applies each transaction when its end has come, over any number of connections.
class Ledger {
  balances = new Map();
  applied = 0;
  connections = 0;
  cursor = null;
  wanted = true;

  async run() {
    while (this.wanted) {
      let buffer = [];
      try {
        this.client = await RawClient.open({ apikey });
        this.client.onFrame = ({ event, payload }) => {
          if (event === 'postgres_changes') buffer.push(payload.data.record);
          else if (event === 'system' && payload.status === 'refetch') this.refetched = payload.message;
          else if (event === 'system' && payload.status === 'commit') {
            for (const { id, balance } of buffer) this.balances.set(id, balance);
            buffer = [];
            this.cursor = payload.rtsync.cursor;
            this.applied++;
            this.look();
          }
        };
        const { response } = await this.client.joinOk('topic', [binding('account')],
          { config: { rtsync: this.cursor ? { since: this.cursor } : { cursor: true } } });
        this.cursor ??= response.rtsync.cursor;
        this.connections++;
        await until('the end of the connection', () => this.client.closed || !this.wanted, { timeout: 600_000 });
      } catch {
        await sleep(20);
      }
    }
    this.client?.close();
  }

  // No money is made or lost at any time.
  look() {
    const sum = [...this.balances.values()].reduce((a, b) => a + b, 0);
    if (sum !== 0) this.wrong ??= `${sum} after ${this.applied} transactions`;
  }
}

test('who applies transactions as a whole sees none in part, whatever ends its connection', async () => {
  const ACCOUNTS = 50;
  const ledger = new Ledger();
  const following = ledger.run();
  await until('it to follow', () => ledger.connections > 0);
  await sql(`INSERT INTO account SELECT g, 0 FROM generate_series(1, ${ACCOUNTS}) g`);
  let over = false;
  let committed = 1;
  const writers = Array.from({ length: 3 }, async () => {
    while (!over) {
      const from = 1 + Math.floor(Math.random() * ACCOUNTS);
      const others = Math.random() < 0.1 ? ACCOUNTS : 2;
      // in the order of the keys, so that nobody waits for the other in a circle
      await sql(`WITH locked AS (SELECT id FROM account WHERE id = $1 OR id <= $2 ORDER BY id FOR UPDATE)
        UPDATE account SET balance = balance + CASE WHEN id = $1 THEN 1 - (SELECT count(*) FROM locked) ELSE 1 END
        WHERE id IN (SELECT id FROM locked)`, [from, others])
        .then(() => committed++, () => sleep(50));
    }
  });
  for (let n = 0; n < 12; n++) {
    const before = ledger.applied;
    await until('some transactions', () => ledger.applied > before + 20, { timeout: 60_000 });
    const { connections } = ledger;
    if (n % 4 === 1) for (const pid of await gatewayPids()) process.kill(pid, 'SIGKILL');
    else if (n % 4 === 3) await sql('SELECT pg_terminate_backend($1)', [(await running()).pid]);
    else ledger.client.close();
    await until('the next connection', () => ledger.connections > connections);
  }
  over = true;
  await Promise.all(writers);
  const rows = (await sql('SELECT id, balance FROM account ORDER BY id')).map(({ id, balance }) => [id, balance]);
  const held = () => [...ledger.balances].sort(([a], [b]) => a - b);
  await until('the same balances', () => JSON.stringify(held()) === JSON.stringify(rows), { timeout: 60_000 });
  ledger.wanted = false;
  await following;
  note(`${committed} transactions, ${ledger.applied} applied, ${ledger.connections} connections`);
  assert.equal(ledger.wrong, undefined);
  assert.equal(ledger.refetched, undefined);
  assert.ok(ledger.connections > 12);
  assert.equal((await status()).state, 'running');
});
