// A client that keeps a copy of what it may see, over any number of
// connections, and notes what it should not have met.
//
//	cursor		goes on from the last change that it got
//	session		leaves it to the server to remember
//	plain		reads everything again whenever it comes back

import { randomUUID } from 'node:crypto';
import { WebSocket } from '../../e2e/lib/raw.mjs';
import { sleep } from '../../e2e/lib/tap.mjs';
import { BOARD, END, JOURNAL } from './world.mjs';

const parseCursor = (text) => {
  const [epoch, lsn, seq] = text.split(':');
  return { epoch, lsn: BigInt(`0x${lsn}`), seq: parseInt(seq, 16) };
};

const behind = (a, b) => a.lsn > b.lsn || (a.lsn === b.lsn && a.seq > b.seq);

export class Follower {
  counts = { events: 0, connections: 0, resumes: 0, refetches: 0, told: {} };
  problems = [];
  wanted = true;
  live = false; // joined, and answered
  away = 0; // it stays so until then

  constructor(number, kind, view, { heartbeat, address }) {
    Object.assign(this, { number, kind, view, heartbeat, address });
    this.topic = `realtime:checker-${number}`;
    this.session = randomUUID();
    this.state = null; // table -> id -> row; null until it was read once
    this.pending = null; // changes that came while it is being read
    this.cursor = null;
    this.told = true; // to refetch, since the last change
    this.fetch = 0; // the last one begun
    this.streams = new Map(); // how far each one's numbers have come
    this.began = null; // when that was
    this.heard = null; // when the last message came
  }

  async run() {
    while (this.wanted) {
      await this.#connection().catch(() => {});
      this.live = false;
      await sleep(20 + Math.random() * 100);
      while (performance.now() < this.away) await sleep(20);
    }
  }

  // Ends the connection without a word.
  drop() {
    this.socket?.terminate();
  }

  // Likewise, and stays away for a while.
  vanish(ms) {
    this.away = performance.now() + ms;
    this.drop();
  }

  come() {
    this.away = 0;
  }

  // Reads nothing until something is over.
  async freeze(over) {
    const socket = this.socket;
    if (socket?.readyState !== WebSocket.OPEN) return;
    socket.pause();
    await over;
    socket.resume();
  }

  stop() {
    this.wanted = false;
    this.away = 0;
    this.drop();
  }

  #connection() {
    return new Promise((resolve, reject) => {
      const query = new URLSearchParams({ apikey: this.view.token(), vsn: '2.0.0' });
      const socket = new WebSocket(`${this.address()}/realtime/v1/websocket?${query}`, {
        perMessageDeflate: false, handshakeTimeout: 20_000,
      });
      let beat;
      this.socket = socket;
      this.joining = true;
      this.waiting = false;
      socket.on('open', () => {
        this.counts.connections++;
        this.#send('1', '1', this.topic, 'phx_join', {
          config: {
            broadcast: {}, presence: {}, postgres_changes: this.view.bindings, private: false, rtsync: this.#options(),
          },
        });
        beat = setInterval(() => this.#beat(), this.heartbeat);
      });
      socket.on('message', (data) => this.#receive(JSON.parse(data)));
      socket.on('error', reject);
      socket.on('close', () => {
        clearInterval(beat);
        resolve();
      });
    });
  }

  #send(...message) {
    this.socket.send(JSON.stringify(message));
  }

  // As real clients do it: one that is not answered in time ends the connection.
  #beat() {
    if (this.socket.readyState !== WebSocket.OPEN || this.socket.isPaused) return;
    if (this.waiting) {
      if (performance.now() - this.waiting > 25_000) this.drop();
      return;
    }
    this.waiting = performance.now();
    this.#send(null, 'beat', 'phoenix', 'heartbeat', {});
  }

  #options() {
    if (this.kind === 'session') return { session: this.session };
    if (this.kind === 'cursor') return this.cursor === null ? { cursor: true } : { since: this.cursor };
    return {};
  }

  #receive([, ref, topic, event, payload]) {
    this.heard = performance.now();
    if (topic === 'phoenix') this.waiting = false;
    else if (event === 'phx_reply' && ref === '1') this.#joined(payload);
    else if (event === 'postgres_changes') this.#change(payload);
    else if (event === 'system') this.#system(payload);
    else if (event === 'phx_error' || event === 'phx_close') this.drop();
  }

  #joined({ status, response }) {
    if (status !== 'ok') {
      this.drop();
      return;
    }
    this.joining = false;
    this.live = true;
    const resumed = response.rtsync?.resumed === true;
    if (this.kind === 'cursor' && !resumed) {
      this.cursor = response.rtsync.cursor;
      this.last = null;
    }
    if (resumed) {
      this.counts.resumes++;
      if (this.state === null && this.pending === null) this.#problem('resumed what had never begun');
      return;
    }
    this.#refetch(response.rtsync?.refetch ?? 'join');
  }

  #system({ extension, status, message }) {
    if (extension === 'rtsync' && status === 'refetch') this.#refetch(message);
    else if (status === 'error') this.#refetch(`error: ${message}`);
  }

  // What was changed while the rows are being read is applied to the result: a
  // row's last change comes last in any case.
  async #refetch(why) {
    const number = ++this.fetch;
    this.told = true;
    this.began = performance.now();
    this.counts.refetches++;
    this.counts.told[why] = (this.counts.told[why] ?? 0) + 1;
    this.pending = [];
    while (this.wanted && number === this.fetch) {
      try {
        const state = await this.view.select();
        if (number !== this.fetch) return;
        this.state = state;
        this.#count();
        for (const data of this.pending) this.#apply(data);
        this.pending = null;
        return;
      } catch {
        await sleep(200);
      }
    }
  }

  #change({ data, rtsync }) {
    this.counts.events++;
    if (this.joining) this.#problem('a change before the reply to the join');
    if (this.kind === 'cursor') this.#follow(rtsync.cursor);
    if (this.pending !== null) this.pending.push(data);
    else if (this.state !== null) this.#apply(data);
    else this.#problem('a change before anything was read');
  }

  // Each change once, in the order of the commits; those of a batch, which is
  // repeated as a whole, have the same place
  #follow(text) {
    const cursor = parseCursor(text);
    if (this.last && this.last.epoch !== cursor.epoch && !this.told) this.#problem(`${text} came after ${this.cursor}, untold`);
    this.told = false;
    if (this.last?.epoch === cursor.epoch && !behind(cursor, this.last) &&
      !(this.view.batches && !behind(this.last, cursor)))
      this.#problem(`${text} came after ${this.cursor}`);
    this.last = cursor;
    this.cursor = text;
  }

  // How far each stream's rows have come that were read
  #count() {
    this.streams = new Map();
    for (const row of this.state.get(JOURNAL).values()) {
      const number = row[this.view.numbers];
      if (row.stream !== null && number > (this.streams.get(row.stream) ?? 0)) this.streams.set(row.stream, number);
    }
  }

  // The next row of a stream, or one that comes again
  #number({ stream, [this.view.numbers]: number }) {
    if (stream === null) return;
    const last = this.streams.get(stream) ?? 0;
    if (number > last + 1) this.#problem(`row ${number} of stream ${stream} came after row ${last}`);
    if (number > last) this.streams.set(stream, number);
  }

  #apply({ type, table, record, old_record: old }) {
    const rows = this.state.get(table);
    if (table === JOURNAL && !this.view.batches) this.#number(record);
    if (type === 'DELETE') {
      rows.delete(old.id);
      return;
    }
    const id = type === 'UPDATE' ? old?.id ?? record.id : record.id;
    const before = rows.get(id);
    if (id !== record.id) rows.delete(id);
    rows.set(record.id, { ...before, ...record });
  }

  #problem(text) {
    if (this.problems.length < 10) this.problems.push(text);
  }

  isAway() {
    return performance.now() < this.away;
  }

  // Who it is and what it does, for whoever waits for it
  describe() {
    const ago = (time) => (time === null ? 'never' : `${((performance.now() - time) / 1000).toFixed(1)} s ago`);
    const socket = this.socket;
    const rows = [...(this.state ?? [])].map(([table, { size }]) => `${table} ${size}`).join(', ');
    return [
      `client ${this.number} (${this.kind}, ${this.view.name}) at ${socket?.url.split('/')[2]}`,
      `socket ${['connecting', 'open', 'closing', 'closed'][socket?.readyState]}${socket?.isPaused ? ', not reading' : ''}`,
      this.isAway() ? 'away' : this.live ? 'joined' : this.joining ? 'joining' : 'not joined',
      `heard something ${ago(this.heard)}`,
      this.waiting && `waits for the answer to a heartbeat of ${ago(this.waiting)}`,
      this.pending !== null && `reads its rows, begun ${ago(this.began)}, ${this.pending.length} changes since`,
      this.kind === 'cursor' && `cursor ${this.cursor}`,
      this.kind === 'session' && `session ${this.session}`,
      `has ${rows || 'nothing'}`,
    ].filter(Boolean).join('; ');
  }

  // Has it all that was written before the nth last row?
  has(n) {
    return this.live && this.pending === null && this.state?.get(BOARD).get(END)?.n === n;
  }

  // How its copy differs from what SELECT shows; null if it does not
  difference(truth) {
    const found = [];
    for (const [table, rows] of truth) {
      const mine = this.state.get(table);
      for (const [id, row] of rows) {
        if (!mine.has(id)) found.push(`${table} ${id} is missing`);
        else if (Object.keys(row).some((column) => mine.get(id)[column] !== row[column]))
          found.push(`${table} ${id} is ${JSON.stringify(mine.get(id))} and not ${JSON.stringify(row)}`.slice(0, 300));
      }
      for (const id of mine.keys()) if (!rows.has(id)) found.push(`${table} ${id} is too much`);
    }
    return found.length === 0 ? null : found;
  }
}
