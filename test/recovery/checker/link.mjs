import net from 'node:net';
import { place } from './nodes.mjs';

// A way to the gateway that can be cut: what is sent is lost without a word,
// until both ends give up.
export class Link {
  #pairs = new Set();

  async open() {
    this.listener = net.createServer((client) => this.#join(client));
    await new Promise((resolve) => this.listener.listen(0, '127.0.0.1', resolve));
    this.url = `ws://127.0.0.1:${this.listener.address().port}`;
    return this;
  }

  #join(client) {
    const pair = { client, server: net.connect(Number(new URL(place.url).port), '127.0.0.1') };
    this.#pairs.add(pair);
    client.pipe(pair.server).pipe(client);
    for (const socket of [client, pair.server]) {
      socket.on('error', () => {});
      socket.on('close', () => {
        if (pair.cut) return;
        client.destroy();
        pair.server.destroy();
        this.#pairs.delete(pair);
      });
    }
  }

  // Cuts all connections: what the server sends is lost, what the clients send
  // still arrives for a while.  The ends learn of it later, the client first.
  cut(ms) {
    for (const pair of this.#pairs) {
      pair.cut = true;
      pair.server.unpipe(pair.client);
      pair.server.resume();
      setTimeout(() => pair.client.destroy(), ms * (0.2 + 0.8 * Math.random()));
      setTimeout(() => pair.server.destroy(), ms * (1 + Math.random()));
    }
    this.#pairs.clear();
  }

  close() {
    this.cut(0);
    this.listener.close();
  }
}
