-- Filters on a row, and what is wrong with them.
CREATE ROLE rt_user;
CREATE SCHEMA app;
GRANT USAGE ON SCHEMA app TO PUBLIC;
CREATE TYPE app.mood AS ENUM ('sad', 'ok', 'happy');
CREATE DOMAIN app.small AS int CHECK (VALUE < 10);
CREATE TABLE app.t (id int, name text, code varchar(3), ch char(5), n numeric, f float8, ok bool,
  u uuid, d date, ts timestamptz, m app.mood, s app.small, tags text[], j jsonb, js json,
  p point, r int4range, b bytea, rel regclass, sys name, hidden int);
INSERT INTO app.t VALUES (5, 'Ann, "the" (first)', 'abc', 'xy', 1.50, 0.1, true,
  '00000000-0000-0000-0000-00000000000a', '2026-01-02', '2026-01-02 03:04:05+00', 'ok', 3,
  '{a,b}', '{"a":1}', '{"a":1}', '(1,2)', '[1,5)', '\x0102', 'pg_class', 'nm', 42);
DO $$ BEGIN
  EXECUTE (SELECT format('GRANT SELECT (%s) ON app.t TO rt_user', string_agg(quote_ident(attname), ','))
           FROM pg_attribute WHERE attrelid = 'app.t'::regclass AND attnum > 0 AND attname <> 'hidden');
END $$;
CREATE FUNCTION test.f(filter text, known int[] DEFAULT NULL) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
  RETURN (SELECT test.filter('app.t', 'rt_user', filter, t, known) FROM app.t);
EXCEPTION WHEN OTHERS THEN
  RETURN SQLSTATE || ' ' || SQLERRM;
END $$;
CREATE FUNCTION test.fs(VARIADIC filters text[]) RETURNS TABLE (filter text, result text) LANGUAGE sql AS
  $$ SELECT f, test.f(f) FROM unnest(filters) WITH ORDINALITY u(f, o) ORDER BY o $$;

-- operators
SELECT * FROM test.fs('', '   ', 'id=eq.5', 'id=eq.6', 'id=neq.5', 'id=neq.6', 'id=lt.6', 'id=lt.5', 'id=lte.5', 'id=lte.4',
  'id=gt.4', 'id=gt.5', 'id=gte.5', 'id=gte.6', 'id=in.(1,5)', 'id=in.(1,2)', 'id=in.()', 'id=in.(null,5)', 'id=in.(null)',
  'id=not.eq.5', 'id=not.in.(1,2)', 'id=isdistinct.5', 'id=isdistinct.6', 'id=not.isdistinct.5',
  'id=is.null', 'id=not.is.null', 'ok=is.true', 'ok=is.FALSE', 'ok=is.unknown', 'ok=not.is.unknown',
  'name=like.Ann%', 'name=like.ann%', 'name=ilike.ann%', 'name=match.^A', 'name=imatch.FIRST\)$', 'name=not.like.B%',
  'id=gt.1,id=lt.9', 'id=gt.1 , id=lt.5', 'id= eq.5');
-- types
SELECT * FROM test.fs('name=eq.Ann, "the" (first)', 'name=eq."Ann, \"the\" (first)"', 'name=in.("Ann, \"the\" (first)",x)',
  'code=eq.abc', 'code=eq.abcd', 'code=in.(abc)', 'code=like.ab_', 'ch=eq.xy', 'ch=like.xy%', 'n=eq.1.5', 'n=gte.1.50', 'f=eq.0.1', 'f=lt.NaN',
  'ok=eq.true', 'ok=eq.f', 'u=eq.00000000-0000-0000-0000-00000000000A', 'd=eq.2026-01-02', 'd=lt.2026-01-03',
  'ts=eq.2026-01-02T04:04:05+01:00', 'm=eq.ok', 'm=gt.sad', 'm=in.(sad,happy)', 's=eq.3', 's=in.(3)', 's=lt.20',
  'tags=eq.{a,b}', 'j=eq.{"a": 1}', 'r=eq.[1,4]', 'b=eq.\x0102', 'rel=eq.pg_class', 'sys=like.n%', 'sys=eq.nm');
-- what cannot be compiled
SELECT * FROM test.fs('nix=eq.1', 'hidden=eq.42', 'ctid=eq.(0,1)', 'ID=eq.5', '"id"=eq.5', 'id=eq.x', 'id=eq.', 'id=eq.99999999999', 'id=in.(1,x)', 'id=in.(1,)',
  'id=in.({1},{2})', 'js=eq.{}', 'p=eq.(1,2)', 'p=lt.(1,2)', 'j=like.a', 'id=like.5', 'm=match.o', 'name=match.(', 'name=imatch.[', 'id=is.true', 'id=is.5',
  'm=eq.angry', 'u=eq.nope', 'tags=in.({a,b})', 'rel=eq.nope', 's=eq.x');
SELECT test.f('id=in.(' || string_agg(i::text, ',') || ')') FROM generate_series(1, 100) i;
SELECT test.f('id=in.(' || string_agg(i::text, ',') || ')') FROM generate_series(1, 101) i;
SELECT test.f(string_agg('id=gt.0', ',')) FROM generate_series(1, 100) i;
SELECT test.f(string_agg('id=gt.0', ',')) FROM generate_series(1, 101) i;
-- grammar
SELECT f, test.filter_syntax(f) FROM unnest(ARRAY['id=eq.1', 'undefined', 'id', 'id=eq', 'id=foo.hey', 'subject=not.foo.hey', 'id=in.1', 'id=in.(1', 'id=eq.1,',
  ',id=eq.1', 'id=eq.1,,id=eq.2', 'id=eq.a"b\c', E'id=foo."x\ty\n', '=eq.1', 'id=eq.(a,b', 'id=eq."a,b', 'id=not.', 'id=EQ.1']) f;
-- columns that are not known
SELECT test.f('id=eq.5', '{1}'), test.f('id=eq.6', '{1}'), test.f('id=eq.5', '{2}'), test.f('id=is.null', '{}'), test.f('', '{}');
-- patterns that take too long
CREATE FUNCTION app.slow_like(app.mood, app.mood) RETURNS bool LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN LOOP END LOOP; END $$;
CREATE OPERATOR app.~~ (FUNCTION = app.slow_like, LEFTARG = app.mood, RIGHTARG = app.mood);
SELECT test.f('m=like.ok');
SELECT test.f('id=eq.5');
