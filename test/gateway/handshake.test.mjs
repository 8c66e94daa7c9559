/*
 * From the accept to the 101 or the documented refusal, and plain HTTP.
 */
import fs from 'node:fs'
import crypto from 'node:crypto'
import { Engine } from './engine.mjs'
import { Client, TEXT, closed, exchange, frame, handshake, response } from './client.mjs'
import { connect, reset } from './transport.mjs'
import { test, run, assert, sleep, until } from './tap.mjs'

async function withEngine(config, use, options) {
  const engine = await Engine.start(config, options)
  try { await use(engine) } finally { await engine.stop() }
}

async function request(engine, head, options) { return response(await exchange(engine.port, head, options)) }
const upgrade = (engine, path, headers) => request(engine, handshake(path, headers))

function assertError(answer, status, text) {
  assert.equal(answer.status, status)
  assert.equal(answer.headers['content-type'], 'application/json')
  assert.equal(answer.headers['connection'], 'close')
  assert.deepEqual(JSON.parse(answer.body), { error: text })
}

test('both paths and both versions are accepted', () => withEngine({}, async engine => {
  for (const path of ['/socket/websocket', '/realtime/v1/websocket'])
    for (const vsn of ['1.0.0', '2.0.0']) {
      const client = await Client.open(engine.port, { path, vsn })
      assert.equal((await client.heartbeat('7')).payload.status, 'ok')
      client.close()
    }
  /* without vsn: 1.0.0 */
  const client = await Client.open(engine.port, { vsn: null, path: '/socket/websocket?log_level=info&eventsPerSecond=10' })
  await client.heartbeat()
}))

test('the accept key is right, and no extension or subprotocol is taken', () => withEngine({}, async engine => {
  const key = crypto.randomBytes(16).toString('base64')
  const client = await Client.open(engine.port, { headers: {
    'Sec-WebSocket-Key': key, 'Sec-WebSocket-Extensions': 'permessage-deflate; client_max_window_bits',
    'Sec-WebSocket-Protocol': 'phoenix' } })
  const accept = crypto.createHash('sha1').update(key + '258EAFA5-E914-47DA-95CA-C5AB0DC85B11').digest('base64')
  assert.match(client.head, new RegExp(`Sec-WebSocket-Accept: ${accept.replace(/[+]/g, '\\+')}`))
  assert.doesNotMatch(client.head, /Extensions|Protocol:/)
  client.close()
}))

test('the token comes from the header or the query, decoded and without blanks', () => withEngine({}, async engine => {
  const tokens = []
  engine.onauth = m => { tokens.push(m.token); engine.authReply(m.connection, 401, 'no') }
  await upgrade(engine, '/socket/websocket?apikey=query', { 'x-api-key': 'header' })
  await upgrade(engine, '/socket/websocket?vsn=2.0.0&apikey=a%2Eb%20%0a+c')
  await upgrade(engine, '/socket/websocket?apikey=one&apikey=two')
  await upgrade(engine, '/socket/websocket?apikey=100%25%zz%4')
  await upgrade(engine, '/socket/websocket?myapikey=x&apikey=y')
  assert.deepEqual(tokens, ['header', 'a.bc', 'two', '100%%zz%4', 'y'])
}))

test('no API key: 401 without asking the engine', () => withEngine({}, async engine => {
  for (const query of ['', '?vsn=2.0.0', '?apikey=', '?apikey=%20%20', '?apikey'])
    assertError(await upgrade(engine, '/socket/websocket' + query), 401, 'API key is missing')
  assert.equal(engine.log.filter(m => m.name === 'auth').length, 0)
}))

test('no API key where clients may be anonymous: the engine is asked', () => withEngine({ allow_anonymous: 1 }, async engine => {
  const tokens = []
  engine.onauth = m => { tokens.push(m.token ?? ''); engine.authReply(m.connection, 200) }
  const client = await Client.open(engine.port, { token: '' })
  await client.heartbeat()
  client.close()
  assert.deepEqual(tokens, [''])
}))

test('connections that came with a revoked key are closed with 1008, others stay', () => withEngine({}, async engine => {
  let key = 0
  engine.onauth = m => engine.authReply(m.connection, 200, null, 0, key)
  const clients = []
  for (key of [0, 7, 8, 7]) clients.push(await Client.open(engine.port))
  engine.revoke(7)
  assert.deepEqual((await Promise.all([clients[1], clients[3]].map(closed))).map(end => end?.code ?? end), [1008, 1008])
  for (const stays of [clients[0], clients[2]]) { await stays.heartbeat(); stays.close() }
}))

test('connections whose token has lost its key are closed unless they have a channel', () => withEngine({}, async engine => {
  engine.onauth = m => engine.authReply(m.connection, 200, null, 0, 7)
  const [idle, busy] = [await Client.open(engine.port), await Client.open(engine.port)]
  await busy.join('realtime:a', {})
  engine.revoke(7, false)
  assert.equal((await closed(idle))?.code, 1008)
  await busy.heartbeat()
  engine.revoke(7)
  assert.equal((await closed(busy))?.code, 1008)
}))

test("the engine's refusals arrive with their status and text", () => withEngine({}, async engine => {
  const refusals = [
    [401, 'Token has expired'], [401, 'Fields `role` and `exp` are required in JWT'],
    [401, 'The token provided is not a valid JWT'], [401, 'Failed to validate JWT signature'],
    [401, 'Failed to generate JWT signer for key ID (kid) "a\\b", check your JWT secret or JWKS configuration'],
    [403, 'Realtime was disabled for this tenant'], [404, 'Tenant not found'],
    [429, 'Too many joins per second'], [500, 'Error connecting to Realtime'],
  ]
  for (const [status, text] of refusals) {
    engine.onauth = m => engine.authReply(m.connection, status, text)
    assertError(await upgrade(engine, '/realtime/v1/websocket?apikey=x'), status, text)
  }
}))

test('a refusal is held back, but a second at most', () => withEngine({ error_delay: 60000 }, async engine => {
  engine.onauth = m => engine.authReply(m.connection, 401, 'no')
  const start = Date.now()
  assertError(await upgrade(engine, '/socket/websocket?apikey=x'), 401, 'no')
  /* the setting says a minute */
  const took = Date.now() - start
  assert.ok(took >= 900 && took < 20000, `took ${took} ms`)
}))

test('Origin is checked against allowed_origins', () => withEngine({ allowed_origins: 'https://app.example, http://localhost:3000' }, async engine => {
  const open = headers => Client.open(engine.port, { headers }).then(c => { c.close(); return 101 })
  assert.equal(await open({}), 101)
  assert.equal(await open({ Origin: 'https://app.example' }), 101)
  assert.equal(await open({ Origin: 'HTTP://LOCALHOST:3000' }), 101)
  for (const Origin of ['https://evil.example', 'https://app.example.evil', 'null', 'https://app.exampl', ''])
    assertError(await upgrade(engine, '/socket/websocket?apikey=x', { Origin }), 403, 'Origin is not allowed')
  const health = await request(engine, 'GET /healthcheck HTTP/1.1\r\nHost: x\r\nOrigin: https://app.example\r\n\r\n')
  assert.equal(health.headers['access-control-allow-origin'], 'https://app.example')
  const other = await request(engine, 'GET /healthcheck HTTP/1.1\r\nHost: x\r\nOrigin: https://evil.example\r\n\r\n')
  assert.equal(other.headers['access-control-allow-origin'], undefined)
  await engine.reconfigure({ allowed_origins: '*' })
  assert.equal(await open({ Origin: 'https://evil.example' }), 101)
}))

test('plain requests: health, ping, preflight, 404, 405, 426', () => withEngine({}, async engine => {
  const get = (path, method = 'GET') => request(engine, `${method} ${path} HTTP/1.1\r\nHost: x\r\n\r\n`)
  for (const path of ['/healthcheck', '/realtime/v1/healthcheck']) {
    const answer = await get(path)
    assert.deepEqual([answer.status, answer.body], [200, 'ok'])
    assert.equal(answer.headers['access-control-allow-origin'], '*')
  }
  for (const path of ['/api/ping', '/realtime/v1/api/ping'])
    assert.equal((await get(path)).body, '{"message":"Success"}')
  const head = await get('/healthcheck', 'HEAD')
  assert.deepEqual([head.status, head.body, head.headers['content-length']], [200, '', '2'])
  const preflight = await get('/realtime/v1/api/broadcast', 'OPTIONS')
  assert.equal(preflight.status, 204)
  assert.equal(preflight.headers['access-control-allow-origin'], '*')
  assert.match(preflight.headers['access-control-allow-methods'], /POST/)
  for (const name of ['authorization', 'apikey', 'content-type', 'x-client-info'])
    assert.ok(preflight.headers['access-control-allow-headers'].split(/, */).includes(name))
  for (const path of ['/', '/x', '/healthcheck/', '/realtime/v1', '/realtime/v1/', '/socket/longpoll', '/%00'])
    assertError(await get(path), 404, 'Not found')
  assertError(await get('/healthcheck', 'DELETE'), 405, 'Method not allowed')
  assertError(await get('/socket/websocket'), 426, 'This path serves WebSockets only')
  assert.equal((await request(engine, 'GET /healthcheck HTTP/1.0\r\n\r\n')).status, 200)
  assert.equal((await request(engine, 'POST /api/ping HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n' + 'x'.repeat(100000))).status, 405)
}))

test('malformed requests and handshakes get 400, 403 or 426', () => withEngine({}, async engine => {
  const bad = [
    'get / HTTP/1.1\r\nHost: x\r\n\r\n', 'GET / HTTP/2.0\r\nHost: x\r\n\r\n', 'GET / HTTP/1.10\r\nHost: x\r\n\r\n',
    'GET  / HTTP/1.1\r\nHost: x\r\n\r\n', 'GET /\r\nHost: x\r\n\r\n', 'GET http://x/ HTTP/1.1\r\nHost: x\r\n\r\n',
    'GET / HTTP/1.1\r\n\r\n', 'GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n', 'GET / HTTP/1.1\r\nHost : x\r\n\r\n',
    'GET / HTTP/1.1\r\nHost: x\r\n folded\r\n\r\n', 'GET / HTTP/1.1\r\nHost: x\0\r\n\r\n', 'GET / HTTP/1.1\r\nHost: x\r\nbad\r\n\r\n',
    'GET / HTTP/1.1\r\nHost: x\r\n: y\r\n\r\n', 'GET /\x01 HTTP/1.1\r\nHost: x\r\n\r\n', '\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n',
    'GET / HTTP/1.1\r\nHost: x\nFoo: y\r\n\r\n', '\x16\x03\x01\x02\x00\x01\x00', 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n',
  ]
  for (const text of bad) {
    const answer = await request(engine, Buffer.from(text, 'latin1'))
    assert.equal(answer.status, text.startsWith('get') ? 400 : 400, JSON.stringify(text))
  }
  const path = '/socket/websocket?apikey=x'
  for (const headers of [
    { 'Sec-WebSocket-Key': null }, { 'Sec-WebSocket-Key': 'short' }, { 'Sec-WebSocket-Key': 'A'.repeat(24) },
    { 'Sec-WebSocket-Key': 'A'.repeat(5000) }, { 'Sec-WebSocket-Key': 'AAAAAAAAAAAAAAAAAAAAA\t==' },
    { 'Content-Length': '5' }, { 'Transfer-Encoding': 'chunked' },
  ]) assert.equal((await upgrade(engine, path, headers)).status, 400, JSON.stringify(headers))
  assert.equal((await request(engine, handshake(path).replace('GET', 'POST'))).status, 400)
  for (const version of ['8', '14', '', null]) {
    const answer = await upgrade(engine, path, { 'Sec-WebSocket-Version': version })
    assert.equal(answer.status, 426)
    assert.equal(answer.headers['sec-websocket-version'], '13')
  }
  for (const headers of [{ Connection: 'close' }, { Connection: null }, { Upgrade: 'h2c' }, { Upgrade: null }])
    assert.equal((await upgrade(engine, path, headers)).status, 426)
  for (const vsn of ['3.0.0', '2', 'x', '']) assertError(await upgrade(engine, `${path}&vsn=${vsn}`), 403, 'Unsupported vsn')
  assert.equal(engine.log.filter(m => m.name === 'auth').length, 0)
  const fine = await Client.open(engine.port, { headers: { Connection: 'keep-alive, UPGRADE', Upgrade: 'WebSocket' } })
  fine.close()
}))

test('bytes behind the handshake are refused, before and after the verdict', () => withEngine({}, async engine => {
  assert.equal((await request(engine, handshake('/socket/websocket?apikey=x') + 'garbage')).status, 400)
  engine.onauth = () => {}
  const socket = connect({ port: engine.port })
  socket.on('error', () => {})
  socket.write(handshake('/socket/websocket?apikey=x'))
  const { connection } = await engine.wait('auth')
  socket.write('garbage')
  await closed(socket)
  engine.authReply(connection, 200)
  /* keep-alive, then an upgrade: the first answer closes */
  const both = await exchange(engine.port, 'GET /healthcheck HTTP/1.1\r\nHost: x\r\nConnection: keep-alive\r\n\r\n' + handshake('/socket/websocket?apikey=x'))
  assert.equal(both.match(/HTTP\/1.1/g).length, 1)
  assert.equal(response(both).status, 200)
}))

test('a head larger than 16 kB gets 431, also when it comes in pieces', () => withEngine({}, async engine => {
  const big = handshake('/socket/websocket?apikey=' + 'x'.repeat(17000))
  assert.equal((await request(engine, big)).status, 431)
  assert.equal((await request(engine, 'G'.repeat(300000))).status, 431)
  const socket = connect({ port: engine.port })
  let answer = ''
  socket.on('data', d => { answer += d })
  socket.on('error', () => {})
  for (let at = 0; at < big.length && !socket.destroyed; at += 1000) {
    socket.write(big.slice(at, at + 1000))
    await sleep(2)
  }
  await closed(socket)
  assert.equal(response(answer).status, 431)
  const nearly = await Client.open(engine.port, { token: 'x'.repeat(15000) })
  nearly.close()
}))

test('a head that comes byte by byte is accepted', () => withEngine({ handshake_timeout: 60000 }, async engine => {
  const socket = connect({ port: engine.port })
  socket.setNoDelay(true)
  let answer = ''
  socket.on('data', d => { answer += d })
  for (const c of handshake('/socket/websocket?apikey=x')) { socket.write(c); await sleep(1) }
  await until(() => answer.includes('\r\n\r\n'), '101')
  assert.match(answer, /^HTTP\/1.1 101 /)
  socket.destroy()
}))

test('half-open and slow handshakes end after handshake_timeout', () => withEngine({ handshake_timeout: 3000 }, async engine => {
  const start = Date.now()
  const silent = exchange(engine.port, '')
  const partial = exchange(engine.port, 'GET /socket/websocket HTTP/1.1\r\nHost:')
  const drip = connect({ port: engine.port })
  drip.on('error', () => {})
  const timer = setInterval(() => drip.writable && drip.write('G'), 20)
  assert.equal(await silent, '')
  assert.equal(response(await partial).status, 408)
  await closed(drip)
  clearInterval(timer)
  assert.ok(Date.now() - start < 20000)
  /* closing one's sending half while waiting is leaving */
  engine.onauth = () => {}
  await exchange(engine.port, handshake('/socket/websocket?apikey=x'), { end: true })
}))

test('a client that leaves before the verdict does not disturb', () => withEngine({}, async engine => {
  const asked = []
  engine.onauth = m => asked.push(m.connection)
  for (let i = 0; i < 50; i++) {
    const socket = connect({ port: engine.port })
    socket.on('error', () => {})
    socket.write(handshake('/socket/websocket?apikey=x'))
    await until(() => asked.length > i, 'question')
    if (i % 2) reset(socket)
    else socket.destroy()
    if (i % 3) engine.authReply(asked[i], i % 2 ? 200 : 401, 'x')
  }
  for (const id of asked) engine.authReply(id, 200)
  engine.authReply(999999, 200)
  delete engine.onauth
  const client = await Client.open(engine.port)
  await client.heartbeat()
  client.close()
}))

test('max_connections: 429, and again free when one leaves', () => withEngine({ max_connections: 3 }, async engine => {
  const clients = []
  for (let i = 0; i < 3; i++) clients.push(await Client.open(engine.port))
  assertError(await upgrade(engine, '/socket/websocket?apikey=x'), 429, 'Too many connected users')
  assert.equal((await request(engine, 'GET /healthcheck HTTP/1.1\r\nHost: x\r\n\r\n')).status, 200)
  clients[0].close()
  await until(() => Client.open(engine.port).then(c => { clients.push(c); return true }, () => false), 'free place')
  /* those that wait for a verdict count */
  engine.onauth = () => {}
  const asked = () => engine.log.filter(m => m.name === 'auth').length
  const before = asked()
  clients.pop().close()
  let socket
  await until(async () => {
    socket = connect({ port: engine.port })
    let refused = false
    socket.on('error', () => {})
    socket.on('data', () => { refused = true })
    socket.on('close', () => { refused = true })
    socket.write(handshake('/socket/websocket?apikey=x'))
    await until(() => refused || asked() > before, 'question or refusal')
    if (refused) socket.destroy()
    return asked() > before
  }, 'free place')
  assert.equal((await upgrade(engine, '/socket/websocket?apikey=x')).status, 429)
  socket.destroy()
  for (const c of clients) c.close()
}))

test('max_connections_per_address: 429, and again free when one leaves', () => withEngine({ max_connections_per_address: 3 }, async engine => {
  const clients = []
  for (let i = 0; i < 3; i++) clients.push(await Client.open(engine.port))
  for (let i = 0; i < 3; i++) assertError(await upgrade(engine, '/socket/websocket?apikey=x'), 429, 'Too many connected users')
  assert.equal((await request(engine, 'GET /healthcheck HTTP/1.1\r\nHost: x\r\n\r\n')).status, 200)
  engine.onauth = m => engine.authReply(m.connection, 401, 'no')
  clients.pop().close()
  await until(async () => (await upgrade(engine, '/socket/websocket?apikey=x')).status === 401, 'free place')
  for (let i = 0; i < 5; i++) assert.equal((await upgrade(engine, '/socket/websocket?apikey=x')).status, 401)
  delete engine.onauth
  await until(() => Client.open(engine.port).then(c => { clients.push(c); return true }, () => false), 'free place')
  await engine.reconfigure({ max_connections_per_address: 0 })
  for (let i = 0; i < 3; i++) clients.push(await Client.open(engine.port))
  for (const c of clients) c.close()
}))

test('trusted_proxies: whose X-Forwarded-For and Forwarded count', () => withEngine({ max_connections_per_address: 2, trusted_proxies: '127.0.0.0/8' }, async engine => {
  const clients = []
  const from = async headers => {
    const client = await Client.open(engine.port, { headers }).catch(e => e.message)
    if (typeof client === 'string') return Number(client.split(' ')[1])
    clients.push(client)
    return 101
  }
  const x = list => ({ 'X-Forwarded-For': list })
  /* each client behind the proxy has its own places */
  for (const address of ['203.0.113.1', '203.0.113.2', '2001:db8:1::1'])
    assert.deepEqual([await from(x(address)), await from(x(address)), await from(x(address))], [101, 101, 429])
  /* an address is the same in every form, and an IPv6 network counts as one */
  for (const same of ['::ffff:203.0.113.1', '203.0.113.1:77', '"203.0.113.1"', '2001:db8:1::2']) assert.equal(await from(x(same)), 429, same)
  assert.equal(await from({ Forwarded: 'for=203.0.113.1' }), 429)
  /* what a client writes itself is before what the proxy adds */
  assert.equal(await from(x('198.51.100.77, 203.0.113.1')), 429)
  assert.equal(await from(x('127.0.0.1, 198.51.100.77, 203.0.113.1, 127.0.0.1')), 429)
  assert.equal(await from(x('198.51.100.77')), 101)
  /* two headers that do not agree, names, nothing: all counted with the proxy */
  assert.equal(await from({ ...x('203.0.113.3'), Forwarded: 'for=203.0.113.4' }), 101)
  assert.equal(await from(x('unknown')), 101)
  assert.equal(await from({}), 429)
  assert.equal(await from(x('198.51.100.78, garbage')), 429)
  /* in the log, too */
  clients[0].raw(frame(TEXT, 'x', { length: 1e12 }))
  await clients[0].waitClosed()
  await until(() => /203\.0\.113\.1 sent a message larger/.test(engine.stderr), 'log')
  /* nobody is believed who is not named */
  await engine.reconfigure({ trusted_proxies: '10.0.0.0/8, ::1' })
  for (let i = 0; i < 5; i++) assert.equal(await from(x(`203.0.113.${10 + i}`)), 429)
  for (const c of clients) c.close()
  await until(async () => (await from(x('203.0.113.9'))) === 101, 'free place')
}))

test('when descriptors run out, accepting waits and takes no CPU', async () => {
  const engine = await Engine.start({}, { wrapper: ['prlimit', '--nofile=40:40'] })
  const idle = []
  for (let i = 0; i < 60; i++) {
    const socket = connect({ port: engine.port })
    socket.on('error', () => {})
    idle.push(socket)
  }
  await until(() => /could not accept a connection: Too many open files/.test(engine.stderr), 'the end of descriptors')
  await sleep(300)
  /* what the gateway has run so far, in ticks of 10 ms */
  const ticks = () => fs.readFileSync(`/proc/${engine.child.pid}/stat`, 'utf8').split(' ').slice(13, 15).reduce((a, b) => a + Number(b), 0)
  const before = ticks()
  await sleep(1000)
  const used = ticks() - before
  assert.ok(used <= 10, `${used} ticks in a second`)
  for (const socket of idle) socket.destroy()
  const client = await Client.open(engine.port)
  await client.heartbeat()
  client.close()
  await engine.stop()
})

test('1,500 half-open connections do not keep others out', () => withEngine({ handshake_timeout: 20000 }, async engine => {
  const idle = []
  for (let i = 0; i < 1500; i++) {
    const socket = connect({ port: engine.port })
    socket.on('error', () => {})
    socket.write('GET / HTTP/1.1\r\n')
    idle.push(socket)
  }
  await sleep(1200)
  const client = await Client.open(engine.port)
  await client.heartbeat()
  client.close()
  for (const socket of idle) socket.destroy()
}))

test('1,500 bad tokens at once do not keep others out', () => withEngine({ error_delay: 1000 }, async engine => {
  engine.onauth = m => engine.authReply(m.connection, m.token === 'bad' ? 401 : 200, m.token === 'bad' ? 'no' : null)
  const bad = Array.from({ length: 1500 }, () => exchange(engine.port, handshake('/socket/websocket?apikey=bad')))
  await sleep(100)
  const start = Date.now()
  const client = await Client.open(engine.port)
  await client.heartbeat()
  assert.ok(Date.now() - start < 20000)
  client.close()
  for (const answer of await Promise.all(bad)) assert.ok(answer === '' || response(answer).status === 401)
}))

test('500 clients at once', () => withEngine({}, async engine => {
  const clients = await Promise.all(Array.from({ length: 500 }, () => Client.open(engine.port)))
  await Promise.all(clients.map(c => c.heartbeat()))
  for (const c of clients) c.close()
}))

run('handshake')
