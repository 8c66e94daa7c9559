// Very many channels, each with a token of its own, over a few sockets that
// only look for the end of the joins in what they receive.

import { randomBytes } from 'node:crypto';
import net from 'node:net';
import { until } from './measure.mjs';

// As many whatever the number of channels, so that receiving costs the same.
const CONNECTIONS = 10;
const JOINED = Buffer.from('Subscribed to PostgreSQL');

// A client's frame; the mask is all zeros, so that nothing is to be masked.
function textFrame(text) {
  const body = Buffer.from(text);
  const header = Buffer.alloc(body.length < 126 ? 6 : 8);
  header[0] = 0x81;
  header[1] = 0x80 | (body.length < 126 ? body.length : 126);
  if (body.length >= 126) header.writeUInt16BE(body.length, 2);
  return Buffer.concat([header, body]);
}

export class Channels {
  count = 0;
  bytes = 0;
  #joined = 0;
  #sockets = [];

  constructor(host, port, bindings) {
    Object.assign(this, { host, port, bindings });
  }

  // Opens a socket, which stays a plain one but for the handshake.
  async #open(apikey) {
    const socket = net.connect(this.port, this.host);
    socket.write(`GET /realtime/v1/websocket?apikey=${apikey}&vsn=2.0.0 HTTP/1.1\r\nHost: localhost\r\n` +
      'Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n' +
      `Sec-WebSocket-Key: ${randomBytes(16).toString('base64')}\r\n\r\n`);
    await new Promise((resolve, reject) => {
      socket.once('data', (data) =>
        (data.toString('latin1').startsWith('HTTP/1.1 101') ? resolve() : reject(new Error(data.toString('latin1')))));
      socket.once('close', () => reject(new Error('closed')));
    });
    let rest = Buffer.alloc(0);
    socket.on('data', (data) => {
      this.bytes += data.length;
      if (this.#joined >= this.count) return;
      const all = Buffer.concat([rest, data]);
      let end = 0;
      for (let at = all.indexOf(JOINED); at >= 0; at = all.indexOf(JOINED, end)) {
        this.#joined++;
        end = at + JOINED.length;
      }
      rest = all.subarray(Math.max(end, all.length - JOINED.length + 1));
    });
    this.#sockets.push(socket);
  }

  // Has n channels joined in all, the ith with the token that tokenOf(i) makes.
  async grow(n, tokenOf) {
    while (this.#sockets.length < CONNECTIONS) await this.#open(tokenOf(0));
    while (this.count < n) {
      const frames = this.#sockets.map(() => []);
      for (const last = Math.min(n, this.count + 1000); this.count < last; this.count++)
        frames[this.count % CONNECTIONS].push(textFrame(JSON.stringify(['1', '1', `realtime:c${this.count}`, 'phx_join',
          { config: { postgres_changes: this.bindings }, access_token: tokenOf(this.count) }])));
      this.#sockets.forEach((socket, i) => socket.write(Buffer.concat(frames[i])));
      await this.#wait(this.count - 1000); // too many at once are refused
    }
    await this.#wait(n);
  }

  #wait(n) {
    return until(`${n} joins`, () => this.#joined >= n, { timeout: 60_000, every: 1 });
  }

  close() {
    for (const socket of this.#sockets) socket.destroy();
  }
}
