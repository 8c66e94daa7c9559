/*
 * Broadcasts by HTTP: statuses, bodies, and what arrives.
 */
import { once } from 'node:events'
import { Engine } from './engine.mjs'
import { Client, closed, exchange, response } from './client.mjs'
import { connect, CONNECTED, reset } from './transport.mjs'
import { test, run, assert, sleep, until } from './tap.mjs'

async function withEngine(config, use) {
  const engine = await Engine.start(config)
  try { await use(engine) } finally { await engine.stop() }
}

function head(path, headers = {}, method = 'POST') {
  let text = `${method} ${path} HTTP/1.1\r\nHost: x\r\n`
  for (const [name, value] of Object.entries({ Authorization: 'Bearer good', 'Content-Type': 'application/json', ...headers }))
    if (value !== null) text += `${name}: ${value}\r\n`
  return text
}

async function post(engine, path, body, { headers = {}, method = 'POST' } = {}) {
  const bytes = Buffer.isBuffer(body) ? body : Buffer.from(typeof body === 'string' ? body : JSON.stringify(body))
  const text = head(path, headers, method) + `Content-Length: ${bytes.length}\r\n\r\n`
  return response(await exchange(engine.port, Buffer.concat([Buffer.from(text), bytes])))
}

async function member(engine, topic, { vsn = '2.0.0', ...config } = {}) {
  const client = await Client.open(engine.port, { vsn })
  await client.join(topic, { config })
  return client
}
async function drain(client) {
  await client.heartbeat('drain' + client.count)
  return client.messages.splice(0)
}
/* Make requests, many at a time, until one is refused as too many; that answer. */
async function refusedAtLast(request) {
  let refused
  await until(async () => {
    const answers = await Promise.all(Array.from({ length: 50 }, request))
    return refused = answers.find(answer => answer.status === 429)
  }, 'a refusal')
  return refused
}
const accepted = answer => assert.deepEqual([answer.status, answer.body], [202, ''])

test('a batch, under both prefixes and with the query that clients append', () => withEngine({}, async engine => {
  const [v1, v2, other] = [await member(engine, 'realtime:röom1', { vsn: '1.0.0' }), await member(engine, 'realtime:röom1'), await member(engine, 'realtime:b')]
  const payload = '{"n":123456789012345678901234567890, "z":"\\u0000"}'
  const body = `{"messages":[{"topic":"röom1","event":"ev","payload":${payload}},{"topic":"b","event":"\\u00e9","payload":{},"private":false},{"topic":"nobody","event":"e","payload":{}}]}`
  for (const path of ['/api/broadcast', '/realtime/v1/api/broadcast', '/realtime/v1/api/broadcast?apikey=x&vsn=2.0.0']) {
    accepted(await post(engine, path, body))
    assert.ok((await v1.event('broadcast')).text.includes(`{"type":"broadcast","event":"ev","payload":${payload}}`))
    assert.equal((await v2.event('broadcast')).raw.toString(), payload)
    assert.deepEqual((await other.event('broadcast')).payload, { type: 'broadcast', event: 'é', payload: {} })
  }
  assert.deepEqual(engine.log.filter(m => m.name === 'rest').map(m => [m.private, m.topic, m.token]), Array(3).fill([0, '', 'good']))
  accepted(await post(engine, '/api/broadcast', { messages: [] }))
  for (const c of [v1, v2, other]) { assert.deepEqual(await drain(c), []); c.close() }
}))

test('what is sent goes to other gateways, with its token', () => withEngine({ gateways: 2, gateway: 1 }, async engine => {
  engine.onrest = m => engine.restReply(m.request, m.topic === 'no' ? 403 : 200)
  accepted(await post(engine, '/api/broadcast', { messages: [{ topic: 'b', event: 'e', payload: { a: 1 } },
    { topic: 'p', event: 'e', payload: {}, private: true }, { topic: 'no', event: 'e', payload: {}, private: true }] }))
  accepted(await post(engine, '/api/broadcast/b/events/raw', Buffer.from([0, 255]), { headers: { 'Content-Type': 'application/octet-stream' } }))
  const relayed = () => engine.log.filter(m => m.name === 'relayRest')
  await until(() => relayed().length === 3, 'three messages')
  assert.deepEqual(relayed().map(m => [m.private, m.topic, m.token, m.event, m.json, [...m.payload], m.map, m.id]), [
    [0, 'b', 'good', 'e', 1, [...Buffer.from('{"a":1}')], null, null],
    [1, 'p', 'good', 'e', 1, [...Buffer.from('{}')], null, null],
    [0, 'b', 'good', 'raw', 0, [0, 255], null, null]])
}))

test('a single message, JSON or raw, with an encoded path', () => withEngine({}, async engine => {
  const topic = 'room:1/é?'
  const [v1, v2] = [await member(engine, 'realtime:' + topic, { vsn: '1.0.0' }), await member(engine, 'realtime:' + topic)]
  const path = `/realtime/v1/api/broadcast/${encodeURIComponent(topic)}/events/${encodeURIComponent('a+b ü')}`
  accepted(await post(engine, path, '[1, {"x":2}]', { headers: { 'Content-Type': 'application/JSON; charset=utf-8' } }))
  assert.equal((await v2.event('broadcast')).raw.toString(), '[1, {"x":2}]')
  assert.deepEqual((await v1.event('broadcast')).payload, { type: 'broadcast', event: 'a+b ü', payload: [1, { x: 2 }] })
  const bytes = Buffer.from([0, 1, 255, 254])
  accepted(await post(engine, path + '?private=false', bytes, { headers: { 'Content-Type': 'application/octet-stream' } }))
  assert.deepEqual((await v2.event('broadcast')).payload.payload, bytes)
  accepted(await post(engine, path, '', { headers: { 'Content-Type': 'application/octet-stream' } }))
  assert.equal((await v2.event('broadcast')).raw.length, 0)
  assert.deepEqual(await drain(v1), [])
  assert.deepEqual(engine.log.filter(m => m.name === 'rest').map(m => m.topic), [topic, topic, topic])
  v1.close(); v2.close()
}))

test('tokens', () => withEngine({}, async engine => {
  const seen = []
  engine.onrest = m => { seen.push(m.token); engine.restReply(m.request, 401) }
  const refused = async headers => {
    const answer = await post(engine, '/api/broadcast', { messages: [] }, { headers })
    assert.deepEqual([answer.status, answer.body, answer.headers['access-control-allow-origin']], [401, '{"message":"Unauthorized"}', '*'])
  }
  await refused({ Authorization: null })
  await refused({ Authorization: 'Basic x' })
  await refused({ Authorization: 'Bearer ' })
  assert.deepEqual(seen, [])
  await refused({ Authorization: 'bearer a.b' })
  await refused({ Authorization: null, apikey: 'key' })
  await refused({ apikey: 'key' })
  assert.deepEqual(seen, ['a.b', 'key', 'good'])
  engine.onrest = m => engine.restReply(m.request, 500)
  assert.equal((await post(engine, '/api/broadcast', {})).status, 500)
}))

test('private messages: 403 for one, silence in a batch', () => withEngine({}, async engine => {
  engine.onrest = m => engine.restReply(m.request, m.private && m.topic === 'no' ? 403 : 200, m.topic === 'read' ? 1 : 15)
  const clients = {}
  for (const name of ['yes', 'no', 'read']) clients[name] = await member(engine, 'realtime:' + name, { private: true })
  const pub = await member(engine, 'realtime:yes')
  for (const name of ['no', 'read']) {
    const answer = await post(engine, `/api/broadcast/${name}/events/e?private=true`, {})
    assert.deepEqual([answer.status, answer.body], [403, '{"message":"Unauthorized"}'])
  }
  accepted(await post(engine, '/api/broadcast/yes/events/e?private=true', { n: 0 }))
  const before = engine.log.filter(m => m.name === 'rest').length
  const messages = ['yes', 'no', 'yes', 'read', 'no', 'yes'].map((topic, n) => ({ topic, event: 'e', payload: { n }, private: true }))
  accepted(await post(engine, '/api/broadcast', { messages: [...messages, { topic: 'yes', event: 'e', payload: { n: 9 } }] }))
  assert.deepEqual(engine.log.filter(m => m.name === 'rest').slice(before).map(m => [m.private, m.topic]), [[0, ''], [1, 'yes'], [1, 'no'], [1, 'read']])
  const heard = async client => (await drain(client)).map(m => m.payload.payload.n)
  assert.deepEqual(await heard(clients.yes), [0, 0, 2, 5].slice(0))
  assert.deepEqual([await heard(clients.no), await heard(clients.read), await heard(pub)], [[], [], [9]])
  for (const c of [...Object.values(clients), pub]) c.close()
}))

test('persist: stored, then sent with its id', () => withEngine({ max_payload_size: 2000000, max_message_size: 3000000 }, async engine => {
  engine.onrest = m => engine.restReply(m.request, 200, m.topic === 'no' ? 15 : 31)
  let stored = true
  engine.onrestPersist = m => { if (stored) engine.restReply(m.request, 200, 0) }
  const [v1, v2, pub] = [await member(engine, 'realtime:k', { vsn: '1.0.0', private: true }), await member(engine, 'realtime:k', { private: true }), await member(engine, 'realtime:k')]
  const path = '/realtime/v1/api/broadcast/k/events/%C3%A9?private=true&'
  const asked = () => engine.log.filter(m => m.name === 'restPersist')
  for (const [query, ttl] of [['persist=true', 0], ['persist[ttl]=60', 60], ['persist%5Bttl%5D=999999999', 999999999], ['apikey=x&persist%5bttl%5d=1&vsn=2.0.0', 1], ['persist=true&persist[ttl]=7', 7]]) {
    accepted(await post(engine, path + query, '{"n":1}'))
    const m = asked().at(-1)
    assert.deepEqual([m.topic, m.token, m.event, m.json, m.payload, m.ttl], ['k', 'good', 'é', 1, '{"n":1}', ttl], query)
    assert.match(m.id, /^[0-9a-f]{8}-[0-9a-f]{4}-4/)
    const expected = { type: 'broadcast', event: 'é', payload: { n: 1 }, meta: { id: m.id } }
    for (const c of [v1, v2]) assert.deepEqual((await c.event('broadcast')).payload, expected)
  }
  accepted(await post(engine, path + 'persist=true', Buffer.from([1, 2, 255]), { headers: { 'Content-Type': 'application/octet-stream' } }))
  assert.equal(asked().at(-1).json, 0)
  assert.deepEqual((await v2.event('broadcast')).raw, Buffer.from([1, 2, 255]))
  accepted(await post(engine, path + 'persist=false', '{}'))
  assert.equal((await v2.event('broadcast')).payload.meta, undefined)
  await v1.event('broadcast')
  const n = asked().length
  const check = async (status, body, answer) => assert.deepEqual([(await answer).status, JSON.parse((await answer).body)], [status, body])
  for (const query of ['persist=1', 'persist=', 'persist[ttl]=', 'persist[ttl]=0', 'persist[ttl]=x', 'persist[ttl]=-1', 'persist[ttl]=1.5', 'persist[ttl]=1000000000'])
    await check(422, { error: 'invalid_persist_ttl' }, post(engine, path + query, '{}'))
  for (const query of ['', 'private=false&'])
    await check(422, { error: 'Only messages to private channels can be stored' }, post(engine, `/api/broadcast/k/events/e?${query}persist=true`, '{}'))
  await check(403, { message: 'Unauthorized' }, post(engine, '/api/broadcast/no/events/e?private=true&persist=true', '{}'))
  accepted(await post(engine, '/api/broadcast/no/events/e?private=true', '{}'))
  assert.equal(asked().length, n)
  await check(422, { message: 'Payload size exceeds tenant limit' }, post(engine, path + 'persist=true', JSON.stringify('x'.repeat(1100000))))
  for (const [status, answer, body] of [[401, 401, { message: 'Unauthorized' }], [403, 403, { message: 'Unauthorized' }], [422, 422, { error: 'invalid_payload' }],
    [500, 503, { error: 'unable_to_connect_to_project' }], [503, 503, { error: 'unable_to_connect_to_project' }]]) {
    engine.onrestPersist = m => engine.restReply(m.request, status, 0)
    await check(answer, body, post(engine, path + 'persist=true', '{}'))
  }
  /* a client that goes before the engine has answered */
  engine.onrestPersist = () => {}
  const before = asked().length
  const socket = connect({ port: engine.port })
  await once(socket, CONNECTED)
  socket.write(head(path + 'persist=true', { 'Content-Length': 2 }) + '\r\n{}')
  await until(() => asked().length > before, 'the question')
  const gone = asked().at(-1)
  reset(socket)
  engine.restReply(gone.request, 200, 0)
  engine.restReply(gone.request, 200, 0)
  await engine.settled()
  assert.deepEqual(await drain(pub), [])
  for (const c of [v1, v2]) {
    assert.ok((await drain(c)).every(m => m.payload.meta?.id === gone.id))
    c.close()
  }
  pub.close()
}))

test('the answers say how many requests there may be', () => withEngine({ max_requests_per_second: 10 }, async engine => {
  const rate = ({ headers }) => ['x-rate-rolling', 'x-rate-limit', 'x-rate-limit-remaining'].map(name => headers[name] === undefined ? null : Number(headers[name]))
  const [first, second] = [rate(await post(engine, '/api/broadcast', { messages: [] })), rate(await post(engine, '/api/broadcast/t/events/e', '{}'))]
  for (const [used, limit, left] of [first, second]) assert.deepEqual([limit, used + left], [10, 10])
  assert.ok(first[0] <= 1 && second[0] <= 2)
  assert.deepEqual(rate(await refusedAtLast(() => post(engine, '/api/broadcast', { messages: [] }))), [10, 10, 0])
  await engine.reconfigure({ max_requests_per_second: 0 })
  assert.equal(rate(await post(engine, '/api/broadcast', { messages: [] }))[1], null)
}))

test('bodies that are not right: 400, 413, 415, 422, 429', () => withEngine({ max_message_size: 20000, max_payload_size: 1000 }, async engine => {
  const check = async (status, body, answer) => assert.deepEqual([(await answer).status, JSON.parse((await answer).body)], [status, body])
  const batch = (body, options) => post(engine, '/api/broadcast', body, options)
  for (const body of ['', 'x', '{', '[]', '{"messages":[}', '1']) assert.equal((await batch(body)).status, 400, body)
  const blank = "can't be blank"
  await check(422, { errors: { messages: [blank] } }, batch({}))
  await check(422, { errors: { messages: ['is invalid'] } }, batch({ messages: {} }))
  await check(422, { errors: { messages: [{ topic: [blank], event: [blank], payload: [blank] }, {}, { payload: ['Payload size exceeds tenant limit'] }] } },
    batch({ messages: [{}, { topic: 't', event: 'e', payload: {} }, { topic: 't', event: 'e', payload: { x: 'x'.repeat(1000) } }] }))
  await check(422, { errors: { messages: [{ topic: ['is invalid'], event: [blank], payload: ['is invalid'], private: ['is invalid'] }] } },
    batch({ messages: [{ topic: 1, event: '', payload: 'x', private: 7 }] }))
  await check(422, { errors: { messages: [{ topic: [blank], event: [blank], payload: [blank] }] } }, batch({ messages: ['x'] }))
  await check(429, { message: 'Too many messages to broadcast, please reduce the batch size' }, batch({ messages: Array(1001).fill(0) }))
  const one = (path, body, type = 'application/json') => post(engine, path, body, { headers: { 'Content-Type': type } })
  await check(415, { error: 'Unsupported Media Type. Use application/json or application/octet-stream' }, one('/api/broadcast/t/events/e', '{}', 'text/plain'))
  await check(415, { error: 'Unsupported Media Type. Use application/json or application/octet-stream' }, one('/api/broadcast/t/events/e', '{}', null))
  for (const body of ['', '{', '"\xff"']) assert.equal((await one('/api/broadcast/t/events/e', Buffer.from(body, 'latin1'))).status, 400)
  assert.equal((await one('/api/broadcast/t/events/e', JSON.stringify('x'.repeat(1000)))).status, 422)
  for (const path of ['/api/broadcast/', '/api/broadcast/t', '/api/broadcast/t/events', '/api/broadcast/t/events/', '/api/broadcast//events/e',
    '/api/broadcast/t/events/e/f', '/api/broadcast/%ff/events/e', '/api/broadcast/%00/events/e', '/api/broadcast/t/x/e', '/api/broadcasts'])
    assert.equal((await one(path, '{}')).status, 404, path)
  await check(413, { error: 'Payload Too Large' }, batch('x'.repeat(20001)))
  for (const method of ['GET', 'PUT', 'DELETE']) assert.equal((await batch({}, { method })).status, 405)
  assert.equal((await batch({}, { method: 'OPTIONS' })).status, 204)
  const raw = async text => response(await exchange(engine.port, text)).status
  assert.equal(await raw(head('/api/broadcast') + '\r\n'), 411)
  assert.equal(await raw(head('/api/broadcast', { 'Transfer-Encoding': 'chunked' }) + '\r\n0\r\n\r\n'), 411)
  for (const length of ['x', '-1', '', '1 2', '99999999999999999999']) assert.equal(await raw(head('/api/broadcast', { 'Content-Length': length }) + '\r\n'), 400, length)
  assert.equal(await raw(head('/api/broadcast', { 'Content-Length': 2 }) + '\r\n{}x'), 400)
  assert.equal(await raw(head('/api/broadcast', { 'Content-Length': '999999999999' }) + '\r\n'), 413)
  assert.equal(await raw(head('/api/broadcast', { 'Content-Length': '2' }) + 'Content-Length: 2\r\n\r\n{}'), 400)
}))

test('a body that comes in pieces, after 100 Continue, or not at all', () => withEngine({ handshake_timeout: 30000 }, async engine => {
  const client = await member(engine, 'realtime:t')
  const body = Buffer.from(JSON.stringify({ messages: [{ topic: 't', event: 'e', payload: { x: 'ü'.repeat(100000) } }] }))
  const socket = connect({ port: engine.port })
  socket.setNoDelay(true)
  let answer = ''
  socket.on('data', d => { answer += d })
  await once(socket, CONNECTED)
  socket.write(head('/api/broadcast', { 'Content-Length': body.length, Expect: '100-continue' }) + '\r\n')
  await until(() => answer === 'HTTP/1.1 100 Continue\r\n\r\n', '100')
  for (let at = 0; at < body.length; at += 9973) { socket.write(body.subarray(at, at + 9973)); await sleep(1) }
  await closed(socket)
  assert.match(answer, /^HTTP\/1.1 100 Continue\r\n\r\nHTTP\/1.1 202 Accepted\r\n/)
  assert.equal((await client.event('broadcast')).payload.payload.x.length, 100000)
  /* the body at once, while the engine thinks */
  engine.onrest = m => setTimeout(() => engine.restReply(m.request, 200), 50)
  accepted(await post(engine, '/api/broadcast', body))
  await client.event('broadcast')
  /* refused while the body is on its way: the answer is there to be read */
  engine.onrest = m => setTimeout(() => engine.restReply(m.request, 401), 50)
  assert.equal((await post(engine, '/api/broadcast', Buffer.concat([body, Buffer.alloc(500000, 32)]))).status, 401)
  delete engine.onrest
  assert.equal(await exchange(engine.port, head('/api/broadcast', { 'Content-Length': 100 }) + '\r\n{', { end: true }), '')
  await engine.reconfigure({ handshake_timeout: 3000 })
  const slow = await exchange(engine.port, head('/api/broadcast', { 'Content-Length': 100 }) + '\r\n{')
  assert.equal(response(slow).status, 408)
  client.close()
}))

test('clients that leave at each point, and verdicts for nobody', () => withEngine({ error_delay: 20 }, async engine => {
  const text = head('/api/broadcast', { 'Content-Length': 13 }) + '\r\n{"messages":[]'
  engine.onrest = m => setTimeout(() => engine.restReply(m.request, m.request % 3 ? 200 : 401), m.request % 4)
  await Promise.all(Array.from({ length: 150 }, async (_, i) => {
    const socket = connect({ port: engine.port })
    socket.on('error', () => {})
    socket.write(text.slice(0, i + 100))
    await sleep(i % 7)
    if (i % 2) reset(socket)
    else socket.destroy()
  }))
  for (let id = 0; id < 300; id++) engine.restReply(id, 200)
  engine.onauth = m => { engine.restReply(m.connection, 200); engine.authReply(m.connection, 200) }
  const client = await Client.open(engine.port)
  await client.heartbeat()
  client.close()
}))

test('max_requests_per_second: 429, and soon again accepted', () => withEngine({ max_requests_per_second: 5 }, async engine => {
  const answers = []
  for (let i = 0; i < 5; i++) answers.push(await post(engine, '/api/broadcast/t/events/e', '{}'))
  assert.deepEqual(answers.map(a => a.status), [202, 202, 202, 202, 202])
  const refused = await refusedAtLast(() => post(engine, '/api/broadcast/t/events/e', '{}'))
  assert.equal(refused.body, '{"message":"Too many requests"}')
  assert.equal(refused.headers['access-control-allow-origin'], '*')
  await until(async () => (await post(engine, '/api/broadcast/t/events/e', '{}')).status === 202, 'a request')
}))

test('origins', () => withEngine({ allowed_origins: 'https://app.example' }, async engine => {
  const cors = async Origin => (await post(engine, '/api/broadcast', { messages: [] }, { headers: { Origin } })).headers['access-control-allow-origin']
  assert.equal(await cors('https://app.example'), 'https://app.example')
  assert.equal(await cors('https://evil.example'), undefined)
}))

test('300 requests at once', () => withEngine({}, async engine => {
  const client = await member(engine, 'realtime:t')
  await Promise.all(Array.from({ length: 300 }, async (_, n) => accepted(await post(engine, '/api/broadcast/t/events/e', { n }))))
  await until(() => client.messages.length >= 300, 'messages')
  assert.equal(new Set(client.messages.map(m => m.payload.payload.n)).size, 300)
  client.close()
}))

run('rest')
