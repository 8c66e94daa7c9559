-- A database whose encoding is not UTF-8.
CREATE DATABASE rt_latin1 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0;
\c rt_latin1
SET client_min_messages = warning;
SET client_encoding = UTF8;
CREATE ROLE rtsync_authenticator; CREATE ROLE rt_user; GRANT rt_user TO rtsync_authenticator;
CREATE FUNCTION token(bytea) RETURNS text AS :'library', 'rt_token' LANGUAGE C STRICT;
CREATE FUNCTION sign(bytea, bytea, text) RETURNS text AS :'library', 'rt_sign' LANGUAGE C STRICT;
CREATE FUNCTION set(text, text) RETURNS void AS :'library', 'rt_set' LANGUAGE C STRICT;
SELECT set('jwt_secret', 'a secret of thirty-two characters');
CREATE FUNCTION t(payload bytea) RETURNS text LANGUAGE sql AS
  $$ SELECT token(sign('{"alg":"HS256"}', payload, 'a secret of thirty-two characters')::bytea) $$;
SELECT t('{"exp":4102444800,"role":"rt_user","x":"plain"}');
-- an e with an accent, as itself and escaped
SELECT t('{"exp":4102444800,"role":"rt_user","x":"' || '\xc3a9'::bytea || '"}'), t('{"exp":4102444800,"role":"rt_user","x":"' || '\x5c75'::bytea || '00e9"}');
-- a character that LATIN1 lacks, as itself and escaped
SELECT t('{"exp":4102444800,"role":"rt_user","x":"' || '\xe282ac'::bytea || '"}'), t('{"exp":4102444800,"role":"rt_user","x":"' || '\x5c75'::bytea || '20ac"}');
-- LATIN1 in the token is not UTF-8
SELECT t('{"exp":4102444800,"role":"rt_user","x":"' || '\xe9'::bytea || '"}');
SELECT t('{"exp":4102444800,"role":"rt_user","x":"plain"}');
\c postgres
DROP DATABASE rt_latin1;
