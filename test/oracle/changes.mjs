// What happens in a run: rounds of steps, each round ended by a quiet point.
//
//	{ sql: [...], rollback }	a transaction
//	{ state: true, sql: [...] }	likewise, but one that changes who may see what
//	{ token: client, claims, role }		a new token; with "changes", these
//						transactions are made meanwhile
//	...
//
// In some rounds nothing changes but rows: there the events are known exactly.

import { Random } from './random.mjs';
import { createPolicy, people, randomClaims, randomCondition, randomPolicy } from './policies.mjs';
import { ident, literal } from './sql.mjs';
import { createTable, grants, memberPolicies } from './world.mjs';

// A literal for a column
function value(random, table, column) {
  if (column.nullable && random.chance(0.12)) return 'NULL';
  if (column.big) return `repeat(md5('${random.int(1e6)}'), ${random.pick([1, 80, 160])})`;
  return `${literal(random.pick(column.values))}::${column.sqlType}`;
}

const writable = (table) => table.columns.filter((c) => !c.generated);

function insert(random, table) {
  const columns = writable(table);
  const rows = random.weighted([[6, 1], [2, 3], [0.5, 12]]);
  const lists = Array.from({ length: rows }, () => `(${columns.map((c) => value(random, table, c)).join(', ')})`);
  const conflict = table.pkey.length || table.unique ? ' ON CONFLICT DO NOTHING' : '';
  return `INSERT INTO ${table.sql} (${columns.map((c) => ident(c.name)).join(', ')}) VALUES ${lists.join(', ')}${conflict}`;
}

// Which rows a statement is about
function where(random, table) {
  const by = (name) => {
    const column = table.columns.find((c) => c.name === name);
    return `${ident(name)} = ${literal(random.pick(column.values))}::${column.sqlType}`;
  };
  return random.weighted([
    [6, () => by(random.pick(table.keys))],
    [1.5, () => `team = ${random.between(1, 4)}`],
    [1, () => `n % 3 = ${random.int(3)}`],
    [0.5, () => 'true'],
  ])();
}

// UPDATE of columns that are no key
function update(random, table) {
  const columns = writable(table).filter((c) => !table.pkey.includes(c.name) && c.name !== table.unique);
  const set = random.some(columns, random.between(1, 3)).map((c) => `${ident(c.name)} = ${value(random, table, c)}`);
  return `UPDATE ${table.sql} SET ${set.join(', ')} WHERE ${where(random, table)}`;
}

// UPDATE of a key column, or of the one that decides about the partition; it
// may fail, as real ones do
function changeKey(random, table) {
  const names = [...(table.pkey.length ? table.pkey : table.keys), ...(table.unique ? [table.unique] : [])];
  const name = random.pick(names);
  const column = table.columns.find((c) => c.name === name);
  const also = random.chance(0.3) ? `, owner = ${literal(random.pick(people))}` : '';
  const key = random.pick(table.keys);
  const keyColumn = table.columns.find((c) => c.name === key);
  return `UPDATE ${table.sql} SET ${ident(column.name)} = ${value(random, table, column)}${also} ` +
    `WHERE ${ident(key)} = ${literal(random.pick(keyColumn.values))}::${keyColumn.sqlType}`;
}

const remove = (random, table) => `DELETE FROM ${table.sql} WHERE ${where(random, table)}`;

function statement(random, table) {
  return random.weighted([[5, insert], [6, update], [1.5, changeKey], [2.5, remove]])(random, table);
}

// A transaction over the tables; "truncate" if it may empty one
function transaction(random, run, truncate) {
  const table = random.pick(run.tables);
  if (truncate && random.chance(0.03)) return { sql: [`TRUNCATE ${table.sql}`] };
  const sql = [];
  const n = random.weighted([[6, 1], [2, 2], [1, 4]]);
  for (let i = 0; i < n; i++) sql.push(statement(random, random.chance(0.8) ? table : random.pick(run.tables)));
  if (n > 1 && random.chance(0.4)) {
    const at = random.int(sql.length);
    sql.splice(at, 0, 'SAVEPOINT s', statement(random, table), random.chance(0.7) ? 'ROLLBACK TO SAVEPOINT s' : 'RELEASE SAVEPOINT s');
  }
  return { sql, rollback: random.chance(0.06) };
}

// Changes of the tables that policies read
function membership(random, run) {
  const m = `${run.schema}.members`;
  const id = random.between(1, 10);
  const team = random.between(1, 4);
  const user = literal(random.pick(people));
  return {
    state: true, reads: ['members', 'tree'],
    sql: [random.weighted([
      [3, `INSERT INTO ${m} VALUES (${id}, ${user}, ${team}, ${random.chance(0.7)}) ON CONFLICT DO NOTHING`],
      [2, `UPDATE ${m} SET team = ${team} WHERE id = ${id}`],
      [2, `UPDATE ${m} SET active = NOT active WHERE id = ${id}`],
      [2, `DELETE FROM ${m} WHERE id = ${id}`],
      [0.3, `TRUNCATE ${m}`],
      [0.5, `ALTER POLICY own ON ${m} USING (${random.pick(memberPolicies)})`],
      [0.5, `ALTER TABLE ${m} ${random.pick(['ENABLE', 'DISABLE'])} ROW LEVEL SECURITY`],
      [1, `INSERT INTO ${run.schema}.tree VALUES (${team}, ${random.between(1, 4)})`],
      [1, `DELETE FROM ${run.schema}.tree WHERE parent = ${team}`],
    ])],
  };
}

function policyChange(random, run) {
  const live = random.pick(run.live.filter((l) => l.table !== run.members));
  const existing = live.policies.length > 0 ? random.pick(live.policies) : null;
  const target = { ...live.table, name: live.name, sql: live.sql };
  const choices = [[2, () => {
    const policy = randomPolicy(random, run, target, `p${live.policyNumber++}`);
    live.policies.push(policy);
    return createPolicy(live, policy);
  }]];
  if (existing) {
    choices.push([2, () => {
      live.policies.splice(live.policies.indexOf(existing), 1);
      return `DROP POLICY ${existing.name} ON ${live.sql}`;
    }], [3, () => {
      existing.condition = randomCondition(random, run, target, existing.restrictive);
      return `ALTER POLICY ${existing.name} ON ${live.sql} USING (${existing.condition.sql})`;
    }], [1, () => {
      existing.roles = random.chance(0.5) ? null : random.some(run.roles.map((r) => r.name), 2);
      return `ALTER POLICY ${existing.name} ON ${live.sql} TO ${existing.roles ? existing.roles.join(', ') : 'PUBLIC'}`;
    }]);
  }
  choices.push([1, () => `ALTER TABLE ${live.sql} ${random.pick(['ENABLE', 'DISABLE'])} ROW LEVEL SECURITY`],
    [1, () => `ALTER TABLE ${live.sql} ${random.pick(['FORCE', 'NO FORCE'])} ROW LEVEL SECURITY`]);
  return { state: true, sql: [random.weighted(choices)()] };
}

function grantChange(random, run) {
  // Without a right on what a policy reads, the policy fails.
  if (run.failures && random.chance(0.3))
    return { state: true, sql: [`${random.pick(['REVOKE SELECT ON w.members FROM', 'GRANT SELECT ON w.members TO'])} ${random.pick(run.roles).name}`] };
  const live = random.pick(run.live.filter((l) => l.table !== run.members));
  const role = random.pick(run.roles).name;
  const columns = random.some(live.table.columns, random.between(1, 4)).map((c) => ident(c.name)).join(', ');
  return {
    state: true,
    sql: [random.weighted([
      [2, `GRANT SELECT ON ${live.sql} TO ${role}`],
      [2, `REVOKE SELECT ON ${live.sql} FROM ${role}`],
      [1, `REVOKE SELECT (${columns}) ON ${live.sql} FROM ${role}`],
      [1, `GRANT SELECT (${columns}) ON ${live.sql} TO ${role}`],
      [1, `GRANT SELECT ON ${live.sql} TO PUBLIC`],
      [1, `REVOKE SELECT ON ${live.sql} FROM PUBLIC`],
    ])],
  };
}

function roleChange(random, run) {
  const [a, b] = random.some(run.roles.slice(0, 4).map((r) => r.name), 2).sort();
  return {
    state: true,
    sql: [random.weighted([
      [2, `GRANT ${a} TO ${b}`],
      [2, `REVOKE ${a} FROM ${b}`],
      [1, `ALTER ROLE ${a} ${random.pick(['BYPASSRLS', 'NOBYPASSRLS'])}`],
    ])],
  };
}

function publicationChange(random, run) {
  const table = random.pick(run.tables);
  return { state: true, sql: [`ALTER PUBLICATION rtsync ${random.chance(0.5) ? `DROP TABLE ${table.sql}` : `ADD TABLE ${table.sql}${table.clause}`}`] };
}

// ALTER TABLE.  Only columns that no policy reads are touched, since new
// policies speak of the others by name.
function tableChange(random, run) {
  const table = random.pick(run.tables);
  const extras = table.columns.filter((c) => /^(c|Col |x)\d/.test(c.name) && !c.bytea);
  const filtered = new Set(run.clients.flatMap((c) => c.bindings).filter((b) => b.live?.table === table).flatMap((b) => b.filter?.columns ?? []));
  const column = extras.length > 0 ? random.pick(extras) : null;
  const choices = [[2, () => {
    const name = `x${run.columnNumber = (run.columnNumber ?? 0) + 1}`;
    table.columns.push({ name, type: 'int4', sqlType: 'int4', values: ['1', '2'], nullable: true });
    return `ALTER TABLE ${table.sql} ADD COLUMN ${name} int4${random.chance(0.5) ? ' DEFAULT 7' : ''}`;
  }]];
  if (table.pkey.length > 0 && !table.unique && !table.clause)
    choices.push([2, () => {
      const identity = random.pick(table.columns.some((c) => c.virtual) ? ['DEFAULT'] : ['FULL', 'DEFAULT']);
      return [table, ...(table.partitions ?? []), ...(table.heir ? [table.heir] : [])].map((t) => `ALTER TABLE ${t.sql} REPLICA IDENTITY ${identity}`);
    }]);
  if (column) {
    choices.push([2, () => {
      table.columns.splice(table.columns.indexOf(column), 1);
      return `ALTER TABLE ${table.sql} DROP COLUMN ${ident(column.name)}`;
    }], [1, () => {
      const before = column.name;
      column.name = `x${run.columnNumber = (run.columnNumber ?? 0) + 1}`;
      return `ALTER TABLE ${table.sql} RENAME COLUMN ${ident(before)} TO ${column.name}`;
    }]);
    if (!filtered.has(column.name))
      choices.push([1, () => {
        Object.assign(column, { type: 'text', sqlType: 'text', values: ['a', 'b', ''] });
        return `ALTER TABLE ${table.sql} ALTER ${ident(column.name)} TYPE text USING ${ident(column.name)}::text`;
      }]);
  }
  if (table.partitions) {
    const part = table.partitions[1];
    choices.push([1, () => {
      part.detached = !part.detached;
      return part.detached
        ? `ALTER TABLE ${table.sql} DETACH PARTITION ${part.sql}`
        : `ALTER TABLE ${table.sql} ATTACH PARTITION ${part.sql} FOR VALUES IN (${literal(part.value)})`;
    }]);
  }
  return { state: true, sql: [random.weighted(choices)()].flat() };
}

function functionChange(random, run) {
  const replace = (name, parameters, body) =>
    `CREATE OR REPLACE FUNCTION ${run.schema}.${name}(${parameters}) RETURNS bool LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN ${body}; END $$`;
  return {
    state: true,
    sql: [random.pick([
      () => replace('owns', 'owner uuid', random.pick(['owner = rtsync.uid()', 'owner IS DISTINCT FROM rtsync.uid()', 'owner IS NULL'])),
      () => replace('enough', 'n int, team int', random.pick(['n > 5', 'team = 2', "n >= (rtsync.jwt() ->> 'level')::int"])),
      () => `CREATE OR REPLACE FUNCTION ${run.schema}.inlined(o uuid) RETURNS bool LANGUAGE sql STABLE AS
        $$ SELECT ${random.pick(['o = rtsync.uid()', 'o IS NOT NULL', 'o <> rtsync.uid()'])} $$`,
    ])()],
  };
}

function stateChange(random, run) {
  return random.weighted([[4, membership], [3, policyChange], [2, grantChange], [1, roleChange], [0.7, publicationChange],
    [1.5, tableChange], [0.7, functionChange]])(random, run);
}

function operationsChange(random) {
  const list = random.pick(['insert', 'insert, update', 'insert, update, delete', 'insert, delete, truncate', ...Array(3).fill('insert, update, delete, truncate')]);
  return { state: true, sql: [`ALTER PUBLICATION rtsync SET (publish = '${list}')`] };
}

// Rows in a table that inherits from another, reached by way of either
function heirs(random, table) {
  const { heir } = table;
  const own = { ...table, sql: heir.sql, columns: table.columns.map((c) => (c.name === 'id' ? { ...c, values: heir.keys } : c)) };
  const above = { ...own, sql: table.sql };
  return {
    sql: Array.from({ length: random.between(1, 3) }, () => random.weighted([
      [3, () => insert(random, own)], [2, () => update(random, own)], [2, () => update(random, above)],
      [1, () => remove(random, own)], [1, () => remove(random, above)]])()),
  };
}

function heirChange(random, table) {
  const { heir } = table;
  heir.apart = !heir.apart;
  return { state: true, sql: [`ALTER TABLE ${heir.sql} ${heir.apart ? 'NO INHERIT' : 'INHERIT'} ${table.sql}`] };
}

// Another table takes the place of one, as when it is rebuilt.
function swap(random, run, table) {
  const live = run.live.find((l) => l.table === table);
  const gone = `${run.schema}.gone${run.goneNumber = (run.goneNumber ?? 0) + 1}`;
  const columns = writable(table).map((c) => ident(c.name)).join(', ');
  const sql = [`ALTER TABLE ${table.sql} RENAME TO ${gone.slice(run.schema.length + 1)}`, ...createTable(table),
    ...grants(random, run, table, table.sql), `ALTER TABLE ${table.sql} ENABLE ROW LEVEL SECURITY`,
    ...live.policies.map((policy) => createPolicy(live, policy))];
  if (run.roles[5].owns.includes(table.name)) sql.push(`ALTER TABLE ${table.sql} OWNER TO ${run.roles[5].name}`);
  if (random.chance(0.6)) sql.push(`INSERT INTO ${table.sql} (${columns}) SELECT ${columns} FROM ${gone} WHERE n % 3 <> ${random.int(3)}`);
  sql.push(`ALTER PUBLICATION rtsync ADD TABLE ${table.sql}`);
  if (random.chance(0.5)) sql.push(`DROP TABLE ${gone}`);
  return { state: true, sql };
}

const mayBeSwapped = (table) => !table.partitions && !table.unique && !table.heir && !table.clause;

// Steps that come besides, from choices of their own, so that a seed plays in
// all else what it always did
function addSteps(random, run, { stable, steps }) {
  const add = (step) => steps.splice(random.int(steps.length + 1), 0, step);
  if (random.chance(0.25)) {
    const client = random.pick(run.clients);
    add({
      token: client, claims: randomClaims(random), role: random.chance(0.4) ? random.pick(run.roles).name : client.role,
      changes: Array.from({ length: 3 }, () => transaction(random, run, false)),
    });
  }
  const inherited = run.tables.filter((t) => t.heir);
  if (inherited.length > 0 && random.chance(0.7)) {
    const table = random.pick(inherited);
    for (let i = random.between(1, 3); i > 0; i--) add(heirs(random, table));
    if (!stable && random.chance(0.2)) add(heirChange(random, table));
  }
  if (stable) return;
  if (random.chance(0.12)) add(operationsChange(random));
  const whole = run.tables.filter(mayBeSwapped);
  if (whole.length > 0 && random.chance(0.12)) add(swap(random, run, random.pick(whole)));
}

// Two transactions at the same time; "turns" says whose statement is next, and
// so who commits first.
function concurrent(random, run) {
  const both = [transaction(random, run, false), transaction(random, run, false)];
  const turns = random.some(both.flatMap((t, i) => t.sql.map(() => i)), 100);
  return { both, turns };
}

// First some rows, then the rounds
export function makeRounds(run) {
  const { random } = run;
  const rounds = [];
  const count = random.between(2, 4);
  run.initial = run.tables.flatMap((table) => Array.from({ length: 3 }, () => insert(random, table)));
  for (let i = 0; i < count; i++) {
    const steps = [];
    const stable = random.chance(0.5);
    const n = random.between(3, 12);
    const slow = run.slow && random.chance(0.5);
    if (slow) steps.push({ pause: run.slow }, { sql: [`INSERT INTO ${run.schema}.flood SELECT i, repeat('x', 20000) FROM generate_series(1, 800) i`] });
    for (let j = 0; j < n; j++) {
      if (!stable && random.chance(0.25)) steps.push(stateChange(random, run));
      else if (random.chance(0.12)) steps.push(concurrent(random, run));
      else steps.push(transaction(random, run, true));
      if (!slow && random.chance(0.04)) {
        const client = random.pick(run.clients);
        steps.push({ token: client, claims: randomClaims(random), role: random.chance(0.3) ? random.pick(run.roles).name : client.role });
      }
    }
    if (slow) steps.push({ resume: run.slow });
    // A client joins while rows change.
    for (const client of run.clients)
      if (client.join === i && i > 0 && client !== run.slow && random.chance(0.5)) {
        client.joinsAmid = true;
        const changes = Array.from({ length: 3 }, () => transaction(random, run, false));
        steps.splice(random.int(steps.length), 0, { join: client, changes });
      }
    rounds.push({ stable, steps });
  }
  for (const round of rounds) addSteps(run.more, run, round);
  return rounds;
}

// Some clients lose their connection and come back, in the same round.  From
// choices of their own, and when all other choices have been made
export function addDrops(run, rounds) {
  const random = new Random(run.seed + 0x0d200000);
  // Who comes back over any other change of who may see what, has to refetch.
  if (random.chance(0.4))
    rounds.push({ stable: false, steps: Array.from({ length: random.between(4, 8) }, () =>
      (random.chance(0.35) ? membership(random, run) : transaction(random, run, false))) });
  rounds.forEach(({ steps }, index) => {
    for (const client of run.clients) {
      if (!client.memory || client === run.slow || client.join > index || !random.chance(0.35)) continue;
      const at = random.int(steps.length + 1);
      const until = random.between(at, steps.length);
      const changes = Array.from({ length: random.int(4) }, () => transaction(random, run, false));
      steps.splice(until, 0, { rejoin: client, changes });
      steps.splice(at, 0, { drop: client, after: random.chance(0.4) ? 0 : random.between(1, 6) });
    }
    if (run.clients.every((client) => client.memory) && random.chance(0.7)) outage(random, run, rounds[index]);
  });
}

// All are away for a while: nobody listens then.
function outage(random, run, { stable, steps }) {
  const at = random.int(steps.length + 1);
  const until = random.between(at, Math.min(steps.length, at + 3));
  steps.splice(until, 0, ...run.clients.map((client) => ({ rejoin: client, changes: [] })));
  if (!stable) steps.splice(random.between(at, until), 0, membership(random, run));
  steps.splice(at, 0, { outage: run.clients });
}
