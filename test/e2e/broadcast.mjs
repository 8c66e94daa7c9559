// Broadcast between the real clients: each version to each, text and binary,
// acknowledgements, and by HTTP.

import { assert, atEnd, test, until } from './lib/tap.mjs';
import { connect, versions } from './lib/clients.mjs';
import { RawClient } from './lib/raw.mjs';
import { createRole, httpUrl, signToken, token } from './lib/server.mjs';

await createRole('e2e_talker');
const key = token('e2e_talker');

// A client of this version in the channel; "messages" is what it received.
async function member(version, topic, { event = '*', config = {}, ...options } = {}) {
  const client = connect(version, key, options);
  atEnd(() => client.disconnect());
  const channel = client.channel(topic, { config });
  const messages = [];
  channel.on('broadcast', { event }, (message) => messages.push(message));
  await new Promise((resolve, reject) =>
    channel.subscribe((status, error) => (status === 'SUBSCRIBED' ? resolve() : reject(error ?? new Error(status)))));
  return { version, client, channel, messages, name: version.name };
}

const send = (from, event, payload) => from.channel.send({ type: 'broadcast', event, payload });

// Waits until each of these has received n messages, and returns those of the first.
async function received(members, n) {
  for (const { name, messages } of members) await until(`${n} messages for ${name}`, () => messages.length >= n);
  return members[0].messages;
}

// Something that went to everybody, for order: what was not received before it
// will not be.
async function settle(from, all) {
  const event = `settle-${Math.random()}`;
  await send(from, event, {});
  for (const { name, messages } of all)
    if (name !== from.name) await until(`${event} for ${name}`, () => messages.some((m) => m.event === event));
  for (const { messages } of all) {
    const at = messages.findIndex((m) => m.event === event);
    if (at >= 0) messages.splice(at, 1);
  }
}

test('each version to each version, and not to the sender', async () => {
  const all = [];
  for (const version of versions) all.push(await member(version, 'röom:1'));
  const payload = { text: 'ü "\\ \u0000 😀', n: 1.5, list: [1, null, { deep: true }], empty: {} };
  for (const from of all) {
    await send(from, 'ping é', payload);
    const others = all.filter((to) => to !== from);
    await received(others, 1);
    for (const to of others) {
      const [message] = to.messages.splice(0);
      assert.deepEqual(message, { type: 'broadcast', event: 'ping é', payload }, `${from.name} to ${to.name}`);
    }
    assert.equal(from.messages.length, 0);
  }
});

test('only listeners of the event are called, and only those of the topic', async () => {
  const [, , version] = versions;
  const one = await member(version, 'events', { event: 'one' });
  const two = await member(versions[0], 'events', { event: 'two' });
  const elsewhere = await member(version, 'events2');
  const from = await member(version, 'events');
  const fromElsewhere = await member(version, 'events2');
  for (const n of [1, 2]) {
    await send(from, 'one', { n });
    await send(from, 'two', { n: -n });
  }
  await received([one, two], 2);
  await send(fromElsewhere, 'one', { n: 3 });
  await received([elsewhere], 1);
  assert.deepEqual(one.messages.map((m) => m.payload.n), [1, 2]);
  assert.deepEqual(two.messages.map((m) => m.payload.n), [-1, -2]);
  assert.deepEqual(elsewhere.messages.map((m) => m.payload.n), [3]);
});

test('binary payloads arrive as ArrayBuffer where they can', async () => {
  const all = [];
  for (const version of versions) all.push(await member(version, 'binary'));
  const bytes = Uint8Array.from({ length: 70000 }, (_, i) => i * 31);
  for (const from of all.filter(({ version }) => version.vsn === '2.0.0')) {
    await send(from, 'raw', bytes.buffer);
    await settle(from, all);
    for (const to of all) {
      const expected = to !== from && to.version.vsn === '2.0.0' ? 1 : 0;
      assert.equal(to.messages.length, expected, `${from.name} to ${to.name}`);
      for (const { event, payload } of to.messages.splice(0)) {
        assert.equal(event, 'raw');
        assert.ok(payload instanceof ArrayBuffer);
        assert.deepEqual(new Uint8Array(payload), bytes);
      }
    }
  }
});

test('ack and self', async () => {
  for (const version of versions) {
    const both = await member(version, `ack-${version.name}`, { config: { broadcast: { ack: true, self: true } } });
    const quiet = await member(version, `ack-${version.name}`);
    for (let n = 0; n < 5; n++) assert.equal(await send(both, 'e', { n }), 'ok', version.name);
    await received([both, quiet], 5);
    for (const { messages } of [both, quiet]) assert.deepEqual(messages.map((m) => m.payload.n), [0, 1, 2, 3, 4]);
    assert.equal(await send(both, 'e', { large: 'x'.repeat(3_010_000) }), 'error', version.name);
    assert.equal(await send(both, 'e', { large: 'x'.repeat(2_900_000) }), 'ok', version.name);
    await received([quiet], 6);
    assert.equal(quiet.messages[5].payload.large.length, 2_900_000);
  }
});

test('numbers beyond 64 bits and escapes pass unchanged', async () => {
  const payload = '{"n":123456789012345678901234567890.50,"z":"\\u0000\\ud800","blank" : [ ]}';
  for (const vsn of ['1.0.0', '2.0.0']) {
    const [from, v1, v2] = await Promise.all(
      [vsn, '1.0.0', '2.0.0'].map((v) => RawClient.open({ vsn: v, apikey: key })));
    for (const client of [from, v1, v2]) await client.joinOk('exact', []);
    const map = `{"type":"broadcast","event":"e","payload":${payload}}`;
    from.sendText(vsn === '1.0.0' ? `{"topic":"realtime:exact","event":"broadcast","payload":${map},"ref":"9"}`
      : `["1","9","realtime:exact","broadcast",${map}]`);
    const text = await v1.frame('text', (f) => f.event === 'broadcast');
    assert.ok(text.text.includes(`"payload":${payload}`), text.text);
    const { binary } = await v2.frame('binary', (f) => f.binary);
    assert.equal(binary.subarray(-payload.length).toString(), payload);
    for (const client of [from, v1, v2]) client.close();
  }
});

test('500 messages from each of three senders at once, each in its order', async () => {
  const all = [];
  for (const version of versions) all.push(await member(version, 'many'));
  const N = 500;
  for (let n = 0; n < N; n++) for (const from of all) send(from, 'e', { from: from.name, n });
  await received(all, 2 * N);
  for (const to of all)
    for (const from of all.filter((m) => m !== to))
      assert.deepEqual(to.messages.filter((m) => m.payload.from === from.name).map((m) => m.payload.n), Array.from({ length: N }, (_, n) => n));
});

test('send() before the channel is joined goes by HTTP', async () => {
  const all = [];
  for (const version of versions) all.push(await member(version, 'by http'));
  for (const version of versions) {
    const client = connect(version, key);
    atEnd(() => client.disconnect());
    const channel = client.channel('by http');
    const warn = console.warn;
    console.warn = () => {};
    assert.equal(await channel.send({ type: 'broadcast', event: 'posted', payload: { by: version.name } }), 'ok', version.name);
    if (channel.httpSend) {
      assert.equal((await channel.httpSend('posted é', { by: version.name, http: true })).success, true, version.name);
      await received(all, 2);
    }
    console.warn = warn;
    await received(all, 1);
    for (const { messages } of all) {
      const [first, second] = messages.splice(0);
      assert.deepEqual(first, { type: 'broadcast', event: 'posted', payload: { by: version.name } });
      if (channel.httpSend) assert.deepEqual(second, { type: 'broadcast', event: 'posted é', payload: { by: version.name, http: true } });
    }
  }
});

test('HTTP statuses', async () => {
  const post = (path, body, headers = {}) =>
    fetch(`${httpUrl}${path}`, { method: 'POST', body, headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json', ...headers } });
  const batch = JSON.stringify({ messages: [{ topic: 't', event: 'e', payload: {} }] });
  for (const prefix of ['/realtime/v1', '']) {
    assert.equal((await post(`${prefix}/api/broadcast`, batch)).status, 202);
    const refused = await post(`${prefix}/api/broadcast`, batch, { authorization: 'Bearer nonsense' });
    assert.deepEqual([refused.status, await refused.json()], [401, { message: 'Unauthorized' }]);
    assert.equal(refused.headers.get('access-control-allow-origin'), '*');
    const wrong = await post(`${prefix}/api/broadcast`, JSON.stringify({ messages: [{ topic: 't', event: 'e' }] }));
    assert.deepEqual([wrong.status, await wrong.json()], [422, { errors: { messages: [{ payload: ["can't be blank"] }] } }]);
    assert.equal((await post(`${prefix}/api/broadcast/t/events/e`, '{}')).status, 202);
    assert.equal((await post(`${prefix}/api/broadcast/t/events/e`, 'x', { 'content-type': 'text/plain' })).status, 415);
  }
  const stranger = signToken({ role: 'postgres' }, 'another secret');
  assert.equal((await post('/api/broadcast', batch, { authorization: `Bearer ${stranger}` })).status, 401);
  assert.equal((await post('/api/broadcast', batch, { authorization: '', apikey: key })).status, 202);
});
