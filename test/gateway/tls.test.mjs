/*
 * TLS: certificates and their reload, versions, and what may come instead of a
 * client that speaks it.  Runs with GATEWAY_TLS set, as the other files can.
 */
import crypto from 'node:crypto'
import fs from 'node:fs'
import net from 'node:net'
import tls from 'node:tls'
import { once } from 'node:events'
import { Engine } from './engine.mjs'
import { Client, closed, exchange, handshake, response } from './client.mjs'
import { authority, connect, tlsSettings } from './transport.mjs'
import { makeCertificate } from './certificates.mjs'
import { test, run, assert, PATIENCE, sleep, until } from './tap.mjs'

const PLAIN_ANSWER = { error: 'This port speaks TLS: use wss:// or https://' }
const { directory } = authority()
const second = makeCertificate(directory, 'second')
const settingsOf = made => ({ ssl_certificate: made.certificate, ssl_key: made.key })

async function withEngine(config, use) {
  const engine = await Engine.start(config)
  try { await use(engine) } finally { await engine.stop() }
}

const commonName = client => client.socket.getPeerCertificate().subject.CN
const open = (engine, transport) => Client.open(engine.port, { transport })

/* Whose certificate a new connection is shown, or null if there is none */
async function shown(engine, transport) {
  const client = await open(engine, transport).catch(() => null)
  const name = client && commonName(client)
  client?.close()
  return name
}

/* The error with which a TLS client of these options fails, or null */
async function refusal(engine, options) {
  const socket = connect({ port: engine.port, ...options })
  const outcome = await new Promise(resolve => socket.once('secureConnect', () => resolve(null)).once('error', resolve))
  socket.destroy()
  return outcome
}

/* Send bytes without TLS, and return what comes back. */
async function plainly(engine, bytes, { end = false, timeout = PATIENCE } = {}) {
  const socket = net.connect(engine.port, '127.0.0.1')
  let answer = ''
  socket.on('error', () => {})
  socket.on('data', d => { answer += d.toString('latin1') })
  await once(socket, 'connect')
  socket.write(bytes)
  if (end) socket.end()
  const timer = setTimeout(() => socket.destroy(), timeout)
  await closed(socket)
  clearTimeout(timer)
  return answer
}

test('a client that checks the certificate gets its messages, by TLS 1.3 or 1.2', () => withEngine({}, async engine => {
  for (const version of ['TLSv1.3', 'TLSv1.2']) {
    const client = await open(engine, { maxVersion: version, ALPNProtocols: ['h2', 'http/1.1'] })
    assert.equal(client.socket.getProtocol(), version)
    assert.equal(client.socket.alpnProtocol, 'http/1.1')
    assert.equal(commonName(client), 'first')
    assert.equal((await client.join('realtime:x', { changes: [{}] })).payload.status, 'ok')
    engine.event([1], { filler: 'ü'.repeat(100000) })
    assert.equal((await client.event('postgres_changes')).payload.data.filler.length, 100000)
    client.close()
  }
  /* who offers only another protocol is served all the same */
  assert.equal(await refusal(engine, { ALPNProtocols: ['h2'] }), null)
  assert.match(String((await refusal(engine, { ca: second.certificate })).code), /VERIFY|ISSUER/)
}))

test('TLS 1.1 is refused, and what the bounds exclude', () => withEngine({}, async engine => {
  const old = { minVersion: 'TLSv1', maxVersion: 'TLSv1.1', ciphers: 'DEFAULT:@SECLEVEL=0' }
  assert.match(String(await refusal(engine, old)), /protocol version|unsupported protocol/i)
  const bounds = async (min, max) => {
    engine.configure({ ...settingsOf(second), ssl_min_protocol_version: min, ssl_max_protocol_version: max })
    await until(async () => await shown(engine) === 'second', 'reload')
  }
  await bounds('TLSv1.3', '')
  assert.match(String(await refusal(engine, { maxVersion: 'TLSv1.2' })), /protocol version/i)
  assert.equal(await refusal(engine, { maxVersion: 'TLSv1.3' }), null)
  /* a lower bound that nobody should have still is 1.2 */
  engine.configure({ ...settingsOf(second), ssl_min_protocol_version: 'TLSv1', ssl_max_protocol_version: 'TLSv1.2' })
  await until(async () => (await refusal(engine, { minVersion: 'TLSv1.3' })) !== null, 'reload')
  assert.match(String(await refusal(engine, old)), /protocol version|unsupported protocol/i)
  assert.equal(await refusal(engine, { maxVersion: 'TLSv1.2' }), null)
}))

test('a new certificate under traffic: nobody is disconnected, nothing is missed', () => withEngine({}, async engine => {
  const clients = await Promise.all(Array.from({ length: 20 }, () => open(engine)))
  for (const c of clients) await c.join('realtime:x', { changes: [{}] })
  let n = 0
  /* no more than what is taken, so that nobody falls behind */
  const timer = setInterval(() => {
    if (clients.every(c => c.count > n - 20)) engine.event([1], { n: n++, filler: 'x'.repeat(n % 50 * 1000) })
  }, 2)
  for (let round = 0; round < 6; round++) {
    const made = round % 2 ? authority().first : second
    engine.configure(settingsOf(made))
    const name = round % 2 ? 'first' : 'second'
    await until(async () => await shown(engine) === name, name)
  }
  clearInterval(timer)
  for (const c of clients) {
    const events = () => c.messages.filter(m => m.event === 'postgres_changes')
    await until(() => events().length === n, `events: ${events().length} of ${n}`)
    assert.deepEqual(events().map(m => m.payload.data.n), Array.from({ length: n }, (_, i) => i))
    assert.equal(c.closed, null)
    assert.equal(commonName(c), 'first')
    c.close()
  }
}))

test('a certificate that cannot be used leaves the one before, and says so', () => withEngine({}, async engine => {
  const stays = await open(engine)
  const bad = [
    [{ ssl_certificate: 'no certificate', ssl_key: second.key }, /could not use the certificate for TLS: /],
    [{ ssl_certificate: second.certificate, ssl_key: 'no key' }, /could not use the private key for TLS: /],
    [{ ssl_certificate: second.certificate, ssl_key: authority().first.key }, /could not use the private key for TLS: .*mismatch/],
    [{ ...settingsOf(second), ssl_ciphers: 'NOTHING' }, /could not use the protocol versions or ciphers for TLS: /],
  ]
  for (const [settings, message] of bad) {
    engine.stderr = ''
    engine.configure(settings)
    await until(() => message.test(engine.stderr), String(message))
    assert.doesNotMatch(engine.stderr, /BEGIN|PRIVATE KEY/)
    assert.equal(await shown(engine), 'first')
  }
  await stays.heartbeat()
  engine.configure({ ...settingsOf(second), ssl_ciphers: '' })
  await until(async () => await shown(engine) === 'second', 'second')
  stays.close()
}))

test('without a certificate nobody is served, neither by TLS nor plainly', () => withEngine({ ssl_certificate: '', ssl_key: '' }, async engine => {
  assert.notEqual(await refusal(engine, {}), null)
  assert.equal(response(await plainly(engine, 'GET /healthcheck HTTP/1.1\r\nHost: x\r\n\r\n')).status, 400)
  await until(() => /could not speak TLS: there is no certificate/.test(engine.stderr), 'the log')
  engine.configure(tlsSettings())
  await until(async () => (await refusal(engine, {})) === null, 'certificate')
}))

test('TLS is turned off and on for those who connect from then on', () => withEngine({}, async engine => {
  const before = await open(engine)
  engine.configure({ ssl: 0 })
  await until(async () => response(await plainly(engine, 'GET /healthcheck HTTP/1.1\r\nHost: x\r\n\r\n')).status === 200, 'plain')
  await before.heartbeat()
  engine.configure(tlsSettings())
  await until(async () => (await refusal(engine, {})) === null, 'TLS')
  assert.equal(response(await plainly(engine, 'GET /healthcheck HTTP/1.1\r\nHost: x\r\n\r\n')).status, 400)
  before.close()
}))

test('who speaks plainly on a port with TLS is told so; garbage is refused', () => withEngine({ handshake_timeout: 60000 }, async engine => {
  const bystander = await open(engine)
  await bystander.join('realtime:bystander', { changes: [{}] })
  let n = 0
  const timer = setInterval(() => engine.event([1], { n: n++ }), 3)
  for (const request of ['GET /healthcheck HTTP/1.1\r\nHost: x\r\n\r\n', 'OPTIONS / HTTP/1.1\r\nHost: x\r\n\r\n',
    handshake('/socket/websocket?apikey=x'), 'POST /api/broadcast HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello']) {
    const answer = response(await plainly(engine, request))
    assert.equal(answer.status, 400, request)
    assert.deepEqual(JSON.parse(answer.body), PLAIN_ANSWER)
  }
  assert.equal(engine.log.filter(m => m.name === 'auth').length, 1)
  assert.equal(response(await plainly(engine, 'GET /\x16\x16 HTTP/1.1\r\nHost: x\r\n\r\n')).status, 400)
  /* TLS that never was, is cut off, or stops */
  await engine.reconfigure({ handshake_timeout: 1500 })
  const start = Date.now()
  const stuck = [Buffer.from([0x16]), Buffer.from([0x16, 3, 1, 2, 0, 1, 0]), Buffer.from([0x16, 3, 1, 0x40, 0])]
  await Promise.all([...stuck.map(bytes => plainly(engine, bytes)),
    ...stuck.map(bytes => plainly(engine, bytes, { end: true })),
    ...Array.from({ length: 200 }, (_, i) => plainly(engine, Buffer.concat([Buffer.from([0x16, 3, i % 4, i]), crypto.randomBytes(i * 20)]), { end: i % 3 === 0 }))])
  assert.ok(Date.now() - start < 20000, 'handshake_timeout')
  await engine.reconfigure({ handshake_timeout: 60000 })
  /* a ClientHello, changed in one place or cut */
  const hello = await new Promise(resolve => {
    const server = net.createServer(s => s.once('data', d => { s.destroy(); server.close(); resolve(d) })).listen(0, '127.0.0.1', () => {
      tls.connect({ port: server.address().port, host: '127.0.0.1' }).on('error', () => {})
    })
  })
  await Promise.all(Array.from({ length: 300 }, (_, i) => {
    const bytes = Buffer.from(hello)
    bytes[1 + i % (bytes.length - 1)] ^= 1 << i % 8
    return plainly(engine, i % 5 ? bytes : hello.subarray(0, i), { end: true })
  }))
  /* behind a proper handshake: records that cannot be decrypted */
  await Promise.all(Array.from({ length: 30 }, async () => {
    const raw = net.connect(engine.port, '127.0.0.1')
    const socket = tls.connect({ socket: raw, ca: authority().ca, servername: 'localhost' })
    socket.on('error', () => {})
    raw.on('error', () => {})
    await once(socket, 'secureConnect')
    raw.write(Buffer.concat([Buffer.from([0x17, 3, 3, 0, 100]), crypto.randomBytes(100)]))
    await closed(raw)
  }))
  clearInterval(timer)
  const events = () => bystander.messages.filter(m => m.event === 'postgres_changes')
  await until(() => events().length === n, 'events of the bystander')
  bystander.close()
}))

test('who begins TLS late has no more time than others', () => withEngine({ handshake_timeout: 4000 }, async engine => {
  const ends = []
  const open = name => {
    const socket = net.connect(engine.port, '127.0.0.1')
    socket.on('error', () => {})
    socket.on('close', () => ends.push(name))
    return socket
  }
  const start = Date.now()
  const late = open('late')
  await sleep(2000)
  /* has its end two seconds after the one before; the first byte of that comes later yet */
  const other = open('other')
  await sleep(1000)
  late.write(Buffer.from([0x16]))
  await until(() => ends.length > 0, 'an end')
  assert.equal(ends[0], 'late')
  assert.ok(Date.now() - start > 3800, `after ${Date.now() - start} ms`)
  other.destroy()
}))

test('an idle TLS connection ends after handshake_timeout, half a request with 408', () => withEngine({ handshake_timeout: 3000 }, async engine => {
  const start = Date.now()
  const [idle, half, nothing] = await Promise.all([exchange(engine.port, ''),
    exchange(engine.port, 'GET / HTTP/1.1\r\nHost'), plainly(engine, '')])
  assert.deepEqual([idle, response(half).status, nothing], ['', 408, ''])
  assert.ok(Date.now() - start < 20000)
}))

test('the end of one half, and the end of all, get through', () => withEngine({}, async engine => {
  /* our answer ends with close_notify, so that nobody can cut it off unnoticed */
  const socket = connect({ port: engine.port })
  await once(socket, 'secureConnect')
  socket.write('GET /healthcheck HTTP/1.1\r\nHost: x\r\n\r\n')
  socket.resume()
  await once(socket, 'end')
  /* a client that ends its half first still gets the answer */
  assert.equal(response(await exchange(engine.port, 'GET /healthcheck HTTP/1.1\r\nHost: x\r\n\r\n', { end: true })).status, 200)
  /* the engine's goodbye reaches everybody, with its code */
  const clients = await Promise.all(Array.from({ length: 100 }, () => open(engine)))
  engine.shutdown(0)
  await Promise.all(clients.map(async c => assert.equal((await c.waitClosed()).code, 1012)))
}))

test('1,000 connections come and go in every way; descriptors come back', () => withEngine({ handshake_timeout: 60000 }, async engine => {
  const descriptors = () => fs.readdirSync(`/proc/${engine.child.pid}/fd`).length
  const before = descriptors()
  for (let round = 0; round < 20; round++)
    await Promise.all(Array.from({ length: 50 }, async (_, i) => {
      if (i % 5 === 4) {
        const raw = net.connect(engine.port, '127.0.0.1')
        raw.on('error', () => {})
        const socket = tls.connect({ socket: raw, ca: authority().ca, servername: 'localhost' })
        socket.on('error', () => {})
        if (i % 10 === 4) await once(socket, 'secureConnect')
        else {
          await once(raw, 'connect')    /* a reset would wait for that, and TLS go on */
          await sleep(i % 4)
        }
        raw.resetAndDestroy()
        return
      }
      const client = await open(engine)
      client.push({ join_ref: '1', ref: '1', topic: 'realtime:x', event: 'phx_join', payload: { config: { postgres_changes: [{}] } } })
      if (i % 3 === 0) { await client.reply('1'); engine.event([1], { filler: 'x'.repeat(50000) }) }
      if (i % 4 === 0) client.socket.pause()
      if (i % 2) client.close()
      else client.socket.end()
      if (i % 4 === 0) setTimeout(() => client.close(), 20)
    }))
  await until(() => descriptors() <= before, () => `descriptors (${descriptors()}, before ${before})`)
  await engine.settled()
  const count = name => engine.log.filter(m => m.name === name).length
  assert.equal(count('leave'), count('join'))
}))

run('tls')
