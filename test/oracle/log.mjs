// What a client with cursors was sent, message by message, and what it held
// behind each: so that a connection could have ended anywhere.

// As numbers that can be compared; without what it says about access
export function parseCursor(text) {
  const [, lsn, seq] = text.split(':');
  return { lsn: BigInt(`0x${lsn}`), seq: Number.parseInt(seq, 16) };
}

export const compareCursors = (a, b) => (a.lsn === b.lsn ? a.seq - b.seq : a.lsn < b.lsn ? -1 : 1);

const isRefetch = ({ extension, status }) =>
  (extension === 'rtsync' && status === 'refetch') || (extension === 'postgres_changes' && status === 'error');

export class Log {
  constructor(subscriber) {
    this.subscriber = subscriber;
    this.entries = [];
    this.cursor = null; // the last one; null: none that counts
    this.floor = null; // no cursor that comes may be before this one
  }

  get wanted() {
    return this.subscriber.memory === 'cursor';
  }

  // Note what is held behind the last message, before the next changes it.
  before() {
    const last = this.entries.at(-1);
    if (this.wanted && last && !last.held) last.held = this.subscriber.views.map((view) => view.held());
  }

  #push(kind, more = {}) {
    const { run, role, claims } = this.subscriber;
    this.entries.push({ kind, ...more, cursor: this.cursor, who: { role, claims }, round: run.round, epoch: run.epochNow, held: null });
  }

  // The reply to a join: with a cursor that it went on from, what it held counts.
  reply(rtsync) {
    if (!this.wanted) return;
    this.before();
    this.since = rtsync.resumed ? parseCursor(this.cursor) : null;
    this.floor = this.since;
    // a snapshot is complete only behind its end
    this.cursor = this.subscriber.views.some((v) => v.snapshot) ? null : rtsync.cursor;
    this.#push('reply', { refetch: rtsync.refetch, resumed: rtsync.resumed });
  }

  add({ event, payload }) {
    if (!this.wanted) return;
    if (event === 'postgres_changes') {
      if (payload.rtsync?.snapshot) return;
      this.#cursor(payload.rtsync?.cursor, 'an event');
      this.#push('event', { own: payload.rtsync?.cursor, ids: payload.ids, data: payload.data.table === 'flood' ? null : payload.data });
    } else if (payload.extension === 'rtsync' && payload.status === 'commit') {
      this.#cursor(payload.rtsync?.cursor, 'the end of a transaction');
      this.#push('commit', { own: payload.rtsync?.cursor });
    } else if (payload.status === 'snapshot_begin') {
      this.cursor = null;
      this.#push('other');
    } else this.#push(isRefetch(payload) ? 'refetch' : 'other', { message: payload.message });
  }

  #cursor(text, what) {
    const { problems, interval, views } = this.subscriber;
    if (!text) {
      problems.push(`${what} came without a cursor`);
      return;
    }
    const cursor = parseCursor(text);
    if (this.floor && compareCursors(cursor, this.floor) < 0)
      problems.push(`the cursor of ${what}, ${text}, is before another that came before, ${this.floor.lsn.toString(16)}:${this.floor.seq.toString(16)}`);
    // one with the same cursor may be part of the change behind it: see resume.mjs
    if (this.since && !interval && compareCursors(cursor, this.since) < (what === 'an event' ? 0 : 1))
      problems.push(`${what} came again: its cursor is ${text}, and that gone on from ${this.entries.findLast((e) => e.kind === 'reply').cursor}`);
    if (this.since && compareCursors(cursor, this.since) === 0) for (const view of views) view.repeats();
    this.floor = cursor;
    if (!views.some((v) => v.snapshot)) this.cursor = text;
  }
}
