--
-- The filters of a subscription: each operator, negation, lists and quoting,
-- nulls, types, mistakes; and "where", any condition in SQL
--
\set VERBOSITY terse
\pset format unaligned
\pset fieldsep ' | '
\pset footer off
SET client_min_messages = warning;
SET rtsync.publication = 'regress_filters';
CREATE ROLE regress_user;
CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
CREATE TABLE items (
  id int PRIMARY KEY, name text, price numeric, done bool, mood mood,
  due date, tags text[], data jsonb, secret text);
INSERT INTO items VALUES
  (1, 'apple', 1.50, true, 'sad', '2026-01-01', '{a,b}', '{"k": 1}', 's'),
  (2, 'Apricot, dried', 20, false, 'happy', '2026-06-01', '{}', '{"k": 2}', 's'),
  (3, 'b"(x)', -1, NULL, 'ok', NULL, NULL, NULL, 's'),
  (4, NULL, NULL, true, NULL, '2025-12-31', '{b}', '{}', 's');
GRANT SELECT (id, name, price, done, mood, due, tags, data) ON items TO regress_user;
CREATE PUBLICATION regress_filters FOR TABLE items;

-- the rows that pass, or why the filter is refused
CREATE FUNCTION passing(filter text, where_ text DEFAULT NULL) RETURNS text LANGUAGE sql AS $$
  SELECT coalesce(min('error: ' || detail), string_agg(id::text, ' ' ORDER BY id) FILTER (WHERE event = 'INSERT'), 'none')
  FROM items AS i, rtsync.decide('regress_user', NULL, 'items', NULL, to_jsonb(i), filter, where_) $$;

SELECT f AS filter, passing(f) FROM unnest(ARRAY[
  'id=eq.2', 'id=neq.2', 'id=lt.2', 'id=lte.2', 'id=gt.2', 'id=gte.2', 'id=in.(1,3,9)',
  'name=like.a%', 'name=ilike.a%', 'name=match.^[ab]', 'name=imatch.^A',
  'done=is.true', 'done=is.false', 'done=is.unknown', 'done=is.null', 'name=is.null',
  'done=isdistinct.true', 'name=isdistinct.apple']) WITH ORDINALITY AS x (f, n) ORDER BY n;

-- not: a null passes neither way
SELECT f AS filter, passing(f) FROM unnest(ARRAY[
  'id=not.eq.2', 'id=not.in.(1,2)', 'name=not.like.a%', 'name=not.ilike.a%', 'name=not.match.^a',
  'done=not.is.null', 'done=not.is.true', 'price=not.gt.0', 'name=not.isdistinct.apple']) WITH ORDINALITY AS x (f, n) ORDER BY n;

-- all of several
SELECT f AS filter, passing(f) FROM unnest(ARRAY[
  'id=gt.1,done=eq.true', 'price=gte.0,price=lt.10', 'id=eq.1,id=eq.2']) WITH ORDINALITY AS x (f, n) ORDER BY n;

-- quoting
SELECT f AS filter, passing(f) FROM unnest(ARRAY[
  'name=eq."Apricot, dried"', 'name=in.("Apricot, dried",apple)', 'name=eq."b\"(x)"', 'name=in.("b\"(x)")', 'name=eq."apple"']) WITH ORDINALITY AS x (f, n) ORDER BY n;

-- types: numbers are compared as numbers, dates as dates, enums in their order
SELECT f AS filter, passing(f) FROM unnest(ARRAY[
  'price=eq.1.5', 'price=gt.3', 'due=lt.2026-02-01', 'mood=gt.sad', 'mood=in.(ok,happy)', 'tags=eq.{b}', 'tags=eq."{a,b}"', 'data=eq.{"k": 1}']) WITH ORDINALITY AS x (f, n) ORDER BY n;

-- mistakes
SELECT f AS filter, passing(f) FROM unnest(ARRAY[
  'id', 'id=', 'id=eq', 'id=like.1', 'id=eq.x', 'nope=eq.1', 'secret=eq.s', 'id=is.true', 'name=is.5',
  'name=match.(', 'mood=eq.angry', 'id=in.1', 'data=lt.1x']) WITH ORDINALITY AS x (f, n) ORDER BY n;

-- where: any condition over the row, with the rights of the role
SELECT w AS "where", passing(NULL, w) FROM unnest(ARRAY[
  'id = 1 OR done IS NULL', 'lower(name) LIKE ''a%''', 'data @> ''{"k": 2}''', '''b'' = ANY (tags)',
  'due BETWEEN ''2026-01-01'' AND ''2026-12-31''', 'price * 2 > 3', 'mood >= ''ok''',
  'to_tsvector(''simple'', name) @@ ''dried''', 'int4range(1, 3) @> id', 'NULL']) WITH ORDINALITY AS x (w, n) ORDER BY n;
SELECT w AS "where", passing(NULL, w) FROM unnest(ARRAY[
  'id', 'nope = 1', 'secret = ''s''', 'items IS NOT NULL', 'random() > 0.5', 'id IN (SELECT 1)',
  'count(*) > 0', 'pg_sleep(1) IS NULL', 'id = 1; DROP TABLE items', 'ctid IS NOT NULL', '', 'id = $1']) WITH ORDINALITY AS x (w, n) ORDER BY n;
SELECT passing('done=eq.true', 'price > 0') AS both;

-- a filter sees only rows that row security lets through
CREATE FUNCTION tell(int) RETURNS bool LANGUAGE plpgsql STABLE AS
  $$ BEGIN RAISE EXCEPTION 'row % is there', $1; END $$;
ALTER TABLE items ENABLE ROW LEVEL SECURITY;
CREATE POLICY two ON items USING (id = 2);
SELECT id, event, detail FROM items AS i, rtsync.decide('regress_user', NULL, 'items', NULL, to_jsonb(i), where_ => 'tell(id)') ORDER BY id;

DROP PUBLICATION regress_filters;
DROP FUNCTION passing, tell;
DROP TABLE items;
DROP TYPE mood;
DROP ROLE regress_user;
