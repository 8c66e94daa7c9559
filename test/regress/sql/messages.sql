--
-- Messages from SQL: who may send, what is written into the WAL and the table
--
\set VERBOSITY terse
SET timezone = 'UTC';
CREATE ROLE regress_sender;
CREATE ROLE regress_service BYPASSRLS;
CREATE TABLE msg_members (uid uuid, room text);
GRANT SELECT ON msg_members TO regress_sender;
INSERT INTO msg_members VALUES ('00000000-0000-4000-8000-000000000001', 'room1');
CREATE PUBLICATION regress_messages;
SELECT 'ok' AS slot FROM pg_create_logical_replication_slot('regress_messages', 'rtsync');
-- what is sent is signed and so differs each time: show its kind alone
\set get 'SELECT m->>''action'' AS action, m->>''prefix'' AS prefix, m->>''transactional'' AS transactional FROM (SELECT data::jsonb AS m FROM pg_logical_slot_get_changes(''regress_messages'', NULL, NULL, ''publication'', ''regress_messages'')) AS changes WHERE m->>''action'' = ''M'''

-- row security does not hold for a superuser, nor for who bypasses it
SELECT rtsync.send('{"a": 1}', 'ev', 'room1') IS NOT NULL AS sent;
SET ROLE regress_service;
SELECT rtsync.send('{"a": 1}', 'ev', 'room1') IS NOT NULL AS sent;
RESET ROLE;
:get;

-- no policy, no right; then one that reads another table, claims and topic
SET ROLE regress_sender;
SELECT rtsync.send('{"a": 1}', 'ev', 'room1');
RESET ROLE;
CREATE POLICY send ON rtsync.messages FOR INSERT TO regress_sender
  WITH CHECK (extension = 'broadcast' AND topic = rtsync.topic() AND EXISTS (
    SELECT FROM msg_members AS m WHERE m.uid = (SELECT rtsync.uid()) AND m.room = rtsync.topic()));
SET ROLE regress_sender;
SELECT rtsync.send('{"a": 2}', 'ev', 'room1');
SET request.jwt.claims = '{"sub": "00000000-0000-4000-8000-000000000001"}';
SET rtsync.topic = 'room1';
SELECT rtsync.send('{"a": 3}', 'ev', 'room1') IS NOT NULL AS sent;
SELECT rtsync.send('{"a": 3}', 'ev', 'room2');
SELECT rtsync.send('{"a": 3}', 'ev', 'room1', false) IS NOT NULL AS sent;
SELECT rtsync.send('{"a": 3}', 'ev', 'room1', transactional => false) IS NOT NULL AS sent;
SHOW rtsync.topic;
RESET rtsync.topic;
SELECT rtsync.topic();
RESET ROLE;
:get;
SET ROLE regress_sender;

-- in its transaction
BEGIN;
SELECT rtsync.send('{"a": 4}', 'ev', 'room1') IS NOT NULL AS sent;
ROLLBACK;
BEGIN;
SELECT rtsync.send('{"a": 5}', 'kept', 'room1') IS NOT NULL AS sent;
SAVEPOINT a;
SELECT rtsync.send('{"a": 5}', 'lost', 'room1') IS NOT NULL AS sent;
ROLLBACK TO a;
COMMIT;
BEGIN;
SELECT rtsync.send('{"a": 6}', 'ev', 'room1', transactional => false) IS NOT NULL AS sent;
ROLLBACK;
BEGIN READ ONLY;
SELECT rtsync.send('{"a": 7}', 'ev', 'room1');
ROLLBACK;
RESET ROLE;
:get;
SET ROLE regress_sender;

-- stored, with a right of its own
SELECT rtsync.send('{"a": 8}', 'ev', 'room1', persist => true);
RESET ROLE;
CREATE POLICY store ON rtsync.messages FOR INSERT TO regress_sender WITH CHECK (extension = 'persistence');
SET ROLE regress_sender;
SELECT rtsync.send('{"a": 9}', 'ev', 'room1', persist => true) IS NOT NULL AS sent;
SELECT rtsync.send_binary('\x00ff', 'bytes', 'room1', persist => true, ttl => '1 minute') IS NOT NULL AS sent;
SELECT rtsync.send('{"a": 9}', 'ev', 'room1', false, persist => true);
SELECT rtsync.send('{"a": 9}', 'ev', 'room1', persist => true, transactional => false);
SELECT rtsync.send('{"a": 9}', 'ev', 'room1', ttl => '1 minute');
-- nobody else reads or stores with SQL
SELECT payload FROM rtsync.messages;
INSERT INTO rtsync.messages (topic, extension, payload, private) VALUES ('room1', 'broadcast', '1', true);
SELECT key FROM rtsync.secret;
RESET ROLE;
GRANT pg_read_all_data TO regress_sender;
SET ROLE regress_sender;
SELECT count(*) FROM rtsync.secret;
RESET ROLE;
REVOKE pg_read_all_data FROM regress_sender;
SELECT topic, extension, event, payload, binary_payload, private, expires_at - inserted_at AS ttl,
  abs(extract(epoch FROM inserted_at - (now() AT TIME ZONE 'UTC'))) < 60 AS now
FROM rtsync.messages ORDER BY inserted_at;

-- what is refused of anybody
SELECT rtsync.send(to_jsonb(repeat('x', 4000000)), 'ev', 'room1');
SELECT rtsync.send('1', 'ev', repeat('x', 247));
SELECT rtsync.send('1', repeat('x', 256), 'room1');
SELECT rtsync.send('1', '', 'room1');
SELECT rtsync.send('1', 'ev', '');
SELECT rtsync.send(NULL, 'ev', 'room1');
SELECT rtsync.send('1', 'ev', NULL);

-- a right that is taken away is gone at once; privileges count, too
REVOKE INSERT (topic, extension) ON rtsync.messages FROM PUBLIC;
SET ROLE regress_sender;
SELECT rtsync.send('1', 'ev', 'room1');
RESET ROLE;
GRANT INSERT (topic, extension) ON rtsync.messages TO PUBLIC;
CREATE POLICY not_now ON rtsync.messages AS RESTRICTIVE FOR INSERT WITH CHECK (false);
SET ROLE regress_sender;
SELECT rtsync.send('1', 'ev', 'room1');
RESET ROLE;
DROP POLICY not_now ON rtsync.messages;
-- a policy that cannot be evaluated
CREATE POLICY broken ON rtsync.messages AS RESTRICTIVE FOR INSERT WITH CHECK (length(event) / 0 = 1);
SET ROLE regress_sender;
SELECT rtsync.send('1', 'ev', 'room1');
SELECT rtsync.send_or_warn('1', 'ev', 'room1', true);
RESET ROLE;
DROP POLICY broken ON rtsync.messages;
-- one that sends, itself
CREATE FUNCTION msg_recursive() RETURNS bool LANGUAGE plpgsql AS $$
BEGIN
  PERFORM rtsync.send('1', 'ev', 'room1');
  RETURN true;
END $$;
CREATE POLICY recursive ON rtsync.messages AS RESTRICTIVE FOR INSERT WITH CHECK (msg_recursive());
SET ROLE regress_sender;
SELECT rtsync.send('1', 'ev', 'room1');
RESET ROLE;
DROP POLICY recursive ON rtsync.messages;

-- warnings
SELECT count(*) AS before FROM rtsync.messages \gset
SET ROLE regress_sender;
SELECT rtsync.send_or_warn('1', 'ev', 'room2', true);
SELECT rtsync.send_or_warn(NULL, 'ev', 'room1', true);
SELECT rtsync.send_or_warn('1', 'ev', 'room1', true);
SELECT rtsync.send_binary_or_warn('\x01', 'ev', 'room1', true);
SELECT rtsync.send_or_warn('1', 'ev', 'room1', false);
RESET ROLE;
SELECT count(*) - :before AS stored FROM rtsync.messages;

-- changes of rows
TRUNCATE rtsync.messages;
CREATE TABLE msg_changes (id int PRIMARY KEY, room text, at timestamp);
CREATE FUNCTION msg_changes() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM rtsync.broadcast_changes_or_warn('room:' || coalesce(NEW.room, OLD.room), TG_OP, TG_OP,
    TG_TABLE_NAME, TG_TABLE_SCHEMA, NEW, OLD, TG_LEVEL);
  PERFORM rtsync.broadcast_changes('room:' || coalesce(NEW.room, OLD.room), TG_OP, TG_OP,
    TG_TABLE_NAME, TG_TABLE_SCHEMA, NEW, OLD);
  RETURN NULL;
END $$;
CREATE TRIGGER changes AFTER INSERT OR UPDATE OR DELETE ON msg_changes
  FOR EACH ROW EXECUTE FUNCTION msg_changes();
CREATE TRIGGER direct AFTER INSERT OR UPDATE OR DELETE ON msg_changes
  FOR EACH ROW EXECUTE FUNCTION rtsync.broadcast_changes('room:{room}:{id}');
INSERT INTO msg_changes VALUES (1, 'a "b"', '2026-01-02 03:04:05');
UPDATE msg_changes SET room = NULL;
UPDATE msg_changes SET room = 'c';
DELETE FROM msg_changes;
SELECT topic, event, payload - 'id' AS payload FROM rtsync.messages ORDER BY inserted_at;
:get;
SELECT rtsync.broadcast_changes('t', 'e', 'TRUNCATE', 't', 's', NULL::msg_changes, NULL::msg_changes);
SELECT rtsync.broadcast_changes('t', 'e', 'INSERT', 't', 's', NULL::msg_changes, NULL::msg_changes, 'STATEMENT');
CREATE TRIGGER wrong BEFORE INSERT ON msg_changes FOR EACH ROW EXECUTE FUNCTION rtsync.broadcast_changes('a');
INSERT INTO msg_changes VALUES (2, 'a');
DROP TRIGGER wrong ON msg_changes;
CREATE TRIGGER wrong AFTER INSERT ON msg_changes FOR EACH ROW EXECUTE FUNCTION rtsync.broadcast_changes('{nothing}');
INSERT INTO msg_changes VALUES (2, 'a');
DROP TRIGGER wrong ON msg_changes;

-- settings
SET rtsync.messages_table = 'messages';
SET rtsync.messages_table = 'a.b.c';
SET rtsync.messages_table = 'rtsync.nothing';
SELECT rtsync.send('1', 'ev', 'room1');
RESET rtsync.messages_table;

SELECT pg_drop_replication_slot('regress_messages');
DROP PUBLICATION regress_messages;
DROP POLICY send ON rtsync.messages;
DROP POLICY store ON rtsync.messages;
DROP TABLE msg_members, msg_changes;
DROP FUNCTION msg_recursive, msg_changes;
TRUNCATE rtsync.messages;
DROP ROLE regress_sender, regress_service;
