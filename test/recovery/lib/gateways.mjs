// Several gateways of one server: how many, and which of them has whom.

import { assert, until } from '../../e2e/lib/tap.mjs';
import { connect } from '../../e2e/lib/clients.mjs';
import { WebSocket } from '../../e2e/lib/raw.mjs';
import { sql, status } from '../../e2e/lib/server.mjs';
import { gatewayPids, running } from './cluster.mjs';

// The setting makes the engine start anew.
export async function setGateways(n) {
  await sql(`ALTER SYSTEM SET rtsync.gateways = ${n}`);
  await sql('SELECT pg_reload_conf()');
  await until(`${n} gateways`, async () => (await status())?.gateways === n && (await gatewayPids()).length === n);
  await running();
}

// A real client that is being connected, whose socket can be seen.
export function connectSeen(version, token) {
  let last = null;
  class Seen extends WebSocket {
    constructor(...args) {
      super(...args);
      last = this;
    }
  }
  const client = connect(version, token, { transport: Seen });
  client.seen = () => last;
  client.connect();
  return client;
}

// The local port of a client, real or by hand, once it is connected
export const portOf = (client) => {
  const socket = client.seen ? client.seen() : client.socket;
  return socket?.readyState === WebSocket.OPEN && socket._socket.localPort;
};

// The number of the gateway that the connection from this port has come to; null unless there is one
export async function gatewayOf(port) {
  const [row] = await sql('SELECT connection >> 48 AS gateway FROM rtsync.pg_stat_rtsync_connection WHERE client_port = $1', [port]);
  return row ? Number(row.gateway) : null;
}

// Opens clients until one is connected to this gateway; the system chooses.
export async function onGateway(number, open) {
  for (let i = 0; i < 200; i++) {
    const client = await open();
    const port = await until('a connection', () => portOf(client));
    await until('the connection to be seen', async () => (await gatewayOf(port)) !== null);
    if ((await gatewayOf(port)) === number) return client;
    if (client.disconnect) client.disconnect();
    else client.close();
  }
  return assert.fail('one gateway takes all connections');
}
