// A change that several bindings of a channel get in different forms comes in
// several messages.  Whoever loses the connection between them, and comes back
// with the cursor of the last one, gets what is missing.

import { assert, atEnd, note, test, until } from '../e2e/lib/tap.mjs';
import { RawClient } from '../e2e/lib/raw.mjs';
import { createRole, createTable, sql, token } from '../e2e/lib/server.mjs';

await createRole('reader');
await createTable('item', 'id int PRIMARY KEY, a text, b text', { roles: ['reader'] });
const apikey = token('reader');
const on = (options, rtsync) => ({ event: '*', schema: 'public', table: 'item', ...options, ...(rtsync ? { rtsync } : {}) });

// What a client was sent: [binding, id] of each event, or 'end'; with the cursors
async function open(bindings, rtsync) {
  const client = await RawClient.open({ apikey });
  atEnd(() => client.close());
  client.told = [];
  client.cursors = [];
  const early = [];
  let names = null;
  const receive = ({ event, payload }) => {
    const end = event === 'system' && payload.status === 'commit';
    if (!end && event !== 'postgres_changes') return;
    client.told.push(end ? 'end' : `${payload.data.record.id} ${payload.ids.map((id) => names.get(id)).sort()}`);
    client.cursors.push(payload.rtsync.cursor);
  };
  client.onFrame = (frame) => (names ? receive(frame) : early.push(frame));
  const { response } = await client.joinOk('items', bindings, { config: { rtsync } });
  names = new Map(response.postgres_changes.map(({ id }, i) => [id, i]));
  early.forEach(receive);
  client.rtsync = response.rtsync;
  return client;
}

let last = 0;
const write = (n) => sql(`INSERT INTO item SELECT g, 'a', 'b' FROM generate_series(${last + 1}, ${last += n}) g`);

const events = (told) => told.filter((what) => what !== 'end').sort();
// Has a row been told of in all its forms?
const whole = (told, id, forms) => new Set(told.filter((what) => what.startsWith(`${id} `))).size === forms;

async function check(bindings, forms) {
  const client = await open(bindings, { cursor: true });
  const single = await open([bindings[0]], { cursor: true }); // which shares a group with it
  await write(2);
  await write(1);
  await until('all of it', () => client.told.at(-1) === 'end' && whole(client.told, last, forms));
  await until('all of it in one form', () => single.told.at(-1) === 'end' && whole(single.told, last, 1));
  note(client.told.map((what, i) => `${what} ${client.cursors[i].split(':')[2]}`).join(', '));
  for (let n = 0; n < client.told.length; n++) {
    const again = await open(bindings, { since: client.cursors[n] });
    assert.equal(again.rtsync.resumed, true);
    const had = client.told.slice(0, n + 1);
    const missing = () => client.told.filter((what) => what !== 'end' && !had.includes(what) && !again.told.includes(what));
    const ended = () => again.told.at(-1) === 'end' || client.cursors[n] === client.cursors.at(-1);
    await until(`the end of what comes behind message ${n}`, ended);
    assert.deepEqual(missing(), [], `behind message ${n}`);
    // only a change that was not there in all its forms comes again, or its batch
    for (const what of again.told)
      assert.ok(what === 'end' || !had.includes(what) || !whole(had, what.split(' ')[0], forms) || bindings[0].rtsync, `${what} came again behind message ${n}`);
    again.close();
  }
  for (let n = 0; n < single.told.length - 1 && !bindings[0].rtsync; n++) {
    const again = await open([bindings[0]], { since: single.cursors[n] });
    await until(`the rest behind message ${n}`, () => again.told.includes('end') && (single.told.slice(n + 1).filter((what) => !again.told.includes(what)).length === 0));
    assert.deepEqual(again.told, single.told.slice(n + 1), `in one form, behind message ${n}`);
    again.close();
  }
  client.close();
  single.close();
}

test('to a client that is live', () => check([on(), on({ select: ['id', 'a'] }), on({ select: ['id', 'b'] })], 3));

test('to a client that is live, in two bindings of one form and one of another', () =>
  check([on(), on({ filter: 'id=gt.0' }), on({ select: ['id', 'a'] })], 2));

test('in the last event of a batch', () => check([on({}, { interval: 20 }), on({ select: ['id', 'a'] }, { interval: 20 })], 2));

test('to a client that comes back', async () => {
  const bindings = [on(), on({ select: ['id', 'a'] })];
  const client = await open(bindings, { cursor: true });
  await write(2);
  await until('all of it', () => client.told.length === 5);
  for (let n = 0; n < 4; n++) {
    const again = await open(bindings, { since: client.rtsync.cursor });
    await until('all of it again', () => again.told.length === 5);
    assert.deepEqual(events(again.told), events(client.told));
    const third = await open(bindings, { since: again.cursors[n] });
    await until('the rest', () => third.told.at(-1) === 'end');
    const got = new Set([...again.told.slice(0, n + 1), ...third.told]);
    assert.deepEqual([...got].sort(), [...new Set(client.told)].sort(), `behind message ${n}`);
    again.close();
    third.close();
  }
  client.close();
});
