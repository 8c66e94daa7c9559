-- Asset management: locations -> clients -> projects -> assets, and the
-- maintenance reports of the assets.

CREATE TABLE locations (
    id   int PRIMARY KEY,
    name text NOT NULL
);

CREATE TABLE clients (
    id          int PRIMARY KEY,
    location_id int NOT NULL REFERENCES locations,
    name        text NOT NULL
);

CREATE TABLE projects (
    id        int PRIMARY KEY,
    client_id int NOT NULL REFERENCES clients,
    name      text NOT NULL
);

CREATE TABLE assets (
    id         int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    project_id int NOT NULL REFERENCES projects,
    name       text NOT NULL,
    status     text NOT NULL DEFAULT 'ready'
);

CREATE TABLE maintenance_reports (
    id       int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    asset_id int NOT NULL REFERENCES assets,
    note     text NOT NULL,
    done     boolean NOT NULL DEFAULT false
);

-- Which user works for which client
CREATE TABLE members (
    user_id   uuid NOT NULL,
    client_id int NOT NULL REFERENCES clients,
    PRIMARY KEY (user_id, client_id)
);

--
-- Who may see what.  This is ordinary row-level security: rtsync has no rules
-- of its own, it shows each client what these policies would let it SELECT.
--

CREATE ROLE asset_admin NOLOGIN;
CREATE ROLE asset_viewer NOLOGIN;
GRANT SELECT ON ALL TABLES IN SCHEMA public TO asset_admin, asset_viewer;

ALTER TABLE locations           ENABLE ROW LEVEL SECURITY;
ALTER TABLE clients             ENABLE ROW LEVEL SECURITY;
ALTER TABLE projects            ENABLE ROW LEVEL SECURITY;
ALTER TABLE assets              ENABLE ROW LEVEL SECURITY;
ALTER TABLE maintenance_reports ENABLE ROW LEVEL SECURITY;
ALTER TABLE members             ENABLE ROW LEVEL SECURITY;

-- An admin sees everything.
CREATE POLICY admin_all ON locations           FOR SELECT TO asset_admin USING (true);
CREATE POLICY admin_all ON clients             FOR SELECT TO asset_admin USING (true);
CREATE POLICY admin_all ON projects            FOR SELECT TO asset_admin USING (true);
CREATE POLICY admin_all ON assets              FOR SELECT TO asset_admin USING (true);
CREATE POLICY admin_all ON maintenance_reports FOR SELECT TO asset_admin USING (true);
CREATE POLICY admin_all ON members             FOR SELECT TO asset_admin USING (true);

-- A viewer sees the branch of the clients that he or she works for.  The chain
-- begins at the membership; each table below asks only for its parent, and the
-- parent's own policy does the rest.  rtsync.uid() is the token's "sub".
CREATE POLICY own ON members FOR SELECT TO asset_viewer
    USING (user_id = rtsync.uid());
CREATE POLICY own_branch ON clients FOR SELECT TO asset_viewer
    USING (EXISTS (SELECT FROM members m WHERE m.client_id = clients.id));
CREATE POLICY own_branch ON projects FOR SELECT TO asset_viewer
    USING (EXISTS (SELECT FROM clients c WHERE c.id = projects.client_id));
CREATE POLICY own_branch ON assets FOR SELECT TO asset_viewer
    USING (EXISTS (SELECT FROM projects p WHERE p.id = assets.project_id));
CREATE POLICY own_branch ON maintenance_reports FOR SELECT TO asset_viewer
    USING (EXISTS (SELECT FROM assets a WHERE a.id = maintenance_reports.asset_id));

--
-- What is live, and for whom
--

-- The tables in the publication "rtsync" are live.
ALTER PUBLICATION rtsync ADD TABLE assets, maintenance_reports;

-- A token may name only roles that were granted to rtsync_authenticator.
GRANT asset_admin, asset_viewer TO rtsync_authenticator;

-- When a row is deleted or moved, somebody has to decide who could see the row
-- as it was.  By default the WAL has only its key, and the policies above need
-- project_id and asset_id: with the whole old row they can be asked.
ALTER TABLE assets              REPLICA IDENTITY FULL;
ALTER TABLE maintenance_reports REPLICA IDENTITY FULL;

--
-- Two clients of ours, with a project each
--

INSERT INTO locations VALUES (1, 'Rotterdam'), (2, 'Hamburg');
INSERT INTO clients VALUES (1, 1, 'Acme'), (2, 2, 'Globex');
INSERT INTO projects VALUES (1, 1, 'Acme harbour'), (2, 2, 'Globex tower');
INSERT INTO members VALUES ('00000000-0000-4000-8000-00000000acce', 1);
