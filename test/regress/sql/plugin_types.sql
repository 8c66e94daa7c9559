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

-- an enum with a cast to json, which to_jsonb() uses
CREATE TYPE regress_color AS ENUM ('red', 'green');
CREATE FUNCTION regress_color_json(regress_color) RETURNS json
LANGUAGE plpgsql STABLE AS $$
BEGIN
  RETURN format(E'{"color":\n "%s"}', $1)::json;
END $$;
CREATE CAST (regress_color AS json) WITH FUNCTION regress_color_json(regress_color);
CREATE DOMAIN regress_dcolor AS regress_color;

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
  cl regress_color, dc regress_dcolor,
  r4 int4range, r8 int8range, rn numrange, rd daterange, rt tsrange, rz tstzrange, mr int4multirange, mz tstzmultirange,
  ai int[], at text[], aj jsonb[], ats timestamptz[], aen regress_mood[], aco regress_pair[], acl regress_color[],
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
  'green', 'red',
  '[1,5)', '(,7]', '[1.5,2.5]', '[2026-01-01,2026-02-01)', '["2026-01-01 00:00:01",infinity]', '["2026-01-01 00:00:01+00",)', '{[1,2),[5,9)}', '{["2026-01-01 00:00+00","2026-01-02 00:00+00")}',
  '{1,NULL,3}', '{a,NULL,"q\"uote",""}', ARRAY['{"a":1}', '[2]', 'null']::jsonb[], '{2026-02-28 01:02:03+00,infinity}', '{sad,froh}',
  ARRAY[ROW(1, 'x', 'sad', NULL), NULL]::regress_pair[], '{red,green}',
  '{t,f,NULL}', '{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}', ARRAY['\x01', '\xff']::bytea[], '{1.5,NaN,-Infinity,1e300}', '{"[2026-01-01,2026-01-02)"}', '1 2 3', '4 5', ARRAY['{"k": 1}', '"s"']::json[]);
-- extremes
INSERT INTO typ (i2, i4, i8, num, f4, f8, t, bo, d, ts, tstz, iv, by, j, jb, r4, mr, ai, at, po) VALUES
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
   AND key IN ('i8', 'num', 'f8', 't', 'd', 'ts', 'tstz', 'u', 'j', 'jb', 'by', 'co', 'cl', 'acl', 'r4', 'at', 'aco');

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
DROP CAST (regress_color AS json);
SELECT count(*) FROM pg_logical_slot_get_changes('regress_types', NULL, NULL, 'publication', 'regress_typ');
INSERT INTO typ (en, cl) VALUES ('happy', 'red');
BEGIN;
CREATE CAST (regress_color AS json) WITH FUNCTION regress_color_json(regress_color);
INSERT INTO typ (en, cl) VALUES ('happy', 'red');
COMMIT;
SELECT data::json->'record'->'en' AS en, data::json->'record'->'cl' AS cl
  FROM pg_logical_slot_get_changes('regress_types', NULL, NULL,
                                   'publication', 'regress_typ',
                                   'include-transaction', 'off');

-- the function behind a cast is code of an ordinary user: it runs as the
-- table's owner, and cannot get out of that
CREATE ROLE regress_type_owner;
ALTER TABLE typ OWNER TO regress_type_owner;
CREATE OR REPLACE FUNCTION regress_color_json(regress_color) RETURNS json
LANGUAGE plpgsql AS $$
DECLARE
  problem text;
BEGIN
  BEGIN
    PERFORM set_config('role', 'none', false);
  EXCEPTION WHEN OTHERS THEN
    problem := SQLERRM;
  END;
  PERFORM set_config('search_path', 'regress_elsewhere', false);
  RETURN json_build_object('user', current_user, 'problem', problem);
END $$;
INSERT INTO typ (cl) VALUES ('red');
SELECT data::json->'record'->'cl' AS cl
  FROM pg_logical_slot_get_changes('regress_types', NULL, NULL,
                                   'publication', 'regress_typ',
                                   'include-transaction', 'off');
SELECT current_user = session_user AS still_me, current_setting('search_path') AS search_path;
-- an error there is an error of the reader, whose slot stays where it is
CREATE OR REPLACE FUNCTION regress_color_json(regress_color) RETURNS json
LANGUAGE plpgsql AS $$ BEGIN RETURN json_build_object('x', 1/0); END $$;
INSERT INTO typ (cl) VALUES ('red');
\set VERBOSITY terse
SELECT data FROM pg_logical_slot_get_changes('regress_types', NULL, NULL, 'publication', 'regress_typ');
\set VERBOSITY default
SELECT current_user = session_user AS still_me;
-- (the function as it was then is what counts: the reader has to skip it)
SELECT 'ok' AS skipped FROM pg_replication_slot_advance('regress_types', pg_current_wal_lsn());
CREATE OR REPLACE FUNCTION regress_color_json(regress_color) RETURNS json
LANGUAGE sql AS $$ SELECT '"good again"'::json $$;
INSERT INTO typ (cl, acl) VALUES ('red', '{red}');
SELECT data::json->'record'->'cl' AS cl, data::json->'record'->'acl' AS acl
  FROM pg_logical_slot_get_changes('regress_types', NULL, NULL,
                                   'publication', 'regress_typ',
                                   'include-transaction', 'off');

SELECT pg_drop_replication_slot('regress_types');
DROP PUBLICATION regress_typ;
DROP TABLE typ;
DROP FUNCTION regress_differences();
DROP CAST (regress_color AS json);
DROP FUNCTION regress_color_json(regress_color);
DROP DOMAIN regress_dtext, regress_dint, regress_darr, regress_dpair, regress_dbytea, regress_dmood, regress_dcolor;
DROP TYPE regress_pair, regress_mood, regress_color;
DROP ROLE regress_type_owner;
