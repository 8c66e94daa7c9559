// Whoever holds a lock delays nobody but those who need what is locked: a
// bystander on another table gets its events meanwhile.

import { assert, atEnd, test, until } from './lib/tap.mjs';
import { RawClient } from './lib/raw.mjs';
import { createRole, createTable, pg, sql, status, token } from './lib/server.mjs';

// The engine waits for a lock for moments only.  Where it waited, it took 3,000 ms
// and more; an event may take as long because the machine is busy, but then the
// engine is not seen to wait for a lock all the time.
const LIMIT = 2_500;
const WAITS = 1_500;
const roles = ['locks_reader', 'locks_other', 'locks_third'];
for (const role of roles) await createRole(role);
await createTable('locks_calm', 'id int PRIMARY KEY', { roles });
await createTable('locks_held', 'id int PRIMARY KEY, a int', { roles });
await createTable('locks_members', 'uid text PRIMARY KEY', { roles });
await createTable('locks_guarded', 'id int PRIMARY KEY', { roles });
await sql(`ALTER TABLE locks_guarded ENABLE ROW LEVEL SECURITY;
  CREATE POLICY members ON locks_guarded USING (EXISTS (SELECT FROM locks_members m WHERE m.uid = rtsync.jwt() ->> 'sub'))`);
const apikey = token('locks_reader', { sub: 'ann' });
const on = (table, more = {}) => ({ event: '*', schema: 'public', table, ...more });
const open = async (key = apikey) => {
  const client = await RawClient.open({ apikey: key });
  atEnd(() => client.close());
  return client;
};

const bystander = await open();
await bystander.joinOk('calm', [on('locks_calm')]);
let last = 0;
async function undisturbed(what) {
  const id = ++last;
  const { pid } = await status();
  const start = performance.now();
  let before = start;
  let waiting = false;
  let waits = 0; // ms that the engine was seen to wait for a lock
  await sql(`INSERT INTO locks_calm VALUES (${id})`);
  await until(`the bystander's row, ${what}`, async () => {
    if (bystander.changes('calm').some(({ record }) => record.id === id)) return true;
    const [{ wait_event_type: type }] = await sql('SELECT wait_event_type FROM pg_stat_activity WHERE pid = $1', [pid]);
    const now = performance.now();
    if (waiting && type === 'Lock') waits += now - before;
    waiting = type === 'Lock';
    before = now;
    return false;
  });
  const ms = performance.now() - start;
  assert.ok(ms < LIMIT || waits < WAITS, `${what}: the bystander had to wait for ${Math.round(ms)} ms, the engine ${Math.round(waits)} ms for locks`);
  return ms;
}

// Holds a lock while something is done.
async function holding(table, use) {
  const connection = new pg.Client();
  await connection.connect();
  await connection.query('BEGIN');
  await connection.query(`LOCK TABLE ${table} IN ACCESS EXCLUSIVE MODE`);
  try {
    return await use();
  } finally {
    await connection.query('ROLLBACK');
    await connection.end();
  }
}

test('a join to a locked table is refused at once, and succeeds when its client tries again', async () => {
  const client = await open();
  await holding('locks_held', async () => {
    const bindings = Array.from({ length: 10 }, (_, i) => on('locks_held', { filter: `a=eq.${i}` }));
    const answer = client.join('held', bindings);
    await undisturbed('somebody joins');
    const { status, response } = await answer;
    assert.equal(status, 'error');
    assert.match(response.reason, /^UnableToSubscribeToPostgres: .*table "public.locks_held" is locked$/);
  });
  await client.joinOk('held', [on('locks_held')]);
  await sql('INSERT INTO locks_held VALUES (1, 1)');
  await until('its events', () => client.changes('held').length === 1);
});

test('a new token is taken while the table is locked, and the subscription goes on', async () => {
  const client = await open();
  await client.joinOk('token', [on('locks_held')]);
  await holding('locks_held', async () => {
    client.frames.length = 0;
    client.send('realtime:token', 'access_token', { access_token: token('locks_reader', { sub: 'ann', n: 2 }) }, '1');
    await undisturbed('a token comes');
    await client.heartbeat();
    assert.deepEqual(client.frames.filter((f) => f.event === 'system' && f.payload.status === 'error'), []);
  });
  await sql('INSERT INTO locks_held VALUES (2, 1)');
  await until('its events', () => client.changes('token').some(({ record }) => record.id === 2));
});

test('catalog changes while a table is locked that many roles listen to, or that policies read', async () => {
  const clients = [];
  for (const role of roles) {
    clients.push(await open(token(role, { sub: 'ann' })));
    await clients.at(-1).joinOk('held', [on('locks_held'), on('locks_guarded')]);
  }
  const change = () => sql('CREATE TEMP TABLE IF NOT EXISTS t (); DROP TABLE t; CREATE ROLE locks_new; DROP ROLE locks_new');
  for (const table of ['locks_held', 'locks_members'])
    await holding(table, async () => {
      for (let i = 0; i < 3; i++) {
        await change();
        await undisturbed(`the catalogs change, ${table} is locked`);
      }
    });
});

// The policies of three roles read what is locked, and so do those of a
// function, of which that cannot be known.
test('changes that need a locked table are withheld, and their subscribers told to refetch', async () => {
  await sql(`CREATE FUNCTION locks_hidden() RETURNS bool LANGUAGE plpgsql STABLE SECURITY DEFINER AS
      'BEGIN RETURN EXISTS (SELECT FROM locks_members); END';
    INSERT INTO locks_members VALUES ('ann')`);
  await createTable('locks_opaque', 'id int PRIMARY KEY', { roles });
  await sql(`ALTER TABLE locks_opaque ENABLE ROW LEVEL SECURITY; CREATE POLICY f ON locks_opaque USING (locks_hidden())`);
  const clients = [];
  for (const role of roles) {
    clients.push(await open(token(role, { sub: 'ann' })));
    await clients.at(-1).joinOk('guarded', [on('locks_guarded')]);
  }
  const opaque = await open(token(roles[0], { sub: 'ann' }));
  await opaque.joinOk('opaque', [on('locks_opaque')]);
  const got = (client, topic, id) => client.changes(topic).some(({ record }) => record.id === id);
  const systems = (client) => client.frames.filter(({ event }) => event === 'system').map(({ payload }) => payload);
  await sql('INSERT INTO locks_guarded VALUES (1); INSERT INTO locks_opaque VALUES (1)');
  await until('the first rows', () => clients.every((client) => got(client, 'guarded', 1)) && got(opaque, 'opaque', 1));

  let worst = 0;
  await holding('locks_members', async () => {
    for (let id = 11; id < 15; id++) {
      await sql(`INSERT INTO locks_guarded VALUES (${id}); INSERT INTO locks_opaque VALUES (${id})`);
      worst = Math.max(worst, await undisturbed('the members are locked'));
    }
    for (const client of clients)
      await until('it to be told', () => systems(client).some(({ status, message }) => status === 'error' && /withheld.*locked/.test(message)));
    await undisturbed('the members are locked');
  });
  console.log(`# at most ${Math.round(worst)} ms`);
  for (const client of clients)
    await until('the refetch', () => systems(client).some(({ status, message }) => status === 'refetch' && /locked/.test(message)));
  await sql('INSERT INTO locks_guarded VALUES (21)');
  await until('the next row', () => clients.every((client) => got(client, 'guarded', 21)));
  let id = 100;
  await until('the function to be asked again', async () => {
    await sql(`INSERT INTO locks_opaque VALUES (${id++})`);
    return opaque.changes('opaque').some(({ record }) => record.id >= 100);
  }, { every: 50 });
});

test('no cursor goes past what is withheld', async () => {
  const bindings = [on('locks_calm'), on('locks_guarded')];
  const client = await open();
  await client.joinOk('both', bindings, { config: { rtsync: { cursor: true } } });
  const [id, withheld] = [++last, 35];
  const cursors = (f) => f.payload?.rtsync?.cursor && f.event !== 'phx_reply';
  await holding('locks_members', async () => {
    const writer = new pg.Client();
    await writer.connect();
    await writer.query('BEGIN');
    await writer.query(`INSERT INTO locks_calm VALUES (${id})`);
    await writer.query(`INSERT INTO locks_guarded VALUES (${withheld})`);
    await writer.query('COMMIT');
    await writer.end();
    await client.frame('the end', ({ payload }) => payload?.status === 'commit');
    client.close();
  });
  const { payload: { rtsync: { cursor } } } = client.frames.filter(cursors).at(-1);
  const again = await open();
  const { response } = await again.joinOk('both', bindings, { config: { rtsync: { since: cursor } } });
  assert.equal(response.rtsync.resumed, false, cursor);
  assert.match(response.rtsync.refetch, /^access to tables at the cursor is not known$/);
});

test('a lock that lasts a moment costs nobody anything', async () => {
  const client = await open(token(roles[1], { sub: 'ann' }));
  await client.joinOk('moment', [on('locks_guarded')]);
  await holding('locks_members', () => sql('INSERT INTO locks_guarded VALUES (31)'));
  await until('its row, or a refetch', () => client.changes('moment').length === 1 ||
    client.frames.some(({ payload }) => payload?.status === 'refetch'));
});

test('API keys, while their table is locked', async () => {
  const [{ key }] = await sql("SELECT rtsync.create_api_key('locks_reader', 'locks') AS key");
  await holding('rtsync.api_keys', async () => {
    const client = new RawClient({ apikey: key });
    client.opened.then(() => client.close(), () => {});
    await undisturbed('a client comes with a key');
  });
  await until('the key to count', () => open(key).then(() => true, () => false));
  await sql("SELECT rtsync.revoke_api_key('locks')");
});
