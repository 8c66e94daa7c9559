// The application's own server: logs people in and runs their commands, each
// with the role and the claims of the token, so that row security decides.
// What is read live does not come this way: the page hears it from the database.

import { createHmac, timingSafeEqual } from 'node:crypto';
import { createServer } from 'node:http';
import { copyFile, readFile, readdir, writeFile } from 'node:fs/promises';
import { signToken } from '../dev/jwt.mjs';

const people = {
  ann: { name: 'Ann', team: 'Acme', role: 'asset_viewer', sub: '00000000-0000-4000-8000-00000000acce' },
  ben: { name: 'Ben', team: 'Globex', role: 'asset_viewer', sub: '00000000-0000-4000-8000-000000610be0' },
  ada: { name: 'Ada', team: 'everything', role: 'asset_admin', sub: '00000000-0000-4000-8000-000000000ada' },
};

// What a page may ask for: a statement, and its parameters from the request
const commands = {
  add: ['INSERT INTO assets (project_id, name) SELECT min(id), $1 FROM projects', (c) => [String(c.name).slice(0, 40)]],
  status: ['UPDATE assets SET status = $2 WHERE id = $1', (c) => [Number(c.id), String(c.status).slice(0, 20)]],
  remove: ['DELETE FROM assets WHERE id = $1', (c) => [Number(c.id)]],
  give: ['SELECT hand_over(id) FROM assets WHERE id = $1', (c) => [Number(c.id)]],
  say: ['SELECT say($1, $2)', (c, who) => [who.name, String(c.text).slice(0, 500)]],
};

// Whose token is it?
function verify(token, secret) {
  const [head, body, signature] = String(token).split('.');
  const expected = createHmac('sha256', secret).update(`${head}.${body}`).digest();
  const given = Buffer.from(signature ?? '', 'base64url');
  if (given.length !== expected.length || !timingSafeEqual(given, expected)) return null;
  const claims = JSON.parse(Buffer.from(body, 'base64url'));
  return claims.exp * 1000 > Date.now() ? claims : null;
}

async function runAs(pool, claims, statement, parameters) {
  const session = await pool.connect();
  try {
    await session.query('BEGIN');
    await session.query("SELECT set_config('role', $1, true), set_config('request.jwt.claims', $2, true)", [
      claims.role,
      JSON.stringify(claims),
    ]);
    await session.query(statement, parameters);
    await session.query('COMMIT');
  } catch (error) {
    await session.query('ROLLBACK');
    throw error;
  } finally {
    session.release();
  }
}

async function readJson(request) {
  let text = '';
  for await (const chunk of request) if ((text += chunk).length > 10_000) throw new Error('too long');
  return JSON.parse(text);
}

async function answer(pool, secret, request) {
  const body = await readJson(request);
  if (request.url === '/login') {
    const person = people[body.as] ?? people.ann;
    return { ...person, token: signToken({ role: person.role, sub: person.sub }, secret) };
  }
  const claims = verify(request.headers.authorization?.replace(/^Bearer /, ''), secret);
  const who = Object.values(people).find(({ sub }) => sub === claims?.sub);
  if (!who || !Object.hasOwn(commands, body.do)) throw new Error('not allowed');
  const [statement, parameters] = commands[body.do];
  await runAs(pool, claims, statement, parameters(body, who));
  return {};
}

// Puts the page, the client from npm and what the page must know into the
// directory that the gateway serves; then listens.
export async function startApp({ pool, secret, root, metricsToken }) {
  await pool.query(await readFile(new URL('page.sql', import.meta.url), 'utf8'));
  const server = createServer(async (request, response) => {
    const headers = {
      'Access-Control-Allow-Origin': '*',
      'Access-Control-Allow-Headers': 'authorization, content-type',
      'Content-Type': 'application/json',
    };
    try {
      if (request.method === 'OPTIONS') response.writeHead(204, headers).end();
      else response.writeHead(200, headers).end(JSON.stringify(await answer(pool, secret, request)));
    } catch (error) {
      response.writeHead(400, headers).end(JSON.stringify({ error: error.message }));
    }
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));

  const page = new URL('page/', import.meta.url);
  for (const name of await readdir(page)) await copyFile(new URL(name, page), `${root}/${name}`);
  await copyFile(
    new URL('node_modules/@supabase/supabase-js/dist/umd/supabase.js', import.meta.url),
    `${root}/supabase.js`,
  );
  await writeFile(
    `${root}/config.json`,
    JSON.stringify({ app: `http://127.0.0.1:${server.address().port}`, metricsToken }),
  );
  return server;
}
