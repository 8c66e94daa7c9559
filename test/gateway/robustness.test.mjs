/*
 * What clients, the network and the engine can do wrong.  Beside the one who
 * misbehaves there is a bystander, who must miss nothing.
 */
import fs from 'node:fs'
import crypto from 'node:crypto'
import { Body, Engine, EVENT, HELLO, JOIN_REPLY, LEAVE, SYSTEM } from './engine.mjs'
import { BINARY, CLOSE, Client, PING, PONG, TEXT, closed, frame, handshake } from './client.mjs'
import { connect, reset } from './transport.mjs'
import { test, run, assert, sleep, until } from './tap.mjs'

async function withEngine(config, use) {
  const engine = await Engine.start(config)
  try { await use(engine) } finally { await engine.stop() }
}

/*
 * Run the test beside a client that receives an event every few milliseconds,
 * and check that it got them all, in order.
 */
const withBystander = (config, use) => withEngine(config, async engine => {
  const group = 4000000000
  engine.groupOf = (m, i) => m.topic === 'bystander' ? group : 1 + i
  const bystander = await Client.open(engine.port)
  await bystander.join('realtime:bystander', { changes: [{}] })
  let n = 0
  const timer = setInterval(() => engine.event([group], { n: n++ }), 3)
  const heart = setInterval(() => bystander.push({ topic: 'phoenix', event: 'heartbeat', ref: 'beat' }), 300)
  try {
    await use(engine)
    await sleep(20)
  } finally { clearInterval(timer); clearInterval(heart) }
  bystander.events = () => bystander.messages.filter(m => m.event === 'postgres_changes')
  await until(() => bystander.events().length >= n, `the bystander has ${bystander.events().length} of ${n}, closed ${JSON.stringify(bystander.closed)}`)
  assert.deepEqual(bystander.events().map(m => m.payload.data.n), Array.from({ length: n }, (_, i) => i))
  bystander.close()
})

test('malformed messages are dropped, the connection is kept', () => withBystander({}, async engine => {
  const v2 = ['', ' ', 'x', '{', '[', '[]', '{}', 'null', '1', '"x"', '[1,2,3,4]', '[null,null,"phoenix","heartbeat"]',
    '[null,"1",null,"heartbeat",{}]', '[null,"1","phoenix",7,{}]', '[null,{},"phoenix","heartbeat",{}]', '[[],"1","phoenix","heartbeat",{}]',
    '[null,true,"phoenix","heartbeat",{}]', '[null,"1","phoenix","heartbeat",{}]x', '[null,"1","phoenix","heartbeat",{]', '\0', '[null,"1","a\\u0000b","x",{}]',
    '{"topic":"phoenix","event":"heartbeat","payload":{},"ref":"1"}', `[null,"${'1'.repeat(300)}","phoenix","heartbeat",{}]`,
    `[null,"1","realtime:${'x'.repeat(5000)}","phx_join",{}]`, `[null,"1","phoenix","${'x'.repeat(300)}",{}]`, '['.repeat(100000), '{"a":'.repeat(50000),
    '[null,"1","phoenix\\ud800","heartbeat",{}]', '[null,"1","phoenix","heart\\u0000beat",{}]', '[null,"\\udc00","phoenix","heartbeat",{}]',
    '[null,"1","phoenix","heartbeat",01]', '[null,"1","phoenix","heartbeat",{"a":1,}]', '[null,"1","phoenix","heartbeat",{},]', '\ufeff[null,"1","phoenix","heartbeat",{}]']
  const start = Date.now()
  const v1 = [...v2.filter(t => !t.startsWith('{"topic"')), '[null,"1","phoenix","heartbeat",{}]', '{"topic":"phoenix"}', '{"topic":"phoenix","event":"heartbeat","ref":"1"}',
    '{"topic":1,"event":"heartbeat","payload":{},"ref":"1"}', '{"topic":"phoenix","event":null,"payload":{},"ref":"1"}']
  for (const [vsn, texts] of [['2.0.0', v2], ['1.0.0', v1]]) {
    const client = await Client.open(engine.port, { vsn })
    for (const text of texts) {
      client.text(text)
      assert.equal((await client.heartbeat()).payload.status, 'ok')
      assert.deepEqual(client.messages, [], JSON.stringify(text.slice(0, 80)))
    }
    client.close()
  }
  await until(() => /malformed text message of \d+ bytes/.test(engine.stderr), 'the log')
  /* ten lines in ten seconds, and how many were left out */
  const most = 11 * (1 + Math.ceil((Date.now() - start) / 9000))
  assert.ok(engine.stderr.split('\n').length <= most, 'the log is rate limited')
}))

test('malformed binary frames are dropped', () => withBystander({}, async engine => {
  const client = await Client.open(engine.port)
  await client.join('realtime:x', { config: { broadcast: { ack: true } } })
  const text = Buffer.from('1' + '7' + 'realtime:x' + 'ev')
  const bad = [[], [3], [0, 0, 0, 0], [4, 1, 1, 10, 2, 0, 1], [3, 1, 1, 10, 2, 0, 2, ...text], [3, 255, 255, 255, 255, 255, 1, ...text],
    [3, 1, 1, 10, 2, 200, 1, ...text], [3, 1, 1, 10, 2, 0, 1, ...text], [3, 1, 1, 10, 2, 0, 1, ...text, 123], [3, 1, 1, 10, 2, 1, 0, ...text, 120],
    [3, 1, 1, 10, 2, 2, 0, ...text, 91, 93], [3, 1, 1, 10, 2, 0, 1, ...text, 0x22, 0xff, 0x22], [3, 1, 1, 10, 2, 0, 1, ...text.subarray(0, 13), 0, 49]]
  for (const bytes of bad) {
    client.raw(frame(BINARY, Buffer.from(bytes)))
    await client.heartbeat()
    assert.deepEqual(client.messages, [], JSON.stringify(bytes))
  }
  for (let i = 0; i < 300; i++) client.raw(frame(BINARY, crypto.randomBytes(i)))
  await client.heartbeat()
  client.messages = []
  client.raw(frame(BINARY, Buffer.from([3, 1, 1, 10, 2, 0, 0, ...text, 1, 2, 3])))
  assert.equal((await client.reply('7')).payload.status, 'ok')
  const v1 = await Client.open(engine.port, { vsn: '1.0.0' })
  v1.raw(frame(BINARY, Buffer.from([3, 1, 1, 10, 2, 0, 0, ...text])))
  await v1.heartbeat()
  v1.close()
  client.close()
}))

test('frames against the WebSocket protocol close the connection with 1002 or 1007', () => withBystander({}, async engine => {
  const cases = [
    [1002, frame(3, 'x')], [1002, frame(7, 'x')], [1002, frame(11, 'x')], [1002, frame(15, '')],
    [1002, frame(TEXT, 'x', { rsv: 0x40 })], [1002, frame(TEXT, 'x', { rsv: 0x10 })],
    [1002, frame(0, 'continuation of nothing')], [1002, frame(PING, 'x', { final: false })],
    [1002, Buffer.concat([frame(TEXT, 'a', { final: false }), frame(TEXT, 'b')])],
    [1007, frame(TEXT, Buffer.from([0x5b, 0xff, 0x5d]))], [1007, frame(TEXT, Buffer.from([0xc0, 0x80]))],
    [1007, Buffer.concat([frame(TEXT, Buffer.from([0xe2]), { final: false }), frame(0, Buffer.from([0x28]))])],
    [1007, frame(TEXT, Buffer.from([0xf0, 0x9f]))],
    [null, frame(PING, 'x'.repeat(126))], [null, frame(TEXT, '', { length: 0x8000000000000000n })],
  ]
  for (const [i, [code, bytes]] of cases.entries()) {
    const client = await Client.open(engine.port)
    client.raw(bytes)
    const close = await client.waitClosed()
    if (code !== null) assert.equal(close?.code, code, `case ${i}: ${bytes.toString('hex')}`)
  }
}))

test('random bytes behind the handshake', () => withBystander({}, async engine => {
  await Promise.all(Array.from({ length: 100 }, async () => {
    const client = await Client.open(engine.port)
    client.frame = () => {}
    client.raw(crypto.randomBytes(5000))
    await sleep(50)
    client.close()
  }))
}))

test('unmasked frames do no harm', () => withBystander({}, async engine => {
  /* libwebsockets accepts them, see websocket.c; what matters is that they are read rightly */
  const client = await Client.open(engine.port)
  client.text(client.encode({ ref: '1', topic: 'phoenix', event: 'heartbeat' }), { mask: false })
  assert.equal((await client.reply('1')).payload.status, 'ok')
  client.text('', { mask: false })
  client.text(client.encode({ ref: '2', topic: 'phoenix', event: 'heartbeat' }))
  await client.reply('2')
  client.close()
}))

test('fragments, empty fragments, pings in between, a large message in small pieces', () => withBystander({}, async engine => {
  const client = await Client.open(engine.port)
  const text = client.encode({ join_ref: '1', ref: '1', topic: 'realtime:x', event: 'phx_join', payload: { config: {}, filler: 'ü€\u{1f600}'.repeat(20000) } })
  const bytes = Buffer.from(text)
  client.raw(frame(TEXT, '', { final: false }))
  for (let at = 0; at < bytes.length; at += 997) {
    client.raw(frame(0, bytes.subarray(at, at + 997), { final: false }))
    if (at % 10 === 0) client.raw(frame(PING, 'p'))
  }
  client.raw(frame(0, ''))
  assert.equal((await client.reply('1')).payload.status, 'ok')
  assert.ok(client.pongs > 0)
  const whole = frame(TEXT, client.encode({ ref: '2', topic: 'phoenix', event: 'heartbeat', payload: { filler: 'x'.repeat(100000) } }))
  for (let at = 0; at < whole.length; at += 777) { client.raw(whole.subarray(at, at + 777)); if (at % 7 === 0) await sleep(0) }
  await client.reply('2')
  for (const c of frame(TEXT, client.encode({ ref: '3', topic: 'phoenix', event: 'heartbeat' }))) client.raw(Buffer.from([c]))
  await client.reply('3')
  client.raw(frame(PING, 'payload'))
  await new Promise(resolve => client.on('pong', p => { if (p.toString() === 'payload') resolve() }))
  client.raw(frame(PONG, 'unasked'))
  await client.heartbeat()
  client.raw(frame(CLOSE, Buffer.from([0x03, 0xe8])))
  assert.equal((await client.waitClosed()).code, 1000)
}))

test('messages that are too large: 1009, before they are sent', () => withBystander({ max_message_size: 10000 }, async engine => {
  const open = () => Client.open(engine.port)
  let client = await open()
  client.text('[null,"1","phoenix","heartbeat",{"x":"' + 'x'.repeat(9950) + '"}]')
  await client.reply('1')
  client.text('x'.repeat(10001))
  assert.deepEqual(await client.waitClosed(), { code: 1009, reason: 'message too big' })
  client = await open()
  client.raw(frame(TEXT, 'x', { length: 1e12 }))
  assert.equal((await client.waitClosed()).code, 1009)
  client = await open()
  client.raw(frame(BINARY, 'x'.repeat(6000), { final: false }))
  client.raw(frame(0, 'x'.repeat(6000)))
  assert.equal((await client.waitClosed()).code, 1009)
  client = await open()
  client.raw(frame(TEXT, 'x', { length: 0x7fffffffffffffffn }))
  assert.equal((await client.waitClosed()).code, 1009)
  client = await open()
  client.raw(frame(TEXT, 'x'.repeat(3000000)))
  assert.equal((await client.waitClosed()).code, 1009)
}))

test('a join that the link cannot carry is refused', () => withEngine({ max_message_size: 8000000 }, async engine => {
  const client = await Client.open(engine.port)
  const reply = await client.join('realtime:x', { changes: [{ filter: 'id=eq.' + 'x'.repeat(1100000) }] })
  assert.equal(reply.payload.response.reason, 'InvalidJoinPayload: The join is too large')
  const many = await client.join('realtime:y', { ref: '2', changes: Array(1001).fill({}) })
  assert.equal(many.payload.response.reason, 'InvalidJoinPayload: Too many postgres_changes')
  assert.equal((await client.join('realtime:z', { ref: '3', changes: Array(1000).fill({}) })).payload.status, 'ok')
  engine.event([5], {})
  assert.deepEqual((await client.event('postgres_changes')).payload.ids, [1004])
  client.close()
}))

test('max_joins_per_second: the answer, and 1001', () => withBystander({ max_joins_per_second: 10 }, async engine => {
  const client = await Client.open(engine.port)
  const start = Date.now()
  for (let i = 0; i < 200; i++) client.push({ join_ref: `${i}`, ref: `${i}`, topic: `realtime:t${i}`, event: 'phx_join' })
  assert.deepEqual(await client.waitClosed(), { code: 1001, reason: 'Too many joins per second' })
  /* ten at once, and one more for each tenth of a second that they took */
  const refused = client.messages.filter(m => m.payload.status === 'error')
  assert.deepEqual(refused.map(m => m.payload.response.reason), ['ClientJoinRateLimitReached: Too many joins per second'])
  const n = Number(refused[0].ref)
  assert.ok(n >= 10 && n <= 11 + (Date.now() - start) / 100, `${n} joins in ${Date.now() - start} ms`)
  await until(() => engine.log.filter(m => m.name === 'leave').length === n, 'leaves')
}))

test('max_messages_per_second: the channels end, the connection stays', () => withBystander({ max_messages_per_second: 50 }, async engine => {
  const client = await Client.open(engine.port)
  const topics = ['a', 'b']
  for (const t of topics) await client.join('realtime:' + t, { ref: t, changes: [{}] })
  for (let i = 0; i < 200; i++) client.push({ topic: 'phoenix', event: 'heartbeat', ref: 'x' })
  for (const t of topics) {
    const system = await client.take(m => m.event === 'system' && m.topic === 'realtime:' + t)
    assert.deepEqual(system.payload, { extension: 'system', status: 'error', message: 'Too many messages per second', channel: t })
    assert.equal((await client.take(m => m.event === 'phx_close' && m.topic === 'realtime:' + t)).ref, t)
  }
  await until(() => engine.log.filter(m => m.name === 'leave').length === 2, 'leaves')
  /* what comes too soon is not looked at */
  let again = 0
  await until(async () => {
    await sleep(500)
    return client.join('realtime:a', { ref: `again${again++}`, timeout: 1000 }).then(() => true, () => false)
  }, 'a join')
  client.close()
}))

test('a connection without channels is closed after no_channel_timeout', () => withBystander({}, async engine => {
  const [never, left, joined] = [await Client.open(engine.port), await Client.open(engine.port), await Client.open(engine.port)]
  for (const c of [left, joined]) await c.join('realtime:x')
  await engine.reconfigure({ no_channel_timeout: 2000 })
  const timer = setInterval(() => { for (const c of [never, left, joined]) c.push({ topic: 'phoenix', event: 'heartbeat', ref: 'h' }) }, 100)
  assert.deepEqual(await never.waitClosed(), { code: 1000, reason: 'no channel' })
  left.push({ join_ref: '1', ref: 'l', topic: 'realtime:x', event: 'phx_leave' })
  assert.deepEqual(await left.waitClosed(), { code: 1000, reason: 'no channel' })
  await joined.heartbeat()
  clearInterval(timer)
  joined.close()
}))

test('10,000 joins on one connection, each with its answer', () => withBystander({ max_channels_per_connection: 100, error_delay: 200, max_joins_per_second: 0, max_messages_per_second: 0 }, async engine => {
  const client = await Client.open(engine.port)
  for (let i = 0; i < 10000; i++)
    client.push({ join_ref: `${i}`, ref: `${i}`, topic: `realtime:t${i}`, event: 'phx_join', payload: { config: { postgres_changes: [{ event: '*', schema: 'public', table: 't' }] } } })
  await until(() => client.count >= 10000, 'answers')
  const ok = client.messages.filter(m => m.payload.status === 'ok')
  assert.equal(ok.length, 100)
  for (const m of client.messages.filter(m => m.payload.status !== 'ok'))
    assert.equal(m.payload.response.reason, 'ChannelRateLimitReached: Too many channels')
  client.close()
  await until(() => engine.log.filter(m => m.name === 'leave').length === 100, 'leaves')
}))

test('who has too much refused at once is disconnected', () => withBystander({ send_queue_size: 100000, error_delay: 5000, max_joins_per_second: 0, max_messages_per_second: 0 }, async engine => {
  const client = await Client.open(engine.port)
  for (let i = 0; i < 3000; i++) client.push({ ref: `${i}`, topic: 'realtime:', event: 'phx_join' })
  assert.deepEqual(await client.waitClosed(), { code: 1001, reason: 'Too many joins per second' })
}))

test('a client that does not read is closed, the others get everything', () => withBystander({ send_queue_size: 200000 }, async engine => {
  const slow = await Client.open(engine.port)
  const others = []
  for (let i = 0; i < 5; i++) others.push(await Client.open(engine.port, { vsn: i % 2 ? '1.0.0' : '2.0.0' }))
  for (const c of [slow, ...others]) { await c.join('realtime:flood', { changes: [{}] }); c.messages = []; c.count = 0 }
  slow.socket.pause()
  const filler = 'x'.repeat(3000)
  let sent = 0
  const slowChannel = engine.log.find(m => m.name === 'join' && m.topic === 'flood').channel
  while (!engine.log.some(m => m.name === 'leave' && m.channel === slowChannel)) {
    for (let i = 0; i < 20; i++) engine.event([1], { n: sent++, filler })
    for (const c of others) await until(() => c.count === sent, `events (${c.count} of ${sent}, ${JSON.stringify(c.closed)})`)
    assert.ok(sent < 50000, 'the slow client was not closed')
  }
  for (const c of others) {
    assert.deepEqual(c.messages.map(m => m.payload.data.n), Array.from({ length: sent }, (_, i) => i))
  }
  assert.equal((await engine.wait('stats', m => m.slow === 1)).slow, 1)
  /* when it reads again, what it gets is whole frames in order, then the end */
  slow.socket.resume()
  await slow.waitClosed()
  assert.deepEqual(slow.messages.map(m => m.payload.data.n), slow.messages.map((_, i) => i))
  assert.ok(slow.closed === null || slow.closed.code === 1013)
  for (const c of others) c.close()
}))

test('a slow client that reads on gets the reason', () => withBystander({ send_queue_size: 100000 }, async engine => {
  const slow = await Client.open(engine.port)
  await slow.join('realtime:flood', { changes: [{}] })
  slow.socket.pause()
  const filler = 'x'.repeat(10000)
  await engine.flood(() => engine.event([1], { filler }), () => engine.log.some(m => m.name === 'leave'), 'the end of its channel')
  slow.socket.resume()
  assert.deepEqual(await slow.waitClosed(), { code: 1013, reason: 'client too slow' })
}))

test('a client whose socket takes nothing for send_timeout is closed, though it talks', () => withBystander({ send_timeout: 1500, send_queue_size: 10000000 }, async engine => {
  const slow = await Client.open(engine.port)
  await slow.join('realtime:flood', { changes: [{}] })
  slow.socket.pause()
  const timer = setInterval(() => slow.push({ ref: 'h', topic: 'phoenix', event: 'heartbeat' }), 100)
  const filler = 'x'.repeat(100000)
  for (let i = 0; i < 60; i++) engine.event([1], { filler })
  await engine.wait('stats', m => m.slow === 1)
  clearInterval(timer)
  slow.socket.resume()
  await slow.waitClosed()
}))

test('who takes a large message slowly is not closed', () => withBystander({ send_timeout: 4000 }, async engine => {
  const slow = await Client.open(engine.port)
  await slow.join('realtime:flood', { changes: [{}] })
  engine.event([1], { filler: 'x'.repeat(30000000) })
  const start = Date.now()
  let taken = 0
  slow.socket.on('data', data => {
    taken += data.length
    if (taken > 1000000) slow.socket.pause()
  })
  while (slow.messages.length === 0) {
    assert.ok(!slow.ended, `closed with ${JSON.stringify(slow.closed)}`)
    await until(() => slow.socket.isPaused() || slow.messages.length > 0, 'bytes')
    await sleep(200)
    taken = 0
    slow.socket.resume()
  }
  assert.ok(Date.now() - start > 5000, 'it took its time')
  await slow.heartbeat()
  slow.close()
}))

/* An engine that keeps the events of a paused channel, and sends them later, slice by slice */
function servePauses(engine, channel, group) {
  const waiting = []
  let paused = false
  engine.onpause = m => { if (m.channel === channel) { paused = true; engine.bindings(channel, [[1000, 0]]) } }
  engine.oncontinue = m => { if (m.channel === channel) { paused = false; engine.bindings(channel, [[1000, group]]) } }
  /* nothing piles up on the link: what is under way when a client falls behind must fit into its queue */
  const timer = setInterval(() => {
    for (let i = 0; i < 20 && !paused && waiting.length > 0 && engine.link.writableLength === 0; i++) engine.event([group], waiting.shift())
  }, 1)
  return { emit: data => waiting.push(data), end: () => clearInterval(timer) }
}

test('a client that falls behind is paused, and gets everything when it reads again', () => withBystander({ send_queue_size: 1000000 }, async engine => {
  const client = await Client.open(engine.port)
  await client.join('realtime:flood', { ref: '1', changes: [{}] })
  await client.join('realtime:plain', { ref: '2' })
  const { channel } = await engine.wait('join', m => m.topic === 'flood')
  const { emit, end } = servePauses(engine, channel, 1)
  client.socket.pause()
  const filler = 'x'.repeat(3000)
  let n = 0
  for (; n < 4000; n++) emit({ n, filler })
  await engine.wait('pause')
  /* who joins now is paused, once he is joined */
  client.push({ join_ref: '3', ref: '3', topic: 'realtime:late', event: 'phx_join', payload: { config: { postgres_changes: [{}] } } })
  const late = await engine.wait('join', m => m.topic === 'late')
  await engine.wait('pause', m => m.channel === late.channel)
  assert.ok(!engine.log.some(m => m.name === 'continue'))
  client.socket.resume()
  const events = () => client.messages.filter(m => m.topic === 'realtime:flood' && m.event === 'postgres_changes')
  await until(() => {
    assert.ok(!client.ended, `closed with ${JSON.stringify(client.closed)}`)
    return events().length === n
  }, 'all events')
  assert.deepEqual(events().map(m => m.payload.data.n), Array.from({ length: n }, (_, i) => i))
  for (const id of [channel, late.channel]) {
    const turns = () => engine.log.filter(m => m.channel === id && (m.name === 'pause' || m.name === 'continue')).map(m => m.name)
    await until(() => turns().length % 2 === 0, 'the last to go on')
    assert.deepEqual(turns(), turns().map((_, i) => i % 2 ? 'continue' : 'pause'))
  }
  const plain = engine.log.find(m => m.topic === 'plain').channel
  assert.ok(!engine.log.some(m => m.name === 'pause' && m.channel === plain))
  end()
  client.close()
}))

test('a client that leaves while it is paused, and an engine that does not read', () => withBystander({ send_queue_size: 200000 }, async engine => {
  const client = await Client.open(engine.port)
  await client.join('realtime:flood', { changes: [{}] })
  client.socket.pause()
  const filler = 'x'.repeat(10000)
  await engine.flood(() => engine.event([1], { filler }), () => engine.log.some(m => m.name === 'pause'), 'the pause')
  engine.link.pause()
  client.socket.resume()
  await sleep(100)
  client.close()
  await sleep(100)
  engine.link.resume()
  await engine.wait('leave')
}))

test('an event larger than the send queue reaches a client that reads', () => withEngine({ send_queue_size: 16384 }, async engine => {
  const client = await Client.open(engine.port)
  await client.join('realtime:x', { changes: [{}] })
  const filler = 'x'.repeat(20000000)
  engine.event([1], { filler })
  client.raw(frame(PING, ''))
  assert.equal((await client.event('postgres_changes')).payload.data.filler.length, filler.length)
  await client.heartbeat()
  client.close()
}))

test('a pong never lands inside of a frame', () => withEngine({ send_queue_size: 100000000 }, async engine => {
  const client = await Client.open(engine.port)
  await client.join('realtime:x', { changes: [{}] })
  client.messages = []
  for (let i = 0; i < 200; i++) {
    engine.event([1], { i, filler: 'y'.repeat(100000 + i * 997) })
    client.raw(frame(PING, 'p'.repeat(i % 100)))
    if (i % 10 === 0) { client.socket.pause(); await sleep(5); client.socket.resume() }
  }
  await until(() => client.messages.length === 200, 'events')
  assert.deepEqual(client.messages.map(m => m.payload.data.i), Array.from({ length: 200 }, (_, i) => i))
  client.close()
}))

test('silence for idle_timeout closes the connection', () => withEngine({ idle_timeout: 4000 }, async engine => {
  const [silent, lively] = [await Client.open(engine.port), await Client.open(engine.port)]
  const timer = setInterval(() => lively.push({ ref: '1', topic: 'phoenix', event: 'heartbeat' }), 200)
  const start = Date.now()
  await silent.join('realtime:x')
  assert.deepEqual(await silent.waitClosed(), { code: 1000, reason: 'idle timeout' })
  assert.ok(Date.now() - start >= 3000)
  await engine.wait('leave')
  await lively.heartbeat()
  clearInterval(timer)
  await engine.reconfigure({ idle_timeout: 0 })
  await sleep(3500)
  await lively.heartbeat()
  lively.close()
}))

test('600 connections that fall silent together are all told', () => withEngine({ idle_timeout: 1000 }, async engine => {
  const clients = []
  for (let i = 0; i < 600; i++) clients.push(await Client.open(engine.port))
  await Promise.all(clients.map(async c => assert.deepEqual(await c.waitClosed(), { code: 1000, reason: 'idle timeout' })))
  await engine.wait('stats', m => m.connections === 0)
}))

test('LINK_SHUTDOWN closes everybody, and the gateway ends', async () => {
  for (const [why, code] of [[0, 1012], [1, 1001]]) {
    const engine = await Engine.start({ shutdown_spread: 60000 })
    const clients = []
    for (let i = 0; i < 200; i++) clients.push(await Client.open(engine.port))
    await clients[0].join('realtime:x', { changes: [{}] })
    engine.event([1], { last: true })
    engine.shutdown(why)
    const start = Date.now()
    for (const c of clients) assert.equal((await c.waitClosed()).code, code)
    assert.deepEqual((await engine.exit), { code: 0, signal: null })
    assert.ok(Date.now() - start < 40000)
    assert.equal(clients[0].messages.at(-1).payload.data.last, true)
    await engine.stop()
  }
})

test('the end of the link ends the gateway, promptly', async () => {
  const engine = await Engine.start()
  const client = await Client.open(engine.port)
  const start = Date.now()
  engine.link.destroy()
  assert.equal((await client.waitClosed()).code, 1012)
  assert.deepEqual(await engine.exit, { code: 0, signal: null })
  assert.ok(Date.now() - start < 15000)
  await engine.stop()
})

test('SIGTERM ends the gateway with 1012; SIGINT, SIGHUP and SIGPIPE do not', async () => {
  const engine = await Engine.start()
  const client = await Client.open(engine.port)
  for (const signal of ['SIGINT', 'SIGHUP', 'SIGPIPE']) engine.child.kill(signal)
  await sleep(50)
  await client.heartbeat()
  engine.child.kill('SIGTERM')
  assert.equal((await client.waitClosed()).code, 1012)
  await engine.stop()
})

test('malformed messages on the link end the gateway, cleanly', async () => {
  const u32 = n => new Body().u32(n)
  const cases = [
    e => e.send(HELLO, u32(1).u32(1)), e => e.send(0, u32(1)), e => e.send(99, u32(1)), e => e.send(LEAVE, new Body().u64(1)),
    e => e.send(EVENT, u32(1)), e => e.send(EVENT, new Body().u64(1).u64(2).u32(3).u32(0xffffffff)),
    e => e.send(EVENT, new Body().u64(1).u64(2).u32(3).u32(0).string(null)),
    e => e.send(EVENT, new Body().u64(1).u64(2).u32(3).u32(0).string('{}').u8(0)),
    e => e.send(JOIN_REPLY, new Body().u64(1).u8(1).u8(15).string(null).u32(5)), e => e.send(SYSTEM, new Body().u64(1).string('a').string('b').string('c').u8(9)),
    e => e.joinReply(1, [[1, 1], [2, 2]]), e => e.authReply(1, 302, 'x'),
    e => e.link.write(Buffer.from('ffffffff05000000', 'hex')), e => e.link.write(crypto.randomBytes(1000)),
  ]
  for (const [i, act] of cases.entries()) {
    const engine = await Engine.start()
    const client = await Client.open(engine.port)
    await client.join('realtime:x', { changes: [{}] })
    act(engine)
    if (i !== cases.length - 1) assert.deepEqual(await engine.exit, { code: 0, signal: null }, `case ${i}`)
    await engine.stop()
  }
  for (const [version, listeners] of [[2, 1], [1, 65], [1, 5]]) {
    const engine = await Engine.start({}, { silent: true })
    engine.send(HELLO, u32(version).u32(listeners))
    const { code, signal } = await engine.exit
    assert.equal(signal, null)
    assert.ok(code === 0 || code === 1)
  }
})

test('messages of the link in single bytes and in heaps', () => withEngine({}, async engine => {
  const client = await Client.open(engine.port)
  await client.join('realtime:x', { changes: [{}] })
  client.messages = []
  const write = engine.link.write.bind(engine.link)
  engine.link.write = bytes => { for (const b of bytes) write(Buffer.from([b])) }
  for (let i = 0; i < 20; i++) engine.event([1], { i })
  engine.link.write = write
  engine.link.cork()
  for (let i = 20; i < 5000; i++) engine.event([1], { i })
  engine.link.uncork()
  await until(() => client.messages.length === 5000, 'events')
  assert.deepEqual(client.messages.map(m => m.payload.data.i), Array.from({ length: 5000 }, (_, i) => i))
  client.close()
}))

test('an engine that does not read: joins are refused, memory is bounded, nobody waits', () => withEngine({ max_channels_per_connection: 100000, max_joins_per_second: 0, max_messages_per_second: 0 }, async engine => {
  const client = await Client.open(engine.port)
  engine.link.pause()
  const topic = 'x'.repeat(3000)
  let n = 0
  client.push({ ref: 'h', topic: 'phoenix', event: 'heartbeat' })
  await client.reply('h')
  while (!client.messages.some(m => m.payload.status === 'error')) {
    for (let i = 0; i < 100; i++, n++) client.push({ join_ref: `${n}`, ref: `${n}`, topic: `realtime:${topic}${n}`, event: 'phx_join' })
    await client.heartbeat()
    assert.ok(n < 10000)
  }
  assert.match(client.messages[0].payload.response.reason, /^RealtimeRestarting: /)
  engine.link.resume()
  await until(() => client.count > n, 'answers')
  assert.equal((await client.join('realtime:after', { ref: 'after' })).payload.status, 'ok')
  client.close()
  await until(() => engine.log.filter(m => m.name === 'leave').length === engine.log.filter(m => m.name === 'join').length, 'leaves')
}))

test('2,000 connections come and go in every way; memory and descriptors come back', () => withBystander({}, async engine => {
  const resident = () => Number(/VmRSS:\s+(\d+)/.exec(fs.readFileSync(`/proc/${engine.child.pid}/status`, 'utf8'))[1])
  const descriptors = () => fs.readdirSync(`/proc/${engine.child.pid}/fd`).length
  const before = descriptors()
  let middle
  for (let round = 0; round < 40; round++) {
    await Promise.all(Array.from({ length: 50 }, async (_, i) => {
      if (i % 10 === 9) {
        const socket = connect({ port: engine.port })
        socket.on('error', () => {})
        socket.write(handshake('/socket/websocket?apikey=x').slice(0, i))
        await sleep(5)
        socket.destroy()
        return
      }
      const client = await Client.open(engine.port, { vsn: i % 2 ? '1.0.0' : '2.0.0' })
      client.push({ join_ref: '1', ref: '1', topic: 'realtime:x' + i % 3, event: 'phx_join', payload: { config: { postgres_changes: [{}, {}] } } })
      if (i % 3 === 0) await client.reply('1')
      if (i % 5 === 0) client.raw(frame(TEXT, 'part', { final: false }))
      if (i % 4 === 0) reset(client.socket)
      else if (i % 4 === 1) { client.raw(frame(CLOSE, '')); await client.waitClosed() }
      else client.close()
    }))
    if (round === 20) middle = resident()
  }
  await until(() => descriptors() <= before, () => `descriptors (${descriptors()}, before ${before})`)
  await engine.settled()
  const count = name => engine.log.filter(m => m.name === name).length
  assert.equal(count('leave'), count('join') - 1)
  if (!process.env.SANITIZED) assert.ok(resident() - middle < 2000, `${middle} kB became ${resident()} kB`)
}))

run('robustness')
