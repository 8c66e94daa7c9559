// The world of a run: tables, roles, policies, and the clients that listen.
//
// Everything follows from the seed; nothing here talks to the server.
//
// A table has always the columns that policies speak of (owner, team, flag,
// label, n), besides its key and a few of any type.  What is published is a
// "live" table: a table as which changes appear, so with
// publish_via_partition_root off each partition, and else the root.

import { randomFilter, randomWhere } from './filters.mjs';
import { createPolicy, people, policyFunctions, randomClaims, randomPolicy } from './policies.mjs';
import { Random } from './random.mjs';
import { ident, literal } from './sql.mjs';
import { keyTypes, schemaTypes, typeNamed, types } from './types.mjs';

const regions = ['eu', 'us', 'asia'];
const labels = ['a', 'b', 'ab', 'abc', '7', 'x y'];

// Values for a key column: enough that rows do not collide all the time
function keyValues(type) {
  const number = (n) => Array.from({ length: n }, (_, i) => i + 1);
  switch (type) {
    case 'int4': case 'int8': return number(14).map(String);
    case 'numeric(8,2)': return number(10).map((i) => `${i}.50`);
    case 'text': case 'varchar(12)': return ['a', 'b', 'k,1', 'k"2', "k'3", 'ü4', 'K5', 'k 6', 'k7', 'k8'];
    case 'uuid': return number(10).map((i) => `00000000-0000-4000-9000-0000000000${i + 10}`);
    case 'date': return number(10).map((i) => `2026-02-${i + 10}`);
    default: return typeNamed(type).values;
  }
}

function column(run, name, type, more = {}) {
  const known = typeNamed(type);
  return {
    name,
    type,
    sqlType: known?.schema ? `${run.schema}.${type}` : type,
    values: known?.values,
    bytea: known?.bytea,
    nullable: true,
    ...more,
  };
}

function policyColumns(run) {
  return [
    column(run, 'owner', 'uuid', { values: people }),
    column(run, 'team', 'int4', { values: ['1', '2', '3', '4'] }),
    column(run, 'flag', 'bool'),
    column(run, 'label', 'text', { values: [...labels, ...run.roles.slice(0, 2).map((r) => r.name)] }),
    column(run, 'n', 'int4', { values: ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9'] }),
  ];
}

function keyColumns(random, run) {
  const n = random.weighted([[7, 1], [3, 2]]);
  if (n === 1 && random.chance(0.6)) return [column(run, 'id', 'int4', { nullable: false, values: keyValues('int4') })];
  return Array.from({ length: n }, (_, i) => {
    const type = random.pick(keyTypes);
    return column(run, i === 0 ? 'id' : 'id2', type, { nullable: false, values: keyValues(type) });
  });
}

function randomTable(random, run, index) {
  const name = random.chance(0.15) ? `T${index}` : `t${index}`;
  const keyed = random.chance(0.88);
  const keys = keyColumns(random, run);
  const table = {
    name,
    sql: `${run.schema}.${ident(name)}`,
    columns: [...keys, ...policyColumns(run)],
    keys: keys.map((c) => c.name),
    pkey: keyed ? keys.map((c) => c.name) : [],
    unique: null,
    partitions: null,
    identity: random.weighted([[5, 'default'], [6, 'full'], [1.5, 'index']]),
    big: null,
  };
  if (random.chance(0.2)) {
    table.columns.push(column(run, 'region', 'text', { nullable: false, values: regions }));
    if (keyed) table.pkey.push('region');
    table.partitions = ['eu', 'us', null].map((value) => ({
      name: `${name}_${value ?? 'rest'}`,
      sql: `${run.schema}.${ident(`${name}_${value ?? 'rest'}`)}`,
      value,
    }));
  }
  const extras = random.between(0, 3);
  for (let i = 0; i < extras; i++) {
    const type = random.pick(types);
    table.columns.push(column(run, random.chance(0.2) ? `Col ${i}` : `c${i}`, type.name));
  }
  if (random.chance(0.25)) {
    table.big = 'big';
    table.columns.push(column(run, 'big', 'text', { values: null, big: true }));
  }
  if (random.chance(0.2))
    table.columns.push(column(run, 'twice', 'int4', { generated: 'n * 2', values: ['0', '2', '6'] }));
  if (table.identity === 'index') {
    if (table.partitions) table.identity = 'default';
    else {
      table.unique = 'code';
      table.columns.push(column(run, 'code', 'int4', { nullable: false, values: Array.from({ length: 40 }, (_, i) => `${i + 100}`) }));
    }
  }
  if (!keyed && table.identity === 'default') table.identity = random.chance(0.5) ? 'full' : 'default';
  // No identity may have a virtual column.
  const generated = table.columns.find((c) => c.generated);
  if (run.features.virtual && generated && table.identity !== 'full') generated.virtual = run.more.chance(0.7);
  if (random.chance(0.3)) table.columns = random.some(table.columns, table.columns.length);
  return table;
}

// CREATE TABLE and what goes with it
export function createTable(table) {
  const columns = table.columns.map((c) =>
    `${ident(c.name)} ${c.sqlType}${c.nullable ? '' : ' NOT NULL'}` +
    (c.generated ? ` GENERATED ALWAYS AS (${c.generated}) ${c.virtual ? 'VIRTUAL' : 'STORED'}` : ''));
  if (table.pkey.length) columns.push(`PRIMARY KEY (${table.pkey.map(ident).join(', ')})`);
  const sql = [`CREATE TABLE ${table.sql} (${columns.join(', ')})${table.partitions ? ' PARTITION BY LIST (region)' : ''}`];
  for (const part of table.partitions ?? [])
    sql.push(`CREATE TABLE ${part.sql} PARTITION OF ${table.sql} ${part.value ? `FOR VALUES IN (${literal(part.value)})` : 'DEFAULT'}`);
  if (table.unique) sql.push(`CREATE UNIQUE INDEX ${ident(`${table.name}_code`)} ON ${table.sql} (code)`);
  for (const relation of [table, ...(table.partitions ?? [])]) {
    sql.push(replicaIdentity(table, relation.sql));
    if (table.big) sql.push(`ALTER TABLE ${relation.sql} ALTER big SET STORAGE EXTERNAL`);
  }
  return [...sql, ...createTriggers(table)];
}

const createTriggers = (table) => [
  `CREATE TRIGGER note AFTER INSERT OR UPDATE OR DELETE ON ${table.sql} FOR EACH ROW EXECUTE FUNCTION oracle.note()`,
  `CREATE TRIGGER note_truncate AFTER TRUNCATE ON ${table.sql} EXECUTE FUNCTION oracle.note()`,
];

// A table that inherits from it, with keys of its own
function createHeir(run, table) {
  const name = `${table.name}_heir`;
  table.heir = { name, sql: `${run.schema}.${ident(name)}`, keys: keyValues('int4').map((n) => `10${n}`) };
  return [`CREATE TABLE ${table.heir.sql} (PRIMARY KEY (id)) INHERITS (${table.sql})`,
    replicaIdentity(table, table.heir.sql), ...createTriggers(table.heir)];
}

// Can it have one?  A row in it is found by its key alone.
const mayHaveHeir = (table) => !table.partitions && !table.unique && !table.big && !table.clause &&
  table.pkey.length === 1 && table.columns.find((c) => c.name === 'id').type === 'int4';

export function replicaIdentity(table, relation) {
  const identity = table.identity === 'index' ? `USING INDEX ${ident(`${table.name}_code`)}` : table.identity.toUpperCase();
  return `ALTER TABLE ${relation} REPLICA IDENTITY ${identity}`;
}

// What the publication says of a table besides its name: a list of columns or a
// row filter.  Both must suit the replica identity, or UPDATEs fail.
function publicationClause(random, run, table) {
  if ((table.partitions && !run.viaRoot) || random.chance(0.85)) return '';
  if (table.identity === 'full' && random.chance(0.6))
    return ` WHERE (${random.pick(['n > 2 OR n IS NULL', 'team <> 1', 'flag IS NOT TRUE', 'n % 2 = 0'])})`;
  if (table.identity === 'full' || table.columns.some((c) => c.generated)) return '';
  const must = [...table.pkey, ...(table.unique ? [table.unique] : [])];
  if (random.chance(0.4) && table.pkey.length > 0 && table.identity === 'default' && table.columns.find((c) => c.name === 'id').type === 'int4') return ' WHERE (id > 4)';
  return ` (${[...new Set([...must, 'owner', ...random.some(table.columns.map((c) => c.name), 3)])].map(ident).join(', ')})`;
}

// SELECT rights, on the table or on some of its columns
export function grants(random, run, table, relation) {
  const sql = [];
  for (const role of run.roles) {
    const what = random.weighted([[7, 'all'], [2, 'some'], [1, 'none']]);
    if (what === 'none' || role.owns.includes(table.name)) continue;
    const names = what === 'all' ? null :
      table.columns.filter((c) => (table.pkey.includes(c.name) ? random.chance(0.9) : random.chance(0.6))).map((c) => ident(c.name));
    if (names?.length === 0) continue;
    sql.push(`GRANT SELECT${names ? ` (${names.join(', ')})` : ''} ON ${relation} TO ${role.name}`);
  }
  return sql;
}

function secure(random, run, table, relation) {
  const sql = [];
  const policies = [];
  if (random.chance(0.88)) sql.push(`ALTER TABLE ${relation.sql} ENABLE ROW LEVEL SECURITY`);
  if (random.chance(0.3)) sql.push(`ALTER TABLE ${relation.sql} FORCE ROW LEVEL SECURITY`);
  const n = random.weighted([[0.5, 0], [5, 1], [3, 2], [1.5, 3]]);
  for (let i = 0; i < n; i++) {
    // A first permissive one for many: without it nobody sees anything.
    const policy = randomPolicy(random, run, { ...table, name: relation.name, sql: relation.sql }, `p${i}`, i > 0 && random.chance(0.3));
    if (i === 0 && random.chance(0.7)) policy.roles = null;
    policies.push(policy);
    sql.push(createPolicy(relation, policy));
  }
  return { sql, policies };
}

export const memberPolicies = ['user_id = rtsync.uid()', 'active', 'user_id = (SELECT rtsync.uid()) OR active',
  'team IN (SELECT t.child FROM w.tree t)'];

// The tables that policies read; "published" ones are live like any other
function membershipTables(random, run) {
  const schema = run.schema;
  const sql = [`
    CREATE TABLE ${schema}.members (id int PRIMARY KEY, user_id uuid, team int, active bool);
    CREATE TABLE ${schema}.tree (parent int, child int);
    INSERT INTO ${schema}.tree VALUES (1, 2), (2, 3), (1, 4);
    INSERT INTO ${schema}.members SELECT i, ('00000000-0000-4000-8000-00000000000' || (1 + i % 4))::uuid, 1 + i / 2, i % 3 > 0
      FROM generate_series(1, 6) i;`];
  if (random.chance(0.4))
    sql.push(`ALTER TABLE ${schema}.members REPLICA IDENTITY FULL`);
  sql.push(`GRANT SELECT ON ${schema}.members, ${schema}.tree TO ${run.roles.map((r) => r.name).join(', ')}`);
  run.membersSecured = random.chance(0.35);
  if (run.membersSecured) sql.push(`ALTER TABLE ${schema}.members ENABLE ROW LEVEL SECURITY`);
  sql.push(`CREATE POLICY own ON ${schema}.members FOR SELECT USING (${random.pick(memberPolicies)})`);
  return sql;
}

// The membership table is live itself: it changes in steps of its own.
function listenToMembers(run) {
  run.members = {
    name: 'members', sql: 'w.members', keys: ['id'], pkey: ['id'], unique: null, partitions: null, big: null,
    columns: [
      column(run, 'id', 'int4', { nullable: false, values: keyValues('int4') }),
      column(run, 'user_id', 'uuid', { values: people }),
      column(run, 'team', 'int4', { values: ['1', '2', '3', '4'] }),
      column(run, 'active', 'bool'),
    ],
  };
  run.live.push({ name: 'members', sql: 'w.members', table: run.members, policies: [] });
  return [`CREATE TRIGGER note AFTER INSERT OR UPDATE OR DELETE ON w.members FOR EACH ROW EXECUTE FUNCTION oracle.note()`,
    `CREATE TRIGGER note_truncate AFTER TRUNCATE ON w.members EXECUTE FUNCTION oracle.note()`];
}

function randomBinding(random, run) {
  const live = random.pick(run.live);
  const event = random.weighted([[8, '*'], [1, 'INSERT'], [1, 'UPDATE'], [1, 'DELETE']]);
  if (random.chance(0.06)) return { spec: { event, schema: random.chance(0.5) ? '*' : run.schema }, all: true };
  const spec = { event, schema: run.schema, table: live.name };
  const binding = { spec, live };
  const { table } = live;
  const columns = table.columns.filter((c) => !c.big);
  if (random.chance(0.4)) {
    const filter = randomFilter(random, table, columns);
    spec.filter = filter.text;
    binding.filter = filter;
  }
  if (random.chance(0.15)) {
    const must = random.chance(0.8) ? [...table.pkey, ...(table.unique ? [table.unique] : [])] : [];
    const names = [...new Set([...must, ...random.some(table.columns.filter((c) => !c.virtual).map((c) => c.name), random.between(1, 3))])];
    spec.select = names;
  }
  const options = {};
  if (random.chance(0.25)) options.view = true;
  if (run.features.where && random.chance(0.15)) {
    const where = randomWhere(random, table, columns);
    if (where) {
      options.where = where.where;
      binding.filter = binding.filter
        ? { sql: `${binding.filter.sql} AND ${where.sql}`, columns: [...new Set([...binding.filter.columns, ...where.columns])] }
        : where;
    }
  }
  if (Object.keys(options).length > 0) spec.rtsync = options;
  return binding;
}

function randomClient(random, run, index) {
  const bindings = [];
  const keys = new Set();
  const n = random.between(1, 3);
  while (bindings.length < n) {
    const binding = randomBinding(random, run);
    const key = JSON.stringify(binding.spec);
    if (keys.has(key)) {
      if (random.chance(0.5)) break;
      continue;
    }
    keys.add(key);
    bindings.push(binding);
  }
  return {
    name: `client ${index}`,
    role: random.pick(run.roles).name,
    claims: randomClaims(random),
    bindings,
    join: random.chance(0.75) ? 0 : random.between(1, 2), // in which round
  };
}

// Some clients get their changes in intervals, some of these behind a snapshot,
// and some have a twin that listens to the same, with the same claims or others.
// From choices of their own, so that a seed plays in all else what it always did.
function throttle(run) {
  const random = new Random(run.seed + 0x1a7e0000);
  run.twins = [];
  for (const client of run.clients) {
    if (!random.chance(0.35)) continue;
    client.interval = random.pick([10, 20, 50, 100, 200]);
    const snapshots = random.chance(0.5);
    for (const binding of client.bindings) {
      const { spec } = binding;
      binding.snapshot = snapshots && binding.live !== undefined && ['*', 'INSERT'].includes(spec.event) && random.chance(0.8);
      spec.rtsync = { ...spec.rtsync, interval: client.interval, ...(binding.snapshot ? { snapshot: true } : {}) };
    }
    if (client === run.slow) continue;
    if (random.chance(0.6)) run.twins.push({ ...client, name: `${client.name}0` });
    if (random.chance(0.4)) run.twins.push({ ...client, name: `${client.name}00`, claims: randomClaims(random) });
  }
}

// Some keep cursors, others leave it to the server where to go on.  Likewise
function remember(run) {
  const random = new Random(run.seed + 0x2e500000);
  const all = random.chance(0.2);
  for (const client of [...run.clients, ...run.twins])
    client.memory = random.weighted([[5, 'cursor'], [2, 'session'], [all && client !== run.slow ? 0 : 3, null]]);
}

// Names of the roles of a database: made once, used by all of its runs
export const roleNames = (database) => Array.from({ length: 6 }, (_, i) => `${database}_r${i}`);

export function makeWorld(seed, database, features) {
  const random = new Random(seed);
  const run = { seed, schema: 'w', database, features, random, more: new Random(seed + 0x5eed0000), failures: random.chance(0.12) };
  run.roles = roleNames(database).map((name) => ({ name, owns: [] }));
  run.viaRoot = random.chance(0.5);
  const sql = [`CREATE SCHEMA w`, `GRANT USAGE ON SCHEMA w TO PUBLIC`, schemaTypes('w'), ...membershipTables(random, run), policyFunctions('w')];

  run.tables = Array.from({ length: random.weighted([[4, 1], [4, 2], [2, 3]]) }, (_, i) => randomTable(random, run, i + 1));
  run.live = [];
  run.setupGrants = [];
  for (const table of run.tables) {
    // r5 owns a table now and then
    if (random.chance(0.3)) run.roles[5].owns.push(table.name);
    table.plain = random.chance(0.35);
    table.clause = publicationClause(random, run, table);
    sql.push(...createTable(table));
    if (mayHaveHeir(table) && run.more.chance(0.25)) sql.push(...createHeir(run, table));
    const relations = table.partitions && !run.viaRoot ? table.partitions : [table];
    for (const relation of relations) {
      const live = { name: relation.name, sql: relation.sql, table, part: relation.value };
      sql.push(...grants(random, run, table, relation.sql));
      const secured = secure(random, run, table, relation);
      sql.push(...secured.sql);
      live.policies = secured.policies;
      live.policyNumber = secured.policies.length;
      run.live.push(live);
    }
    if (run.roles[5].owns.includes(table.name))
      sql.push(...[table, ...(table.partitions ?? [])].map((r) => `ALTER TABLE ${r.sql} OWNER TO ${run.roles[5].name}`));
  }
  if (random.chance(0.25)) sql.push(...listenToMembers(run));
  const published = [...run.tables.map((t) => `${t.sql}${t.clause}`), ...(run.members ? ['w.members'] : [])];
  sql.push(`ALTER PUBLICATION rtsync SET (publish_via_partition_root = ${run.viaRoot})`,
    `ALTER PUBLICATION rtsync SET TABLE oracle.marker, ${published.join(', ')}`);
  run.setup = sql;
  // Some clients stop reading for a while: what they are sent fills all queues.
  if (random.chance(0.05)) sql.push('CREATE TABLE w.flood (id int, pad text)',
    `ALTER TABLE w.flood ALTER pad SET STORAGE ${random.pick(['EXTERNAL', 'EXTENDED'])}`, 'GRANT SELECT ON w.flood TO PUBLIC', 'ALTER PUBLICATION rtsync ADD TABLE w.flood');
  run.clients = Array.from({ length: random.between(3, 7) }, (_, i) => randomClient(random, run, i + 1));
  if (sql.at(-1).endsWith('flood')) {
    run.slow = random.pick(run.clients);
    run.slow.join = 0;
    run.slow.bindings.push({ spec: { event: '*', schema: 'w', table: 'flood' }, flood: true });
  }
  throttle(run);
  remember(run);
  return run;
}
