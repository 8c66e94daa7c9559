// The server under test: its address, tokens that it accepts, its database.
//
// test/e2e/run starts it and passes the address in the environment.

import pg from 'pg';
import { signToken } from '../../../dev/jwt.mjs';
import { atEnd } from './tap.mjs';

export const url = process.env.RTSYNC_URL;
export const secret = process.env.RTSYNC_JWT_SECRET;
export const httpUrl = url.replace(/^ws/, 'http');
export const { host: gatewayHost, hostname, port } = new URL(url);

if (!url || !secret) throw new Error('start this through test/e2e/run');

// Tokens for roles; claims are added to them.
export const token = (role, claims = {}) => signToken({ role, ...claims }, secret);
export { signToken };

export { pg };
export const database = new pg.Pool({ max: 16 });
// A server that restarts ends connections: the pool makes new ones, and who
// uses one gets an error from the query.
database.on('error', () => {});
database.on('connect', (connection) => connection.on('error', () => {}));
atEnd(() => database.end());

// Runs SQL, and returns its rows.
export async function sql(text, values) {
  const result = await database.query(text, values);
  return Array.isArray(result) ? result.at(-1).rows : result.rows;
}

// One transaction of these statements, each sent by itself.
export async function transaction(...statements) {
  const client = await database.connect();
  try {
    for (const text of ['BEGIN', ...statements, 'COMMIT']) await client.query(text);
  } finally {
    client.release();
  }
}

// What SELECT gives a role with these claims.
export async function selectAs(role, claims, text) {
  const connection = await database.connect();
  try {
    await connection.query('BEGIN');
    await connection.query(`SET LOCAL ROLE ${role}`);
    await connection.query("SELECT set_config('request.jwt.claims', $1, true)", [
      JSON.stringify({ role, ...claims }),
    ]);
    const { rows } = await connection.query(text);
    return rows;
  } finally {
    // A broken connection must not go back to the pool, nor be missed there.
    const broken = await connection.query('ROLLBACK').then(() => false, () => true);
    connection.release(broken);
  }
}

// Creates a role that a token may name.
export async function createRole(name) {
  await sql(`DO $$
    BEGIN
      IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '${name}') THEN
        CREATE ROLE ${name} NOLOGIN;
      END IF;
    END $$`);
  await sql(`GRANT ${name} TO rtsync_authenticator`);
}

// Creates a table that is live and that the roles may read.
export async function createTable(name, columns, { roles = [], full = false } = {}) {
  await sql(`DROP TABLE IF EXISTS ${name} CASCADE`);
  await sql(`CREATE TABLE ${name} (${columns})`);
  if (full) await sql(`ALTER TABLE ${name} REPLICA IDENTITY FULL`);
  for (const role of roles) await sql(`GRANT SELECT ON ${name} TO ${role}`);
  await sql(`ALTER PUBLICATION rtsync ADD TABLE ${name}`);
}

// The engine's row of rtsync.status(), for the database of the tests.
export async function status() {
  const [row] = await sql('SELECT * FROM rtsync.status() WHERE database = current_database()');
  return row;
}
