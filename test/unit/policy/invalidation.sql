-- What changes in the catalogs is seen by the next lookup.
CREATE ROLE rt_user; CREATE ROLE rt_group; CREATE ROLE rt_gone;
CREATE SCHEMA app;
GRANT USAGE ON SCHEMA app, rtsync TO PUBLIC;
CREATE TABLE app.t (id int PRIMARY KEY, n int, s text);
INSERT INTO app.t VALUES (1, 1, 'a'), (2, 2, 'b');
SELECT test.access('app.t', 'rt_user'), test.agree('app.t', 'rt_user');
GRANT SELECT ON app.t TO rt_user;
SELECT test.access('app.t', 'rt_user'), test.agree('app.t', 'rt_user');
REVOKE SELECT ON app.t FROM rt_user;
SELECT test.access('app.t', 'rt_user');
GRANT SELECT (id) ON app.t TO rt_user;
SELECT test.access('app.t', 'rt_user');
GRANT SELECT ON app.t TO rt_group;
GRANT rt_group TO rt_user;
SELECT test.access('app.t', 'rt_user');
REVOKE USAGE ON SCHEMA app FROM PUBLIC;
SELECT test.access('app.t', 'rt_user');
GRANT USAGE ON SCHEMA app TO rt_group;
SELECT test.access('app.t', 'rt_user');
-- From 16 on a role inherits by each of its memberships, before as a whole.
CREATE PROCEDURE test.inherit(yes bool) LANGUAGE plpgsql AS $$ BEGIN
  IF current_setting('server_version_num')::int >= 160000 THEN EXECUTE format('GRANT rt_group TO rt_user WITH INHERIT %s', yes::text);
  ELSIF yes THEN ALTER ROLE rt_user INHERIT; ELSE ALTER ROLE rt_user NOINHERIT; END IF;
END $$;
CALL test.inherit(false);
SELECT test.access('app.t', 'rt_user');
CALL test.inherit(true);
ALTER TABLE app.t ENABLE ROW LEVEL SECURITY;
SELECT test.agree('app.t', 'rt_user');
ALTER ROLE rt_user BYPASSRLS;
SELECT test.agree('app.t', 'rt_user');
ALTER ROLE rt_user NOBYPASSRLS;
SELECT test.agree('app.t', 'rt_user');
CREATE POLICY p ON app.t TO rt_group USING (n = 1);
SELECT test.agree('app.t', 'rt_user');
REVOKE rt_group FROM rt_user;
SELECT test.agree('app.t', 'rt_user');
GRANT rt_group TO rt_user;
ALTER POLICY p ON app.t USING (n = 2);
SELECT test.agree('app.t', 'rt_user');
ALTER POLICY p ON app.t TO rt_gone;
SELECT test.agree('app.t', 'rt_user');
ALTER POLICY p ON app.t TO PUBLIC;

-- a rolled back change was none
BEGIN;
ALTER POLICY p ON app.t USING (true);
SELECT test.agree('app.t', 'rt_user');
ROLLBACK;
SELECT test.agree('app.t', 'rt_user');

-- functions: inlined, called, constants
CREATE FUNCTION app.f() RETURNS int LANGUAGE sql STABLE AS 'SELECT 1';
ALTER POLICY p ON app.t USING (n = app.f());
SELECT test.agree('app.t', 'rt_user');
CREATE OR REPLACE FUNCTION app.f() RETURNS int LANGUAGE sql STABLE AS 'SELECT 2';
SELECT test.agree('app.t', 'rt_user');
CREATE OR REPLACE FUNCTION app.f() RETURNS int LANGUAGE plpgsql STABLE AS 'BEGIN RETURN 1; END';
SELECT test.agree('app.t', 'rt_user');
CREATE OR REPLACE FUNCTION app.f() RETURNS int LANGUAGE plpgsql STABLE AS 'BEGIN RETURN 2; END';
SELECT test.agree('app.t', 'rt_user');
ALTER FUNCTION app.f() SECURITY DEFINER;
SELECT test.agree('app.t', 'rt_user');
REVOKE EXECUTE ON FUNCTION app.f() FROM PUBLIC;
SELECT test.agree('app.t', 'rt_user');
GRANT EXECUTE ON FUNCTION app.f() TO rt_group;
SELECT test.agree('app.t', 'rt_user');

-- domains
CREATE DOMAIN app.d AS int;
ALTER POLICY p ON app.t USING (n::app.d > 0);
SELECT test.agree('app.t', 'rt_user');
ALTER DOMAIN app.d ADD CONSTRAINT c CHECK (VALUE < 2);
SELECT test.agree('app.t', 'rt_user');
ALTER DOMAIN app.d DROP CONSTRAINT c;
SELECT test.agree('app.t', 'rt_user');

-- tables and views in sub-queries
CREATE TABLE app.m (n int, ok bool);
INSERT INTO app.m VALUES (1, true), (2, false);
GRANT SELECT ON app.m TO rt_user;
ALTER POLICY p ON app.t USING (EXISTS (SELECT 1 FROM app.m WHERE m.n = t.n));
SELECT test.agree('app.t', 'rt_user');
DELETE FROM app.m WHERE n = 2;
SELECT test.agree('app.t', 'rt_user');
INSERT INTO app.m VALUES (2, false);
ALTER TABLE app.m ENABLE ROW LEVEL SECURITY;
SELECT test.agree('app.t', 'rt_user');
CREATE POLICY p ON app.m USING (ok);
SELECT test.agree('app.t', 'rt_user');
ALTER POLICY p ON app.m USING (NOT ok);
SELECT test.agree('app.t', 'rt_user');
REVOKE SELECT ON app.m FROM rt_user;
SELECT test.agree('app.t', 'rt_user');
GRANT SELECT ON app.m TO rt_user;
CREATE INDEX i ON app.m (n);
SET enable_seqscan = off;
SELECT test.agree('app.t', 'rt_user');
DROP INDEX app.i;
SELECT test.agree('app.t', 'rt_user');
RESET enable_seqscan;
CREATE VIEW app.v AS SELECT n FROM app.m WHERE ok;
GRANT SELECT ON app.v TO rt_user;
ALTER POLICY p ON app.t USING (n IN (SELECT n FROM app.v));
SELECT test.agree('app.t', 'rt_user'), test.dependencies('app.t', 'rt_user');
CREATE OR REPLACE VIEW app.v AS SELECT n FROM app.m WHERE NOT ok;
SELECT test.agree('app.t', 'rt_user');
REVOKE SELECT ON app.v FROM rt_user;
SELECT test.agree('app.t', 'rt_user');
GRANT SELECT ON app.v TO rt_user;
ALTER TABLE app.m RENAME TO m2;
SELECT test.agree('app.t', 'rt_user');

-- the end of things
ALTER POLICY p ON app.t USING (true);
SELECT test.access('app.t', 'rt_gone');
DROP ROLE rt_gone;
SELECT test.access('app.t', 'rt_gone');
SELECT 'app.t'::regclass::oid AS t \gset
DROP TABLE app.t;
SELECT test.access(:t, 'rt_user');
