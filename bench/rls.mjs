// Changes per second through decoding, decision, JSON and link, with more and
// more subscriptions of distinct claims, for row security of several shapes;
// and beside it the same decision by selecting the row again for each
// subscriber with a prepared statement, as Supabase's SQL does it.
//
// Each change is seen by one subscriber, or where subscribers have groups in
// common, by ten.  Of several ways to write the same policy, the slowest
// counts.  The engine is held (SIGSTOP) while a backlog is written, then timed
// from the moment it goes on until a client of another table receives a row
// committed behind the backlog.
//
// How flat the rates are is measured by itself at the end, in rounds that
// alternate between the smallest and the largest number: each way of writing
// is compared with itself, the best round of the one with the best round of
// the other, for other work on the machine only ever slows.  The figure is the
// least flat way's.

import { RawClient } from '../test/e2e/lib/raw.mjs';
import { Channels } from './lib/channels.mjs';
import { cpuTime, createRole, createTable, database, figure, gatewayPids, hostname, port, running, sleep, sql, status, token, until } from './lib/measure.mjs';

const COUNTS = (process.env.COUNTS ?? '10 100 1000 10000 100000').split(' ').map(Number);
const WANTED = new RegExp(process.env.SHAPES ?? ''); // part of the line it prints
const MOST = Math.max(...COUNTS);
const GROUP = 10; // subscribers with an organisation in common
const TARGET_MS = Number(process.env.TARGET_MS ?? 600); // a measurement should last about that long
const MOST_CHANGES = 100 * TARGET_MS;
const ROWS = 20_000; // that can be selected again
const ROUNDS = Number(process.env.ROUNDS ?? 3); // of the comparison of few and many

const SHAPES = {
  'owner = rtsync.uid()': { shape: 'owner', policy: 'owner = rtsync.uid()' },
  'owner = (select rtsync.uid())': { shape: 'owner', policy: 'owner = (SELECT rtsync.uid())' },
  "owner = (rtsync.jwt() ->> 'sub')::uuid": { shape: 'owner', policy: "owner = (rtsync.jwt() ->> 'sub')::uuid" },
  'owner = current_setting(...)': {
    shape: 'owner', policy: "owner = (current_setting('request.jwt.claims', true)::jsonb ->> 'sub')::uuid",
  },
  'exists (select from members ...)': {
    shape: 'exists', policy: 'EXISTS (SELECT FROM members m WHERE m.org = items.org AND m.uid = (SELECT rtsync.uid()))',
  },
  "(rtsync.jwt() -> 'orgs') ? org::text": { shape: 'array', policy: "(rtsync.jwt() -> 'orgs') ? org::text" },
  'owner = a plpgsql function': { shape: 'opaque', policy: 'owner = opaque_uid()' },
};

const hex = (i) => i.toString(16).padStart(12, '0');
const uid = (i) => `00000000-0000-4000-8000-${hex(i)}`;
const claims = (i) => ({ role: 'member', sub: uid(i), orgs: [String(Math.floor(i / GROUP)), 'a', 'b'] });
const tokens = [];
const tokenOf = (i) => (tokens[i] ??= token('member', claims(i)));

await createRole('member');
await createRole('watcher');
await createTable('sentinel', 'id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY', { roles: ['watcher'] });
await createTable('items', 'id bigserial PRIMARY KEY, owner uuid, org int, body text', { roles: ['member'] });
await sql('ALTER SYSTEM SET synchronous_commit = off');
await sql('SELECT pg_reload_conf()');
await sql(`
  CREATE TABLE members (uid uuid, org int, PRIMARY KEY (uid, org));
  INSERT INTO members SELECT ('00000000-0000-4000-8000-' || lpad(to_hex(i), 12, '0'))::uuid, i / ${GROUP}
    FROM generate_series(0, ${MOST - 1}) i;
  CREATE INDEX ON members (org);
  ANALYZE members;
  GRANT SELECT ON members TO member;
  CREATE FUNCTION opaque_uid() RETURNS uuid LANGUAGE plpgsql STABLE AS
    $$ BEGIN RETURN current_setting('request.jwt.claims', true)::jsonb ->> 'sub'; END $$;
  ALTER TABLE items ENABLE ROW LEVEL SECURITY;
  CREATE POLICY shape ON items FOR SELECT USING (false);

  CREATE PROCEDURE write_items(changes int, subscribers int) LANGUAGE plpgsql AS $$
  BEGIN
    FOR n IN 1 .. changes LOOP
      INSERT INTO items (owner, org, body)
        VALUES (('00000000-0000-4000-8000-' || lpad(to_hex((n * 7919::bigint) % subscribers), 12, '0'))::uuid,
                ((n * 7919::bigint) % subscribers) / ${GROUP}, repeat('x', 100));
      IF n % 10 = 0 THEN COMMIT; END IF;
    END LOOP;
  END $$;

  -- For each change and subscriber: be it, run the prepared statement.
  CREATE FUNCTION reselect(ids bigint[], subscribers int) RETURNS bigint LANGUAGE plpgsql AS $$
  DECLARE
    claims text[] := (SELECT array_agg(json_build_object('role', 'member',
      'sub', '00000000-0000-4000-8000-' || lpad(to_hex(i), 12, '0'), 'orgs', json_build_array((i / ${GROUP})::text, 'a', 'b'))::text)
      FROM generate_series(0, subscribers - 1) i);
    visible bool;
    seen bigint := 0;
    it bigint;
  BEGIN
    PERFORM set_config('role', 'member', true);
    FOREACH it IN ARRAY ids LOOP
      FOR i IN 1 .. subscribers LOOP
        PERFORM set_config('request.jwt.claims', claims[i], true);
        EXECUTE format('EXECUTE reselect_one(%s)', it) INTO visible;
        seen := seen + visible::int;
      END LOOP;
    END LOOP;
    PERFORM set_config('role', 'none', true);
    RETURN seen;
  END $$;
`);

const newChannels = () => new Channels(hostname, port, [{ event: '*', schema: 'public', table: 'items' }]);
let channels = newChannels();
const watcher = await RawClient.open({ apikey: token('watcher') });
await watcher.joinOk('sentinel', [{ event: 'INSERT', schema: 'public', table: 'sentinel' }]);

// Commits a row behind all that was written so far, and has it in the WAL.
async function mark() {
  const [{ id }] = await sql('INSERT INTO sentinel DEFAULT VALUES RETURNING id');
  await sql('SELECT pg_switch_wal()');
  return id;
}

// Waits until the watcher has it: all before it has been routed, to everybody.
function arrival(id) {
  return until('the sentinel', () => {
    const frame = watcher.frames.find((f) => f.payload?.data?.record?.id === id);
    if (frame) watcher.frames.length = 0;
    return frame?.at;
  }, { timeout: 300_000, every: 1 });
}

const settle = async () => arrival(await mark());

// Has n channels joined anew, and nobody else.
async function rejoin(n) {
  channels.close();
  await until('the others to leave', async () => Number((await status()).channels) === 1); // the watcher's stays
  channels = newChannels();
  await channels.grow(n, tokenOf);
}

// Seconds that the engine takes for these changes, and the CPU time that it
// and the gateway need, in microseconds
async function ours(changes, subscribers) {
  const { pid } = await status();
  const [gateway] = await gatewayPids();
  process.kill(pid, 'SIGSTOP');
  await sql(`CALL write_items(${changes}, ${subscribers})`);
  const id = await mark();
  await sleep(100);
  const bytes = channels.bytes;
  const cpu = await cpuTime(pid);
  const gatewayCpu = await cpuTime(gateway);
  const start = performance.now();
  process.kill(pid, 'SIGCONT');
  const seconds = (await arrival(id) - start) / 1000;
  const used = await cpuTime(pid) - cpu;
  const gatewayUsed = await cpuTime(gateway) - gatewayCpu;
  if ((await status()).pid !== pid) throw new Error('the engine was started anew');
  return { seconds, used, gatewayUsed, bytes: channels.bytes - bytes };
}

// Changes per second, the better of two; how many changes that takes is found
// by trying
async function measureOurs(subscribers) {
  let changes = Math.max(1, Math.min(1000, Math.round(20_000 / subscribers)));
  let result = await ours(changes, subscribers);
  for (let i = 0; i < 5 && result.seconds * 1000 < TARGET_MS / 2 && changes < MOST_CHANGES; i++) {
    changes = Math.min(MOST_CHANGES, Math.ceil(changes * Math.min(50, TARGET_MS / (result.seconds * 1000))));
    result = await ours(changes, subscribers);
  }
  // once more: other work on the machine, a vacuum for one, only ever slows
  if (result.seconds < 1) {
    const again = await ours(changes, subscribers);
    if (again.seconds < result.seconds) result = again;
  }
  return { changes, rate: changes / result.seconds, cpu: result.used / changes, gatewayCpu: result.gatewayUsed / changes, bytes: result.bytes / changes };
}

// The same decision, by selecting the row again
async function measureReselect(subscribers, connection) {
  const changes = Math.max(1, Math.min(ROWS, Math.round(40_000 / subscribers)));
  const { rows } = await connection.query(`SELECT array_agg(id) AS ids FROM
    (SELECT id FROM items WHERE id <= ${ROWS} ORDER BY (id * 7919) % ${ROWS} LIMIT ${changes}) x`);
  const start = performance.now();
  const seen = (await connection.query('SELECT reselect($1, $2) AS seen', [rows[0].ids, subscribers])).rows[0].seen;
  return { rate: changes / ((performance.now() - start) / 1000), perChange: seen / changes };
}

async function usePolicy(policy, subscribers) {
  await sql(`ALTER POLICY shape ON items USING (${policy})`);
  await settle();
  await ours(1, subscribers); // so that everything is compiled
}

// The figures, by shape and number
const results = {};

console.log('subscribers  changes/s  engine us/change  gateway us/change  bytes/change  seen by   re-select/s   ratio  policy');
await running();
for (const n of COUNTS) {
  await sql("ALTER POLICY shape ON items USING (owner = rtsync.uid())");
  const start = performance.now();
  const before = channels.count;
  await channels.grow(n, tokenOf);
  const took = (performance.now() - start) / 1000;
  console.log(`${n}: joined ${((n - before) / took).toFixed(0)} a second`);
  await sql('TRUNCATE items RESTART IDENTITY');
  await sql(`CALL write_items(${ROWS}, ${n})`);
  await sql('ANALYZE items');
  await settle();
  for (const [name, { shape, policy }] of Object.entries(SHAPES)) {
    if (!WANTED.test(name)) continue;
    await usePolicy(policy, n);
    const mine = await measureOurs(n);
    const connection = await database.connect();
    let theirs;
    try {
      await connection.query('PREPARE reselect_one(bigint) AS SELECT EXISTS (SELECT FROM items WHERE id = $1)');
      theirs = await measureReselect(n, connection);
    } finally {
      await connection.query('DEALLOCATE ALL');
      connection.release();
    }
    const ratio = mine.rate / theirs.rate;
    console.log(`${String(n).padStart(11)} ${mine.rate.toFixed(1).padStart(10)} ${mine.cpu.toFixed(1).padStart(17)} ${mine.gatewayCpu.toFixed(1).padStart(18)} ${mine.bytes.toFixed(0).padStart(13)} ${theirs.perChange.toFixed(1).padStart(8)} ` +
      `${theirs.rate.toFixed(2).padStart(13)} ${ratio.toFixed(1).padStart(7)}  ${name}`);
    const worst = ((results[shape] ??= {})[n] ??= { rate: Infinity, ratio: Infinity });
    worst.rate = Math.min(worst.rate, mine.rate);
    worst.ratio = Math.min(worst.ratio, ratio);
  }
}

// The best rates and the least CPU times of each way, with few and with many
async function compare(few, many) {
  const ways = Object.entries(SHAPES).filter(([name, { shape }]) => shape === 'owner' && WANTED.test(name));
  const best = new Map(ways.map(([name]) => [name, {}]));
  for (let round = 0; round < ROUNDS; round++)
    for (const n of [few, many]) {
      await rejoin(n);
      for (const [name, { policy }] of ways) {
        await usePolicy(policy, n);
        const mine = await measureOurs(n);
        const most = (best.get(name)[n] ??= mine);
        most.rate = Math.max(most.rate, mine.rate);
        most.cpu = Math.min(most.cpu, mine.cpu);
        most.gatewayCpu = Math.min(most.gatewayCpu, mine.gatewayCpu);
      }
    }
  return best;
}

const FEW = COUNTS[0];
if (results.owner && FEW < MOST) {
  console.log(`of ${ROUNDS} rounds with ${FEW} and with ${MOST} subscribers, the best:`);
  let flatness = Infinity;
  for (const n of [FEW, MOST]) results.owner[n].rate = Infinity;
  for (const [name, best] of await compare(FEW, MOST)) {
    const [few, many] = [best[FEW], best[MOST]];
    const flat = many.rate / few.rate;
    const cost = ({ cpu, gatewayCpu }) => `${cpu.toFixed(2)} + ${gatewayCpu.toFixed(2)} us`;
    console.log(`  ${name}: ${few.rate.toFixed(0)} and ${many.rate.toFixed(0)} changes/s, flatness ${flat.toFixed(2)}; ` +
      `CPU of engine and gateway a change ${cost(few)} and ${cost(many)}`);
    flatness = Math.min(flatness, flat);
    for (const n of [FEW, MOST]) results.owner[n].rate = Math.min(results.owner[n].rate, best[n].rate);
  }
  figure('rls.owner.flatness', flatness);
}

// Where the claims decide nothing, all tokens of a role are one group: what
// the engine takes for a change that everybody sees, with one and with many.
// (What it takes for a backlog of none is taken off.)
const COMMON = 10_000;
if (WANTED.test('true') && MOST >= COMMON) {
  await sql('ALTER POLICY shape ON items USING (true)');
  for (const [n, changes] of [[1, 20_000], [COMMON, 500]]) {
    await rejoin(n);
    await ours(1, n);
    const none = await ours(1, n);
    const all = await ours(changes + 1, n);
    const engine = Math.max(0, all.used - none.used) / changes;
    const gateway = (all.gatewayUsed - none.gatewayUsed) / changes / n;
    console.log(`true: a change for ${n} tokens takes ${engine.toFixed(2)} us of the engine and ${gateway.toFixed(2)} us of the gateway ` +
      `for each of them; ${(await status()).groups} groups`);
    figure(`rls.common.${n}.engine_us_per_change`, engine);
  }
}
for (const [shape, byCount] of Object.entries(results))
  for (const [n, { rate, ratio }] of Object.entries(byCount)) {
    figure(`rls.${shape}.${n}.changes_per_s`, rate, rate < 100 ? 2 : 0);
    figure(`rls.${shape}.${n}.ratio_to_reselect`, ratio, 1);
  }
channels.close();
watcher.close();
process.exit(0);
