// An application written for Supabase: its policies, triggers and functions, as
// they are, after install_supabase_compat().

import { assert, atEnd, sleep, test, until } from './lib/tap.mjs';
import { connect, versions } from './lib/clients.mjs';
import { RawClient } from './lib/raw.mjs';
import { createTable, pg, sql, status, token } from './lib/server.mjs';

const user = '00000000-0000-4000-8000-00000000000a';
const authenticated = token('authenticated', { sub: user });

// Settings of the database make the engine start again.
async function restarted(change) {
  const { pid } = await status();
  await change();
  await until('another engine', async () => {
    const now = await status();
    return now.state === 'running' && now.pid !== pid;
  });
  await until('its gateway', async () => {
    try {
      (await RawClient.open({ apikey: authenticated })).close();
      return true;
    } catch {
      return false;
    }
  });
}

await createTable('sb_todos', 'id int PRIMARY KEY, owner uuid, title text');
const report = [];
await restarted(async () => report.push(...(await sql('SELECT * FROM rtsync.install_supabase_compat()'))));
atEnd(() =>
  restarted(() =>
    sql(`DO $$ BEGIN
      EXECUTE format('ALTER DATABASE %I RESET rtsync.messages_table', current_database());
      EXECUTE format('ALTER DATABASE %I RESET rtsync.publication', current_database());
    END $$`),
  ),
);

await sql(`GRANT ALL ON sb_todos TO authenticated;
  DROP POLICY IF EXISTS "authenticated can receive" ON realtime.messages;
  DROP POLICY IF EXISTS "authenticated can send" ON realtime.messages;
  CREATE POLICY "authenticated can receive" ON realtime.messages FOR SELECT TO authenticated
    USING (realtime.messages.extension IN ('broadcast', 'presence')
      AND (SELECT realtime.topic()) = 'topic:' || (SELECT auth.uid())::text);
  CREATE POLICY "authenticated can send" ON realtime.messages FOR INSERT TO authenticated
    WITH CHECK (realtime.messages.extension = 'broadcast');
  CREATE OR REPLACE FUNCTION sb_todos_changes() RETURNS trigger LANGUAGE plpgsql AS $$
  BEGIN
    PERFORM realtime.broadcast_changes('topic:' || coalesce(NEW.owner, OLD.owner)::text,
      TG_OP, TG_OP, TG_TABLE_NAME, TG_TABLE_SCHEMA, NEW, OLD);
    RETURN NULL;
  END $$;
  CREATE TRIGGER changes AFTER INSERT OR UPDATE OR DELETE ON sb_todos
    FOR EACH ROW EXECUTE FUNCTION sb_todos_changes()`);

// As PostgREST would run it, in a session that has the database's new settings
async function asUser(text) {
  const connection = new pg.Client();
  await connection.connect();
  try {
    await connection.query(`BEGIN; SET LOCAL ROLE authenticated;
      SET LOCAL request.jwt.claims = '{"role": "authenticated", "sub": "${user}"}'; ${text}; COMMIT`);
  } finally {
    await connection.end();
  }
}

async function subscribe(client, config = {}) {
  const received = [];
  const channel = client.channel(`topic:${user}`, { config: { private: true, ...config } });
  channel.on('broadcast', { event: '*' }, (message) => received.push(message));
  await new Promise((resolve, reject) =>
    channel.subscribe((state, error) => (state === 'SUBSCRIBED' ? resolve() : reject(error ?? state))),
  );
  return received;
}

test('the function says what it did', () => {
  const objects = report.map(({ object }) => object);
  for (const object of ['role anon', 'schema auth', 'table realtime.messages', 'function realtime.send',
    'publication supabase_realtime', 'setting rtsync.messages_table'])
    assert.ok(objects.includes(object), object);
});

for (const version of versions) {
  test(`${version.name}: changes from a trigger, as role authenticated`, async () => {
    await sql('DELETE FROM sb_todos');
    const client = connect(version, authenticated);
    await client.setAuth(authenticated);
    const received = await subscribe(client);
    await asUser(`INSERT INTO sb_todos VALUES (1, '${user}', 'a');
      UPDATE sb_todos SET title = 'b' WHERE id = 1;
      SELECT realtime.send('{"n": 1}', 'note', 'topic:${user}');
      DELETE FROM sb_todos WHERE id = 1`);
    await until('the messages', () => received.length >= 4);
    assert.deepEqual(received.map(({ event }) => event), ['INSERT', 'UPDATE', 'note', 'DELETE']);
    const { id, ...update } = received[1].payload;
    assert.equal(id, received[1].meta.id);
    assert.deepEqual(update, {
      schema: 'public', table: 'sb_todos', operation: 'UPDATE',
      record: { id: 1, owner: user, title: 'b' }, old_record: { id: 1, owner: user, title: 'a' },
    });
    assert.deepEqual({ ...received[2].payload, id: undefined }, { n: 1, id: undefined });
    await client.disconnect();
  });
}

test('what was sent is stored in realtime.messages, and replayed', async () => {
  await sql('DELETE FROM realtime.messages');
  await asUser(`SELECT realtime.send('{"n": 1}', 'note', 'topic:${user}'), realtime.send('{"n": 2}', 'note', 'topic:${user}')`);
  assert.equal((await sql('SELECT FROM realtime.messages')).length, 2);
  const client = connect(versions.at(-1), authenticated);
  await client.setAuth(authenticated);
  const received = await subscribe(client, { broadcast: { replay: { since: Date.now() - 60_000, limit: 10 } } });
  await until('the messages', () => received.length >= 2);
  await sleep(50);
  assert.deepEqual(received.map(({ payload, meta }) => [payload.n, meta.replayed]), [[1, true], [2, true]]);
  await client.disconnect();
});

test('bytes from a trigger, as role authenticated, and replayed at once', async () => {
  await sql(`CREATE OR REPLACE FUNCTION sb_bytes() RETURNS trigger LANGUAGE plpgsql AS $$
  BEGIN
    PERFORM realtime.send_binary('\\x00ff7f'::bytea, 'bytes', 'topic:${user}');
    RETURN NULL;
  END $$;
  CREATE OR REPLACE TRIGGER bytes AFTER INSERT ON sb_todos FOR EACH ROW EXECUTE FUNCTION sb_bytes()`);
  const client = connect(versions.at(-1), authenticated);
  await client.setAuth(authenticated);
  const live = await subscribe(client);
  const since = Date.now();
  await asUser(`INSERT INTO sb_todos VALUES (3, '${user}', 'with bytes')`);
  // who joins as soon as it is committed
  const later = connect(versions.at(-1), authenticated);
  await later.setAuth(authenticated);
  const past = await subscribe(later, { broadcast: { replay: { since, limit: 25 } } });
  for (const received of [live, past]) {
    await until('both messages', () => received.length >= 2);
    const bytes = received.find(({ event }) => event === 'bytes');
    assert.deepEqual([...new Uint8Array(bytes.payload)], [0, 255, 127]);
    assert.deepEqual(received.map(({ event }) => event).sort(), ['INSERT', 'bytes']);
  }
  assert.ok(past.every(({ meta }) => meta.replayed));
  assert.deepEqual(past.map(({ meta }) => meta.id), live.map(({ meta }) => meta.id));
  await sql('DROP TRIGGER bytes ON sb_todos');
  await client.disconnect();
  await later.disconnect();
});

test('a policy made later counts at once; other topics are closed', async () => {
  const client = await RawClient.open({ vsn: '1.0.0', apikey: authenticated });
  const join = () => client.join('lobby', [], { config: { private: true } });
  assert.equal((await join()).status, 'error');
  await sql(`CREATE POLICY later ON realtime.messages FOR SELECT TO authenticated USING (realtime.topic() = 'lobby')`);
  assert.equal((await join()).status, 'ok');
  await sql('DROP POLICY later ON realtime.messages');
  await client.frame('the close', (f) => f.event === 'phx_close');
  client.close();
});

test('a refused send is a warning, and the transaction goes on', async () => {
  await sql(`DROP POLICY "authenticated can send" ON realtime.messages`);
  await asUser(`INSERT INTO sb_todos VALUES (7, '${user}', 'kept')`);
  assert.deepEqual(await sql('SELECT title FROM sb_todos WHERE id = 7'), [{ title: 'kept' }]);
});
