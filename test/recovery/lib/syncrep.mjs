// A synchronous standby that is down: commits wait for it, and are invisible.

import { until } from '../../e2e/lib/tap.mjs';
import { pg, sql } from '../../e2e/lib/server.mjs';

// Lets commits wait from now on. That a session knows the setting does not mean
// that its commits do: the checkpointer says so, when it has seen the setting.
export async function holdCommits() {
  await sql("ALTER SYSTEM SET synchronous_standby_names = 'nobody'");
  await sql('SELECT pg_reload_conf()');
  const probe = new pg.Client();
  await probe.connect();
  const [{ pid }] = (await probe.query('SELECT pg_backend_pid() AS pid')).rows;
  await until('commits to wait', async () => {
    let done = false;
    const commit = probe.query("SELECT pg_logical_emit_message(true, 'probe', '')").then(() => (done = true));
    const waits = await until('the probe', async () => {
      const [row] = await sql("SELECT FROM pg_stat_activity WHERE pid = $1 AND wait_event = 'SyncRep'", [pid]);
      return row ? 'waits' : done && 'done';
    }) === 'waits';
    if (waits) await sql('SELECT pg_cancel_backend($1)', [pid]);
    await commit;
    return waits;
  });
  await probe.end();
}

// Lets those that wait, and all others, go on.
export async function releaseCommits() {
  await sql('ALTER SYSTEM RESET synchronous_standby_names');
  await sql('SELECT pg_reload_conf()');
}
