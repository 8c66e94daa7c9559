/* sql/rtsync--0.1.sql */

-- complain if script is sourced in psql, rather than via CREATE EXTENSION
\echo Use "CREATE EXTENSION rtsync" to load this file. \quit

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
