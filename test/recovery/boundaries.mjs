// cluster: -c rtsync.policy_timeout=10min -c rtsync.max_event_size=32MB -c rtsync.send_queue_size=16MB
//
// What happens in the middle of a transaction, when a client that wants to know
// where transactions end has got something of it already, and is to get nothing
// more but the end.

import { assert, atEnd, sleep, test, until } from '../e2e/lib/tap.mjs';
import { RawClient } from '../e2e/lib/raw.mjs';
import { createRole, createTable, pg, sql, status, token, transaction } from '../e2e/lib/server.mjs';

await createRole('reader');
await sql('CREATE TYPE fragile');
await sql("CREATE FUNCTION fragile_in(cstring) RETURNS fragile LANGUAGE internal IMMUTABLE STRICT AS 'oidin'");
await sql("CREATE FUNCTION fragile_out(fragile) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT AS 'enum_out'"); // it knows no value
await sql('CREATE TYPE fragile (INPUT = fragile_in, OUTPUT = fragile_out, LIKE = oid)');
for (const table of ['one', 'other', 'gate']) {
  await createTable(table, 'id int, filler text', { roles: ['reader'] });
  await sql(`ALTER TABLE ${table} ALTER filler SET STORAGE EXTERNAL`); // what is large, is so in the history too
  await sql(`ALTER TABLE ${table} ENABLE ROW LEVEL SECURITY; CREATE POLICY seen ON ${table} USING (id > 0)`);
}
await createTable('broken', 'id int, value fragile', { roles: ['reader'] });

// At a row -n of this table the engine waits for advisory lock (2, n), and shows
// by lock (1, n) that it does.  It polls: of a lock it would not wait for long.
await sql(`CREATE FUNCTION passed(id int) RETURNS bool LANGUAGE plpgsql AS $$
  BEGIN
    IF id < 0 THEN
      PERFORM pg_advisory_xact_lock_shared(1, -id);
      WHILE NOT pg_try_advisory_xact_lock_shared(2, -id) LOOP PERFORM pg_sleep(0.005); END LOOP;
    END IF;
    RETURN id <> 0;
  END $$;
  ALTER POLICY seen ON gate USING (passed(id))`);

const binding = (table, filter) => ({ event: '*', schema: 'public', table, ...(filter ? { filter } : {}) });

const clients = [];

// A client, whose "told" is what it was told: ids, and "end" for each end of a
// transaction; "cursors" has the cursor of each.
async function connect(bindings, apikey = token('reader')) {
  const client = await RawClient.open({ apikey });
  clients.push(client);
  client.told = [];
  client.cursors = [];
  client.onFrame = ({ event, payload }) => {
    const end = event === 'system' && payload.extension === 'rtsync' && payload.status === 'commit';
    if (!end && event !== 'postgres_changes') return;
    client.told.push(end ? 'end' : payload.data.record.id);
    client.cursors.push(payload.rtsync?.cursor);
  };
  return Object.assign(client, { apikey, bindings });
}

async function join(client, rtsync) {
  const { response } = await client.joinOk('topic', client.bindings, { config: { rtsync } });
  return response.rtsync;
}

async function open(bindings, rtsync, apikey) {
  const client = await connect(bindings, apikey);
  await join(client, rtsync);
  return client;
}

// Waits until the gateway has told the engine what the client said before.
async function handedOn(client) {
  for (let n = 0; n < 2; n++) await client.heartbeat();
}

// A test whose clients are closed at its end
const closing = (name, run) => test(name, async () => {
  try {
    await run();
  } finally {
    for (const client of clients.splice(0)) client.close();
  }
});

const bystander = await open([binding('gate')], {});
atEnd(() => bystander.close());
clients.length = 0;

let last = 0;
const next = () => ++last;
const insert = (table, id, filler = "''") => `INSERT INTO ${table} VALUES (${id}, ${filler})`;

// What ends a slice: so much sent to somebody, or so many messages to nobody.
// Those who are late do not get messages again: they are quickly over them.
const OUTPUT = 540_000;
const messages = "SELECT rtsync.send('{}', 'e', 'nobody', false) FROM generate_series(1, 512)";
const text = (size) => `repeat('x', ${size})`;
const wide = (size) => `repeat(E'\\x01', ${size / 6})`; // so large as JSON

// Commits a transaction that begins with what is given, and takes these steps
// one after the other, each while the engine waits at a gate in the middle.
async function midway(statements, ...steps) {
  const { pid } = await status();
  const holder = new pg.Client();
  await holder.connect();
  const gates = steps.map(() => next());
  const filler = next();
  // When the engine has got over so much to send, nothing before it is left there.
  statements.push(...Array.from({ length: 4 }, () => insert('gate', filler, wide(OUTPUT))));
  for (const gate of gates) {
    statements.push(messages, insert('gate', -gate));
    await holder.query('SELECT pg_advisory_lock(2, $1)', [gate]);
  }
  statements.push(messages, messages, messages, messages);
  statements.push(insert('gate', filler)); // the end is in its slice, and what follows may be
  try {
    await transaction(...statements);
    for (const [n, gate] of gates.entries()) {
      await until('the engine to wait', async () => {
        const rows = await sql("SELECT FROM pg_locks WHERE locktype = 'advisory' AND granted AND classid = 1 AND objid = $1 AND pid = $2", [gate, pid]);
        return rows.length > 0;
      });
      await until('what comes first', () => bystander.told.includes(filler));
      await steps[n]();
      assert.ok(!bystander.told.includes(-gate));
      await holder.query('SELECT pg_advisory_unlock(2, $1)', [gate]);
    }
  } finally {
    await holder.end();
  }
  await until('the rest', () => bystander.told.filter((id) => id === filler).length === 5);
  assert.equal((await status()).pid, pid, 'the engine is the same process');
}

const markers = new Set();

// Waits for a transaction behind all others, and expects what was told but for such.
async function expectTold(client, expected) {
  const id = next();
  markers.add(id);
  await transaction(insert('one', id), insert('other', id));
  await until('the last transaction', () => client.told.at(-1) === 'end' && client.told.at(-2) === id);
  const others = client.told.filter((what, i) => !markers.has(what) && !(what === 'end' && markers.has(client.told[i - 1])));
  assert.deepEqual(others, expected);
}

// The client was told this: the end once, with the place of the cursor.  Who comes
// back from there gets nothing again, or has to refetch.
async function expectEnd(client, expected, { place = client.cursors[0], resumes = true } = {}) {
  await expectTold(client, expected);
  const at = expected.indexOf('end');
  const cursor = client.cursors[at];
  assert.deepEqual(cursor.split(':').slice(0, 3), [...place.split(':').slice(0, 2), 'ffffffff']);
  const again = await connect(client.bindings, client.apikey);
  const { resumed, refetch } = await join(again, { since: cursor });
  assert.equal(resumed, resumes, refetch);
  if (resumes) {
    await until('the same', () => again.told.length >= client.told.length - at - 1);
    assert.deepEqual(again.told, client.told.slice(at + 1));
  } else assert.match(refetch, /access/);
}

closing('a client that brings a new token', async () => {
  const client = await open([binding('one')], { cursor: true });
  const id = next();
  await midway([insert('one', id, text(OUTPUT))], async () => {
    await until('the row', () => client.told.length === 1);
    client.apikey = token('reader', { other: true });
    client.send('realtime:topic', 'access_token', { access_token: client.apikey });
    await handedOn(client);
  });
  await expectEnd(client, [id, 'end']);
});

closing('a client that stops reading, goes on, and has caught up', async () => {
  const client = await open([binding('one')], { cursor: true });
  const id = next();
  client.socket.pause();
  await midway([insert('one', id, wide(20 * OUTPUT))], async () => {
    await handedOn(bystander); // that the queue is long, too
    client.socket.resume();
    await until('the row', () => client.told.length === 1);
    await handedOn(client);
  });
  await expectEnd(client, [id, 'end']);
});

closing('a client that comes back, and has caught up', async () => {
  const client = await open([binding('one')], { cursor: true });
  const again = await connect(client.bindings); // the engine looks at tokens, too
  const id = next();
  let joining;
  await midway([insert('one', id, text(OUTPUT))], async () => {
    await until('the row', () => client.told.length === 1);
    await client.call('realtime:topic', 'phx_leave');
    joining = join(again, { since: client.cursors[0] });
    await handedOn(again);
  }, () => sleep(1000)); // so long the engine first delivers what there is
  assert.equal((await joining).resumed, true);
  await expectEnd(again, ['end'], { place: client.cursors[0] });
  assert.deepEqual(client.told, [id]);
});

closing('row security begins to depend on the claims, and no longer does', async () => {
  for (const condition of ["id > 0 AND current_setting('request.jwt.claims') <> ''", 'id > 0']) {
    const client = await open([binding('one')], { cursor: true });
    const id = next();
    await midway([insert('one', id, text(OUTPUT))], async () => {
      await until('the row', () => client.told.length === 1);
      await sql(`ALTER POLICY seen ON one USING (${condition})`);
    });
    await expectEnd(client, [id, 'end'], { resumes: false });
  }
});

const isBroken = ({ event, payload }) =>
  event === 'system' && payload.status === 'error' && payload.message.endsWith('invalid internal value for enum: 1');

closing('what follows cannot be rendered for another', async () => {
  const client = await open([binding('one')], { cursor: true });
  const other = await open([binding('broken')], {});
  const id = next();
  await midway([insert('one', id, text(OUTPUT))], async () => {
    await until('the row', () => client.told.length === 1);
    await transaction(insert('broken', id, "'1'"));
  });
  await other.frame('the error', isBroken);
  await expectEnd(client, [id, 'end']);
});

closing('what follows cannot be rendered for a client that goes on', async () => {
  const client = await open([binding('one'), binding('broken')], { cursor: true });
  const id = next();
  client.socket.pause();
  await midway([insert('one', id, wide(20 * OUTPUT))], () => handedOn(bystander));
  await transaction(insert('broken', id, "'1'"), insert('gate', id));
  await until('both to be delivered', () => bystander.told.includes(id));
  client.socket.resume();
  await client.frame('the error', isBroken);
  await expectEnd(client, [id, 'end']);
});

closing('a client leaves, and others go into groups of their own', async () => {
  const client = await open([binding('one')], { cursor: true });
  const leaving = await open([binding('one', 'id=gt.0')], { cursor: true });
  const others = [];
  for (let n = 0; n < 8; n++) others.push(await open([binding('other')], { cursor: true }, token('reader', { n })));
  const id = next();
  await midway([insert('one', id, text(OUTPUT)), insert('other', id)], async () => {
    await until('the rows', () => [client, leaving, ...others].every(({ told }) => told.length === 1));
    await leaving.call('realtime:topic', 'phx_leave');
    await handedOn(leaving);
    await sql("ALTER POLICY seen ON other USING (id > 0 AND current_setting('request.jwt.claims') <> '')");
  });
  assert.deepEqual(leaving.told, [id]);
  await expectEnd(client, [id, 'end']);
  for (const other of others) await expectEnd(other, [id, 'end'], { resumes: false });
});
