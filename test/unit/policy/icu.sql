-- A collation that does not tell some strings apart.
CREATE ROLE rt_user;
CREATE SCHEMA app;
GRANT USAGE ON SCHEMA app TO PUBLIC;
CREATE COLLATION app.nocase (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
CREATE TABLE app.t (id int, s text COLLATE app.nocase);
INSERT INTO app.t VALUES (1, 'STRASSE');
GRANT SELECT ON app.t TO rt_user;
SELECT test.filter('app.t', 'rt_user', f, t) FROM app.t, unnest(ARRAY['s=eq.strasse', 's=neq.strasse', 's=in.(a,strasse)', 's=lt.strassen']) f;
-- LIKE knows such collations from 18 on: a filter does as the server does.
CREATE FUNCTION test.outcome(query text) RETURNS text LANGUAGE plpgsql AS $$ DECLARE yes bool; BEGIN
  EXECUTE query INTO STRICT yes; RETURN yes; EXCEPTION WHEN feature_not_supported THEN RETURN 'refused';
END $$;
SELECT test.outcome($$SELECT s LIKE 'str%' FROM app.t$$) = test.outcome($$SELECT test.filter('app.t', 'rt_user', 's=like.str%', t)::bool FROM app.t$$);
ALTER TABLE app.t ENABLE ROW LEVEL SECURITY;
CREATE POLICY p ON app.t USING (s = 'strasse');
SELECT test.agree('app.t', 'rt_user');
ALTER POLICY p ON app.t USING (s IN (SELECT 'strasse'));
SELECT test.agree('app.t', 'rt_user');
