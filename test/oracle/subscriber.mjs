// A client and what it holds.
//
// Each binding and each table that it concerns make a view.  A view holds the
// rows that the client was given when it joined or was told to refetch, and
// what the events made of them since; that, and nothing else.

import { randomUUID } from 'node:crypto';
import { RawClient } from '../e2e/lib/raw.mjs';
import { token } from '../e2e/lib/server.mjs';
import { until } from '../e2e/lib/tap.mjs';
import { queryAs } from './database.mjs';
import { Log } from './log.mjs';
import { canonical, ident } from './sql.mjs';

const matches = (row, part) => Object.entries(part).every(([name, value]) => canonical(row[name]) === canonical(value));

// Says how a binding fared?
const isAnswer = ({ extension, message }) => extension === 'postgres_changes' &&
  /^(Subscribed to|Unable to subscribe|Error parsing|Column selection)/.test(message);

export class View {
  constructor(subscriber, binding, live) {
    Object.assign(this, { subscriber, binding, live });
    this.replica = null; // rows; null: none, since they could not be read
    this.waiting = null; // events that arrive while they are read
    this.snapshot = false; // they are being sent in a snapshot
    this.amid = false; // they were read while others wrote, in this round
    this.received = []; // in this round: { epoch, data }
    this.before = 0; // so many of these came before it joined again
    this.told = []; // likewise: messages that concern it
    this.trace = []; // likewise: the order of all that, and of when rows were read
    this.stale = new Set(); // keys that may be held too long, see judge.mjs
    this.amids = new Set(); // rounds in which it was "amid"
    this.must = false; // its rows are another's, until they have been read
    this.replayed = false; // it was sent again what came in former rounds, in this one
    this.loads = 0;
  }

  get name() {
    return `${this.subscriber.name} (${this.subscriber.role} ${JSON.stringify(this.subscriber.claims)}) ${JSON.stringify(this.binding.spec)} on ${this.live.name}`;
  }

  // The columns that it shows, as the catalogs are
  columns(state) {
    const { select } = this.binding.spec;
    const { listed } = state.tables[this.live.name];
    const virtual = (name) => this.live.table.columns.some((c) => c.virtual && c.name === name);
    const shown = state.access[`${this.live.name} ${this.subscriber.role}`].columns
      .filter((name) => !virtual(name) && (!listed || listed.includes(name)));
    return select ? shown.filter((name) => select.includes(name)) : shown;
  }

  // Columns by which events find the rows held; null: by the whole row; false:
  // they cannot
  key(state) {
    const columns = this.columns(state);
    const table = state.tables[this.live.name];
    const has = (names) => names.length > 0 && names.every((name) => columns.includes(name));
    const found = table.full || has(table.identity);
    if (has(table.pkey) && found) return table.pkey;
    if (table.pkey.length > 0 || !(table.full || table.identity.length === 0)) return found && !table.full ? table.identity : false;
    // An UPDATE shows the old row whether or not the filter let it through: to
    // know, the client must have what the filter reads.
    return has([...columns, ...(this.binding.filter?.columns ?? [])]) ? null : false;
  }

  // May it be served at all?
  servable(state, role = this.subscriber.role) {
    const { columns } = state.access[`${this.live.name} ${role}`];
    const needs = [...(this.binding.filter?.columns ?? []), ...(this.binding.spec.select ?? [])];
    const { listed } = state.tables[this.live.name];
    if (listed && this.binding.spec.select?.some((name) => !listed.includes(name))) return false;
    return state.tables[this.live.name].published && columns.length > 0 && needs.every((name) => columns.includes(name));
  }

  // What SELECT gives now: { rows } or { error }
  async select(state) {
    const columns = this.columns(state);
    if (!this.servable(state) || columns.length === 0) return { error: 'nothing may be read' };
    const conditions = [this.binding.filter?.sql, state.tables[this.live.name].filter].filter(Boolean);
    const where = conditions.length > 0 ? ` WHERE ${conditions.join(' AND ')}` : '';
    const result = await queryAs(this.subscriber.role, this.subscriber.claims,
      `SELECT to_jsonb(r) AS row FROM (SELECT ${columns.map(ident).join(', ')} FROM ${this.live.sql}${where}) r`);
    return result.error ? result : { rows: result.rows.map((r) => this.live.normalize(r.row)) };
  }

  // Give it its rows anew.
  async load() {
    this.snapshot = false;
    this.amid = true;
    if (this.waiting) {
      this.again = true;
      return;
    }
    do {
      this.again = false;
      this.waiting = [];
      const run = this.subscriber.run;
      await run.ready;
      this.trace.push('reads');
      const { rows } = await this.select(run.state);
      this.trace.push('has read');
      this.replica = rows ?? null;
      this.must = false;
      this.stale.clear();
      this.loads++;
      const events = this.waiting;
      this.waiting = null;
      // Where nothing tells rows apart, nobody can tell whether they contain
      // already what events will say.
      this.doubtful = this.key(run.state) === null;
      for (const data of events) this.apply(data);
    } while (this.again);
  }

  apply(data) {
    if (this.waiting) {
      this.waiting.push(data);
      return;
    }
    if (!this.replica) return;
    const key = this.key(this.subscriber.run.state);
    const old = Object.fromEntries(Object.entries(data.old_record ?? {}).filter(([name]) =>
      !this.replica[0] || name in this.replica[0]));
    let before = null;
    if (data.type !== 'INSERT' && Object.keys(old).length > 0) before = this.remove(old);
    if (data.type === 'DELETE') return;
    if (key) {
      const same = this.remove(Object.fromEntries(key.map((name) => [name, data.record[name]])));
      before = same ?? before;
    }
    // A large value that did not change may be absent: the row held has it, but
    // for one that is stale, perhaps.  Without a primary key it stays unknown.
    const known = this.subscriber.run.state.tables[this.live.name].pkey.length > 0;
    this.replica.push({ ...(known ? before : {}), ...data.record });
  }

  // Something may come again: by rows as a whole, that cannot be told.
  repeats() {
    this.fresh = true;
    this.doubtful ||= this.key(this.subscriber.run.state) === null;
  }

  // What it holds, for restore
  held() {
    return {
      replica: this.replica && [...this.replica], doubtful: this.doubtful, stale: new Set(this.stale),
      unread: this.must || this.waiting !== null || this.snapshot || this.replica === null,
    };
  }

  restore({ replica, doubtful, stale, unread }) {
    Object.assign(this, { replica: replica && [...replica], doubtful, stale: new Set(stale), must: unread });
  }

  remove(part) {
    const index = this.replica.findIndex((row) => matches(row, part));
    return index < 0 ? null : this.replica.splice(index, 1)[0];
  }
}

export class Subscriber {
  // "memory": how it goes on after its connection ended: by cursor, by session,
  // or (null) not at all
  constructor(run, { name, role, claims, bindings, interval, memory = null }) {
    Object.assign(this, { run, name, role, claims, bindings, interval, memory });
    this.log = new Log(this);
    this.session = memory === 'session' ? randomUUID() : null;
    this.down = false; // it has no connection, and is to come back
    this.dropAfter = null; // so many changes
    this.drops = this.resumed = this.refused = 0;
    this.topic = `oracle-${run.seed}-${name.replace(' ', '')}`;
    this.views = [];
    this.markers = new Set();
    this.problems = [];
    this.closed = false;
    this.next = null; // { role, claims } of the token that was sent, until it counts
    this.former = []; // likewise, of those before it in this round
    this.byId = new Map();
  }

  // "quiet": nothing changes meanwhile.
  async join(quiet) {
    this.beats = setInterval(() => this.beat(), 10_000);
    await this.connect();
    await this.#joined();
    for (const view of this.views) view.snapshot &&= view.served;
    await Promise.all(this.views.map((v) => (v.binding.snapshot && v.served ? null : v.load())));
    await this.#snapshotEnd();
    await Promise.all(this.run.loading);
    if (quiet) for (const view of this.views) view.doubtful = view.amid = false;
    // without a random number, so that a seed plays what it always did
    if (quiet && (this.run.seed + Number(/\d+/.exec(this.name))) % 3 === 0) await this.#compareSnapshot();
  }

  async #snapshotEnd() {
    const told = () => JSON.stringify(this.client.frames.filter((f) => f.event === 'system').map((f) => f.payload.message));
    await until('the end of a snapshot', () => !this.views.some((v) => v.snapshot), { timeout: 60_000 })
      .catch((error) => { throw new Error(`${error.message} of ${this.name}, which was told ${told()}`); });
  }

  // Opens a connection and joins, with "held" as what the views hold; goes on
  // from the cursor of the log, if it has one.  What comes before the reply has
  // been looked at waits.  Returns the reply's "rtsync".
  async connect(held = null) {
    this.early = [];
    this.answering = true;
    const client = await RawClient.open({ apikey: token(this.role, this.claims) });
    this.client = client;
    client.onFrame = (frame) => this.#receive(frame);
    const specs = [...this.bindings.map((b) => b.spec),
      { event: 'INSERT', schema: 'oracle', table: 'marker', ...(this.interval ? { rtsync: { interval: this.interval } } : {}) }];
    const reply = await client.join(this.topic, specs, { config: this.#config() });
    if (reply.status !== 'ok') throw new Error(`${this.name} could not join: ${JSON.stringify(reply)}`);
    this.byId.clear();
    reply.response.postgres_changes.forEach((entry, i) => this.byId.set(entry.id, this.bindings[i] ?? 'marker'));
    if (this.views.length === 0) this.#makeViews(held);
    if (!reply.response.rtsync?.resumed)
      for (const view of this.views) {
        view.must = true;
        view.snapshot = Boolean(view.binding.snapshot);
      }
    this.log.reply(reply.response.rtsync);
    this.down = false;
    const { early } = this;
    this.early = null;
    for (const frame of early) this.#receive(frame);
    return reply.response.rtsync;
  }

  #config() {
    if (this.session) return { rtsync: { session: this.session } };
    if (this.memory !== 'cursor') return {};
    return { rtsync: this.log.cursor ? { since: this.log.cursor } : { cursor: true } };
  }

  // Ends the connection, as if the network had.
  drop() {
    this.dropAfter = null;
    if (this.down) return;
    this.down = true;
    this.drops++;
    this.client.onFrame = null;
    this.client.close();
  }

  // Comes back after that, with the rows that it holds.  Told to refetch it reads
  // them anew; from a session, it may get again what it had.
  async rejoin() {
    this.drop();
    this.joinedAt = 0;
    for (const view of this.views) view.before = view.received.length;
    await this.settled(await this.connect());
  }

  // It joined to go on from somewhere: see to what came of that.
  async settled({ resumed } = {}) {
    await this.#joined();
    if (resumed) this.resumed++;
    else this.refused++;
    for (const view of this.views) {
      view.snapshot &&= view.served;
      if (!resumed) view.fresh = true;
      if (this.session && resumed) view.replayed = true;
      if ((this.session || this.interval) && resumed) view.repeats();
    }
    if (!resumed) await Promise.all(this.views.map((v) => (v.binding.snapshot && v.served ? null : v.load())));
    await this.#snapshotEnd();
  }

  // A heartbeat, but not before the last one was answered
  beat() {
    if (this.down || this.beating || this.client.closed) return;
    this.beating = this.client.heartbeat().catch(() => {}).finally(() => (this.beating = null));
  }

  // Does a snapshot have the rows that SELECT gives, binding by binding?
  async #compareSnapshot() {
    const views = this.views.filter((v) => v.served && !v.binding.all && !v.binding.flood &&
      ['*', 'INSERT'].includes(v.binding.spec.event ?? '*') && v.columns(this.run.state).length > 0);
    for (const view of views) {
      const expected = await view.select(this.run.state);
      if (expected.error) continue; // whether a policy's error is met may depend on the plan
      const wanted = expected.rows.map(canonical).sort();
      // When the machine is busy, what changed before may be told only now: ask again.
      let found;
      for (let i = 0; i < 3 && !found?.rows; i++) found = await this.#snapshot(view, `${this.topic}-snapshot${i}`);
      if (!found.rows || found.rows.length !== wanted.length || found.rows.some((row, i) => row !== wanted[i]))
        this.problems.push(`the snapshot of ${view.name} differs: ${JSON.stringify({ told: found.told, rows: found.rows?.slice(0, 5), wanted: wanted.slice(0, 5), counts: [found.rows?.length, wanted.length] })}`);
    }
  }

  // The rows of a view's snapshot, in order, or none if the client was told to refetch
  async #snapshot(view, topic) {
    const client = await RawClient.open({ apikey: token(this.role, this.claims) });
    try {
      const spec = { ...view.binding.spec, rtsync: { ...view.binding.spec.rtsync, snapshot: true } };
      await client.joinOk(topic, [spec]);
      const { payload } = await client.frame('the end of a snapshot', (f) => f.event === 'system' &&
        f.payload.extension === 'rtsync' && ['snapshot_end', 'refetch'].includes(f.payload.status), { timeout: 30_000 });
      const rows = client.frames.filter((f) => f.payload?.rtsync?.snapshot && f.event === 'postgres_changes')
        .map((f) => canonical(f.payload.data.record)).sort();
      return { told: payload, rows: payload.status === 'refetch' ? null : rows };
    } finally {
      client.close();
    }
  }

  #makeViews(held) {
    for (const binding of this.bindings)
      for (const live of this.run.live)
        if (binding.live === live || binding.all) this.views.push(new View(this, binding, live));
    for (const view of this.views) view.fresh = true;
    if (held) this.views.forEach((view, i) => view.restore(held[i]));
  }

  // How the bindings fared is told right after the reply.
  async #joined(role = this.role) {
    const { state } = this.run;
    const servable = (b) => (b.flood ? true : b.all ? b.spec.schema === '*' || state.any
      : this.views.find((v) => v.binding === b).servable(state, role));
    const count = this.bindings.filter((b) => !servable(b)).length;
    const told = () => this.client.frames.slice(this.joinedAt ?? 0)
      .filter((f) => f.event === 'system' && isAnswer(f.payload));
    await until('how the bindings fared', () => told().length >= Math.max(1, count));
    this.answering = false;
    const errors = told().filter((f) => f.payload.status === 'error');
    if (errors.length !== count)
      this.problems.push(`${count} bindings cannot be served, but told was: ${JSON.stringify(told().map((f) => f.payload))}`);
    for (const view of this.views) view.served = servable(view.binding);
  }

  // Become somebody else.
  async become(role, claims, quiet) {
    this.joinedAt = this.client.frames.length;
    this.next = { role, claims };
    this.client.send(`realtime:${this.topic}`, 'access_token', { access_token: token(role, claims) }, '1');
    await this.#joined(role);
    await Promise.all(this.views.map((v) => v.load()));
    if (quiet) for (const view of this.views) view.doubtful = view.amid = false;
  }

  // The token counts from the answer on: what came before was the former one's.
  #became() {
    this.former.push({ role: this.role, claims: this.claims });
    Object.assign(this, this.next);
    this.next = null;
    for (const view of this.views) view.fresh = view.must = true;
  }

  #receive(frame) {
    if (frame.topic !== `realtime:${this.topic}`) return;
    if (['postgres_changes', 'system'].includes(frame.event) && this.early) this.early.push(frame);
    else if (['postgres_changes', 'system'].includes(frame.event)) {
      if (this.down) return;
      this.log.before();
      if (frame.event === 'postgres_changes') this.#change(frame);
      else this.#told(frame.payload);
      this.log.add(frame);
      if (frame.event === 'postgres_changes' && this.dropAfter !== null && --this.dropAfter <= 0) this.drop();
    } else if (frame.event === 'phx_close' || frame.event === 'phx_error') {
      this.closed = true;
      this.problems.push(`${frame.event} arrived`);
    }
  }

  #change({ payload: { ids, data, rtsync } }) {
    const epoch = this.run.epochNow;
    for (const id of ids) {
      const binding = this.byId.get(id);
      if (!binding) this.problems.push(`an event for a binding that is not ours: ${JSON.stringify(data)}`);
      else if (data.schema === 'oracle') {
        if (binding === 'marker') this.markers.add(data.record.id);
      } else if (data.table !== 'flood') {
        const view = this.views.find((v) => v.binding === binding && data.schema === 'w' && v.live.name === data.table);
        if (!view && binding.all && this.run.tables.some((t) => t.heir?.name === data.table)) continue;
        if (!view) {
          this.problems.push(`an event of a table that was not asked for: ${JSON.stringify(data)}`);
          continue;
        }
        if (rtsync?.snapshot) {
          if (view.snapshot) view.replica?.push(data.record);
          continue;
        }
        view.trace.push(data.type);
        view.received.push({ epoch, data, who: { role: this.role, claims: this.claims } });
        view.apply(data);
      }
    }
  }

  #told(message) {
    if (this.next && isAnswer(message)) this.#became();
    const refetch = message.extension === 'rtsync' && message.status === 'refetch';
    if (message.extension === 'rtsync' && /^snapshot_/.test(message.status))
      for (const view of this.views.filter((v) => v.snapshot)) {
        if (message.status === 'snapshot_begin') view.replica = [];
        else view.snapshot = view.must = false;
      }
    const error = message.extension === 'postgres_changes' && message.status === 'error' && !(this.answering && isAnswer(message));
    if (!refetch && !error) return;
    const table = /table w\.([\w]+)/.exec(message.message)?.[1];
    for (const view of this.views) {
      // ... and a snapshot ends there, whatever tables it is of
      if (table && view.live.name !== table && !(refetch && view.snapshot)) continue;
      view.told.push({ refetch, message: message.message });
      view.trace.push('is told');
      this.run.loading.add(view.load());
    }
  }

  // Everything up to a marker has arrived.
  async reached(marker) {
    await until(`marker ${marker} at ${this.name}`, () => {
      if (this.client.closed?.code === 1013 && this.paused) this.tooSlow = true;
      if (this.tooSlow) return true;
      if (this.client.closed) throw new Error(`the connection of ${this.name} was closed: ${JSON.stringify(this.client.closed)}`);
      return this.closed || this.markers.has(marker);
    }, { timeout: 60_000, every: 2 });
  }

  // Stop reading, and go on.
  pause() {
    this.paused = true;
    this.client.socket.pause();
  }

  resume() {
    this.client.socket.resume();
  }

  close() {
    clearInterval(this.beats);
    this.client?.close();
  }
}
