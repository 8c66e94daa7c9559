// Everything at once: rows, DDL, policies that fail and change, tokens that
// change, clients that vanish, a gateway that is killed.  The engine must live.
//
//	CHURN_SECONDS	how long (default 15)
//	CHURN_SEED		what happens in it

import { assert, note, sleep, test } from '../e2e/lib/tap.mjs';
import { RawClient } from '../e2e/lib/raw.mjs';
import { createRole, createTable, sql, status, token } from '../e2e/lib/server.mjs';
import { Random } from '../oracle/random.mjs';
import { gatewayPids } from './lib/cluster.mjs';

const seconds = Number(process.env.CHURN_SECONDS ?? 15);
// The same each time, unless it is to last longer
const seed = Number(process.env.CHURN_SEED ?? (process.env.CHURN_SECONDS ? Date.now() % 1_000_000 : 1));
const random = new Random(seed);
const user = (n) => `00000000-0000-4000-8000-00000000000${n}`;
const roles = ['churn_a', 'churn_b'];
const tables = ['churn1', 'churn2', 'churn3'];
const below = (n) => random.int(n);
const pick = (list) => random.pick(list);
const table = () => pick(tables);

for (const role of roles) await createRole(role);
await sql(`CREATE TABLE churn_members (member uuid, team int); GRANT SELECT ON churn_members TO ${roles};
  CREATE FUNCTION churn_team(int) RETURNS bool LANGUAGE sql STABLE AS 'SELECT $1 > 0'`);
for (const name of tables) {
  await createTable(name, 'id serial PRIMARY KEY, team int, owner uuid, body text, big text', { roles, full: name === 'churn1' });
  await sql(`ALTER TABLE ${name} ENABLE ROW LEVEL SECURITY; ALTER TABLE ${name} ALTER big SET STORAGE EXTERNAL;
    CREATE POLICY p ON ${name} FOR SELECT USING (owner = rtsync.uid()
      OR EXISTS (SELECT FROM churn_members m WHERE m.member = rtsync.uid() AND m.team = ${name}.team))`);
}

const writes = [
  () => `INSERT INTO ${table()} (team, owner, body, big)
    SELECT n % 4, '${user(below(4))}', 'b' || n, repeat('z', ${pick([10, 1500, 9000])}) FROM generate_series(1, ${1 + below(40)}) n`,
  () => `UPDATE ${table()} SET team = ${below(4)}, owner = '${user(below(4))}' WHERE id % 17 = ${below(17)}`,
  () => `DELETE FROM ${table()} WHERE id % 23 = ${below(23)}`,
  () => `INSERT INTO churn_members VALUES ('${user(below(4))}', ${below(4)})`,
  () => `DELETE FROM churn_members WHERE team = ${below(4)} AND member = '${user(below(4))}'`,
];
// Each is one transaction, and leaves none open where it fails.
const definitions = [
  () => `ALTER TABLE ${table()} ADD COLUMN IF NOT EXISTS extra int DEFAULT ${below(9)}`,
  () => `ALTER TABLE ${table()} DROP COLUMN IF EXISTS extra`,
  () => { const t = table(); return `INSERT INTO ${t} (team, owner) VALUES (2, '${user(2)}'); ALTER TABLE ${t} ADD COLUMN IF NOT EXISTS mid text; INSERT INTO ${t} (team, owner) VALUES (3, '${user(2)}')`; },
  () => `ALTER TABLE ${table()} DROP COLUMN IF EXISTS mid`,
  () => { const t = table(); return `DROP POLICY IF EXISTS q ON ${t}; CREATE POLICY q ON ${t} FOR SELECT TO churn_a USING (team = ${below(4)})`; },
  () => { const t = table(); return `DROP POLICY IF EXISTS r ON ${t}; CREATE POLICY r ON ${t} AS RESTRICTIVE FOR SELECT USING (churn_team(team) AND 10 / (team + ${below(2)}) > 0)`; },
  () => `DROP POLICY IF EXISTS ${pick(['q', 'r'])} ON ${table()}`,
  () => { const t = table(); return `REVOKE SELECT ON ${t} FROM churn_b; GRANT SELECT (id, team) ON ${t} TO churn_b`; },
  () => `GRANT SELECT ON ${table()} TO churn_b`,
  () => `TRUNCATE ${table()}`,
  () => `ALTER TABLE ${table()} REPLICA IDENTITY ${pick(['FULL', 'DEFAULT'])}`,
  () => { const t = table(); return `ALTER PUBLICATION rtsync DROP TABLE ${t}; ALTER PUBLICATION rtsync ADD TABLE ${t} ${pick(['', 'WHERE (id > 3)', 'WHERE (1 / (id % 5) >= 0)'])}`; },
  () => `CREATE OR REPLACE FUNCTION churn_team(int) RETURNS bool LANGUAGE sql STABLE AS 'SELECT $1 > ${below(5)}'`,
  () => `ALTER TABLE ${table()} ALTER body TYPE ${pick(['text', 'varchar(40)'])}`,
  () => { const t = table(); return `ALTER TABLE ${t} RENAME TO ${t}_x; ALTER TABLE ${t}_x RENAME TO ${t}`; },
  () => `VACUUM FULL ${table()}`,
];

let over = false;
const counts = { statements: 0, failed: 0, joins: 0, kills: 0 };

async function run(list, ms) {
  while (!over) {
    await sql(pick(list)()).then(() => counts.statements++, () => counts.failed++);
    await sleep(below(ms));
  }
}

const binding = () => ({
  event: pick(['*', 'INSERT', 'UPDATE', 'DELETE']), schema: 'public', ...(below(4) ? { table: table() } : {}),
});
const costly = () => ({
  event: '*', schema: 'public', table: table(),
  ...pick([{ filter: pick(['team=eq.1', 'id=gt.5', 'body=like.b%', 'nope=eq.1']) },
    { rtsync: pick([{ view: true }, { where: 'team > 1 OR body IS NULL' }, { where: '1 / team = 1' }]) }]),
});

async function come() {
  while (!over) {
    try {
      const client = await RawClient.open({ apikey: token(pick(roles), { sub: user(below(4)) }) });
      for (let k = 0; k < 4; k++) {
        const reply = await client.join(`t${k}`, [binding(), costly()], { config: { rtsync: { cursor: true } } });
        if (reply.status === 'ok') counts.joins++;
      }
      if (below(3) === 0) {
        client.socket.pause();
        await sleep(below(2000));
        client.socket.resume();
      }
      await sleep(below(1000));
      for (let k = 0; k < 4; k++)
        client.send(`realtime:t${k}`, 'access_token', { access_token: token(pick(roles), { sub: user(below(4)), n: below(100) }) }, String(k + 1));
      await sleep(below(1000));
      client.close();
    } catch {
      await sleep(100); // the gateway was killed
    }
  }
}

async function kill() {
  while (!over) {
    await sleep(4000);
    const [pid] = await gatewayPids();
    try {
      process.kill(pid, 'SIGKILL');
      counts.kills++;
    } catch {
      // it is just being started
    }
  }
}

test(`the engine outlives ${seconds} s of everything at once`, async () => {
  const before = await status();
  const all = [run(writes, 20), run(writes, 20), run(definitions, 100), kill(), ...Array.from({ length: 8 }, come)];
  await sleep(seconds * 1000);
  over = true;
  await Promise.all(all);
  const after = await status();
  note(JSON.stringify({ seed, ...counts, events: after.events, policy_errors: after.policy_errors }));
  assert.equal(after.pid, before.pid, 'the engine is the same process');
}, { timeout: (seconds + 180) * 1000 });
