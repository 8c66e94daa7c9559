/*
 * Broadcast: who gets what, in which form, and what is answered.
 */
import { Engine } from './engine.mjs'
import { broadcastPush, Client, frame, TEXT } from './client.mjs'
import { test, run, assert, sleep, until } from './tap.mjs'

const versions = ['1.0.0', '2.0.0']
const topic = 'realtime:room1'

async function withEngine(config, use) {
  const engine = await Engine.start(config)
  try { await use(engine) } finally { await engine.stop() }
}

/* A client that has joined the topic */
async function member(engine, { vsn = '2.0.0', name = topic, ...config } = {}) {
  const client = await Client.open(engine.port, { vsn })
  const { self = false, ack = false, ...rest } = config
  await client.join(name, { ref: '1', config: { broadcast: { self, ack }, ...rest } })
  client.messages = []
  return client
}

const close = (...clients) => { for (const c of clients) c.close() }
const textPush = (client, payload, { ref = '2', name = topic, join_ref = '1' } = {}) =>
  client.push({ join_ref, ref, topic: name, event: 'broadcast', payload })
const binaryPush = (client, event, payload, options = {}) =>
  client.raw(broadcastPush({ join_ref: '1', ref: '2', topic, event, payload, ...options }))
async function drain(client) {
  await client.heartbeat('drain' + client.count)
  return client.messages.splice(0)
}

test('each version to each version, JSON, byte for byte', () => withEngine({}, async engine => {
  const receivers = [await member(engine, { vsn: '1.0.0' }), await member(engine)]
  const payload = '{"n":123456789012345678901234567890.50,"z":"\\u0000\\ud800 \\/é","deep":[[{"a":[1E5]}]], "blank" : null}'
  const check = async () => {
    const v1 = await receivers[0].event('broadcast')
    assert.equal(v1.text, `{"topic":"${topic}","event":"broadcast","payload":{"type":"broadcast","event":"ev é","payload":${payload}},"ref":null}`)
    const v2 = await receivers[1].event('broadcast')
    assert.ok(v2.binary)
    assert.deepEqual([v2.topic, v2.payload.event, v2.payload.meta, v2.raw.toString()], [topic, 'ev é', undefined, payload])
  }
  for (const vsn of versions) {
    const sender = await member(engine, { vsn })
    const map = `{"type":"broadcast","event":"ev \\u00e9","payload":${payload}}`
    sender.text(vsn === '2.0.0' ? `["1","2","${topic}","broadcast",${map}]`
      : ` {"payload" : ${map} ,"event":"broadcast","topic":"${topic}","ref":"2"} `)
    await check()
    if (vsn === '2.0.0') { binaryPush(sender, 'ev é', payload); await check() }
    assert.deepEqual(await drain(sender), [])
    close(sender)
  }
  close(...receivers)
}))

test('raw bytes reach 2.0.0 alone', () => withEngine({}, async engine => {
  const [sender, v1, v2] = [await member(engine, { self: true }), await member(engine, { vsn: '1.0.0' }), await member(engine)]
  const bytes = Buffer.from(Array.from({ length: 100000 }, (_, i) => i * 7 & 255))
  binaryPush(sender, 'raw', bytes, { json: false })
  binaryPush(sender, '', '', { json: false })
  for (const c of [sender, v2]) {
    assert.deepEqual((await c.event('broadcast')).payload, { type: 'broadcast', event: 'raw', payload: bytes })
    assert.equal((await c.event('broadcast')).raw.length, 0)
  }
  assert.deepEqual(await drain(v1), [])
  close(sender, v1, v2)
}))

test('what is more than event and payload is passed on whole', () => withEngine({}, async engine => {
  const [v1, v2, sender] = [await member(engine, { vsn: '1.0.0' }), await member(engine), await member(engine)]
  for (const map of ['{"type":"broadcast","event":"e","payload":{"x":1},"more":[1,2]}', '{"event":"e","payload":1}', '{"type":"broadcast","event":"e"}',
    '{"type":"other","event":"e","payload":{}}', '{"type":"broadcast","event":"\\ud800","payload":{}}', `{"type":"broadcast","event":"${'e'.repeat(300)}","payload":null}`]) {
    sender.text(`["1","2","${topic}","broadcast",${map}]`)
    assert.equal((await v1.event('broadcast')).text, `{"topic":"${topic}","event":"broadcast","payload":${map},"ref":null}`)
    assert.equal((await v2.event('broadcast')).text, `[null,null,"${topic}","broadcast",${map}]`)
  }
  /* what would throw within a receiver goes nowhere */
  for (const payload of [null, 1, 'x', [], {}, { event: 1 }, { event: null, payload: {} }]) textPush(sender, payload)
  assert.deepEqual([await drain(sender), await drain(v1), await drain(v2)], [[], [], []])
  close(v1, v2, sender)
}))

test('self and ack', () => withEngine({}, async engine => {
  for (const vsn of versions)
    for (const self of [false, true])
      for (const ack of [false, true]) {
        const name = `realtime:${vsn}${self}${ack}`
        const sender = await member(engine, { vsn, self, ack, name })
        textPush(sender, { type: 'broadcast', event: 'e', payload: { n: 1 } }, { name, ref: '5' })
        textPush(sender, { type: 'broadcast', event: 'e', payload: { n: 2 } }, { name, ref: null })
        const got = await drain(sender)
        assert.deepEqual(got.filter(m => m.event === 'broadcast').map(m => m.payload.payload.n), self ? [1, 2] : [])
        const replies = got.filter(m => m.event === 'phx_reply')
        assert.deepEqual(replies.map(m => [m.ref, m.payload]), ack ? [['5', { status: 'ok', response: {} }]] : [])
        close(sender)
      }
  const sender = await member(engine, { ack: true })
  binaryPush(sender, 'e', '1', { ref: '77' })
  assert.equal((await sender.reply('77')).text, `["1","77","${topic}","phx_reply",{"status":"ok","response":{}}]`)
  textPush(sender, 7, { ref: '78' })
  assert.deepEqual((await sender.reply('78')).payload, { status: 'error', response: { error: 'invalid_payload' } })
  close(sender)
}))

test('max_payload_size', () => withEngine({ max_payload_size: 1000 }, async engine => {
  const [quiet, sender, receiver] = [await member(engine), await member(engine, { ack: true }), await member(engine)]
  const sized = n => JSON.stringify('x'.repeat(n - 2))
  for (const client of [quiet, sender])
    for (const [size, ok] of [[1000, true], [1001, false]]) {
      binaryPush(client, 'e', sized(size), { ref: 'b' })
      client.text(`["1","t","${topic}","broadcast",{"type":"broadcast","event":"e","payload":${sized(size)}}]`)
      if (client === sender)
        for (const ref of ['b', 't'])
          assert.deepEqual((await sender.reply(ref)).payload, ok ? { status: 'ok', response: {} } : { status: 'error', response: { error: 'payload_size_exceeded' } })
    }
  assert.equal((await drain(quiet)).filter(m => m.event !== 'broadcast').length, 0)
  assert.equal((await drain(receiver)).length, 4)
  close(quiet, sender, receiver)
}))

test('public and private channels of a topic do not hear each other', () => withEngine({}, async engine => {
  const [a, b, c, d] = [await member(engine), await member(engine), await member(engine, { private: true }), await member(engine, { private: true })]
  binaryPush(a, 'e', '"public"')
  binaryPush(c, 'e', '"private"')
  await a.heartbeat(); await c.heartbeat()
  assert.deepEqual((await drain(b)).map(m => m.payload.payload), ['public'])
  assert.deepEqual((await drain(d)).map(m => m.payload.payload), ['private'])
  engine.broadcast(0, 'room1', 'e', '"db public"')
  engine.broadcast(1, 'room1', 'e', '"db private"')
  for (const client of [a, b]) assert.equal((await client.event('broadcast')).payload.payload, 'db public')
  for (const client of [c, d]) assert.equal((await client.event('broadcast')).payload.payload, 'db private')
  close(a, b, c, d)
}))

test('messages from the database carry their id, in every form', () => withEngine({}, async engine => {
  const [v1, v2] = [await member(engine, { vsn: '1.0.0', name: 'realtime:ü:1' }), await member(engine, { name: 'realtime:ü:1' })]
  engine.broadcast(0, 'ü:1', 'e"é', '{"n":1}', { id: 'd0b1"' })
  assert.deepEqual((await v1.event('broadcast')).payload, { type: 'broadcast', event: 'e"é', payload: { n: 1 }, meta: { id: 'd0b1"' } })
  assert.deepEqual((await v2.event('broadcast')).payload, { type: 'broadcast', event: 'e"é', payload: { n: 1 }, meta: { id: 'd0b1"' } })
  engine.broadcast(0, 'ü:1', 'e', Buffer.from([0, 255, 1]), { json: 0, id: 'x' })
  assert.deepEqual((await v2.event('broadcast')).payload, { type: 'broadcast', event: 'e', payload: Buffer.from([0, 255, 1]), meta: { id: 'x' } })
  engine.broadcast(0, 'nobody', 'e', '{}')
  engine.broadcast(0, 'ü:1', 'e', '{}')
  assert.equal((await v1.event('broadcast')).payload.meta, undefined)
  close(v1, v2)
}))

test('what members send goes to other gateways, if there are any', () => withEngine({}, async engine => {
  const config = { gateways: 2, gateway: 1 }
  const [text, binary, closed] = [await member(engine), await member(engine), await member(engine, { private: true })]
  textPush(text, { type: 'broadcast', event: 'nobody', payload: {} })
  await binary.event('broadcast')
  assert.equal(engine.log.filter(m => m.name === 'relay').length, 0)
  engine.configure(config)
  await until(async () => {
    textPush(text, { type: 'broadcast', event: 'try', payload: {} })
    await sleep(10)
    return engine.log.find(m => m.name === 'relay')
  }, 'the setting')
  const relays = () => engine.log.filter(m => m.name === 'relay' && m.event !== 'try')
  const map = '{"type":"broadcast","event":"e","payload":1,"more":2}'
  textPush(text, { type: 'broadcast', event: 'ev "é"', payload: { a: 1 } })
  text.text(`["1","2","${topic}","broadcast",${map}]`)
  binaryPush(text, 'raw', Buffer.from([0, 255, 1]), { json: false })
  await until(() => relays().length === 3, 'the relays of one')
  binaryPush(closed, 'closed', '[1 ]')
  await until(() => relays().length === 4, 'the relays')
  const said = relays().map(({ channel, event, json, payload, map, id }) =>
    [channel, event, json, payload && [...payload], map, id])
  const numbers = relays().map(m => m.channel)
  assert.equal(new Set(numbers.slice(0, 3)).size, 1)
  assert.notEqual(numbers[3], numbers[0])
  assert.deepEqual(said.map(m => m.slice(1)), [
    ['ev "é"', 1, [...Buffer.from('{"a":1}')], null, null],
    ['e', 1, null, map, null],
    ['raw', 0, [0, 255, 1], null, null],
    ['closed', 1, [...Buffer.from('[1 ]')], null, null]])
  close(text, binary, closed)
}))

test('what clients of other gateways send', () => withEngine({ gateways: 2, gateway: 1 }, async engine => {
  const [v1, v2, closed] = [await member(engine, { vsn: '1.0.0' }), await member(engine), await member(engine, { private: true })]
  engine.relayed(0, 'room1', { payload: '{"b": 2}' })
  assert.equal((await v1.event('broadcast')).text, `{"topic":"${topic}","event":"broadcast","payload":{"type":"broadcast","event":"e","payload":{"b": 2}},"ref":null}`)
  assert.equal((await v2.event('broadcast')).raw.toString(), '{"b": 2}')
  const map = '{"type":"broadcast","event":"e","payload":1,"more":2}'
  engine.relayed(0, 'room1', { map, payload: '1' })
  for (const c of [v1, v2]) assert.deepEqual((await c.event('broadcast')).payload, JSON.parse(map))
  engine.relayed(0, 'room1', { json: 0, payload: Buffer.from([0, 255, 1]) })
  assert.deepEqual([...(await v2.event('broadcast')).raw], [0, 255, 1])
  engine.relayed(1, 'room1', { event: 'p', id: 'd0b1' })
  assert.deepEqual((await closed.event('broadcast')).payload, { type: 'broadcast', event: 'p', payload: {}, meta: { id: 'd0b1' } })
  /* the engine has not read it: what no client could send goes nowhere */
  const invalid = Buffer.from([0x22, 0xff, 0x22])
  for (const bad of [{ payload: '{},"topic":"realtime:x"' }, { payload: '{' }, { payload: '' }, { payload: null }, { event: null }, { payload: invalid },
    { event: invalid }, { map: '[]' }, { map: '{}' }, { map: '{"event":1,"payload":{}}' }, { map: map + ',' }, { map: `${map},"topic":"realtime:x"` },
    { map, json: 0 }, { map: Buffer.concat([Buffer.from('{"event":"e","x":'), invalid, Buffer.from('}')]) }, { id: invalid, payload: '{' },
    { payload: JSON.stringify('x'.repeat(3000000)) }])
    engine.relayed(0, 'room1', bad)
  engine.relayed(0, null)
  engine.relayed(0, 'nobody')
  await engine.settled()
  assert.deepEqual([await drain(v1), await drain(v2), await drain(closed)], [[], [], []])
  assert.equal(engine.log.filter(m => m.name === 'relay').length, 0)
  close(v1, v2, closed)
}))

test('rights: reading, writing, and their loss', () => withEngine({}, async engine => {
  let rights = 15
  engine.onjoin = m => engine.joinReply(m.channel, [], rights)
  const full = await member(engine, { ack: true })
  rights = 1
  const reader = await member(engine, { ack: true })
  const { channel } = engine.log.filter(m => m.name === 'join').at(-1)
  rights = 4
  const writer = await member(engine, { ack: true })
  binaryPush(reader, 'e', '1', { ref: 'r' })
  assert.deepEqual((await reader.reply('r')).payload, { status: 'error', response: { error: 'unauthorized' } })
  binaryPush(writer, 'e', '2', { ref: 'w' })
  assert.equal((await writer.reply('w')).payload.status, 'ok')
  binaryPush(full, 'e', '3', { ref: 'f' })
  await full.reply('f')
  const heard = async client => (await drain(client)).map(m => m.payload.payload)
  assert.deepEqual([await heard(full), await heard(reader), await heard(writer)], [[2], [2, 3], []])
  engine.rights(channel, 4)
  engine.rights(999, 15)
  await engine.settled()
  binaryPush(reader, 'e', '4', { ref: 'r' })
  assert.equal((await reader.reply('r')).payload.status, 'ok')
  binaryPush(full, 'e', '5', { ref: 'f' })
  await full.reply('f')
  assert.deepEqual([await heard(full), await heard(reader), await heard(writer)], [[4], [], []])
  close(full, reader, writer)
}))

test('a channel takes part from its reply on, until it leaves', () => withEngine({}, async engine => {
  const held = []
  const sender = await member(engine)
  const late = await Client.open(engine.port)
  engine.onjoin = m => held.push(m)
  late.push({ join_ref: '1', ref: '1', topic, event: 'phx_join', payload: {} })
  await until(() => held.length > 0, 'join')
  binaryPush(sender, 'e', '1')
  await sender.heartbeat()
  textPush(late, { event: 'e' }, { ref: 'early' })
  assert.equal((await late.reply('early')).payload.response.reason, 'unmatched topic')
  engine.joinReply(held[0].channel, [])
  await late.reply('1')
  binaryPush(sender, 'e', '2')
  assert.equal((await late.event('broadcast')).payload.payload, 2)
  late.push({ join_ref: '1', ref: '9', topic, event: 'phx_leave' })
  await late.reply('9')
  binaryPush(sender, 'e', '3')
  await sender.heartbeat()
  assert.deepEqual((await drain(late)).map(m => m.event), ['phx_close'])
  binaryPush(late, 'e', '4', { ref: '10' })
  assert.equal((await late.reply('10')).payload.response.reason, 'unmatched topic')
  close(sender, late)
}))

test('stale, missing and garbled references', () => withEngine({}, async engine => {
  const [sender, receiver] = [await member(engine, { ack: true }), await member(engine)]
  for (const join_ref of ['0', '']) {
    binaryPush(sender, 'e', '1', { join_ref, ref: '5' })
    assert.equal((await sender.reply('5')).payload.status, 'ok')
    textPush(sender, { event: 'e' }, { join_ref: join_ref || null, ref: '6' })
    assert.equal((await sender.reply('6')).payload.status, 'ok')
  }
  assert.equal((await drain(receiver)).length, 4)
  /* clients before 2.111 cut UTF-16 to bytes: Latin-1 comes through, the rest by join_ref */
  const names = ['realtime:é', 'realtime:日本']
  for (const [i, name] of names.entries()) {
    for (const c of [sender, receiver]) await c.join(name, { ref: `${i + 20}`, config: { broadcast: { ack: true } } })
    const cut = s => Buffer.from(s, 'utf16le').filter((_, at) => at % 2 === 0)
    binaryPush(sender, cut('ü'), '{}', { topic: cut(name), join_ref: `${i + 20}`, ref: '7' })
    assert.equal((await sender.reply('7')).payload.status, 'ok')
    const message = await receiver.event('broadcast')
    assert.deepEqual([message.topic, message.payload.event], [name, 'ü'])
  }
  close(sender, receiver)
}))

test('long topics go as text', () => withEngine({}, async engine => {
  const name = 'realtime:' + 'ü'.repeat(1000)
  const [sender, receiver, v1] = [await member(engine, { name }), await member(engine, { name }), await member(engine, { name, vsn: '1.0.0' })]
  textPush(sender, { type: 'broadcast', event: 'e', payload: { a: 1 } }, { name })
  for (const c of [receiver, v1]) {
    const message = await c.event('broadcast')
    assert.ok(!message.binary)
    assert.deepEqual([message.topic, message.payload], [name, { type: 'broadcast', event: 'e', payload: { a: 1 } }])
  }
  close(sender, receiver, v1)
}))

test('200 members, 300 messages, in order', () => withEngine({ max_messages_per_second: 0 }, async engine => {
  const clients = []
  for (let i = 0; i < 200; i++) clients.push(await member(engine, { vsn: versions[i % 2], self: i < 2 }))
  for (let n = 0; n < 300; n++) {
    if (n % 2) binaryPush(clients[1], 'e', `{"n":${n}}`)
    else textPush(clients[1], { type: 'broadcast', event: 'e', payload: { n } })
  }
  for (const [i, c] of clients.entries()) {
    await until(() => c.messages.length >= 300, `messages of client ${i}`)
    assert.deepEqual(c.messages.map(m => m.payload.payload.n), Array.from({ length: 300 }, (_, n) => n))
  }
  close(...clients)
}))

test('a member that does not read is closed, the others are served', () => withEngine({ send_queue_size: 200000, max_messages_per_second: 0 }, async engine => {
  const [sender, slow, other] = [await member(engine, { ack: true }), await member(engine), await member(engine)]
  slow.socket.pause()
  const filler = JSON.stringify('x'.repeat(20000))
  let n = 0
  while (!engine.log.some(m => m.name === 'leave')) {
    binaryPush(sender, 'e', filler, { ref: `${n++}` })
    await sender.reply(`${n - 1}`)
    await until(() => other.messages.length === n, 'messages')
    assert.ok(n < 5000)
  }
  slow.socket.resume()
  await slow.waitClosed()
  close(sender, other)
}))

test('malformed payloads are dropped', () => withEngine({}, async engine => {
  const [sender, receiver] = [await member(engine), await member(engine)]
  for (const bytes of [Buffer.from('{"a":'), Buffer.from('[1,]'), Buffer.from('"\xff"', 'latin1'), Buffer.from('')]) binaryPush(sender, 'e', bytes)
  binaryPush(sender, 'e\0', '1')
  binaryPush(sender, 'e', '1', { metadata: '[]' })
  binaryPush(sender, 'e', '"' + '['.repeat(1000) + '"')
  binaryPush(sender, 'e', '['.repeat(600) + ']'.repeat(600))
  sender.raw(frame(TEXT, `["1","2","${topic}","broadcast",{"event":"e","payload":{]}]`))
  binaryPush(sender, 'e', '2', { metadata: '{"other":true}' })
  await sender.heartbeat()
  assert.deepEqual((await drain(receiver)).map(m => [m.payload.payload.length, m.payload.meta]), [[1000, undefined], [undefined, undefined]])
  close(sender, receiver)
}))

test('past broadcasts go to the channel that joined, and not a second time', () => withEngine({}, async engine => {
  engine.onjoin = m => {
    engine.joinReply(m.channel, [])
    for (let n = 1; n <= m.limit && m.replay === 1; n++) engine.replay(m.channel, 'e', 1, `{"n":${n}}`, `id${n}`)
    if (m.limit === 3) engine.replay(m.channel, 'raw', 0, 'bytes', 'idb')
  }
  const joinWith = async (vsn, replay) => {
    const c = await Client.open(engine.port, { vsn })
    await c.join(topic, { config: { broadcast: { replay }, private: true } })
    return c
  }
  const clients = [await joinWith('1.0.0', { since: 5, limit: 3 }), await joinWith('2.0.0', { since: 5, limit: 3 })]
  const join = engine.log.filter(m => m.name === 'join').at(-1)
  assert.deepEqual([join.replay, Number(join.since), join.limit, join.private], [1, 5, 3, 1])
  engine.broadcast(true, topic.slice(9), 'e', '{"n":2}', { id: 'id2' })
  engine.broadcast(true, topic.slice(9), 'e', '{"n":4}', { id: 'id4' })
  for (const [i, c] of clients.entries()) {
    await until(() => c.messages.some(m => m.payload?.payload?.n === 4), 'the live one')
    const got = c.messages.filter(m => m.event === 'broadcast').map(m => [m.payload.event, m.payload.payload?.n, m.payload.meta])
    const replayed = [1, 2, 3].map(n => ['e', n, { replayed: true, id: `id${n}` }])
    assert.deepEqual(got.filter(([event]) => event === 'e'), [...replayed, ['e', 4, { id: 'id4' }]])
    assert.equal(got.filter(([event]) => event === 'raw').length, i)
  }
  close(...clients)
  for (const [replay, kind, limit] of [[{ since: 1 }, 1, 25], [{ since: 1, limit: 99 }, 1, 25], [{ since: 1, limit: 0 }, 1, 1],
    [null, 0, 25], [undefined, 0, 25], [{}, 2, 25], [7, 2, 25], [{ since: '1' }, 2, 25], [{ since: -1 }, 2, 25], [{ since: 1, limit: 'x' }, 2, 25]]) {
    const c = await joinWith('2.0.0', replay)
    const { replay: asked, limit: n } = engine.log.filter(m => m.name === 'join').at(-1)
    assert.deepEqual([asked, asked === 2 ? 25 : n], [kind, limit], JSON.stringify(replay))
    close(c)
  }
}))

test('what is being stored reaches who joins meanwhile once, and in its place', () => withEngine({}, async engine => {
  const held = []
  engine.onjoin = m => { if (m.replay === 0) engine.joinReply(m.channel, [], 31); else held.push(m) }
  const stores = []
  engine.onpersist = m => stores.push(m)
  const [sender, member] = [await Client.open(engine.port), await Client.open(engine.port)]
  for (const c of [sender, member]) await c.join(topic, { config: { private: true } })
  const send = (n, persist = false) =>
    sender.raw(broadcastPush({ join_ref: '1', ref: String(n), topic, event: 'e', metadata: persist ? '{"persist":true}' : '', payload: `${n}` }))
  const heard = async c => {
    await c.heartbeat()
    return c.messages.filter(m => m.event === 'broadcast').map(m => m.payload.payload)
  }
  /* Joins that the engine handles before the messages, whose answers come when these were sent */
  const asks = async (vsn = '2.0.0', replay = { since: 1 }) => {
    const c = await Client.open(engine.port, { vsn })
    c.push({ join_ref: '1', ref: '1', topic, event: 'phx_join', payload: { config: { private: true, broadcast: { replay } } } })
    return c
  }
  const [before, old, after] = [await asks(), await asks('1.0.0'), await asks()]
  await until(() => held.length === 3, 'three joins')
  send(1, true)
  send(2)
  send(3, true)
  await until(() => stores.length === 2, 'two to be stored')
  for (const m of held.splice(0, 2)) {
    engine.joinReply(m.channel, [], 31)
    engine.replay(m.channel, 'e', 1, '0', 'past')
  }
  await before.reply('1')
  await old.reply('1')
  send(4)
  await until(async () => (await heard(member)).length === 4, 'the fourth')
  assert.deepEqual(await heard(before), [0, 1, 3, 4])
  engine.persistReply(stores[0])
  engine.persistReply(stores[1], 'query_canceled')
  /* and one that the engine handles after them, all but the last of which it replays */
  engine.joinReply(held[0].channel, [], 31)
  engine.replay(held[0].channel, 'e', 1, '1', stores[0].id)
  await after.reply('1')
  send(5)
  await until(async () => (await heard(member)).length === 5, 'the fifth')
  assert.deepEqual(await heard(before), [0, 1, 3, 4, 5])
  assert.deepEqual(await heard(old), [0, 1, 3, 4, 5])
  assert.deepEqual(await heard(after), [1, 5])
  assert.deepEqual(await heard(member), [1, 2, 3, 4, 5])

  /* nobody sends anything more: it comes with the answer */
  const last = await asks()
  await until(() => held.length === 2, 'the join')
  send(6, true)
  await until(() => stores.length === 3, 'a message to be stored')
  engine.joinReply(held[1].channel, [], 31)
  await last.reply('1')
  assert.deepEqual(await heard(last), [])
  sender.close()
  engine.persistReply(stores[2])
  await until(async () => (await heard(last)).length === 1, 'the message')
  /* who does not ask for the past gets none, nor does who may not read */
  const [plain, blind] = [await Client.open(engine.port), await asks()]
  await plain.join(topic, { config: { private: true } })
  await until(() => held.length === 3, 'the join')
  member.raw(broadcastPush({ join_ref: '1', ref: '7', topic, event: 'e', metadata: '{"persist":{"ttl":5}}', payload: '7' }))
  const stored = await engine.wait('persist', m => m.payload === '7')
  assert.deepEqual([stored.ttl, stored.event, stored.json, stored.ref], [5, 'e', 1, null])
  engine.joinReply(held[2].channel, [], 2)
  const late = await Client.open(engine.port)
  await late.join(topic, { config: { private: true } })
  engine.persistReply(stored)
  engine.persistReply(stored)
  await blind.reply('1')
  await engine.settled()
  assert.deepEqual([await heard(plain), await heard(blind), await heard(late)], [[7], [], []])
  close(member, before, old, after, last, plain, blind, late)
}))

test('a burst from one sender leaves in few writes, and nothing waits', () => withEngine({ max_messages_per_second: 0 }, async engine => {
  const receivers = []
  for (let i = 0; i < 20; i++) receivers.push(await member(engine))
  const sender = await member(engine)
  const burst = []
  for (let n = 0; n < 2000; n++) burst.push(broadcastPush({ join_ref: '1', ref: '2', topic, event: 'e', payload: `${n}` }))
  const whole = Buffer.concat(burst)
  /* the last message is cut: what came before it must not wait for the rest */
  sender.raw(whole.subarray(0, whole.length - 10))
  for (const c of receivers) await until(() => c.messages.length === 1999, 'all but one')
  sender.raw(whole.subarray(whole.length - 10))
  for (const c of receivers) {
    await until(() => c.messages.length === 2000, 'the last')
    assert.deepEqual(c.messages.map(m => m.payload.payload), Array.from({ length: 2000 }, (_, n) => n))
  }
  /* a sender that leaves in the midst of its burst */
  sender.raw(whole)
  sender.close()
  await sleep(50)
  const other = await member(engine)
  binaryPush(other, 'e', '"last"')
  for (const c of receivers) await c.take(m => m.payload.payload === 'last')
  close(...receivers, other)
}))

run('broadcast')
