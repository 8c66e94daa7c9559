--
-- Values of every type family: exactly what to_jsonb() gives
--
CREATE TYPE regress_mood AS ENUM ('sad', 'so "so"', 'froh');
CREATE TYPE regress_pair AS (a int, "b c" text, m regress_mood, t timestamptz);
CREATE DOMAIN regress_dint AS int CHECK (VALUE > 0);
CREATE DOMAIN regress_dtext AS regress_dint;
CREATE DOMAIN regress_darr AS numeric[];
CREATE DOMAIN regress_dpair AS regress_pair;
CREATE DOMAIN regress_dbytea AS bytea;
CREATE DOMAIN regress_dmood AS regress_mood;

-- a type with a cast to json that is written in C, as extensions have them
SET client_min_messages = warning;
CREATE TYPE regress_jtext;
CREATE FUNCTION regress_jtext_in(cstring) RETURNS regress_jtext LANGUAGE internal IMMUTABLE STRICT AS 'textin';
CREATE FUNCTION regress_jtext_out(regress_jtext) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT AS 'textout';
CREATE TYPE regress_jtext (INPUT = regress_jtext_in, OUTPUT = regress_jtext_out, LIKE = text);
RESET client_min_messages;
CREATE FUNCTION regress_jtext_json(regress_jtext) RETURNS json LANGUAGE internal IMMUTABLE STRICT AS 'btrim1';
CREATE CAST (regress_jtext AS json) WITH FUNCTION regress_jtext_json(regress_jtext);
CREATE DOMAIN regress_djtext AS regress_jtext;
CREATE TYPE regress_jpair AS (j regress_jtext, a regress_djtext[]);

-- one whose cast is written in SQL
CREATE TYPE regress_color AS ENUM ('red', 'green');
CREATE FUNCTION regress_color_json(regress_color) RETURNS json
LANGUAGE plpgsql AS $$ BEGIN RAISE 'called'; END $$;
CREATE TYPE regress_cpair AS (c regress_color);

CREATE TABLE typ (
  id serial PRIMARY KEY,
  i2 int2, i4 int4, i8 int8, num numeric, num2 numeric(12,3), f4 float4, f8 float8,
  mon money, o oid, ch "char", n name, t text, vc varchar(30), bp char(6),
  bo boolean, d date, ti time, tz timetz, ts timestamp, tstz timestamptz, iv interval,
  u uuid, j json, jb jsonb, by bytea,
  ip inet, ci cidr, ma macaddr, ma8 macaddr8, bi bit(5), vb varbit,
  po point, bx box, pa path, ls pg_lsn, tid tid, x xid8, tv tsvector, tq tsquery, jp jsonpath, rc regclass,
  en regress_mood, co regress_pair, di regress_dint, dt regress_dtext, da regress_darr,
  dp regress_dpair, db regress_dbytea, de regress_dmood,
  jt regress_jtext, jd regress_djtext, jta regress_jtext[], jp2 regress_jpair, jpa regress_jpair[],
  cl regress_color,
  r4 int4range, r8 int8range, rn numrange, rd daterange, rt tsrange, rz tstzrange, mr int4multirange, mz tstzmultirange,
  ia int[], at text[], aj jsonb[], ats timestamptz[], aen regress_mood[], aco regress_pair[], acl regress_color[], acp regress_cpair[],
  abo boolean[], auu uuid[], aby bytea[], af float8[], ar tsrange[], i2v int2vector, ov oidvector, ajs json[]
);
CREATE PUBLICATION regress_typ FOR TABLE typ;
SELECT 'ok' AS slot FROM pg_create_logical_replication_slot('regress_types', 'rtsync');

-- all NULL
INSERT INTO typ DEFAULT VALUES;
-- ordinary values
INSERT INTO typ VALUES (DEFAULT,
  1, 2, 3, 4.50, 5.125, 6.5, 7.25,
  '12.34', 26, 'q', 'some name', 'text', 'varchar', 'bp',
  true, '2026-02-28', '13:14:15.16', '13:14:15.16+02', '2026-02-28 01:02:03.000004', '2026-02-28 01:02:03.4+00', '1 year 2 mons 3 days 04:05:06.7',
  'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '{"a": [1, 2.50, "x"], "a": null}', '{"b": {"c": [true, "d"]}, "a": 1.50}', '\x00ff5c22',
  '192.168.1.5/24', '10.0.0.0/8', '08:00:2b:01:02:03', '08:00:2b:01:02:03:04:05', B'10101', B'011',
  '(1,2.5)', '(1,1),(0,0)', '[(0,0),(1,1)]', '16/B374D848', '(0,1)', '42', 'a fat cat', 'fat & rat', '$.a[*] ? (@ > 1)', 'pg_class',
  'so "so"', ROW(1, E'b\nc', 'froh', '2026-02-28 01:02:03+00'), 5, 6, '{1.10,NULL,NaN}',
  ROW(NULL, NULL, 'sad', NULL), '\xdeadbeef', 'froh',
  E' {"a":\n ["x"]} ', '5', ARRAY['{}', NULL, 'null']::regress_jtext[], ROW('true', '{1,2}'), ARRAY[ROW(NULL, NULL), NULL, ROW('"s"', '{{"{}"},{3}}')]::regress_jpair[],
  'green',
  '[1,5)', '(,7]', '[1.5,2.5]', '[2026-01-01,2026-02-01)', '["2026-01-01 00:00:01",infinity]', '["2026-01-01 00:00:01+00",)', '{[1,2),[5,9)}', '{["2026-01-01 00:00+00","2026-01-02 00:00+00")}',
  '{1,NULL,3}', '{a,NULL,"q\"uote",""}', ARRAY['{"a":1}', '[2]', 'null']::jsonb[], '{2026-02-28 01:02:03+00,infinity}', '{sad,froh}',
  ARRAY[ROW(1, 'x', 'sad', NULL), NULL]::regress_pair[], '{red,green}', ARRAY[ROW('red')]::regress_cpair[],
  '{t,f,NULL}', '{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}', ARRAY['\x01', '\xff']::bytea[], '{1.5,NaN,-Infinity,1e300}', '{"[2026-01-01,2026-01-02)"}', '1 2 3', '4 5', ARRAY['{"k": 1}', '"s"']::json[]);
-- extremes
INSERT INTO typ (i2, i4, i8, num, f4, f8, t, bo, d, ts, tstz, iv, by, j, jb, r4, mr, ia, at, po) VALUES
  (-32768, -2147483648, -9223372036854775808, -0.00000000000000000000000000000001, -1.17549435e-38, -2.2250738585072014e-308,
   '', false, 'infinity', 'infinity', 'infinity', '-178000000 years', '', '""', '""', 'empty', '{}', '{}', '{}', '(NaN,-Infinity)'),
  (32767, 2147483647, 9223372036854775807, 'NaN', 'NaN', 'NaN',
   E'"\\/\b\f\n\r\t\x01\x1f\x7f''', false, '-infinity', '-infinity', '-infinity', '-00:00:00.000001', '\x', 'null', 'null', '(,)', '{(,)}', '{{1,2},{3,NULL}}', '{{{a},{b}},{{NULL},{d}}}', NULL),
  (0, 0, 0, 'Infinity', 'Infinity', 'Infinity', repeat('0123456789', 30), true, '4713-01-01 BC', '4713-01-01 00:00:00 BC', '294276-12-31 23:59:59.999999+00', '0', '\x00', E'[\n1 ,\r\n\t2\n]', '123.4500', NULL, NULL, '[2:3]={7,8}', '{"null",NULL}', NULL),
  (1, -1, 1, '-Infinity', '-Infinity', '-Infinity', E'8 bytes.16 bytes"\\ end', NULL, '5874897-12-31', '0001-12-31 BC', '0044-03-15 12:00:00+00 BC', 'P1Y', NULL, '1e400', '-1e-10', NULL, NULL, NULL, NULL, NULL),
  (NULL, NULL, 9007199254740993, 12345678901234567890123456789012345678901234567890.00000000000000000000000000000000000000000123456789,
   3.4028235e38, 1.7976931348623157e308, 'žluťoučký 漢字 😀 ' || U&'\2028\2029', NULL, NULL, NULL, '1883-11-18 12:00:00+00', NULL, NULL, '  {"ž": "\u017e"}  ', '"\u00e9\ud83d\ude00\n"', NULL, NULL, NULL, '{ž,漢}', NULL),
  (NULL, NULL, NULL, 1e131000, 1e-45, 5e-324, NULL, NULL, NULL, NULL, '2026-03-08 10:30:00+00', NULL, NULL, '-0', '0', NULL, NULL, NULL, NULL, NULL),
  (NULL, NULL, NULL, 100000, -0.0, '-0', NULL, NULL, NULL, NULL, NULL, NULL, NULL, '"a\/b\u0001"', '[]', NULL, NULL, NULL, NULL, NULL),
  (NULL, NULL, NULL, 0.000, 1e10, 123456789012345678, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '{}', '{}', NULL, NULL, NULL, NULL, NULL);

-- which columns differ, as decoded by the slot, from to_jsonb() of the row?
CREATE FUNCTION regress_differences() RETURNS TABLE (id int, col text, got jsonb, wanted jsonb)
LANGUAGE sql VOLATILE AS $$
  WITH decoded AS MATERIALIZED (
    SELECT data::jsonb->'record' AS r
      FROM pg_logical_slot_peek_changes('regress_types', NULL, NULL,
                                        'publication', 'regress_typ',
                                        'include-transaction', 'off')),
  g AS (SELECT (r->>'id')::int AS id, key, value FROM decoded, jsonb_each(r)),
  w AS (SELECT typ.id, key, value FROM typ, jsonb_each(to_jsonb(typ)))
  SELECT id, key, g.value, w.value FROM g FULL JOIN w USING (id, key)
   WHERE g.value IS DISTINCT FROM w.value
$$;

SELECT count(*) AS rows, count(*) FILTER (WHERE data LIKE E'%\n%') AS of_more_lines
  FROM pg_logical_slot_peek_changes('regress_types', NULL, NULL,
                                    'publication', 'regress_typ',
                                    'include-transaction', 'off');
SELECT * FROM regress_differences();

-- under other settings, too
SET DateStyle = 'SQL, DMY';
SET TimeZone = 'Asia/Kathmandu';
SET IntervalStyle = 'iso_8601';
SET bytea_output = 'escape';
SET extra_float_digits = 0;
SELECT * FROM regress_differences();
SET extra_float_digits = -5;
SET TimeZone = 'America/New_York';
SELECT * FROM regress_differences();
RESET DateStyle;
RESET TimeZone;
RESET IntervalStyle;
RESET bytea_output;
RESET extra_float_digits;

-- some of it to look at
SELECT key, value FROM pg_logical_slot_peek_changes('regress_types', NULL, NULL,
                                    'publication', 'regress_typ',
                                    'include-transaction', 'off'),
       json_each(data::json->'record')
 WHERE data::json->'record'->>'id' = '2'
   AND key IN ('i8', 'num', 'f8', 't', 'd', 'ts', 'tstz', 'u', 'j', 'jb', 'by', 'co', 'jt', 'jpa', 'cl', 'acl', 'acp', 'r4', 'at', 'aco');

-- types pretty
SELECT key, value FROM pg_logical_slot_peek_changes('regress_types', NULL, NULL,
                                    'publication', 'regress_typ',
                                    'include-types', 'on',
                                    'include-transaction', 'off'),
       json_each_text(data::json->'types')
 WHERE data::json->'record'->>'id' = '1'
   AND key IN ('i2', 'num2', 'vc', 'bp', 'tz', 'tstz', 'vb', 'en', 'co', 'dt', 'acl', 'mr');

-- an enum value gets another name: what to_jsonb() gives now
ALTER TYPE regress_mood RENAME VALUE 'froh' TO 'happy';
-- a cast to json comes and goes
DROP CAST (regress_jtext AS json);
SELECT count(*) FROM pg_logical_slot_get_changes('regress_types', NULL, NULL, 'publication', 'regress_typ');
INSERT INTO typ (en, jt) VALUES ('happy', '1');
BEGIN;
CREATE CAST (regress_jtext AS json) WITH FUNCTION regress_jtext_json(regress_jtext);
INSERT INTO typ (en, jt, jta) VALUES ('happy', '1', '{1}');
COMMIT;
SELECT data::json->'record'->'en' AS en, data::json->'record'->'jt' AS jt, data::json->'record'->'jta' AS jta
  FROM pg_logical_slot_get_changes('regress_types', NULL, NULL,
                                   'publication', 'regress_typ',
                                   'include-transaction', 'off');

-- a composite type changes; values are as wide as they were written
ALTER TYPE regress_pair ADD ATTRIBUTE z int[] CASCADE;
INSERT INTO typ (co) VALUES (ROW(5, 'x', NULL, NULL, '{1}'));
BEGIN;
ALTER TYPE regress_pair DROP ATTRIBUTE "b c" CASCADE;
INSERT INTO typ (aco) VALUES (ARRAY[ROW(1, NULL, NULL, '{2}')]::regress_pair[]);
ALTER TYPE regress_pair RENAME ATTRIBUTE z TO last;
INSERT INTO typ (aco) VALUES (ARRAY[ROW(1, NULL, NULL, '{2}')]::regress_pair[]);
COMMIT;
SELECT data::json->'record'->'co' AS co, data::json->'record'->'aco' AS aco
  FROM pg_logical_slot_get_changes('regress_types', NULL, NULL,
                                   'publication', 'regress_typ',
                                   'include-transaction', 'off');

-- a cast that is not written in C cannot run here, and does not count
CREATE CAST (regress_color AS json) WITH FUNCTION regress_color_json(regress_color);
INSERT INTO typ (cl, acl, acp) VALUES ('red', '{green}', ARRAY[ROW('red')]::regress_cpair[]);
SELECT data::json->'record'->'cl' AS cl, data::json->'record'->'acl' AS acl, data::json->'record'->'acp' AS acp
  FROM pg_logical_slot_get_changes('regress_types', NULL, NULL,
                                   'publication', 'regress_typ',
                                   'include-transaction', 'off');

SELECT pg_drop_replication_slot('regress_types');
DROP PUBLICATION regress_typ;
DROP TABLE typ;
DROP FUNCTION regress_differences();
DROP CAST (regress_color AS json);
DROP FUNCTION regress_color_json(regress_color);
SET client_min_messages = warning;
DROP DOMAIN regress_dtext, regress_dint, regress_darr, regress_dpair, regress_dbytea, regress_dmood;
DROP TYPE regress_jtext, regress_jpair, regress_pair, regress_mood, regress_color, regress_cpair CASCADE;
