// Several gateways of one server: their clients share changes, broadcasts and
// presence; one that is killed or stopped disturbs nobody on another.
//
// cluster: -c rtsync.idle_timeout=0

import { randomUUID } from 'node:crypto';
import { assert, atEnd, note, sleep, test, until } from '../e2e/lib/tap.mjs';
import { versions } from '../e2e/lib/clients.mjs';
import { RawClient } from '../e2e/lib/raw.mjs';
import { createRole, createTable, httpUrl, sql, status, token } from '../e2e/lib/server.mjs';
import { gatewayPids } from './lib/cluster.mjs';
import { connectSeen, gatewayOf, onGateway, portOf, setGateways } from './lib/gateways.mjs';

await createRole('reader');
await createTable('shared', 'id int PRIMARY KEY', { roles: ['reader'] });
const apikey = token('reader');
const binding = { event: 'INSERT', schema: 'public', table: 'shared' };

await setGateways(2);

// What a client believes of who is there, after each message: keys with metas
function follow(client, topic) {
  client.members = new Map();
  client.wrong = [];
  client.onFrame = ({ topic: t, event, payload }) => {
    if (t !== `realtime:${topic}`) return;
    if (event === 'presence_state') {
      client.members = new Map(Object.entries(payload).map(([k, v]) => [k, v.metas.map((m) => m.phx_ref)]));
    } else if (event === 'presence_diff') {
      for (const [k, { metas }] of Object.entries(payload.leaves)) {
        for (const m of metas)
          if (!client.members.get(k)?.includes(m.phx_ref)) client.wrong.push(`${k} left and was not there`);
        const rest = (client.members.get(k) ?? []).filter((ref) => !metas.some((m) => m.phx_ref === ref));
        if (rest.length > 0) client.members.set(k, rest);
        else client.members.delete(k);
      }
      for (const [k, { metas }] of Object.entries(payload.joins)) {
        for (const m of metas)
          if (client.members.get(k)?.includes(m.phx_ref)) client.wrong.push(`${k} came twice`);
        client.members.set(k, [...(client.members.get(k) ?? []), ...metas.map((m) => m.phx_ref)]);
      }
    }
  };
}

let names = 0;
async function member(topic) {
  const client = await RawClient.open({ apikey, vsn: names % 2 ? '1.0.0' : '2.0.0' });
  client.name = `m${++names}`;
  follow(client, topic);
  await client.joinOk(topic, [binding], { config: { presence: { key: client.name, enabled: true }, broadcast: { self: false, ack: true } } });
  await client.call(`realtime:${topic}`, 'presence', { type: 'presence', event: 'track', payload: { n: 1 } });
  client.gateway = await gatewayOf(portOf(client));
  return client;
}

// Members until each gateway has two at least
async function meet(topic) {
  const all = [];
  atEnd(() => all.forEach((c) => c.close()));
  for (let i = 0; i < 300; i++) {
    all.push(await member(topic));
    if ([0, 1].every((g) => all.filter((c) => c.gateway === g).length >= 2)) return all;
  }
  assert.fail('one gateway takes all connections');
}

const agree = (clients, expected, options) =>
  until('all to agree on who is there', () =>
    clients.every((c) => [...c.members.keys()].sort().join() === expected.map((e) => e.name).sort().join()), options);

const all = await meet('room');
note(`${all.length} clients: ${[0, 1].map((g) => all.filter((c) => c.gateway === g).length).join(' and ')}`);
const room = 'realtime:room';
// Version 2.0.0 has it in a binary frame.
const heard = (c, event) =>
  c.frames.filter((f) => f.binary?.includes(event) || (f.event === 'broadcast' && f.payload.event === event)).length;

test('changes reach the clients of all gateways', async () => {
  await sql('INSERT INTO shared VALUES (1)');
  await until('the change everywhere', () => all.every((c) => c.changes('room').length === 1));
});

test('a broadcast of a client, by HTTP, and from SQL, once each', async () => {
  for (const sender of [all.find((c) => c.gateway === 0), all.find((c) => c.gateway === 1)]) {
    const event = `from${sender.gateway}`;
    const reply = await sender.call(room, 'broadcast', { type: 'broadcast', event, payload: { a: 1 } });
    assert.equal(reply.status, 'ok');
    await until(event, () => all.every((c) => heard(c, event) === (c === sender ? 0 : 1)));
  }
  const response = await fetch(`${httpUrl}/realtime/v1/api/broadcast`, {
    method: 'POST',
    headers: { apikey, 'content-type': 'application/json' },
    body: JSON.stringify({ messages: [{ topic: 'room', event: 'by-http', payload: {} }] }),
  });
  assert.equal(response.status, 202);
  await until('that by HTTP', () => all.every((c) => heard(c, 'by-http') === 1));
  await sql(`SELECT rtsync.send('{}', 'by-sql', 'room', false)`);
  await until('that from SQL', () => all.every((c) => heard(c, 'by-sql') === 1));
  await sleep(100); // for what must not come
  for (const c of all) {
    for (const event of ['by-http', 'by-sql']) assert.equal(heard(c, event), 1, event);
    assert.ok(heard(c, 'from0') <= 1 && heard(c, 'from1') <= 1);
  }
});

test('presence is one', async () => {
  await agree(all, all);
  const gone = all.pop();
  gone.close();
  await agree(all, all);
  await all[0].call(room, 'presence', { type: 'presence', event: 'track', payload: { n: 2 } });
  await until('the new meta everywhere', () => all.every((c) => c.members.get(all[0].name)?.[0] === all[0].members.get(all[0].name)?.[0]));
});

// One real client, joined, on each gateway
async function pair(topic, config, { claims = {}, version = versions[2], role = 'reader' } = {}) {
  const both = [];
  for (const gateway of [0, 1]) {
    const client = await onGateway(gateway, () => connectSeen(version, token(role, claims)));
    const one = { client, got: [], channel: client.channel(topic, { config }) };
    one.channel.on('broadcast', { event: '*' }, (message) => one.got.push(message));
    await new Promise((resolve, reject) => {
      one.channel.subscribe((s, error) => (s === 'SUBSCRIBED' ? resolve() : reject(new Error(`${s} ${error}`))));
    });
    both.push(one);
  }
  return both;
}
const bytes = new Uint8Array([0, 1, 254, 255]).buffer;
await sql(`CREATE POLICY gw_read ON rtsync.messages FOR SELECT TO reader USING (true);
  CREATE POLICY gw_write ON rtsync.messages FOR INSERT TO reader WITH CHECK (true)`);

for (const [from, to] of [[2, 2], [0, 2], [2, 0], [1, 2]]) {
  test(`broadcasts between gateways, ${versions[from].name} to ${versions[to].name}, public and private apart`, async () => {
    const topic = `pair${from}${to}`;
    const config = { broadcast: { ack: true } };
    const sides = [];
    for (const closed of [false, true]) {
      const [sender] = await pair(topic, { ...config, private: closed }, { version: versions[from] });
      const [, receiver] = await pair(topic, { ...config, private: closed }, { version: versions[to] });
      sides.push({ sender, receiver });
    }
    for (const [i, { sender }] of sides.entries()) {
      const send = (event, payload) => sender.channel.send({ type: 'broadcast', event, payload });
      assert.equal(await send(`first${i}`, { n: 1, ü: '"' }), 'ok');
      if (from !== 0 && to !== 0) assert.equal(await send(`bytes${i}`, bytes), 'ok');
      assert.equal(await send(`last${i}`, { n: 3 }), 'ok');
    }
    for (const [i, { receiver }] of sides.entries()) {
      await until('the last', () => receiver.got.some(({ event }) => event === `last${i}`));
      const names = receiver.got.map(({ event }) => event);
      assert.deepEqual(names, from !== 0 && to !== 0 ? [`first${i}`, `bytes${i}`, `last${i}`] : [`first${i}`, `last${i}`]);
      assert.deepEqual(receiver.got[0].payload, { n: 1, ü: '"' });
      if (names.length === 3) assert.deepEqual([...new Uint8Array(receiver.got[1].payload)], [0, 1, 254, 255]);
    }
    for (const { sender, receiver } of sides) for (const { client } of [sender, receiver]) client.disconnect();
  });
}

test('500 broadcasts arrive on the other gateway in their order, and so do large ones', async () => {
  const [sender, receiver] = await pair('order', {});
  for (let n = 0; n < 500; n++) sender.channel.send({ type: 'broadcast', event: 'n', payload: { n } });
  await until('all', () => receiver.got.length >= 500);
  assert.deepEqual(receiver.got.map(({ payload }) => payload.n), Array.from({ length: 500 }, (_, n) => n));
  for (let n = 500; n < 503; n++) {
    sender.channel.send({ type: 'broadcast', event: 'n', payload: { n, large: 'x'.repeat(2_900_000) } });
    await until('the large one', () => receiver.got.length > n);
    assert.equal(receiver.got[n].payload.large.length, 2_900_000);
  }
  for (const { client } of [sender, receiver]) client.disconnect();
});

test('by HTTP to private topics; what is kept is sent once and replayed anywhere; a transaction is in order', async () => {
  const both = await pair('kept', { private: true, broadcast: { ack: true } });
  const response = await fetch(`${httpUrl}/realtime/v1/api/broadcast`, {
    method: 'POST',
    headers: { apikey, 'content-type': 'application/json' },
    body: JSON.stringify({ messages: [{ topic: 'kept', event: 'http', payload: {}, private: true }, { topic: 'kept', event: 'public', payload: {} }] }),
  });
  assert.equal(response.status, 202);
  await until('that by HTTP', () => both.every(({ got }) => got.length === 1));
  await sql(`CREATE POLICY gw_keep ON rtsync.messages FOR INSERT TO reader WITH CHECK (extension = 'persistence')`);
  assert.equal(await both[0].channel.send({ type: 'broadcast', event: 'kept', payload: { n: 1 }, persist: true }), 'ok');
  await until('what is kept', () => both[1].got.length === 2);
  await sql(`BEGIN; SELECT rtsync.send('{"n":1}', 'sql', 'kept'), rtsync.send('{"n":2}', 'sql', 'kept'); COMMIT`);
  await until('that from SQL', () => both.every(({ got }) => got.filter(({ event }) => event === 'sql').length === 2));
  assert.deepEqual(both[1].got.map(({ event, payload }) => [event, payload.n]), [['http', undefined], ['kept', 1], ['sql', 1], ['sql', 2]]);
  assert.deepEqual(both[0].got.map(({ event }) => event), ['http', 'sql', 'sql']);
  const [, late] = await pair('kept', { private: true, broadcast: { replay: { since: Date.now() - 60_000, limit: 25 } } });
  await until('the past', () => late.got.length === 1);
  assert.deepEqual([late.got[0].event, late.got[0].meta], ['kept', { replayed: true, id: both[1].got[1].meta.id }]);
});

test('a right that is taken away ends on all gateways', async () => {
  const both = await pair('revoked', { private: true, broadcast: { self: true } });
  await sql(`ALTER POLICY gw_write ON rtsync.messages WITH CHECK (topic <> 'revoked')`);
  const count = () => both.map(({ got }) => got.length);
  await until('the loss', async () => {
    const before = count();
    await both[0].channel.send({ type: 'broadcast', event: 'e', payload: {} });
    await sql(`SELECT rtsync.send('{}', 'mark', 'revoked')`);
    await until('the mark', () => both.every(({ got }, i) => got.slice(before[i]).some(({ event }) => event === 'mark')));
    return both.every(({ got }, i) => got.slice(before[i]).every(({ event }) => event !== 'e'));
  });
});

test('who comes back to another gateway goes on where it was, by cursor and by session', async () => {
  await createTable('away', 'id int PRIMARY KEY', { roles: ['reader'] });
  const bindings = [{ ...binding, table: 'away' }];
  let written = 0;
  const write = () => sql('INSERT INTO away VALUES ($1)', [++written]);
  const open = (gateway) => onGateway(gateway, () => RawClient.open({ apikey }));
  const ids = (client) => client.changes('away').map(({ record }) => record.id);
  const session = randomUUID();
  const [byCursor, bySession] = [await open(0), await open(0)];
  await byCursor.joinOk('away', bindings, { config: { rtsync: { cursor: true } } });
  await bySession.joinOk('away', bindings, { config: { rtsync: { session } } });
  await write();
  for (const c of [byCursor, bySession]) await until('the first', () => ids(c).length === 1);
  const cursor = byCursor.frames.findLast((f) => f.event === 'postgres_changes').payload.rtsync.cursor;
  await bySession.heartbeat();
  await bySession.heartbeat();
  for (const c of [byCursor, bySession]) c.close();
  await write();
  const [cursorAgain, sessionAgain] = [await open(1), await open(1)];
  assert.equal((await cursorAgain.joinOk('away', bindings, { config: { rtsync: { since: cursor } } })).response.rtsync.resumed, true);
  assert.equal((await sessionAgain.joinOk('away', bindings, { config: { rtsync: { session } } })).response.rtsync.resumed, true);
  await write();
  for (const c of [cursorAgain, sessionAgain]) {
    await until('the rest', () => ids(c).length >= 2);
    assert.deepEqual(ids(c), [2, 3]);
    c.close();
  }
});

test('snapshots on both gateways at once, with the stream', async () => {
  await createTable('shot', 'id int PRIMARY KEY, n int', { roles: ['reader'] });
  await sql('INSERT INTO shot SELECT g, 0 FROM generate_series(1, 20000) AS g');
  let writing = true;
  const writer = (async () => {
    while (writing) await sql('UPDATE shot SET n = n + 1 WHERE id = ANY (SELECT (random() * 20000)::int FROM generate_series(1, 5))');
  })();
  const clients = [];
  for (const gateway of [0, 1, 0, 1]) clients.push(await onGateway(gateway, () => RawClient.open({ apikey })));
  await Promise.all(clients.map((c) => c.joinOk('shot', [{ event: '*', schema: 'public', table: 'shot', rtsync: { snapshot: true } }])));
  await until('the snapshots', () => clients.every((c) => c.frames.some(({ payload }) => payload?.status === 'snapshot_end')), { timeout: 60_000 });
  writing = false;
  await writer;
  const expected = (await sql('SELECT * FROM shot ORDER BY id')).map(({ id, n }) => `${id}:${n}`).join();
  // One that held up the others has begun anew.
  const changes = (c) => {
    const begin = c.frames.findLastIndex(({ payload }) => payload?.status === 'snapshot_begin');
    return c.frames.slice(begin).filter(({ event }) => event === 'postgres_changes').map(({ payload }) => payload.data);
  };
  const rows = (c) => {
    const held = new Map(changes(c).map(({ record }) => [record.id, record.n]));
    return [...held].sort((x, y) => x[0] - y[0]).map(([id, n]) => `${id}:${n}`).join();
  };
  for (const c of clients) {
    await until('the rows', () => rows(c) === expected, { every: 100 });
    assert.equal(changes(c).filter(({ type }) => type === 'INSERT').length, 20000);
    c.close();
  }
});

test('the views show the connections of all', async () => {
  const rows = await sql('SELECT connection >> 48 AS gateway, count(*)::int AS n FROM rtsync.pg_stat_rtsync_connection GROUP BY 1 ORDER BY 1');
  assert.deepEqual(rows.map(({ gateway }) => gateway), ['0', '1']);
  await until('the figures', async () => {
    const found = await sql(`SELECT FROM rtsync.pg_stat_rtsync WHERE datname = current_database()
      AND connections = (SELECT count(*) FROM rtsync.pg_stat_rtsync_connection)`);
    return found.length > 0;
  });
  const scrape = async () => {
    const response = await fetch(`${httpUrl}/metrics`, { headers: { authorization: 'Bearer sesame', connection: 'close' } });
    const text = await response.text();
    return ['connections', 'max_connections', 'connections_opened_total', 'sent_frames_total'].map((name) =>
      Number(new RegExp(`^rtsync_${name} (.*)$`, 'm').exec(text)?.[1])).join();
  };
  await sql("ALTER SYSTEM SET rtsync.metrics_token = 'sesame'");
  await sql('SELECT pg_reload_conf()');
  const [{ max }] = await sql("SELECT setting AS max FROM pg_settings WHERE name = 'rtsync.max_connections'");
  await until('all gateways to give the same sums', async () => {
    const answers = [];
    for (let i = 0; i < 12; i++) answers.push(await scrape());
    const [{ n }] = await sql('SELECT count(*)::int AS n FROM rtsync.pg_stat_rtsync_connection');
    return new Set(answers).size === 1 && answers[0].startsWith(`${n},${max},`) && !answers[0].includes('NaN');
  });
  const shown = await sql(`SELECT count(DISTINCT connection)::int AS n FROM rtsync.pg_stat_rtsync_subscription WHERE topic = 'room'`);
  assert.equal(shown[0].n, all.filter((c) => !c.closed).length);
});

test('a gateway that is killed under load disturbs nobody on the other', async () => {
  const engine = (await status()).pid;
  let id = 100;
  let writing = true;
  const writer = (async () => {
    while (writing) await sql('INSERT INTO shared VALUES ($1)', [++id]);
  })();
  await sleep(300);
  const before = await gatewayPids();
  const killed = performance.now();
  process.kill(before[0], 'SIGKILL');
  await until('its connections to end', () => all.some((c) => c.closed));
  const stay = all.filter((c) => !c.closed);
  await until('the rest to be of one gateway', () => new Set(all.filter((c) => !c.closed).map((c) => c.gateway)).size === 1);
  const rest = all.filter((c) => !c.closed);
  await agree(rest, rest);
  const took = performance.now() - killed;
  assert.ok(took < 5000, `${took} ms`);
  note(`presence was right after ${Math.round(took)} ms (aim: 1000); ${rest.length} of ${stay.length} stayed`);
  await until('two gateways', async () => (await status()).gateways === 2);
  const comers = await meet('room');
  await agree([...rest, ...comers], [...rest, ...comers]);
  writing = false;
  await writer;
  assert.equal((await status()).pid, engine);
  // whoever stayed has missed nothing and had nothing twice
  for (const c of rest) {
    await until('all changes', () => c.changes('room').length === id - 100 + 1);
    assert.deepEqual(c.changes('room').slice(1).map((d) => d.record.id), Array.from({ length: id - 100 }, (_, i) => 101 + i));
  }
  for (const c of [...rest, ...comers]) assert.deepEqual(c.wrong, []);
  all.splice(0, all.length, ...rest, ...comers);
});

test('a gateway that stops reading holds up nobody on the other', async () => {
  const [pid] = await gatewayPids();
  process.kill(pid, 'SIGSTOP');
  const since = performance.now();
  try {
    // one side hears at once; it is the one whose gateway runs
    const counts = new Map(all.map((c) => [c, c.changes('room').length]));
    await sql('INSERT INTO shared SELECT generate_series(100000, 101999)');
    const alive = await until('one side to have them', () => {
      for (const g of [0, 1]) {
        const side = all.filter((c) => c.gateway === g);
        if (side.every((c) => c.changes('room').length === counts.get(c) + 2000)) return side;
      }
      return null;
    });
    assert.ok((await gatewayPids()).includes(pid), 'while the other still hangs');
    note(`${alive.length} clients had 2,000 changes after ${Math.round(performance.now() - since)} ms`);
    await until('the other to be replaced', async () => !(await gatewayPids()).includes(pid), { timeout: 60_000 });
    await agree(alive, alive);
    assert.ok(alive.every((c) => !c.closed));
  } finally {
    try {
      process.kill(pid, 'SIGCONT');
    } catch {} // it is gone
  }
});
