--
-- The statistics views: their columns, and who may use them.  What they show
-- is tested end to end.
--
\set VERBOSITY terse
SELECT c.relname, string_agg(a.attname || ' ' || format_type(a.atttypid, -1), ', ' ORDER BY a.attnum) AS columns
  FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid
  WHERE c.relnamespace = 'rtsync'::regnamespace AND c.relname LIKE 'pg\_stat\_%'
  GROUP BY 1 ORDER BY 1;
CREATE ROLE regress_nobody;
SET ROLE regress_nobody;
SELECT count(*) >= 0 AS readable FROM rtsync.pg_stat_rtsync;
SELECT count(DISTINCT reason) FROM rtsync.pg_stat_rtsync_refetch;
SELECT count(*) FROM rtsync.pg_stat_rtsync_connection;
SELECT count(*) FROM rtsync.pg_stat_rtsync_subscription;
SELECT rtsync.pg_stat_rtsync_reset();
SELECT * FROM rtsync.status();
RESET ROLE;
SELECT rtsync.pg_stat_rtsync_reset(0);
SELECT rtsync.pg_stat_rtsync_reset();
SELECT count(*) > 0 AS runs, bool_and(stats_reset > now() - interval '1 minute') AS reset
  FROM rtsync.pg_stat_rtsync WHERE datname = 'postgres';
-- secrets are not shown
SET rtsync.metrics_token = 'sesame';
SHOW rtsync.metrics_token;
SET rtsync.http_root = 'relative';
SET rtsync.http_root = '/srv/www';
DROP ROLE regress_nobody;
