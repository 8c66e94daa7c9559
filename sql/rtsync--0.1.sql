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

COMMENT ON FUNCTION rtsync.jwt() IS 'claims of the current token, null without one';
COMMENT ON FUNCTION rtsync.uid() IS 'claim "sub" of the current token';
COMMENT ON FUNCTION rtsync.role() IS 'claim "role" of the current token';
