--
-- What is known of the old row: replica identities, keys that change, tables
-- without primary key
--
CREATE TABLE ri_default (id int PRIMARY KEY, v text);
CREATE TABLE ri_two (a int, v text, b int, PRIMARY KEY (b, a));
CREATE TABLE ri_full (id int PRIMARY KEY, v text, w int);
CREATE TABLE ri_full_nopk (v text, w int);
CREATE TABLE ri_index (id int PRIMARY KEY, code text NOT NULL, v text);
CREATE UNIQUE INDEX ri_index_code ON ri_index (code) INCLUDE (v);
CREATE TABLE ri_nothing (id int PRIMARY KEY, v text);
CREATE TABLE ri_nopk (id int, v text);
CREATE TABLE ri_deferrable (id int PRIMARY KEY DEFERRABLE, v text);
ALTER TABLE ri_full REPLICA IDENTITY FULL;
ALTER TABLE ri_full_nopk REPLICA IDENTITY FULL;
ALTER TABLE ri_index REPLICA IDENTITY USING INDEX ri_index_code;
ALTER TABLE ri_nothing REPLICA IDENTITY NOTHING;
CREATE PUBLICATION regress_ri FOR TABLE ri_default, ri_two, ri_full, ri_full_nopk, ri_index;
CREATE PUBLICATION regress_ri_insert FOR TABLE ri_nothing, ri_nopk, ri_deferrable WITH (publish = 'insert, truncate');
SELECT 'ok' AS slot FROM pg_create_logical_replication_slot('regress_identity', 'rtsync');
\set get 'SELECT data FROM pg_logical_slot_get_changes(''regress_identity'', NULL, NULL, ''publication'', ''regress_ri'', ''include-transaction'', ''off'')'

-- default: the key, in an UPDATE only if it changes
INSERT INTO ri_default VALUES (1, 'one');
UPDATE ri_default SET v = 'eins';
UPDATE ri_default SET id = 2;
UPDATE ri_default SET id = 3, v = NULL;
DELETE FROM ri_default;
:get;

-- default, key of two columns in another order; one of them changes
INSERT INTO ri_two VALUES (1, 'x', 2);
UPDATE ri_two SET v = 'y';
UPDATE ri_two SET a = 5;
DELETE FROM ri_two;
:get;

-- full: the whole row, NULL included
INSERT INTO ri_full VALUES (1, 'one', NULL);
UPDATE ri_full SET w = 1;
UPDATE ri_full SET id = 2, v = NULL;
DELETE FROM ri_full;
INSERT INTO ri_full_nopk VALUES ('a', 1), ('a', 1);
UPDATE ri_full_nopk SET w = 2;
DELETE FROM ri_full_nopk;
:get;

-- an index: its key columns, not those it includes
INSERT INTO ri_index VALUES (1, 'c1', 'v1');
UPDATE ri_index SET id = 2;
UPDATE ri_index SET code = 'c2';
DELETE FROM ri_index;
:get;

-- the identity changes between and within transactions
INSERT INTO ri_default VALUES (1, 'one');
ALTER TABLE ri_default REPLICA IDENTITY FULL;
UPDATE ri_default SET v = 'two';
BEGIN;
ALTER TABLE ri_default REPLICA IDENTITY DEFAULT;
UPDATE ri_default SET v = 'three';
ALTER TABLE ri_default REPLICA IDENTITY FULL;
DELETE FROM ri_default;
COMMIT;
:get;

-- without identity there are only INSERT and TRUNCATE
INSERT INTO ri_nothing VALUES (1, 'x');
UPDATE ri_nothing SET v = 'y';
DELETE FROM ri_nothing;
INSERT INTO ri_nopk VALUES (1, 'x'), (1, 'x');
UPDATE ri_nopk SET v = 'y';
DELETE FROM ri_nopk;
INSERT INTO ri_deferrable VALUES (1, 'x');
UPDATE ri_deferrable SET v = 'y';
TRUNCATE ri_nothing;
SELECT data FROM pg_logical_slot_get_changes('regress_identity', NULL, NULL, 'publication', 'regress_ri_insert', 'include-transaction', 'off');

-- PostgreSQL does not let them be published with more
CREATE PUBLICATION regress_ri_bad FOR TABLE ri_nothing, ri_nopk;
INSERT INTO ri_nothing VALUES (2, 'x');
UPDATE ri_nothing SET v = 'y';
DELETE FROM ri_nopk;
DROP PUBLICATION regress_ri_bad;

SELECT pg_drop_replication_slot('regress_identity');
DROP PUBLICATION regress_ri, regress_ri_insert;
DROP TABLE ri_default, ri_two, ri_full, ri_full_nopk, ri_index, ri_nothing, ri_nopk, ri_deferrable;
