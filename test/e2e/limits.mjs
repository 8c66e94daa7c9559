// Each limit: its setting, and what who exceeds it is told.

import net from 'node:net';
import { assert, atEnd, sleep, test, until } from './lib/tap.mjs';
import { RawClient, refusedHandshake } from './lib/raw.mjs';
import { createRole, createTable, gatewayHost, hostname, httpUrl, port, sql, token } from './lib/server.mjs';
import { configure } from './lib/settings.mjs';

await createRole('e2e_limited');
await createTable('limited', 'id int PRIMARY KEY', { roles: ['e2e_limited'] });
const apikey = token('e2e_limited');
const open = () => RawClient.open({ apikey });
const used = new Set();

// Sets a limit, and waits until the gateway has it: the probe tells.
async function limit(name, value, probe) {
  used.add(`rtsync.${name}`);
  await configure({ [`rtsync.${name}`]: value });
  if (probe) await until(`rtsync.${name}`, probe, { every: 50 });
}
const reset = () => configure(Object.fromEntries([...used].map((name) => [name, null])));
atEnd(reset);

const push = (client, topic, event, payload) => client.send(`realtime:${topic}`, event, payload, '1');
const ended = async (client, topic, message) => {
  const system = await client.frame('a system message', (f) => f.event === 'system' && f.payload.status === 'error');
  assert.deepEqual(system.payload, { extension: 'system', status: 'error', message, channel: topic });
  await client.frame('phx_close', (f) => f.event === 'phx_close' && f.topic === `realtime:${topic}`);
};

for (const name of ['max_connections', 'max_connections_per_address'])
  test(name, async () => {
    const clients = [await open(), await open()];
    await limit(name, '2', async () => {
      try {
        (await open()).close();
        return false;
      } catch {
        return true;
      }
    });
    const { status, body } = await refusedHandshake({ apikey });
    assert.deepEqual([status, JSON.parse(body)], [429, { error: 'Too many connected users' }]);
    clients[0].close();
    await until('the place of who left', () => open().then((one) => one.close() ?? true, () => false));
    clients[1].close();
    await limit(name, null);
  });

test('max_channels_per_connection', async () => {
  const client = await open();
  await limit('max_channels_per_connection', '3');
  let n = 0;
  const reply = await until('the limit', async () => {
    const { status, response } = await client.join(`c${++n}`, []);
    return status === 'error' && response;
  });
  assert.deepEqual(reply, { reason: 'ChannelRateLimitReached: Too many channels' });
  client.close();
  const fresh = await open();
  for (let i = 0; i < 3; i++) await fresh.joinOk(`d${i}`, []);
  assert.equal((await fresh.join('d3', [])).status, 'error');
  fresh.send('realtime:d0', 'phx_leave', {}, '1');
  await fresh.joinOk('d3', []);
  fresh.close();
});

test('max_joins_per_second', async () => {
  await limit('max_joins_per_second', '5', async () => {
    const client = await open();
    for (let i = 0; i < 20; i++) client.send(`realtime:j${i}`, 'phx_join', {}, `${i}`);
    const end = await Promise.race([client.waitClosed(), client.heartbeat().catch(() => client.closed)]);
    const refused = client.frames.filter((f) => f.payload?.response?.reason?.startsWith('ClientJoin'));
    client.close();
    if (refused.length === 0) return false;
    assert.equal(refused[0].payload.response.reason, 'ClientJoinRateLimitReached: Too many joins per second');
    if (end.code) assert.equal(end.code, 1001);
    return true;
  });
  await limit('max_joins_per_second', null);
});

test('max_messages_per_second', async () => {
  await limit('max_messages_per_second', '20');
  await until('the limit', async () => {
    const client = await open();
    await client.joinOk('m', []);
    for (let i = 0; i < 60; i++) client.send('phoenix', 'heartbeat');
    await sleep(100);
    const over = client.frames.some((f) => f.event === 'system');
    if (over) await ended(client, 'm', 'Too many messages per second');
    client.close();
    return over;
  });
  await limit('max_messages_per_second', null);
});

test('max_presence_calls', async () => {
  await limit('max_presence_calls', '4');
  await until('the limit', async () => {
    const client = await open();
    await client.joinOk('p', [], { config: { presence: { key: 'k', enabled: true } } });
    for (let i = 0; i < 6; i++) push(client, 'p', 'presence', { type: 'presence', event: 'track', payload: { i } });
    await client.heartbeat();
    const over = client.frames.some((f) => f.event === 'system');
    if (over) await ended(client, 'p', 'Client presence rate limit exceeded');
    client.close();
    return over;
  });
});

test('max_payload_size: by a client, by HTTP, from SQL', async () => {
  const client = await open();
  await client.joinOk('size', [], { config: { broadcast: { ack: true } } });
  const say = async (length) =>
    client.reply(push(client, 'size', 'broadcast', { type: 'broadcast', event: 'e', payload: { x: 'x'.repeat(length) } }));
  await limit('max_payload_size', '1000', async () => (await say(2000)).status === 'error');
  assert.deepEqual(await say(2000), { status: 'error', response: { error: 'payload_size_exceeded' } });
  assert.deepEqual(await say(900), { status: 'ok', response: {} });
  const answer = await fetch(`${httpUrl}/api/broadcast`, {
    method: 'POST', headers: { apikey, 'content-type': 'application/json' },
    body: JSON.stringify({ messages: [{ topic: 't', event: 'e', payload: { x: 'x'.repeat(2000) } }] }),
  });
  assert.deepEqual([answer.status, await answer.json()], [422, { errors: { messages: [{ payload: ['Payload size exceeds tenant limit'] }] } }]);
  await assert.rejects(sql(`SELECT rtsync.send(to_jsonb(repeat('x', 2000)), 'e', 't', false)`), /payload of a message is too large/);
  client.close();
});

test('max_presence_size, max_message_size', async () => {
  await limit('max_presence_size', '200');
  await until('the limit', async () => {
    const client = await open();
    await client.joinOk('ps', [], { config: { presence: { key: 'k', enabled: true } } });
    push(client, 'ps', 'presence', { type: 'presence', event: 'track', payload: { x: 'x'.repeat(300) } });
    await client.heartbeat();
    const over = client.frames.some((f) => f.event === 'system');
    if (over) await ended(client, 'ps', 'Track message size exceeded');
    client.close();
    return over;
  });
  await limit('max_message_size', '2000', async () => {
    const client = await open();
    client.sendText(JSON.stringify([null, '1', 'phoenix', 'heartbeat', { x: 'x'.repeat(3000) }]));
    await until('an answer or the end', () => client.closed || client.frames.length > 0);
    client.close();
    return client.closed?.code === 1009;
  });
  await limit('max_message_size', null);
});

test('max_in_list_size', async () => {
  const filter = (n) => `id=in.(${Array.from({ length: n }, (_, i) => i).join(',')})`;
  const tell = async (n) => {
    const client = await open();
    await client.joinOk('list', [{ event: '*', schema: 'public', table: 'limited', filter: filter(n) }]);
    const system = await client.frame('a system message', (f) => f.event === 'system');
    client.close();
    return system.payload;
  };
  assert.equal((await tell(100)).status, 'ok');
  const { status, message } = await tell(101);
  assert.equal(status, 'error');
  assert.match(message, /too many values for `in` filter. Maximum 100/);
  await limit('max_in_list_size', '3', async () => (await tell(4)).status === 'error');
  assert.equal((await tell(3)).status, 'ok');
});

test('max_requests_per_second', async () => {
  const post = () => fetch(`${httpUrl}/api/broadcast/t/events/e`, { method: 'POST', headers: { apikey, 'content-type': 'application/json' }, body: '{}' });
  let answer;
  await limit('max_requests_per_second', '1', async () => (answer = await post()).status === 429);
  assert.deepEqual(await answer.json(), { message: 'Too many requests' });
  await until('a place', async () => (await post()).status === 202);
});

test('handshake_timeout', async () => {
  await limit('handshake_timeout', '500ms');
  await until('the limit', async () => {
    const socket = net.connect({ port: Number(port), host: hostname });
    const start = performance.now();
    let text = '';
    socket.on('data', (data) => (text += data));
    socket.on('error', () => {});
    socket.write(`GET /socket/websocket HTTP/1.1\r\nHost: ${gatewayHost}\r\n`);
    await new Promise((resolve) => socket.on('close', resolve));
    assert.match(text, /^HTTP\/1.1 408 /);
    return performance.now() - start < 1500;
  });
  used.delete('rtsync.handshake_timeout');
  await configure({ 'rtsync.handshake_timeout': null });
});

test('idle_timeout', async () => {
  const client = await open();
  await client.joinOk('idle', []);
  await limit('idle_timeout', '700ms');
  assert.deepEqual(await client.waitClosed(), { code: 1000, reason: 'idle timeout' });
  await limit('idle_timeout', null);
});

test('no_channel_timeout', async () => {
  await reset();
  const [client, member] = [await open(), await open()];
  await member.joinOk('some', []);
  await limit('no_channel_timeout', '700ms');
  assert.deepEqual(await client.waitClosed(), { code: 1000, reason: 'no channel' });
  await member.heartbeat();
  member.close();
  await reset();
});
