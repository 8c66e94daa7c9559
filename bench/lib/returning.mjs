// The clients of the benchmark "resume", told by their parent to leave and to
// return.  Each keeps its cursor, and sees to it that it misses no row.

import { RawClient } from '../../test/e2e/lib/raw.mjs';

const bindings = ['items', 'beats'].map((table) => ({ event: 'INSERT', schema: 'public', table }));

let after = 0; // a row for all behind this one is of after the return
let tokens;
let clients;
let waiting;
let events = 0;
let start = performance.now();

function fail(text) {
  console.error(text);
  process.exit(1);
}

class Client {
  cursor = null;
  last = null; // id of its last row

  constructor(number) {
    this.number = number;
  }

  async connect() {
    this.live = false;
    this.client = await RawClient.open({ apikey: tokens[this.number] });
    this.client.onFrame = (frame) => this.#receive(frame);
    const { status, response } = await this.client.join(`of ${this.number}`, bindings, {
      config: { rtsync: this.cursor ? { since: this.cursor } : { cursor: true } },
    });
    if (status !== 'ok' || (this.cursor && !response.rtsync.resumed)) fail(`not resumed: ${JSON.stringify(response)}`);
    if (this.cursor === null) this.#isLive();
    this.cursor ??= response.rtsync.cursor;
  }

  #receive({ event, payload }) {
    if (event !== 'postgres_changes') return;
    this.client.frames.pop();
    events++;
    const { id } = payload.data.record;
    this.cursor = payload.rtsync.cursor;
    if (payload.data.table === 'items') {
      if (this.last !== null && id !== this.last + tokens.length) fail(`${id} came after ${this.last}`);
      this.last = id;
    } else if (id > after) this.#isLive();
  }

  #isLive() {
    if (this.live) return;
    this.live = true;
    if (--waiting === 0) process.send({ what: 'live', ms: performance.now() - start, events });
  }
}

const all = () => Promise.all(clients.map((c) => c.connect().catch((error) => fail(error.stack))));

const obey = {
  async come({ tokens: given }) {
    tokens = given;
    clients = tokens.map((_, number) => new Client(number));
    waiting = clients.length;
    for (const client of clients) await client.connect();
  },
  leave() {
    for (const { client } of clients) client.close();
    process.send({ what: 'away' });
  },
  async return({ beat }) {
    after = beat;
    waiting = clients.length;
    events = 0;
    start = performance.now();
    await all();
  },
  stop() {
    process.exit(0);
  },
};
process.on('message', (message) => obey[message.what](message));
