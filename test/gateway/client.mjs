/*
 * A WebSocket client that can also break every rule, since libraries for
 * clients refuse to.
 */
import crypto from 'node:crypto'
import { EventEmitter, once } from 'node:events'
import { connect, CONNECTED } from './transport.mjs'
import { PATIENCE } from './tap.mjs'

/* Wait for the close of a socket, however it comes about. */
export const closed = socket => socket.closed ? null : new Promise(resolve => socket.on('close', resolve))

export const TEXT = 1, BINARY = 2, CLOSE = 8, PING = 9, PONG = 10

/* A frame as a client sends it.  mask: false leaves it unmasked. */
export function frame(opcode, payload, { final = true, mask = true, rsv = 0, length } = {}) {
  payload = Buffer.from(payload)
  length ??= payload.length
  const head = [(final ? 0x80 : 0) | rsv | opcode]
  const bit = mask ? 0x80 : 0
  if (length < 126) head.push(bit | length)
  else if (length < 65536) head.push(bit | 126, length >> 8, length & 255)
  else {
    const b = Buffer.alloc(8)
    b.writeBigUInt64BE(BigInt(length))
    head.push(bit | 127, ...b)
  }
  if (!mask) return Buffer.concat([Buffer.from(head), payload])
  const key = crypto.randomBytes(4)
  const masked = Buffer.from(payload)
  for (let i = 0; i < masked.length; i++) masked[i] ^= key[i & 3]
  return Buffer.concat([Buffer.from(head), key, masked])
}

export function handshake(path, headers = {}) {
  const all = {
    Host: 'localhost', Upgrade: 'websocket', Connection: 'Upgrade',
    'Sec-WebSocket-Version': '13', 'Sec-WebSocket-Key': crypto.randomBytes(16).toString('base64'), ...headers,
  }
  let head = `GET ${path} HTTP/1.1\r\n`
  for (const [name, value] of Object.entries(all)) if (value !== null) head += `${name}: ${value}\r\n`
  return head + '\r\n'
}

/* Send raw bytes and return everything that comes back until the close. */
export async function exchange(port, bytes, { timeout = PATIENCE, end = false } = {}) {
  const socket = connect({ port })
  let answer = ''
  socket.on('error', () => {})
  socket.on('data', d => { answer += d.toString('latin1') })
  await once(socket, CONNECTED)
  if (bytes.length > 0) socket.write(bytes)
  if (end) socket.end()
  const timer = setTimeout(() => socket.destroy(), timeout)
  await closed(socket)
  clearTimeout(timer)
  return answer
}

export function response(text) {
  const [head, ...rest] = text.split('\r\n\r\n')
  const [line, ...lines] = head.split('\r\n')
  const headers = {}
  for (const l of lines) headers[l.slice(0, l.indexOf(':')).toLowerCase()] = l.slice(l.indexOf(':') + 1).trim()
  return { status: Number(line.split(' ')[1]), headers, body: rest.join('\r\n\r\n') }
}

/* A broadcast push as clients of version 2.0.0 send it */
export function broadcastPush({ join_ref = '', ref = '', topic, event, metadata = '', payload, json = true }) {
  const parts = [join_ref, ref, topic, event, metadata].map(s => Buffer.from(s))
  return frame(BINARY, Buffer.concat([Buffer.from([3, ...parts.map(p => p.length), json ? 1 : 0]), ...parts, Buffer.from(payload)]))
}

/* What a 2.0.0 client makes of a binary frame: kind 4, nothing else */
function decodeBroadcast(bytes) {
  const [kind, topic, event, metadata, encoding] = bytes
  if (kind !== 4 || encoding > 1) throw new Error(`unknown binary frame ${bytes.toString('hex')}`)
  let at = 5
  const take = n => { const part = bytes.subarray(at, at + n); at += n; if (part.length !== n) throw new Error('binary frame is cut off'); return part }
  const message = { binary: true, topic: take(topic).toString(), event: 'broadcast', join_ref: null, ref: null }
  const payload = { type: 'broadcast', event: take(event).toString() }
  const meta = take(metadata).toString()
  if (metadata > 0) payload.meta = JSON.parse(meta)
  message.raw = Buffer.from(take(bytes.length - at))
  payload.payload = encoding === 1 ? JSON.parse(message.raw.toString()) : message.raw
  return { ...message, payload }
}

export class Client extends EventEmitter {
  messages = []   /* received and not yet taken, decoded */
  count = 0       /* of messages received */
  closed = null   /* {code, reason} once a Close frame came */
  ended = false   /* the TCP connection is closed */
  pongs = 0
  pieces = []     /* received and not decoded */
  piecesLength = 0
  wanted = 0      /* until there are so many bytes, the first frame is not whole */
  keep = true     /* keep messages; else only count and emit */

  static async open(port, { vsn = '2.0.0', path = '/socket/websocket', token = 'good', headers = {}, receiveBuffer, transport } = {}) {
    const client = new Client()
    client.vsn = vsn ?? '1.0.0'
    client.socket = connect({ port, ...(receiveBuffer ? { highWaterMark: receiveBuffer } : {}), ...transport })
    client.socket.setNoDelay(true)
    client.socket.on('error', () => {})
    client.socket.on('close', () => { client.ended = true; client.emit('end') })
    await once(client.socket, CONNECTED)
    client.socket.write(handshake(`${path}${path.includes('?') ? '&' : '?'}apikey=${token}${vsn === null ? '' : '&vsn=' + vsn}`, headers))
    let bytes = Buffer.alloc(0)
    await new Promise((resolve, reject) => {
      client.socket.on('data', function onData(data) {
        bytes = Buffer.concat([bytes, data])
        const end = bytes.indexOf('\r\n\r\n')
        if (end < 0) return
        client.socket.off('data', onData)
        const head = bytes.subarray(0, end).toString()
        if (!head.startsWith('HTTP/1.1 101 ')) { client.socket.destroy(); reject(new Error(head)); return }
        client.head = head
        client.socket.on('data', d => client.receive(d))
        client.receive(bytes.subarray(end + 4))
        resolve()
      })
      client.socket.on('close', () => reject(new Error('closed during the handshake')))
    })
    return client
  }

  receive(data) {
    /* a large frame is put together once, not with each piece of it */
    this.pieces.push(data)
    this.piecesLength += data.length
    if (this.piecesLength < this.wanted) return
    let bytes = this.pieces.length > 1 ? Buffer.concat(this.pieces) : data
    this.wanted = 0
    for (;;) {
      if (bytes.length < 2) break
      let length = bytes[1] & 127, at = 2
      if (bytes[1] & 128) throw new Error('masked frame from the server')
      if (length === 126) { if (bytes.length < 4) break; length = bytes.readUInt16BE(2); at = 4 }
      else if (length === 127) { if (bytes.length < 10) break; length = Number(bytes.readBigUInt64BE(2)); at = 10 }
      if (bytes.length < at + length) { this.wanted = at + length; break }
      this.frame(bytes[0], bytes.subarray(at, at + length))
      bytes = bytes.subarray(at + length)
    }
    this.pieces = [Buffer.from(bytes)]
    this.piecesLength = bytes.length
  }

  frame(first, payload) {
    if ((first & 0x70) !== 0 || (first & 0x80) === 0) throw new Error(`strange frame ${first}`)
    switch (first & 15) {
      case TEXT: {
        const message = this.decode(payload.toString())
        this.count++
        if (this.keep) this.messages.push(message)
        this.emit('message', message)
        break
      }
      case BINARY: {
        const message = decodeBroadcast(payload)
        if (!this.vsn.startsWith('2.')) throw new Error('binary frame for version 1.0.0')
        this.count++
        if (this.keep) this.messages.push(message)
        this.emit('message', message)
        break
      }
      case CLOSE:
        this.closed = { code: payload.length >= 2 ? payload.readUInt16BE(0) : 1005, reason: payload.subarray(2).toString() }
        if (!this.stubborn) { this.raw(frame(CLOSE, payload.subarray(0, 2))); this.socket.end() }
        this.emit('close', this.closed)
        break
      case PONG:
        this.pongs++
        this.emit('pong', payload)
        break
      case PING:
        this.raw(frame(PONG, payload))
        break
      default:
        throw new Error(`strange frame ${first}`)
    }
  }

  /* To {join_ref, ref, topic, event, payload}, checking the exact shape */
  decode(text) {
    const m = JSON.parse(text)
    if (this.vsn.startsWith('2.')) {
      if (!Array.isArray(m) || m.length !== 5) throw new Error(`not a v2 message: ${text}`)
      return { join_ref: m[0], ref: m[1], topic: m[2], event: m[3], payload: m[4], text }
    }
    if (Object.keys(m).sort().join() !== 'event,payload,ref,topic') throw new Error(`not a v1 message: ${text}`)
    return { ...m, text }
  }

  encode({ join_ref = null, ref = null, topic, event, payload = {} }) {
    return JSON.stringify(this.vsn.startsWith('2.') ? [join_ref, ref, topic, event, payload] : { topic, event, payload, ref, join_ref })
  }

  raw(bytes) { if (!this.ended) this.socket.write(bytes) }
  text(text, options) { this.raw(frame(TEXT, text, options)) }
  push(message) { this.text(this.encode(message)) }

  /* Take the first message that satisfies the condition, waiting for it. */
  take(condition = () => true, timeout = PATIENCE) {
    const at = this.messages.findIndex(condition)
    if (at >= 0) return Promise.resolve(this.messages.splice(at, 1)[0])
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => fail(new Error(`no message; have ${JSON.stringify(this.messages).slice(0, 500)}, closed ${JSON.stringify(this.closed)}`)), timeout)
      const done = () => { clearTimeout(timer); this.off('message', check); this.off('end', onEnd) }
      const fail = error => { done(); reject(error) }
      const onEnd = () => fail(new Error(`connection ended, closed ${JSON.stringify(this.closed)}`))
      const check = m => {
        if (!condition(m)) return
        done()
        this.messages.splice(this.messages.indexOf(m), 1)
        resolve(m)
      }
      this.on('message', check)
      this.on('end', onEnd)
    })
  }
  reply(ref, timeout) { return this.take(m => m.event === 'phx_reply' && m.ref === ref, timeout) }
  event(event, timeout) { return this.take(m => m.event === event, timeout) }

  async join(topic, { ref = '1', changes = [], config = {}, payload = {}, timeout } = {}) {
    this.push({ join_ref: ref, ref, topic, event: 'phx_join', payload: { config: { postgres_changes: changes, ...config }, ...payload } })
    return this.reply(ref, timeout)
  }
  async heartbeat(ref = 'hb') {
    this.push({ ref, topic: 'phoenix', event: 'heartbeat' })
    return this.reply(ref)
  }

  async waitClosed(timeout = PATIENCE) {
    if (!this.ended) {
      const timer = setTimeout(() => this.socket.destroy(new Error('timeout')), timeout)
      await new Promise(resolve => this.once('end', resolve))
      clearTimeout(timer)
    }
    return this.closed
  }
  close() { this.socket.destroy() }
}
