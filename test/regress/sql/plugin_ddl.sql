--
-- Tables that change between and within transactions, and names of all kinds
--
CREATE TABLE ddl (id int PRIMARY KEY, v text);
CREATE PUBLICATION regress_ddl FOR TABLE ddl;
SELECT 'ok' AS slot FROM pg_create_logical_replication_slot('regress_ddl', 'rtsync');
\set get 'SELECT data FROM pg_logical_slot_get_changes(''regress_ddl'', NULL, NULL, ''publication'', ''regress_ddl'', ''include-transaction'', ''off'', ''include-types'', ''on'')'

-- between transactions, all read at the end: each change with its own shape
INSERT INTO ddl VALUES (1, 'one');
ALTER TABLE ddl ADD COLUMN n int DEFAULT 42;
INSERT INTO ddl VALUES (2, 'two', 2);
UPDATE ddl SET v = 'eins' WHERE id = 1;
ALTER TABLE ddl RENAME COLUMN v TO word;
INSERT INTO ddl VALUES (3, 'three', 3);
ALTER TABLE ddl ALTER COLUMN n TYPE text USING 'n' || n;
INSERT INTO ddl VALUES (4, 'four', 'n4');
ALTER TABLE ddl DROP COLUMN word;
INSERT INTO ddl VALUES (5, 'n5');
ALTER TABLE ddl ALTER COLUMN id TYPE bigint;
INSERT INTO ddl VALUES (5000000000, 'n5000000000');
ALTER TABLE ddl RENAME TO ddl_renamed;
INSERT INTO ddl_renamed VALUES (7, 'n7');
CREATE SCHEMA regress_ddl_schema;
ALTER TABLE ddl_renamed SET SCHEMA regress_ddl_schema;
INSERT INTO regress_ddl_schema.ddl_renamed VALUES (8, 'n8');
ALTER SCHEMA regress_ddl_schema RENAME TO "Regress DDL";
INSERT INTO "Regress DDL".ddl_renamed VALUES (9, 'n9');
:get;

-- within one
BEGIN;
UPDATE "Regress DDL".ddl_renamed SET n = 'm1' WHERE id = 1;
ALTER TABLE "Regress DDL".ddl_renamed ADD COLUMN extra jsonb DEFAULT '{"a": 1}';
UPDATE "Regress DDL".ddl_renamed SET n = 'm2' WHERE id = 2;
SAVEPOINT s;
ALTER TABLE "Regress DDL".ddl_renamed DROP COLUMN extra;
UPDATE "Regress DDL".ddl_renamed SET n = 'lost' WHERE id = 2;
ROLLBACK TO s;
UPDATE "Regress DDL".ddl_renamed SET extra = '3' WHERE id = 3;
ALTER TABLE "Regress DDL".ddl_renamed RENAME COLUMN extra TO more;
ALTER TABLE "Regress DDL".ddl_renamed ALTER COLUMN more TYPE text;
UPDATE "Regress DDL".ddl_renamed SET more = 'four' WHERE id = 4;
ALTER TABLE "Regress DDL".ddl_renamed SET SCHEMA public;
ALTER TABLE ddl_renamed RENAME TO ddl;
ALTER TABLE ddl DROP COLUMN n;
DELETE FROM ddl WHERE id = 5;
CREATE TABLE ddl_new (id int PRIMARY KEY);
ALTER PUBLICATION regress_ddl ADD TABLE ddl_new;
INSERT INTO ddl_new VALUES (1);
COMMIT;
:get;

-- a rewrite is no change of rows
VACUUM FULL ddl;
CLUSTER ddl USING ddl_pkey;
ALTER TABLE ddl ADD COLUMN volatile_default float8 DEFAULT random();
:get;
ALTER TABLE ddl DROP COLUMN volatile_default;

-- rows written before a column was added, old row known
ALTER TABLE ddl REPLICA IDENTITY FULL;
ALTER TABLE ddl ADD COLUMN late int DEFAULT 77, ADD COLUMN later text;
UPDATE ddl SET late = 78 WHERE id = 1;
DELETE FROM ddl WHERE id = 2;
:get;

-- a type gets another name, a domain gets another constraint
CREATE TYPE regress_ddl_type AS ENUM ('a');
ALTER TABLE ddl ADD COLUMN e regress_ddl_type, DROP COLUMN late, DROP COLUMN later, DROP COLUMN more;
UPDATE ddl SET e = 'a' WHERE id = 1;
ALTER TYPE regress_ddl_type RENAME TO "Regress type";
UPDATE ddl SET e = NULL WHERE id = 1;
BEGIN;
ALTER TYPE "Regress type" RENAME VALUE 'a' TO 'b';
ALTER TYPE "Regress type" RENAME TO regress_ddl_type;
UPDATE ddl SET e = 'b' WHERE id = 1;
COMMIT;
:get;

-- dropped and made again under the same name
DROP TABLE ddl;
CREATE TABLE ddl (key text PRIMARY KEY);
INSERT INTO ddl VALUES ('not published yet');
ALTER PUBLICATION regress_ddl ADD TABLE ddl;
INSERT INTO ddl VALUES ('published');
DROP TABLE ddl;
:get;

-- generated columns are stored and seen like others
CREATE TABLE ddl_generated (id int PRIMARY KEY, twice int GENERATED ALWAYS AS (id * 2) STORED, i int GENERATED ALWAYS AS IDENTITY);
ALTER PUBLICATION regress_ddl ADD TABLE ddl_generated;
INSERT INTO ddl_generated VALUES (1);
UPDATE ddl_generated SET id = 2;
:get;

-- names
CREATE SCHEMA "Schéma ""quoted""";
CREATE TABLE "Schéma ""quoted"""."Tablé 表 \ /
" ("Ключ" int PRIMARY KEY, "a""b" text, "with space" int, "emoji 😀" int, "tab	" int);
ALTER TABLE "Schéma ""quoted"""."Tablé 表 \ /
" REPLICA IDENTITY FULL;
ALTER PUBLICATION regress_ddl ADD TABLE "Schéma ""quoted"""."Tablé 表 \ /
";
INSERT INTO "Schéma ""quoted""" ."Tablé 表 \ /
" VALUES (1, 'ä', 2, 3, 4);
DELETE FROM "Schéma ""quoted""" ."Tablé 表 \ /
";
:get;

-- inheritance: rows are those of the table that holds them
CREATE TABLE ddl_parent (id int PRIMARY KEY);
CREATE TABLE ddl_child (extra text, PRIMARY KEY (id)) INHERITS (ddl_parent);
ALTER PUBLICATION regress_ddl ADD TABLE ddl_parent;
INSERT INTO ddl_parent VALUES (1);
INSERT INTO ddl_child VALUES (2, 'child');
UPDATE ddl_parent SET id = id + 10;
:get;

-- a table with no column, and one with no column left
CREATE TABLE ddl_empty ();
ALTER TABLE ddl_empty REPLICA IDENTITY FULL;
ALTER PUBLICATION regress_ddl ADD TABLE ddl_empty;
INSERT INTO ddl_empty DEFAULT VALUES;
ALTER TABLE ddl_empty ADD COLUMN a int, ADD COLUMN b int;
UPDATE ddl_empty SET a = 1;
ALTER TABLE ddl_empty DROP COLUMN a, DROP COLUMN b;
DELETE FROM ddl_empty;
:get;

SELECT pg_drop_replication_slot('regress_ddl');
DROP PUBLICATION regress_ddl;
DROP TABLE ddl_new, ddl_generated, ddl_parent, ddl_child, ddl_empty;
DROP TYPE regress_ddl_type;
DROP SCHEMA "Regress DDL";
SET client_min_messages = warning;
DROP SCHEMA "Schéma ""quoted""" CASCADE;
