// Presence in all its turns, with the real clients; and a thousand of them.

import { readdir, readFile } from 'node:fs/promises';
import WebSocket from 'ws';
import { assert, atEnd, note, test, until } from './lib/tap.mjs';
import { connect, versions } from './lib/clients.mjs';
import { createRole, status, token, url } from './lib/server.mjs';

await createRole('e2e_talker');
const key = token('e2e_talker');

// A client of this version in the channel; with listeners, so that presence is on.
async function member(version, topic, presence, { listen = true } = {}) {
  const client = connect(version, key);
  atEnd(() => client.disconnect());
  const channel = client.channel(topic, { config: { presence } });
  const seen = { joins: [], leaves: [], syncs: 0 };
  if (listen)
    channel
      .on('presence', { event: 'sync' }, () => seen.syncs++)
      .on('presence', { event: 'join' }, ({ key: who, newPresences }) => seen.joins.push([who, newPresences]))
      .on('presence', { event: 'leave' }, ({ key: who, leftPresences }) => seen.leaves.push([who, leftPresences]));
  await new Promise((resolve, reject) =>
    channel.subscribe((status, error) => (status === 'SUBSCRIBED' ? resolve() : reject(error ?? new Error(status)))));
  if (listen) await until(`the state of ${topic}`, () => seen.syncs > 0);
  return { name: version.name, client, channel, seen };
}

// What the client believes, without references, in an order of its own
const state = ({ channel }) =>
  inOrder(Object.entries(channel.presenceState())
    .map(([who, metas]) => [who, metas.map(({ presence_ref, ...meta }) => JSON.stringify(meta))]));
const inOrder = (entries) =>
  Object.fromEntries(entries.map(([who, metas]) => [who, metas.sort()]).sort(([a], [b]) => (a < b ? -1 : 1)));

// Waits until all believe this.
async function agree(members, expected) {
  const wanted = JSON.stringify(inOrder(Object.entries(expected).map(([who, metas]) => [who, metas.map((m) => JSON.stringify(m))])));
  for (const one of members) {
    try {
      await until(`${one.name} to agree`, () => JSON.stringify(state(one)) === wanted);
    } catch {
      assert.fail(`${one.name} believes ${JSON.stringify(state(one))} instead of ${wanted}`);
    }
  }
}

test('track, track again, untrack, leave, disconnect', async () => {
  const all = [];
  for (const version of versions) all.push(await member(version, 'lobby', { key: version.name }));
  const [old, middle, latest] = all;
  for (const one of all) assert.equal(await one.channel.track({ n: 1 }), 'ok');
  await agree(all, { '2.90': [{ n: 1 }], 2.111: [{ n: 1 }], 2.119: [{ n: 1 }] });
  for (const one of all) assert.equal(await one.channel.track({ n: 2, name: 'é' }), 'ok');
  const two = { n: 2, name: 'é' };
  await agree(all, { '2.90': [two], 2.111: [two], 2.119: [two] });
  for (const one of all) assert.equal(await one.channel.track(two), 'ok');
  assert.equal(await middle.channel.untrack(), 'ok');
  await agree(all, { '2.90': [two], 2.119: [two] });
  for (const one of all) {
    const left = one.seen.leaves.filter(([who]) => who === '2.111').map(([, metas]) => metas.map(({ n }) => n));
    assert.deepEqual(left, [[1], [2]], one.name);
  }
  await old.channel.unsubscribe();
  await agree([middle, latest], { 2.119: [two] });
  latest.client.disconnect();
  await agree([middle], {});
});

test('who comes later sees who is there', async () => {
  const all = [];
  for (const version of versions) {
    const one = await member(version, 'late', { key: version.name });
    all.push(one);
    await one.channel.track({ at: all.length });
    await agree(all, Object.fromEntries(all.map(({ name }, i) => [name, [{ at: i + 1 }]])));
  }
});

test('several clients under one key', async () => {
  const watchers = [];
  for (const version of versions) watchers.push(await member(version, 'shared', { key: `watcher ${version.name}` }));
  const tabs = [];
  for (const version of versions) tabs.push(await member(version, 'shared', { key: 'user' }));
  for (const [tab, one] of tabs.entries()) assert.equal(await one.channel.track({ tab }), 'ok');
  await agree([...watchers, ...tabs], { user: [{ tab: 0 }, { tab: 1 }, { tab: 2 }] });
  await tabs[1].channel.track({ tab: 'again' });
  await agree([...watchers, ...tabs], { user: [{ tab: 0 }, { tab: 'again' }, { tab: 2 }] });
  await tabs[0].channel.unsubscribe();
  tabs[2].client.disconnect();
  await agree([...watchers, tabs[1]], { user: [{ tab: 'again' }] });
});

test('keys that the server makes', async () => {
  const [a, b] = [await member(versions[2], 'keys', {}), await member(versions[0], 'keys', {})];
  await a.channel.track({ who: 'a' });
  await b.channel.track({ who: 'b' });
  await until('two keys', () => [a, b].every((one) => Object.keys(one.channel.presenceState()).length === 2));
  assert.deepEqual(Object.keys(state(a)), Object.keys(state(b)));
  for (const made of Object.keys(state(a))) assert.match(made, /^[0-9a-f-]{36}$/);
});

test('who tracks without listening is seen', async () => {
  for (const version of versions) {
    const watcher = await member(versions[2], `silent ${version.name}`, { key: 'watcher' });
    const silent = await member(version, `silent ${version.name}`, { key: 'silent' }, { listen: false });
    assert.equal(await silent.channel.track({ here: true }), 'ok', version.name);
    await agree([watcher], { silent: [{ here: true }] });
    silent.client.disconnect();
    await agree([watcher], {});
  }
});

test('a client that loses its connection tracks again when it is back', async () => {
  const watcher = await member(versions[2], 'back', { key: 'watcher' });
  const client = connect(versions[1], key);
  atEnd(() => client.disconnect());
  const channel = client.channel('back', { config: { presence: { key: 'lost' } } });
  let times = 0;
  channel.on('presence', { event: 'sync' }, () => {}).subscribe((status) => {
    if (status === 'SUBSCRIBED') channel.track({ time: ++times });
  });
  await agree([watcher], { lost: [{ time: 1 }] });
  const before = times;
  (client.conn ?? client.socketAdapter?.getSocket?.()?.conn)?.close?.(3000, 'lost') ?? client.disconnect();
  if (!client.isConnected()) client.connect();
  await until('it to be back', () => times > before);
  await agree([watcher, { name: 'itself', channel }], { lost: [{ time: times }] });
});

// A thousand members.  They are counted, not kept: each client holds the
// references that it was told of.
class Lean {
  constructor(n, counts) {
    this.refs = null;
    this.socket = new WebSocket(`${url}/realtime/v1/websocket?apikey=${key}&vsn=2.0.0`, { perMessageDeflate: false });
    this.socket.on('error', () => {});
    this.socket.on('open', () =>
      this.push('1', 'phx_join', { config: { presence: { key: `member ${n}`, enabled: true } } }));
    this.socket.on('message', (data) => {
      counts.messages++;
      counts.bytes += data.length;
      const [, ref, , event, payload] = JSON.parse(data);
      if (event === 'phx_reply' && ref === '1') this.push('2', 'presence', { type: 'presence', event: 'track', payload: { n } });
      if (event === 'presence_state') this.refs = new Set(Lean.references(payload));
      if (event === 'presence_diff') {
        for (const one of Lean.references(payload.leaves)) assert.ok(this.refs.delete(one));
        for (const one of Lean.references(payload.joins)) this.refs.add(one);
      }
    });
  }

  static references(metas) {
    return Object.values(metas).flatMap(({ metas: list }) => list.map((meta) => meta.phx_ref));
  }

  push(ref, event, payload) {
    this.socket.send(JSON.stringify(['1', ref, 'realtime:thousand', event, payload]));
  }
}

// The seconds of processor time that the engine and its gateway have used: what
// the machine does besides leaves them as they are.
async function used() {
  const { pid } = await status();
  let ticks = 0;
  for (const one of await readdir('/proc')) {
    const text = /^\d+$/.test(one) ? await readFile(`/proc/${one}/stat`, 'utf8').catch(() => '') : '';
    const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
    if (one === String(pid) || fields[1] === String(pid)) ticks += Number(fields[11]) + Number(fields[12]);
  }
  return ticks / 100;
}

test('1,000 clients join at once and agree; half are killed, and the rest agree', async () => {
  const N = 1000;
  const counts = { messages: 0, bytes: 0 };
  const start = performance.now();
  const idle = await used();
  const members = Array.from({ length: N }, (_, n) => new Lean(n, counts));
  atEnd(() => members.forEach(({ socket }) => socket.terminate()));
  const same = (some, n) => {
    const [{ refs }] = some;
    return some.every((one) => one.refs?.size === n) && some.every((one) => [...one.refs].every((ref) => refs.has(ref)));
  };
  await until('all to agree', () => same(members, N), { timeout: 60_000, every: 50 });
  const joined = performance.now() - start;
  const seconds = (await used()) - idle;
  note(`${N} members agreed after ${Math.round(joined)} ms (aim: 5000); ${counts.messages} messages, ${(counts.bytes / 1e6).toFixed(1)} MB, ${seconds} s of the processor`);
  assert.ok(seconds > 0 && seconds < 2, `${seconds} s of the processor`);
  assert.ok(counts.messages < N * 150, `${counts.messages} messages`);
  const rest = members.filter((_, n) => n % 2);
  const before = { ...counts };
  const from = await used();
  members.forEach(({ socket }, n) => n % 2 || socket.terminate());
  await until('the server to notice', () => rest.some(({ refs }) => refs.size < N), { timeout: 20_000, every: 2 });
  const noticed = performance.now();
  await until('the rest to agree', () => same(rest, N / 2), { timeout: 30_000, every: 50 });
  const took = performance.now() - noticed;
  const more = (await used()) - from;
  note(`the rest agreed ${Math.round(took)} ms after the server had noticed (aim: 2000); ${counts.messages - before.messages} messages, ${more.toFixed(2)} s of the processor`);
  assert.ok(more < 1, `${more} s of the processor`);
});
