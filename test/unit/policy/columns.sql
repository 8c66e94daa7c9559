-- Rows from before the table was altered.
CREATE ROLE rt_user;
CREATE SCHEMA app;
GRANT USAGE ON SCHEMA app, rtsync TO PUBLIC;
CREATE FUNCTION test.kept() RETURNS text LANGUAGE sql AS $$ SELECT test.check_kept('rt_user', '{}') $$;
-- "make" a table whose policy lets rows with n = 1 pass, and keep such a row
CREATE PROCEDURE test.make(policy text DEFAULT 'n = 1') LANGUAGE plpgsql AS $$
BEGIN
  DROP TABLE IF EXISTS app.t;
  CREATE TABLE app.t (id int PRIMARY KEY, pad text, n int, num numeric(6,2), tail text);
  INSERT INTO app.t VALUES (1, 'pad', 1, 1.25, 'tail');
  GRANT SELECT ON app.t TO rt_user;
  ALTER TABLE app.t ENABLE ROW LEVEL SECURITY;
  EXECUTE format('CREATE POLICY p ON app.t USING (%s)', policy);
  PERFORM test.keep('app.t', t) FROM app.t;
END $$;

CALL test.make();
SELECT test.kept();
-- columns of the same number and type
ALTER TABLE app.t RENAME n TO m;
SELECT test.kept();
ALTER TABLE app.t DROP pad, ADD added int DEFAULT 7;
SELECT test.kept();
ALTER TABLE app.t ALTER num TYPE numeric(8,1);
SELECT test.kept();
-- another type
DROP POLICY p ON app.t;
ALTER TABLE app.t ALTER m TYPE bigint;
CREATE POLICY p ON app.t USING (m = 1);
SELECT test.kept(), test.agree('app.t', 'rt_user');
-- added with a constant: what a SELECT shows
CALL test.make();
ALTER TABLE app.t ADD added int DEFAULT 7;
ALTER POLICY p ON app.t USING (added = 7);
SELECT test.kept(), test.agree('app.t', 'rt_user');
ALTER TABLE app.t ALTER added SET DEFAULT 8;
SELECT test.kept(), test.agree('app.t', 'rt_user');
ALTER POLICY p ON app.t USING (EXISTS (SELECT 1 FROM pg_class WHERE t.added = 7));
SELECT test.kept(), test.agree('app.t', 'rt_user');
-- rewritten since: nobody knows
VACUUM FULL app.t;
SELECT test.kept(), test.agree('app.t', 'rt_user');
-- added with something else: the row in the table has a value that ours lacks
CALL test.make();
ALTER TABLE app.t ADD added float8 DEFAULT random();
ALTER POLICY p ON app.t USING (added IS NULL);
SELECT test.kept(), test.agree('app.t', 'rt_user');
-- dropped and made again
CALL test.make();
DROP POLICY p ON app.t;
ALTER TABLE app.t DROP n;
ALTER TABLE app.t ADD n int;
CREATE POLICY p ON app.t USING (n IS NULL);
SELECT test.kept(), test.agree('app.t', 'rt_user');
-- whole rows
CALL test.make('t IS NOT NULL');
SELECT test.kept();
ALTER TABLE app.t DROP pad;
SELECT test.kept();
ALTER TABLE app.t ADD c int DEFAULT 1;
SELECT test.kept();
ALTER TABLE app.t ALTER id TYPE bigint;
SELECT test.kept();
-- in a sub-query
CALL test.make('(SELECT count(*) FROM pg_class WHERE n = 1) > 0');
SELECT test.kept();
ALTER TABLE app.t DROP pad;
SELECT test.kept();
DROP POLICY p ON app.t;
ALTER TABLE app.t ALTER n TYPE bigint;
CREATE POLICY p ON app.t USING ((SELECT count(*) FROM pg_class WHERE n = 1) > 0);
SELECT test.kept(), test.agree('app.t', 'rt_user');
-- big values, compressed and not
CALL test.make($$length(tail) = 100000 AND pad ~ 'x$'$$);
INSERT INTO app.t VALUES (2, repeat('x', 1000), 1, 1, repeat('y', 100000));
SELECT test.agree('app.t', 'rt_user');
