-- Policies with sub-queries, asked about many principals at once.
CREATE ROLE rt_user; CREATE ROLE rt_owner; CREATE ROLE rt_staff;
CREATE SCHEMA app;
GRANT USAGE ON SCHEMA app, rtsync TO PUBLIC;
CREATE TABLE app.t (id int PRIMARY KEY, gone text, owner uuid, org int, n int, body text, public bool);
ALTER TABLE app.t DROP gone;
INSERT INTO app.t SELECT i,
  CASE i % 4 WHEN 0 THEN NULL ELSE ('00000000-0000-0000-0000-00000000000' || i % 4)::uuid END,
  nullif(i % 5, 0), i % 3, 'body ' || i, (ARRAY[true, false, NULL])[i % 3 + 1] FROM generate_series(1, 24) i;
CREATE TABLE app.m (uid uuid, org int, level int);
INSERT INTO app.m SELECT ('00000000-0000-0000-0000-00000000000' || i % 4)::uuid, nullif(i % 6, 0), i FROM generate_series(1, 10) i;
INSERT INTO app.m SELECT * FROM app.m;
GRANT SELECT ON app.t, app.m TO PUBLIC;
ALTER TABLE app.t ENABLE ROW LEVEL SECURITY;
CREATE POLICY p ON app.t USING (false);
CREATE FUNCTION test.set(text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
  EXECUTE format('ALTER POLICY p ON app.t USING (%s)', $1);
  RETURN test.sets('app.t', 'rt_user', '{"sub":"00000000-0000-0000-0000-000000000001","n":2,"orgs":[1,4]}',
    '{"sub":"00000000-0000-0000-0000-000000000002","n":1,"orgs":[]}', '{"sub":"00000000-0000-0000-0000-000000000003","n":0}', '{}', '',
    '{"sub":"00000000-0000-0000-0000-000000000001","n":3}');
END $$;

-- sub-queries that become joins
SELECT test.set('EXISTS (SELECT FROM app.m WHERE m.org = t.org AND m.uid = rtsync.uid())');
SELECT test.set('EXISTS (SELECT FROM app.m WHERE m.org = t.org AND m.uid = (SELECT rtsync.uid()))');
SELECT test.set('EXISTS (SELECT DISTINCT 1 FROM app.m a JOIN app.m b USING (org) WHERE a.org = t.org AND b.uid = rtsync.uid() AND a.level > 2)');
SELECT test.set('EXISTS (SELECT FROM app.m a LEFT JOIN app.m b ON a.org = b.level WHERE a.org = t.org AND b.uid = rtsync.uid())');
SELECT test.set('org IN (SELECT m.org FROM app.m WHERE m.uid = rtsync.uid())');
SELECT test.set('(org, owner) IN (SELECT m.org, m.uid FROM app.m WHERE m.level > (rtsync.jwt() ->> ''n'')::int)');
SELECT test.set('n < ANY (SELECT m.level FROM app.m WHERE m.uid = rtsync.uid())');
SELECT test.set('rtsync.uid() IN (SELECT m.uid FROM app.m WHERE m.org = t.org)');
SELECT test.set('EXISTS (SELECT FROM app.m, jsonb_array_elements_text(rtsync.jwt() -> ''orgs'') o WHERE m.org = o::int AND m.org = t.org)');
SELECT test.set('org IN (SELECT (jsonb_array_elements_text(rtsync.jwt() -> ''orgs''))::int)');
SELECT test.set('org IN (SELECT x::int FROM jsonb_array_elements_text(rtsync.jwt() -> ''orgs'') x)');
SELECT test.set('EXISTS (SELECT FROM (SELECT a.org FROM app.m a WHERE a.uid = rtsync.uid() OFFSET 0) x WHERE x.org = t.org)');
SELECT test.set('EXISTS (SELECT FROM app.m WHERE m.org = t.org AND m.uid = rtsync.uid() AND EXISTS (SELECT FROM app.m o WHERE o.uid = m.uid AND o.level > t.n + 5))');
-- and those that cannot
SELECT test.set('org = ANY (ARRAY(SELECT (jsonb_array_elements_text(rtsync.jwt() -> ''orgs''))::int))');
SELECT test.set('NOT EXISTS (SELECT FROM app.m WHERE m.org = t.org AND m.uid = rtsync.uid())');
SELECT test.set('org NOT IN (SELECT m.org FROM app.m WHERE m.uid = rtsync.uid())');
SELECT test.set('org <> ALL (SELECT m.org FROM app.m WHERE m.uid = rtsync.uid() AND m.org IS NOT NULL)');
SELECT test.set('(SELECT count(*) FROM app.m WHERE m.uid = rtsync.uid() AND m.org = t.org) > 1');
SELECT test.set('(SELECT max(m.level) FROM app.m WHERE m.uid = rtsync.uid()) > t.id');
SELECT test.set('owner = (SELECT m.uid FROM app.m WHERE m.uid = rtsync.uid() AND m.org = t.org ORDER BY level LIMIT 1)');
SELECT test.set('(SELECT m.org FROM app.m WHERE m.uid = rtsync.uid() GROUP BY m.org HAVING count(*) > 1 ORDER BY 1 LIMIT 1) = t.org');
SELECT test.set('EXISTS (SELECT FROM app.m WHERE m.org = t.org UNION SELECT FROM app.m WHERE m.uid = rtsync.uid())');
SELECT test.set('EXISTS (SELECT FROM app.m WHERE m.uid = rtsync.uid()) IS NOT TRUE');
SELECT test.set('CASE WHEN public THEN EXISTS (SELECT FROM app.m WHERE m.uid = rtsync.uid() AND m.org = t.n) ELSE owner = rtsync.uid() END');
SELECT test.set('EXISTS (WITH mine AS (SELECT * FROM app.m WHERE uid = rtsync.uid()) SELECT FROM mine WHERE mine.org = t.org)');
SELECT test.set('EXISTS (SELECT FROM app.m WHERE m.org = t.org AND m.uid = rtsync.uid() OFFSET 1)');
-- OR, and permissive OR permissive AND restrictive
SELECT test.set('public OR owner = rtsync.uid() OR EXISTS (SELECT FROM app.m WHERE m.org = t.org AND m.uid = rtsync.uid())');
SELECT test.set('(n = 1 OR EXISTS (SELECT FROM app.m WHERE m.org = t.org AND m.uid = rtsync.uid())) AND (n = 0 OR org IN (SELECT m.org FROM app.m WHERE m.uid = rtsync.uid()))');
SELECT test.set('rtsync.uid() IS NULL OR EXISTS (SELECT FROM app.m WHERE m.org = t.org AND m.uid = rtsync.uid())');
SELECT test.set('n = 1 AND EXISTS (SELECT FROM app.m WHERE m.uid = t.owner) OR n IS NULL');
CREATE POLICY p2 ON app.t USING (owner = rtsync.uid());
CREATE POLICY p3 ON app.t AS RESTRICTIVE USING (org < 3 OR rtsync.uid() IN (SELECT uid FROM app.m));
SELECT test.set('EXISTS (SELECT FROM app.m WHERE m.org = t.org AND m.uid = rtsync.uid())');
DROP POLICY p2 ON app.t;
DROP POLICY p3 ON app.t;
-- nothing of the claims, or nothing of the row
SELECT test.set('EXISTS (SELECT FROM app.m WHERE m.org = t.org)');
SELECT test.set('EXISTS (SELECT FROM app.m WHERE m.uid = rtsync.uid())');
SELECT test.set('EXISTS (SELECT FROM app.m WHERE m.level = 10 AND current_user = ''rt_user'' AND now() > ''2020-01-01'')');

-- row security inside row security reads the claims, too
ALTER TABLE app.m ENABLE ROW LEVEL SECURITY;
SELECT test.set('EXISTS (SELECT FROM app.m WHERE m.org = t.org)');
CREATE POLICY m ON app.m USING (uid = rtsync.uid());
SELECT test.set('EXISTS (SELECT FROM app.m WHERE m.org = t.org)');
SELECT test.set('org IN (SELECT m.org FROM app.m)');
SELECT test.set('org NOT IN (SELECT m.org FROM app.m)');
SELECT test.set('EXISTS (SELECT FROM app.m a LEFT JOIN app.m b ON a.level = b.level + 4 WHERE a.org = t.org AND b.uid IS NULL)');
ALTER POLICY m ON app.m USING (level < 8 OR uid = (SELECT rtsync.uid()));
SELECT test.set('EXISTS (SELECT FROM app.m WHERE m.org = t.org)');
SELECT test.set('EXISTS (SELECT FROM app.m WHERE m.org = t.org AND m.uid = rtsync.uid())');
CREATE TABLE app.blocked (uid uuid, org int);
INSERT INTO app.blocked VALUES ('00000000-0000-0000-0000-000000000001', 1), ('00000000-0000-0000-0000-000000000002', 2);
ALTER TABLE app.blocked ENABLE ROW LEVEL SECURITY;
GRANT SELECT ON app.blocked TO rt_user;
CREATE POLICY b ON app.blocked USING (uid = rtsync.uid());
ALTER POLICY m ON app.m USING (NOT EXISTS (SELECT FROM app.blocked b WHERE b.org = m.org) AND uid = rtsync.uid());
SELECT test.set('EXISTS (SELECT FROM app.m WHERE m.org = t.org)');
-- behind a view, its owner's
CREATE VIEW app.v AS SELECT * FROM app.m WHERE level > 1;
ALTER VIEW app.v OWNER TO rt_owner;
GRANT SELECT ON app.v TO rt_user;
GRANT SELECT ON app.blocked TO rt_owner;
SELECT test.set('EXISTS (SELECT FROM app.v WHERE v.org = t.org)');
SELECT test.set('EXISTS (SELECT FROM app.v WHERE v.org = t.org AND v.uid = rtsync.uid())');
ALTER TABLE app.m DISABLE ROW LEVEL SECURITY;
SELECT test.set('EXISTS (SELECT FROM app.v WHERE v.org = t.org AND v.uid = rtsync.uid())');

-- membership trees
CREATE TABLE app.tree (id int PRIMARY KEY, parent int);
INSERT INTO app.tree VALUES (1, NULL), (2, 1), (3, 1), (4, 2), (5, 4);
GRANT SELECT ON app.tree TO rt_user;
SELECT test.set('EXISTS (WITH RECURSIVE up AS (SELECT tree.id, parent FROM app.tree WHERE tree.id = t.org UNION ALL
  SELECT tree.id, tree.parent FROM app.tree JOIN up ON tree.id = up.parent) SELECT FROM up JOIN app.m ON m.org = up.id WHERE m.uid = rtsync.uid())');
SELECT test.set('org IN (WITH RECURSIVE down AS (SELECT org AS id FROM app.m WHERE uid = rtsync.uid() UNION
  SELECT tree.id FROM app.tree JOIN down ON tree.parent = down.id) SELECT id FROM down)');

-- what looks at the claims otherwise is asked for each alone
CREATE FUNCTION app.uid() RETURNS uuid LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN rtsync.uid(); END $$;
CREATE FUNCTION app.orgs() RETURNS SETOF int LANGUAGE sql STABLE SECURITY DEFINER SET search_path = app AS
  $$ SELECT org FROM m WHERE uid = rtsync.uid() $$;
CREATE FUNCTION app.mine() RETURNS SETOF int LANGUAGE sql STABLE AS $$ SELECT org FROM app.m WHERE uid = rtsync.uid() $$;
CREATE FUNCTION app.inline(int) RETURNS bool LANGUAGE sql STABLE AS $$ SELECT $1 > 2 AND rtsync.uid() IS NOT NULL $$;
CREATE FUNCTION app.lie() RETURNS uuid LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN rtsync.uid(); END $$;
CREATE DOMAIN app.claimed AS int CHECK (rtsync.uid() IS NOT NULL);
SELECT test.set('EXISTS (SELECT FROM app.m WHERE m.org = t.org AND m.uid = app.uid())');
SELECT test.set('org IN (SELECT app.orgs())');
SELECT test.set('org IN (SELECT * FROM app.mine())');
SELECT test.set('EXISTS (SELECT FROM app.m WHERE m.org = t.org AND app.inline(m.level))');
SELECT test.set('EXISTS (SELECT FROM app.m WHERE m.org = t.org AND m.uid = app.lie())');
SELECT test.set('EXISTS (SELECT FROM app.m WHERE m.org = t.org AND m.level::app.claimed > 0)');
SELECT test.set('EXISTS (SELECT FROM app.m WHERE m.org = t.org AND current_setting(''request.jwt.claim'' || CASE WHEN m.org > 0 THEN ''s'' END, true) <> '''')');
SELECT test.set('EXISTS (SELECT FROM app.m WHERE m.org = t.org AND random() >= 0)');
SELECT test.set('EXISTS (SELECT FROM app.m WHERE m.org = t.org AND format(''%s'', m.org) = ''1'')');
SELECT test.set('EXISTS (SELECT FROM app.m WHERE m.org = t.org AND m.uid::text = (xpath(''/a/text()'', query_to_xml(''select 1'', true, true, '''')))[1]::text)');
SELECT test.set('EXISTS (SELECT FROM pg_settings s WHERE s.name = ''request.jwt.claims'' AND s.setting <> '''')');
SELECT test.set('EXISTS (SELECT FROM app.m WHERE m.uid = rtsync.uid() AND t IS NOT NULL)');
-- without sub-queries there is nothing to do
SELECT test.set('owner = rtsync.uid()');

-- columns that are not known
SELECT test.set('EXISTS (SELECT FROM app.m WHERE m.org = t.org AND m.uid = rtsync.uid())');
SELECT test.set_check('app.t', 'rt_user', ARRAY['{"sub":"00000000-0000-0000-0000-000000000001"}'], array_agg(t), '{1}') FROM app.t;
SELECT test.set_check('app.t', 'rt_user', ARRAY['{"sub":"00000000-0000-0000-0000-000000000001"}'], array_agg(t), '{1,4}') FROM app.t;
-- many of both
SELECT test.set_check('app.t', 'rt_user', (SELECT array_agg('{"sub":"00000000-0000-0000-0000-00000000000' || to_hex(i % 16) || '"}') FROM generate_series(1, 100) i),
  array_agg(t)) FROM app.t, generate_series(1, 20);

-- an error in the query is the set's, one in the claims the principal's
SELECT test.set('EXISTS (SELECT FROM app.m WHERE m.org = t.org AND 10 / ((rtsync.jwt() ->> ''n'')::int - m.org) > 0)');
SELECT test.sets('app.t', 'rt_user', '{"sub":"no uuid"}', '{"sub":"00000000-0000-0000-0000-000000000001"}')
  FROM test.set('EXISTS (SELECT FROM app.m WHERE m.org = t.org AND m.uid = rtsync.uid())');
-- a right that is missing
REVOKE ALL ON app.m FROM PUBLIC;
SELECT test.set('EXISTS (SELECT FROM app.m WHERE m.org = t.org AND m.uid = rtsync.uid())');
SELECT test.sets('app.t', 'rt_staff', '{}');
-- a table that changes
GRANT SELECT ON app.m TO rt_user;
SELECT test.set('EXISTS (SELECT FROM app.m WHERE m.org = t.org AND m.uid = rtsync.uid())');
DROP VIEW app.v;
ALTER TABLE app.m ALTER level TYPE bigint;
DELETE FROM app.m WHERE level > 3;
SELECT test.set('EXISTS (SELECT FROM app.m WHERE m.org = t.org AND m.uid = rtsync.uid())');
SELECT test.sets('app.t', 'rt_user', '{}');
SELECT test.dependencies('app.t', 'rt_user');
