--
-- rtsync.explain(): each step on a row's way to a subscriber, who may ask, and
-- what errors look like
--
\set VERBOSITY terse
\pset null -
\pset format unaligned
\pset fieldsep ' | '
\pset footer off
SET client_min_messages = warning;
SET rtsync.publication = 'regress_explain';
CREATE ROLE regress_reader;
CREATE ROLE regress_developer;
CREATE TABLE todos (id int PRIMARY KEY, owner text, done bool NOT NULL DEFAULT false, note text);
INSERT INTO todos VALUES (1, 'ann', false, 'a'), (2, 'bob', true, 'b');

-- everything is missing, and the answer says what to do
SELECT * FROM rtsync.explain('regress_reader', '{"sub": "ann"}', 'todos', '{"id": 1}');
GRANT regress_reader TO rtsync_authenticator;
CREATE PUBLICATION regress_explain FOR TABLE todos;
GRANT SELECT ON todos TO regress_reader;
SELECT * FROM rtsync.explain('regress_reader', '{"sub": "ann"}', 'todos', '{"id": 1}');

-- row security, a filter, a condition in SQL; the key of a row or the row itself
ALTER TABLE todos ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON todos USING (owner = rtsync.jwt() ->> 'sub');
CREATE POLICY staff ON todos TO regress_developer USING (true);
CREATE POLICY add ON todos FOR INSERT WITH CHECK (true);
SELECT * FROM rtsync.explain('regress_reader', '{"sub": "ann"}', 'todos', '{"id": 1}', 'done=eq.false', 'id < 10');
SELECT * FROM rtsync.explain('regress_reader', '{"sub": "ann"}', 'todos', '{"id": 2}', 'done=eq.false', 'id < 2');
SELECT * FROM rtsync.explain('regress_reader', '{"sub": "ann"}', 'todos', '{"id": 3, "owner": "ann", "done": true}', 'done=eq.false');
SELECT * FROM rtsync.explain('regress_reader', '{"sub": "ann"}', 'todos', '{"id": 3}');

-- with the whole old row, everything can be decided
ALTER TABLE todos REPLICA IDENTITY FULL;
SELECT step, object, passed, detail FROM rtsync.explain('regress_reader', NULL, 'todos', '{"id": 1}')
  WHERE step = 'replica identity';

-- columns that may not be read are left out, and cannot be filtered on
REVOKE SELECT ON todos FROM regress_reader;
GRANT SELECT (id, owner) ON todos TO regress_reader;
SELECT step, object, passed, detail FROM rtsync.explain('regress_reader', '{"sub": "ann"}', 'todos', '{"id": 1}', 'note=eq.a', 'note IS NULL')
  WHERE step IN ('table', 'filter', 'where', 'result');
GRANT SELECT ON todos TO regress_reader;

-- errors and endless loops of policies are part of the answer
CREATE FUNCTION forever() RETURNS bool LANGUAGE plpgsql STABLE AS 'BEGIN LOOP END LOOP; END';
CREATE POLICY broken ON todos USING (1 / (id - 1) > 0);
SELECT step, object, passed, detail FROM rtsync.explain('regress_reader', '{"sub": "eve"}', 'todos', '{"id": 1}')
  WHERE step IN ('policy', 'policies', 'result');
SET rtsync.policy_timeout = '500ms';
ALTER POLICY broken ON todos USING (forever());
SELECT step, object, passed, detail FROM rtsync.explain('regress_reader', '{"sub": "eve"}', 'todos', '{"id": 1}')
  WHERE step IN ('policy', 'result');
RESET rtsync.policy_timeout;
DROP POLICY broken ON todos;

-- what a policy changes is gone afterwards, and it can change no row
CREATE FUNCTION meddle() RETURNS bool LANGUAGE plpgsql AS $$
BEGIN
  PERFORM set_config('request.jwt.claims', '{"sub": "root"}', false);
  RETURN true;
END $$;
CREATE FUNCTION write_row() RETURNS bool LANGUAGE plpgsql AS 'BEGIN INSERT INTO todos VALUES (99); RETURN true; END';
CREATE FUNCTION become() RETURNS bool LANGUAGE plpgsql AS 'BEGIN SET ROLE regress_developer; RETURN true; END';
CREATE POLICY meddle ON todos USING (meddle() AND false);
CREATE POLICY write ON todos USING (write_row());
CREATE POLICY become ON todos USING (become());
SELECT step, object, passed, detail FROM rtsync.explain('regress_reader', '{"sub": "ann"}', 'todos', '{"id": 1}')
  WHERE step = 'policy';
SELECT current_user = session_user AS same_user, current_setting('role') AS role,
  current_setting('request.jwt.claims', true) AS claims, (SELECT count(*) FROM todos) AS rows;
DROP POLICY meddle ON todos;
DROP POLICY write ON todos;
DROP POLICY become ON todos;

-- the publication: operations, columns, rows
ALTER PUBLICATION regress_explain SET TABLE todos (id, done) WHERE (id > 1);
ALTER PUBLICATION regress_explain SET (publish = 'insert, update');
SELECT step, object, passed, detail FROM rtsync.explain('regress_reader', '{"sub": "ann"}', 'todos', '{"id": 1}')
  WHERE step IN ('publication', 'row filter', 'result');

-- how a subscription is evaluated
ALTER PUBLICATION regress_explain SET TABLE todos;
CREATE FUNCTION opaque(text) RETURNS bool LANGUAGE plpgsql STABLE AS
  $$ BEGIN RETURN $1 = current_setting('request.jwt.claims')::jsonb ->> 'sub'; END $$;
CREATE TABLE members (uid text, item int);
GRANT SELECT ON members TO regress_reader;
CREATE FUNCTION evaluation(filter text DEFAULT NULL) RETURNS text LANGUAGE sql AS
  $$ SELECT object FROM rtsync.explain('regress_reader', '{"sub": "ann"}', 'todos', '{"id": 1}', filter) WHERE step = 'evaluation' $$;
SELECT evaluation();
ALTER POLICY own ON todos USING (owner = (SELECT current_setting('request.jwt.claims')::jsonb ->> 'sub'));
SELECT evaluation();
ALTER POLICY own ON todos USING (owner > rtsync.jwt() ->> 'sub');
SELECT evaluation();
SELECT evaluation('owner=eq.ann');
ALTER POLICY own ON todos USING (opaque(owner));
SELECT evaluation();
ALTER POLICY own ON todos USING (EXISTS (SELECT FROM members WHERE uid = rtsync.jwt() ->> 'sub' AND item = todos.id));
SELECT evaluation();
-- a claim in an array, in many ways
ALTER POLICY own ON todos USING (owner = ANY (string_to_array(rtsync.jwt() ->> 'teams', ',')));
SELECT evaluation();
ALTER POLICY own ON todos USING (rtsync.jwt() -> 'teams' ? owner);
SELECT evaluation();
ALTER POLICY own ON todos USING (rtsync.jwt() -> 'teams' @> to_jsonb(id));
SELECT evaluation();
ALTER POLICY own ON todos USING (owner IN (SELECT jsonb_array_elements_text(rtsync.jwt() -> 'teams')));
SELECT evaluation();
ALTER POLICY own ON todos USING (id::text = ANY (ARRAY(SELECT jsonb_array_elements_text(rtsync.jwt() -> 'teams'))));
SELECT evaluation();
ALTER POLICY own ON todos USING (EXISTS (SELECT FROM jsonb_array_elements_text(rtsync.jwt() -> 'teams') t WHERE lower(owner) = t));
SELECT evaluation();
ALTER POLICY own ON todos USING (owner NOT IN (SELECT jsonb_array_elements_text(rtsync.jwt() -> 'teams')));
SELECT evaluation();
-- an OR leads to the subscribers if each part of it does, an AND if one does
ALTER POLICY own ON todos USING (owner = rtsync.jwt() ->> 'sub' OR id = ANY (string_to_array(rtsync.jwt() ->> 'items', ',')::int[]) OR done AND note > 'a');
SELECT evaluation();
ALTER POLICY own ON todos USING (owner = rtsync.jwt() ->> 'sub' OR note > rtsync.jwt() ->> 'sub');
SELECT evaluation();
SELECT evaluation('id=in.(1,2)');
ALTER POLICY own ON todos USING (owner = rtsync.jwt() ->> 'sub');
CREATE POLICY other ON todos USING (note = rtsync.jwt() ->> 'note');
SELECT evaluation();
ALTER POLICY other ON todos USING (note > rtsync.jwt() ->> 'note');
SELECT evaluation();
CREATE POLICY strict ON todos AS RESTRICTIVE USING (id = (rtsync.jwt() ->> 'item')::int);
SELECT evaluation();
DROP POLICY other ON todos;
DROP POLICY strict ON todos;
ALTER TABLE todos DISABLE ROW LEVEL SECURITY;
SELECT evaluation();
SELECT evaluation('done=neq.true');
ALTER TABLE todos ENABLE ROW LEVEL SECURITY;
ALTER POLICY own ON todos USING (owner = rtsync.jwt() ->> 'sub');

-- partitions
CREATE TABLE parted (id int PRIMARY KEY, note text) PARTITION BY RANGE (id);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (100);
ALTER PUBLICATION regress_explain ADD TABLE parted;
INSERT INTO parted VALUES (1);
SELECT step, object, passed, detail FROM rtsync.explain('regress_reader', NULL, 'parted', '{"id": 1}')
  WHERE step IN ('row', 'publication');
ALTER PUBLICATION regress_explain SET (publish_via_partition_root);
SELECT step, object, passed, detail FROM rtsync.explain('regress_reader', NULL, 'parted', '{"id": 1}')
  WHERE step = 'publication';
SELECT step, object, passed, detail FROM rtsync.explain('regress_reader', NULL, 'parted_1', '{"id": 1}')
  WHERE step = 'publication';

-- mistakes in the question
SELECT rtsync.explain('regress_nobody', NULL, 'todos', '{"id": 1}');
SELECT rtsync.explain('regress_reader', '[1]', 'todos', '{"id": 1}');
SELECT rtsync.explain('regress_reader', NULL, 'todos', '{"idd": 1}');
SELECT rtsync.explain('regress_reader', NULL, 'todos', '{"id": "x"}');
SELECT rtsync.explain('regress_reader', NULL, 'todos', NULL);
SELECT rtsync.explain('regress_reader', NULL, 'pg_roles', '{}');
SELECT rtsync.decide('regress_reader', NULL, 'todos', NULL, NULL);
SELECT rtsync.decide('regress_reader', NULL, 'todos', NULL, '{}', events => 'all');

-- who may ask: whoever can become the role; nobody else
SET SESSION AUTHORIZATION regress_developer;
SELECT rtsync.explain('regress_reader', NULL, 'todos', '{"id": 1}');
RESET SESSION AUTHORIZATION;
GRANT rtsync_authenticator TO regress_developer;
SET SESSION AUTHORIZATION regress_developer;
SELECT rtsync.explain('postgres', NULL, 'todos', '{"id": 1}');
SELECT rtsync.explain('regress_reader', NULL, 'todos', '{"id": 1}');
SELECT step, object, passed FROM rtsync.explain('regress_reader', '{"sub": "ann"}', 'todos', '{"id": 1, "owner": "ann"}');
RESET SESSION AUTHORIZATION;

-- not with somebody else's rights
CREATE FUNCTION for_all() RETURNS SETOF record LANGUAGE sql SECURITY DEFINER AS
  $$ SELECT * FROM rtsync.explain('regress_reader', NULL, 'todos', '{"id": 1}') $$;
SELECT for_all();

DROP PUBLICATION regress_explain;
DROP TABLE todos, members, parted;
DROP FUNCTION forever, meddle, write_row, become, opaque, evaluation, for_all;
DROP ROLE regress_reader, regress_developer;
