/* sql/rtsync--0.1.sql */

-- complain if script is sourced in psql, rather than via CREATE EXTENSION
\echo Use "CREATE EXTENSION rtsync" to load this file. \quit

--
-- Without preloading nobody would serve the extension: say so now.
--
CREATE FUNCTION rtsync.check_preload() RETURNS void
AS 'MODULE_PATHNAME', 'rtsync_sql_check_preload'
LANGUAGE C STRICT;
SELECT rtsync.check_preload();
DROP FUNCTION rtsync.check_preload();

REVOKE ALL ON SCHEMA rtsync FROM PUBLIC;
GRANT USAGE ON SCHEMA rtsync TO PUBLIC;

--
-- Who may connect: a token's role must be granted to this one.
--
DO $$
BEGIN
  IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'rtsync_authenticator') THEN
    CREATE ROLE rtsync_authenticator NOLOGIN NOINHERIT;
  END IF;
END
$$;

--
-- What the engines do: one row for each database that has one or should, and
-- one for this database in any case.
--
CREATE FUNCTION rtsync.status(
  OUT datid oid,
  OUT database name,
  OUT state text,             -- unknown, absent, starting, running, waiting, held
  OUT pid integer,
  OUT message text,           -- why it waits, or what is wrong while it runs
  OUT hint text,
  OUT started timestamptz,
  OUT listen_addresses text,  -- where clients connect; null if nowhere
  OUT port integer,
  OUT epoch text,
  OUT decoded_lsn pg_lsn,
  OUT routed_lsn pg_lsn,
  OUT history_lsn pg_lsn,     -- clients can catch up from here
  OUT transactions bigint,    -- these and the next three since the start
  OUT changes bigint,
  OUT events bigint,
  OUT policy_errors bigint,
  OUT gateways integer,
  OUT connections integer,
  OUT channels integer,
  OUT groups integer
) RETURNS SETOF record
AS 'MODULE_PATHNAME', 'rtsync_sql_status'
LANGUAGE C STRICT VOLATILE PARALLEL SAFE ROWS 4;
REVOKE ALL ON FUNCTION rtsync.status() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION rtsync.status() TO pg_read_all_stats;

--
-- The cumulative statistics, as PostgreSQL's own: everybody sees that somebody
-- is there, members of the role concerned and of pg_read_all_stats see more.
--
CREATE FUNCTION rtsync.stat_engines(
  OUT datid oid,
  OUT datname name,
  OUT pid integer,
  OUT started timestamptz,
  OUT epoch text,
  OUT restart_lsn pg_lsn,
  OUT confirmed_lsn pg_lsn,
  OUT history_lsn pg_lsn,
  OUT decoded_lsn pg_lsn,
  OUT routed_lsn pg_lsn,
  OUT lag_bytes bigint,
  OUT lag interval,
  OUT retained_wal_bytes bigint,
  OUT history_bytes bigint,
  OUT history_span interval,
  OUT transactions bigint,
  OUT changes bigint,
  OUT events bigint,
  OUT errors bigint,
  OUT refetches bigint,
  OUT snapshots bigint,       -- completed
  OUT snapshots_failed bigint,
  OUT frames_sent bigint,
  OUT bytes_sent bigint,
  OUT closed_slow bigint,
  OUT gateway_starts bigint,
  OUT connections integer,
  OUT channels integer,
  OUT groups integer,
  OUT snapshots_running integer,
  OUT snapshots_waiting integer,
  OUT updated timestamptz,
  OUT stats_reset timestamptz
) RETURNS SETOF record
AS 'MODULE_PATHNAME', 'rtsync_sql_stat_engines'
LANGUAGE C STRICT VOLATILE PARALLEL RESTRICTED ROWS 4;

CREATE FUNCTION rtsync.stat_refetches(
  OUT datid oid,
  OUT datname name,
  OUT reason text,
  OUT refetches bigint,
  OUT stats_reset timestamptz
) RETURNS SETOF record
AS 'MODULE_PATHNAME', 'rtsync_sql_stat_refetches'
LANGUAGE C STRICT VOLATILE PARALLEL RESTRICTED ROWS 13;

CREATE FUNCTION rtsync.stat_connections(
  OUT connection bigint,
  OUT usesysid oid,
  OUT usename name,
  OUT client_addr inet,
  OUT client_port integer,
  OUT connected timestamptz,
  OUT last_message timestamptz,
  OUT protocol text,
  OUT ssl bool,
  OUT state text,             -- active; paused: the client does not keep up
  OUT channels integer,
  OUT frames_sent bigint,
  OUT bytes_sent bigint,
  OUT queue_bytes bigint
) RETURNS SETOF record
AS 'MODULE_PATHNAME', 'rtsync_sql_stat_connections'
LANGUAGE C STRICT VOLATILE PARALLEL RESTRICTED ROWS 1000 COST 10000;

CREATE FUNCTION rtsync.stat_subscriptions(
  OUT connection bigint,
  OUT channel bigint,
  OUT usesysid oid,
  OUT usename name,
  OUT subject text,
  OUT topic text,
  OUT private bool,
  OUT joined timestamptz,
  OUT subscription bigint,    -- what the client knows it by; null: no changes
  OUT schemaname name,        -- null: all
  OUT relname name,           -- null: all
  OUT events text,
  OUT filter text,
  OUT where_ text,
  OUT evaluation text,        -- as in rtsync.explain(); null: not known yet
  OUT group_ bigint,          -- equal subscriptions are decided as one
  OUT state text,             -- live, paused, snapshot, catching up, refused
  OUT cursor text,
  OUT lag_bytes bigint,       -- of history
  OUT sent bigint             -- changes, of the whole channel
) RETURNS SETOF record
AS 'MODULE_PATHNAME', 'rtsync_sql_stat_subscriptions'
LANGUAGE C STRICT VOLATILE PARALLEL RESTRICTED ROWS 1000 COST 10000;

CREATE VIEW rtsync.pg_stat_rtsync AS SELECT * FROM rtsync.stat_engines();
CREATE VIEW rtsync.pg_stat_rtsync_refetch AS SELECT * FROM rtsync.stat_refetches();
CREATE VIEW rtsync.pg_stat_rtsync_connection AS SELECT * FROM rtsync.stat_connections();
CREATE VIEW rtsync.pg_stat_rtsync_subscription AS SELECT * FROM rtsync.stat_subscriptions();

CREATE FUNCTION rtsync.pg_stat_rtsync_reset(datid oid DEFAULT NULL) RETURNS void
AS 'MODULE_PATHNAME', 'rtsync_sql_stat_reset'
LANGUAGE C VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION rtsync.pg_stat_rtsync_reset IS 'counts anew in pg_stat_rtsync and pg_stat_rtsync_refetch, for one database or for all';

REVOKE ALL ON FUNCTION rtsync.pg_stat_rtsync_reset FROM PUBLIC;
REVOKE ALL ON rtsync.pg_stat_rtsync, rtsync.pg_stat_rtsync_refetch,
  rtsync.pg_stat_rtsync_connection, rtsync.pg_stat_rtsync_subscription FROM PUBLIC;
GRANT SELECT ON rtsync.pg_stat_rtsync, rtsync.pg_stat_rtsync_refetch,
  rtsync.pg_stat_rtsync_connection, rtsync.pg_stat_rtsync_subscription TO PUBLIC;

--
-- For policies: who asks.  The same answers under PostgREST and under an
-- engine.  The bodies are expressions over settings, so that the planner puts
-- them in the place of the call; STABLE, so that they never become constants.
--
CREATE FUNCTION rtsync.jwt() RETURNS pg_catalog.jsonb
LANGUAGE SQL STABLE PARALLEL SAFE
RETURN NULLIF(pg_catalog.current_setting('request.jwt.claims', true), '')::pg_catalog.jsonb;

CREATE FUNCTION rtsync.uid() RETURNS pg_catalog.uuid
LANGUAGE SQL STABLE PARALLEL SAFE
RETURN (NULLIF(pg_catalog.current_setting('request.jwt.claims', true), '')::pg_catalog.jsonb OPERATOR(pg_catalog.->>) 'sub')::pg_catalog.uuid;

CREATE FUNCTION rtsync.role() RETURNS pg_catalog.text
LANGUAGE SQL STABLE PARALLEL SAFE
RETURN NULLIF(pg_catalog.current_setting('request.jwt.claims', true), '')::pg_catalog.jsonb OPERATOR(pg_catalog.->>) 'role';

CREATE FUNCTION rtsync.topic() RETURNS pg_catalog.text
LANGUAGE SQL STABLE PARALLEL SAFE
RETURN NULLIF(pg_catalog.current_setting('rtsync.topic', true), '');

COMMENT ON FUNCTION rtsync.topic() IS 'topic of the channel that row security is asked about, null elsewhere';
COMMENT ON FUNCTION rtsync.jwt() IS 'claims of the current token, null without one';
COMMENT ON FUNCTION rtsync.uid() IS 'claim "sub" of the current token';
COMMENT ON FUNCTION rtsync.role() IS 'claim "role" of the current token';

--
-- Messages.  The row security of this table decides about private channels:
-- SELECT lets a role receive, INSERT lets it send.  It also holds what was
-- sent with "persist", for replay.
--
-- The privileges that everybody has are on the columns that name a channel
-- alone: policies need no GRANT beside them, and yet nobody can read a payload
-- or store a message with SQL.
--
CREATE TABLE rtsync.messages (
  topic pg_catalog.text NOT NULL,
  extension pg_catalog.text NOT NULL,
  payload pg_catalog.jsonb,
  event pg_catalog.text,
  private pg_catalog.bool NOT NULL DEFAULT false,
  updated_at pg_catalog.timestamp NOT NULL DEFAULT (pg_catalog.now() AT TIME ZONE 'UTC'),
  inserted_at pg_catalog.timestamp NOT NULL DEFAULT (pg_catalog.now() AT TIME ZONE 'UTC'),
  id pg_catalog.uuid NOT NULL DEFAULT pg_catalog.gen_random_uuid(),
  binary_payload pg_catalog.bytea,
  expires_at pg_catalog.timestamp,
  PRIMARY KEY (id, inserted_at)
) PARTITION BY RANGE (inserted_at);
CREATE INDEX messages_replay ON rtsync.messages (topic, inserted_at DESC)
  WHERE private AND extension OPERATOR(pg_catalog.=) 'broadcast';
CREATE TABLE rtsync.messages_default PARTITION OF rtsync.messages DEFAULT;
ALTER TABLE rtsync.messages ENABLE ROW LEVEL SECURITY;
ALTER TABLE rtsync.messages_default ENABLE ROW LEVEL SECURITY;
REVOKE ALL ON rtsync.messages, rtsync.messages_default FROM PUBLIC;
GRANT SELECT (topic, extension), INSERT (topic, extension) ON rtsync.messages TO PUBLIC;

--
-- The key that proves that a logical message is one of ours.  Only C code
-- reads it.  Row security keeps it from pg_read_all_data, too.  It is not
-- dumped: a restored database has a key of its own.
--
CREATE TABLE rtsync.secret (key pg_catalog.bytea NOT NULL);
ALTER TABLE rtsync.secret ENABLE ROW LEVEL SECURITY;
REVOKE ALL ON rtsync.secret FROM PUBLIC;
INSERT INTO rtsync.secret SELECT pg_catalog.sha256(
  pg_catalog.uuid_send(pg_catalog.gen_random_uuid()) OPERATOR(pg_catalog.||)
  pg_catalog.uuid_send(pg_catalog.gen_random_uuid()));

--
-- Sending.  Everybody may call these; row security decides what comes of it.
--
CREATE FUNCTION rtsync.send(
  payload pg_catalog.jsonb,
  event pg_catalog.text,
  topic pg_catalog.text,
  private pg_catalog.bool DEFAULT true,
  transactional pg_catalog.bool DEFAULT true,
  persist pg_catalog.bool DEFAULT false,
  ttl pg_catalog.interval DEFAULT NULL
) RETURNS pg_catalog.uuid
AS 'MODULE_PATHNAME', 'rtsync_sql_send'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION rtsync.send IS 'broadcasts JSON to a topic when this transaction commits; returns the message''s id';

CREATE FUNCTION rtsync.send_binary(
  payload pg_catalog.bytea,
  event pg_catalog.text,
  topic pg_catalog.text,
  private pg_catalog.bool DEFAULT true,
  transactional pg_catalog.bool DEFAULT true,
  persist pg_catalog.bool DEFAULT false,
  ttl pg_catalog.interval DEFAULT NULL
) RETURNS pg_catalog.uuid
AS 'MODULE_PATHNAME', 'rtsync_sql_send_binary'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION rtsync.send_binary IS 'broadcasts bytes to a topic when this transaction commits; returns the message''s id';

CREATE FUNCTION rtsync.broadcast_changes() RETURNS pg_catalog.trigger
AS 'MODULE_PATHNAME', 'rtsync_sql_broadcast_trigger'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION rtsync.broadcast_changes() IS 'trigger: broadcasts the row''s change to a topic, in which {column} stands for a value';

CREATE FUNCTION rtsync.broadcast_changes(
  topic_name pg_catalog.text,
  event_name pg_catalog.text,
  operation pg_catalog.text,
  table_name pg_catalog.text,
  table_schema pg_catalog.text,
  new pg_catalog.record,
  old pg_catalog.record,
  level pg_catalog.text DEFAULT 'ROW'
) RETURNS pg_catalog.void
AS 'MODULE_PATHNAME', 'rtsync_sql_broadcast_changes'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION rtsync.broadcast_changes(text, text, text, text, text, record, record, text) IS 'broadcasts a row''s change to a topic, from a trigger function';

--
-- What an application that was written for Supabase expects in its database.
-- Only makes what does not exist, and says what it did.
--
CREATE FUNCTION rtsync.install_supabase_compat(OUT object pg_catalog.text, OUT action pg_catalog.text)
RETURNS SETOF record
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $install$
DECLARE
  name text;
  body text;
  columns text;
BEGIN
  IF NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
    RAISE EXCEPTION 'must be superuser to install what Supabase''s clients expect'
      USING ERRCODE = 'insufficient_privilege';
  END IF;

  -- roles, and the right to connect with a token for them
  FOREACH name IN ARRAY ARRAY['anon', 'authenticated', 'service_role'] LOOP
    object := 'role ' || name;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = name) THEN
      action := 'exists';
    ELSE
      EXECUTE format('CREATE ROLE %I NOLOGIN NOINHERIT%s', name,
        CASE WHEN name = 'service_role' THEN ' BYPASSRLS' ELSE '' END);
      action := 'created';
    END IF;
    IF pg_has_role('rtsync_authenticator', name, 'MEMBER') THEN
      action := action || ', may connect';
    ELSE
      EXECUTE format('GRANT %I TO rtsync_authenticator', name);
      action := action || ', granted to rtsync_authenticator';
    END IF;
    RETURN NEXT;
  END LOOP;

  -- schemas
  FOREACH name IN ARRAY ARRAY['auth', 'realtime'] LOOP
    object := 'schema ' || name;
    action := 'exists';
    IF to_regnamespace(name) IS NULL THEN
      EXECUTE format('CREATE SCHEMA %I', name);
      action := 'created';
    END IF;
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO anon, authenticated, service_role', name);
    RETURN NEXT;
  END LOOP;

  -- the table of messages
  object := 'table realtime.messages';
  action := 'exists';
  IF to_regclass('realtime.messages') IS NULL THEN
    CREATE TABLE realtime.messages (
      topic text NOT NULL,
      extension text NOT NULL,
      payload jsonb,
      event text,
      private boolean DEFAULT false,
      updated_at timestamp NOT NULL DEFAULT (now() AT TIME ZONE 'UTC'),
      inserted_at timestamp NOT NULL DEFAULT (now() AT TIME ZONE 'UTC'),
      id uuid NOT NULL DEFAULT gen_random_uuid(),
      binary_payload bytea,
      expires_at timestamp,
      PRIMARY KEY (id, inserted_at)
    ) PARTITION BY RANGE (inserted_at);
    CREATE INDEX messages_replay ON realtime.messages (topic, inserted_at DESC)
      WHERE private AND extension = 'broadcast';
    ALTER TABLE realtime.messages ENABLE ROW LEVEL SECURITY;
    REVOKE ALL ON realtime.messages FROM PUBLIC;
    GRANT SELECT (topic, extension), INSERT (topic, extension) ON realtime.messages TO anon, authenticated;
    GRANT SELECT, INSERT, UPDATE, DELETE ON realtime.messages TO service_role;
    action := 'created';
  ELSE
    FOREACH columns IN ARRAY ARRAY['binary_payload bytea', 'expires_at timestamp'] LOOP
      name := split_part(columns, ' ', 1);
      IF NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'realtime.messages'::regclass
                       AND attname = name AND NOT attisdropped) THEN
        EXECUTE format('ALTER TABLE realtime.messages ADD COLUMN %s', columns);
        action := action || ', column ' || name || ' added';
      END IF;
    END LOOP;
    IF NOT (SELECT relrowsecurity FROM pg_class WHERE oid = 'realtime.messages'::regclass) THEN
      ALTER TABLE realtime.messages ENABLE ROW LEVEL SECURITY;
      action := action || ', row security enabled';
    END IF;
  END IF;
  IF EXISTS (SELECT FROM pg_partitioned_table
             WHERE partrelid = 'realtime.messages'::regclass AND partdefid = 0)
    AND to_regclass('realtime.messages_default') IS NULL THEN
    CREATE TABLE realtime.messages_default PARTITION OF realtime.messages DEFAULT;
    ALTER TABLE realtime.messages_default ENABLE ROW LEVEL SECURITY;
    REVOKE ALL ON realtime.messages_default FROM PUBLIC;
    action := action || ', default partition created';
  END IF;
  RETURN NEXT;

  -- functions
  FOR name, body IN VALUES
    ('auth.jwt()', $$RETURNS jsonb LANGUAGE sql STABLE PARALLEL SAFE RETURN
       nullif(current_setting('request.jwt.claims', true), '')::jsonb$$),
    ('auth.uid()', $$RETURNS uuid LANGUAGE sql STABLE PARALLEL SAFE RETURN
       (nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub')::uuid$$),
    ('auth.role()', $$RETURNS text LANGUAGE sql STABLE PARALLEL SAFE RETURN
       nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'role'$$),
    ('auth.email()', $$RETURNS text LANGUAGE sql STABLE PARALLEL SAFE RETURN
       nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'email'$$),
    ('realtime.topic()', $$RETURNS text LANGUAGE sql STABLE PARALLEL SAFE RETURN
       nullif(current_setting('realtime.topic', true), '')$$),
    ('realtime.send(payload jsonb, event text, topic text, private boolean DEFAULT true)',
     $$RETURNS void LANGUAGE sql AS 'SELECT rtsync.send_or_warn($1, $2, $3, $4)'$$),
    ('realtime.send_binary(payload bytea, event text, topic text, private boolean DEFAULT true)',
     $$RETURNS void LANGUAGE sql AS 'SELECT rtsync.send_binary_or_warn($1, $2, $3, $4)'$$),
    ('realtime.broadcast_changes(topic_name text, event_name text, operation text, table_name text,'
     ' table_schema text, new record, old record, level text DEFAULT ''ROW'')',
     $$RETURNS void LANGUAGE plpgsql AS
       'BEGIN PERFORM rtsync.broadcast_changes_or_warn($1, $2, $3, $4, $5, $6, $7, $8); END'$$)
  LOOP
    object := 'function ' || split_part(name, '(', 1);
    IF EXISTS (SELECT FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
               WHERE n.nspname || '.' || p.proname = split_part(name, '(', 1)) THEN
      action := 'exists';
    ELSE
      EXECUTE 'CREATE FUNCTION ' || name || ' ' || body;
      action := 'created';
    END IF;
    RETURN NEXT;
  END LOOP;

  -- the publication
  object := 'publication supabase_realtime';
  IF EXISTS (SELECT FROM pg_publication WHERE pubname = 'supabase_realtime') THEN
    action := 'exists';
  ELSE
    CREATE PUBLICATION supabase_realtime;
    action := 'created';
  END IF;
  RETURN NEXT;

  -- settings; the engine starts again with them
  object := 'setting rtsync.publication';
  name := current_setting('rtsync.publication');
  IF name <> 'supabase_realtime' AND
     EXISTS (SELECT FROM pg_publication_tables WHERE pubname = name) THEN
    action := format('left at %s, which has tables', name);
  ELSE
    EXECUTE format('ALTER DATABASE %I SET rtsync.publication = supabase_realtime', current_database());
    PERFORM set_config('rtsync.publication', 'supabase_realtime', false);
    action := 'set to supabase_realtime for this database';
  END IF;
  RETURN NEXT;
  object := 'setting rtsync.messages_table';
  EXECUTE format('ALTER DATABASE %I SET rtsync.messages_table = ''realtime.messages''', current_database());
  PERFORM set_config('rtsync.messages_table', 'realtime.messages', false);
  action := 'set to realtime.messages for this database; other sessions see it when they connect again';
  RETURN NEXT;
END
$install$;
REVOKE ALL ON FUNCTION rtsync.install_supabase_compat() FROM PUBLIC;
COMMENT ON FUNCTION rtsync.install_supabase_compat() IS 'makes the schemas, functions and roles that an application written for Supabase expects';

--
-- What the functions of install_supabase_compat() are made of: never an error,
-- but a warning; private messages are stored for replay
--
CREATE FUNCTION rtsync.send_or_warn(pg_catalog.jsonb, pg_catalog.text, pg_catalog.text, pg_catalog.bool)
RETURNS pg_catalog.void
AS 'MODULE_PATHNAME', 'rtsync_sql_send_or_warn'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION rtsync.send_binary_or_warn(pg_catalog.bytea, pg_catalog.text, pg_catalog.text, pg_catalog.bool)
RETURNS pg_catalog.void
AS 'MODULE_PATHNAME', 'rtsync_sql_send_binary_or_warn'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION rtsync.broadcast_changes_or_warn(
  pg_catalog.text, pg_catalog.text, pg_catalog.text, pg_catalog.text, pg_catalog.text,
  pg_catalog.record, pg_catalog.record, pg_catalog.text)
RETURNS pg_catalog.void
AS 'MODULE_PATHNAME', 'rtsync_sql_broadcast_changes_or_warn'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

REVOKE ALL ON FUNCTION rtsync.send, rtsync.send_binary, rtsync.send_or_warn,
  rtsync.send_binary_or_warn, rtsync.broadcast_changes(),
  rtsync.broadcast_changes(text, text, text, text, text, record, record, text),
  rtsync.broadcast_changes_or_warn FROM PUBLIC;
GRANT EXECUTE ON FUNCTION rtsync.send, rtsync.send_binary, rtsync.send_or_warn,
  rtsync.send_binary_or_warn, rtsync.broadcast_changes(),
  rtsync.broadcast_changes(text, text, text, text, text, record, record, text),
  rtsync.broadcast_changes_or_warn TO PUBLIC;

--
-- API keys: what a client may show instead of a token.  Each stands for a
-- role.  Only the hash of a key is kept.
--
CREATE TABLE rtsync.api_keys (
  name pg_catalog.text PRIMARY KEY,
  role pg_catalog.name NOT NULL,
  hash pg_catalog.bytea NOT NULL UNIQUE, -- SHA-256
  created_at pg_catalog.timestamptz NOT NULL DEFAULT pg_catalog.now()
);
REVOKE ALL ON rtsync.api_keys FROM PUBLIC;
SELECT pg_catalog.pg_extension_config_dump('rtsync.api_keys', '');

CREATE FUNCTION rtsync.api_keys_changed() RETURNS pg_catalog.trigger
AS 'MODULE_PATHNAME', 'rtsync_sql_api_keys_changed'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION rtsync.api_keys_changed() FROM PUBLIC;
CREATE TRIGGER changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON rtsync.api_keys
  FOR EACH STATEMENT EXECUTE FUNCTION rtsync.api_keys_changed();
ALTER TABLE rtsync.api_keys ENABLE ALWAYS TRIGGER changed;

CREATE FUNCTION rtsync.create_api_key(role pg_catalog.regrole, name pg_catalog.text)
RETURNS pg_catalog.text
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $create$
DECLARE
  rolename name := (SELECT rolname FROM pg_roles WHERE oid = create_api_key.role);
  key text;
BEGIN
  IF rolename IS NULL THEN
    RAISE EXCEPTION 'role with OID % does not exist', create_api_key.role::oid
      USING ERRCODE = 'undefined_object';
  END IF;
  IF rolename = 'rtsync_authenticator' OR NOT pg_has_role('rtsync_authenticator', rolename, 'MEMBER')
    OR (SELECT rolsuper FROM pg_roles WHERE rolname = rolename) THEN
    RAISE EXCEPTION 'clients cannot have role "%"', rolename
      USING ERRCODE = 'invalid_authorization_specification',
        HINT = 'Grant the role to "rtsync_authenticator".  It must not be a superuser.';
  END IF;
  key := CASE WHEN (SELECT rolbypassrls FROM pg_roles WHERE rolname = rolename)
           THEN 'sb_secret_' ELSE 'sb_publishable_' END ||
         translate(encode(substr(sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())), 1, 24),
                          'base64'), '+/', '-_');
  INSERT INTO rtsync.api_keys (name, role, hash)
    VALUES (create_api_key.name, rolename, sha256(convert_to(key, 'UTF8')));
  RETURN key;
END
$create$;

CREATE FUNCTION rtsync.revoke_api_key(name pg_catalog.text)
RETURNS pg_catalog.void
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $revoke$
BEGIN
  DELETE FROM rtsync.api_keys AS k WHERE k.name = revoke_api_key.name;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'API key "%" does not exist', revoke_api_key.name
      USING ERRCODE = 'undefined_object';
  END IF;
END
$revoke$;
REVOKE ALL ON FUNCTION rtsync.create_api_key, rtsync.revoke_api_key FROM PUBLIC;
COMMENT ON TABLE rtsync.api_keys IS 'what clients may show instead of a token';
COMMENT ON FUNCTION rtsync.create_api_key IS 'makes a key that stands for a role, and returns it; it cannot be seen again';
COMMENT ON FUNCTION rtsync.revoke_api_key IS 'ends a key, and the connections that came with it';

--
-- Asking: what would a subscriber get, and why not?  Who asks must be able to
-- SET ROLE to the role in question; members of rtsync_authenticator can, for
-- all roles that a token may name.
--
CREATE FUNCTION rtsync.explain(
  role pg_catalog.regrole,
  claims pg_catalog.jsonb,
  relation pg_catalog.regclass,
  data pg_catalog.jsonb,      -- the primary key of a row, or a whole row
  filter pg_catalog.text DEFAULT NULL,
  where_ pg_catalog.text DEFAULT NULL,
  OUT step pg_catalog.text,
  OUT object pg_catalog.text,
  OUT passed pg_catalog.bool, -- null: it did neither pass nor fail
  OUT detail pg_catalog.text
) RETURNS SETOF record
AS 'MODULE_PATHNAME', 'rtsync_sql_explain'
LANGUAGE C VOLATILE PARALLEL UNSAFE ROWS 12;
COMMENT ON FUNCTION rtsync.explain IS 'why a subscriber gets the changes of a row, or does not';

CREATE FUNCTION rtsync.decide(
  role pg_catalog.regrole,
  claims pg_catalog.jsonb,
  relation pg_catalog.regclass,
  old pg_catalog.jsonb,       -- null: an INSERT
  new pg_catalog.jsonb,       -- null: a DELETE
  filter pg_catalog.text DEFAULT NULL,
  where_ pg_catalog.text DEFAULT NULL,
  events pg_catalog.text DEFAULT '*',
  columns pg_catalog.text[] DEFAULT NULL,
  view pg_catalog.bool DEFAULT false,
  OUT event pg_catalog.text,  -- INSERT, UPDATE, DELETE, nothing, undecidable, error
  OUT record pg_catalog.json,
  OUT old_record pg_catalog.json,
  OUT old_row pg_catalog.text, -- does it pass: yes, no, unknown; null: there is none
  OUT new_row pg_catalog.text,
  OUT detail pg_catalog.text
) RETURNS SETOF record
AS 'MODULE_PATHNAME', 'rtsync_sql_decide'
LANGUAGE C VOLATILE PARALLEL UNSAFE ROWS 1;
COMMENT ON FUNCTION rtsync.decide IS 'what a subscriber gets of a change';

REVOKE ALL ON FUNCTION rtsync.explain, rtsync.decide FROM PUBLIC;
GRANT EXECUTE ON FUNCTION rtsync.explain, rtsync.decide TO rtsync_authenticator;
