// What the other files have no place for: rows of Supabase's protocol that are
// asked for by an option of the join, and the words for bindings that cannot be.

import { assert, atEnd, test, until } from './lib/tap.mjs';
import { connect, versions } from './lib/clients.mjs';
import { RawClient } from './lib/raw.mjs';
import { createRole, createTable, sql, token } from './lib/server.mjs';

await createRole('e2e_reader');
await createTable('rows', 'id int PRIMARY KEY, t text', { roles: ['e2e_reader'] });
await sql('DROP TABLE IF EXISTS unpublished; CREATE TABLE unpublished (id int); GRANT SELECT ON unpublished TO e2e_reader');
const apikey = token('e2e_reader');
const onRows = { event: '*', schema: 'public', table: 'rows' };

// What a client is told of a binding.
async function told(binding) {
  const client = await RawClient.open({ apikey });
  await client.joinOk('told', [binding]);
  const { payload } = await client.frame('a system message', (f) => f.event === 'system');
  client.close();
  assert.equal(payload.extension, 'postgres_changes');
  assert.equal(payload.channel, 'told');
  return payload;
}

const problems = [
  [{ event: '*' }, /^No subscription params provided\. Please provide at least a `schema` or `table` to subscribe to: %\{\}$/],
  [{ ...onRows, select: 'id' }, /^Error parsing `select` params: expected a list of column name strings, e\.g\. select: \["col1", "col2"\]$/],
  [{ event: '*', schema: 'public', table: '*', select: ['id'] }, /^Column selection is not supported for wildcard subscriptions\. Provide an explicit schema and table name\.$/],
  [{ ...onRows, select: ['nothing'] }, /invalid column for select nothing/],
  [{ ...onRows, filter: 'nothing=eq.1' }, /invalid column for filter nothing/],
  [{ ...onRows, filter: 'id=in.1,2' }, /^Error parsing `filter` params: `in` filter value must be wrapped by parentheses/],
  [{ ...onRows, filter: 'id=eq.1,,t=eq.a' }, /^Error parsing `filter` params: .*empty segments/],
  [{ ...onRows, filter: 'foo' }, /^Error parsing `filter` params: /],
  [{ ...onRows, table: 'unpublished' }, /^Unable to subscribe to changes with given parameters\. Please check Realtime is enabled for the given connect parameters: \[event: \*, schema: public, table: unpublished, filters: \[\], select: nil\]/],
];
for (const [binding, text] of problems)
  test(`a binding that cannot be served: ${JSON.stringify(binding)}`, async () => {
    const { status, message } = await told(binding);
    assert.equal(status, 'error');
    assert.match(message, text);
    const { status: fine, message: words } = await told(onRows);
    assert.deepEqual([fine, words], ['ok', 'Subscribed to PostgreSQL']);
  });

test('wait: a binding that cannot be served refuses the join', async () => {
  const client = await RawClient.open({ apikey });
  const config = { postgres_changes_options: { wait: true, timeout: 10_000 } };
  const refused = await client.join('waiting', [{ ...onRows, filter: 'nothing=eq.1' }], { config });
  assert.equal(refused.status, 'error');
  assert.match(refused.response.reason, /^RealtimeDisabledForConfiguration: .*invalid column for filter nothing/);
  await client.joinOk('waiting', [onRows], { config });
  await sql('TRUNCATE rows; INSERT INTO rows VALUES (1)');
  await client.frame('the row', () => client.changes('waiting').length === 1);
  client.close();
});

test('replication_ready is answered, only if it was asked for', async () => {
  for (const vsn of ['1.0.0', '2.0.0']) {
    const client = await RawClient.open({ apikey, vsn });
    await client.joinOk('ready', [], { config: { broadcast: { replication_ready: true } } });
    await client.joinOk('silent', []);
    await client.heartbeat();
    assert.deepEqual(client.frames.filter((f) => f.event === 'system').map(({ payload }) => payload),
      [{ extension: 'system', status: 'ok', message: 'Replication connection established', channel: 'ready' }]);
    client.close();
  }
});

for (const version of versions) {
  test(`${version.name}: the heartbeat is answered, and leaving says CLOSED`, async () => {
    const client = connect(version, apikey);
    atEnd(() => client.disconnect());
    const statuses = [];
    const channel = client.channel('leaving').subscribe((status) => statuses.push(status));
    await until('SUBSCRIBED', () => statuses.includes('SUBSCRIBED'));
    const beats = [];
    client.onHeartbeat?.((status) => beats.push(status));
    await client.sendHeartbeat();
    if (client.onHeartbeat) await until('the answer', () => beats.includes('ok'));
    assert.equal(await channel.unsubscribe(), 'ok');
    await until('CLOSED', () => statuses.at(-1) === 'CLOSED');
    await client.disconnect();
  });

  test(`${version.name}: a join that is refused is reported, and tried again by itself`, async () => {
    const client = connect(version, apikey);
    atEnd(() => client.disconnect());
    await client.setAuth(apikey);
    const reports = [];
    client.channel('secret', { config: { private: true } }).subscribe((status, error) => reports.push([status, error?.message]));
    await until('two refusals', () => reports.length >= 2);
    for (const [status, message] of reports.slice(0, 2)) {
      assert.equal(status, 'CHANNEL_ERROR');
      assert.match(message, /Unauthorized: You do not have permissions to read from this Channel topic: secret/);
    }
    await client.disconnect();
  });
}
