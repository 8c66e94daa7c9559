// The real clients over TLS, with the server's certificate and with rtsync's
// own, and what happens when these change.

import { mkdtempSync, rmSync } from 'node:fs';
import https from 'node:https';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import tls from 'node:tls';
import WebSocket from 'ws';
import { assert, atEnd, test, until } from './lib/tap.mjs';
import { connect, subscribe, versions } from './lib/clients.mjs';
import { createRole, createTable, httpUrl, port, sql, status, token, url } from './lib/server.mjs';
import { configure as configureServer } from './lib/settings.mjs';
import { makeAuthority, makeCertificate } from '../gateway/certificates.mjs';

const directory = mkdtempSync(join(tmpdir(), 'rtsync-wss.'));
const ca = makeAuthority(directory);
const first = makeCertificate(directory, 'first');
const second = makeCertificate(directory, 'second');
const locked = makeCertificate(directory, 'locked', { passphrase: 'open sesame', rsa: 2048 });

await createRole('e2e_wss');
await createTable('wss', 'id int PRIMARY KEY', { roles: ['e2e_wss'] });
const inserts = { event: 'INSERT', schema: 'public', table: 'wss' };
let lastId = 0;
const insert = () => sql('INSERT INTO wss VALUES ($1)', [++lastId]);

// Writes a file in the data directory, as the server's user, which nobody else
// may read.
const writeFile = (name, text) => sql(`COPY (SELECT '${Buffer.from(text).toString('base64')}')
  TO PROGRAM 'umask 077; base64 -d > ${name}.new && mv ${name}.new ${name}'`);
// Runs a command there, which must read what it is given.
const shell = (command) => sql(`COPY (SELECT 1) TO PROGRAM 'cat >/dev/null; ${command}'`);
const install = async ({ certificate, key }, name = 'server') => {
  await writeFile(`${name}.crt`, certificate);
  await writeFile(`${name}.key`, key);
};

// The status of a request that shows this token, by TLS or without; 0 without an answer
const overTls = (path, authorization) => new Promise((resolve) => {
  https.get({ host: '127.0.0.1', port, path, ca, servername: 'localhost', headers: { authorization } }, (answer) => {
    answer.resume();
    resolve(answer.statusCode);
  }).on('error', () => resolve(0));
});
const either = async (path, authorization) => (await overTls(path, authorization)) ||
  fetch(httpUrl + path, { headers: { authorization } }).then(({ status: code }) => code, () => 0);

// Sets settings and has the files read again; when it returns, they have been.
const configure = (settings) => configureServer(settings, { get: either });

// The name in the certificate that is shown; null if TLS is not spoken
const shown = () => new Promise((resolve) => {
  const socket = tls.connect({ port, host: '127.0.0.1', servername: 'localhost', ca });
  socket.on('error', () => resolve(null));
  socket.on('secureConnect', () => {
    resolve(socket.getPeerCertificate().subject.CN);
    socket.destroy();
  });
});
const untilShown = (name) => until(`certificate "${name}"`, async () => (await shown()) === name);

// A WebSocket that trusts our authority, else unmodified
class Trusting extends WebSocket {
  constructor(address, protocols) {
    super(address, protocols, { ca, servername: 'localhost' });
  }
}
const wssClient = (version) =>
  connect(version, token('e2e_wss'), { base: url.replace(/^ws:/, 'wss:'), transport: Trusting });

atEnd(async () => {
  await shell('rm -f server.crt server.key own.crt own.key');
  rmSync(directory, { recursive: true });
});

await install(first);
await configure({ 'rtsync.ssl': 'on' });
await untilShown('first');

for (const version of versions)
  test(`${version.name} over wss: changes, broadcast, presence`, async () => {
    const client = wssClient(version);
    const subscription = await subscribe(client, `wss-${version.name}`, [inserts]);
    await insert();
    await until('the row', () => subscription.events.some((e) => e.new.id === lastId));
    const heard = [];
    const other = wssClient(version);
    const channel = other.channel('room', { config: { presence: { key: 'me' } } });
    channel.on('broadcast', { event: 'word' }, ({ payload }) => heard.push(payload));
    await new Promise((resolve) => channel.subscribe((s) => s === 'SUBSCRIBED' && resolve()));
    await channel.track({ here: true });
    const room = client.channel('room');
    await new Promise((resolve) => room.subscribe((s) => s === 'SUBSCRIBED' && resolve()));
    await room.send({ type: 'broadcast', event: 'word', payload: { text: 'ü'.repeat(5000) } });
    await until('the broadcast', () => heard.length === 1);
    assert.equal(heard[0].text.length, 5000);
    await until('the member', () => 'me' in channel.presenceState());
    await client.disconnect();
    await other.disconnect();
  });

test('HTTP over TLS: REST and health; without TLS an answer that says so', async () => {
  const answer = await fetch(`${httpUrl}/healthcheck`);
  assert.equal(answer.status, 400);
  assert.deepEqual(await answer.json(), { error: 'This port speaks TLS: use wss:// or https://' });
  const socket = tls.connect({ port, host: '127.0.0.1', servername: 'localhost', ca });
  let text = '';
  socket.on('data', (data) => { text += data; });
  socket.write('GET /healthcheck HTTP/1.1\r\nHost: localhost\r\n\r\n');
  await new Promise((resolve) => socket.on('end', resolve));
  assert.match(text, /^HTTP\/1.1 200 OK\r\n[^]*\r\n\r\nok$/);
  await assert.rejects(new Promise((resolve, reject) => {
    new WebSocket(`${url}/realtime/v1/websocket?apikey=${token('e2e_wss')}`).on('open', resolve).on('error', reject);
  }), /400/);
});

test('the certificate is replaced while rows arrive: nobody reconnects, nothing is missed', async () => {
  const clients = versions.map((version) => wssClient(version));
  const subscriptions = await Promise.all(clients.map((client, i) => subscribe(client, `reload-${i}`, [inserts])));
  const from = lastId + 1;
  let writing = true;
  const writer = (async () => { while (writing) await insert(); })();
  for (const [made, name] of [[second, 'second'], [first, 'first'], [second, 'second']]) {
    await install(made);
    await configure({});
    await untilShown(name);
  }
  writing = false;
  await writer;
  for (const { events, statuses } of subscriptions) {
    await until('all rows', () => events.length === lastId - from + 1);
    assert.deepEqual(events.map((e) => e.new.id), Array.from({ length: events.length }, (_, i) => from + i));
    assert.equal(statuses.length, 1);
  }
  for (const client of clients) await client.disconnect();
});

test('what cannot be used at a reload leaves the certificate as it was', async () => {
  const bad = {
    'no PEM': { certificate: 'nonsense', key: second.key },
    'a key of another certificate': { certificate: second.certificate, key: first.key },
    'an empty key': { certificate: second.certificate, key: '' },
  };
  await install(first);
  await configure({});
  await untilShown('first');
  for (const [what, made] of Object.entries(bad)) { // while nothing is read again
    await install(made);
    await configure({});
    for (let i = 0; i < 20; i++) assert.equal(await shown(), 'first', what);
  }
  // a key that others may read is none
  await install(second);
  await shell('chmod 644 server.key');
  await configure({});
  for (let i = 0; i < 20; i++) assert.equal(await shown(), 'first');
  await shell('chmod 600 server.key');
  await configure({});
  await untilShown('second');
});

test("rtsync's own certificate, its key encrypted, and its own bounds", async () => {
  await install(locked, 'own');
  await configure({
    'rtsync.ssl_cert_file': 'own.crt', 'rtsync.ssl_key_file': 'own.key',
    ssl_passphrase_command: 'echo "open sesame"', ssl_passphrase_command_supports_reload: 'on',
    'rtsync.ssl_min_protocol_version': 'TLSv1.3',
  });
  await untilShown('locked');
  await assert.rejects(new Promise((resolve, reject) => {
    tls.connect({ port, host: '127.0.0.1', servername: 'localhost', ca, maxVersion: 'TLSv1.2' })
      .on('secureConnect', resolve).on('error', reject);
  }), /protocol version/);
  // a command that may not be called at a reload: the certificate stays
  await configure({ ssl_passphrase_command_supports_reload: 'off', 'rtsync.ssl_min_protocol_version': null });
  for (let i = 0; i < 20; i++) assert.equal(await shown(), 'locked');
  // at a start it is called
  const { pid } = await status();
  await sql('SELECT pg_terminate_backend($1)', [pid]);
  await until('another engine', async () => ![pid, null].includes((await status()).pid));
  await untilShown('locked');
  await configure({ 'rtsync.ssl_cert_file': null, 'rtsync.ssl_key_file': null });
  await untilShown('second');
  await assert.rejects(sql("ALTER SYSTEM SET rtsync.ssl_min_protocol_version = 'TLSv1.1'"), /invalid value/);
});

test('an engine that starts without a certificate does not listen, and says why', async () => {
  await writeFile('server.key', locked.key);
  await configure({ ssl_passphrase_command: null, ssl_passphrase_command_supports_reload: null });
  assert.equal(await shown(), 'second');
  const { pid } = await status();
  await sql('SELECT pg_terminate_backend($1)', [pid]);
  await until('the reason', async () => /private key file "server.key" needs a passphrase/.test((await status()).message));
  assert.match((await status()).hint, /ssl_passphrase_command/);
  assert.equal(await shown(), null);
  await assert.rejects(fetch(`${httpUrl}/healthcheck`));
  await install(first);
  await configure({});
  await untilShown('first');
  await until('nothing to be said', async () => (await status()).message === null);
});

test('without TLS again', async () => {
  await configure({ 'rtsync.ssl': null });
  assert.equal((await fetch(`${httpUrl}/healthcheck`)).status, 200);
  const client = connect(versions.at(-1), token('e2e_wss'));
  const subscription = await subscribe(client, 'plain', [inserts]);
  await insert();
  await until('the row', () => subscription.events.some((e) => e.new.id === lastId));
  await client.disconnect();
});
