-- What users wrote may fail, hang or attack.
CREATE ROLE rt_user; CREATE ROLE rt_other; CREATE ROLE rt_mate;
GRANT rt_mate TO rt_user;
CREATE SCHEMA app;
GRANT USAGE ON SCHEMA app, rtsync TO PUBLIC;
\set ann '{"sub":"00000000-0000-0000-0000-00000000000a"}'
CREATE TABLE app.t (id int PRIMARY KEY, n int);
INSERT INTO app.t VALUES (1, 1), (2, 0), (3, 2);
CREATE TABLE app.log (n int);
GRANT SELECT ON app.t TO PUBLIC;
GRANT ALL ON app.log TO PUBLIC;
ALTER TABLE app.t ENABLE ROW LEVEL SECURITY;
CREATE FUNCTION test.one(int, role text DEFAULT 'rt_user') RETURNS text LANGUAGE sql AS
  $$ SELECT test."check"('app.t', $2, '{"sub":"00000000-0000-0000-0000-00000000000a"}', t) FROM app.t WHERE id = $1 $$;

-- an error is raised, and is over with the next row
CREATE POLICY p ON app.t USING (2 / n > 0);
SELECT test.one(1);
SELECT test.one(2);
SELECT test.one(3);
ALTER POLICY p ON app.t USING (EXISTS (SELECT 1 FROM app.log) OR 2 / n > 0);
SELECT test.one(1);
SELECT test.one(2);
SELECT test.one(3);
-- in a list that is hashed at its first use
ALTER POLICY p ON app.t USING ((10 / n)::text NOT IN ('1', '2', '3', '4', '5', '6', '7', '8', '9', '0'));
SELECT test.one(2);
SELECT test.one(1), test.one(3);
-- also if the planner meets it
CREATE FUNCTION app.bad() RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RAISE EXCEPTION 'bad'; END $$;
ALTER POLICY p ON app.t USING (n = app.bad());
SELECT test.one(1);
SELECT test.one(1);
ALTER POLICY p ON app.t USING (EXISTS (SELECT 1 FROM pg_class) AND n = app.bad());
SELECT test.one(1);
SELECT test.one(1);
-- a savepoint is enough
BEGIN;
SAVEPOINT s;
SELECT test.one(1);
ROLLBACK TO s;
SELECT current_user, current_setting('role'), current_setting('request.jwt.claims', true) = '' AS no_claims;
COMMIT;

-- a function that the role may not execute
CREATE FUNCTION app.forbidden(int) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN RETURN true; END $$;
REVOKE ALL ON FUNCTION app.forbidden FROM PUBLIC;
ALTER POLICY p ON app.t USING (app.forbidden(n));
SELECT test.one(1);
GRANT EXECUTE ON FUNCTION app.forbidden TO rt_user;
SELECT test.one(1);
SELECT test.one(1, 'rt_other');
REVOKE ALL ON FUNCTION app.forbidden FROM rt_user;
SELECT test.one(1);

-- endless: cancelled, also when the cancel is caught, and others go on
CREATE FUNCTION app.endless() RETURNS bool LANGUAGE plpgsql AS $$ BEGIN LOOP END LOOP; END $$;
ALTER POLICY p ON app.t USING (n = 1 OR app.endless());
SELECT test.one(1);
SELECT test.set('policy_timeout', '400');
SELECT test.one(2);
-- it rests for ten times as long, for all rows, and then has another chance
SELECT test.one(1);
SELECT pg_sleep(4.1);
SELECT test.one(1);
SELECT test.set('policy_timeout', '50');
SELECT test.one(2);
-- a change is a new beginning
ALTER POLICY p ON app.t USING (EXISTS (SELECT 1 FROM generate_series(1, 1000000000) s WHERE s < 0) OR n > 0);
SELECT test.one(1);
ALTER POLICY p ON app.t USING (pg_sleep(10) IS NULL);
SELECT test.one(1);
CREATE FUNCTION app.stubborn() RETURNS bool LANGUAGE plpgsql AS
  $$ BEGIN PERFORM pg_sleep(10); EXCEPTION WHEN query_canceled THEN RETURN true; END $$;
SELECT test.set('policy_timeout', '500');
ALTER POLICY p ON app.t USING (app.stubborn());
SELECT test.one(1);
-- the time is for one row, not for all of them, and gone with them
CREATE FUNCTION app.slow() RETURNS bool LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.1); RETURN true; END $$;
ALTER POLICY p ON app.t USING (app.slow());
SELECT count(*) FROM (SELECT test.one(1) FROM generate_series(1, 10) OFFSET 0) x;
SELECT pg_sleep(0.6);
SELECT test.bench('app.t', 'rt_user', '{}', t, 10) > 0 FROM app.t LIMIT 1;
SELECT test.set('policy_timeout', '60000');

-- an attempt to be somebody else, now or for the next row
CREATE FUNCTION app.attack(what text) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN EXECUTE what; RETURN true; END $$;
ALTER POLICY p ON app.t USING (app.attack('SET ROLE rt_mate'));
SELECT test.one(1);
ALTER POLICY p ON app.t USING (app.attack('RESET ROLE'));
SELECT test.one(1);
ALTER POLICY p ON app.t USING (set_config('role', 'postgres', false) IS NOT NULL);
SELECT test.one(1);
ALTER POLICY p ON app.t USING (app.attack('SET SESSION AUTHORIZATION postgres'));
SELECT test.one(1);
ALTER POLICY p ON app.t USING (app.attack('CREATE TEMP TABLE x (y int)'));
SELECT test.one(1);
ALTER POLICY p ON app.t USING (app.attack('DECLARE c CURSOR WITH HOLD FOR SELECT 1'));
SELECT test.one(1);
ALTER POLICY p ON app.t USING (app.attack('INSERT INTO app.log VALUES (1)'));
SELECT test.one(1);
ALTER POLICY p ON app.t USING (app.attack('SET transaction_read_only = off'));
SELECT test.one(1);
ALTER POLICY p ON app.t USING (app.attack('SET row_security = off'));
SELECT test.one(1);
SHOW row_security;
-- the claims of the next row are the principal's again
CREATE FUNCTION app.poison() RETURNS bool LANGUAGE plpgsql AS
  $$ BEGIN PERFORM set_config('request.jwt.claims', '{}', false); RETURN true; END $$;
CREATE FUNCTION test.twice(text) RETURNS text LANGUAGE sql AS
  $$ SELECT string_agg(test."check"('app.t', 'rt_user', $1, t), ',') FROM app.t $$;
ALTER POLICY p ON app.t USING (rtsync.uid() IS NOT NULL AND app.poison());
SELECT test.twice(:'ann');
ALTER POLICY p ON app.t USING (rtsync.uid() IS NOT NULL AND EXISTS (SELECT 1 FROM pg_class WHERE app.poison()));
SELECT test.twice(:'ann');
SELECT current_user, current_setting('role'), current_setting('request.jwt.claims', true) = '' AS no_claims;
-- a domain's constraint is code, too
CREATE DOMAIN app.d AS int CHECK (VALUE > 0 AND app.poison());
ALTER POLICY p ON app.t USING (rtsync.uid() IS NOT NULL AND (n + 1)::app.d > 0);
SELECT test.twice(:'ann');
-- also where a built-in function meets it
CREATE TYPE app.c AS (d app.d);
ALTER POLICY p ON app.t USING (rtsync.uid() IS NOT NULL AND jsonb_populate_record(NULL::app.c, jsonb_build_object('d', id)) IS NOT NULL);
SELECT test.twice(:'ann');
SELECT count(*) FROM app.log;
