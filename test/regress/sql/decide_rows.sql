--
-- The decision table: what a subscriber gets when the old row passes, does not
-- pass, or is not known well enough, and the new row passes or does not.
--
\set VERBOSITY terse
\pset format unaligned
\pset fieldsep ' | '
\pset footer off
\pset null ''
SET client_min_messages = warning;
SET rtsync.publication = 'regress_decide';
CREATE ROLE regress_user;
CREATE TABLE notes (id int PRIMARY KEY, owner text, note text);
ALTER TABLE notes ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON notes USING (owner = rtsync.jwt() ->> 'sub');
GRANT SELECT ON notes TO regress_user;
CREATE PUBLICATION regress_decide FOR TABLE notes;

-- one line for each case, as seen by ann
CREATE TABLE cases (n serial, change text, old jsonb, new jsonb);
INSERT INTO cases (change, old, new) VALUES
  ('insert, mine',       NULL, '{"id": 1, "owner": "ann", "note": "new"}'),
  ('insert, not mine',   NULL, '{"id": 1, "owner": "bob", "note": "new"}'),
  ('insert, nobody''s',  NULL, '{"id": 1, "owner": null, "note": "new"}'),
  ('update, stays mine', '{"id": 1, "owner": "ann", "note": "old"}', '{"id": 1, "owner": "ann", "note": "new"}'),
  ('update, new key',    '{"id": 1, "owner": "ann", "note": "old"}', '{"id": 2, "owner": "ann", "note": "new"}'),
  ('update, enters',     '{"id": 1, "owner": "bob", "note": "old"}', '{"id": 1, "owner": "ann", "note": "new"}'),
  ('update, leaves',     '{"id": 1, "owner": "ann", "note": "old"}', '{"id": 1, "owner": "bob", "note": "new"}'),
  ('update, not mine',   '{"id": 1, "owner": "bob", "note": "old"}', '{"id": 1, "owner": "eve", "note": "new"}'),
  ('delete, mine',       '{"id": 1, "owner": "ann", "note": "old"}', NULL),
  ('delete, not mine',   '{"id": 1, "owner": "bob", "note": "old"}', NULL),
  ('delete, nobody''s',  '{"id": 1, "owner": null, "note": "old"}', NULL);
CREATE FUNCTION answers() RETURNS TABLE (
  n int, change text, old_row text, new_row text, event text, record json, old_record json) LANGUAGE sql AS $$
  SELECT n, change, old_row, new_row, event, record, old_record
  FROM cases, rtsync.decide('regress_user', '{"sub": "ann"}', 'notes', old, new) $$;

-- the whole old row is known
ALTER TABLE notes REPLICA IDENTITY FULL;
SELECT change, old_row, new_row, event, record, old_record FROM answers() ORDER BY n;

-- no DELETE for rows that leave
SET rtsync.leave_events = off;
SELECT change, old_row, new_row, event FROM answers() WHERE change = 'update, leaves';
RESET rtsync.leave_events;

-- a channel that asked for the view gets an INSERT for a row that enters
SELECT change, old_row, new_row, event, record, old_record
  FROM cases, rtsync.decide('regress_user', '{"sub": "ann"}', 'notes', old, new, view => true)
  WHERE change LIKE 'update%' ORDER BY n;

-- one kind of event alone: what another would tell is not told
SELECT change, i.event AS "INSERT", u.event AS "UPDATE", d.event AS "DELETE"
  FROM cases,
    rtsync.decide('regress_user', '{"sub": "ann"}', 'notes', old, new, events => 'INSERT') AS i,
    rtsync.decide('regress_user', '{"sub": "ann"}', 'notes', old, new, events => 'UPDATE') AS u,
    rtsync.decide('regress_user', '{"sub": "ann"}', 'notes', old, new, events => 'DELETE') AS d
  ORDER BY n;

-- only the key of the old row is known
ALTER TABLE notes REPLICA IDENTITY DEFAULT;
SELECT change, old_row, new_row, event, record, old_record FROM answers() ORDER BY n;
SET rtsync.delete_visibility = 'key';
SELECT change, old_row, new_row, event, record, old_record FROM answers() ORDER BY n;
RESET rtsync.delete_visibility;

-- unknown is not null: this passes on no row of which the owner is not known
ALTER POLICY own ON notes USING (owner IS NULL);
SELECT change, old_row, new_row, event FROM answers() ORDER BY n;
ALTER TABLE notes REPLICA IDENTITY FULL;
SELECT change, old_row, new_row, event FROM answers() ORDER BY n;

-- a policy that needs the key alone is decided with the key alone
ALTER TABLE notes REPLICA IDENTITY DEFAULT;
ALTER POLICY own ON notes USING (id = 1);
SELECT change, old_row, new_row, event, record, old_record FROM answers() ORDER BY n;

-- another index as the identity; none at all
ALTER POLICY own ON notes USING (owner = rtsync.jwt() ->> 'sub');
ALTER TABLE notes ALTER owner SET NOT NULL;
CREATE UNIQUE INDEX notes_owner ON notes (id, owner);
ALTER TABLE notes REPLICA IDENTITY USING INDEX notes_owner;
SELECT change, old_row, new_row, event, record, old_record FROM answers() ORDER BY n;
ALTER TABLE notes REPLICA IDENTITY NOTHING;
SELECT change, old_row, new_row, event FROM answers() ORDER BY n;

-- without row security everything is decided, and DELETE has the identity
ALTER TABLE notes REPLICA IDENTITY FULL;
ALTER TABLE notes DISABLE ROW LEVEL SECURITY;
SELECT change, old_row, new_row, event, old_record FROM answers() WHERE change LIKE 'delete%' ORDER BY n;

-- the subscriber's filter counts like row security
SELECT change, old_row, new_row, event, old_record
  FROM cases, rtsync.decide('regress_user', NULL, 'notes', old, new, filter => 'owner=eq.ann') ORDER BY n;
ALTER TABLE notes REPLICA IDENTITY DEFAULT;
SELECT change, old_row, new_row, event, old_record
  FROM cases, rtsync.decide('regress_user', NULL, 'notes', old, new, where_ => 'owner LIKE ''a%''') ORDER BY n;

-- columns: those that the role may read, and of these those that were selected
ALTER TABLE notes REPLICA IDENTITY FULL;
ALTER TABLE notes ENABLE ROW LEVEL SECURITY;
REVOKE SELECT ON notes FROM regress_user;
GRANT SELECT (id, note) ON notes TO regress_user;
SELECT change, event, record, old_record FROM answers() WHERE change LIKE '%, %mine' ORDER BY n;
SELECT change, event, record, old_record, detail
  FROM cases, rtsync.decide('regress_user', '{"sub": "ann"}', 'notes', old, new, columns => '{note}')
  WHERE change IN ('insert, mine', 'update, stays mine', 'delete, mine') ORDER BY n;
SELECT event, detail
  FROM cases, rtsync.decide('regress_user', '{"sub": "ann"}', 'notes', old, new, columns => '{id, owner}')
  WHERE change = 'insert, mine';
GRANT SELECT ON notes TO regress_user;

-- the publication: its columns, its rows, its operations
ALTER PUBLICATION regress_decide SET TABLE notes (id, owner);
SELECT change, event, record, old_record FROM answers() WHERE change IN ('insert, mine', 'update, stays mine') ORDER BY n;
ALTER PUBLICATION regress_decide SET TABLE notes WHERE (owner <> 'bob');
SELECT change, old_row, new_row, event, record, old_record FROM answers() ORDER BY n;
ALTER PUBLICATION regress_decide SET TABLE notes;
ALTER PUBLICATION regress_decide SET (publish = 'insert');
SELECT change, event FROM answers() WHERE event <> 'nothing' ORDER BY n;

DROP FUNCTION answers;
DROP TABLE cases, notes;
DROP PUBLICATION regress_decide;
DROP ROLE regress_user;
