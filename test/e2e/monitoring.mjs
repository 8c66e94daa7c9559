// What an operator sees: the statistics views, /health and /metrics.

import { readFile } from 'node:fs/promises';
import { assert, atEnd, sleep, test, until } from './lib/tap.mjs';
import { RawClient } from './lib/raw.mjs';
import { createRole, createTable, database, httpUrl, sql, token } from './lib/server.mjs';

await createRole('watched');
await createRole('stranger');
await sql('DROP TABLE IF EXISTS watched_rows CASCADE');
await createTable('watched_rows', 'id int PRIMARY KEY, owner text', { roles: ['watched'], full: true });
await sql('ALTER TABLE watched_rows ENABLE ROW LEVEL SECURITY');
await sql("CREATE POLICY own ON watched_rows USING (owner = (SELECT rtsync.jwt() ->> 'sub'))");
const binding = { event: 'INSERT', schema: 'public', table: 'watched_rows', filter: 'id=gt.0' };

const client = await RawClient.open({ apikey: token('watched', { sub: 'ann' }) });
atEnd(() => client.close());
await client.joinOk('watch', [binding, { event: '*', schema: 'public', table: 'nothing' }]);
await client.joinOk('talk', []);

// The client's rows of the views; other files' clients may still be there.
const subscriptions = () =>
  sql("SELECT * FROM rtsync.pg_stat_rtsync_subscription WHERE topic = 'watch' ORDER BY relname");
const published = async () =>
  (await sql(`SELECT *, extract(epoch FROM lag)::float AS lag_s FROM rtsync.pg_stat_rtsync WHERE datname = current_database()`))[0];

// The engine says once a second what it has counted: waits until it has said what
// was there when this began.
async function upToDate() {
  const [{ now }] = await sql('SELECT clock_timestamp()::text AS now');
  await until('the counts to be up to date', async () =>
    (await sql('SELECT updated > $1 AS yes FROM rtsync.pg_stat_rtsync WHERE datname = current_database()', [now]))[0].yes);
}
const connectionOf = async (number) =>
  (await sql('SELECT * FROM rtsync.pg_stat_rtsync_connection WHERE connection = $1', [number]))[0];

test('a subscription is shown with who, what and how', async () => {
  await sql("INSERT INTO watched_rows VALUES (1, 'ann'), (2, 'bob')");
  await until('the event', () => client.changes('watch').length === 1);
  const [refused, served] = await subscriptions();
  assert.deepEqual(
    { ...served, connection: 0, channel: 0, usesysid: 0, joined: 0, subscription: 0, group_: 0, cursor: 0 },
    {
      connection: 0, channel: 0, usesysid: 0, usename: 'watched', subject: 'ann', topic: 'watch', private: false,
      joined: 0, subscription: 0, schemaname: 'public', relname: 'watched_rows', events: 'INSERT', filter: 'id=gt.0',
      where_: null, evaluation: 'indexed', group_: 0, state: 'live', cursor: 0, lag_bytes: '0', sent: '1',
    },
  );
  assert.match(served.cursor, /^[0-9a-f]+:[0-9a-f]+:[0-9a-f]+$/);
  assert.ok(Date.now() - served.joined < 60_000);
  assert.equal(refused.relname, 'nothing');
  assert.equal(refused.state, 'refused');
  assert.equal(refused.evaluation, null);
});

test('so is a channel without row changes', async () => {
  const [row] = await sql("SELECT * FROM rtsync.pg_stat_rtsync_subscription WHERE topic = 'talk'");
  assert.equal(row.usename, 'watched');
  assert.equal(row.subscription, null);
  assert.equal(row.relname, null);
  assert.equal(row.events, null);
});

test('a connection is shown with its address, channels and what it was sent', async () => {
  const [{ connection }] = await subscriptions();
  const row = await connectionOf(connection);
  assert.equal(row.usename, 'watched');
  assert.equal(row.client_addr, '127.0.0.1');
  assert.equal(row.client_port, client.socket._socket.localPort);
  assert.equal(row.protocol, '2.0.0');
  assert.equal(row.state, 'active');
  assert.equal(row.channels, 2);
  assert.equal(row.queue_bytes, '0');
  assert.ok(Number(row.frames_sent) >= 3 && Number(row.bytes_sent) > 500);
  assert.ok(row.connected <= row.last_message);
});

test('others see that somebody is there, and nothing else', async () => {
  const [{ connection }] = await subscriptions();
  const asRole = async (role, query) => {
    const session = await database.connect();
    try {
      await session.query(`SET ROLE ${role}`);
      return (await session.query(query, [connection])).rows;
    } finally {
      await session.query('RESET ROLE');
      session.release();
    }
  };
  const one = 'SELECT * FROM rtsync.pg_stat_rtsync_connection WHERE connection = $1';
  const its = 'SELECT * FROM rtsync.pg_stat_rtsync_subscription WHERE connection = $1';
  const [row] = await asRole('stranger', one);
  assert.equal(row.usename, 'watched');
  assert.equal(row.client_addr, null);
  assert.equal(row.bytes_sent, null);
  for (const { usename, connection: _, channel: __, usesysid, ...rest } of await asRole('stranger', its)) {
    assert.equal(usename, 'watched');
    assert.ok(usesysid > 0);
    assert.ok(Object.values(rest).every((value) => value === null), JSON.stringify(rest));
  }
  assert.equal((await asRole('watched', one))[0].client_addr, '127.0.0.1');
  assert.ok((await asRole('watched', its)).some(({ subject }) => subject === 'ann'));
  await sql('GRANT pg_read_all_stats TO stranger');
  assert.equal((await asRole('stranger', one))[0].client_addr, '127.0.0.1');
  await sql('REVOKE pg_read_all_stats FROM stranger');
  await assert.rejects(asRole('stranger', 'SELECT rtsync.pg_stat_rtsync_reset(), $1::text'), /permission denied/);
});

test('many connections, asked for by many at once, while they come and go', async () => {
  const others = await Promise.all(
    Array.from({ length: 300 }, () => RawClient.open({ apikey: token('watched', { sub: 'many' }) })),
  );
  await Promise.all(others.map((other, i) => other.joinOk(`many-${i % 3}`, [binding])));
  const counts = Promise.all(
    Array.from({ length: 12 }, () =>
      sql("SELECT count(*)::int AS n FROM rtsync.pg_stat_rtsync_subscription WHERE subject = 'many'")),
  );
  const answers = (await counts).map(([{ n }]) => n);
  assert.ok(answers.every((n) => n === 300), answers.join());
  const asking = (async () => {
    for (let i = 0; i < 20; i++) await sql('SELECT count(*) FROM rtsync.pg_stat_rtsync_connection');
  })();
  for (const other of others) {
    other.close();
    await sleep(1);
  }
  await asking;
  await until('none of them', async () =>
    (await sql("SELECT 1 FROM rtsync.pg_stat_rtsync_subscription WHERE subject = 'many'")).length === 0);
});

test('pg_stat_rtsync counts, and counts anew after a reset', async () => {
  // what was written before must have been counted
  await sql("INSERT INTO watched_rows VALUES (10, 'ann')");
  await client.frame('the event', () => client.changes('watch').some(({ record }) => record.id === 10));
  await upToDate();
  await sql('SELECT rtsync.pg_stat_rtsync_reset((SELECT oid FROM pg_database WHERE datname = current_database()))');
  const before = await published();
  assert.deepEqual([before.changes, before.events, before.transactions], ['0', '0', '0']);
  assert.ok(Date.now() - before.stats_reset < 60_000);
  await sql("INSERT INTO watched_rows VALUES (3, 'ann'), (4, 'ann'), (5, 'bob')");
  const row = await until('three changes, two events', async () => {
    const now = await published();
    return now.changes === '3' && now.events === '2' && Number(now.frames_sent) >= 2 && now;
  });
  assert.equal(row.transactions, '1');
  assert.ok(row.connections >= 1 && row.channels >= 2 && row.groups >= 1);
  assert.ok(Number(row.history_bytes) > 0);
  assert.ok(Number(row.retained_wal_bytes) > 0);
  await until('the lag to be nothing', async () => {
    const now = await published();
    return now.lag_s === 0 && now.lag_bytes === '0';
  });
});

test('each setting is in the README, with its default', async () => {
  const readme = await readFile(new URL('../../README.md', import.meta.url), 'utf8');
  const documented = new Map();
  for (const [, names, value] of readme.matchAll(/^\| ((?:`rtsync\.\w+`(?:, )?)+) \| (?:`([^`]*)`)? ?\|/gm))
    for (const [name] of names.matchAll(/rtsync\.\w+/g)) documented.set(name, value ?? '');
  const settings = await sql("SELECT name, boot_val FROM pg_settings WHERE name LIKE 'rtsync.%'");
  assert.ok(settings.length > 30);
  const session = await database.connect();
  try {
    for (const { name, boot_val } of settings) {
      assert.ok(documented.has(name), `${name} is not in the README`);
      await session.query('SELECT set_config($1, $2, false)', [name, documented.get(name)]);
      const { rows } = await session.query('SELECT setting FROM pg_settings WHERE name = $1', [name]);
      assert.equal(rows[0].setting, boot_val, name);
    }
    for (const name of documented.keys()) await session.query('SELECT current_setting($1)', [name]);
  } finally {
    session.release(true);
  }
});

//
// HTTP
//

const get = (path, headers = {}) => fetch(httpUrl + path, { headers });

// Reads the text format strictly: every sample belongs to the family that was
// announced before it, no family or sample comes twice.
function parseMetrics(text) {
  const families = new Map();
  const samples = new Map();
  let family = null;
  let help = null;
  assert.ok(text.endsWith('\n'));
  for (const line of text.slice(0, -1).split('\n')) {
    let match;
    if ((match = /^# HELP ([a-z_]+) \S.*$/.exec(line))) {
      assert.equal(help, null, line);
      help = match[1];
    } else if ((match = /^# TYPE ([a-z_]+) (counter|gauge|histogram)$/.exec(line))) {
      assert.equal(match[1], help, line);
      assert.ok(!families.has(match[1]), line);
      family = { name: match[1], type: match[2], n: 0 };
      families.set(family.name, family);
      help = null;
    } else {
      match = /^([a-z_]+)(?:\{([a-z]+="(?:[^"\\]|\\[\\"n])*"(?:,[a-z]+="(?:[^"\\]|\\[\\"n])*")*)\})? (-?[0-9.]+(?:e[+-]?[0-9]+)?)$/.exec(line);
      assert.ok(match, line);
      const [, name, labels, value] = match;
      const base = family.type === 'histogram' ? name.replace(/_(bucket|sum|count)$/, '') : name;
      assert.equal(base, family.name, line);
      if (family.type === 'counter') assert.match(name, /_total$/);
      assert.match(name, /^rtsync_/);
      const key = labels ? `${name}{${labels}}` : name;
      assert.ok(!samples.has(key), line);
      samples.set(key, Number(value));
      family.n++;
    }
  }
  for (const { name, type, n } of families.values()) {
    assert.ok(n > 0, name);
    if (type !== 'histogram') continue;
    const buckets = [...samples].filter(([key]) => key.startsWith(`${name}_bucket`)).map(([, value]) => value);
    assert.deepEqual(buckets, [...buckets].sort((a, b) => a - b), `${name} is cumulative`);
    assert.equal(samples.get(`${name}_bucket{le="+Inf"}`), samples.get(`${name}_count`));
    assert.equal(typeof samples.get(`${name}_sum`), 'number');
  }
  return samples;
}

test('/health says that clients are served', async () => {
  const answer = await get('/health');
  assert.equal(answer.status, 200);
  assert.deepEqual(await answer.json(), { live: true, ready: true });
});

test('/metrics is not there without a token, and closed to those who do not know it', async () => {
  await until('the token of other tests to be gone', async () => (await get('/metrics')).status === 404);
  await sql("ALTER SYSTEM SET rtsync.metrics_token = 'sesame'");
  atEnd(async () => {
    await sql('ALTER SYSTEM RESET rtsync.metrics_token');
    await sql('SELECT pg_reload_conf()');
  });
  await sql('SELECT pg_reload_conf()');
  await until('the setting to take effect', async () => (await get('/metrics')).status === 401, { every: 50 });
  for (const authorization of ['sesame', 'Bearer', 'Bearer sesam', 'Bearer sesamee', 'Basic sesame'])
    assert.equal((await get('/metrics', { authorization })).status, 401, authorization);
  assert.equal((await sql("SELECT current_setting('rtsync.metrics_token') AS s"))[0].s, '********');
});

// The table of the manual: names and types, in which G stands for what the gateway counts
test('the manual has each metric, with its type, and no other', async () => {
  const answer = await get('/metrics', { authorization: 'Bearer sesame' });
  const there = [...(await answer.text()).matchAll(/^# TYPE rtsync_(\w+) (\w+)$/gm)].map(([, name, type]) => `${name} ${type}`);
  const manual = await readFile(new URL('../../docs/manual.md', import.meta.url), 'utf8');
  const [table] = manual.match(/\| metric \| type \|.*?\n\n/s);
  const documented = [...table.matchAll(/^\| (`.*`) \| (\w+)(?:, G)? \|/gm)].flatMap(([, names, type]) =>
    [...names.matchAll(/`(\w+)`/g)].map(([, name]) => `${name} ${type}`));
  assert.ok(there.length > 30);
  assert.deepEqual(documented.sort(), there.sort());
});

test('refetches are counted by reason', async () => {
  const [{ datid }] = await sql('SELECT oid AS datid FROM pg_database WHERE datname = current_database()');
  const counted = async () =>
    Object.fromEntries((await sql('SELECT reason, refetches::int FROM rtsync.pg_stat_rtsync_refetch WHERE datid = $1', [datid]))
      .map(({ reason, refetches }) => [reason, refetches]));
  const client = await RawClient.open({ apikey: token('watched', { sub: 'ann' }) });
  await client.joinOk('watch', [{ ...binding, event: '*' }]);
  await upToDate();
  const before = await counted();
  await sql('TRUNCATE watched_rows');
  await client.frame('the refetch', (f) => f.payload?.status === 'refetch');
  await upToDate();
  const now = await counted();
  assert.equal(now.truncate, before.truncate + 1);
  for (const reason of ['dependency', 'overrun', 'too_old', 'retained_wal']) assert.equal(now[reason], before[reason], reason);
  await until('the sum', async () => {
    const [{ refetches, sum }] = await sql(`SELECT e.refetches, (SELECT sum(r.refetches) FROM rtsync.pg_stat_rtsync_refetch AS r
      WHERE r.datid = e.datid) FROM rtsync.pg_stat_rtsync AS e WHERE e.datid = $1`, [datid]);
    return refetches === sum;
  });
  const answer = await get('/metrics', { authorization: 'Bearer sesame' });
  const labels = [...(await answer.text()).matchAll(/^rtsync_refetches_total\{reason="(\w+)"\}/gm)].map(([, reason]) => reason);
  assert.deepEqual(Object.keys(now).sort(), labels.sort());
  const manual = await readFile(new URL('../../docs/manual.md', import.meta.url), 'utf8');
  const table = manual.match(/\| `reason` \|.*?\n\n/s)[0];
  for (const reason of labels) assert.ok(table.includes(`\`${reason}\``), `the manual says what ${reason} is`);
  client.close();
});

test('/metrics has what happened', async () => {
  const scrape = async () => {
    const answer = await get('/metrics', { authorization: 'Bearer sesame' });
    assert.equal(answer.status, 200);
    assert.equal(answer.headers.get('content-type'), 'text/plain; version=0.0.4; charset=utf-8');
    return parseMetrics(await answer.text());
  };
  // the clients of other tests are gone, but for the one of them all
  const before = await until('the others to be gone', async () => {
    const figures = await scrape();
    return figures.get('rtsync_connections') === 1 && figures;
  });
  const other = await RawClient.open({ apikey: token('watched', { sub: 'ann' }) });
  await other.joinOk('watch', [{ ...binding, event: '*' }]);
  assert.equal((await other.join('', [])).status, 'error');
  assert.equal((await other.join('x', [], { accessToken: token('nobody') })).status, 'error');
  await sql("INSERT INTO watched_rows VALUES (6, 'ann')");
  await until('the event', () => other.changes('watch').length === 1);
  await sql('TRUNCATE watched_rows');
  await until('the refetch', () => other.frames.some(({ payload }) => payload?.status === 'refetch'));
  other.close();

  const grew = (now, name) => now.get(name) - before.get(name);
  const now = await until('the engine to have published', async () => {
    const figures = await scrape();
    return grew(figures, 'rtsync_refetches_total{reason="truncate"}') > 0 &&
      grew(figures, 'rtsync_connections_closed_total{code="client"}') === 1 && figures;
  }, { every: 100 });
  assert.equal(now.get('rtsync_ready'), 1);
  assert.equal(grew(now, 'rtsync_connections_opened_total'), 1);
  assert.equal(grew(now, 'rtsync_joins_total{result="ok"}'), 1);
  assert.equal(grew(now, 'rtsync_joins_total{result="TopicNameRequired"}'), 1);
  assert.ok(grew(now, 'rtsync_sent_frames_total') >= 4);
  assert.ok(grew(now, 'rtsync_received_messages_total') === 3);
  assert.ok(grew(now, 'rtsync_events_total') >= 1);
  assert.ok(grew(now, 'rtsync_commit_to_send_seconds_count') >= 1);
  assert.ok(now.get('rtsync_commit_to_send_seconds_sum') < 60);
  assert.ok(grew(now, 'rtsync_decision_seconds_count') >= 1);
  assert.ok(now.get('rtsync_retained_wal_bytes') > 0);
  assert.ok(now.get('rtsync_max_retained_wal_bytes') === 1024 ** 3);
  assert.ok([...now.keys()].some((key) => key.startsWith('rtsync_engine_info{database="postgres",epoch="')));
});
