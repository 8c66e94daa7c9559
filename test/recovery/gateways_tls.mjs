// Several gateways of one server over TLS, with the certificate that
// dev/cluster makes: they share it, and what their clients say.
//
// cluster: -c rtsync.ssl=on -c rtsync.gateways=2

import tls from 'node:tls';
import { assert, test, until } from '../e2e/lib/tap.mjs';
import { versions } from '../e2e/lib/clients.mjs';
import { createRole, createTable, httpUrl, port, sql, status, token, url } from '../e2e/lib/server.mjs';
import { connectSeen, onGateway } from './lib/gateways.mjs';

await createRole('reader');
await createTable('shared', 'id int PRIMARY KEY', { roles: ['reader'] });

test('unmodified clients trust the certificate, and are on both gateways', async () => {
  assert.match(url, /^wss:/);
  await until('both gateways', async () => (await status()).gateways === 2);
  await until('them to be ready', async () => (await fetch(`${httpUrl}/health`)).status === 200);
  const both = [];
  for (const gateway of [0, 1]) {
    const client = await onGateway(gateway, () => connectSeen(versions[2], token('reader')));
    const one = { client, got: [], changes: [], members: [] };
    one.channel = client.channel('room', { config: { presence: { key: `on${gateway}` }, broadcast: { ack: true } } });
    one.channel.on('broadcast', { event: '*' }, (message) => one.got.push(message.payload));
    one.channel.on('postgres_changes', { event: 'INSERT', schema: 'public', table: 'shared' }, (e) => one.changes.push(e.new.id));
    one.channel.on('presence', { event: 'sync' }, () => (one.members = Object.keys(one.channel.presenceState()).sort()));
    await new Promise((resolve, reject) =>
      one.channel.subscribe((s, error) => (s === 'SUBSCRIBED' ? resolve() : reject(error ?? new Error(s)))));
    await one.channel.track({});
    both.push(one);
  }
  const large = 'x'.repeat(2_000_000);
  assert.equal(await both[0].channel.send({ type: 'broadcast', event: 'e', payload: { n: 1, large } }), 'ok');
  assert.equal(await both[1].channel.send({ type: 'broadcast', event: 'e', payload: { n: 2 } }), 'ok');
  await sql('INSERT INTO shared VALUES (1), (2)');
  for (const [i, { got, changes }] of both.entries()) {
    await until('the broadcast', () => got.length === 1);
    assert.equal(got[0].n, 2 - i);
    await until('the changes', () => changes.length === 2);
  }
  assert.equal(both[1].got[0].large.length, large.length);
  await until('who is there', () => both.every(({ members }) => members.join() === 'on0,on1'));
  both[0].client.disconnect();
  await until('the leave', () => both[1].members.join() === 'on1');
  both[1].client.disconnect();
});

test('both take a new certificate, and nobody is disconnected', async () => {
  const clients = [];
  for (const gateway of [0, 1]) clients.push(await onGateway(gateway, () => connectSeen(versions[2], token('reader'))));
  await sql(`COPY (SELECT) TO PROGRAM 'umask 077; openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=renewed
    -keyout new.key -out new.crt 2>/dev/null && mv new.key server.key && mv new.crt server.crt'`.replace(/\n\s*/g, ' '));
  await sql('SELECT pg_reload_conf()');
  const shown = () => new Promise((resolve) => {
    const socket = tls.connect({ port, host: '127.0.0.1', rejectUnauthorized: false });
    socket.on('error', () => resolve(null));
    socket.on('secureConnect', () => {
      resolve(socket.getPeerCertificate().subject.CN);
      socket.destroy();
    });
  });
  await until('the new certificate on each', async () => {
    const names = await Promise.all(Array.from({ length: 20 }, shown));
    return names.every((name) => name === 'renewed');
  });
  for (const client of clients) {
    assert.ok(client.isConnected());
    client.disconnect();
  }
});
