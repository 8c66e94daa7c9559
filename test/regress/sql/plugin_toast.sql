--
-- Values stored out of line, changed and not, and large ones
--
CREATE TABLE toasted (id int PRIMARY KEY, small text, big text, other text);
ALTER TABLE toasted ALTER big SET STORAGE EXTERNAL, ALTER other SET STORAGE EXTERNAL;
CREATE TABLE toasted_key (big text PRIMARY KEY, n int);
ALTER TABLE toasted_key ALTER big SET STORAGE EXTERNAL;
CREATE PUBLICATION regress_toast FOR TABLE toasted, toasted_key;
SELECT 'ok' AS slot FROM pg_create_logical_replication_slot('regress_toast', 'rtsync');

-- long strings by length and hash
CREATE FUNCTION regress_brief(j jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
  SELECT jsonb_object_agg(key, CASE WHEN jsonb_typeof(value) = 'object' THEN regress_brief(value)
                                    WHEN length(value #>> '{}') > 40 THEN to_jsonb(length(value #>> '{}') || ':' || md5(value #>> '{}'))
                                    ELSE value END)
    FROM jsonb_each(j)
$$;
\set get 'SELECT regress_brief(data::jsonb) FROM pg_logical_slot_get_changes(''regress_toast'', NULL, NULL, ''publication'', ''regress_toast'', ''include-transaction'', ''off'')'

SELECT length(v), md5(v) FROM (VALUES (repeat('0123456789', 1000)), (repeat('abcdefghij', 2000))) x(v);
INSERT INTO toasted VALUES (1, 'x', repeat('0123456789', 1000), NULL);
-- not changed: not in the record, and named
UPDATE toasted SET small = 'y';
-- one changed, one not
UPDATE toasted SET other = repeat('abcdefghij', 2000);
UPDATE toasted SET big = 'short', small = NULL;
-- the key changes, the value does not
UPDATE toasted SET id = 2;
DELETE FROM toasted;
:get;

-- with the whole old row known, unchanged values come from there
ALTER TABLE toasted REPLICA IDENTITY FULL;
INSERT INTO toasted VALUES (1, 'x', repeat('0123456789', 1000), repeat('abcdefghij', 2000));
UPDATE toasted SET small = 'y';
UPDATE toasted SET big = NULL;
UPDATE toasted SET big = 'short';
DELETE FROM toasted;
:get;

-- so do those of an identity that is itself out of line
INSERT INTO toasted_key VALUES (repeat('0123456789', 250), 1);
UPDATE toasted_key SET n = 2;
DELETE FROM toasted_key;
:get;

-- compressed values
ALTER TABLE toasted REPLICA IDENTITY DEFAULT;
ALTER TABLE toasted ALTER big SET STORAGE EXTENDED, ALTER other SET STORAGE MAIN;
INSERT INTO toasted VALUES (1, repeat('s', 5000), repeat('b', 1000000), repeat('o', 100000));
UPDATE toasted SET id = 2;
UPDATE toasted SET big = big || 'c';
:get;
DELETE FROM toasted;
:get;

-- json, arrays and composites out of line
CREATE TYPE regress_toast_pair AS (a text, b text[]);
CREATE TABLE toasted_types (id int PRIMARY KEY, j json, jb jsonb, a text[], by bytea, c regress_toast_pair);
ALTER PUBLICATION regress_toast ADD TABLE toasted_types;
INSERT INTO toasted_types
  SELECT 1, json_agg(x), jsonb_agg(x), array_agg(x), decode(string_agg(x, ''), 'hex'), ROW(string_agg(x, ''), array_agg(x))::regress_toast_pair
    FROM (SELECT md5(i::text) AS x FROM generate_series(1, 1000) i) s;
SELECT data::jsonb->'record' = to_jsonb(t) AS same
  FROM pg_logical_slot_get_changes('regress_toast', NULL, NULL, 'publication', 'regress_toast', 'include-transaction', 'off'), toasted_types t;

-- a value of 10 MB
INSERT INTO toasted SELECT 10, NULL, string_agg(md5(i::text), ''), NULL FROM generate_series(1, 327680) i;
SELECT length(big), md5(big) FROM toasted WHERE id = 10;
:get;
UPDATE toasted SET big = NULL, other = big WHERE id = 10;
SELECT data::jsonb->'record'->>'other' = other AS same, length(other)
  FROM pg_logical_slot_get_changes('regress_toast', NULL, NULL, 'publication', 'regress_toast', 'include-transaction', 'off'), toasted
 WHERE id = 10;

SELECT pg_drop_replication_slot('regress_toast');
DROP PUBLICATION regress_toast;
DROP TABLE toasted, toasted_key, toasted_types;
DROP TYPE regress_toast_pair;
DROP FUNCTION regress_brief(jsonb);
