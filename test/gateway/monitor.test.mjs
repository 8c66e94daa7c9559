/*
 * Health, metrics, the list of connections, and static files.
 */
import fs from 'node:fs'
import net from 'node:net'
import os from 'node:os'
import path from 'node:path'
import { Body, Engine, LIST } from './engine.mjs'
import { Client, exchange, response } from './client.mjs'
import { test, run, assert, sleep, until } from './tap.mjs'

const MONITOR = 50, COMMITTED = 51

async function withEngine(config, use, options) {
  const engine = await Engine.start(config, options)
  try { await use(engine) } finally { await engine.stop() }
}

const get = async (engine, target, headers = {}, method = 'GET') => response(await exchange(engine.port,
  `${method} ${target} HTTP/1.1\r\nHost: x\r\n${Object.entries(headers).map(([k, v]) => `${k}: ${v}\r\n`).join('')}\r\n`))
const monitor = (engine, ready, reason = null, text = '') =>
  engine.send(MONITOR, new Body().u8(ready ? 1 : 0).string(reason).string(text))

async function health(engine) {
  const answer = await get(engine, '/health')
  return { status: answer.status, ...JSON.parse(answer.body) }
}

test('not ready until the engine says so, and why', () => withEngine({}, async engine => {
  assert.deepEqual(await health(engine),
    { status: 503, live: true, ready: false, reason: 'the gateway has not heard of the engine yet' })
  monitor(engine, false, 'it reads "history"')
  await until(async () => (await health(engine)).reason === 'it reads "history"', 'the reason')
  monitor(engine, true)
  await until(async () => (await health(engine)).status === 200, 'ready')
  assert.deepEqual(await health(engine), { status: 200, live: true, ready: true })
  monitor(engine, false)
  await until(async () => (await health(engine)).status === 503, 'not ready')
}))

test('not ready when the engine is silent', () => withEngine({}, async engine => {
  monitor(engine, true)
  await until(async () => (await health(engine)).status === 200, 'ready')
  let answer
  await until(async () => (answer = await health(engine)).status === 503, 'not ready')
  assert.match(answer.reason, /^the engine has not been heard of for \d\d seconds$/)
}))

test('metrics need their token, and are not there without one', () => withEngine({}, async engine => {
  monitor(engine, true, null, 'rtsync_from_engine 1\n')
  assert.equal((await get(engine, '/metrics')).status, 404)
  assert.equal((await get(engine, '/metrics', { Authorization: 'Bearer ' })).status, 404)
  engine.configure({ metrics_token: 'open sesame' })
  await until(async () => (await get(engine, '/metrics')).status === 401, 'the token')
  assert.equal((await get(engine, '/metrics', { Authorization: 'Bearer open' })).status, 401)
  const answer = await get(engine, '/metrics', { authorization: 'bearer open sesame' })
  assert.equal(answer.status, 200)
  assert.match(answer.body, /^rtsync_ready 1$/m)
  assert.match(answer.body, /^rtsync_http_responses_total\{status="401"\} \d+$/m)
  assert.match(answer.body, /\nrtsync_from_engine 1\n$/)
  assert.equal((await get(engine, '/metrics', { authorization: 'Bearer open sesame' }, 'POST')).status, 405)
  const head = await get(engine, '/metrics', { authorization: 'Bearer open sesame' }, 'HEAD')
  assert.equal(head.status, 200)
  assert.equal(head.body, '')
}))

test('refused joins and closed connections are counted by what they were told', () => withEngine({ metrics_token: 'x' }, async engine => {
  let reason
  engine.onauth = m => engine.authReply(m.connection, 200, null, 0, 7)
  engine.onjoin = m => engine.joinRefuse(m.channel, reason)
  const count = async (name, label) => {
    const { body } = await get(engine, '/metrics', { authorization: 'Bearer x' })
    return Number(new RegExp(`^rtsync_${name}_total\\{\\w+="${label}"\\} (\\d+)$`, 'm').exec(body)?.[1])
  }
  const client = await Client.open(engine.port)
  const reasons = ['InvalidJWTToken', 'MalformedJWT', 'JwtSignatureError', 'JwtSignerError', 'Unauthorized', 'PrivateOnly',
    'ChannelRateLimitReached', 'RealtimeDisabledForConfiguration', 'UnableToReplayMessages', 'UnableToSubscribeToPostgres']
  for (const name of reasons) {
    reason = `${name}: and why`
    await client.join('realtime:a')
  }
  reason = 'Unknown Error on Channel'
  await client.join('realtime:a')
  for (const name of [...reasons, 'other']) assert.equal(await count('joins', name), 1, name)
  engine.revoke(7)
  assert.equal((await client.waitClosed()).code, 1008)
  await until(async () => await count('connections_closed', '1008') === 1, 'the end to be counted')
  assert.equal(await count('connections_closed', 'other'), 0)
}))

test('the time from commit to send is measured', () => withEngine({ metrics_token: 'x' }, async engine => {
  const client = await Client.open(engine.port)
  await client.join('realtime:room', { changes: [{ event: '*', schema: 'public', table: 't' }] })
  engine.event([1], { n: 1 })
  engine.send(COMMITTED, new Body().u64((Date.now() - 300) * 1000))
  for (let i = 0; i < 300; i++) engine.send(COMMITTED, new Body().u64((Date.now() + 5000) * 1000)) /* clocks step */
  const metric = async name => Number(new RegExp(`^rtsync_commit_to_send_seconds_${name} (.*)$`, 'm')
    .exec((await get(engine, '/metrics', { authorization: 'Bearer x' })).body)[1])
  await until(async () => await metric('count') === 301, 'all')
  const sum = await metric('sum')
  assert.ok(sum >= 0.29 && sum < 20, `${sum}`)
  client.close()
}))

/* Collects the parts of a list. */
async function list(engine, request) {
  const connections = []
  let last = false
  let parts = 0
  const onlisted = m => {
    if (m.request !== request) return
    connections.push(...m.connections)
    last ||= m.last === 1
    parts++
  }
  engine.on('listed', onlisted)
  engine.send(LIST, new Body().u32(request))
  await until(() => last, 'the last part')
  engine.off('listed', onlisted)
  return { connections, parts }
}

test('the list of connections', () => withEngine({}, async engine => {
  assert.deepEqual(await list(engine, 7), { connections: [], parts: 1 })
  const client = await Client.open(engine.port, { vsn: '1.0.0' })
  await client.join('realtime:room', { changes: [{ event: '*', schema: 'public', table: 't' }] })
  await client.join('realtime:hall', { ref: '2' })
  engine.event([1], { n: 1 })
  await client.event('postgres_changes')
  const { connections: [one, ...more] } = await list(engine, 8)
  assert.equal(more.length, 0)
  assert.equal(one.address.join('.'), '127.0.0.1')
  assert.equal(one.port, client.socket.localPort)
  assert.equal(one.version, 1)
  assert.deepEqual(one.channels.map(c => c.sent), [1, 0])
  assert.ok(one.frames >= 3 && one.bytes > 50 && one.age >= one.silence)
  client.close()
  await until(async () => (await list(engine, 9)).connections.length === 0, 'its end')
}))

test('a long list comes in parts, while connections end', () => withEngine({}, async engine => {
  const clients = await Promise.all(Array.from({ length: 700 }, () => Client.open(engine.port)))
  const whole = await list(engine, 1)
  assert.equal(new Set(whole.connections.map(c => c.number)).size, 700)
  assert.ok(whole.parts >= 3)
  const ending = (async () => { for (const client of clients) { client.close(); if (Math.random() < 0.1) await sleep(1) } })()
  for (let i = 2; i < 30; i++) await list(engine, i)
  await ending
  await until(async () => (await list(engine, 99)).connections.length === 0, 'their end')
}))

/*------------------------------ static files -----------------------------*/

const root = fs.mkdtempSync(path.join(os.tmpdir(), 'rtsync-files-'))
process.on('exit', () => fs.rmSync(root, { recursive: true, force: true }))
const big = Buffer.alloc(5 * 1024 * 1024, 'rtsync ')
fs.mkdirSync(`${root}/site/sub`, { recursive: true })
fs.writeFileSync(`${root}/secret.txt`, 'outside')
fs.writeFileSync(`${root}/site/index.html`, '<p>home')
fs.writeFileSync(`${root}/site/sub/index.html`, '<p>sub')
fs.writeFileSync(`${root}/site/app.js`, 'let a')
fs.writeFileSync(`${root}/site/big.txt`, big)
fs.writeFileSync(`${root}/site/long.txt`, big.subarray(0, 1024 * 1024))
fs.writeFileSync(`${root}/site/unknown.sh`, 'rm')
fs.writeFileSync(`${root}/site/.hidden.txt`, 'hidden')
fs.writeFileSync(`${root}/site/unreadable.txt`, '')
fs.truncateSync(`${root}/site/unreadable.txt`, 9 * 1024 * 1024)
fs.symlinkSync(`${root}/secret.txt`, `${root}/site/link.txt`)
fs.symlinkSync(root, `${root}/site/up`)
fs.mkdirSync(`${root}/site/dir.html`)

test('files below http_root are served, with their types', () => withEngine({ http_root: `${root}/site` }, async engine => {
  for (const [target, type, body] of [
    ['/', 'text/html; charset=utf-8', '<p>home'],
    ['/index.html?x=1', 'text/html; charset=utf-8', '<p>home'],
    ['/sub/', 'text/html; charset=utf-8', '<p>sub'],
    ['/app.js', 'text/javascript; charset=utf-8', 'let a'],
    ['/big.txt', 'text/plain; charset=utf-8', big.toString()],
  ]) {
    const answer = await get(engine, target)
    assert.equal(answer.status, 200, target)
    assert.equal(answer.headers['content-type'], type)
    assert.equal(answer.headers['x-content-type-options'], 'nosniff')
    assert.equal(answer.body, body)
  }
  const head = await get(engine, '/big.txt', {}, 'HEAD')
  assert.equal(head.headers['content-length'], String(big.length))
  assert.equal(head.body, '')
}))

test('nothing else is', () => withEngine({ http_root: `${root}/site` }, async engine => {
  for (const target of ['/../secret.txt', '/..%2fsecret.txt', '/%2e%2e/secret.txt', '/sub/../../secret.txt', '//secret.txt',
    '/link.txt', '/up/secret.txt', '/.hidden.txt', '/unknown.sh', '/sub', '/dir.html', '/dir.html/', '/nothing.txt', '/unreadable.txt',
    '/app.js/', '/app.js%00.txt', '/a\\..\\secret.txt', `/${'x/'.repeat(20)}a.txt`, `/${'x'.repeat(300)}.txt`])
    assert.equal((await get(engine, target)).status, 404, target)
  assert.equal((await get(engine, '/index.html', {}, 'DELETE')).status, 404)
  assert.equal((await get(engine, '/healthcheck')).body, 'ok')
}))

test('without http_root there are no files', () => withEngine({}, async engine => {
  assert.equal((await get(engine, '/')).status, 404)
  assert.equal((await get(engine, '/index.html')).status, 404)
}))

test('a client that does not read a long answer is given up', () => withEngine({ http_root: `${root}/site`, send_timeout: 3000 }, async engine => {
  const descriptors = () => fs.readdirSync(`/proc/${engine.child.pid}/fd`).length
  const before = descriptors()
  const socket = net.connect(engine.port, '127.0.0.1')
  let ended = false
  socket.on('error', () => {})
  socket.on('close', () => { ended = true })
  socket.pause()
  socket.write('GET /big.txt HTTP/1.1\r\nHost: x\r\n\r\n')
  await until(() => descriptors() > before, 'the connection')
  await until(() => descriptors() === before, 'it to be given up')
  socket.resume()
  await until(() => ended, 'the end')
  assert.ok(socket.bytesRead < big.length, `${socket.bytesRead}`)
}))

test('many who do not read long answers leave room for others', () => withEngine({ http_root: `${root}/site`, send_timeout: 120000 }, async engine => {
  const sockets = []
  const ask = async n => {
    for (let i = 0; i < n; i++) {
      const socket = net.connect(engine.port, '127.0.0.1')
      socket.on('error', () => {})
      socket.pause()
      socket.write('GET /long.txt HTTP/1.1\r\nHost: x\r\n\r\n')
      sockets.push(socket)
      if (i % 50 === 49) await sleep(10)
    }
  }
  /* more than there is room for at a time, all of whom have had a second */
  await ask(1024)
  await sleep(1100)
  await ask(100)
  const start = performance.now()
  /* who asks while a busy machine is late may have to give way itself, once */
  await until(async () => (await get(engine, '/healthcheck')).body === 'ok', 'others to be served')
  assert.ok(performance.now() - start < 100000, 'others are served, before anybody is given up')
  let answer
  await until(async () => (answer = await get(engine, '/big.txt')).status === 200, 'a file')
  assert.equal(answer.body.length, big.length)
  const memory = Number(/VmHWM:\s+(\d+)/.exec(fs.readFileSync(`/proc/${engine.child.pid}/status`, 'utf8'))[1]) / 1024
  assert.ok(process.env.SANITIZED || memory < 200, `${memory} MB`)
  for (const socket of sockets) socket.destroy()
}))

run('monitor')
