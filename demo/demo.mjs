// The demo: two Supabase clients beside each other, and a script that changes
// rows.  demo/run starts the server and calls this with its address in the
// environment; everything here is what an application would write itself.

import { readFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { createClient } from '@supabase/supabase-js';
import pg from 'pg';
import WebSocket from 'ws';
import { signToken } from '../dev/jwt.mjs';
import { startApp } from './app.mjs';

const once = process.argv.includes('--once');
const url = process.env.RTSYNC_URL.replace('ws:', 'http:');
const secret = process.env.RTSYNC_JWT_SECRET;

const database = new pg.Client();
await database.connect();
await database.query(await readFile(new URL('schema.sql', import.meta.url), 'utf8'));

//
// The two clients
//

// Connects as somebody, subscribes to both tables, and prints what arrives.
// Returns the list of what has arrived so far.
async function watch(name, claims) {
  const received = [];
  const client = createClient(url, signToken(claims, secret), {
    auth: { persistSession: false },
    realtime: { transport: WebSocket },
  });
  const print = ({ eventType, table, new: row, old }) => {
    const shown = eventType === 'DELETE' ? old : row;
    received.push(`${eventType} ${table} ${shown.id}`);
    console.log(name, eventType, table, JSON.stringify(shown));
  };

  await new Promise((resolve, reject) => {
    client
      .channel('assets')
      .on('postgres_changes', { event: '*', schema: 'public', table: 'assets' }, print)
      .on('postgres_changes', { event: '*', schema: 'public', table: 'maintenance_reports' }, print)
      .subscribe((status, error) => {
        if (status === 'SUBSCRIBED') resolve();
        else reject(error ?? new Error(`${name}: ${status}`));
      });
  });
  return received;
}

const admin = await watch('admin', { role: 'asset_admin' });
const viewer = await watch('viewer-acme', {
  role: 'asset_viewer',
  sub: '00000000-0000-4000-8000-00000000acce', // a member of Acme, see schema.sql
});

//
// The changes, and what each client must have seen of them
//

const expected = { admin: [], viewer: [] };

// Runs one statement.  Then waits until both clients have what they must have,
// so that the lines below each statement are what came of it.
async function step(sql, { admin: forAdmin, viewer: forViewer }) {
  console.log(`\n${sql};`);
  await database.query(sql);
  if (forAdmin) expected.admin.push(forAdmin);
  if (forViewer) expected.viewer.push(forViewer);
  const deadline = Date.now() + 10_000;
  while (admin.length < expected.admin.length || viewer.length < expected.viewer.length) {
    if (Date.now() > deadline) throw new Error('an event is missing after 10 seconds');
    await sleep(5);
  }
}

const both = (event) => ({ admin: event, viewer: event });

// Acme's project is 1, Globex's is 2.
await step("INSERT INTO assets (project_id, name) VALUES (1, 'crane')", both('INSERT assets 1'));
await step("INSERT INTO assets (project_id, name) VALUES (2, 'lift')", { admin: 'INSERT assets 2' });
await step("UPDATE assets SET status = 'broken' WHERE name = 'crane'", both('UPDATE assets 1'));
await step("UPDATE assets SET status = 'in use' WHERE name = 'lift'", { admin: 'UPDATE assets 2' });
await step(
  "INSERT INTO maintenance_reports (asset_id, note) VALUES (1, 'the hook is bent')",
  both('INSERT maintenance_reports 1'),
);
await step('UPDATE maintenance_reports SET done = true WHERE id = 1', both('UPDATE maintenance_reports 1'));
await step('DELETE FROM maintenance_reports WHERE id = 1', both('DELETE maintenance_reports 1'));

// The crane moves to Globex: for Acme it is gone, and all that Acme's viewer
// learns is its key.  Then it comes back.
await step("UPDATE assets SET project_id = 2 WHERE name = 'crane'", {
  admin: 'UPDATE assets 1',
  viewer: 'DELETE assets 1',
});
await step("UPDATE assets SET status = 'ready' WHERE name = 'crane'", { admin: 'UPDATE assets 1' });
await step("UPDATE assets SET project_id = 1 WHERE name = 'crane'", both('UPDATE assets 1'));
await step("DELETE FROM assets WHERE name = 'lift'", { admin: 'DELETE assets 2' });
await step("DELETE FROM assets WHERE name = 'crane'", both('DELETE assets 1'));

if (once) {
  check('admin', admin, expected.admin);
  check('viewer-acme', viewer, expected.viewer);
  console.log('\ndemo: ok');
  process.exit(0);
}

// What a client received must be what it must have seen, nothing else, in the
// order of the commits.
function check(name, received, wanted) {
  if (JSON.stringify(received) !== JSON.stringify(wanted)) {
    console.error(`\n${name} must have received\n  ${wanted.join('\n  ')}`);
    console.error(`but received\n  ${received.join('\n  ')}`);
    process.exit(1);
  }
}

//
// Without --once: keep changing things, for those who want to join in.
//

await startApp({
  pool: new pg.Pool({ max: 4 }),
  secret,
  root: process.env.PAGE_ROOT,
  metricsToken: process.env.METRICS_TOKEN,
});
console.log(`
The server goes on until you press Ctrl-C, changing a row every few seconds.
Open in two windows:

  ${url}/?as=ann
  ${url}/?as=ben

Try in another terminal:

  psql -h ${process.env.PGHOST} -p ${process.env.PGPORT} -U ${process.env.PGUSER} postgres
  INSERT INTO assets (project_id, name) VALUES (1, 'yours');

or connect a client of your own:

  createClient('${url}', '${signToken({ role: 'asset_admin' }, secret)}')
`);

const pick = (list) => list[Math.floor(Math.random() * list.length)];
for (;;) {
  await sleep(3000);
  const project = pick([1, 2]);
  const status = pick(['ready', 'in use', 'broken']);
  const sql = pick([
    `INSERT INTO assets (project_id, name) VALUES (${project}, '${pick(['pump', 'drill', 'van'])}')`,
    `UPDATE assets SET status = '${status}' WHERE id = (SELECT min(id) FROM assets)`,
    `UPDATE assets SET project_id = ${project} WHERE id = (SELECT max(id) FROM assets)`,
    'DELETE FROM assets WHERE id = (SELECT min(id) FROM assets HAVING count(*) > 9)',
  ]);
  console.log(`\n${sql};`);
  await database.query(sql);
}
