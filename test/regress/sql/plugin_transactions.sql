--
-- Transactions: rolled back parts, TRUNCATE, messages, large ones
--
CREATE TABLE tx (id int PRIMARY KEY, v text);
CREATE TABLE tx_ref (id serial PRIMARY KEY, tx int REFERENCES tx);
CREATE PUBLICATION regress_tx FOR TABLE tx, tx_ref;
SELECT 'ok' AS slot FROM pg_create_logical_replication_slot('regress_transactions', 'rtsync');
\set get 'SELECT data FROM pg_logical_slot_get_changes(''regress_transactions'', NULL, NULL, ''publication'', ''regress_tx'')'

-- savepoints
BEGIN;
INSERT INTO tx VALUES (1, 'kept');
SAVEPOINT a;
INSERT INTO tx VALUES (2, 'lost');
SAVEPOINT b;
INSERT INTO tx VALUES (3, 'lost');
RELEASE b;
ROLLBACK TO a;
INSERT INTO tx VALUES (4, 'kept');
SAVEPOINT c;
UPDATE tx SET v = 'kept, too' WHERE id = 1;
RELEASE c;
COMMIT;
:get;

-- a whole transaction, and a caught exception
BEGIN;
INSERT INTO tx VALUES (5, 'lost');
ROLLBACK;
DO $$
BEGIN
  INSERT INTO tx VALUES (6, 'kept');
  BEGIN
    INSERT INTO tx VALUES (7, 'lost');
    INSERT INTO tx VALUES (7, 'duplicate');
  EXCEPTION WHEN unique_violation THEN
    INSERT INTO tx VALUES (8, 'kept');
  END;
END $$;
:get;

-- INSERT ... ON CONFLICT, COPY, MERGE: what they did
INSERT INTO tx VALUES (8, 'new'), (9, 'new') ON CONFLICT (id) DO UPDATE SET v = 'conflict';
INSERT INTO tx VALUES (9, 'new') ON CONFLICT DO NOTHING;
COPY tx FROM STDIN;
10	copied
11	\N
\.
MERGE INTO tx USING (VALUES (10), (12)) s(id) ON tx.id = s.id
  WHEN MATCHED THEN DELETE
  WHEN NOT MATCHED THEN INSERT VALUES (s.id, 'merged');
:get;

-- TRUNCATE
INSERT INTO tx_ref (tx) VALUES (1);
SELECT count(*) FROM pg_logical_slot_get_changes('regress_transactions', NULL, NULL, 'publication', 'regress_tx');
TRUNCATE tx_ref;
TRUNCATE tx, tx_ref RESTART IDENTITY;
TRUNCATE tx CASCADE;
BEGIN;
TRUNCATE tx_ref;
ROLLBACK;
:get;

-- messages: in a transaction with its rows and its fate, or by themselves
BEGIN;
INSERT INTO tx VALUES (1, 'row');
SELECT 'ok' AS sent FROM pg_logical_emit_message(true, 'prefix "1"', E'with its transaction\n"quoted"');
SAVEPOINT a;
SELECT 'ok' AS sent FROM pg_logical_emit_message(true, 'lost', 'lost');
SELECT 'ok' AS sent FROM pg_logical_emit_message(false, 'at once', 'in spite of the savepoint');
ROLLBACK TO a;
INSERT INTO tx VALUES (2, 'row');
COMMIT;
BEGIN;
SELECT 'ok' AS sent FROM pg_logical_emit_message(true, 'lost', 'lost');
SELECT 'ok' AS sent FROM pg_logical_emit_message(false, '', '');
ROLLBACK;
SELECT 'ok' AS sent FROM pg_logical_emit_message(true, 'alone', 'ž 漢字 😀');
SELECT 'ok' AS sent FROM pg_logical_emit_message(true, 'bytes', '\x00ff'::bytea);
SELECT 'ok' AS sent FROM pg_logical_emit_message(true, 'text as bytes', convert_to('é', 'UTF8'));
SELECT 'ok' AS sent FROM pg_logical_emit_message(true, 'not UTF-8', '\xe9'::bytea);
SELECT data FROM pg_logical_slot_peek_changes('regress_transactions', NULL, NULL, 'publication', 'regress_tx', 'include-messages', 'off');
-- none of its own transaction's begin or commit, xid or time
SELECT DISTINCT ARRAY(SELECT json_object_keys(data::json)) AS keys
  FROM pg_logical_slot_peek_changes('regress_transactions', NULL, NULL, 'publication', 'regress_tx',
                                    'include-xids', 'on', 'include-timestamp', 'on', 'include-lsn', 'on')
 WHERE data::jsonb->>'transactional' = 'false';
:get;

-- a large message
SELECT 'ok' AS sent FROM pg_logical_emit_message(true, 'large', repeat('0123456789', 100000));
SELECT length(data::json->>'content') FROM pg_logical_slot_get_changes('regress_transactions', NULL, NULL, 'publication', 'regress_tx')
 WHERE data::json->>'action' = 'M';

-- a transaction of 100 MB, in which some is rolled back
BEGIN;
INSERT INTO tx SELECT i, repeat(md5(i::text), 32) FROM generate_series(1000, 50999) i;
SAVEPOINT a;
INSERT INTO tx SELECT i, repeat(md5(i::text), 32) FROM generate_series(60000, 60999) i;
ROLLBACK TO a;
INSERT INTO tx SELECT i, repeat(md5(i::text), 32) FROM generate_series(51000, 100999) i;
DELETE FROM tx WHERE id BETWEEN 2000 AND 2999;
COMMIT;
SELECT action, count(*), sum(coalesce((record).id, (old_key).id)::bigint) AS ids,
       sum(length((record).v)) AS size,
       bool_and((record).v = repeat(md5((record).id::text), 32)) AS all_right
  FROM pg_logical_slot_get_changes('regress_transactions', NULL, NULL, 'publication', 'regress_tx'),
       json_to_record(data::json) AS x(action text, record tx, old_key tx)
 GROUP BY 1 ORDER BY 1;

-- one of many subtransactions
DO $$
BEGIN
  FOR i IN 1..500 LOOP
    BEGIN
      INSERT INTO tx VALUES (200000 + i, 'sub');
      IF i % 2 = 0 THEN RAISE division_by_zero; END IF;
    EXCEPTION WHEN division_by_zero THEN NULL;
    END;
  END LOOP;
END $$;
SELECT data::json->>'action' AS action, count(*), sum((data::json->'record'->>'id')::int % 2)
  FROM pg_logical_slot_get_changes('regress_transactions', NULL, NULL, 'publication', 'regress_tx')
 GROUP BY 1 ORDER BY 1;

SELECT pg_drop_replication_slot('regress_transactions');
DROP PUBLICATION regress_tx;
DROP TABLE tx, tx_ref;
