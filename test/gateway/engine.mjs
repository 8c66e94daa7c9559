/*
 * A fake engine: starts the gateway as the real one does, and speaks the link
 * (src/link/link.h) with it.  By default it accepts every token and every
 * join; a test replaces the handlers that it is about.
 */
import net from 'node:net'
import { spawn } from 'node:child_process'
import { once, EventEmitter } from 'node:events'
import { PATIENCE } from './tap.mjs'
import { tlsSettings } from './transport.mjs'

export const HELLO = 1, CONFIG = 2, AUTH_REPLY = 3, JOIN_REPLY = 4, BINDINGS = 5,
  EVENT = 6, SYSTEM = 7, SHUTDOWN = 8, RIGHTS = 9, BROADCAST = 10,
  REST_REPLY = 11, REPLAY = 12, HEARTBEAT_REPLY = 13, REVOKED = 15, TRANSACTION_END = 17,
  PERSIST_REPLY = 53, RELAYED = 54, TRACKED = 55, UNTRACKED = 56, GATEWAY_ENDED = 57, PRESENCE_WANTED = 58, COUNTED = 59, LIST = 52
export const READY = 101, AUTH = 102, JOIN = 103, LEAVE = 104, TOKEN = 105, STATS = 106,
  PAUSE = 107, CONTINUE = 108, REST = 109, PERSIST = 112, REST_PERSIST = 120, LISTED = 150,
  RELAY = 160, RELAY_REST = 161, TRACK = 162, UNTRACK = 163, COUNTS = 164

const NULL = 0xffffffff

/* A body under construction. */
export class Body {
  parts = []
  u8(n) { this.parts.push(Buffer.from([n])); return this }
  u32(n) { const b = Buffer.alloc(4); b.writeUInt32LE(n); this.parts.push(b); return this }
  u64(n) { const b = Buffer.alloc(8); b.writeBigUInt64LE(BigInt(n)); this.parts.push(b); return this }
  string(s) {
    if (s === null || s === undefined) return this.u32(NULL)
    const b = Buffer.from(s)
    this.u32(b.length).parts.push(b)
    return this
  }
  bytes() { return Buffer.concat(this.parts) }
}

class Reader {
  constructor(body) { this.body = body; this.at = 0 }
  u8() { return this.body.readUInt8(this.at++) }
  u32() { const n = this.body.readUInt32LE(this.at); this.at += 4; return n }
  u64() { const n = this.body.readBigUInt64LE(this.at); this.at += 8; return Number(n) }
  bytes() {
    const n = this.u32()
    if (n === NULL) return null
    this.at += n
    return [...this.body.subarray(this.at - n, this.at)]
  }
  string() {
    const n = this.u32()
    if (n === NULL) return null
    const s = this.body.subarray(this.at, this.at + n)
    if (s.length !== n) throw new Error('string is cut off')
    this.at += n
    return s.toString()
  }
  buffer() {
    const bytes = this.bytes()
    return bytes && Buffer.from(bytes)
  }
  end() { if (this.at !== this.body.length) throw new Error('bytes left over') }
}

const relayed = r => ({ event: r.string(), json: r.u8(), payload: r.buffer(), map: r.string(), id: r.string() })

const parsers = {
  [READY]: r => ({ version: r.u32() }),
  [AUTH]: r => ({ connection: r.u64(), token: r.string() }),
  [JOIN]: r => {
    const m = { channel: r.u64(), topic: r.string(), private: r.u8(), wait: r.u8(), replay: r.u8(), since: r.u64(), limit: r.u32(), token: r.string(), options: r.string(), bindings: [] }
    for (let n = r.u32(); n > 0; n--) {
      const b = { event: r.string(), schema: r.string(), table: r.string(), filter: r.string(), options: r.string(), select: null }
      const columns = r.u32()
      if (columns !== NULL) b.select = Array.from({ length: columns }, () => r.string())
      m.bindings.push(b)
    }
    return m
  },
  [LEAVE]: r => ({ channel: r.u64() }),
  [TOKEN]: r => ({ channel: r.u64(), token: r.string() }),
  [PAUSE]: r => ({ channel: r.u64() }),
  [CONTINUE]: r => ({ channel: r.u64() }),
  [REST]: r => ({ request: r.u64(), private: r.u8(), topic: r.string(), token: r.string() }),
  [PERSIST]: r => ({ channel: r.u64(), ref: r.string(), id: r.string(), event: r.string(), json: r.u8(), payload: r.string(), ttl: r.u32() }),
  [REST_PERSIST]: r => ({ request: r.u64(), topic: r.string(), token: r.string(), id: r.string(), event: r.string(), json: r.u8(), payload: r.string(), ttl: r.u32() }),
  [LISTED]: r => {
    const m = { request: r.u32(), last: r.u8(), connections: [] }
    for (let n = r.u32(); n > 0; n--) {
      const c = { number: r.u64(), address: r.bytes(), port: r.u32(), age: r.u64(), silence: r.u64(), version: r.u32(),
        tls: r.u8(), paused: r.u8(), frames: r.u64(), bytes: r.u64(), queue: r.u64(), channels: [] }
      for (let k = r.u32(); k > 0; k--) c.channels.push({ channel: r.u64(), sent: r.u64() })
      m.connections.push(c)
    }
    return m
  },
  [RELAY]: r => ({ channel: r.u64(), ...relayed(r) }),
  [RELAY_REST]: r => ({ private: r.u8(), topic: r.string(), token: r.string(), ...relayed(r) }),
  [TRACK]: r => ({ to: r.u32(), channel: r.u64(), key: r.string(), meta: r.string(), ref: r.u64(), previous: r.u64() }),
  [UNTRACK]: r => ({ channel: r.u64() }),
  [COUNTS]: r => ({ share: r.buffer() }),
  [STATS]: r => ({ connections: r.u32(), channels: r.u32(), frames: r.u64(), bytes: r.u64(), slow: r.u64() }),
}
const names = {
  [READY]: 'ready', [AUTH]: 'auth', [JOIN]: 'join', [LEAVE]: 'leave', [TOKEN]: 'token', [STATS]: 'stats',
  [PAUSE]: 'pause', [CONTINUE]: 'continue', [REST]: 'rest', [PERSIST]: 'persist', [REST_PERSIST]: 'restPersist', [LISTED]: 'listed',
  [RELAY]: 'relay', [RELAY_REST]: 'relayRest', [TRACK]: 'track', [UNTRACK]: 'untrack', [COUNTS]: 'counts',
}

export class Engine extends EventEmitter {
  stderr = ''
  log = []              /* messages received: {name, ...fields} */
  stats = null          /* the latest of its kind: they come only when something has changed */
  channels = new Map()  /* topic -> the latest channel number */
  exited = null
  lists = 0x70000000    /* numbers of settled(), which tests do not use */

  static async start(config = {}, options = {}) {
    const engine = new Engine()
    const server = net.createServer()
    server.listen(0, '127.0.0.1', 4096)
    await once(server, 'listening')
    engine.port = server.address().port
    const [program, ...args] = [...options.wrapper ?? [], process.env.GATEWAY]
    engine.child = spawn(program, args,
      { stdio: ['ignore', 'inherit', 'pipe', 'pipe', server._handle.fd] })
    server.close()
    engine.child.stderr.on('data', d => { engine.stderr += d })
    engine.exit = new Promise(resolve => engine.child.on('exit', (code, signal) => {
      engine.exited = { code, signal }
      resolve(engine.exited)
    }))
    engine.link = engine.child.stdio[3]
    engine.link.on('error', () => {})
    engine.pending = Buffer.alloc(0)
    engine.link.on('data', data => engine.receive(data))
    if (options.silent) return engine
    engine.send(HELLO, new Body().u32(1).u32(1))
    engine.configure({ error_delay: 0, ...tlsSettings(), ...config })
    await once(engine, 'ready')
    return engine
  }

  send(type, body) {
    const bytes = body.bytes()
    const header = Buffer.alloc(8)
    header.writeUInt32LE(bytes.length, 0)
    header.writeUInt32LE(type, 4)
    this.link.write(Buffer.concat([header, bytes]))
  }

  configure(settings) {
    const body = new Body().u32(Object.keys(settings).length)
    for (const [name, value] of Object.entries(settings)) body.string(name).string(String(value))
    this.send(CONFIG, body)
  }

  receive(data) {
    this.pending = this.pending.length > 0 ? Buffer.concat([this.pending, data]) : data
    for (;;) {
      if (this.pending.length < 8) return
      const length = this.pending.readUInt32LE(0)
      const type = this.pending.readUInt32LE(4)
      if (this.pending.length < 8 + length) return
      const reader = new Reader(this.pending.subarray(8, 8 + length))
      if (!parsers[type]) throw new Error(`unknown message ${type} from the gateway`)
      const message = { name: names[type], ...parsers[type](reader) }
      reader.end()
      this.pending = this.pending.subarray(8 + length)
      if (message.name === 'stats') this.stats = message
      else if (!['listed', 'counts'].includes(message.name)) this.log.push(message)
      if (message.name === 'join') this.channels.set(message.topic, message.channel)
      this.emit(message.name, message)
      const handler = 'on' + message.name
      if (this[handler]) this[handler](message)
    }
  }

  /* What a test replaces */
  onauth(m) { this.authReply(m.connection, 200) }
  onjoin(m) { this.joinReply(m.channel, m.bindings.map((_, i) => [1000 + i, this.groupOf(m, i)])) }
  onrest(m) { this.restReply(m.request, 200) }
  onpersist(m) { this.persistReply(m) }
  onrestPersist(m) { this.restReply(m.request, 200, 0) }
  groupOf(m, i) { return 1 + i }

  authReply(connection, status, error = null, expiry = 0, key = 0) {
    this.send(AUTH_REPLY, new Body().u64(connection).u32(status).string(error).u64(expiry).u64(key))
  }
  revoke(key, all = true) { this.send(REVOKED, new Body().u64(key).u8(all)) }
  restReply(request, status, rights = status === 200 ? 15 : 0) {
    this.send(REST_REPLY, new Body().u64(request).u32(status).u8(rights))
  }
  persistReply({ channel, ref, id }, error = null) {
    this.send(PERSIST_REPLY, new Body().u64(channel).string(ref).string(id).string(error))
  }
  joinReply(channel, bindings, rights = 15) {
    const body = new Body().u64(channel).u8(1).u8(rights).string(null).u32(bindings.length)
    for (const [id, group] of bindings) body.u32(id).u32(group)
    this.send(JOIN_REPLY, body)
  }
  replay(channel, event, encoding, payload, id) {
    this.send(REPLAY, new Body().u64(channel).string(event).u8(encoding).string(payload).string(id))
  }
  joinRefuse(channel, reason) { this.send(JOIN_REPLY, new Body().u64(channel).u8(0).u8(0).string(reason).u32(0)) }
  bindings(channel, bindings) {
    const body = new Body().u64(channel).u32(bindings.length)
    for (const [id, group] of bindings) body.u32(id).u32(group)
    this.send(BINDINGS, body)
  }
  event(groups, data, awaiting = []) {
    const body = new Body().u64(1).u64(2).u32(3).u32(groups.length)
    for (const g of groups) body.u32(g)
    body.string(typeof data === 'string' ? data : JSON.stringify(data)).u32(awaiting.length)
    for (const channel of awaiting) body.u64(channel)
    this.send(EVENT, body)
  }
  transactionEnd(groups, [epoch, lsn, seq] = [1, 2, 0xffffffff]) {
    const body = new Body().u64(epoch).u64(lsn).u32(seq).u32(groups.length)
    for (const g of groups) body.u32(g)
    this.send(TRANSACTION_END, body)
  }
  system(channel, extension, status, message, then = 0) {
    this.send(SYSTEM, new Body().u64(channel).string(extension).string(status).string(message).u8(then))
  }
  rights(channel, rights) { this.send(RIGHTS, new Body().u64(channel).u8(rights)) }
  broadcast(isPrivate, topic, event, payload, { json = 1, id = null } = {}) {
    this.send(BROADCAST, new Body().u8(isPrivate ? 1 : 0).string(topic).string(event).u8(json).string(payload).string(id))
  }
  /* What a client of another gateway has sent */
  relayed(isPrivate, topic, { event = 'e', json = 1, payload = '{}', map = null, id = null } = {}) {
    this.send(RELAYED, new Body().u8(isPrivate ? 1 : 0).string(topic).string(event).u8(json).string(payload).string(map).string(id))
  }
  shutdown(why = 0) { this.send(SHUTDOWN, new Body().u32(why)) }

  /* Wait until the gateway has handled what it was sent so far: it answers in order. */
  async settled() {
    const request = ++this.lists
    this.send(LIST, new Body().u32(request))
    await this.wait('listed', m => m.request === request && m.last === 1)
  }

  /* All that the client got of what was sent so far, by itself or by us */
  async drain(client) {
    await this.settled()
    await client.heartbeat('drain' + client.count)
    return client.messages.splice(0)
  }

  /*
   * Have "send" send, again and again, until the condition holds; what the gateway
   * has not read yet does not grow over that.
   */
  async flood(send, condition, what) {
    const end = Date.now() + PATIENCE
    while (!condition()) {
      if (Date.now() > end) throw new Error(`timeout: ${what}`)
      send()
      await this.settled()
    }
  }

  /* Change settings, and wait until they count. */
  async reconfigure(settings) {
    this.configure(settings)
    await this.settled()
  }

  /* Wait for a message of this name that satisfies the condition. */
  wait(name, condition = () => true, timeout = PATIENCE) {
    const seen = [...this.log, ...this.stats ? [this.stats] : []].find(m => m.name === name && condition(m))
    if (seen) return Promise.resolve(seen)
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => { this.off(name, check); reject(new Error(`no ${name} from the gateway`)) }, timeout)
      const check = m => {
        if (!condition(m)) return
        clearTimeout(timer)
        this.off(name, check)
        resolve(m)
      }
      this.on(name, check)
    })
  }

  /* End the link as a dying engine does; the gateway must end, cleanly. */
  async stop() {
    this.link.destroy()
    const timer = setTimeout(() => this.child.kill('SIGKILL'), PATIENCE)
    const { code, signal } = await this.exit
    clearTimeout(timer)
    if (code !== 0) throw new Error(`gateway ended with ${code ?? signal}: ${this.stderr.slice(-4000)}`)
    const sanitizer = /runtime error|AddressSanitizer|LeakSanitizer/.exec(this.stderr)
    if (sanitizer) throw new Error(this.stderr.slice(-4000))
  }
}
