--
-- Publications of all forms: tables, schemas, operations, columns, row
-- filters, partitions
--
CREATE SCHEMA regress_pub1;
CREATE SCHEMA regress_pub2;
CREATE TABLE regress_pub1.a (id int PRIMARY KEY, v text);
CREATE TABLE regress_pub1.b (id int PRIMARY KEY, v text);
CREATE TABLE regress_pub2.a (id int PRIMARY KEY, v text);
CREATE UNLOGGED TABLE regress_pub1.unlogged (id int PRIMARY KEY);
SELECT 'ok' AS slot FROM pg_create_logical_replication_slot('regress_publication', 'rtsync');
\set peek 'SELECT data FROM pg_logical_slot_peek_changes(''regress_publication'', NULL, NULL, ''include-transaction'', ''off'', ''publication'', '
\set get 'SELECT data FROM pg_logical_slot_get_changes(''regress_publication'', NULL, NULL, ''include-transaction'', ''off'', ''publication'', '

-- FOR ALL TABLES, TABLES IN SCHEMA, FOR TABLE, and both
CREATE PUBLICATION regress_p_all FOR ALL TABLES;
CREATE PUBLICATION regress_p_schema FOR TABLES IN SCHEMA regress_pub1;
CREATE PUBLICATION regress_p_table FOR TABLE regress_pub1.b;
CREATE PUBLICATION regress_p_both FOR TABLES IN SCHEMA regress_pub2, TABLE regress_pub1.b;
CREATE PUBLICATION regress_p_empty;
INSERT INTO regress_pub1.a VALUES (1, '1a');
INSERT INTO regress_pub1.b VALUES (1, '1b');
INSERT INTO regress_pub2.a VALUES (1, '2a');
INSERT INTO regress_pub1.unlogged VALUES (1);
:peek 'regress_p_all');
:peek 'regress_p_schema');
:peek 'regress_p_table');
:peek 'regress_p_both');
:get 'regress_p_empty');

-- a publication that changes: each change as it was published then
INSERT INTO regress_pub1.a VALUES (2, 'not in regress_p_empty');
ALTER PUBLICATION regress_p_empty ADD TABLE regress_pub1.a;
INSERT INTO regress_pub1.a VALUES (3, 'in');
ALTER PUBLICATION regress_p_empty SET (publish = 'update, delete');
INSERT INTO regress_pub1.a VALUES (4, 'no INSERT published');
UPDATE regress_pub1.a SET v = 'updated' WHERE id = 4;
ALTER PUBLICATION regress_p_empty DROP TABLE regress_pub1.a;
DELETE FROM regress_pub1.a WHERE id = 4;
ALTER PUBLICATION regress_p_empty ADD TABLES IN SCHEMA regress_pub1;
DELETE FROM regress_pub1.a WHERE id = 3;
CREATE TABLE regress_pub1.later (id int PRIMARY KEY);
INSERT INTO regress_pub1.later VALUES (1);
UPDATE regress_pub1.later SET id = 2;
ALTER TABLE regress_pub1.later SET SCHEMA regress_pub2;
UPDATE regress_pub2.later SET id = 3;
:get 'regress_p_empty');

-- the name counts, too: what the publication of this name had then
UPDATE regress_pub1.a SET v = 'old name' WHERE id = 2;
ALTER PUBLICATION regress_p_empty RENAME TO regress_p_renamed;
UPDATE regress_pub1.a SET v = 'new name' WHERE id = 2;
:get 'regress_p_renamed');

-- before it existed nothing was published
INSERT INTO regress_pub1.a VALUES (5, 'before');
CREATE PUBLICATION regress_p_late FOR TABLE regress_pub1.a;
INSERT INTO regress_pub1.a VALUES (6, 'after');
BEGIN;
DROP PUBLICATION regress_p_late;
INSERT INTO regress_pub1.a VALUES (7, 'dropped');
CREATE PUBLICATION regress_p_late FOR TABLE regress_pub1.a;
INSERT INTO regress_pub1.a VALUES (8, 'made again');
COMMIT;
:get 'regress_p_late');

-- operations
CREATE PUBLICATION regress_p_i FOR TABLE regress_pub1.b WITH (publish = 'insert');
CREATE PUBLICATION regress_p_ud FOR TABLE regress_pub1.b WITH (publish = 'update, delete');
CREATE PUBLICATION regress_p_t FOR TABLE regress_pub1.b WITH (publish = 'truncate');
CREATE PUBLICATION regress_p_none FOR TABLE regress_pub1.b WITH (publish = '');
INSERT INTO regress_pub1.b VALUES (2, 'x');
UPDATE regress_pub1.b SET v = 'y' WHERE id = 2;
DELETE FROM regress_pub1.b WHERE id = 2;
TRUNCATE regress_pub1.b;
:peek 'regress_p_i');
:peek 'regress_p_ud');
:peek 'regress_p_t');
:get 'regress_p_none');

-- column lists
CREATE TABLE pub_columns (id int PRIMARY KEY, a text, b text, c int, g int GENERATED ALWAYS AS (c + 1) STORED);
CREATE PUBLICATION regress_p_columns FOR TABLE pub_columns (id, c);
INSERT INTO pub_columns VALUES (1, 'a', 'b', 2);
UPDATE pub_columns SET id = 2, a = 'hidden';
DELETE FROM pub_columns;
ALTER PUBLICATION regress_p_columns SET TABLE pub_columns (b, id);
INSERT INTO pub_columns VALUES (3, 'a', 'b', 2);
ALTER TABLE pub_columns DROP COLUMN a;
ALTER TABLE pub_columns ADD COLUMN d int DEFAULT 4;
INSERT INTO pub_columns VALUES (4, 'b', 2);
ALTER PUBLICATION regress_p_columns SET TABLE pub_columns;
INSERT INTO pub_columns VALUES (5, 'b', 2);
:get 'regress_p_columns');

-- a hidden column that is out of line and unchanged is not mentioned
ALTER TABLE pub_columns ALTER b SET STORAGE EXTERNAL;
ALTER PUBLICATION regress_p_columns SET TABLE pub_columns (id);
INSERT INTO pub_columns VALUES (6, repeat('x', 10000), 1);
UPDATE pub_columns SET c = 2 WHERE id = 6;
:get 'regress_p_columns');

-- row filters
CREATE TABLE pub_filter (id int PRIMARY KEY, n int, v text);
ALTER TABLE pub_filter REPLICA IDENTITY FULL;
CREATE PUBLICATION regress_p_filter FOR TABLE pub_filter WHERE (n > 10 AND v IS DISTINCT FROM 'hidden');
INSERT INTO pub_filter VALUES (1, 5, 'out'), (2, 15, 'in'), (3, NULL, 'unknown counts as out'), (4, 20, 'hidden'), (5, 30, NULL);
UPDATE pub_filter SET v = 'still out' WHERE id = 1;
UPDATE pub_filter SET n = 11, v = 'comes in' WHERE id = 1;
UPDATE pub_filter SET v = 'stays in' WHERE id = 1;
UPDATE pub_filter SET n = 1, v = 'goes out' WHERE id = 1;
DELETE FROM pub_filter WHERE id = 1;
DELETE FROM pub_filter WHERE id = 2;
:get 'regress_p_filter');

-- filter on the key only, as default replica identity wants it
ALTER TABLE pub_filter REPLICA IDENTITY DEFAULT;
ALTER PUBLICATION regress_p_filter SET TABLE pub_filter WHERE (id < 100);
INSERT INTO pub_filter VALUES (50, 1, 'in'), (150, 1, 'out');
UPDATE pub_filter SET v = 'changed' WHERE id >= 50;
UPDATE pub_filter SET id = 151 WHERE id = 50;
UPDATE pub_filter SET id = 51 WHERE id = 150;
UPDATE pub_filter SET id = 52 WHERE id = 51;
UPDATE pub_filter SET id = 152 WHERE id = 151;
DELETE FROM pub_filter WHERE id >= 50;
:get 'regress_p_filter');

-- a row that comes in with an unchanged value out of line
ALTER TABLE pub_filter REPLICA IDENTITY FULL;
ALTER TABLE pub_filter ALTER v SET STORAGE EXTERNAL;
ALTER PUBLICATION regress_p_filter SET TABLE pub_filter WHERE (n > 10 AND length(v) > 5);
INSERT INTO pub_filter VALUES (60, 1, repeat('x', 10000));
UPDATE pub_filter SET n = 100 WHERE id = 60;
UPDATE pub_filter SET n = 1 WHERE id = 60;
SELECT data::jsonb->>'action' AS action, data::jsonb->'record'->'n' AS n, length(data::jsonb->'record'->>'v'),
       data::jsonb->'old_record'->'n' AS old_n, length(data::jsonb->'old_record'->>'v'), data::jsonb->'unchanged' AS unchanged
  FROM pg_logical_slot_get_changes('regress_publication', NULL, NULL, 'include-transaction', 'off', 'publication', 'regress_p_filter');

-- the filter changes while the transaction runs; INSERT only, column not in the identity
ALTER TABLE pub_filter REPLICA IDENTITY DEFAULT;
ALTER PUBLICATION regress_p_filter SET (publish = 'insert');
BEGIN;
ALTER PUBLICATION regress_p_filter SET TABLE pub_filter WHERE (v = 'a');
INSERT INTO pub_filter VALUES (70, 1, 'a'), (71, 1, 'b');
ALTER PUBLICATION regress_p_filter SET TABLE pub_filter (id, v) WHERE (v = 'b');
INSERT INTO pub_filter VALUES (72, 1, 'a'), (73, 1, 'b');
COMMIT;
:get 'regress_p_filter');

-- a filter that fails: the reader's error, and the slot stays
ALTER PUBLICATION regress_p_filter SET TABLE pub_filter WHERE (1 / n > 0);
INSERT INTO pub_filter VALUES (80, 0, 'a');
\set VERBOSITY terse
:get 'regress_p_filter');
\set VERBOSITY default
:get 'regress_p_all');

-- partitions, as themselves
CREATE TABLE pub_part (id int, region text, v text, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
CREATE TABLE pub_part_eu PARTITION OF pub_part FOR VALUES IN ('eu');
-- another order of columns, and a dropped one
CREATE TABLE pub_part_us (gone int, v text, region text NOT NULL, id int NOT NULL, PRIMARY KEY (id, region));
ALTER TABLE pub_part_us DROP COLUMN gone;
ALTER TABLE pub_part ATTACH PARTITION pub_part_us FOR VALUES IN ('us');
CREATE TABLE pub_part_rest PARTITION OF pub_part DEFAULT PARTITION BY RANGE (id);
CREATE TABLE pub_part_rest1 PARTITION OF pub_part_rest FOR VALUES FROM (0) TO (100);
CREATE PUBLICATION regress_p_leaves FOR TABLE pub_part;
CREATE PUBLICATION regress_p_root FOR TABLE pub_part WITH (publish_via_partition_root = true);
CREATE PUBLICATION regress_p_middle FOR TABLE pub_part_rest, pub_part_us WITH (publish_via_partition_root = true);
CREATE PUBLICATION regress_p_allroot FOR ALL TABLES WITH (publish_via_partition_root = true);
CREATE PUBLICATION regress_p_schemaroot FOR TABLES IN SCHEMA public WITH (publish_via_partition_root = true);
CREATE PUBLICATION regress_p_leaf FOR TABLE pub_part_eu;
INSERT INTO pub_part VALUES (1, 'eu', 'one'), (2, 'us', 'two'), (3, 'as', 'three');
UPDATE pub_part SET v = upper(v);
UPDATE pub_part SET id = 12 WHERE id = 2;
-- to another partition: a DELETE and an INSERT
UPDATE pub_part SET region = 'us' WHERE id = 1;
DELETE FROM pub_part WHERE region = 'us';
TRUNCATE pub_part_eu;
TRUNCATE pub_part;
:peek 'regress_p_leaves');
:peek 'regress_p_root');
:peek 'regress_p_middle');
SELECT (SELECT array_agg(data) FROM pg_logical_slot_peek_changes('regress_publication', NULL, NULL, 'publication', 'regress_p_allroot')) =
       (SELECT array_agg(data) FROM pg_logical_slot_peek_changes('regress_publication', NULL, NULL, 'publication', 'regress_p_root')) AS allroot_same,
       (SELECT array_agg(data) FROM pg_logical_slot_peek_changes('regress_publication', NULL, NULL, 'publication', 'regress_p_schemaroot')) =
       (SELECT array_agg(data) FROM pg_logical_slot_peek_changes('regress_publication', NULL, NULL, 'publication', 'regress_p_root')) AS schemaroot_same;
:get 'regress_p_leaf');

-- the root's columns and rows; the root changes, its partitions do not
ALTER PUBLICATION regress_p_root SET TABLE pub_part (id, region) WHERE (id < 10);
INSERT INTO pub_part VALUES (1, 'us', 'in'), (20, 'us', 'out'), (21, 'eu', 'out'), (2, 'eu', 'in');
UPDATE pub_part SET id = 22 WHERE id = 1;
UPDATE pub_part SET id = 3 WHERE id = 22;
ALTER TABLE pub_part RENAME TO pub_part_renamed;
INSERT INTO pub_part_renamed VALUES (4, 'us', 'in');
:get 'regress_p_root');
ALTER TABLE pub_part_renamed RENAME TO pub_part;

-- identity by partition; unchanged values out of line are mapped, too
ALTER PUBLICATION regress_p_root SET TABLE pub_part;
ALTER TABLE pub_part_us REPLICA IDENTITY FULL;
ALTER TABLE pub_part_us ALTER v SET STORAGE EXTERNAL;
ALTER TABLE pub_part_eu ALTER v SET STORAGE EXTERNAL;
TRUNCATE pub_part;
INSERT INTO pub_part VALUES (1, 'us', repeat('u', 10000)), (2, 'eu', repeat('e', 10000));
UPDATE pub_part SET id = id + 10;
SELECT data::jsonb->>'action' AS action, data::jsonb->>'table' AS table, data::jsonb->'record'->'id' AS id, left(data::jsonb->'record'->>'v', 3) AS v,
       data::jsonb->'old_record'->'id' AS old_id, data::jsonb->'old_key' AS old_key, data::jsonb->'unchanged' AS unchanged
  FROM pg_logical_slot_get_changes('regress_publication', NULL, NULL, 'include-transaction', 'off', 'publication', 'regress_p_root');

-- attached and detached
ALTER TABLE pub_part DETACH PARTITION pub_part_eu;
INSERT INTO pub_part_eu VALUES (30, 'eu', 'alone');
ALTER TABLE pub_part ATTACH PARTITION pub_part_eu FOR VALUES IN ('eu');
INSERT INTO pub_part_eu VALUES (31, 'eu', 'again');
:get 'regress_p_root');

SELECT pg_drop_replication_slot('regress_publication');
DROP PUBLICATION regress_p_all, regress_p_schema, regress_p_table, regress_p_both, regress_p_renamed, regress_p_late,
  regress_p_i, regress_p_ud, regress_p_t, regress_p_none, regress_p_columns, regress_p_filter,
  regress_p_leaves, regress_p_root, regress_p_middle, regress_p_allroot, regress_p_schemaroot, regress_p_leaf;
DROP TABLE pub_columns, pub_filter, pub_part;
SET client_min_messages = warning;
DROP SCHEMA regress_pub1, regress_pub2 CASCADE;
