// What the engine meets on its way, and what must not stop it for everybody:
// a standby that does not answer, shared memory that cannot be had, triggers
// on the table of messages.

import { chmod } from 'node:fs/promises';
import { assert, atEnd, test, until } from '../e2e/lib/tap.mjs';
import { connect, versions } from '../e2e/lib/clients.mjs';
import { RawClient, refusedHandshake } from '../e2e/lib/raw.mjs';
import { createRole, createTable, pg, sql, status, token } from '../e2e/lib/server.mjs';
import { configure } from '../e2e/lib/keys.mjs';
import { restart, running, served } from './lib/cluster.mjs';
import { holdCommits, releaseCommits } from './lib/syncrep.mjs';

await createRole('reader');
await createTable('live', 'id int PRIMARY KEY', { roles: ['reader'] });
const apikey = token('reader');
const binding = { event: '*', schema: 'public', table: 'live' };
const open = async () => {
  const client = await served({ apikey });
  atEnd(() => client.close());
  return client;
};
// What does not wait for a standby
async function sqlLocally(text) {
  const writer = new pg.Client();
  await writer.connect();
  await writer.query("SET synchronous_commit = 'local'");
  await writer.query(text);
  await writer.end();
}

async function restartEngine() {
  const { pid } = await status();
  await sql('SELECT pg_terminate_backend($1)', [pid]);
  await until('the next engine', async () => {
    const now = await status();
    return now.state === 'running' && now.pid !== pid;
  }, { timeout: 60_000 });
}

// Does the engine answer, and deliver, and is it the same one?
let last = 0;
async function alive(client, pid) {
  const id = ++last;
  await sqlLocally(`INSERT INTO live VALUES (${id})`);
  await client.frame('the event', () => client.changes('live').some(({ record }) => record.id === id));
  assert.equal((await status()).pid, pid, 'the engine is the same process');
}

// Connections and channels are numbered apart, each from one: what befalls the
// one of a number is not to befall the other.
test('API keys that cannot be looked up now cost nobody a channel', async () => {
  const N = 20;
  const [{ key }] = await sql("SELECT rtsync.create_api_key('reader', 'locked') AS key");
  const { pid } = await status();
  const client = await open();
  for (let i = 0; i < N; i++) await client.joinOk(`channel ${i}`, [{ ...binding, filter: `id=gt.${-i}` }]); // each a group of its own
  const holder = new pg.Client();
  await holder.connect();
  await holder.query('BEGIN; LOCK TABLE rtsync.api_keys IN ACCESS EXCLUSIVE MODE');
  for (let i = 0; i < N; i++) {
    const { status: code } = await refusedHandshake({ apikey: key });
    assert.equal(code, 500);
  }
  const id = ++last;
  await sql(`INSERT INTO live VALUES (${id})`);
  for (let i = 0; i < N; i++)
    await until(`the event on channel ${i}`, () => client.changes(`channel ${i}`).some(({ record }) => record.id === id));
  await holder.query('ROLLBACK');
  await holder.end();
  await until('the key to count', () => RawClient.open({ apikey: key }).then((one) => one.close() ?? true, () => false));
  assert.equal((await status()).pid, pid, 'the engine is the same process');
  client.close();
});

test('messages are stored while a synchronous standby is down', async () => {
  await sql(`CREATE POLICY all_topics ON rtsync.messages FOR ALL USING (true) WITH CHECK (true);
    GRANT USAGE ON SCHEMA rtsync TO reader; GRANT SELECT, INSERT ON rtsync.messages TO reader`);
  await holdCommits();
  try {
    await restartEngine();
    const { pid } = await status();
    const client = await open();
    await client.joinOk('live', [binding]);
    const talker = connect(versions.at(-1), apikey);
    await talker.setAuth(apikey);
    const channel = talker.channel('talk', { config: { private: true, broadcast: { ack: true } } });
    await new Promise((resolve, reject) => channel.subscribe((state, error) => (state === 'SUBSCRIBED' ? resolve() : reject(error))));
    assert.equal(await channel.send({ type: 'broadcast', event: 'e', payload: {}, persist: true }), 'ok');
    assert.equal((await sql("SELECT FROM rtsync.messages WHERE topic = 'talk'")).length, 1);
    await alive(client, pid);
    await talker.disconnect();
    client.close();
  } finally {
    await releaseCommits();
  }
});

for (const [name, body] of [
  ['sleeps', 'PERFORM pg_sleep(3600);'],
  ['cannot be ended', 'LOOP BEGIN PERFORM pg_sleep(3600); EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP;'],
])
  test(`a trigger on the table of messages ${name}, when old ones are deleted`, async () => {
    await configure({ 'rtsync.policy_timeout': '100ms', 'rtsync.messages_table': 'app.messages' });
    await sql(`DROP SCHEMA IF EXISTS app CASCADE; DROP ROLE IF EXISTS app_owner; CREATE ROLE app_owner;
      CREATE SCHEMA app AUTHORIZATION app_owner;
      CREATE TABLE app.messages (LIKE rtsync.messages INCLUDING DEFAULTS) PARTITION BY RANGE (inserted_at);
      CREATE TABLE app.messages_default PARTITION OF app.messages DEFAULT;
      INSERT INTO app.messages_default (topic, extension, inserted_at) VALUES ('old', 'broadcast', now() - '1 year'::interval);
      CREATE FUNCTION app.attack() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN ${body} RETURN OLD; END $$;
      CREATE TRIGGER attack BEFORE DELETE ON app.messages_default FOR EACH ROW EXECUTE FUNCTION app.attack();
      ALTER FUNCTION app.attack OWNER TO app_owner;
      ALTER TABLE app.messages OWNER TO app_owner; ALTER TABLE app.messages_default OWNER TO app_owner`);
    await restartEngine(); // it begins with the upkeep
    // It may be in the trigger when a client comes, and be ended.
    let client;
    const serves = async () => {
      client?.close();
      const { pid } = await running();
      client = await open();
      await client.joinOk('live', [binding]);
      await alive(client, pid);
      return true;
    };
    await until('the engine to serve', () => serves().catch(() => false), { timeout: 120_000 });
    await configure({ 'rtsync.policy_timeout': null, 'rtsync.messages_table': null });
    client.close();
  }, { timeout: 240_000 });

test('somebody has locked the key of messages from SQL', async () => {
  const holder = new pg.Client();
  await holder.connect();
  await holder.query('BEGIN; LOCK TABLE rtsync.secret IN ACCESS EXCLUSIVE MODE');
  const client = await (async () => {
    try {
      await restartEngine();
      const { pid } = await status();
      const first = await open();
      await first.joinOk('live', [binding]);
      await alive(first, pid);
      return first;
    } finally {
      await holder.end();
    }
  })();
  const listener = await RawClient.open({ vsn: '1.0.0', apikey }); // it gets broadcasts as JSON
  await listener.joinOk('live', []);
  await until('a message', async () => {
    await sql("SELECT rtsync.send('{}', 'e', 'live', false)");
    return listener.frames.some(({ event, payload }) => event === 'broadcast' && payload.event === 'e');
  }, { every: 100 });
  listener.close();
  client.close();
});

test('there is no shared memory for a snapshot', async () => {
  await configure({ dynamic_shared_memory_type: 'mmap' });
  await restart('fast');
  await running();
  const { pid } = await status();
  const [{ directory }] = await sql("SELECT current_setting('data_directory') || '/pg_dynshmem' AS directory");
  const client = await open();
  await client.joinOk('live', [binding]);
  await chmod(directory, 0o500);
  const other = await open();
  await other.joinOk('shelf', [{ ...binding, rtsync: { snapshot: true } }]);
  await alive(client, pid);
  await chmod(directory, 0o700);
  await other.frame('the snapshot, when there is some', (f) => f.event === 'system' && f.payload.status === 'snapshot_end', { timeout: 60_000 });
  await alive(client, pid);
});
