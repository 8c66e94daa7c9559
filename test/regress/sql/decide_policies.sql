--
-- What a subscriber gets under every shape of row security, beside what SELECT
-- shows to the same role with the same claims: the two must be the same.
--
\set VERBOSITY terse
\pset format unaligned
\pset fieldsep ' | '
\pset footer off
SET client_min_messages = warning;
SET rtsync.publication = 'regress_decide';
CREATE ROLE regress_user;
CREATE ROLE regress_staff;
CREATE ROLE regress_boss IN ROLE regress_staff;
CREATE ROLE regress_temp NOINHERIT IN ROLE regress_staff;
CREATE ROLE regress_owner;
CREATE ROLE regress_service BYPASSRLS;
CREATE ROLE regress_nothing;
CREATE TABLE notes (id int PRIMARY KEY, owner text, org int, secret bool NOT NULL DEFAULT false);
INSERT INTO notes VALUES (1, 'ann', 10, false), (2, 'bob', 10, false), (3, 'ann', 20, true), (4, NULL, NULL, false);
CREATE TABLE members (uid text, org int);
INSERT INTO members VALUES ('ann', 10), ('ann', 30), ('bob', 20);
CREATE PUBLICATION regress_decide FOR TABLE notes;
GRANT SELECT ON notes, members TO regress_user, regress_staff, regress_owner, regress_service;
GRANT USAGE ON SCHEMA public TO PUBLIC;

-- what SELECT shows
CREATE FUNCTION selected(who regrole, claims text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE ids text;
BEGIN
  PERFORM set_config('request.jwt.claims', claims, true), set_config('role', who::text, true);
  SELECT coalesce(string_agg(id::text, ' ' ORDER BY id), 'none') INTO ids FROM notes;
  PERFORM set_config('role', 'none', true), set_config('request.jwt.claims', '', true);
  RETURN ids;
EXCEPTION WHEN others THEN
  PERFORM set_config('role', 'none', true), set_config('request.jwt.claims', '', true);
  RETURN sqlerrm;
END $$;

-- what is delivered when the same rows are inserted
CREATE FUNCTION delivered(who regrole, claims text) RETURNS text LANGUAGE sql AS $$
  SELECT coalesce(string_agg(n.id::text, ' ' ORDER BY n.id) FILTER (WHERE d.event = 'INSERT'),
    min(d.detail) FILTER (WHERE d.event = 'error'), 'none')
  FROM notes AS n, rtsync.decide(who, claims::jsonb, 'notes', NULL, to_jsonb(n)) AS d $$;

CREATE FUNCTION compare(VARIADIC who regrole[]) RETURNS TABLE (role regrole, sub text, "select" text, delivered text)
LANGUAGE sql AS $$
  SELECT r, s, selected(r, c::text), delivered(r, c::text)
  FROM unnest(who) AS r, unnest(ARRAY['ann', 'bob']) AS s,
    jsonb_build_object('sub', s, 'role', r, 'orgs', CASE s WHEN 'ann' THEN '[10, 20]' ELSE '[20]' END::jsonb) AS c $$;

-- no row security; no privilege
SELECT * FROM compare('regress_user', 'regress_nothing');

-- row security without a policy; the owner, FORCE, BYPASSRLS
ALTER TABLE notes ENABLE ROW LEVEL SECURITY;
SELECT * FROM compare('regress_user', 'regress_service');
ALTER TABLE notes OWNER TO regress_owner;
SELECT * FROM compare('regress_owner');
ALTER TABLE notes FORCE ROW LEVEL SECURITY;
SELECT * FROM compare('regress_owner', 'regress_service');
ALTER TABLE notes NO FORCE ROW LEVEL SECURITY;

-- one owner's rows, in the usual ways of writing it
CREATE POLICY p ON notes USING (owner = rtsync.jwt() ->> 'sub');
SELECT * FROM compare('regress_user');
ALTER POLICY p ON notes USING (owner = (SELECT rtsync.jwt() ->> 'sub'));
SELECT * FROM compare('regress_user');
ALTER POLICY p ON notes USING (owner = current_setting('request.jwt.claims', true)::json ->> 'sub');
SELECT * FROM compare('regress_user');
ALTER POLICY p ON notes USING (owner IS NULL OR owner <> rtsync.jwt() ->> 'sub');
SELECT * FROM compare('regress_user');

-- the role and the user
ALTER POLICY p ON notes USING (current_user = 'regress_staff' OR rtsync.role() = 'regress_user' AND secret);
SELECT * FROM compare('regress_user', 'regress_staff');
ALTER POLICY p ON notes USING (current_setting('role') = 'regress_user');
SELECT * FROM compare('regress_user', 'regress_staff');

-- several permissive policies, and restrictive ones
ALTER POLICY p ON notes USING (owner = rtsync.jwt() ->> 'sub');
CREATE POLICY more ON notes USING (org = 10);
SELECT * FROM compare('regress_user');
CREATE POLICY no_secrets ON notes AS RESTRICTIVE USING (NOT secret);
SELECT * FROM compare('regress_user');
CREATE POLICY not_null ON notes AS RESTRICTIVE USING (id <> 1);
SELECT * FROM compare('regress_user');
DROP POLICY p ON notes;
DROP POLICY more ON notes;
SELECT * FROM compare('regress_user');
DROP POLICY no_secrets ON notes;
DROP POLICY not_null ON notes;

-- for which roles: several, by membership, inherited or not
GRANT SELECT ON notes TO regress_temp;
CREATE POLICY p ON notes TO regress_staff, regress_service USING (secret);
CREATE POLICY q ON notes TO regress_user, regress_nothing USING (org = 20);
SELECT * FROM compare('regress_user', 'regress_staff', 'regress_boss', 'regress_temp');

-- for which commands
DROP POLICY q ON notes;
ALTER POLICY p ON notes TO PUBLIC USING (false);
CREATE POLICY q ON notes FOR UPDATE USING (true);
CREATE POLICY r ON notes FOR INSERT WITH CHECK (true);
CREATE POLICY s ON notes FOR SELECT USING (org IS NULL);
SELECT * FROM compare('regress_user');
DROP POLICY q ON notes;
DROP POLICY r ON notes;
DROP POLICY s ON notes;

-- an array of the claims; sub-queries; their own row security
ALTER POLICY p ON notes USING (org = ANY (ARRAY(SELECT jsonb_array_elements_text(rtsync.jwt() -> 'orgs')::int)));
SELECT * FROM compare('regress_user');
ALTER POLICY p ON notes USING (org IN (SELECT value::int FROM jsonb_array_elements_text(rtsync.jwt() -> 'orgs')));
SELECT * FROM compare('regress_user');
ALTER POLICY p ON notes USING (org::text IN (SELECT jsonb_array_elements_text(rtsync.jwt() -> 'orgs') LIMIT 1));
SELECT * FROM compare('regress_user');
ALTER POLICY p ON notes USING (EXISTS (SELECT FROM jsonb_array_elements(rtsync.jwt() -> 'orgs') o WHERE notes.org = o::int AND o::int > 10));
SELECT * FROM compare('regress_user');
ALTER POLICY p ON notes USING (org NOT IN (SELECT jsonb_array_elements_text(rtsync.jwt() -> 'orgs')::int));
SELECT * FROM compare('regress_user');
ALTER POLICY p ON notes USING (rtsync.jwt() -> 'orgs' @> to_jsonb(org) OR rtsync.jwt() ? owner);
SELECT * FROM compare('regress_user');
ALTER POLICY p ON notes USING ((rtsync.jwt() -> 'orgs') @> to_jsonb(ARRAY[org]));
SELECT * FROM compare('regress_user');
ALTER POLICY p ON notes USING (rtsync.jwt() ? owner OR (jsonb_build_array(rtsync.jwt() ->> 'sub', '20') ? org::text));
SELECT * FROM compare('regress_user');
ALTER POLICY p ON notes USING (EXISTS (SELECT FROM members AS m WHERE m.org = notes.org AND m.uid = rtsync.jwt() ->> 'sub'));
SELECT * FROM compare('regress_user');
ALTER POLICY p ON notes USING (org NOT IN (SELECT org FROM members WHERE uid = rtsync.jwt() ->> 'sub'));
SELECT * FROM compare('regress_user');
ALTER POLICY p ON notes USING (org IN (SELECT org FROM members));
ALTER TABLE members ENABLE ROW LEVEL SECURITY;
CREATE POLICY mine ON members TO regress_user USING (uid = rtsync.jwt() ->> 'sub');
SELECT * FROM compare('regress_user', 'regress_staff');
REVOKE SELECT ON members FROM regress_user;
SELECT * FROM compare('regress_user');
CREATE FUNCTION my_orgs() RETURNS SETOF int LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public
  AS $$ SELECT org FROM members WHERE uid = rtsync.jwt() ->> 'sub' $$;
ALTER POLICY p ON notes USING (org IN (SELECT my_orgs()));
SELECT * FROM compare('regress_user');

-- functions that cannot be looked into
CREATE FUNCTION mine(text) RETURNS bool LANGUAGE plpgsql STABLE
  AS $$ BEGIN RETURN $1 = rtsync.jwt() ->> 'sub'; END $$;
ALTER POLICY p ON notes USING (mine(owner));
SELECT * FROM compare('regress_user');
ALTER FUNCTION mine(text) IMMUTABLE;
SELECT * FROM compare('regress_user');
REVOKE EXECUTE ON FUNCTION mine FROM PUBLIC;
SELECT * FROM compare('regress_user');

-- errors: SELECT fails as a whole, a subscriber loses only the rows concerned
ALTER POLICY p ON notes USING (10 / (id - 2) < 0);
SELECT * FROM compare('regress_user');
SELECT id, event, detail FROM notes AS n, rtsync.decide('regress_user', NULL, 'notes', NULL, to_jsonb(n)) ORDER BY id;

-- a policy that asks for what no change has
ALTER POLICY p ON notes USING (ctid <> '(0,1)');
SELECT id, event, detail FROM notes AS n, rtsync.decide('regress_user', NULL, 'notes', NULL, to_jsonb(n)) ORDER BY id;

DROP PUBLICATION regress_decide;
DROP TABLE notes, members;
DROP FUNCTION selected, delivered, compare, my_orgs, mine;
DROP ROLE regress_user, regress_boss, regress_temp, regress_staff, regress_owner, regress_service, regress_nothing;
