// The database of a worker: what all runs share, and what is asked of it.

import { database, pg, sql } from '../e2e/lib/server.mjs';
import { literal } from './sql.mjs';
import { roleNames } from './world.mjs';

// A connection of our own, as superuser
export async function open() {
  const connection = new pg.Client();
  connection.on('error', () => {});
  await connection.connect();
  return connection;
}

// Made once: a log of all row versions, a table for markers, the roles.
export async function prepare(name) {
  await sql(`
    DROP SCHEMA IF EXISTS oracle CASCADE;
    CREATE SCHEMA oracle;
    GRANT USAGE ON SCHEMA oracle TO PUBLIC;
    CREATE TABLE oracle.marker (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY);
    GRANT SELECT ON oracle.marker TO PUBLIC;
    CREATE UNLOGGED TABLE oracle.log (seq serial, xid xid8 DEFAULT pg_current_xact_id(), rel oid, op "char", old jsonb, new jsonb);
    CREATE FUNCTION oracle.note() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
      BEGIN
        INSERT INTO oracle.log (rel, op, old, new) VALUES (TG_RELID, left(TG_OP, 1)::"char",
          CASE WHEN TG_OP IN ('UPDATE', 'DELETE') THEN to_jsonb(OLD) END,
          CASE WHEN TG_OP IN ('INSERT', 'UPDATE') THEN to_jsonb(NEW) END);
        RETURN NULL;
      END $$;
    -- what a query over one row gives: its result, NULL for no row, or "error"
    CREATE FUNCTION oracle.attempt(query text) RETURNS jsonb LANGUAGE plpgsql AS $$
      DECLARE result jsonb;
      BEGIN
        EXECUTE query INTO result;
        RETURN result;
      EXCEPTION WHEN others THEN
        RETURN '"error"';
      END $$`);
  for (const role of roleNames(name))
    await sql(`DO $$ BEGIN
      IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '${role}') THEN CREATE ROLE ${role} NOLOGIN; END IF;
      GRANT ${role} TO rtsync_authenticator; END $$`);
}

// Forget the last run, and give the roles the memberships that a run begins with.
export async function clean(connection, name) {
  const roles = roleNames(name);
  await connection.query(`
    ROLLBACK;
    SET session_replication_role = origin;
    ALTER PUBLICATION rtsync SET TABLE oracle.marker;
    ALTER PUBLICATION rtsync SET (publish = 'insert, update, delete, truncate');
    DROP SCHEMA IF EXISTS w CASCADE;
    TRUNCATE oracle.log;`);
  const { rows } = await connection.query(`SELECT r.rolname AS granted, m.rolname AS member
    FROM pg_auth_members JOIN pg_roles r ON r.oid = roleid JOIN pg_roles m ON m.oid = member
    WHERE m.rolname = ANY ($1) AND r.rolname = ANY ($1)`, [roles]);
  const has = new Set(rows.map((r) => `${r.granted} ${r.member}`));
  const wanted = new Set([`${roles[1]} ${roles[3]}`]);
  for (const pair of has)
    if (!wanted.has(pair)) await connection.query(`REVOKE ${pair.replace(' ', ' FROM ')}`);
  for (const pair of wanted)
    if (!has.has(pair)) await connection.query(`GRANT ${pair.replace(' ', ' TO ')}`);
  const { rows: bypass } = await connection.query('SELECT rolname FROM pg_roles WHERE rolbypassrls AND rolname = ANY ($1)', [roles]);
  const names = bypass.map((r) => r.rolname);
  for (const role of names) if (role !== roles[4]) await connection.query(`ALTER ROLE ${role} NOBYPASSRLS`);
  if (!names.includes(roles[4])) await connection.query(`ALTER ROLE ${roles[4]} BYPASSRLS`);
}

// Statements that make the session a principal's, to the end of the transaction
export const become = (role, claims) =>
  `SET LOCAL ROLE ${role}; SELECT set_config('request.jwt.claims', ${literal(JSON.stringify({ role, ...claims }))}, true)`;

// What a query gives a principal: { rows } or { error }
export async function queryAs(role, claims, text) {
  const connection = await database.connect();
  try {
    const results = await connection.query(`BEGIN; ${become(role, claims)}; ${text}; COMMIT`);
    return { rows: results.at(-2).rows };
  } catch (error) {
    await connection.query('ROLLBACK');
    return { error: error.message };
  } finally {
    connection.release();
  }
}

// What the catalogs say about the live tables and the roles:
// { tables: { name: { published, identity, pkey, columns } },
//   access: { "table role": { columns, secured, needs, reads, hidden } },
//   any: is any table published?
//   operations: that are published, e.g. 'IUDT', whole: these are all }
export async function readState(connection, run) {
  const { rows } = await connection.query(`
    SELECT c.relname AS name, c.relreplident AS replident,
      EXISTS (SELECT FROM pg_publication_tables p WHERE p.pubname = 'rtsync' AND p.schemaname = 'w' AND p.tablename = c.relname) AS published,
      (SELECT json_agg(attname ORDER BY attnum) FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped) AS columns,
      (SELECT json_agg(a.attname) FROM pg_index i JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = ANY (i.indkey)
        WHERE i.indrelid = c.oid AND i.indisprimary) AS pkey,
      (SELECT json_agg(a.attname) FROM pg_index i JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = ANY (i.indkey)
        WHERE i.indrelid = c.oid AND i.indisreplident) AS index,
      (SELECT json_agg(a.attname) FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum = ANY (r.prattrs::int2[])) AS listed,
      pg_get_expr(r.prqual, r.prrelid) AS filter
    FROM pg_class c LEFT JOIN pg_publication_rel r ON r.prrelid = c.oid
      AND r.prpubid = (SELECT oid FROM pg_publication WHERE pubname = 'rtsync') WHERE c.relnamespace = 'w'::regnamespace AND c.relname = ANY ($1)`, [run.live.map((l) => l.name)]);
  const { rows: accesses } = await connection.query(`
    SELECT c.relname AS name, r.rolname AS role,
      (SELECT json_agg(attname ORDER BY attnum) FROM pg_attribute a WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped
        AND has_column_privilege(r.oid, c.oid, a.attnum, 'SELECT')) AS columns,
      has_table_privilege(r.oid, c.oid, 'SELECT') AS whole,
      c.relrowsecurity AND NOT r.rolbypassrls AND (c.relforcerowsecurity OR NOT pg_has_role(r.oid, c.relowner, 'USAGE')) AS secured,
      p.needs, p.reads, p.hidden
    FROM pg_class c, pg_roles r, LATERAL (
      SELECT json_agg(DISTINCT a.attname) FILTER (WHERE a.attname IS NOT NULL) AS needs,
        coalesce(bool_or(d.refclassid = 'pg_class'::regclass AND d.refobjid <> c.oid), false) AS reads,
        coalesce(bool_or(d.refclassid = 'pg_proc'::regclass AND EXISTS (SELECT FROM pg_proc f
          WHERE f.oid = d.refobjid AND f.proname IN ('my_teams', 'member_of'))), false) AS hidden
      FROM pg_policy p LEFT JOIN pg_depend d ON d.classid = 'pg_policy'::regclass AND d.objid = p.oid
        LEFT JOIN pg_attribute a ON d.refclassid = 'pg_class'::regclass AND d.refobjid = c.oid AND d.refobjsubid > 0
          AND a.attrelid = c.oid AND a.attnum = d.refobjsubid
      WHERE p.polrelid = c.oid AND p.polcmd IN ('r', '*')
        AND EXISTS (SELECT FROM unnest(p.polroles) pr WHERE pr = 0 OR pg_has_role(r.oid, pr, 'USAGE'))) p
    WHERE c.relnamespace = 'w'::regnamespace AND c.relname = ANY ($1) AND r.rolname = ANY ($2)`,
  [run.live.map((l) => l.name), run.roles.map((r) => r.name)]);
  const tables = {};
  for (const row of rows) {
    const identity = row.replident === 'f' ? row.columns : row.replident === 'i' ? row.index : row.replident === 'd' ? row.pkey : null;
    tables[row.name] = { ...row, pkey: row.pkey ?? [], identity: identity ?? [], full: row.replident === 'f' };
  }
  const access = {};
  for (const row of accesses)
    access[`${row.name} ${row.role}`] = {
      ...row, columns: row.columns ?? [], needs: row.secured ? row.needs ?? [] : [],
      reads: row.secured && row.reads, hidden: row.secured && row.hidden,
    };
  const { rows: [{ operations, any }] } = await connection.query(`
    SELECT EXISTS (SELECT FROM pg_publication_tables WHERE pubname = 'rtsync' AND schemaname = 'w') AS any, concat(CASE WHEN pubinsert THEN 'I' END, CASE WHEN pubupdate THEN 'U' END, CASE WHEN pubdelete THEN 'D' END,
      CASE WHEN pubtruncate THEN 'T' END) AS operations FROM pg_publication WHERE pubname = 'rtsync'`);
  return { tables, access, any, operations, whole: operations === 'IUDT' };
}
