-- The functions of rtsync_test.c; "library" is set by test/unit/run.
SET client_min_messages = warning;
DROP SCHEMA IF EXISTS test CASCADE;
CREATE SCHEMA test;
CREATE FUNCTION test.access(regclass, text) RETURNS text AS :'library', 'rt_access' LANGUAGE C;
CREATE FUNCTION test.bench(regclass, text, text, record, int, text DEFAULT 'check') RETURNS float8 AS :'library', 'rt_bench' LANGUAGE C;
CREATE FUNCTION test."check"(regclass, text, text, record, int[] DEFAULT NULL) RETURNS text AS :'library', 'rt_check' LANGUAGE C;
CREATE FUNCTION test.check_kept(text, text) RETURNS text AS :'library', 'rt_check_kept' LANGUAGE C;
CREATE FUNCTION test.dependencies(regclass, text) RETURNS regclass[] AS :'library', 'rt_dependencies' LANGUAGE C;
CREATE FUNCTION test.filter(regclass, text, text, record, int[] DEFAULT NULL) RETURNS text AS :'library', 'rt_filter' LANGUAGE C;
CREATE FUNCTION test.filter_syntax(text) RETURNS text AS :'library', 'rt_filter_syntax' LANGUAGE C STRICT;
CREATE FUNCTION test.keep(regclass, record) RETURNS void AS :'library', 'rt_keep' LANGUAGE C STRICT;
CREATE FUNCTION test.set(text, text) RETURNS void AS :'library', 'rt_set' LANGUAGE C STRICT;
CREATE FUNCTION test.set_check(regclass, text, text[], anyarray, int[] DEFAULT NULL) RETURNS text AS :'library', 'rt_set_check' LANGUAGE C;
CREATE FUNCTION test.sign(bytea, bytea, text) RETURNS text AS :'library', 'rt_sign' LANGUAGE C STRICT;
CREATE FUNCTION test.token(bytea) RETURNS text AS :'library', 'rt_token' LANGUAGE C STRICT;

-- What does the server itself show?  And do we say the same of every row?
CREATE FUNCTION test.shown(rel regclass, role text, claims text) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
  result text;
BEGIN
  PERFORM set_config('request.jwt.claims', claims, true);
  EXECUTE format('SET LOCAL ROLE %I', role);
  EXECUTE format('SELECT coalesce(string_agg(id::text, '','' ORDER BY id), ''nothing'') FROM %s', rel) INTO result;
  RESET ROLE;
  PERFORM set_config('request.jwt.claims', '', true);
  RETURN result;
EXCEPTION WHEN OTHERS THEN
  RETURN 'error ' || SQLSTATE;
END $$;

CREATE FUNCTION test.ours(rel regclass, role text, claims text) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
  result text;
BEGIN
  EXECUTE format('SELECT coalesce(string_agg(id::text, '','' ORDER BY id) FILTER (WHERE verdict = ''yes''), ''nothing'')
    FROM (SELECT t.id, test."check"($1, $2, $3, t) AS verdict FROM %s t) x', rel)
    INTO result USING rel, role, claims;
  RETURN result;
EXCEPTION WHEN OTHERS THEN
  RETURN 'error ' || SQLSTATE;
END $$;

CREATE FUNCTION test.agree(rel regclass, role text, claims text DEFAULT '{}') RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
  shown text := test.shown(rel, role, claims);
  ours text := test.ours(rel, role, claims);
BEGIN
  IF shown = ours THEN
    RETURN 'agree: ' || ours;
  END IF;
  -- who may not ask at all is not shown anything
  IF shown = 'error 42501' AND ours = 'nothing' THEN
    RETURN 'agree: denied';
  END IF;
  RETURN format('DIFFER: shown %s, ours %s', shown, ours);
END $$;

-- Do many principals get the same answers at once as each of them alone?
CREATE FUNCTION test.sets(rel regclass, role text, VARIADIC claims text[]) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
  result text;
BEGIN
  EXECUTE format('SELECT test.set_check($1, $2, $3, array_agg(t)) FROM %s t', rel)
    INTO result USING rel, role, claims;
  RETURN result;
END $$;
