-- What the demonstration's page needs beside schema.sql: people who also write,
-- and a private channel for cursors, presence and chat.

INSERT INTO members VALUES ('00000000-0000-4000-8000-000000610be0', 2); -- Ben, of Globex
INSERT INTO assets (project_id, name, status) VALUES
    (1, 'tower crane', 'ready'), (1, 'tug boat', 'in use'), (1, 'fork lift', 'broken'),
    (2, 'drill rig', 'in use'), (2, 'pump', 'ready'), (2, 'van', 'ready');

-- Who may change what: a viewer the assets of the own branch, an admin all.
GRANT INSERT, UPDATE, DELETE ON assets TO asset_admin, asset_viewer;
CREATE POLICY admin_write ON assets TO asset_admin USING (true) WITH CHECK (true);
CREATE POLICY own_branch_write ON assets TO asset_viewer
    USING (EXISTS (SELECT FROM projects p WHERE p.id = assets.project_id))
    WITH CHECK (EXISTS (SELECT FROM projects p WHERE p.id = assets.project_id));

-- An asset changes hands: for one team the row leaves the view, for the other
-- it comes into it.  Only who sees it may give it away.
CREATE FUNCTION hand_over(asset int) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = public AS
$$ UPDATE assets SET project_id = 3 - project_id WHERE id = asset $$;

-- Chat is a message sent by SQL.  It arrives if the transaction commits, and is
-- kept for those who come later.
CREATE FUNCTION say(who text, words text) RETURNS uuid
LANGUAGE sql AS
$$ SELECT rtsync.send(jsonb_build_object('from', who, 'text', words), 'chat', 'yard', persist => true) $$;

-- Who may use the private channel "yard": everybody who has a role here.
CREATE POLICY yard_read ON rtsync.messages FOR SELECT TO asset_admin, asset_viewer
    USING ((SELECT rtsync.topic()) = 'yard');
CREATE POLICY yard_write ON rtsync.messages FOR INSERT TO asset_admin, asset_viewer
    WITH CHECK ((SELECT rtsync.topic()) = 'yard');
