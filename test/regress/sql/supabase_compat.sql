--
-- What install_supabase_compat() makes, in a database of its own
--
\set VERBOSITY terse
CREATE ROLE regress_nobody;
SET ROLE regress_nobody;
SELECT * FROM rtsync.install_supabase_compat();
RESET ROLE;
-- roles are the cluster's: what is left behind from elsewhere looks the same
DO $$ BEGIN
  PERFORM FROM pg_roles WHERE rolname = 'anon';
  IF NOT FOUND THEN CREATE ROLE anon NOLOGIN NOINHERIT; END IF;
  PERFORM FROM pg_roles WHERE rolname = 'authenticated';
  IF NOT FOUND THEN CREATE ROLE authenticated NOLOGIN NOINHERIT; END IF;
  PERFORM FROM pg_roles WHERE rolname = 'service_role';
  IF NOT FOUND THEN CREATE ROLE service_role NOLOGIN NOINHERIT BYPASSRLS; END IF;
END $$;
GRANT anon, authenticated, service_role TO rtsync_authenticator;
SELECT * FROM rtsync.install_supabase_compat();
-- a second time, it finds everything
SELECT * FROM rtsync.install_supabase_compat();
SHOW rtsync.messages_table;

-- who asks, as policies see it
SET ROLE authenticated;
SET request.jwt.claims = '{"sub": "00000000-0000-4000-8000-000000000001", "role": "authenticated", "email": "a@b"}';
SELECT auth.uid(), auth.role(), auth.email(), auth.jwt() ->> 'sub' AS sub, realtime.topic();

-- without a policy: warnings, and the caller's transaction goes on
SELECT realtime.send('{"a": 1}', 'ev', 'room');
RESET ROLE;

-- policies as Supabase's documentation has them
CREATE POLICY "authenticated can send" ON realtime.messages FOR INSERT TO authenticated
  WITH CHECK (realtime.messages.extension IN ('broadcast') AND (SELECT realtime.topic()) LIKE 'room%');
CREATE TABLE compat_items (id int PRIMARY KEY, v text);
GRANT ALL ON compat_items TO authenticated;
CREATE FUNCTION compat_items_changes() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM realtime.broadcast_changes('room:' || coalesce(NEW.id, OLD.id)::text, TG_OP, TG_OP,
    TG_TABLE_NAME, TG_TABLE_SCHEMA, NEW, OLD);
  RETURN NULL;
END $$;
CREATE TRIGGER changes AFTER INSERT OR UPDATE OR DELETE ON compat_items
  FOR EACH ROW EXECUTE FUNCTION compat_items_changes();
SET ROLE authenticated;
INSERT INTO compat_items VALUES (1, 'a');
UPDATE compat_items SET v = 'b';
DELETE FROM compat_items;
SELECT realtime.send('{"a": 1}', 'ev', 'room');
SELECT realtime.send('{}', 'ev', 'room');
SELECT realtime.send('{"id": 7}', 'ev', 'room', true);
SELECT realtime.send('[1]', 'ev', 'room');
SELECT realtime.send_binary('\x0001', 'ev', 'room');
SELECT realtime.send('{"public": 1}', 'ev', 'room', false);
SELECT realtime.send('{"a": 1}', 'ev', 'elsewhere');
SELECT payload FROM realtime.messages;
RESET ROLE;
SELECT topic, event, private, extension, CASE WHEN payload ->> 'id' = id::text THEN payload - 'id' ELSE payload END AS payload,
  binary_payload FROM realtime.messages ORDER BY inserted_at;
SET ROLE service_role;
SELECT count(*) FROM realtime.messages;
RESET ROLE;

DO $$ BEGIN
  EXECUTE format('ALTER DATABASE %I RESET rtsync.messages_table', current_database());
  EXECUTE format('ALTER DATABASE %I RESET rtsync.publication', current_database());
END $$;
RESET rtsync.messages_table;
RESET rtsync.publication;
DROP TABLE compat_items;
DROP FUNCTION compat_items_changes;
DROP PUBLICATION supabase_realtime;
SET client_min_messages = warning;
DROP SCHEMA realtime, auth CASCADE;
DROP OWNED BY anon, authenticated, service_role;
DROP ROLE anon, authenticated, service_role, regress_nobody;
