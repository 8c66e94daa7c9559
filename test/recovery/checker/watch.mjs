// Says what the checker waits for when that takes long: which clients, what
// they do, and what the server says of itself and of them.

import { note, sleep } from '../../e2e/lib/tap.mjs';
import { pg } from '../../e2e/lib/server.mjs';

const LONG = 15_000;
const MOST = 5; // reports about clients; afterwards they all say the same

const settled = (follower) => follower.live && follower.pending === null;

// Each in a connection of its own: the others may be what hangs.
async function rows(text, values) {
  const connection = new pg.Client({ connectionTimeoutMillis: 5000, query_timeout: 5000 });
  connection.on('error', () => {});
  try {
    await connection.connect();
    return (await connection.query(text, values)).rows;
  } catch (error) {
    return [{ error: error.message }];
  } finally {
    connection.end().catch(() => {});
  }
}

async function report(followers) {
  for (const follower of followers.slice(0, 10)) note(`  ${follower.describe()}`);
  if (followers.length > 10) note(`  and ${followers.length - 10} more clients`);
  const topics = followers.slice(0, 10).flatMap(({ topic }) => [topic, topic.replace(/^realtime:/, '')]);
  const answers = await Promise.all([
    rows('SELECT * FROM rtsync.pg_stat_rtsync'),
    rows('SELECT * FROM rtsync.pg_stat_rtsync_subscription WHERE topic = ANY ($1)', [topics]),
    rows(`SELECT slot_name, active_pid, restart_lsn, confirmed_flush_lsn, wal_status, pg_current_wal_lsn() AS now
      FROM pg_replication_slots`),
    rows(`SELECT pid, backend_type, state, wait_event_type, wait_event, now() - xact_start AS age, left(query, 100) AS query
      FROM pg_stat_activity WHERE backend_type LIKE 'rtsync%' OR state <> 'idle'`),
  ]);
  for (const row of answers.flat()) note(`  ${JSON.stringify(row)}`);
}

// Returns what the promise does.  As long as it takes too long, says so.
export async function watched(what, promise, concerned = () => []) {
  const started = Date.now();
  const timer = setInterval(() => {
    note(`waiting for ${what}, for ${Math.round((Date.now() - started) / 1000)} s now`);
    report(concerned());
  }, LONG);
  try {
    return await promise;
  } finally {
    clearInterval(timer);
  }
}

// Speaks of clients that want to be served, and are not, until over() is true.
export async function watchClients(followers, doing, over) {
  const times = new Map(); // when each was last served, or did not want to be
  let reports = 0;
  while (!over()) {
    const now = performance.now();
    for (const follower of followers) if (settled(follower) || follower.isAway()) times.set(follower, now);
    const late = followers.filter((follower) => now - (times.get(follower) ?? now) > LONG);
    if (late.length > 0 && reports++ < MOST) {
      note(`${late.length} clients have not been served for ${LONG / 1000} s; under way: ${doing()}`);
      await report(late);
      for (const follower of late) times.set(follower, performance.now());
    }
    await sleep(500);
  }
}
