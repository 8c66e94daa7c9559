// Malformed input of every kind gets its documented answer, and a client beside
// it misses nothing.
//
// The tables in this file are the list of what is tried: handshakes, WebSocket
// frames, JSON, join payloads, filters, sizes, numbers of joins.  Tokens have a
// file of their own, tokens.mjs.

import { randomBytes } from 'node:crypto';
import net from 'node:net';
import { assert, atEnd, note, sleep, test, until } from './lib/tap.mjs';
import { RawClient } from './lib/raw.mjs';
import { createRole, createTable, hostname, port, sql, status, token } from './lib/server.mjs';
import { configure } from './lib/settings.mjs';

await createRole('e2e_reader');
await createTable('steady', 'id int PRIMARY KEY', { roles: ['e2e_reader'] });
await createTable('target', 'id int PRIMARY KEY, title text, done bool, tags text[]', { roles: ['e2e_reader'] });
const reader = token('e2e_reader');

//
// The bystander: gets a row every 20 ms all the time
//

const bystander = await RawClient.open({ apikey: reader });
await bystander.joinOk('steady', [{ event: 'INSERT', schema: 'public', table: 'steady' }]);
let written = 0;
let writing = true;
const writer = (async () => {
  while (writing) {
    await sql('INSERT INTO steady VALUES ($1)', [++written]);
    if (written % 500 === 0) await bystander.heartbeat();
    await sleep(20);
  }
})();
atEnd(() => bystander.close());

const enginePid = (await status()).pid;

//
// Handshakes
//

// Sends bytes to the port and returns all that comes back until the end, or
// until "enough" of it has come.  What is "later" is sent after the answer to
// the handshake.
function exchange(pieces, { later = [], enough = () => false, timeout = 30_000 } = {}) {
  return new Promise((resolve, reject) => {
    const socket = net.connect(port, hostname);
    const chunks = [];
    const send = (list) => [list].flat().forEach((piece) => socket.write(piece));
    const finish = (result) => {
      clearTimeout(timer);
      socket.destroy();
      resolve(result);
    };
    const timer = setTimeout(() => {
      socket.destroy();
      reject(new Error(`no end after ${timeout} ms; received ${Buffer.concat(chunks).toString('latin1').slice(0, 200)}`));
    }, timeout);
    socket.on('data', (chunk) => {
      chunks.push(chunk);
      const all = Buffer.concat(chunks);
      if (later && all.includes('\r\n\r\n')) {
        send(later);
        later = null;
      }
      if (enough(all)) finish(all);
    });
    socket.on('error', () => finish(Buffer.concat(chunks)));
    socket.on('close', () => finish(Buffer.concat(chunks)));
    send(pieces);
  });
}

const path = `/realtime/v1/websocket?apikey=${reader}&vsn=2.0.0`;
function request({ method = 'GET', target = path, version = 'HTTP/1.1', drop = [], ...changes } = {}) {
  const headers = {
    Host: 'localhost',
    Upgrade: 'websocket',
    Connection: 'Upgrade',
    'Sec-WebSocket-Key': randomBytes(16).toString('base64'),
    'Sec-WebSocket-Version': '13',
    ...changes,
  };
  for (const name of drop) delete headers[name];
  const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`);
  return `${method} ${target} ${version}\r\n${lines.join('')}\r\n`;
}

const statusOf = (answer) => Number(/^HTTP\/1\.1 (\d+)/.exec(answer.toString('latin1'))?.[1] ?? 0);

// what it is, what is sent, the HTTP status of the answer
const handshakes = [
  ['bytes that are no HTTP', randomBytes(200).map((b) => b | 0x80).toString('latin1') + '\r\n\r\n', 400],
  ['a TLS ClientHello', Buffer.concat([Buffer.from('16030100c8010000c40303', 'hex'), randomBytes(180), Buffer.from('\r\n\r\n')]), 400],
  ['an empty request line', '\r\n\r\n\r\n\r\n', 400],
  ['no version', 'GET /\r\n\r\n', 400],
  ['HTTP/3.7', request({ version: 'HTTP/3.7' }), 400],
  ['no Host', request({ drop: ['Host'] }), 400],
  ['a NUL in a header', request({ 'X-Nul': 'a\0b' }), 400],
  ['a header without a colon', 'GET / HTTP/1.1\r\nHost: x\r\nnonsense\r\n\r\n', 400],
  ['another path', request({ target: '/nowhere' }), 404],
  ['a path of dots', request({ target: '/realtime/v1/../../../etc/passwd' }), 404],
  ['POST to the WebSocket', request({ method: 'POST' }), [400, 405]],
  ['an unknown method', request({ method: 'BREW' }), [400, 405]],
  ['no Upgrade', request({ drop: ['Upgrade', 'Connection'] }), 426],
  ['no key', request({ drop: ['Sec-WebSocket-Key'] }), 400],
  ['a short key', request({ 'Sec-WebSocket-Key': 'c2hvcnQ=' }), 400],
  ['a key that is not base64', request({ 'Sec-WebSocket-Key': '!!!!!!!!!!!!!!!!!!!!!!==' }), 400],
  ['version 12', request({ 'Sec-WebSocket-Version': '12' }), [400, 426]],
  ['a head of 20 kB', request({ 'X-Long': 'x'.repeat(20_000) }), 431],
  ['5,000 headers', request(Object.fromEntries(Array.from({ length: 5000 }, (_, i) => [`X-${i}`, 'y']))), 431],
  ['a URL of 20 kB', request({ target: `/${'x'.repeat(20_000)}` }), 431],
];
for (const [what, bytes, wanted] of handshakes) {
  test(`handshake: ${what}`, async () => {
    const answer = await exchange(bytes);
    assert.ok([wanted].flat().includes(statusOf(answer)), `answered ${answer.toString('latin1').slice(0, 100)}`);
  });
}

test('handshake: one that is never finished is ended', async () => {
  const start = Date.now();
  const answer = await exchange('GET /realtime/v1/websocket HTTP/1.1\r\nHost: x\r\n');
  assert.ok([0, 408].includes(statusOf(answer)));
  note(`after ${Date.now() - start} ms`);
});

test('handshake: one byte at a time', async () => {
  const answer = await exchange([...request()], { enough: (all) => all.includes('\r\n\r\n') });
  assert.equal(statusOf(answer), 101);
});

test('handshake: bytes behind the request, before the answer, are refused or served', async () => {
  const answer = await exchange([request() + 'more'], { enough: (all) => all.includes('\r\n\r\n') });
  assert.ok([0, 101, 400].includes(statusOf(answer)), `status ${statusOf(answer)}`);
});

test('handshake: 500 connections that say nothing and go', async () => {
  const sockets = await Promise.all(Array.from({ length: 500 }, () => new Promise((resolve, reject) => {
    const socket = net.connect(port, hostname, () => resolve(socket));
    socket.on('error', reject);
  })));
  for (const socket of sockets) socket.resetAndDestroy();
});

test('handshake: a refused origin', async () => {
  await configure({ 'rtsync.allowed_origins': 'https://app.example.com' });
  const answer = (Origin) => exchange(request({ Origin }), { enough: (all) => all.includes('\r\n\r\n') });
  assert.equal(statusOf(await answer('https://evil.example.com')), 403);
  assert.equal(statusOf(await answer('https://app.example.com')), 101);
  await configure({ 'rtsync.allowed_origins': null });
  assert.equal(statusOf(await answer('https://evil.example.com')), 101);
});

//
// WebSocket frames
//

// A client's frame; "first" is its first byte, "length" the length declared.
function frame(first, payload = '', { masked = true, length } = {}) {
  const body = Buffer.from(payload);
  const declared = BigInt(length ?? body.length);
  const header = [Buffer.from([first])];
  const maskBit = masked ? 0x80 : 0;
  if (declared < 126n) header.push(Buffer.from([maskBit | Number(declared)]));
  else if (declared < 65536n) {
    const bytes = Buffer.alloc(3);
    bytes[0] = maskBit | 126;
    bytes.writeUInt16BE(Number(declared), 1);
    header.push(bytes);
  } else {
    const bytes = Buffer.alloc(9);
    bytes[0] = maskBit | 127;
    bytes.writeBigUInt64BE(declared, 1);
    header.push(bytes);
  }
  if (!masked) return Buffer.concat([...header, body]);
  const mask = randomBytes(4);
  return Buffer.concat([...header, mask, body.map((byte, i) => byte ^ mask[i % 4])]);
}

const TEXT = 0x81;
const heartbeatText = '[null,"1","phoenix","heartbeat",{}]';

// The server's frames after the handshake: [{ opcode, payload }]
function parseFrames(bytes) {
  const frames = [];
  let at = bytes.indexOf('\r\n\r\n') + 4;
  while (at + 2 <= bytes.length) {
    let length = bytes[at + 1] & 0x7f;
    let header = 2;
    if (length === 126) {
      length = bytes.readUInt16BE(at + 2);
      header = 4;
    } else if (length === 127) {
      length = Number(bytes.readBigUInt64BE(at + 2));
      header = 10;
    }
    frames.push({ opcode: bytes[at] & 0x0f, payload: bytes.subarray(at + header, at + header + length) });
    at += header + length;
  }
  return frames;
}

// Sends frames, and returns the code that the server closes with; 0 if it just
// ends the connection.
async function closeCode(frames) {
  const answer = await exchange(request(), { later: frames });
  assert.equal(statusOf(answer), 101);
  const close = parseFrames(answer).find((f) => f.opcode === 8);
  return close && close.payload.length >= 2 ? close.payload.readUInt16BE(0) : 0;
}

// what it is, the frames, the close codes that answer it.  Where 0 stands in the
// list, libwebsockets ends the connection without a Close frame.
const protocolError = [1002, 0];
const frames = [
  ['a reserved bit', frame(0xc1, heartbeatText), protocolError],
  ['opcode 3', frame(0x83, 'x'), protocolError],
  ['opcode 11', frame(0x8b, 'x'), protocolError],
  ['a ping of 126 bytes', frame(0x89, 'x'.repeat(126)), protocolError],
  ['a fragmented ping', frame(0x09, 'x'), protocolError],
  ['a continuation of nothing', frame(0x80, 'x'), protocolError],
  ['a message within a message', [frame(0x01, '[null,'), frame(TEXT, heartbeatText)], protocolError],
  ['text that is not UTF-8', frame(TEXT, Buffer.from([0xff, 0xfe, 0xc0, 0x80])), [1007]],
  ['text with an unfinished character', frame(TEXT, Buffer.from([0x22, 0xe2, 0x82])), [1007]],
  ['text with a surrogate', frame(TEXT, Buffer.from([0xed, 0xa0, 0x80])), [1007]],
  ['a close code that does not exist', frame(0x88, Buffer.from([0x03, 0xed])), [1002, 1005, 0]],
  ['a close of one byte', frame(0x88, 'x'), [1002, 0]],
  ['a declared length of 4 MB', frame(TEXT, 'x'.repeat(100), { length: 4_000_000 }), [1009]],
  ['a declared length of 2^62', frame(TEXT, 'x'.repeat(100), { length: 2n ** 62n }), [1009, 1002, 0]],
  ['a declared length of 2^63', frame(TEXT, 'x'.repeat(100), { length: 2n ** 63n }), [1009, 1002, 0]],
  ['fragments that sum up to 4 MB', [frame(0x01, 'x'.repeat(1_000_000)),
    ...Array.from({ length: 3 }, () => frame(0x00, 'x'.repeat(1_000_000)))], [1009]],
  ['a message of 4 MB', frame(TEXT, 'x'.repeat(4_000_000)), [1009]],
  ['a binary message of 4 MB', frame(0x82, Buffer.alloc(4_000_000)), [1009]],
];
for (const [what, bytes, wanted] of frames) {
  test(`frame: ${what}`, async () => {
    const code = await closeCode(bytes);
    assert.ok(wanted.includes(code), `closed with ${code}`);
  });
}

test('frame: an unmasked one does no harm', async () => {
  // RFC 6455 wants such a connection closed.
  const answer = await exchange(request(), {
    later: [frame(TEXT, heartbeatText, { masked: false }), frame(0x88, Buffer.from([3, 232]))],
  });
  assert.equal(statusOf(answer), 101);
});

test('frame: fragments, empty ones, pings between them, byte by byte', async () => {
  const message = [
    frame(0x01, heartbeatText.slice(0, 9)), frame(0x00, ''), frame(0x89, 'ping'),
    ...[...heartbeatText.slice(9)].map((c) => frame(0x00, c)), frame(0x80, ''),
  ];
  const bytes = Buffer.concat(message);
  const answer = await exchange(request(), {
    later: [...bytes].map((b) => Buffer.from([b])),
    enough: (all) => all.includes('"status":"ok"') && all.includes('ping'),
  });
  const received = parseFrames(answer);
  assert.equal(received.find((f) => f.opcode === 10)?.payload.toString(), 'ping');
});

test('frame: 10,000 pings are answered or dropped, and the connection lives', async () => {
  const pings = Buffer.concat(Array.from({ length: 10_000 }, () => frame(0x89, 'p')));
  await exchange(request(), {
    later: [pings, frame(TEXT, heartbeatText)],
    enough: (all) => all.includes('"status":"ok"'),
  });
});

//
// JSON: dropped, or answered as said here; the connection lives on
//

const dropped = [
  '', ' ', '{', '[', 'null', 'true', '5', '""', '[]', '{}', 'nonsense', '[1,2,3,4,5]', '[null,null,"phoenix"]',
  '[null,"1",5,"heartbeat",{}]', '[null,"1","phoenix",5,{}]', '[{},"1","phoenix","heartbeat",{}]',
  '[null,[],"phoenix","heartbeat",{}]', '[null,"1","phoenix","heartbeat",{}', '[null,"1","phoenix","heartbeat",{}]]',
  '["1","1","realtime:\\ud800","phx_join",{}]', '[null,"1","phoenix","heartbeat",{"a":\\u0000}]',
  `[null,"${'r'.repeat(10_000)}","phoenix","heartbeat",{}]`,
  `["1","1","realtime:${'t'.repeat(100_000)}","phx_join",{}]`,
  `${'['.repeat(100_000)}`, `${'['.repeat(50_000)}${']'.repeat(50_000)}`,
  `[null,"1","phoenix","heartbeat",${'{"a":'.repeat(20_000)}1${'}'.repeat(20_000)}]`,
  '[null,"1","phoenix","heartbeat",1e999999]', '["1","1","realtime:a\\u0000b","phx_join",{}]',
  '{"topic":"phoenix","event":"heartbeat","payload":{},"ref":"1"}', // the other version's form
];
test(`JSON: ${dropped.length} malformed messages are dropped`, async () => {
  const client = await RawClient.open({ apikey: reader });
  for (const text of dropped) {
    client.sendText(text);
    await client.heartbeat();
  }
  assert.ok(client.frames.every((f) => f.event === 'phx_reply' && f.topic === 'phoenix'));
  client.close();
});

test('JSON: protocol 1.0.0 drops them too', async () => {
  const client = await RawClient.open({ apikey: reader, vsn: '1.0.0' });
  for (const text of [...dropped.slice(0, -1), heartbeatText, '{"topic":"phoenix"}', '{"topic":5,"event":"heartbeat","payload":{},"ref":"1"}',
    '{"event":"heartbeat","payload":{},"ref":"1"}', '{"topic":"phoenix","event":"heartbeat","payload":{},"ref":{}}']) {
    client.sendText(text);
    await client.heartbeat();
  }
  client.close();
});

test('binary: unknown kinds and cut messages are dropped', async () => {
  const client = await RawClient.open({ apikey: reader });
  const whole = Buffer.from('030101 0e 02 00 01'.replaceAll(' ', ''), 'hex');
  for (const bytes of [
    Buffer.alloc(0), Buffer.from([0]), Buffer.from([1, 2, 3]), Buffer.from([2]), Buffer.from([4, 1, 1, 1, 1]), Buffer.from([255]),
    whole.subarray(0, 3), whole, Buffer.concat([whole, Buffer.from('67real')]),
    Buffer.from([3, 255, 255, 255, 255, 255, 1]), Buffer.concat([Buffer.from([3, 1, 1, 1, 1, 0, 7]), Buffer.from('abcd')]),
    Buffer.concat([Buffer.from([3, 1, 1, 1, 1, 0, 1]), Buffer.from('1122{not json')]), randomBytes(1000),
  ]) {
    client.socket.send(bytes);
    await client.heartbeat();
  }
  client.close();
});

test('JSON: events and topics that do not exist', async () => {
  const client = await RawClient.open({ apikey: reader });
  const unmatched = { status: 'error', response: { reason: 'unmatched topic' } };
  assert.deepEqual(await client.call('room', 'phx_join', {}, '1'), unmatched);
  assert.deepEqual(await client.call('realtime:nobody', 'broadcast', {}), unmatched);
  assert.deepEqual(await client.call('realtime:nobody', 'access_token', { access_token: 5 }), unmatched);
  assert.deepEqual(await client.call('realtime:nobody', 'phx_leave', {}), { status: 'ok', response: {} });
  assert.deepEqual(await client.call('realtime:', 'phx_join', {}, '1'),
    { status: 'error', response: { reason: 'TopicNameRequired: You must provide a topic name' } });
  await client.joinOk('exists', []);
  client.send('realtime:exists', 'no such event', {}, 'x');
  client.send('realtime:exists', 'access_token', { access_token: {} }, 'x');
  client.send('realtime:exists', 'access_token', null, 'x');
  await client.heartbeat();
  client.close();
});

//
// Join payloads: each gets a reply, and the connection lives on
//

const target = { event: '*', schema: 'public', table: 'target' };
const payloads = [
  null, 5, 'x', [], {}, { config: null }, { config: 5 }, { config: [] },
  { config: { postgres_changes: null } }, { config: { postgres_changes: {} } }, { config: { postgres_changes: 'x' } },
  { config: { postgres_changes: [null] } }, { config: { postgres_changes: [5, 'x', []] } },
  { config: { postgres_changes: [{}] } }, { config: { postgres_changes: [{ event: 5, schema: {}, table: [], filter: 7 }] } },
  { config: { postgres_changes: [{ ...target, select: 'id' }] } }, { config: { postgres_changes: [{ ...target, select: [5] }] } },
  { config: { postgres_changes: [{ ...target, select: [] }] } }, { config: { postgres_changes: [{ ...target, select: ['no such'] }] } },
  { config: { postgres_changes: [{ event: '*', schema: 'public', select: ['id'] }] } },
  { config: { postgres_changes: [{ ...target, table: 'no such table' }] } },
  { config: { postgres_changes: [{ ...target, schema: 'no such schema' }] } },
  { config: { postgres_changes: [{ ...target, schema: 'pg_catalog', table: 'pg_authid' }] } },
  { config: { postgres_changes: [{ ...target, table: "target'; DROP TABLE target; --" }] } },
  { config: { postgres_changes: [{ ...target, table: 't'.repeat(100_000) }] } },
  { config: { postgres_changes: [{ ...target, table: 'a\u0000b' }] } },
  { config: { postgres_changes: [{ ...target, event: 'TRUNCATE' }] } },
  { config: { postgres_changes: Array.from({ length: 10_000 }, () => target) } },
  { config: { broadcast: 5, presence: [], private: {}, postgres_changes: [] } },
  { config: { presence: { key: 5, enabled: 'maybe' } }, access_token: null },
  { config: {}, access_token: 5 }, { config: {}, access_token: {} }, { config: {}, user_token: [] },
];
test(`join: ${payloads.length} strange payloads are each answered`, async () => {
  const client = await RawClient.open({ apikey: reader });
  for (const [n, payload] of payloads.entries()) {
    const topic = `realtime:payload-${n}`;
    const reply = await client.call(topic, 'phx_join', payload, `j${n}`);
    const text = JSON.stringify(payload)?.slice(0, 100);
    assert.ok(['ok', 'error'].includes(reply.status), text);
    if (reply.status === 'error') assert.equal(typeof reply.response.reason, 'string', text);
    await client.call(topic, 'phx_leave', {}, `j${n}`);
  }
  assert.equal((await client.heartbeat()).status, 'ok');
  client.close();
});

//
// Filters: refused in words, and nothing is sent for them
//

const parsing = /Error parsing `filter` params/;
const unable = /Unable to subscribe to changes with given parameters/;
const either = /Error parsing `filter` params|Unable to subscribe to changes with given parameters/;
const filters = [
  ['id', parsing], ['id=', either], ['=eq.1', either], ['id=eq', either], ['id.eq.1', parsing], ['id=foo.1', either],
  ['id=eq.1,', /must not contain empty segments/], [',id=eq.1', /must not contain empty segments/],
  ['id=eq.1,,id=eq.2', /must not contain empty segments/],
  ['id=in.1', /`in` filter value must be wrapped by parentheses/], ['id=in.(1', either],
  ['id=eq.abc', unable], ['id=eq.99999999999999999999', unable], ['id=in.(1,x)', unable],
  ['no such=eq.1', unable], ['done=eq.maybe', unable], ['tags=eq.{', unable],
  ["id=eq.1; DROP TABLE target", unable], ["id=eq.1' OR 'a'='a", unable], ['id=eq.(SELECT 1)', unable],
  [`id=in.(${Array.from({ length: 101 }, (_, i) => i)})`, either],
  ['ctid=eq.(0,1)', either], ['tableoid=eq.1', either],
  [`title=eq.${'x'.repeat(500_000)},id=eq.x`, either],
  [Array.from({ length: 5000 }, (_, i) => `id=gt.${-i}`).join(',') + ',id=eq.x', either],
];
test(`filter: ${filters.length} bad ones are refused in words`, async () => {
  const client = await RawClient.open({ apikey: reader });
  for (const [n, [filter, wanted]] of filters.entries()) {
    const topic = `filter-${n}`;
    const short = filter.slice(0, 60);
    const reply = await client.join(topic, [{ ...target, filter }]);
    let text = reply.response.reason;
    if (reply.status === 'ok') {
      const system = await client.frame(`an error for ${short}`,
        (f) => f.event === 'system' && f.topic === `realtime:${topic}` && f.payload.status === 'error');
      text = system.payload.message;
    }
    assert.match(text, wanted, short);
    await client.call(`realtime:${topic}`, 'phx_leave', {});
  }
  await client.joinOk('good', [target]);
  await sql("TRUNCATE target; INSERT INTO target VALUES (1, 'x', true, '{}')");
  await client.frame('the row', () => client.changes('good').length === 1);
  assert.equal(client.changes().length, 1);
  client.close();
});

//
// Many
//

test('joins: more topics than one connection may have', async () => {
  const client = await RawClient.open({ apikey: reader });
  for (let n = 0; n < 200; n++)
    client.send(`realtime:many-${n}`, 'phx_join', { config: { postgres_changes: [target] } }, `j${n}`);
  const replies = () => client.frames.filter((f) => f.event === 'phx_reply').map((f) => f.payload);
  await until('200 replies', () => replies().length === 200);
  const ok = replies().filter((r) => r.status === 'ok').length;
  const refused = replies().filter((r) => r.response.reason === 'ChannelRateLimitReached: Too many channels').length;
  assert.deepEqual([ok, refused], [100, 100]);
  client.close();
});

test('joins: 10,000 at once on one connection end it, and the next one is served', async () => {
  const client = await RawClient.open({ apikey: reader });
  for (let n = 0; n < 10_000; n++)
    client.send(`realtime:flood-${n}`, 'phx_join', { config: { postgres_changes: [target] } }, `j${n}`);
  assert.deepEqual(await client.waitClosed(), { code: 1001, reason: 'Too many joins per second' });
  const next = await RawClient.open({ apikey: reader });
  await next.joinOk('flood-0', [target]);
  next.close();
});

test('joins: 400 times the same topic leaves one channel', async () => {
  const client = await RawClient.open({ apikey: reader });
  for (let n = 0; n < 400; n++)
    client.send('realtime:same', 'phx_join', { config: { postgres_changes: [target] } }, `j${n}`);
  await client.frame('the last reply', (f) => f.event === 'phx_reply' && f.joinRef === 'j399');
  await sql("TRUNCATE target; INSERT INTO target VALUES (2, 'x', true, '{}')");
  await client.frame('the row', () => client.changes('same').length > 0);
  await client.heartbeat();
  assert.equal(client.changes('same').length, 1);
  client.close();
});

test('joins: 100 connections with 100 channels each get one row 10,000 times', async () => {
  const clients = await Promise.all(Array.from({ length: 100 }, () => RawClient.open({ apikey: reader })));
  for (const client of clients)
    for (let n = 0; n < 100; n++)
      client.send(`realtime:c${n}`, 'phx_join', { config: { postgres_changes: [target] } }, `j${n}`);
  const count = (event) => clients.reduce((sum, c) => sum + c.frames.filter((f) => f.event === event).length, 0);
  await until('10,000 replies', () => count('phx_reply') === 10_000, { timeout: 60_000, every: 100 });
  await sql("TRUNCATE target; INSERT INTO target VALUES (3, 'x', true, '{}')");
  await until('10,000 events', () => count('postgres_changes') === 10_000, { timeout: 60_000, every: 100 });
  for (const client of clients) client.close();
});

test('a row larger than a client is sent is announced without its values', async () => {
  const client = await RawClient.open({ apikey: reader });
  await client.joinOk('large', [target]);
  await sql("TRUNCATE target; INSERT INTO target VALUES (4, repeat('x', 2000000), true, '{}')");
  const { payload } = await client.frame('the event', (f) => f.event === 'postgres_changes');
  assert.deepEqual(payload.data.errors, ['Error 413: Payload Too Large']);
  assert.equal(payload.data.record.id, 4);
  assert.equal(payload.data.record.title, undefined);
  client.close();
});

test('a client that does not read is closed, and holds up nobody', async () => {
  const slow = await RawClient.open({ apikey: reader });
  await slow.joinOk('slow', [target]);
  slow.socket.pause();
  await sql('TRUNCATE target');
  for (let n = 0; n < 60; n++)
    await sql("INSERT INTO target SELECT $1 * 10 + i, repeat('x', 50000), true, '{}' FROM generate_series(0, 9) i", [n]);
  // The bystander has everything long before the slow one is given up.
  const upTo = written;
  await until('the bystander', () => bystander.changes().length >= upTo);
  slow.socket.resume();
  await until('the end, or everything', () => slow.closed || slow.changes().length === 600, { timeout: 60_000, every: 100 });
  note(slow.closed ? `closed with ${slow.closed.code} ${slow.closed.reason}` : 'it got everything when it read again');
  slow.close();
});

test('the bystander has missed nothing, and nothing was started anew', async () => {
  writing = false;
  await writer;
  await until('the last row', () => bystander.changes().length >= written);
  assert.deepEqual(bystander.changes().map((c) => c.record.id), Array.from({ length: written }, (_, i) => i + 1));
  assert.equal(bystander.closed, null);
  assert.equal((await status()).pid, enginePid);
  note(`${written} rows`);
});
