-- Policies made at random, against what a SELECT shows.
SET client_min_messages = warning;
CREATE ROLE rt_user; CREATE ROLE rt_group; CREATE ROLE rt_other;
GRANT rt_group TO rt_user;
CREATE SCHEMA app;
GRANT USAGE ON SCHEMA app, rtsync TO PUBLIC;
CREATE TABLE app.t (id int PRIMARY KEY, gone text, owner uuid, org int, tags text[], doc jsonb, at date, ok bool);
CREATE TABLE app.m (uid uuid, org int, level int);
ALTER TABLE app.t DROP gone;
INSERT INTO app.t SELECT i,
  CASE i % 4 WHEN 0 THEN NULL ELSE ('00000000-0000-0000-0000-00000000000' || i % 4)::uuid END,
  nullif(i % 5, 0), CASE i % 3 WHEN 0 THEN NULL ELSE ARRAY['a', 'b', i::text] END,
  CASE i % 3 WHEN 1 THEN NULL ELSE jsonb_build_object('k', i % 2, 'l', 'x' || i) END,
  date '2026-01-01' + i, (ARRAY[true, false, NULL])[i % 3 + 1] FROM generate_series(1, 24) i;
INSERT INTO app.m SELECT ('00000000-0000-0000-0000-00000000000' || i % 4)::uuid, nullif(i % 6, 0), i FROM generate_series(1, 10) i;
GRANT SELECT ON app.t, app.m TO rt_user, rt_other;
ALTER TABLE app.t ENABLE ROW LEVEL SECURITY;
ALTER TABLE app.m ENABLE ROW LEVEL SECURITY;
CREATE POLICY m ON app.m USING (level < 8 OR uid = (SELECT rtsync.uid()));
CREATE FUNCTION app.member(org int) RETURNS bool LANGUAGE sql STABLE SECURITY DEFINER SET search_path = '' AS
  $$ SELECT EXISTS (SELECT 1 FROM app.m WHERE m.org = $1 AND m.uid = rtsync.uid()) $$;
CREATE FUNCTION app.claim(name text) RETURNS text LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN rtsync.jwt() ->> name; END $$;

CREATE FUNCTION test.pick(VARIADIC choices text[]) RETURNS text LANGUAGE sql VOLATILE AS
  $$ SELECT choices[1 + floor(random() * cardinality(choices))::int] $$;
CREATE FUNCTION test.condition(depth int) RETURNS text LANGUAGE plpgsql VOLATILE AS $$
BEGIN
  IF depth > 0 AND random() < 0.7 THEN
    RETURN CASE floor(random() * 6)::int
      WHEN 0 THEN format('(%s AND %s)', test.condition(depth - 1), test.condition(depth - 1))
      WHEN 1 THEN format('(%s OR %s)', test.condition(depth - 1), test.condition(depth - 1))
      WHEN 2 THEN format('(NOT %s)', test.condition(depth - 1))
      WHEN 3 THEN format('((%s) IS NOT TRUE)', test.condition(depth - 1))
      WHEN 4 THEN format('CASE WHEN %s THEN %s ELSE %s END', test.condition(depth - 1), test.condition(depth - 1), test.condition(depth - 1))
      ELSE format('coalesce(%s, %s)', test.condition(depth - 1), test.condition(depth - 1))
    END;
  END IF;
  RETURN test.pick('owner = rtsync.uid()', 'owner = (SELECT rtsync.uid())', 'owner IS NULL', 'org = 2', 'org IN (1, 3)', 'org > (rtsync.jwt() ->> ''n'')::int',
    'ok', 'tags @> ARRAY[''a'']', '''b'' = ANY (tags)', 'cardinality(tags) > 2', 'doc ->> ''k'' = ''1''', 'doc ? ''l''', 'at > ''2026-01-12''', 't IS NOT NULL', 'to_jsonb(t) ? ''gone''',
    'row_to_json(t) ->> ''org'' = ''4''', 'true', 'false', 'NULL', 'rtsync.role() = current_user', 'pg_has_role(''rt_group'', ''member'')', 'app.member(org)', 'app.claim(''sub'') = owner::text', 'org::text = app.claim(''n'')',
    'EXISTS (SELECT FROM app.m WHERE m.org = t.org AND m.uid = rtsync.uid())', 'org IN (SELECT m.org FROM app.m WHERE m.level > 3)', 'org NOT IN (SELECT m.org FROM app.m)', 'owner = (SELECT m.uid FROM app.m WHERE m.org = t.org ORDER BY level LIMIT 1)',
    '(SELECT count(*) FROM app.m WHERE m.uid = t.owner) > 1', 'EXISTS (SELECT FROM app.m WHERE to_jsonb(t) ->> ''org'' = m.org::text)', 'org = ANY (ARRAY(SELECT (jsonb_array_elements_text(rtsync.jwt() -> ''orgs''))::int))');
END $$;

CREATE TABLE test.found (result text, policies text);
CREATE TABLE test.sets (result text, policies text);
DO $$
DECLARE
  made text;
  claims text;
BEGIN
  PERFORM setseed(0.26);
  FOR i IN 1 .. 300 LOOP
    made := '';
    FOR j IN 1 .. 1 + floor(random() * 3)::int LOOP
      made := made || format('CREATE POLICY p%s ON app.t %s TO %s USING (%s); ', j,
        CASE WHEN j > 1 AND random() < 0.4 THEN 'AS RESTRICTIVE' ELSE 'AS PERMISSIVE' END,
        test.pick('PUBLIC', 'rt_user', 'rt_group', 'rt_other'), test.condition(3));
    END LOOP;
    EXECUTE made;
    FOREACH claims IN ARRAY ARRAY['{"sub":"00000000-0000-0000-0000-000000000001","role":"rt_user","n":2,"orgs":[1,4]}', '{"sub":"00000000-0000-0000-0000-000000000002","n":1}', '{}'] LOOP
      INSERT INTO test.found SELECT test.agree('app.t', 'rt_user', claims), made;
      INSERT INTO test.found SELECT test.agree('app.t', 'rt_other', claims), made;
    END LOOP;
    INSERT INTO test.sets SELECT test.sets('app.t', 'rt_user', '{"sub":"00000000-0000-0000-0000-000000000001","role":"rt_user","n":2,"orgs":[1,4]}',
      '{"sub":"00000000-0000-0000-0000-000000000002","n":1}', '{}', '{"sub":"00000000-0000-0000-0000-000000000003","n":"0"}'), made;
    FOR j IN 1 .. 3 LOOP
      EXECUTE format('DROP POLICY IF EXISTS p%s ON app.t', j);
    END LOOP;
  END LOOP;
END $$;
SELECT result, policies FROM test.found WHERE result !~ '^agree' LIMIT 5;
-- the answers are of all kinds
SELECT count(*), count(DISTINCT result) > 50, count(*) FILTER (WHERE result ~ 'nothing') BETWEEN 300 AND 1200,
  count(*) FILTER (WHERE result ~ 'error') < 300 FROM test.found;
-- and those that can be asked for many at once are answered alike
SELECT result, policies FROM test.sets WHERE result ~ 'DIFFER' LIMIT 5;
SELECT count(*) FILTER (WHERE result ~ '^set') > 30, count(*) FILTER (WHERE result ~ '^set: [1-9]') > 15 FROM test.sets;
