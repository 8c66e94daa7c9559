// A client that speaks the protocol by hand: for what the real ones never send,
// for the exact form of what they are sent, and for being many.

import WebSocket from 'ws';
import { assert, until } from './tap.mjs';
import { url } from './server.mjs';

export { WebSocket };

export class RawClient {
  // vsn: the protocol's version; apikey: the token, absent if null.
  constructor({ vsn = '2.0.0', apikey = null, base = url, path = '/realtime/v1/websocket', ...options } = {}) {
    const query = new URLSearchParams();
    if (apikey !== null) query.set('apikey', apikey);
    if (vsn !== null) query.set('vsn', vsn);
    this.vsn = vsn ?? '1.0.0';
    this.frames = []; // everything received, as objects
    this.onFrame = null; // called with each frame, if it is set
    this.lastRef = 0;
    this.closed = null; // { code, reason } when it is
    this.socket = new WebSocket(`${base}${path}?${query}`, { perMessageDeflate: false, ...options });
    this.socket.on('message', (data, isBinary) => this.#receive(data, isBinary));
    this.socket.on('close', (code, reason) => {
      this.closed = { code, reason: reason.toString() };
    });
    this.opened = new Promise((resolve, reject) => {
      this.socket.once('open', () => resolve(this));
      this.socket.once('error', reject);
    });
    this.opened.catch(() => {});
    this.socket.on('error', () => {});
  }

  static async open(options) {
    return new RawClient(options).opened;
  }

  #receive(data, isBinary) {
    if (isBinary) {
      this.frames.push({ binary: data });
      return;
    }
    const text = data.toString();
    const message = JSON.parse(text);
    if (Array.isArray(message)) {
      const [joinRef, ref, topic, event, payload] = message;
      this.frames.push({ joinRef, ref, topic, event, payload, text, at: performance.now() });
    } else {
      this.frames.push({ ...message, text, at: performance.now() });
    }
    this.onFrame?.(this.frames.at(-1));
  }

  sendText(text) {
    this.socket.send(text);
  }

  // Sends a message and returns its ref.
  send(topic, event, payload = {}, joinRef = null) {
    const ref = String(++this.lastRef);
    const message =
      this.vsn === '1.0.0'
        ? { topic, event, payload, ref, ...(joinRef === null ? {} : { join_ref: joinRef }) }
        : [joinRef, ref, topic, event, payload];
    this.sendText(JSON.stringify(message));
    return ref;
  }

  // Sends a message and waits for its reply's payload.
  async call(topic, event, payload = {}, joinRef = null) {
    return this.reply(this.send(topic, event, payload, joinRef));
  }

  async reply(ref, options) {
    const frame = await this.frame(`reply to ${ref}`, (f) => f.event === 'phx_reply' && f.ref === ref, options);
    return frame.payload;
  }

  // Joins a topic with postgres_changes bindings; returns the reply's payload.
  async join(topic, bindings, { config = {}, accessToken } = {}) {
    const ref = String(this.lastRef + 1);
    const payload = {
      config: {
        broadcast: { ack: false, self: false },
        presence: { key: '', enabled: false },
        postgres_changes: bindings,
        private: false,
        ...config,
      },
      ...(accessToken === undefined ? {} : { access_token: accessToken }),
    };
    return this.call(`realtime:${topic}`, 'phx_join', payload, ref);
  }

  // Joins, and insists that it is allowed.
  async joinOk(topic, bindings, options) {
    const reply = await this.join(topic, bindings, options);
    assert.equal(reply.status, 'ok', JSON.stringify(reply));
    return reply;
  }

  heartbeat() {
    return this.call('phoenix', 'heartbeat');
  }

  // Waits for the first frame that fits.
  frame(what, fits, options) {
    return until(what, () => {
      const frame = this.frames.find(fits);
      if (!frame && this.closed) throw new Error(`closed ${JSON.stringify(this.closed)} while waiting for ${what}`);
      return frame;
    }, options);
  }

  // The "data" objects of the changes received, on one topic if given.
  changes(topic) {
    return this.frames
      .filter((f) => f.event === 'postgres_changes' && (!topic || f.topic === `realtime:${topic}`))
      .map((f) => f.payload.data);
  }

  async waitClosed(options) {
    await until('the connection to be closed', () => this.closed, options);
    return this.closed;
  }

  close() {
    this.socket.terminate();
  }
}

// What a refused handshake was answered with: { status, body }.
export function refusedHandshake(options) {
  return new Promise((resolve, reject) => {
    const client = new RawClient(options);
    client.socket.once('unexpected-response', (request, response) => {
      let body = '';
      response.on('data', (chunk) => (body += chunk));
      response.on('end', () => resolve({ status: response.statusCode, body, headers: response.headers }));
      response.on('close', () => resolve({ status: response.statusCode, body, headers: response.headers }));
    });
    client.socket.once('open', () => {
      client.close();
      reject(new Error('the handshake was accepted'));
    });
    client.socket.once('error', reject); // it has no answer
  });
}
