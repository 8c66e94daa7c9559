// A change finds its subscribers through a hash of values: what the type, and
// the collation, take for equal is found whatever it looks like, and null is not.

import { assert, atEnd, test, until } from './lib/tap.mjs';
import { RawClient } from './lib/raw.mjs';
import { createRole, createTable, sql, token } from './lib/server.mjs';

await createRole('e2e_equal');
await sql(`DROP SCHEMA IF EXISTS e2e_equality CASCADE;
  CREATE SCHEMA e2e_equality;
  GRANT USAGE ON SCHEMA e2e_equality TO e2e_equal;
  CREATE COLLATION e2e_equality.nocase (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
  CREATE TYPE e2e_equality.mood AS ENUM ('sad', 'ok')`);

// Of each type the values of rows, and those that subscribers have, as a claim
// or in a filter.  "as": the claim is compared as this type instead.  "varies":
// what becomes of a text depends on settings, the time or the catalog, so that a
// claim is not looked up; a filter is, as its value was read when it was joined.
const types = {
  'text COLLATE e2e_equality.nocase': [['Straße', 'ABC', 'x'], ['abc', 'aBC', 'straße', 'X ']],
  'text COLLATE "C"': [['ABC', 'abc', 'é'], ['abc', 'é', '']],
  'varchar(8)': [['a', 'a '], ['a', 'a ']],
  'char(4)': [['a', 'ab  ', ' a'], ['a   ', 'ab', 'a']],
  'numeric': [['1.5', '100', '0', 'NaN', '1e3'], ['1.50', '1e2', '-0', 'NaN', '1000.0']],
  'float8': [['0', '1.5', 'NaN', '-0', 'Infinity'], ['-0', '1.50', 'nan', '0', 'inf']],
  'float4': [['1.5', '0.1'], ['1.5', '0.1'], { as: 'float8' }],
  'int2': [['1', '-7'], ['1', '-7', '32767'], { as: 'int8' }],
  'int8': [['1', '-7', '5000000000'], ['1', '-7'], { as: 'int4' }],
  'date': [['2026-01-02', 'infinity'], ['2026-01-02', '20260102', '2026-01-03'], { varies: true }],
  'timestamptz': [['2026-01-02 03:04:05+00'], ['2026-01-02 05:04:05+02', '2026-01-02T03:04:05Z'], { varies: true }],
  'interval': [['1 mon', '1 day'], ['30 days', '24 hours', '86400 s'], { varies: true }],
  'uuid': [['00000000-0000-4000-8000-00000000000a'], ['00000000-0000-4000-8000-00000000000A', '{00000000-0000-4000-8000-00000000000a}']],
  'bool': [['true', 'false'], ['t', 'off', '1']],
  'jsonb': [['{"a": 1.0, "b": 2}', '[1]'], ['{"b":2,"a":1}', '[1.0]']],
  'numeric[]': [['{1.0,2}', '{}'], ['{1,2.00}', '{}'], { list: false, varies: true }],
  'inet': [['10.0.0.1', '10.0.0.0/8'], ['10.0.0.1/32', '10.0.0.0/8']],
  'e2e_equality.mood': [['sad', 'ok'], ['sad', 'ok'], { varies: true }],
};

const quoted = (value) => `"${value.replaceAll('\\', '\\\\').replaceAll('"', '\\"')}"`;
const on = (table, filter) => ({ event: 'INSERT', schema: 'e2e_equality', table, ...(filter && { filter }) });

let number = 0;
for (const [type, [rows, values, { as = null, list = true, varies = false } = {}]] of Object.entries(types)) {
  const own = type.split(' COLLATE')[0];
  test(`${type}${as ? `, compared with ${as}` : ''}`, async () => {
    const [secured, filtered, listed] = ['policy', 'filter', 'list'].map((how) => `${how}_${number}`);
    number++;
    for (const table of [secured, filtered, listed])
      await createTable(`e2e_equality.${table}`, `id int PRIMARY KEY, v ${type}`, { roles: ['e2e_equal'], full: true });
    await sql(`ALTER TABLE e2e_equality.${secured} ENABLE ROW LEVEL SECURITY;
      CREATE POLICY own ON e2e_equality.${secured} USING (id = 0 OR v = (rtsync.jwt() ->> 'v')::${as ?? own})`);

    const clients = await Promise.all([...values, null].map(async (value) => {
      const client = await RawClient.open({ apikey: token('e2e_equal', { v: value }) });
      atEnd(() => client.close());
      const bindings = [on(secured)];
      if (value !== null) bindings.push(on(filtered, `v=eq.${quoted(value)}`));
      if (value !== null && list) bindings.push(on(listed, `v=in.(${quoted(value)})`));
      await client.joinOk('equality', bindings);
      return { value, client, bindings };
    }));
    // One transaction; its last row is for all.
    const insert = (table) => `INSERT INTO e2e_equality.${table}
      SELECT n, r::${own} FROM jsonb_array_elements_text('${JSON.stringify([...rows, null])}') WITH ORDINALITY AS x (r, n)`;
    await sql(`BEGIN; ${insert(filtered)}; ${insert(listed)}; ${insert(secured)}; INSERT INTO e2e_equality.${secured} VALUES (0); COMMIT`);

    for (const { value, client, bindings } of clients) {
      await client.frame('the last row', () => client.changes().some(({ record }) => record.id === 0));
      for (const { table } of bindings) {
        const expected = await sql(`SELECT id FROM e2e_equality.${table} WHERE v = $1::text::${(table === secured && as) || own} ORDER BY id`, [value]);
        const got = client.changes().filter((c) => c.table === table && c.record.id > 0).map(({ record }) => record.id);
        assert.deepEqual(got, expected.map(({ id }) => id), `${value} in ${table}`);
      }
    }
    const ways = await sql(`SELECT DISTINCT relname, evaluation FROM rtsync.pg_stat_rtsync_subscription
      WHERE schemaname = 'e2e_equality' AND relname = ANY ($1)`, [[secured, filtered, listed]]);
    for (const { relname, evaluation } of ways)
      assert.equal(evaluation, varies && relname === secured ? 'row by row' : 'indexed', relname);
    for (const { client } of clients) client.close();
  });
}
