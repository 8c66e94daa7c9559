/*
 * Phoenix channels: joining, leaving, tokens, events, and who gets what.
 */
import { Engine } from './engine.mjs'
import { Client } from './client.mjs'
import { test, run, assert, sleep, until } from './tap.mjs'

const versions = ['1.0.0', '2.0.0']

async function withEngine(config, use) {
  const engine = await Engine.start(config)
  try { await use(engine) } finally { await engine.stop() }
}

/* Run the test once with each version, each with a client of its own. */
const both = (config, use) => withEngine(config, async engine => {
  for (const vsn of versions) {
    const client = await Client.open(engine.port, { vsn })
    await use(engine, client, vsn === '2.0.0')
    client.close()
  }
})

const last = engine => engine.log.filter(m => m.name === 'join').at(-1)
const count = (engine, name) => engine.log.filter(m => m.name === name).length

test('heartbeat', () => both({}, async (engine, client, v2) => {
  client.push({ ref: '15', topic: 'phoenix', event: 'heartbeat' })
  const reply = await client.reply('15')
  assert.equal(reply.text, v2 ? '[null,"15","phoenix","phx_reply",{"status":"ok","response":{}}]'
    : '{"topic":"phoenix","event":"phx_reply","payload":{"status":"ok","response":{}},"ref":"15"}')
  client.push({ ref: '16', topic: 'phoenix', event: 'other' })
  assert.deepEqual((await client.reply('16')).payload, { status: 'error', response: { reason: 'unmatched topic' } })
}))

test('a join echoes each binding, in order, and adds its id', () => both({}, async (engine, client) => {
  const changes = [
    { event: '*', schema: 'public', table: 'todos' },
    null,
    { event: 'INSERT', schema: 'public', table: 'todos', filter: 'id=eq.1', select: ['id', 'ü"\\\n'], extra: { a: [1, 2.5, null, true] } },
    { event: 'UPDATE', schema: '*', filter: '' },
    { table: null, event: 'DELETE', id: 'mine' },
    {}, 'junk', 7,
  ]
  const reply = await client.join('realtime:röom:1', { ref: '6', changes })
  assert.equal(reply.payload.status, 'ok')
  const kept = changes.filter(c => c && typeof c === 'object').map(({ id, ...c }) => c)
  const echoed = reply.payload.response.postgres_changes
  assert.deepEqual(echoed.map(({ id, ...c }) => c), kept)
  assert.deepEqual(echoed.map(c => c.id), [1000, 1001, 1002, 1003, 1004])
  const join = last(engine)
  assert.equal(join.topic, 'röom:1')
  assert.deepEqual(join.bindings, [
    { event: '*', schema: 'public', table: 'todos', filter: null, options: null, select: null },
    { event: 'INSERT', schema: 'public', table: 'todos', filter: 'id=eq.1', options: null, select: ['id', 'ü"\\\n'] },
    { event: 'UPDATE', schema: '*', table: null, filter: '', options: null, select: null },
    { event: 'DELETE', schema: null, table: null, filter: null, options: null, select: null },
    { event: null, schema: null, table: null, filter: null, options: null, select: null },
  ])
}))

test('what selects rows is passed on even when it is of the wrong type', () => withEngine({}, async engine => {
  const client = await Client.open(engine.port)
  await client.join('realtime:a', { changes: [
    { table: 5, filter: ['foo', 'hey'], select: 'x' }, { filter: { a: 1 }, select: ['a', 3, null] }, { filter: true, select: [] }, { select: {} }] })
  assert.deepEqual(last(engine).bindings.map(b => [b.table, b.filter, b.select]), [
    ['5', '["foo","hey"]', [null]], [null, '{"a":1}', ['a', null, null]], [null, 'true', []], [null, null, [null]]])
  client.close()
}))

test('joins without bindings, without config, with odd payloads', () => both({}, async (engine, client, v2) => {
  for (const [i, payload] of [{}, { config: null }, { config: { postgres_changes: null } }, { config: { postgres_changes: {} } },
    { config: [] }, [], null, 'x', 1, { config: { broadcast: 1, presence: 'x', private: [], postgres_changes: [[], 1, null] } }].entries()) {
    client.push({ join_ref: `${i}`, ref: `${i}`, topic: 'realtime:t' + i, event: 'phx_join', payload })
    const reply = await client.reply(`${i}`)
    assert.deepEqual(reply.payload, { status: 'ok', response: { postgres_changes: [] } })
    if (v2) assert.equal(reply.join_ref, `${i}`)
  }
}))

test('private, wait, and booleans as strings', () => withEngine({}, async engine => {
  const client = await Client.open(engine.port)
  for (const [value, expected] of [[true, 1], [false, 0], ['true', 1], ['True', 1], ['false', 0], ['yes', 0], [1, 0], [null, 0]]) {
    await client.join('realtime:x', { ref: String(Math.random()), config: { private: value, postgres_changes_options: { wait: value } } })
    assert.deepEqual([last(engine).private, last(engine).wait], [expected, expected], String(value))
  }
  client.close()
}))

test('the reply comes only when the engine has answered', () => withEngine({}, async engine => {
  engine.onjoin = () => {}
  const client = await Client.open(engine.port)
  client.push({ join_ref: '1', ref: '1', topic: 'realtime:a', event: 'phx_join', payload: { config: { postgres_changes: [{}] } } })
  const { channel } = await engine.wait('join')
  assert.deepEqual(await engine.drain(client), [])
  engine.joinReply(channel, [[77, 9]])
  engine.event([9], { n: 1 })
  assert.equal((await client.reply('1')).payload.response.postgres_changes[0].id, 77)
  assert.deepEqual((await client.event('postgres_changes')).payload, { ids: [77], data: { n: 1 } })
  client.close()
}))

test('presence_state follows the reply if presence is enabled', () => both({}, async (engine, client, v2) => {
  await client.join('realtime:p', { ref: '3', config: { presence: { enabled: true, key: 'k' } } })
  const state = await client.event('presence_state')
  assert.deepEqual(state.payload, {})
  assert.equal(state.ref, null)
  if (v2) assert.equal(state.join_ref, null)
  await client.join('realtime:q', { ref: '4', config: { presence: { enabled: false } } })
  assert.deepEqual(await engine.drain(client), [])
}))

test('tokens of a join', () => withEngine({}, async engine => {
  const client = await Client.open(engine.port, { token: 'apikey' })
  let n = 0
  const token = async payload => { await client.join('realtime:x' + n, { ref: String(++n), payload }); return last(engine).token }
  assert.equal(await token({}), 'apikey')
  assert.equal(await token({ access_token: 'mine' }), 'mine')
  assert.equal(await token({ access_token: null }), 'apikey')
  assert.equal(await token({ access_token: '' }), 'apikey')
  assert.equal(await token({ access_token: 'sb_publishable_x' }), 'apikey')
  assert.equal(await token({ access_token: { a: 1 } }), 'apikey')
  assert.equal(await token({ user_token: 'old' }), 'old')
  client.close()
}))

test('access_token: only a new token reaches the engine, and there is no reply', () => both({}, async (engine, client) => {
  await client.join('realtime:x', { ref: '1', payload: { access_token: 'one' } })
  const { channel } = last(engine)
  const before = count(engine, 'token')
  const push = access_token => client.push({ join_ref: '1', ref: 't', topic: 'realtime:x', event: 'access_token', payload: { access_token } })
  for (const same of ['one', null, 'sb_secret_x', 7, '']) push(same)
  push('two'); push('two'); push('one')
  assert.deepEqual(await engine.drain(client), [])
  await engine.settled()
  assert.deepEqual(engine.log.filter(m => m.name === 'token').slice(before).map(m => [m.channel, m.token]), [[channel, 'two'], [channel, 'one']])
}))

test('refused joins are answered after error_delay, and can be repeated', () => withEngine({ error_delay: 300 }, async engine => {
  engine.onjoin = m => engine.joinRefuse(m.channel, 'Unauthorized: You do not have permissions to read from this Channel topic: "a"')
  const client = await Client.open(engine.port)
  for (let i = 1; i <= 2; i++) {
    const start = Date.now()
    const reply = await client.join('realtime:a', { ref: String(i) })
    assert.deepEqual(reply.payload, { status: 'error', response: { reason: 'Unauthorized: You do not have permissions to read from this Channel topic: "a"' } })
    assert.equal(reply.join_ref, String(i))
    assert.ok(Date.now() - start >= 280)
  }
  client.push({ join_ref: '2', ref: 'x', topic: 'realtime:a', event: 'broadcast' })
  assert.equal((await client.reply('x')).payload.response.reason, 'unmatched topic')
  /* a connection that ends meanwhile takes its refusals along */
  client.push({ ref: '9', topic: 'realtime:', event: 'phx_join' })
  client.close()
  await sleep(400)
}))

test('topics: empty, foreign, unknown', () => both({}, async (engine, client) => {
  assert.deepEqual((await client.join('realtime:', { ref: '1' })).payload,
    { status: 'error', response: { reason: 'TopicNameRequired: You must provide a topic name' } })
  for (const topic of ['other:x', 'realtime', '', 'Realtime:x', ' realtime:x'])
    assert.deepEqual((await client.join(topic, { ref: '2' })).payload, { status: 'error', response: { reason: 'unmatched topic' } })
  client.push({ join_ref: '8', ref: '3', topic: 'realtime:no', event: 'broadcast' })
  const reply = await client.reply('3')
  assert.deepEqual(reply.payload, { status: 'error', response: { reason: 'unmatched topic' } })
  assert.ok(!reply.join_ref)
  client.push({ join_ref: '8', ref: '4', topic: 'realtime:no', event: 'phx_leave' })
  assert.deepEqual((await client.reply('4')).payload, { status: 'ok', response: {} })
}))

test('phx_leave: reply, phx_close, and nothing more', () => both({}, async (engine, client, v2) => {
  await client.join('realtime:x', { ref: '6', changes: [{}] })
  const { channel } = last(engine)
  client.push({ join_ref: '6', ref: '16', topic: 'realtime:x', event: 'phx_leave' })
  const reply = await client.reply('16')
  const close = await client.event('phx_close')
  if (v2) {
    assert.equal(reply.text, '["6","16","realtime:x","phx_reply",{"status":"ok","response":{}}]')
    assert.equal(close.text, '["6","6","realtime:x","phx_close",{}]')
  } else assert.equal(close.text, '{"topic":"realtime:x","event":"phx_close","payload":{},"ref":"6"}')
  await engine.wait('leave', m => m.channel === channel)
  engine.event([1], {})
  engine.system(channel, 'system', 'error', 'late', 1)
  engine.bindings(channel, [[1, 1]])
  engine.joinReply(channel, [[1, 1]])
  assert.deepEqual(await engine.drain(client), [])
}))

test('a second join replaces the first', () => both({}, async (engine, client, v2) => {
  engine.groupOf = (m, i) => m.channel * 10 + i
  await client.join('realtime:x', { ref: '1', changes: [{}] })
  const first = last(engine).channel
  await client.join('realtime:x', { ref: '2', changes: [{}] })
  const second = last(engine).channel
  const close = await client.event('phx_close')
  assert.equal(close.ref, '1')
  if (v2) assert.equal(close.join_ref, '1')
  await engine.wait('leave', m => m.channel === first)
  engine.event([first * 10], { n: 1 })
  engine.event([second * 10], { n: 2 })
  assert.deepEqual((await engine.drain(client)).map(m => m.payload.data), [{ n: 2 }])
  /* a leave of the instance that is gone leaves the present one alone */
  client.push({ join_ref: '1', ref: '9', topic: 'realtime:x', event: 'phx_leave' })
  assert.equal((await client.reply('9')).payload.status, 'ok')
  engine.event([second * 10], { n: 3 })
  assert.deepEqual((await engine.drain(client)).map(m => m.payload.data), [{ n: 3 }])
  assert.equal(engine.log.filter(m => m.name === 'leave' && m.channel === second).length, 0)
}))

test('joins that overtake their replies: each is closed once', () => withEngine({}, async engine => {
  engine.onjoin = () => {}
  const client = await Client.open(engine.port)
  for (const ref of ['1', '2', '3']) client.push({ join_ref: ref, ref, topic: 'realtime:x', event: 'phx_join' })
  await engine.wait('join', m => m.channel === 3)
  for (const id of [1, 2, 3]) engine.joinReply(id, [])
  assert.equal((await client.reply('3')).payload.status, 'ok')
  assert.deepEqual((await engine.drain(client)).map(m => [m.event, m.ref]), [['phx_close', '1'], ['phx_close', '2']])
  /* and when the last one is refused */
  client.push({ join_ref: '4', ref: '4', topic: 'realtime:x', event: 'phx_join' })
  await engine.wait('join', m => m.channel === 4)
  engine.joinRefuse(4, 'no')
  assert.equal((await client.event('phx_close')).ref, '3')
  assert.equal((await client.reply('4')).payload.status, 'error')
  client.close()
}))

test('max_channels_per_connection', () => withEngine({ max_channels_per_connection: 3 }, async engine => {
  const client = await Client.open(engine.port)
  for (let i = 0; i < 3; i++) await client.join('realtime:' + i, { ref: String(i) })
  assert.deepEqual((await client.join('realtime:4', { ref: 'x' })).payload,
    { status: 'error', response: { reason: 'ChannelRateLimitReached: Too many channels' } })
  assert.equal((await client.join('realtime:1', { ref: 'y' })).payload.status, 'ok')
  client.push({ join_ref: '0', ref: 'z', topic: 'realtime:0', event: 'phx_leave' })
  await client.reply('z')
  assert.equal((await client.join('realtime:4', { ref: 'w' })).payload.status, 'ok')
  client.close()
}))

test('system messages, and what they are followed by', () => both({}, async (engine, client, v2) => {
  for (const [then, event] of [[0, null], [1, 'phx_close'], [2, 'phx_error']]) {
    await client.join('realtime:a:b', { ref: '5' })
    const { channel } = last(engine)
    engine.system(channel, 'postgres_changes', 'error', 'say "no"\n', then)
    const system = await client.event('system')
    assert.deepEqual(system.payload, { extension: 'postgres_changes', status: 'error', message: 'say "no"\n', channel: 'a:b' })
    assert.equal(system.ref, null)
    if (v2) assert.equal(system.join_ref, '5')
    if (event) {
      const close = await client.event(event)
      assert.equal(close.ref, '5')
      await engine.wait('leave', m => m.channel === channel)
    }
    client.push({ join_ref: '5', ref: 'l', topic: 'realtime:a:b', event: 'phx_leave' })
    await client.reply('l')
    await engine.drain(client)
  }
}))

test('events: version, ids, order, and one message for several bindings', () => withEngine({}, async engine => {
  const v1 = await Client.open(engine.port, { vsn: '1.0.0' })
  const v2 = await Client.open(engine.port)
  for (const c of [v1, v2]) await c.join('realtime:room1', { changes: [{ event: '*' }, { event: 'INSERT' }, { event: 'DELETE' }] })
  const data = '{"type":"INSERT","record":{"id":1,"n":12345678901234567890.5,"t":"ü\\u0000"}}'
  engine.event([1], data)
  assert.equal((await v2.event('postgres_changes')).text, `[null,null,"realtime:room1","postgres_changes",{"ids":[1000],"data":${data}}]`)
  assert.equal((await v1.event('postgres_changes')).text, `{"topic":"realtime:room1","event":"postgres_changes","payload":{"ids":[1000],"data":${data}},"ref":null}`)
  engine.event([2, 1, 99, 2], { n: 1 })
  for (const c of [v1, v2]) assert.deepEqual((await c.event('postgres_changes')).payload, { ids: [1000, 1001], data: { n: 1 } })
  for (let i = 0; i < 500; i++) engine.event([1 + i % 3], { i })
  for (const c of [v1, v2]) {
    await until(() => c.count >= 503, 'all events')
    assert.deepEqual(c.messages.map(m => m.payload.data.i), Array.from({ length: 500 }, (_, i) => i))
    assert.deepEqual(c.messages.map(m => m.payload.ids[0]), Array.from({ length: 500 }, (_, i) => 1000 + i % 3))
    c.close()
  }
}))

test('equal ids of one channel are named once', () => withEngine({}, async engine => {
  engine.onjoin = m => engine.joinReply(m.channel, m.bindings.map(() => [5, 1]))
  const client = await Client.open(engine.port)
  await client.join('realtime:x', { changes: [{}, {}] })
  engine.event([1], {})
  assert.deepEqual((await client.event('postgres_changes')).payload.ids, [5])
  client.close()
}))

test('LINK_BINDINGS moves a channel to other groups', () => withEngine({}, async engine => {
  const client = await Client.open(engine.port)
  await client.join('realtime:x', { changes: [{}, {}] })
  const { channel } = last(engine)
  engine.bindings(channel, [[1000, 7], [1001, 0]])
  engine.event([1, 2], { n: 1 })
  engine.event([7], { n: 2 })
  engine.bindings(channel, [[1000, 0], [1001, 7]])
  engine.event([7], { n: 3 })
  assert.deepEqual((await engine.drain(client)).map(m => m.payload), [{ ids: [1000], data: { n: 2 } }, { ids: [1001], data: { n: 3 } }])
  client.close()
}))

test('the end of a transaction goes to the channels of the groups that want cursors', () => both({}, async (engine, client) => {
  for (const [ref, options] of [['1', { rtsync: { cursor: true } }], ['2', {}], ['3', { rtsync: { since: '1:2:3' } }]])
    await client.join(`realtime:"${ref}"`, { ref, changes: [{}, {}], config: options })
  engine.event([1], { n: 1 })
  engine.transactionEnd([2, 1, 99, 1], [10, 11, 0xffffffff])
  engine.transactionEnd([77])
  engine.transactionEnd([])
  const messages = await engine.drain(client)
  const ends = messages.filter(m => m.event === 'system')
  assert.equal(messages.length, 5)
  assert.deepEqual(ends.map(m => m.topic), ['realtime:"1"', 'realtime:"3"'])
  assert.deepEqual(ends[0].payload, {
    message: 'Transaction is complete', status: 'commit', extension: 'rtsync', rtsync: { cursor: 'a:b:ffffffff' } })
}))

test('a channel to which another form of a change follows gets the cursor of the change before', () => withEngine({}, async engine => {
  const channels = []
  engine.onjoin = m => { channels.push(m.channel); engine.joinReply(m.channel, [[1, 1], [2, 2]]) }
  const clients = []
  for (const rtsync of [{ cursor: true }, { cursor: true }, undefined]) {
    clients.push(await Client.open(engine.port))
    await clients.at(-1).join('realtime:same', { changes: [{}, {}], config: { rtsync } })
  }
  engine.event([1], { n: 1 }, [channels[1], channels[2], 12345])
  engine.event([1], { n: 2 })
  const cursors = async client => (await engine.drain(client)).map(m => m.payload.rtsync?.cursor)
  assert.deepEqual(await cursors(clients[0]), ['1:2:3', '1:2:3'])
  assert.deepEqual(await cursors(clients[1]), ['1:2:2', '1:2:3'])
  assert.deepEqual(await cursors(clients[2]), [undefined, undefined])
  for (const client of clients) client.close()
}))

test('many topics, ids and members in one change', () => withEngine({ max_channels_per_connection: 1000 }, async engine => {
  let n = 0
  engine.onjoin = m => engine.joinReply(m.channel, [[1 + n++ % 40, 1]])
  const clients = []
  for (let i = 0; i < 20; i++) {
    const c = await Client.open(engine.port, { vsn: versions[i % 2] })
    for (let t = 0; t < 10; t++) c.push({ join_ref: 'j', ref: 'j', topic: 'realtime:' + t, event: 'phx_join', payload: { config: { postgres_changes: [{}] } } })
    await until(() => c.count === 10, 'joins')
    c.ids = new Map(c.messages.map(m => [m.topic, m.payload.response.postgres_changes[0].id]))
    c.messages = []
    clients.push(c)
  }
  engine.event([1], { x: 1 })
  for (const c of clients) {
    await until(() => c.count === 20, 'events')
    for (const m of c.messages) assert.deepEqual(m.payload, { ids: [c.ids.get(m.topic)], data: { x: 1 } })
    assert.equal(new Set(c.messages.map(m => m.topic)).size, 10)
    c.close()
  }
}))

test('references are echoed as they came', () => both({}, async (engine, client, v2) => {
  client.push({ ref: 12, topic: 'phoenix', event: 'heartbeat' })
  assert.equal((await client.reply(12)).ref, 12)
  const odd = 'a"\\\u0001é\u{1f600}'
  client.push({ ref: odd, topic: 'phoenix', event: 'heartbeat' })
  assert.equal((await client.reply(odd)).ref, odd)
  client.push({ topic: 'phoenix', event: 'heartbeat', ref: null })
  assert.equal((await client.reply(null)).ref, null)
  if (!v2) {
    /* version 1 clients that send no join_ref are known by their ref */
    client.text('{"topic":"realtime:x","event":"phx_join","payload":{},"ref":"3"}')
    await client.reply('3')
    client.text('{"topic":"realtime:x","event":"phx_leave","payload":{},"ref":"4"}')
    await client.reply('4')
    assert.equal((await client.event('phx_close')).ref, '3')
  }
}))

test('statistics are reported', () => withEngine({}, async engine => {
  const client = await Client.open(engine.port)
  await client.join('realtime:x', { changes: [{}] })
  const stats = await engine.wait('stats', m => m.channels === 1)
  assert.equal(stats.connections, 1)
  assert.ok(stats.frames >= 1 && stats.bytes > 10 && stats.slow === 0)
  client.close()
  await engine.wait('stats', m => m.connections === 0 && m.channels === 0)
}))

test('two connections with the same topic do not touch each other', () => withEngine({}, async engine => {
  const [a, b] = [await Client.open(engine.port), await Client.open(engine.port)]
  await a.join('realtime:x', { changes: [{}] })
  await b.join('realtime:x', { changes: [{}] })
  a.push({ join_ref: '1', ref: '2', topic: 'realtime:x', event: 'phx_leave' })
  await a.reply('2')
  await a.event('phx_close')
  engine.event([1], { n: 1 })
  assert.deepEqual((await b.event('postgres_changes')).payload.data, { n: 1 })
  assert.deepEqual(await engine.drain(a), [])
  b.close()
  await engine.wait('leave', m => m.channel === 2)
  engine.event([1], { n: 2 })
  a.close()
}))

run('channels')
