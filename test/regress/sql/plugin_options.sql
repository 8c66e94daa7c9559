--
-- The output plugin's options, their errors, and the framing of transactions
--
CREATE TABLE opt (id int PRIMARY KEY, name varchar(20), amount numeric(10,2)[], "at" timestamptz);
CREATE PUBLICATION regress_opt FOR TABLE opt;
SELECT 'ok' AS slot FROM pg_create_logical_replication_slot('regress_options', 'rtsync');

-- transactions without a published change leave no trace
CREATE TABLE opt_unpublished (id int);
INSERT INTO opt_unpublished VALUES (1);
INSERT INTO opt VALUES (1, 'one', '{1.5,2}', '2026-01-02 03:04:05+00');
BEGIN;
INSERT INTO opt_unpublished VALUES (2);
INSERT INTO opt VALUES (2);
UPDATE opt SET name = 'two' WHERE id = 2;
COMMIT;

\set peek 'SELECT data FROM pg_logical_slot_peek_changes(''regress_options'', NULL, NULL, ''publication'', ''regress_opt'''

-- defaults
:peek);

-- framing off
:peek, 'include-transaction', 'false');

-- type names
:peek, 'include-transaction', 'off', 'include-types', 'on');

-- transaction ids, positions and times: everywhere the same, in the right form
SELECT data::jsonb->>'action' AS action,
       (data::jsonb->>'xid')::xid = xid AS xid_is_right,
       CASE WHEN data::jsonb->>'action' IN ('I', 'U')
            THEN (data::jsonb->>'lsn')::pg_lsn = lsn END AS lsn_is_right,
       data::jsonb->>'lsn' ~ '^[0-9A-F]+/[0-9A-F]+$' AS lsn_form,
       (data::jsonb->>'timestamp')::timestamptz BETWEEN now() - interval '1 hour' AND now() AS timestamp_is_right,
       ARRAY(SELECT json_object_keys(data::json)) AS keys
  FROM pg_logical_slot_peek_changes('regress_options', NULL, NULL,
                                    'publication', 'regress_opt',
                                    'include-xids', '1', 'include-lsn', 'yes',
                                    'include-timestamp', 't');

-- begin and commit of one transaction agree
SELECT count(DISTINCT data::jsonb->>'lsn') AS positions,
       count(DISTINCT data::jsonb->>'timestamp') AS times
  FROM pg_logical_slot_peek_changes('regress_options', NULL, NULL,
                                    'publication', 'regress_opt',
                                    'include-lsn', 'on',
                                    'include-timestamp', 'on')
 WHERE data::jsonb->>'action' IN ('B', 'C');

-- empty transactions, if somebody wants them
SELECT count(*) FILTER (WHERE data::jsonb->>'action' = 'B') >= 4 AS begins,
       count(*) FILTER (WHERE data::jsonb->>'action' = 'B') =
       count(*) FILTER (WHERE data::jsonb->>'action' = 'C') AS balanced
  FROM pg_logical_slot_peek_changes('regress_options', NULL, NULL,
                                    'publication', 'regress_opt',
                                    'skip-empty-xacts', 'off');

-- the binary functions can read the text, too
SELECT convert_from(data, getdatabaseencoding()) AS data
  FROM pg_logical_slot_peek_binary_changes('regress_options', NULL, NULL,
                                           'publication', 'regress_opt') LIMIT 2;

-- the publication is the one that the setting names, if no option does
SHOW rtsync.publication;
SELECT data FROM pg_logical_slot_peek_changes('regress_options', NULL, NULL);
SET rtsync.publication = 'regress_opt';
SELECT count(*) FROM pg_logical_slot_peek_changes('regress_options', NULL, NULL);
RESET rtsync.publication;

-- errors
:peek, 'no-such-option', 'x');
:peek, 'include-xids', 'perhaps');
:peek, 'publication', '');
:peek, 'publication', 'regress_nobody');
:peek, 'include-xids');
SELECT data FROM pg_logical_slot_peek_changes('regress_options', NULL, NULL, 'publication', repeat('regress_opt', 10));

-- a name that needs quotes elsewhere is just a name here
CREATE PUBLICATION "Regress opt, ""two""" FOR TABLE opt;
SELECT count(*) FROM pg_logical_slot_peek_changes('regress_options', NULL, NULL, 'publication', 'Regress opt, "two"');
INSERT INTO opt VALUES (3);
SELECT data FROM pg_logical_slot_get_changes('regress_options', NULL, NULL, 'publication', 'Regress opt, "two"', 'include-transaction', 'off');

-- read up to now: nothing is left
:peek);

SELECT pg_drop_replication_slot('regress_options');
DROP PUBLICATION regress_opt, "Regress opt, ""two""";
DROP TABLE opt, opt_unpublished;
