-- Tokens, good and hostile.
CREATE ROLE rtsync_authenticator NOINHERIT; CREATE ROLE rt_user; CREATE ROLE rt_super SUPERUSER; CREATE ROLE rt_stranger; CREATE ROLE rt_indirect;
GRANT rt_user, rt_super TO rtsync_authenticator;
GRANT rt_indirect TO rt_user;
\set secret 'a secret of thirty-two characters'
SELECT test.set('jwt_secret', :'secret');
-- a payload with "exp" in the future
CREATE FUNCTION test.payload(more text DEFAULT '"role":"rt_user"', expires float8 DEFAULT 60) RETURNS text LANGUAGE sql AS
  $$ SELECT '{"exp":' || floor(extract(epoch FROM clock_timestamp()) + expires) || ',' || more || '}' $$;
CREATE FUNCTION test.t(payload text, header text DEFAULT '{"alg":"HS256","typ":"JWT"}', secret text DEFAULT 'a secret of thirty-two characters') RETURNS text LANGUAGE sql AS
  $$ SELECT regexp_replace(regexp_replace(test.token(test.sign(convert_to(header, 'UTF8'), convert_to(payload, 'UTF8'), secret)::bytea),
    '\m\d{10}\M', 'TIME', 'g'), 'expired \d ', 'expired N ') $$;
CREATE FUNCTION test.ts(VARIADIC payloads text[]) RETURNS SETOF text LANGUAGE sql AS
  $$ SELECT test.t(p) FROM unnest(payloads) WITH ORDINALITY u(p, o) ORDER BY o $$;
CREATE FUNCTION test.hs(VARIADIC headers text[]) RETURNS SETOF text LANGUAGE sql AS
  $$ SELECT test.t(test.payload(), h) FROM unnest(headers) WITH ORDINALITY u(h, o) ORDER BY o $$;
CREATE FUNCTION test.bs(VARIADIC tokens bytea[]) RETURNS SETOF text LANGUAGE sql AS
  $$ SELECT test.token(b) FROM unnest(tokens) WITH ORDINALITY u(b, o) ORDER BY o $$;
CREATE FUNCTION test.b(payload bytea) RETURNS text LANGUAGE sql AS
  $$ SELECT test.token(test.sign('{"alg":"HS256"}', payload, 'a secret of thirty-two characters')::bytea) $$;

-- good
SELECT test.t(test.payload());
SELECT test.t(test.payload('"role":"rt_indirect"'));
SELECT test.t(test.payload('"role":"rt_user","sub":"x","nbf":1,"iat":1.5e9,"a":[{"b":null}],"c":"\u00e9\ud83d\ude00é"'));
SELECT * FROM test.ts('{"role":"rt_user","exp":4102444800.6}', '{"role":"rt_user","exp":4.1024448e9}');
SELECT * FROM test.hs('{"alg":"HS256","kid":"abc","typ":"JWT"}', '{"alg":"\u0048S256"}');
SELECT regexp_replace(test.token((E' \t' || left(s, 30) || E'\n' || right(s, -30) || '%20')::bytea), '\d{10}', 'TIME') FROM test.sign('{"alg":"HS256"}', test.payload()::bytea, :'secret') s;
SELECT regexp_replace(test.token(replace(s, '.', '%2E')::bytea), '\d{10}', 'TIME') FROM test.sign('{"alg":"HS256"}', test.payload()::bytea, :'secret') s;

-- times
SELECT * FROM test.ts(test.payload(expires => -1), test.payload(expires => -3));
SELECT test.t('{"role":"rt_user","exp":1}');
SELECT * FROM test.ts('{"role":"rt_user","exp":"soon"}', '{"role":"rt_user","exp":null}', '{"role":"rt_user","exp":[1]}', '{"role":"rt_user","exp":1e300}', '{"role":"rt_user","exp":-1e300}', '{"role":"rt_user","exp":true}');
SELECT * FROM test.ts(test.payload('"role":"rt_user","nbf":4102444800'), test.payload('"role":"rt_user","nbf":"x"'), test.payload('"role":"rt_user","iat":"x"'), test.payload('"role":"rt_user","iat":{}'));

-- claims and roles
SELECT * FROM test.ts('{"exp":4102444800}', test.payload('"role":""'), test.payload('"role":null'), test.payload('"role":5'), test.payload('"role":["rt_user"]'), '{"role":"rt_user"}', '{}');
SELECT * FROM test.ts(test.payload('"role":"rt_super"'), test.payload('"role":"rt_stranger"'), test.payload('"role":"nobody"'), test.payload('"role":"RT_USER"'), test.payload('"role":"rtsync_authenticator"'), test.payload('"role":"none"'), test.payload('"role":"postgres"'), test.payload(format('"role":"%s"', repeat('r', 100))));
SELECT * FROM test.ts(test.payload('"role":"rt_user","role":"rt_super"'), test.payload('"role":"rt_super","r\u006fle":"rt_user"'), test.payload('"role":"rt_user","x":{"role":"a","role":"b"}'));

-- signatures and algorithms
SELECT test.t(test.payload(), secret => 'another secret');
SELECT test.t(test.payload('"role":"nobody"'), secret => 'another secret');
SELECT * FROM test.hs('{"alg":"none"}', '{"alg":"None"}', '{"alg":"hs256"}', '{"alg":"HS512"}', '{"alg":"RS256"}');
SELECT * FROM test.hs('{"alg":"HS256","alg":"none"}', '{"alg":"none","alg":"HS256"}', '{"alg":["HS256"]}', '{"typ":"JWT"}', '{"alg":"HS256","crit":["exp"]}', '{"alg":"HS256\u0000"}', '"HS256"', '["alg","HS256"]', '', '{"alg":"HS256"', '{"alg":"HS256"}x');
-- a signature of its own each time would be malformed one character shorter only where that character's last bits are not zero
SELECT r FROM test.sign('{"alg":"HS256"}', '{"exp":4102444800,"role":"rt_user"}', :'secret') s, test.bs(left(s, -1)::bytea, (s || 'A')::bytea, (s || '.')::bytea, ('.' || s)::bytea, (s || '==')::bytea, replace(s, '.', '..')::bytea, split_part(s, '.', 1)::bytea, (split_part(s, '.', 1) || '.' || split_part(s, '.', 2) || '.')::bytea, (split_part(s, '.', 1) || '.' || split_part(s, '.', 2))::bytea) r;
-- a second spelling of the same signature: bits that are left over
SELECT count(*) FILTER (WHERE test.token((left(s, -1) || c)::bytea) ~ '^rt_user') FROM test.sign('{"alg":"HS256"}', test.payload()::bytea, :'secret') s, regexp_split_to_table('ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_', '') c;

-- bytes
SELECT r FROM test.bs('', '.', '..', '...', 'a.b.c', '%', '%zz', '%00', '\x00', '\xff', 'null', 'é.é.é') r;
SELECT r FROM test.bs(convert_to(repeat('A', 20000), 'UTF8'), convert_to(repeat('.', 16384), 'UTF8'), convert_to(repeat('%41', 5000), 'UTF8')) r;
SELECT test.b('{"exp":4102444800,"role":"rt_user","x":"' || '\xff'::bytea || '"}'), test.b('{"exp":4102444800,"role":"rt_user","x":"' || '\xc080'::bytea || '"}'), test.b('{"exp":4102444800,"role":"rt_user","x":"' || '\x00'::bytea || '"}'), test.b('{"exp":4102444800,"role":"rt_user","x":"' || '\xeda080'::bytea || '"}');
SELECT * FROM test.ts(test.payload('"role":"rt_user","x":"\u0000"'), test.payload('"role":"rt_user","x":"\ud800"'), test.payload('"role":"rt_user","x":"\udc00\ud800"'), test.payload(E'"role":"rt_user","x":"\n"'));
SELECT * FROM test.ts(test.payload('"role":"rt_user","x":' || repeat('[', 5000)), test.payload('"role":"rt_user","x":' || repeat('[', 5000) || repeat(']', 5000)), test.payload('"role":"rt_user","x":' || repeat('{"a":', 1000) || '1' || repeat('}', 1000)));
SELECT left(test.t(test.payload('"role":"rt_user","x":' || repeat('[', 60) || repeat(']', 60))), 7), left(test.t(test.payload('"role":"rt_user","x":"' || repeat('[', 5000) || '"')), 7);
SELECT * FROM test.ts(test.payload('"role":"rt_user","x":1e1000000'), test.payload('"role":"rt_user","x":-1e-20000'), test.payload('"role":"rt_user","x":1e'), test.payload('"role":"rt_user","x":1' || repeat('0', 2000)), test.payload('"role":"rt_user","x":01'), test.payload('"role":"rt_user","x":NaN'), test.payload('"role":"rt_user","x":1e9999999999999999999'));
SELECT left(test.t(test.payload('"role":"rt_user","x":1.5e+300')), 7), left(test.t(test.payload('"role":"rt_user","x":1' || repeat('0', 900))), 7);
SELECT * FROM test.ts('[' || test.payload() || ']', '', 'null', '"x"', test.payload() || test.payload());
-- every payload that is accepted is good jsonb
SELECT count(*), bool_and(substr(r, 9)::jsonb ->> 'role' = 'rt_user') FROM (SELECT test.t(test.payload('"role":"rt_user","x":' || v)) AS r FROM unnest(ARRAY['1', '-0', '1e999', '1e-1000', '"\b\f\/\\"', '{}', '[]', 'true', '[[[{"a":[1e10]}]]]']) v) x WHERE r ~ '^rt_user';

-- secrets
SELECT test.set('jwt_secret', '');
SELECT test.t(test.payload()), test.t(test.payload(), secret => '');
\set file :scratch '/jwt_secret'
SELECT test.set('jwt_secret_file', :'file');
SELECT test.t(test.payload(), secret => 'the secret of the file, of some length');
SELECT test.set('jwt_secret', :'secret');
SELECT test.t(test.payload());
SELECT test.set('jwt_secret_file', '/nonexistent');
SELECT test.t(test.payload(), secret => 'the secret of the file, of some length');
SELECT test.t(test.payload());
SELECT test.set('jwt_secret_file', '');
SELECT left(test.t(test.payload()), 7);
DROP ROLE rtsync_authenticator;
SELECT test.t(test.payload());
