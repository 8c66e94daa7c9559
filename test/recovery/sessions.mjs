// A client that names a session leaves it to the server to remember how far it
// got: unmodified clients, too, get what was changed while they were away, or
// are told to refetch.

import { randomUUID } from 'node:crypto';
import { assert, sleep, test, until } from '../e2e/lib/tap.mjs';
import { connect, versions } from '../e2e/lib/clients.mjs';
import { WebSocket } from '../e2e/lib/raw.mjs';
import { createRole, createTable, sql, status, token } from '../e2e/lib/server.mjs';
import { gatewayPids, restart, running, served } from './lib/cluster.mjs';

await createRole('reader');
await createRole('writer');
await createTable('notes', 'id int PRIMARY KEY, filler text', { roles: ['reader', 'writer'] });
const binding = { event: 'INSERT', schema: 'public', table: 'notes' };
const apikey = token('reader', { sub: 'ann' });

let written = 0;
async function write(n = 1) {
  for (let i = 0; i < n; i++) await sql('INSERT INTO notes VALUES ($1)', [++written]);
}
const ids = (client) => client.changes().map((c) => c.record.id);

// Joins as part of a session; returns the client, with the reply's "rtsync".
async function join(session, { key = apikey, bindings = [binding], topic = 'notes' } = {}) {
  const client = await served({ apikey: key });
  const { response } = await client.joinOk(topic, bindings, { config: { rtsync: { session } } });
  client.rtsync = response.rtsync;
  return client;
}

// Has all that was sent so far confirmed.
async function confirm(client) {
  await client.heartbeat();
  await client.heartbeat();
}

// A client with a confirmed session, which has received all that was written
async function confirmed(session, options) {
  const client = await join(session, options);
  await write();
  await client.frame('the row', () => ids(client).includes(written));
  await confirm(client);
  return client;
}

async function restartEngine() {
  const { pid } = await status();
  await sql('SELECT pg_reload_conf()');
  await sql('SELECT pg_terminate_backend($1)', [pid]);
  await until('another engine', async () => (await running()).pid !== pid);
}

const refused = (client, reason) => {
  assert.equal(client.rtsync.resumed, false);
  assert.equal(client.rtsync.refetch, reason);
  return client.frame('the message', (f) =>
    f.event === 'system' && f.payload.extension === 'rtsync' && f.payload.status === 'refetch' && f.payload.message === reason);
};

test('a session that begins is told so', async () => {
  const client = await join(randomUUID());
  await refused(client, 'the session is not known');
  client.close();
});

test('what was confirmed by two heartbeats does not come again, all the rest does', async () => {
  const session = randomUUID();
  const first = await confirmed(session);
  const from = written;
  await write(3);
  await first.frame('the rows', () => ids(first).includes(written));
  first.close();
  await write(2);
  const second = await join(session);
  assert.equal(second.rtsync.resumed, true);
  await write();
  await second.frame('the last row', () => ids(second).includes(written));
  assert.deepEqual(ids(second), Array.from({ length: written - from }, (_, i) => from + 1 + i));
  assert.equal(second.frames.some((f) => f.payload?.rtsync), false, 'nobody asked for cursors');
  second.close();
});

test('one heartbeat proves nothing', async () => {
  const session = randomUUID();
  const first = await join(session);
  await first.heartbeat();
  first.close();
  const second = await join(session);
  await refused(second, 'nothing of the session was confirmed yet');
  second.close();
});

test('a session is of its subject, its role and its topic alone', async () => {
  const session = randomUUID();
  const mine = await confirmed(session);
  for (const options of [
    { key: token('reader', { sub: 'bob' }) }, { key: token('writer', { sub: 'ann' }) }, { key: token('reader') },
    { topic: 'other' },
  ]) {
    const other = await join(session, options);
    await refused(other, 'the session is not known');
    other.close();
  }
  await write();
  await mine.frame('the row', () => ids(mine).includes(written));
  mine.close();
});

test('a second connection takes the session over', async () => {
  const session = randomUUID();
  const first = await confirmed(session);
  const second = await join(session);
  assert.equal(second.rtsync.resumed, true);
  await first.frame('the end', (f) => f.event === 'phx_close');
  assert.ok(first.frames.some((f) => f.payload?.message === 'The session was taken over by another connection'));
  // what the first says proves nothing any more
  const from = written;
  await write();
  await second.frame('the row', () => ids(second).includes(written));
  await confirm(first);
  second.close();
  first.close();
  const third = await join(session);
  await third.frame('the row', () => ids(third).includes(from + 1));
  third.close();
});

test('what would make going on a lie is answered with the reason', async () => {
  for (const [what, reason, change, options] of [
    ['other bindings', 'the session had other postgres_changes', null,
      { bindings: [{ event: '*', schema: 'public', table: 'notes' }] }],
    ['other claims', 'the claims, or access to tables, have changed', null,
      { key: token('reader', { sub: 'ann', team: 'blue' }) }],
    ['a policy', 'the claims, or access to tables, have changed',
      'ALTER TABLE notes ENABLE ROW LEVEL SECURITY; CREATE POLICY odd ON notes USING (id % 2 = 1)', {}],
    ['another policy', 'the claims, or access to tables, have changed', 'ALTER POLICY odd ON notes USING (true)', {}],
  ]) {
    const session = randomUUID();
    const first = await join(session);
    await confirm(first);
    first.close();
    if (change) await sql(change);
    const second = await join(session, options);
    await refused(second, reason);
    second.close();
    assert.ok(what);
  }
});

test('a change of rights of which the client may not have heard is told again', async () => {
  const session = randomUUID();
  const first = await join(session);
  await confirm(first);
  await sql('ALTER POLICY odd ON notes USING (id > 0)');
  await first.frame('to be told', (f) => f.payload?.status === 'refetch' && /changed/.test(f.payload.message));
  first.close();
  const second = await join(session);
  await refused(second, 'the claims, or access to tables, have changed');
  second.close();
});

for (const [what, fault] of [
  ['a gateway that is killed', async () => process.kill((await gatewayPids())[0], 'SIGKILL')],
  ['an engine that is terminated', async () => sql('SELECT pg_terminate_backend($1)', [(await status()).pid])],
  ['a restart of the server', () => restart('fast')],
]) {
  test(`a session survives ${what}`, async () => {
    const session = randomUUID();
    const first = await confirmed(session);
    const from = written;
    const { pid } = await status();
    await write();
    await fault();
    await until('the connection to end', () => first.closed);
    if (!what.includes('gateway')) await until('another engine', async () => (await running()).pid !== pid);
    await write(2);
    const second = await until('to be served', () => join(session).catch(() => null), { every: 50 });
    assert.equal(second.rtsync.resumed, true, JSON.stringify(second.rtsync));
    await second.frame('the rows', () => ids(second).includes(written));
    assert.deepEqual(ids(second), [from + 1, from + 2, from + 3]);
    second.close();
  });
}

test('after an immediate restart a session goes on or is told to refetch, nothing in between', async () => {
  const session = randomUUID();
  const first = await confirmed(session);
  const from = written;
  await restart('immediate');
  await running();
  await until('the connection to end', () => first.closed);
  await write();
  const second = await until('to be served', () => join(session).catch(() => null), { every: 50 });
  if (second.rtsync.resumed) await second.frame('the row', () => ids(second).includes(from + 1));
  else await refused(second, 'the session is not known');
  second.close();
});

test('it is remembered for rtsync.resume_window, and not at all with 0', async () => {
  await sql("ALTER SYSTEM SET rtsync.resume_window = '1s'");
  await restartEngine(); // which is sure to know it
  const session = randomUUID();
  const first = await confirmed(session);
  first.close();
  await until('it to be away', async () =>
    (await sql("SELECT FROM rtsync.pg_stat_rtsync_subscription WHERE topic = 'notes'")).length === 0);
  await sleep(1500);
  const second = await join(session);
  await refused(second, 'the session is not known');
  second.close();
  await sql('ALTER SYSTEM SET rtsync.resume_window = 0');
  await sql('SELECT pg_reload_conf()');
  await until('sessions to be off', async () => {
    const client = await join(randomUUID());
    client.close();
    return client.rtsync.refetch === 'sessions are turned off';
  }, { every: 50 });
  await sql('ALTER SYSTEM RESET rtsync.resume_window');
  await sql('SELECT pg_reload_conf()');
  await until('sessions to be on', async () => {
    const client = await join(randomUUID());
    client.close();
    return client.rtsync.refetch === 'the session is not known';
  }, { every: 50 });
});

// The unmodified client sends what its user says under "broadcast" as it is,
// and adds "params" to the address: it says so once, and sends it at each
// rejoin.
//
// A socket that counts the answers to its heartbeats
function beating() {
  return class Beating extends WebSocket {
    static last = null;
    answers = 0;

    constructor(...args) {
      super(...args);
      Beating.last = this;
      this.on('message', (data) => (this.answers += /"phoenix"/.test(data.toString())));
    }
  };
}

// Three answers on one connection whose channel has joined: the first may be to
// a heartbeat from before that, the next offers a place, the last confirms it.
async function proven(sockets, channel) {
  let from = null;
  await until('the session to be confirmed', () => {
    const socket = sockets.last;
    if (channel.state !== 'joined' || from?.socket !== socket) from = { socket, answers: socket.answers };
    return socket.answers >= from.answers + 3;
  }, { timeout: 60_000 });
}

for (const version of versions) {
  for (const way of ['channel', 'realtime']) {
    test(`realtime-js ${version.name} misses nothing over a reconnect, with a session in the ${way} options`, async () => {
      const session = randomUUID();
      const sockets = beating();
      const client = connect(version, apikey, {
        heartbeatIntervalMs: 300, reconnectAfterMs: () => 300, transport: sockets,
        params: { apikey, ...(way === 'realtime' ? { rtsync_session: session } : {}) },
      });
      const channel = client.channel('room', way === 'channel' ? { config: { broadcast: { rtsync: { session } } } } : {});
      const seen = [];
      const systems = [];
      let subscribed = 0;
      channel.on('postgres_changes', binding, (event) => seen.push(event.new.id));
      channel.on('system', {}, (message) => systems.push(message));
      channel.subscribe((state) => (subscribed += state === 'SUBSCRIBED'));
      await until('it to be subscribed', () => subscribed >= 1);
      await until('it to be told to fetch', () => systems.some((m) => m.status === 'refetch'));
      // one that comes anew before it is confirmed has to fetch again
      await until('a row', async () => seen.includes(written) || (await write()), { every: 200 });
      await proven(sockets, channel);
      const told = systems.filter((m) => m.status === 'refetch').length;
      const before = subscribed; // a heartbeat that is late makes the client come anew
      process.kill((await gatewayPids())[0], 'SIGKILL');
      await write(3);
      await until('it to be subscribed again', () => subscribed > before);
      await until('the rows', () => [0, 1, 2].every((n) => seen.includes(written - n)));
      assert.equal(systems.filter((m) => m.status === 'refetch').length, told, 'it need not fetch again');
      await client.disconnect();
    });
  }
}
