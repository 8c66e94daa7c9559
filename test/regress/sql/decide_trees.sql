--
-- Partitions and tables that inherit: it is the table subscribed to whose row
-- security counts.  Views have none of their own, and are refused.
--
\set VERBOSITY terse
\pset format unaligned
\pset fieldsep ' | '
\pset footer off
SET client_min_messages = warning;
SET rtsync.publication = 'regress_trees';
CREATE ROLE regress_user;
CREATE TABLE orders (id int, region text, owner text, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
CREATE TABLE orders_eu PARTITION OF orders FOR VALUES IN ('eu');
CREATE TABLE orders_us PARTITION OF orders FOR VALUES IN ('us');
INSERT INTO orders VALUES (1, 'eu', 'ann'), (2, 'eu', 'bob'), (3, 'us', 'ann'), (4, 'us', 'bob');
GRANT SELECT ON orders, orders_eu, orders_us TO regress_user;
CREATE PUBLICATION regress_trees FOR TABLE orders;

-- what ann's SELECT shows, and what she gets when the same rows are inserted
CREATE FUNCTION compare(tables regclass[]) RETURNS TABLE ("table" regclass, "select" text, delivered text)
LANGUAGE plpgsql AS $$
DECLARE rows jsonb;
BEGIN
  FOREACH "table" IN ARRAY tables LOOP
    PERFORM set_config('request.jwt.claims', '{"sub": "ann"}', true), set_config('role', 'regress_user', true);
    BEGIN
      EXECUTE format('SELECT coalesce(string_agg(id::text, '' '' ORDER BY id), ''none'') FROM %s', "table") INTO "select";
    EXCEPTION WHEN insufficient_privilege THEN "select" := sqlerrm;
    END;
    PERFORM set_config('role', 'none', true), set_config('request.jwt.claims', '', true);
    EXECUTE format('SELECT jsonb_agg(to_jsonb(t) ORDER BY id) FROM %s t', "table") INTO rows;
    SELECT coalesce(string_agg(n.value ->> 'id', ' ' ORDER BY n.ordinality) FILTER (WHERE d.event = 'INSERT'), min(d.detail), 'none')
      INTO delivered FROM jsonb_array_elements(rows) WITH ORDINALITY AS n,
        rtsync.decide('regress_user', '{"sub": "ann"}', "table", NULL, n.value) AS d;
    RETURN NEXT;
  END LOOP;
END $$;

-- Each partition is published under its own name: a policy of the root says
-- nothing about those who subscribe to a partition, in SELECT as well.
ALTER TABLE orders ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON orders USING (owner = rtsync.jwt() ->> 'sub');
SELECT * FROM compare('{orders_eu, orders_us}');
ALTER TABLE orders_us ENABLE ROW LEVEL SECURITY;
SELECT * FROM compare('{orders_eu, orders_us}');
CREATE POLICY second ON orders_us USING (id = 4);
SELECT * FROM compare('{orders_eu, orders_us}');

-- All are published as the root: its policies count, and not the partitions'.
ALTER PUBLICATION regress_trees SET (publish_via_partition_root);
SELECT * FROM compare('{orders}');
ALTER POLICY own ON orders USING (region = 'eu');
SELECT * FROM compare('{orders}');
REVOKE SELECT ON orders_eu, orders_us FROM regress_user;
SELECT * FROM compare('{orders}');
ALTER TABLE orders DISABLE ROW LEVEL SECURITY;
SELECT * FROM compare('{orders}');
REVOKE SELECT ON orders FROM regress_user;
SELECT * FROM compare('{orders}');

-- a row that leaves ann's part of the root
GRANT SELECT ON orders TO regress_user;
ALTER TABLE orders ENABLE ROW LEVEL SECURITY;
ALTER TABLE orders REPLICA IDENTITY FULL;
SELECT old_row, new_row, event, record, old_record FROM rtsync.decide('regress_user', '{"sub": "ann"}', 'orders',
  '{"id": 1, "region": "eu", "owner": "ann"}', '{"id": 1, "region": "us", "owner": "ann"}');

-- Tables that inherit: a row of the one below is a row of the one above, under
-- the policies of that; subscribed to itself, it is under its own.
CREATE TABLE places (id int PRIMARY KEY, owner text);
CREATE TABLE cities (mayor text, PRIMARY KEY (id)) INHERITS (places);
INSERT INTO places VALUES (1, 'ann'), (2, 'bob');
INSERT INTO cities VALUES (3, 'ann', 'x'), (4, 'bob', 'y');
GRANT SELECT ON places, cities TO regress_user;
ALTER PUBLICATION regress_trees ADD TABLE places;
ALTER TABLE places ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON places USING (owner = rtsync.jwt() ->> 'sub');
SELECT * FROM compare('{places, cities}');
ALTER TABLE cities ENABLE ROW LEVEL SECURITY;
SELECT * FROM compare('{places, cities}');
CREATE POLICY big ON cities USING (mayor = 'y');
SELECT * FROM compare('{places, cities}');

-- Views have no changes of their own.
CREATE VIEW mine AS SELECT * FROM orders;
CREATE MATERIALIZED VIEW counts AS SELECT count(*) AS id FROM orders;
GRANT SELECT ON mine, counts TO regress_user;
SELECT step, object, passed, detail FROM rtsync.explain('regress_user', NULL, 'mine', '{"id": 1}');
SELECT step, object, passed, detail FROM rtsync.explain('regress_user', NULL, 'counts', '{"id": 1}');
SELECT event, detail FROM rtsync.decide('regress_user', NULL, 'mine', NULL, '{"id": 1}');

DROP PUBLICATION regress_trees;
DROP TABLE orders, places, cities CASCADE;
DROP FUNCTION compare;
DROP ROLE regress_user;
