// Many sockets that only count what they receive.
//
// They are plain sockets, also towards the gateway, for which they write the
// handshake and the join themselves: so the gateway and what it is held against
// have the same receivers.

import { randomBytes } from 'node:crypto';
import net from 'node:net';
import { until } from './measure.mjs';

export class Crowd {
  bytes = 0;
  sockets = [];

  // Opens n sockets, 200 at a time.
  async connect(n, host, port, greet = async () => {}) {
    while (this.sockets.length < n) {
      const batch = Array.from({ length: Math.min(200, n - this.sockets.length) }, () => this.#one(host, port, greet));
      this.sockets.push(...(await Promise.all(batch)));
    }
  }

  async #one(host, port, greet) {
    const socket = net.connect(port, host);
    await new Promise((resolve, reject) => socket.once('connect', resolve).once('error', reject));
    await greet(socket);
    socket.on('data', (chunk) => { this.bytes += chunk.length; });
    return socket;
  }

  // Waits until this many bytes more have come than at "before".
  received(before, bytes) {
    return until(`${bytes} bytes`, () => this.bytes - before >= bytes, { every: 0, timeout: 60_000 });
  }

  close() {
    for (const socket of this.sockets) socket.destroy();
  }
}

function textFrame(text) {
  const body = Buffer.from(text);
  const mask = randomBytes(4);
  const header = body.length < 126 ? Buffer.from([0x81, 0x80 | body.length])
    : Buffer.from([0x81, 0x80 | 126, body.length >> 8, body.length & 255]);
  return Buffer.concat([header, mask, body.map((byte, i) => byte ^ mask[i % 4])]);
}

// Makes a socket a WebSocket; with bindings, one that has joined a channel.
export const greetGateway = (apikey, bindings) => (socket) =>
  new Promise((resolve, reject) => {
    let received = '';
    let joining = false;
    const listen = (chunk) => {
      received += chunk.toString('latin1');
      if (!joining && received.includes('\r\n\r\n')) {
        if (!received.startsWith('HTTP/1.1 101')) {
          reject(new Error(received.split('\r\n')[0]));
          return;
        }
        joining = true;
        if (bindings)
          socket.write(textFrame(JSON.stringify(
            ['1', '1', 'realtime:bench', 'phx_join', { config: { postgres_changes: bindings } }])));
      }
      // The system message is the last of a join.
      if (joining && (!bindings || received.includes('Subscribed to PostgreSQL'))) {
        socket.off('data', listen);
        resolve();
      }
    };
    socket.on('data', listen);
    socket.on('close', () => reject(new Error('closed')));
    socket.write(`GET /realtime/v1/websocket?apikey=${apikey}&vsn=2.0.0 HTTP/1.1\r\nHost: localhost\r\n` +
      `Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n` +
      `Sec-WebSocket-Key: ${randomBytes(16).toString('base64')}\r\n\r\n`);
  });
