// What monitoring hears while the engine starts, hangs, falls behind and goes
// away: never "ready" when clients are not served, and lines in the log.

import { assert, note, test, until } from '../e2e/lib/tap.mjs';
import { createRole, createTable, httpUrl, pg, sql, status, token } from '../e2e/lib/server.mjs';
import { log, restart, running, served, server } from './lib/cluster.mjs';
import { holdCommits, releaseCommits } from './lib/syncrep.mjs';

await createRole('reader');
await createTable('watched', 'id int PRIMARY KEY, filler text', { roles: ['reader'] });
const apikey = token('reader');
const binding = { event: 'INSERT', schema: 'public', table: 'watched' };

// { status, ready, reason }; status 0: nobody answers
async function health() {
  try {
    const answer = await fetch(`${httpUrl}/health`, { signal: AbortSignal.timeout(10_000) });
    return { status: answer.status, ...(await answer.json()) };
  } catch {
    return { status: 0, ready: false };
  }
}

for (const mode of ['fast', 'immediate']) {
  test(`restart -m ${mode}: ready means that a join succeeds at once`, async () => {
    await sql("INSERT INTO watched SELECT coalesce(max(id), 0) + n, repeat('x', 1000) FROM watched, generate_series(1, 20000) AS n GROUP BY n");
    await until('ready', async () => (await health()).ready, { every: 50 });
    const seen = [];
    const restarted = restart(mode);
    await until('not ready', async () => !(await health()).ready, { every: 5 });
    await until('ready again', async () => {
      const now = await health();
      seen.push(now.reason ?? now.status);
      return now.status === 200;
    }, { timeout: 60_000, every: 5 });
    const client = await served({ apikey });
    const began = performance.now();
    await client.joinOk('ready', [binding]);
    const took = performance.now() - began;
    client.close();
    await restarted;
    note(`heard ${seen.length} times, of these ${seen.filter((s) => /history/.test(s)).length} that the history is read; the join took ${took.toFixed(0)} ms`);
    assert.ok(took < 5000, `${took} ms`);
  });
}

test('an engine that hangs is not ready', async () => {
  const { pid } = await running();
  await until('ready', async () => (await health()).ready, { every: 50 });
  process.kill(pid, 'SIGSTOP');
  try {
    const { reason } = await until('not ready', async () => {
      const now = await health();
      return now.status === 503 && now;
    }, { timeout: 60_000, every: 200 });
    assert.match(reason, /^the engine has not been heard of for \d+ seconds$/);
  } finally {
    process.kill(pid, 'SIGCONT');
  }
  await until('ready again', async () => (await health()).ready, { every: 50 });
});

test('an engine that falls behind and keeps WAL says so in the log, and when it is over', async () => {
  await running();
  const last = async () => (await sql('SELECT updated::text FROM rtsync.pg_stat_rtsync'))[0].updated;
  const looked = async () => {
    const before = await last();
    await until('the engine to look', async () => (await last()) !== before);
  };
  const { length } = await log();
  const news = async () => (await log()).slice(length);
  await sql('ALTER SYSTEM SET rtsync.max_retained_wal = 64');
  const began = performance.now();
  await holdCommits(); // one that waits for a standby is in the WAL, but visible to nobody
  const writer = new pg.Client();
  await writer.connect();
  const waiting = writer.query("INSERT INTO watched VALUES (-1, 'late')").catch(() => {});
  try {
    await until('the lag to be logged', async () =>
      /LOG: {2}rtsync engine for database "postgres" is 10 seconds behind/.test(await news()), { timeout: 60_000, every: 200 });
    await until('the WAL to be logged', async () => {
      // it looks once a second: each time before there is more than it may keep
      await sql("SELECT length(pg_logical_emit_message(false, 'fill', repeat('x', 3000000))::text)");
      await looked();
      return /WARNING: {2}replication slot of the rtsync engine for database "postgres" keeps \d+ MB of WAL/.test(await news());
    }, { timeout: 120_000 });
    const [row] = await sql('SELECT extract(epoch FROM lag)::float AS lag, lag_bytes::int FROM rtsync.pg_stat_rtsync');
    assert.ok(row.lag >= 10 && row.lag < (performance.now() - began) / 1000 + 1, `${row.lag} s`);
    assert.ok(row.lag_bytes > 1_000_000);
    await until('the engine to be ready all the same', async () => (await health()).status === 200);
  } finally {
    await releaseCommits();
  }
  await waiting;
  await writer.end();
  await until('the end of the lag to be logged', async () =>
    /LOG: {2}rtsync engine for database "postgres" has caught up after \d+ seconds/.test(await news()), { timeout: 60_000, every: 200 });
  await sql('CHECKPOINT');
  await until('the end of the WAL to be logged', async () =>
    /keeps only \d+ MB of WAL again/.test(await news()), { timeout: 120_000, every: 500 });
  assert.doesNotMatch(await news(), /gives up replication slot/);
}, { timeout: 400_000 });

test('without a server nobody answers', async () => {
  await server('sh', '-c', 'pg_ctl stop -w -m fast >/dev/null 2>&1');
  await until('nobody to answer', async () => (await health()).status === 0, { every: 50 });
});
