// Conditions of policies, from simple to nested.
//
// A condition is { sql, columns, reads, hidden, fails }: the columns of the
// table that it reads, the tables that its sub-queries read, those that its
// functions read (nobody can know them), and whether it can raise an error.

import { ident, literal } from './sql.mjs';

const condition = (sql, columns = [], more = {}) => ({ sql, columns, reads: [], hidden: [], fails: false, ...more });

const join = (operator, parts) =>
  parts.length === 1
    ? parts[0]
    : condition(`(${parts.map((p) => `(${p.sql})`).join(` ${operator} `)})`,
        [...new Set(parts.flatMap((p) => p.columns))], {
          reads: [...new Set(parts.flatMap((p) => p.reads))],
          hidden: [...new Set(parts.flatMap((p) => p.hidden))],
          fails: parts.some((p) => p.fails),
        });

export const people = [1, 2, 3, 4].map((n) => `00000000-0000-4000-8000-00000000000${n}`);

// The claims of a token, besides its role
export function randomClaims(random) {
  const claims = {};
  if (random.chance(0.95)) claims.sub = random.pick(people);
  if (random.chance(0.8)) claims.team = random.between(1, 4);
  const teams = random.some([1, 2, 3, 4], random.int(4));
  if (random.chance(0.9)) {
    claims.teams = teams.join(',');
    claims.teamlist = teams;
  }
  if (random.chance(0.7)) claims.level = random.between(0, 9);
  if (random.chance(0.7)) claims.admin = random.chance(0.3);
  if (random.chance(0.5)) claims.label = random.pick(['a', 'b', 'ab']);
  return claims;
}

const byOwner = [
  'owner = rtsync.uid()',
  'owner = (SELECT rtsync.uid())',
  '(SELECT rtsync.uid()) = owner',
  "owner::text = rtsync.jwt() ->> 'sub'",
  "owner = (SELECT (rtsync.jwt() ->> 'sub')::uuid)",
  "owner::text = current_setting('request.jwt.claims', true)::json ->> 'sub'",
  "owner = ((current_setting('request.jwt.claims', true))::jsonb ->> 'sub')::uuid",
];

const byTeam = [
  "team = (rtsync.jwt() ->> 'team')::int",
  "team = (SELECT (rtsync.jwt() ->> 'team')::int)",
  "team = ANY (string_to_array(rtsync.jwt() ->> 'teams', ',')::int[])",
  "team = ANY ((SELECT string_to_array(rtsync.jwt() ->> 'teams', ','))::int[])",
  "team IN (SELECT value::int FROM jsonb_array_elements_text(rtsync.jwt() -> 'teamlist'))",
  "rtsync.jwt() -> 'teamlist' @> to_jsonb(team)",
  "to_jsonb(team) <@ (rtsync.jwt() -> 'teamlist')",
  "to_jsonb(string_to_array(rtsync.jwt() ->> 'teams', ',')) ? team::text",
  "team::text IN (SELECT jsonb_array_elements_text(rtsync.jwt() -> 'teamlist'))",
  "team::text = ANY (ARRAY(SELECT jsonb_array_elements_text(rtsync.jwt() -> 'teamlist')))",
  "EXISTS (SELECT FROM jsonb_array_elements_text(rtsync.jwt() -> 'teamlist') t WHERE t::int = team)",
  'team IN (1, 3)',
  'team = ANY (ARRAY[2, 4])',
  'team > 2',
];

const byFlag = ['flag', 'NOT flag', 'flag IS NOT FALSE', 'flag IS NULL', "flag = (rtsync.jwt() ->> 'admin')::bool"];

const byLabel = [
  "label LIKE 'a%'",
  "label = rtsync.jwt() ->> 'label'",
  "label IN ('a', 'b')",
  'label = current_user::text',
  "label ~ '^[ab]'",
  'length(label) > 1',
  "lower(label) = 'ab'",
];

const byNumber = ['n > 3', 'n % 2 = 0', "n <= (rtsync.jwt() ->> 'level')::int", 'n BETWEEN 2 AND 7', 'n IS DISTINCT FROM 5'];

const byClaims = [
  'true',
  "(rtsync.jwt() ->> 'admin')::bool",
  "coalesce((rtsync.jwt() ->> 'level')::int, 0) > 4",
  "rtsync.role() LIKE '%1'",
  "pg_has_role(current_user, rtsync.role(), 'USAGE')",
  'false',
];

// Conditions that read the run's membership tables, for table "me"
function subQueries(random, run, me) {
  const m = `${run.schema}.members`;
  const tree = `${run.schema}.tree`;
  const mine = 'm.user_id = rtsync.uid()';
  const reads = (sql, tables, columns = ['team']) => condition(sql, columns, { reads: tables });
  return random.pick([
    () => reads(`EXISTS (SELECT FROM ${m} m WHERE ${mine} AND m.team = ${me}.team)`, ['members']),
    () => reads(`EXISTS (SELECT 1 FROM ${m} m WHERE m.user_id = (SELECT rtsync.uid()) AND m.team = ${me}.team AND m.active)`, ['members']),
    () => reads(`team IN (SELECT m.team FROM ${m} m WHERE ${mine})`, ['members']),
    () => reads(`team = ANY (ARRAY(SELECT m.team FROM ${m} m WHERE ${mine}))`, ['members']),
    () => reads(`NOT EXISTS (SELECT FROM ${m} m WHERE m.user_id = ${me}.owner AND NOT m.active)`, ['members'], ['owner']),
    () => reads(`(SELECT count(*) FROM ${m} m WHERE m.team = ${me}.team) > 1`, ['members']),
    () => reads(`team IN (SELECT t.child FROM ${tree} t WHERE t.parent IN (SELECT m.team FROM ${m} m WHERE ${mine}))`, ['members', 'tree']),
    () => reads(`EXISTS (SELECT FROM ${tree} t JOIN ${m} m ON m.team = t.parent WHERE t.child = ${me}.team AND ${mine})`, ['members', 'tree']),
    () => reads(`EXISTS (WITH RECURSIVE up(team) AS (SELECT ${me}.team UNION SELECT t.parent FROM ${tree} t JOIN up ON t.child = up.team)
      SELECT FROM up JOIN ${m} m ON m.team = up.team WHERE ${mine})`, ['members', 'tree']),
    () => reads(`team NOT IN (SELECT m.team FROM ${m} m WHERE m.user_id IS NOT NULL AND NOT (${mine}) AND m.team IS NOT NULL)`, ['members']),
  ])();
}

function functions(random, run) {
  const f = (name) => `${run.schema}.${name}`;
  return random.pick([
    () => condition(`${f('owns')}(owner)`, ['owner']),
    () => condition(`${f('enough')}(n, team)`, ['n', 'team']),
    () => condition(`${f('is_admin')}() OR n < 3`, ['n']),
    () => condition(`team IN (SELECT ${f('my_teams')}())`, ['team'], { hidden: ['members'] }),
    () => condition(`${f('member_of')}(team)`, ['team'], { hidden: ['members'] }),
    () => condition(`${f('inlined')}(owner)`, ['owner']),
  ])();
}

function failing(random) {
  return random.pick([
    () => condition('12 / n > 1', ['n'], { fails: true }),
    () => condition('label::int > 0', ['label'], { fails: true }),
    () => condition("(rtsync.jwt() ->> 'label')::int = n", ['n'], { fails: true }),
  ])();
}

// A condition of at most this depth for a table of the run.  "mayFail": it may
// raise errors.  Not where an OR could hide them: which part of an OR comes
// first is nobody's business, and SELECT may fail where another order would not.
export function randomCondition(random, run, table, mayFail, depth = 2) {
  const me = ident(table.name);
  const leaf = (list, columns) => () => condition(random.pick(list), columns);
  const again = (fails) => randomCondition(random, run, table, fails, depth - 1);
  return random.weighted([
    [5, leaf(byOwner, ['owner'])],
    [4, leaf(byTeam, ['team'])],
    [2, leaf(byFlag, ['flag'])],
    [2, leaf(byLabel, ['label'])],
    [2, leaf(byNumber, ['n'])],
    [1.5, leaf(byClaims, [])],
    [table.plain ? 0 : 4, () => subQueries(random, run, me)],
    [table.plain ? 0 : 2, () => functions(random, run)],
    [run.failures && mayFail ? 3 : 0, () => failing(random)],
    [depth > 0 ? 3 : 0, () => join('OR', [again(false), again(false)])],
    [depth > 0 ? 3 : 0, () => join('AND', [again(mayFail), again(mayFail)])],
    [depth > 0 ? 1 : 0, () => {
      const inner = again(false);
      return { ...inner, sql: `NOT coalesce((${inner.sql}), false)` };
    }],
  ])();
}

// The functions that policies call
export function policyFunctions(schema) {
  return `
    CREATE FUNCTION ${schema}.owns(owner uuid) RETURNS bool LANGUAGE plpgsql STABLE AS
      $$ BEGIN RETURN owner = rtsync.uid(); END $$;
    CREATE FUNCTION ${schema}.enough(n int, team int) RETURNS bool LANGUAGE plpgsql AS
      $$ BEGIN RETURN n >= coalesce((rtsync.jwt() ->> 'level')::int, 5) OR team = 1; END $$;
    CREATE FUNCTION ${schema}.is_admin() RETURNS bool LANGUAGE plpgsql STABLE SECURITY DEFINER AS
      $$ BEGIN RETURN (rtsync.jwt() ->> 'admin')::bool; END $$;
    CREATE FUNCTION ${schema}.my_teams() RETURNS SETOF int LANGUAGE sql STABLE SECURITY DEFINER AS
      $$ SELECT m.team FROM ${schema}.members m WHERE m.user_id = rtsync.uid() $$;
    CREATE FUNCTION ${schema}.member_of(t int) RETURNS bool LANGUAGE plpgsql STABLE SECURITY DEFINER AS
      $$ BEGIN RETURN EXISTS (SELECT FROM ${schema}.members m WHERE m.user_id = rtsync.uid() AND m.team = t); END $$;
    CREATE FUNCTION ${schema}.inlined(o uuid) RETURNS bool LANGUAGE sql STABLE AS
      $$ SELECT o = rtsync.uid() $$;`;
}

// A policy for a table
export function randomPolicy(random, run, table, name, restrictive = random.chance(0.25)) {
  return {
    name,
    restrictive,
    roles: random.chance(0.45) ? null : random.some(run.roles.map((r) => r.name), random.between(1, 3)),
    command: random.chance(0.7) ? 'SELECT' : 'ALL',
    condition: randomCondition(random, run, table, restrictive),
  };
}

export const createPolicy = (table, policy) =>
  `CREATE POLICY ${ident(policy.name)} ON ${table.sql}${policy.restrictive ? ' AS RESTRICTIVE' : ''} FOR ${policy.command}` +
  ` TO ${policy.roles ? policy.roles.join(', ') : 'PUBLIC'} USING (${policy.condition.sql})`;

export { literal };
