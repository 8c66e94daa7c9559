// The form of each type's values: as to_jsonb gives them, whatever the table.

import { assert, test } from './lib/tap.mjs';
import { RawClient } from './lib/raw.mjs';
import { createRole, createTable, sql, token } from './lib/server.mjs';

await createRole('e2e_reader');
await sql(`DROP TYPE IF EXISTS e2e_mood CASCADE; CREATE TYPE e2e_mood AS ENUM ('sad', 'not so sad');
  DROP TYPE IF EXISTS e2e_point CASCADE; CREATE TYPE e2e_point AS (x int, "the y" text);
  DROP DOMAIN IF EXISTS e2e_positive CASCADE; CREATE DOMAIN e2e_positive AS int CHECK (VALUE > 0)`);

// type, value as SQL, the JSON text expected, and the name in "columns"
const cases = [
  ['int2', "'-7'", '-7'],
  ['int4', "'2147483647'", '2147483647'],
  ['int8', "'9223372036854775807'", '9223372036854775807'],
  ['numeric', "'123456789012345678901234567890.1234567890'", '123456789012345678901234567890.1234567890'],
  ['numeric', "'NaN'", '"NaN"'],
  ['float4', "'1.5'", '1.5'],
  ['float8', "'1e300'", '1e+300'],
  ['float8', "'-Infinity'", '"-Infinity"'],
  ['bool', "'t'", 'true'],
  ['text', `'ä "quoted" \\ back' || E'\\n\\t\\u0001'`, '"ä \\"quoted\\" \\\\ back\\n\\t\\u0001"'],
  ['varchar(20)', "'vier'", '"vier"', 'varchar'],
  ['char(5)', "'ab'", '"ab   "', 'bpchar'],
  ['uuid', "'00000000-0000-4000-8000-00000000ACCE'", '"00000000-0000-4000-8000-00000000acce"'],
  ['date', "'2026-01-02'", '"2026-01-02"'],
  ['time', "'03:04:05.6'", '"03:04:05.6"'],
  ['timetz', "'03:04:05.6+02'", '"03:04:05.6+02"'],
  ['timestamp', "'2026-01-02 03:04:05.6'", '"2026-01-02T03:04:05.6"'],
  ['timestamptz', "'2026-01-02 03:04:05.6+00'", '"2026-01-02T03:04:05.6+00:00"'],
  ['interval', "'1 day 02:03'", '"1 day 02:03:00"'],
  ['json', `'{"b": [1, 2], "a": null}'`, '{"b": [1, 2], "a": null}'],
  ['jsonb', `'{"b": [1, 2], "a": 1.50}'`, '{"a": 1.50, "b": [1, 2]}'],
  ['int4[]', "'{1,NULL,3}'", '[1,null,3]', '_int4'],
  ['text[]', `'{{a,"b c"},{"d,e",NULL}}'`, '[["a","b c"],["d,e",null]]', '_text'],
  ['int4[]', "'{}'", '[]', '_int4'],
  ['e2e_mood', "'not so sad'", '"not so sad"'],
  ['e2e_positive', "'5'", '5'],
  ['e2e_point', `'(3,"a b")'`, '{"x":3,"the y":"a b"}'],
  ['e2e_point[]', `ARRAY[ROW(1, NULL)::e2e_point]`, '[{"x":1,"the y":null}]', '_e2e_point'],
  ['int4range', "'[1,5)'", '"[1,5)"'],
  ['inet', "'192.168.0.1/24'", '"192.168.0.1/24"'],
  ['money', "'12.34'", '"$12.34"'],
  ['point', "'(1,2)'", '"(1,2)"'],
  ['bit(3)', "'101'", '"101"', 'bit'],
  ['text', 'NULL', 'null'],
];

await createTable(
  'typed',
  ['id int PRIMARY KEY', ...cases.map(([type], i) => `c${i} ${type}`), 'b bytea'].join(', '),
  { roles: ['e2e_reader'] },
);

const client = await RawClient.open({ apikey: token('e2e_reader') });
await client.joinOk('types', [{ event: '*', schema: 'public', table: 'typed' }]);
await sql(`INSERT INTO typed VALUES (1, ${cases.map(([type, value]) => `(${value})::${type}`).join(', ')}, '\\x0102ff')`);
const frame = await client.frame('the row', (f) => f.event === 'postgres_changes');

// The text of one member of "record": JavaScript's numbers would round.
function memberText(name) {
  const text = frame.text.slice(frame.text.indexOf('"record"'));
  const start = text.indexOf(`"${name}":`) + name.length + 3;
  for (let end = start + 1; end <= text.length; end++) {
    if (text[end] !== ',' && text[end] !== '}') continue;
    try {
      JSON.parse(text.slice(start, end));
      return text.slice(start, end).trim();
    } catch {
      // not the end of the value yet
    }
  }
  return undefined;
}

const spaceless = (text) => text.replace(/([:,]) /g, '$1');

for (const [i, [type, value, wanted, name = type]] of cases.entries()) {
  test(`${type} ${value}`, () => {
    assert.equal(spaceless(memberText(`c${i}`)), spaceless(wanted));
    const column = frame.payload.data.columns.find((c) => c.name === `c${i}`);
    assert.equal(column.type, name);
  });
}

test('bytea is hexadecimal digits', () => {
  assert.match(frame.payload.data.record.b, /^(\\x)?0102ff$/);
});

test('a large value that an UPDATE leaves alone is never sent as null', async () => {
  await createTable('toasted', 'id int PRIMARY KEY, big text, n int', { roles: ['e2e_reader'] });
  await sql('ALTER TABLE toasted ALTER big SET STORAGE EXTERNAL');
  await client.joinOk('toast', [{ event: '*', schema: 'public', table: 'toasted' }]);
  await sql("INSERT INTO toasted VALUES (1, repeat('x', 100000), 1)");
  await sql('UPDATE toasted SET n = 2');
  await client.frame('the UPDATE', () => client.changes('toast').length === 2);
  const [inserted, updated] = client.changes('toast');
  assert.equal(inserted.record.big.length, 100_000);
  assert.equal(updated.record.n, 2);
  if ('big' in updated.record) assert.equal(updated.record.big.length, 100_000);
});

test('columns that are added, renamed, retyped and dropped show at once', async () => {
  await createTable('changing', 'id int PRIMARY KEY, a text', { roles: ['e2e_reader'] });
  await client.joinOk('ddl', [{ event: '*', schema: 'public', table: 'changing' }]);
  const steps = [
    ["INSERT INTO changing VALUES (1, 'x')", { id: 1, a: 'x' }],
    ['ALTER TABLE changing ADD b int DEFAULT 42; INSERT INTO changing (id) VALUES (2)', { id: 2, a: null, b: 42 }],
    ['ALTER TABLE changing RENAME a TO c; UPDATE changing SET b = 1 WHERE id = 1', { id: 1, c: 'x', b: 1 }],
    ['ALTER TABLE changing ALTER b TYPE text; INSERT INTO changing VALUES (3, NULL, 7)', { id: 3, c: null, b: '7' }],
    ['ALTER TABLE changing DROP b; INSERT INTO changing VALUES (4, NULL)', { id: 4, c: null }],
  ];
  for (const [n, [statement, wanted]] of steps.entries()) {
    await sql(statement);
    await client.frame(`step ${n}`, () => client.changes('ddl').length > n);
    assert.deepEqual(client.changes('ddl')[n].record, wanted, statement);
  }
});
