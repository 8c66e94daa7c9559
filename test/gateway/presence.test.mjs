/*
 * Presence: states, diffs, and that every member ends up with the same.
 */
import { Body, Engine, GATEWAY_ENDED, PRESENCE_WANTED, TRACKED, UNTRACKED } from './engine.mjs'
import { broadcastPush, Client } from './client.mjs'
import { reset } from './transport.mjs'
import { test, run, assert, sleep, until } from './tap.mjs'

const topic = 'realtime:room1'

async function withEngine(config, use) {
  const engine = await Engine.start({ presence_interval: 30, ...config })
  try { await use(engine) } finally { await engine.stop() }
}

/* A client that keeps the state as a client library does: key -> metas */
async function member(engine, { vsn = '2.0.0', name = topic, key = '', enabled = true, ...config } = {}) {
  const client = await Client.open(engine.port, { vsn })
  client.name = name
  client.state = null
  client.diffs = []
  client.on('message', m => {
    if (m.topic !== name) return
    if (m.event === 'presence_state') {
      assert.equal(client.state, null)
      client.state = new Map(Object.entries(m.payload).map(([k, { metas }]) => [k, metas]))
    }
    if (m.event === 'presence_diff') apply(client, m.payload)
  })
  const reply = await client.join(name, { ref: '1', config: { presence: { key, enabled }, ...config } })
  assert.equal(reply.payload.status, 'ok')
  return client
}

function apply(client, { joins, leaves, ...rest }) {
  client.diffs.push({ joins, leaves })
  assert.deepEqual(rest, {})
  assert.ok(Object.keys(joins).length === 0 || Object.keys(leaves).length === 0, 'leaves and joins in one diff')
  for (const [key, { metas }] of Object.entries(leaves))
    for (const meta of metas) {
      const held = client.state.get(key)
      const at = held.findIndex(m => m.phx_ref === meta.phx_ref)
      assert.ok(at >= 0, 'a leave of what never came')
      held.splice(at, 1)
      if (held.length === 0) client.state.delete(key)
    }
  for (const [key, { metas }] of Object.entries(joins))
    for (const meta of metas) {
      const held = client.state.get(key) ?? []
      assert.ok(!held.some(m => m.phx_ref === meta.phx_ref), 'a join of what is there')
      client.state.set(key, [...held, meta])
    }
}

/* The state without references, in an order of its own */
const plain = client => client.state && Object.fromEntries([...client.state].sort(([a], [b]) => a < b ? -1 : 1)
  .map(([key, metas]) => [key, metas.map(({ phx_ref, phx_ref_prev, ...meta }) => meta)]))

let ref = 100
async function call(client, payload, join_ref = '1') {
  const r = String(ref++)
  client.push({ join_ref, ref: r, topic: client.name, event: 'presence', payload })
  return (await client.reply(r)).payload
}
const track = (client, payload) => call(client, { type: 'presence', event: 'track', payload })
const untrack = client => call(client, { type: 'presence', event: 'untrack' })
const ok = { status: 'ok', response: {} }
const agree = (clients, state) => until(() => clients.every(c => JSON.stringify(plain(c)) === JSON.stringify(state)),
  () => JSON.stringify(clients.map(plain)))
const close = (...clients) => { for (const c of clients) c.close() }

test('track, track again, untrack, in both versions', () => withEngine({}, async engine => {
  const [a, b] = [await member(engine, { vsn: '1.0.0', key: 'alice' }), await member(engine, { key: 'bob' })]
  const all = [a, b]
  await agree(all, {})
  assert.deepEqual(await track(a, { name: 'A', deep: { x: [1] } }), ok)
  await agree(all, { alice: [{ name: 'A', deep: { x: [1] } }] })
  assert.deepEqual(b.diffs, [{ joins: { alice: { metas: [{ name: 'A', deep: { x: [1] }, phx_ref: b.state.get('alice')[0].phx_ref }] } }, leaves: {} }])
  const first = b.state.get('alice')[0].phx_ref
  assert.deepEqual(await track(a, { name: 'A', deep: { x: [1] } }), ok)
  assert.deepEqual(await track(a, { name: 'B' }), ok)
  await agree(all, { alice: [{ name: 'B' }] })
  const second = b.state.get('alice')[0]
  assert.equal(second.phx_ref_prev, first)
  assert.notEqual(second.phx_ref, first)
  assert.deepEqual(b.diffs.slice(1), [{ joins: {}, leaves: { alice: { metas: [{ name: 'A', deep: { x: [1] }, phx_ref: first }] } } }, { joins: { alice: { metas: [second] } }, leaves: {} }])
  assert.deepEqual(await track(b, {}), ok)
  await agree(all, { alice: [{ name: 'B' }], bob: [{}] })
  assert.deepEqual(await untrack(a), ok)
  await agree(all, { bob: [{}] })
  assert.deepEqual(await untrack(a), ok)
  assert.equal(a.diffs.length, b.diffs.length)
  const form = b.messages.find(m => m.event === 'presence_diff')
  assert.deepEqual([form.join_ref, form.ref], [null, null])
  close(a, b)
}))

test('who joins late is sent the state, who leaves is gone', () => withEngine({}, async engine => {
  const [a, b] = [await member(engine, { key: 'a' }), await member(engine, { key: 'b' })]
  await track(a, { n: 1 })
  await track(b, { n: 2 })
  const c = await member(engine, { vsn: '1.0.0' })
  await agree([a, b, c], { a: [{ n: 1 }], b: [{ n: 2 }] })
  a.push({ join_ref: '1', ref: 'l', topic, event: 'phx_leave' })
  await a.reply('l')
  await agree([b, c], { b: [{ n: 2 }] })
  reset(b.socket)
  await agree([c], {})
  const d = await member(engine)
  await agree([c, d], {})
  close(a, c, d)
}))

test('several metas of a key, made-up keys, and odd ones', () => withEngine({}, async engine => {
  const [a, b, watcher] = [await member(engine, { key: 'k' }), await member(engine, { key: 'k' }), await member(engine)]
  await track(a, { n: 1 })
  await track(b, { n: 2 })
  await agree([a, b, watcher], { k: [{ n: 1 }, { n: 2 }] })
  await track(a, { n: 3 })
  await agree([watcher], { k: [{ n: 2 }, { n: 3 }] })
  await untrack(b)
  await agree([a, b, watcher], { k: [{ n: 3 }] })
  await untrack(a)
  const [c, d] = [await member(engine), await member(engine, { key: null })]
  await track(c, {})
  await track(d, {})
  await until(() => watcher.state.size === 2, 'two keys')
  for (const key of watcher.state.keys()) assert.match(key, /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/)
  close(c, d)
  await agree([watcher], {})
  for (const [key, text] of [['é"\\\n\u{1f600}', 'é"\\\n\u{1f600}'], [7, '7'], [true, 'true'], ['__proto__', '__proto__']]) {
    const odd = await member(engine, { key })
    await track(odd, { x: 1 })
    await until(() => watcher.state.has(text) && odd.state.has(text), text)
    odd.close()
    await until(() => watcher.state.size === 0, 'leave')
  }
  close(a, b, watcher)
}))

test('payloads pass byte for byte; the references are ours', () => withEngine({}, async engine => {
  const [a, b] = [await member(engine, { key: 'a' }), await member(engine)]
  const payload = '{ "n": 123456789012345678901234567890, "z":"\\u0000\\ud800", "phx_ref":"mine"  }'
  a.text(`["1","2","${topic}","presence",{"event":"TRACK","payload":${payload}}]`)
  assert.deepEqual((await a.reply('2')).payload, ok)
  const diff = await b.event('presence_diff')
  assert.ok(diff.text.includes(payload.slice(0, -3).trimEnd()), diff.text)
  assert.match(diff.payload.joins.a.metas[0].phx_ref, /^[0-9a-f]+$/)
  a.text(`["1","3","${topic}","presence",{"event":"track"}]`)
  await a.reply('3')
  await agree([a, b], { a: [{}] })
  close(a, b)
}))

test('what cannot be tracked', () => withEngine({ max_presence_size: 1000 }, async engine => {
  const [a, b] = [await member(engine, { key: 'a' }), await member(engine)]
  const failed = response => ({ status: 'error', response })
  for (const payload of [1, 'x', [], null, true]) assert.deepEqual(await track(a, payload), failed({ reason: 'Presence track payload must be a map' }))
  for (const payload of [{}, [], 1, null, { event: 'other' }, { event: 7 }, { event: null, payload: {} }]) assert.deepEqual(await call(a, payload), failed({}))
  assert.deepEqual(await track(a, { x: 'x'.repeat(980) }), ok)
  a.push({ join_ref: '1', ref: 'l', topic, event: 'presence', payload: { event: 'track', payload: { x: 'x'.repeat(1000) } } })
  assert.deepEqual((await a.event('system')).payload, { extension: 'system', status: 'error', message: 'Track message size exceeded', channel: 'room1' })
  assert.equal((await a.event('phx_close')).ref, '1')
  await until(() => b.state.size === 0, 'leave')
  await engine.wait('leave')
  close(a, b)
}))

test('max_presence_calls', () => withEngine({ max_presence_calls: 5 }, async engine => {
  const a = await member(engine, { key: 'a' })
  await a.join('realtime:other', { ref: '9' })
  for (let n = 0; n < 5; n++) assert.deepEqual(await track(a, { n }), ok)
  a.push({ join_ref: '1', ref: 'l', topic, event: 'presence', payload: { event: 'untrack' } })
  assert.equal((await a.event('system')).payload.message, 'Client presence rate limit exceeded')
  await a.event('phx_close')
  a.push({ join_ref: '9', ref: 'o', topic: 'realtime:other', event: 'presence', payload: { event: 'untrack' } })
  assert.deepEqual((await a.reply('o')).payload, ok)
  close(a)
}))

test('who joined without presence is told nothing, until it tracks', () => withEngine({}, async engine => {
  const [a, off] = [await member(engine, { key: 'a' }), await member(engine, { key: 'off', enabled: false })]
  await track(a, { n: 1 })
  await agree([a], { a: [{ n: 1 }] })
  await off.heartbeat()
  assert.deepEqual([off.state, off.diffs], [null, []])
  await track(off, { n: 2 })
  await agree([a, off], { a: [{ n: 1 }], off: [{ n: 2 }] })
  close(a, off)
}))

test('public and private rooms, other topics, rights', () => withEngine({}, async engine => {
  let rights = 15
  engine.onjoin = m => engine.joinReply(m.channel, [], rights)
  const number = () => engine.log.filter(m => m.name === 'join').at(-1).channel
  const pub = await member(engine, { key: 'pub' })
  const other = await member(engine, { key: 'other', name: 'realtime:room2' })
  const full = await member(engine, { key: 'full', private: true })
  const fullChannel = number()
  rights = 1 | 4
  const none = await member(engine, { key: 'none', private: true })
  const noneChannel = number()
  rights = 2
  const reader = await member(engine, { key: 'reader', private: true })
  for (const c of [pub, other, full]) assert.deepEqual(await track(c, {}), ok)
  for (const c of [none, reader]) assert.deepEqual(await track(c, {}), { status: 'error', response: {} })
  await agree([pub], { pub: [{}] })
  await agree([other], { other: [{}] })
  await agree([full, reader], { full: [{}] })
  assert.equal(none.state, null)
  engine.rights(noneChannel, 2 | 8)
  await agree([none], { full: [{}] })
  assert.deepEqual(await track(none, {}), ok)
  await agree([full, reader, none], { full: [{}], none: [{}] })
  engine.rights(fullChannel, 2)
  await agree([full, reader, none], { none: [{}] })
  close(pub, other, full, none, reader)
}))

test('a rejoin has the state anew, and its tracking ended', () => withEngine({}, async engine => {
  const [a, b] = [await member(engine, { key: 'a' }), await member(engine)]
  await track(a, { n: 1 })
  await agree([a, b], { a: [{ n: 1 }] })
  a.state = null
  await a.join(topic, { ref: '2', config: { presence: { key: 'a', enabled: true } } })
  await agree([a, b], {})
  assert.deepEqual(await call(a, { event: 'track', payload: { n: 1 } }, '2'), ok)
  await agree([a, b], { a: [{ n: 1 }] })
  close(a, b)
}))

test('the first change is told at once, however long the interval', () => withEngine({ presence_interval: 10000 }, async engine => {
  const [a, b] = [await member(engine, { key: 'a' }), await member(engine)]
  const start = Date.now()
  await track(a, { n: 0 })
  await agree([a, b], { a: [{ n: 0 }] })
  assert.ok(Date.now() - start < 9000)
  close(a, b)
}))

test('changes within the interval become one message', () => withEngine({ presence_interval: 500 }, async engine => {
  const [a, b, c] = [await member(engine, { key: 'a' }), await member(engine, { key: 'b' }), await member(engine)]
  const start = Date.now()
  await track(a, { n: 0 })
  await until(() => c.diffs.length === 1, 'the first')
  for (let n = 1; n < 20; n++) { await track(a, { n }); await track(b, { n }); if (n % 2) await untrack(b) }
  await untrack(b)
  await agree([a, b, c], { a: [{ n: 19 }] })
  /* the first, and for each interval at most one of leaves and one of joins */
  const most = 1 + 2 * Math.ceil((Date.now() - start) / 500)
  assert.ok(c.diffs.length <= most, `${c.diffs.length} diffs, not ${most} at most`)
  /* who joins between two tellings gets what the others know, and the difference with them */
  await track(a, { n: 20 })
  const d = await member(engine)
  await agree([a, b, c, d], { a: [{ n: 20 }] })
  close(a, b, c, d)
}))

test('600 members join at once, half of them vanish, the others agree', () => withEngine({ presence_interval: 50, max_presence_calls: 0 }, async engine => {
  const N = 600
  const clients = []
  for (let i = 0; i < N; i += 50)
    clients.push(...await Promise.all(Array.from({ length: 50 }, (_, j) => Client.open(engine.port, { vsn: (i + j) % 2 ? '1.0.0' : '2.0.0' }))))
  let messages = 0
  for (const [i, c] of clients.entries()) {
    c.name = topic
    c.state = null
    c.keep = false
    c.diffs = []
    c.on('message', m => {
      messages++
      if (m.event === 'presence_state') c.state = new Map(Object.entries(m.payload).map(([k, { metas }]) => [k, metas]))
      if (m.event === 'presence_diff') apply(c, m.payload)
    })
    c.push({ join_ref: '1', ref: '1', topic, event: 'phx_join', payload: { config: { presence: { key: 'user' + i, enabled: true } } } })
    c.push({ join_ref: '1', ref: '2', topic, event: 'presence', payload: { event: 'untrack' } })
  }
  await until(() => clients.every(c => c.state), 'joins')
  const before = messages
  const start = Date.now()
  for (const c of clients) c.push({ join_ref: '1', ref: '3', topic, event: 'presence', payload: { event: 'track', payload: { online: true } } })
  await until(() => clients.every(c => c.state.size === N), 'all members')
  const each = (messages - before) / N - 1
  const took = Date.now() - start
  console.log(`# ${N} members agreed after ${took} ms, ${each.toFixed(1)} messages each`)
  const left = clients.filter((_, i) => i % 2 === 0)
  for (const [i, c] of clients.entries()) if (i % 2) reset(c.socket)
  const killed = Date.now()
  await until(() => left.every(c => c.state.size === N / 2), 'the rest')
  console.log(`# the rest agreed after ${Date.now() - killed} ms`)
  assert.ok(each < 10 + took / 50, `${each} messages each in ${took} ms`)
  close(...left)
}))

test('members that come, track and go at random: whoever is there agrees', () => withEngine({ presence_interval: 5, max_presence_calls: 0 }, async engine => {
  let seed = 7
  const random = n => (seed = Math.imul(seed, 1664525) + 1013904223 >>> 0) % n
  let members = []
  const tracked = new Map()
  const watcher = await member(engine, { name: 'realtime:x' })
  for (let step = 0; step < 400; step++) {
    const c = members[random(members.length || 1)]
    switch (random(6)) {
      case 0: case 1: {
        if (members.length > 25) break
        const key = 'k' + random(4)
        const fresh = await member(engine, { key, name: 'realtime:x', enabled: random(4) > 0, vsn: random(2) ? '1.0.0' : '2.0.0' })
        fresh.key = key
        members.push(fresh)
        break
      }
      case 2: case 3:
        if (c) { const meta = { n: random(3) }; await track(c, meta); tracked.set(c, meta) }
        break
      case 4:
        if (c) { await untrack(c); tracked.delete(c) }
        break
      case 5:
        if (!c) break
        tracked.delete(c)
        members = members.filter(m => m !== c)
        if (random(2)) c.close()
        else { c.push({ join_ref: '1', ref: 'l', topic: c.name, event: 'phx_leave' }); await c.reply('l'); c.close() }
    }
    if (random(10) === 0) binaryNoise(watcher)
  }
  const wanted = {}
  for (const [c, meta] of tracked) (wanted[c.key] ??= []).push(JSON.stringify(meta))
  const shape = state => JSON.stringify(Object.entries(state).map(([k, metas]) => [k, metas.map(m => typeof m === 'string' ? m : JSON.stringify(m)).sort()]).sort())
  const all = [watcher, ...members.filter(m => m.state !== null)]
  await until(() => all.every(c => shape(plain(c)) === shape(wanted)), 'agreement')
  close(...members, watcher)
}))

/* What the member of this number on gateway 0, or another, says of itself; null: it has gone */
const elsewhere = (engine, n, key, meta, { number = 0, ref = 1, previous = 0, room = 'room1', closed = 0, raw = false } = {}) => {
  const body = new Body().u64(number * 2 ** 48 + n)
  if (meta === null) engine.send(UNTRACKED, body)
  else engine.send(TRACKED, body.u8(closed).string(room).string(raw ? key : JSON.stringify(key))
    .string(raw ? meta : JSON.stringify(meta)).u64(ref).u64(previous))
}

test('members on other gateways', () => withEngine({ gateways: 3, gateway: 2 }, async engine => {
  elsewhere(engine, 1, 'far', { n: 1 })              /* before anybody is here */
  elsewhere(engine, 1, 'other', { n: 1 }, { number: 1, ref: 5 })
  elsewhere(engine, 9, 'private', {}, { closed: 1 })
  elsewhere(engine, 10, 'gone', {})
  elsewhere(engine, 10, 'gone', null)
  elsewhere(engine, 11, 'gone', null)
  const a = await member(engine, { key: 'a' })
  await agree([a], { far: [{ n: 1 }], other: [{ n: 1 }] })
  await track(a, { n: 0 })
  await agree([a], { a: [{ n: 0 }], far: [{ n: 1 }], other: [{ n: 1 }] })
  const said = () => engine.log.filter(m => m.name === 'track')
  await until(() => said().length > 0, 'what is said')
  assert.equal(said().length, 1)
  assert.deepEqual({ ...said()[0], ref: 0 }, { name: 'track', to: 0xffffffff, channel: 2 * 2 ** 48 + 1,
    key: '"a"', meta: '{"n":0}', ref: 0, previous: 0 })
  elsewhere(engine, 1, 'far', { n: 1 })              /* again: no news */
  elsewhere(engine, 1, 'far', { n: 2 }, { ref: 2, previous: 1 })
  await agree([a], { a: [{ n: 0 }], far: [{ n: 2 }], other: [{ n: 1 }] })
  engine.send(PRESENCE_WANTED, new Body().u32(1))
  await until(() => said().length === 2, 'the state for the new gateway')
  assert.deepEqual(said()[1], { ...said()[0], to: 1 })
  engine.send(GATEWAY_ENDED, new Body().u32(0))
  await agree([a], { a: [{ n: 0 }], other: [{ n: 1 }] })
  close(a)
  await until(() => engine.log.some(m => m.name === 'untrack'), 'the leave')
  assert.equal(engine.log.find(m => m.name === 'untrack').channel, 2 * 2 ** 48 + 1)
  const b = await member(engine, { key: 'b' })       /* what others said outlives the members here */
  await agree([b], { other: [{ n: 1 }] })
  elsewhere(engine, 1, 'other', null, { number: 1 })
  await agree([b], {})
  close(b)
}))

test('what is no presence, from another gateway', () => withEngine({ gateways: 2, gateway: 1 }, async engine => {
  const a = await member(engine, { key: 'a' })
  const bad = [['x', '{}'], ['"x"', '[]'], ['"x"', ''], ['"x"', '{'], ['"x"', '{}}'], ['"x","y"', '{}'], ['"x"', '{} '],
    ['"x"', '{},"leaves":{}'], ['{}', '{}'], ['"x', '{}'], ['"x"', Buffer.from('{"a":"\xff"}', 'latin1')]]
  bad.forEach(([key, meta], i) => elsewhere(engine, 20 + i, key, meta, { raw: true }))
  elsewhere(engine, 1, 'good', { n: 1 })
  await agree([a], { good: [{ n: 1 }] })
  close(a)
}))

const binaryNoise = client => client.raw(broadcastPush({ topic: client.name, event: 'e', payload: '1' }))

run('presence')
