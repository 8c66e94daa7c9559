// What a client's author is told when subscribing: that it works, but perhaps
// not as intended, or why it does not.

import { assert, atEnd, test, until } from './lib/tap.mjs';
import { configure } from './lib/keys.mjs';
import { RawClient } from './lib/raw.mjs';
import { createRole, createTable, sql, token } from './lib/server.mjs';

await createRole('e2e_hinted');
const roles = ['e2e_hinted'];
await createTable('hint_open', 'id int PRIMARY KEY, n int', { roles });
await createTable('hint_own', 'id int PRIMARY KEY, owner text', { roles });
await createTable('hint_full', 'id int PRIMARY KEY, owner text', { roles, full: true });
await createTable('hint_keyed', 'id int, owner text, PRIMARY KEY (id, owner)', { roles });
await sql(`
  DROP VIEW IF EXISTS hint_view, hint_other CASCADE;
  DROP MATERIALIZED VIEW IF EXISTS hint_stored;
  CREATE VIEW hint_view AS TABLE hint_open;
  CREATE VIEW hint_other AS TABLE hint_open;
  CREATE MATERIALIZED VIEW hint_stored AS TABLE hint_open;
  GRANT SELECT (n) ON hint_view TO e2e_hinted;
  GRANT SELECT ON hint_stored TO e2e_hinted`);
for (const table of ['hint_own', 'hint_full', 'hint_keyed'])
  await sql(`ALTER TABLE ${table} ENABLE ROW LEVEL SECURITY; CREATE POLICY own ON ${table} USING (owner = rtsync.jwt() ->> 'sub')`);

const on = (table, more) => ({ event: '*', schema: 'public', table, ...more });

// What is said of these bindings: "status: message"
async function told(...bindings) {
  const client = await RawClient.open({ apikey: token('e2e_hinted', { sub: 'ann' }) });
  await client.joinOk('hints', bindings);
  await client.joinOk('behind', []); // the engine answers in order
  const said = client.frames.filter((f) => f.event === 'system').map(({ payload: { status, message } }) => `${status}: ${message}`);
  client.close();
  return said;
}

const ok = 'ok: Subscribed to PostgreSQL';
const why = (table) => `what decides about it is not part of the table's replica identity. Use ALTER TABLE public.${table} REPLICA IDENTITY FULL.`;
const withheld = (table) =>
  `hint: A DELETE from table public.${table}, or an UPDATE that takes a row out of view, may be withheld: ${why(table)}`;

test('whether DELETEs can be decided is said if they cannot, once for each table', async () => {
  assert.deepEqual(await told(on('hint_open')), [ok]);
  assert.deepEqual(await told(on('hint_full')), [ok]);
  assert.deepEqual(await told(on('hint_keyed')), [ok]);
  assert.deepEqual(await told(on('hint_own')), [ok, withheld('hint_own')]);
  assert.deepEqual(await told(on('hint_own', { event: 'INSERT' })), [ok]);
  assert.deepEqual(await told(on('hint_open', { filter: 'id=eq.1' })), [ok]);
  assert.deepEqual(await told(on('hint_open', { filter: 'n=eq.1' })), [ok, withheld('hint_open')]);
  assert.deepEqual(await told(on('hint_open', { rtsync: { where: 'n > 1' } })), [ok, withheld('hint_open')]);
  assert.deepEqual(await told(on('hint_own', { filter: 'id=eq.1' }), on('hint_own', { filter: 'id=eq.2' }), on('hint_open', { filter: 'n=eq.1' })),
    [ok, withheld('hint_own'), withheld('hint_open')]);
});

test('it goes by the settings', async () => {
  atEnd(() => configure({ 'rtsync.delete_visibility': null, 'rtsync.leave_events': null }));
  const key = 'hint: The key of a row that is deleted from table public.hint_own goes to all its subscribers';
  for (const [settings, hint] of [
    [{ 'rtsync.leave_events': 'off' }, 'hint: A DELETE from table public.hint_own may be withheld'],
    [{ 'rtsync.delete_visibility': 'key' }, key],
    [{ 'rtsync.leave_events': null }, `${key}, and an UPDATE that takes a row out of view may be withheld`],
    [{ 'rtsync.delete_visibility': null }, 'hint: A DELETE from table public.hint_own, or an UPDATE that takes a row out of view, may be withheld'],
  ]) {
    await configure(settings);
    await until(hint, async () => (await told(on('hint_own')))[1] === `${hint}: ${why('hint_own')}`, { every: 50 });
  }
});

test('a view is refused, and whoever may read it is told why', async () => {
  const refused = (table) =>
    `error: Unable to subscribe to changes with given parameters. Please check Realtime is enabled for the given connect parameters: [event: *, schema: public, table: ${table}, filters: [], select: nil]`;
  for (const view of ['hint_view', 'hint_stored'])
    assert.deepEqual(await told(on(view), on('hint_open')),
      [refused(view), `hint: public.${view} is a view, and views have no changes of their own. Subscribe to the tables that it reads.`]);
  assert.deepEqual(await told(on('hint_other')), [refused('hint_other')]);
  assert.deepEqual(await told(on('hint_nothing')), [refused('hint_nothing')]);
});
