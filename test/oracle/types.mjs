// The types of columns: values of each, as the text of a literal, from pools so
// small that filters hit them.
//
//	ordered		can be compared: all filter operators but the patterns
//	pattern		has LIKE and regular expressions
//	array		has no array type of its own, so no "in"
//
// There is no JSON null among the values: the log of versions could not tell
// it from NULL.
//
// "schema" types are made by the generator in the schema of a run.

const type = (name, values, options = {}) => ({ name, values, ordered: true, ...options });

export const types = [
  type('int2', ['0', '1', '-7', '32767']),
  type('int4', ['0', '1', '5', '-2147483648']),
  type('int8', ['0', '12', '4503599627370496']),
  type('numeric', ['0', '1.50', '-3.25', '1e20', 'NaN']),
  type('numeric(8,2)', ['0', '1.5', '-3.25']),
  type('float4', ['0', '1.5', '-0.1', 'NaN']),
  type('float8', ['0', '2.5', '1e300', '-Infinity']),
  type('money', ['1.00', '2.50', '-3.00']),
  type('oid', ['0', '7', '4294967295']),
  type('bool', ['true', 'false'], { boolean: true }),
  type('text', ['', 'a', 'b,c', 'x"y', "it's", 'ÄÖ\u{1F600}', 'back\\slash', '(paren)', 'null', ' a '], { pattern: true }),
  type('varchar(12)', ['', 'a', 'ab', 'Abc'], { pattern: true }),
  type('char(4)', ['a', 'ab', 'abcd'], { pattern: true }),
  type('name', ['a', 'pg_class'], { pattern: true }),
  type('uuid', ['00000000-0000-4000-8000-000000000001', '00000000-0000-4000-8000-0000000000ff']),
  type('date', ['2026-01-02', '1999-12-31', 'infinity']),
  type('time', ['00:00:00', '12:34:56.789']),
  type('timetz', ['00:00:00+00', '12:34:56.789+02']),
  type('timestamp', ['2026-01-02 03:04:05', '1999-12-31 23:59:59.999999', '-infinity']),
  type('timestamptz', ['2026-01-02 03:04:05+00', '1999-12-31 23:59:59.5+05:30', 'infinity']),
  type('interval', ['1 day', '2 hours 3 minutes', '-1 mon']),
  type('json', ['{"a": 1}', '[1,  2]', 'true', '"text"'], { ordered: false }),
  type('jsonb', ['{"a": 1}', '[1, 2]', 'true', '"text"']),
  type('bytea', ['\\x', '\\x0102ff'], { bytea: true }),
  type('int4[]', ['{}', '{1,2}', '{1,NULL}', '{{1,2},{3,4}}'], { array: true }),
  type('text[]', ['{}', '{a,"b,c"}', '{NULL,"q\\"q"}'], { array: true }),
  type('int4range', ['empty', '[1,5)', '(,3)']),
  type('tstzrange', ['empty', '["2026-01-02 03:04:05+00","2026-01-03 00:00:00+00")']),
  type('int4multirange', ['{}', '{[1,3),[5,8)}']),
  type('inet', ['10.0.0.1', '10.0.0.0/8', '::1']),
  type('cidr', ['10.0.0.0/8', '::/0']),
  type('macaddr', ['08:00:2b:01:02:03']),
  type('bit(4)', ['0101', '1111']),
  type('varbit', ['', '01']),
  type('point', ['(1,2)', '(0.5,-3)'], { ordered: false }),
  type('tsvector', ["'a' 'b'", "'a':1 'c':2"]),
  type('mood', ['sad', 'ok', 'happy'], { schema: true }),
  type('positive', ['1', '2', '77'], { schema: true }),
  type('short', ['', 'x', 'yy'], { schema: true, pattern: true }),
  type('pair', ['(1,a)', '(2,"b c")', '(,)'], { schema: true }),
];

export const typeNamed = (name) => types.find((t) => t.name === name);

// What the types of a run are made with
export const schemaTypes = (schema) => `
  CREATE TYPE ${schema}.mood AS ENUM ('sad', 'ok', 'happy');
  CREATE DOMAIN ${schema}.positive AS int4 CHECK (VALUE > 0);
  CREATE DOMAIN ${schema}.short AS text CHECK (length(VALUE) < 40);
  CREATE TYPE ${schema}.pair AS (a int4, b text);`;

// For primary keys
export const keyTypes = ['int4', 'int8', 'text', 'uuid', 'date', 'numeric(8,2)', 'mood', 'varchar(12)'];
