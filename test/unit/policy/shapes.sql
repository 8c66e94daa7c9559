-- Every shape of row security, against what a SELECT shows.
CREATE ROLE rt_anon; CREATE ROLE rt_user; CREATE ROLE rt_staff; CREATE ROLE rt_owner;
CREATE ROLE rt_bypass BYPASSRLS; CREATE ROLE rt_child IN ROLE rt_staff;
CREATE ROLE rt_noinherit NOINHERIT IN ROLE rt_staff; CREATE ROLE rt_nothing;
CREATE SCHEMA app;
GRANT USAGE ON SCHEMA app, rtsync TO PUBLIC;
\set ann '{"sub":"00000000-0000-0000-0000-00000000000a","role":"rt_user","orgs":[1,2],"app":{"admin":false}}'
\set bob '{"sub":"00000000-0000-0000-0000-00000000000b","role":"rt_user","orgs":[3],"app":{"admin":true}}'

CREATE TABLE app.notes (id int PRIMARY KEY, owner uuid, org int, body text, public bool);
INSERT INTO app.notes VALUES
  (1, '00000000-0000-0000-0000-00000000000a', 1, 'a', false),
  (2, '00000000-0000-0000-0000-00000000000b', 2, 'b', true),
  (3, NULL, 3, NULL, NULL),
  (4, '00000000-0000-0000-0000-00000000000a', 3, 'secret', true);
GRANT SELECT ON app.notes TO rt_anon, rt_user, rt_staff, rt_owner, rt_bypass;

-- no row security
SELECT test.agree('app.notes', 'rt_user', :'ann');
SELECT test.agree('app.notes', 'rt_nothing');
SELECT test.access('app.notes', 'rt_user');

-- row security without a policy shows nothing
ALTER TABLE app.notes ENABLE ROW LEVEL SECURITY;
SELECT test.agree('app.notes', 'rt_user', :'ann');
SELECT test.access('app.notes', 'rt_user');
SELECT test.agree('app.notes', 'rt_bypass', :'ann');
SELECT test.access('app.notes', 'rt_bypass');

-- the owner, and FORCE
ALTER TABLE app.notes OWNER TO rt_owner;
SELECT test.agree('app.notes', 'rt_owner');
ALTER TABLE app.notes FORCE ROW LEVEL SECURITY;
SELECT test.agree('app.notes', 'rt_owner');
ALTER TABLE app.notes NO FORCE ROW LEVEL SECURITY;
ALTER TABLE app.notes OWNER TO postgres;

-- owner = uid(), in its forms
CREATE POLICY p ON app.notes USING (owner = rtsync.uid());
SELECT test.agree('app.notes', 'rt_user', :'ann'), test.agree('app.notes', 'rt_user', :'bob');
SELECT test.agree('app.notes', 'rt_user', '{}'), test.agree('app.notes', 'rt_user', '');
SELECT test.agree('app.notes', 'rt_user', '{"sub":"no uuid"}');
ALTER POLICY p ON app.notes USING (owner = (SELECT rtsync.uid()));
SELECT test.agree('app.notes', 'rt_user', :'ann'), test.agree('app.notes', 'rt_user', :'bob');
SELECT test.access('app.notes', 'rt_user'), test.dependencies('app.notes', 'rt_user');
ALTER POLICY p ON app.notes USING ((SELECT rtsync.uid()) = (SELECT (SELECT owner)));
SELECT test.agree('app.notes', 'rt_user', :'ann'), test.dependencies('app.notes', 'rt_user');
ALTER POLICY p ON app.notes USING (rtsync.uid() IS NULL OR public);
SELECT test.agree('app.notes', 'rt_user', :'ann'), test.agree('app.notes', 'rt_user');

-- functions that cannot be inlined
CREATE FUNCTION app.uid_plpgsql() RETURNS uuid LANGUAGE plpgsql STABLE AS
  $$ BEGIN RETURN current_setting('request.jwt.claims', true)::jsonb ->> 'sub'; END $$;
CREATE FUNCTION app.uid_definer() RETURNS uuid LANGUAGE sql STABLE SECURITY DEFINER SET search_path = '' AS
  $$ SELECT (pg_catalog.current_setting('request.jwt.claims', true)::jsonb ->> 'sub')::uuid $$;
-- a lie that many tell: the planner may make a constant of it
CREATE FUNCTION app.uid_immutable() RETURNS uuid LANGUAGE plpgsql IMMUTABLE AS
  $$ BEGIN RETURN current_setting('request.jwt.claims', true)::jsonb ->> 'sub'; END $$;
CREATE FUNCTION app.uid_hidden() RETURNS uuid LANGUAGE sql STABLE AS $$ SELECT app.uid_immutable() $$;
CREATE FUNCTION app.uid_volatile() RETURNS uuid LANGUAGE plpgsql VOLATILE AS
  $$ BEGIN RETURN current_setting('request.jwt.claims', true)::jsonb ->> 'sub'; END $$;
ALTER POLICY p ON app.notes USING (owner = app.uid_plpgsql());
SELECT test.agree('app.notes', 'rt_user', :'ann'), test.agree('app.notes', 'rt_user', :'bob');
ALTER POLICY p ON app.notes USING (owner = (SELECT app.uid_definer()));
SELECT test.agree('app.notes', 'rt_user', :'ann'), test.agree('app.notes', 'rt_user', :'bob');
ALTER POLICY p ON app.notes USING (owner = app.uid_immutable());
SELECT test.agree('app.notes', 'rt_user', :'ann'), test.agree('app.notes', 'rt_user', :'bob'), test.agree('app.notes', 'rt_user', :'ann');
ALTER POLICY p ON app.notes USING (owner = app.uid_hidden());
SELECT test.agree('app.notes', 'rt_user', :'ann'), test.agree('app.notes', 'rt_user', :'bob'), test.agree('app.notes', 'rt_user', :'ann');
ALTER POLICY p ON app.notes USING (owner = app.uid_volatile());
SELECT test.agree('app.notes', 'rt_user', :'ann'), test.agree('app.notes', 'rt_user', :'bob');

-- what is asked about the claims and the session
ALTER POLICY p ON app.notes USING (org IN (SELECT jsonb_array_elements_text(rtsync.jwt() -> 'orgs')::int));
SELECT test.agree('app.notes', 'rt_user', :'ann'), test.agree('app.notes', 'rt_user', :'bob');
ALTER POLICY p ON app.notes USING (rtsync.jwt() -> 'orgs' @> to_jsonb(org));
SELECT test.agree('app.notes', 'rt_user', :'ann'), test.agree('app.notes', 'rt_user', :'bob');
ALTER POLICY p ON app.notes USING (org = ANY (ARRAY(SELECT jsonb_array_elements_text(rtsync.jwt() -> 'orgs')::int)));
SELECT test.agree('app.notes', 'rt_user', :'ann'), test.agree('app.notes', 'rt_user', :'bob');
ALTER POLICY p ON app.notes USING ((rtsync.jwt() #>> '{app,admin}')::bool OR public);
SELECT test.agree('app.notes', 'rt_user', :'ann'), test.agree('app.notes', 'rt_user', :'bob');
ALTER POLICY p ON app.notes USING (rtsync.role() = current_user AND current_setting('role') = current_user);
SELECT test.agree('app.notes', 'rt_user', :'ann'), test.agree('app.notes', 'rt_anon', :'ann');
ALTER POLICY p ON app.notes USING (current_setting('search_path') = '"$user", public' AND NOT current_setting('is_superuser')::bool);
SELECT test.agree('app.notes', 'rt_user', :'ann');
ALTER POLICY p ON app.notes USING (CASE WHEN org = 1 THEN true WHEN body ~ 'sec' THEN public ELSE body IS NULL END);
SELECT test.agree('app.notes', 'rt_user', :'ann');
ALTER POLICY p ON app.notes USING (NULL::bool OR public);
SELECT test.agree('app.notes', 'rt_user'), test.access('app.notes', 'rt_user');
ALTER POLICY p ON app.notes USING (true);
SELECT test.agree('app.notes', 'rt_user'), test.access('app.notes', 'rt_user');

-- whole rows; system columns cannot be asked about
ALTER POLICY p ON app.notes USING (notes IS NOT NULL);
SELECT test.agree('app.notes', 'rt_user'), test.access('app.notes', 'rt_user');
ALTER POLICY p ON app.notes USING (to_jsonb(notes) ->> 'org' = '3');
SELECT test.agree('app.notes', 'rt_user');
ALTER POLICY p ON app.notes USING (EXISTS (SELECT 1 FROM pg_class WHERE notes.body = 'b' AND to_jsonb(notes) ->> 'id' = '2'));
SELECT test.agree('app.notes', 'rt_user');
ALTER POLICY p ON app.notes USING (ctid IS NOT NULL);
SELECT test."check"('app.notes', 'rt_user', '{}', n), test.access('app.notes', 'rt_user') FROM app.notes n LIMIT 1;
ALTER POLICY p ON app.notes USING (EXISTS (SELECT 1 FROM pg_class WHERE oid = notes.tableoid));
SELECT test."check"('app.notes', 'rt_user', '{}', n) FROM app.notes n LIMIT 1;

-- permissive OR permissive, AND restrictive; FOR and TO
ALTER POLICY p ON app.notes USING (owner = rtsync.uid());
CREATE POLICY p2 ON app.notes FOR SELECT USING (public);
SELECT test.agree('app.notes', 'rt_user', :'ann');
CREATE POLICY p3 ON app.notes AS RESTRICTIVE USING (org < 3);
SELECT test.agree('app.notes', 'rt_user', :'ann'), test.access('app.notes', 'rt_user');
CREATE POLICY p4 ON app.notes FOR UPDATE USING (true);
CREATE POLICY p5 ON app.notes FOR INSERT WITH CHECK (true);
SELECT test.agree('app.notes', 'rt_user', :'ann');
DROP POLICY p3 ON app.notes;
ALTER POLICY p ON app.notes TO rt_anon, rt_staff;
SELECT test.agree('app.notes', 'rt_user', :'ann'), test.agree('app.notes', 'rt_anon', :'ann'), test.agree('app.notes', 'rt_staff', :'ann');
SELECT test.agree('app.notes', 'rt_child', :'ann'), test.agree('app.notes', 'rt_noinherit', :'ann');
SELECT test.agree('app.notes', 'rt_bypass', :'ann');
DROP POLICY p2 ON app.notes;

-- sub-queries on tables with row security of their own
CREATE TABLE app.members (uid uuid, org int, active bool DEFAULT true);
CREATE INDEX ON app.members (uid, org);
INSERT INTO app.members VALUES ('00000000-0000-0000-0000-00000000000a', 1, true), ('00000000-0000-0000-0000-00000000000a', 2, false), ('00000000-0000-0000-0000-00000000000b', 3, true);
ALTER POLICY p ON app.notes TO PUBLIC USING (EXISTS (SELECT 1 FROM app.members m WHERE m.org = notes.org AND m.uid = rtsync.uid()));
SELECT test.agree('app.notes', 'rt_user', :'ann');
GRANT SELECT ON app.members TO rt_user, rt_staff;
SELECT test.agree('app.notes', 'rt_user', :'ann'), test.agree('app.notes', 'rt_user', :'bob');
SELECT test.access('app.notes', 'rt_user'), test.dependencies('app.notes', 'rt_user');
ALTER TABLE app.members ENABLE ROW LEVEL SECURITY;
SELECT test.agree('app.notes', 'rt_user', :'ann'), test.agree('app.notes', 'rt_user', :'bob');
CREATE POLICY m ON app.members TO rt_user USING (active AND uid = (SELECT rtsync.uid()));
SELECT test.agree('app.notes', 'rt_user', :'ann'), test.agree('app.notes', 'rt_user', :'bob');
SELECT test.agree('app.notes', 'rt_staff', :'ann');
ALTER POLICY p ON app.notes USING (public OR org IN (SELECT org FROM app.members WHERE uid = rtsync.uid()));
SELECT test.agree('app.notes', 'rt_user', :'ann'), test.agree('app.notes', 'rt_user', :'bob');
ALTER POLICY p ON app.notes USING (org NOT IN (SELECT m.org FROM app.members m WHERE m.uid = rtsync.uid()));
SELECT test.agree('app.notes', 'rt_user', :'ann'), test.agree('app.notes', 'rt_user', :'bob');
ALTER POLICY p ON app.notes USING ((SELECT count(*) FROM app.members m WHERE m.org <= notes.org) > 0);
SELECT test.agree('app.notes', 'rt_user', :'ann'), test.agree('app.notes', 'rt_user', :'bob');
ALTER POLICY p ON app.notes USING (EXISTS (SELECT 1 FROM app.members m WHERE m.org = notes.org AND m.uid = app.uid_immutable()));
SELECT test.agree('app.notes', 'rt_user', :'ann'), test.agree('app.notes', 'rt_user', :'bob'), test.agree('app.notes', 'rt_user', :'ann');
CREATE VIEW app.active AS SELECT uid, org FROM app.members WHERE active;
GRANT SELECT ON app.active TO rt_user;
ALTER POLICY p ON app.notes USING (org IN (SELECT org FROM app.active a WHERE a.uid = rtsync.uid()));
SELECT test.agree('app.notes', 'rt_user', :'ann'), test.agree('app.notes', 'rt_user', :'bob');
-- a definer function that looks behind row security
CREATE FUNCTION app.orgs() RETURNS SETOF int LANGUAGE sql STABLE SECURITY DEFINER SET search_path = app AS
  $$ SELECT org FROM members WHERE uid = rtsync.uid() $$;
ALTER POLICY p ON app.notes USING (org IN (SELECT app.orgs()));
SELECT test.agree('app.notes', 'rt_user', :'ann'), test.agree('app.notes', 'rt_user', :'bob');
-- a restrictive policy with a sub-query
ALTER POLICY p ON app.notes USING (true);
CREATE POLICY r ON app.notes AS RESTRICTIVE USING (owner = rtsync.uid() OR org = (SELECT max(org) FROM app.members));
SELECT test.agree('app.notes', 'rt_user', :'ann'), test.agree('app.notes', 'rt_user', :'bob');
DROP POLICY r ON app.notes;
-- the table itself in its own policy: an infinite recursion
ALTER POLICY p ON app.notes USING (EXISTS (SELECT 1 FROM app.notes n WHERE n.id = notes.id));
SELECT test.agree('app.notes', 'rt_user', :'ann');
-- rows that are not in the table
ALTER POLICY p ON app.notes USING (EXISTS (SELECT 1 FROM app.members m WHERE m.org = notes.org AND m.uid = rtsync.uid()));
SELECT test."check"('app.notes', 'rt_user', :'ann', ROW(99, NULL, 1, 'gone', NULL)::app.notes),
       test."check"('app.notes', 'rt_user', :'ann', ROW(99, NULL, 7, 'gone', NULL)::app.notes);

-- rows of which only some columns are known
SELECT test."check"('app.notes', 'rt_user', :'ann', n, '{1}') AS key, test."check"('app.notes', 'rt_user', :'ann', n, '{1,3}') AS enough FROM app.notes n WHERE id = 1;
ALTER POLICY p ON app.notes USING (owner IS NULL OR owner = rtsync.uid());
SELECT test."check"('app.notes', 'rt_user', :'ann', ROW(1, NULL, NULL, NULL, NULL)::app.notes, '{1}') AS key,
       test."check"('app.notes', 'rt_user', :'ann', ROW(1, NULL, NULL, NULL, NULL)::app.notes, '{}') AS nothing,
       test."check"('app.notes', 'rt_user', :'ann', ROW(1, NULL, NULL, NULL, NULL)::app.notes, '{1,2}') AS enough,
       test."check"('app.notes', 'rt_user', :'ann', ROW(1, NULL, NULL, NULL, NULL)::app.notes) AS "all";
ALTER POLICY p ON app.notes USING (id < 3);
SELECT test."check"('app.notes', 'rt_user', :'ann', ROW(1, NULL, NULL, NULL, NULL)::app.notes, '{1}') AS key;

-- partitions: the policies of the table named
CREATE TABLE app.parts (id int, owner uuid) PARTITION BY RANGE (id);
CREATE TABLE app.parts1 PARTITION OF app.parts FOR VALUES FROM (0) TO (100);
INSERT INTO app.parts SELECT id, owner FROM app.notes;
GRANT SELECT ON app.parts, app.parts1 TO rt_user;
ALTER TABLE app.parts ENABLE ROW LEVEL SECURITY;
CREATE POLICY p ON app.parts USING (owner = rtsync.uid());
SELECT test.agree('app.parts', 'rt_user', :'ann'), test.agree('app.parts1', 'rt_user', :'ann');

-- column privileges
CREATE TABLE app.people (id int, name text, salary int);
INSERT INTO app.people VALUES (1, 'x', 10), (2, 'y', 20);
GRANT SELECT (id, name) ON app.people TO rt_user;
SELECT test.access('app.people', 'rt_user'), test.agree('app.people', 'rt_user');
ALTER TABLE app.people ENABLE ROW LEVEL SECURITY;
CREATE POLICY p ON app.people USING (salary < 15);
SELECT test.access('app.people', 'rt_user'), test.agree('app.people', 'rt_user');
