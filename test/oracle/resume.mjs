// At rest, connections that go on from the past: a client with cursors could have
// lost its connection behind any message.  For some of them, another client of
// the same principal joins with the cursor of then, and with the rows that were
// held then; if it is not told to refetch, what it gets must make these the rows
// that SELECT gives now.
//
// Checked besides:
//
//	once	Nothing comes that the cursor says was there already (log.mjs), and
//			cursors never go back.
//	events	In a round in which only rows changed: what comes is exactly what
//			the client got that stayed, message by message.
//	safety	What comes is such as the principal may get.
//
// Some are resumed as somebody else: what they hold must be theirs then.
//
// Where less is compared, and why, besides what judge.mjs says:
//
//	twice	A change that comes in several messages, and a batch, come again as a
//			whole.  Where rows are compared as a whole, that cannot be told, and
//			they are read anew.
//	stale	What the policy cannot decide now, of all changes since then.
//	earlier	Of rounds before this one, the events are not judged again.

import { compareCursors, parseCursor } from './log.mjs';
import { canonical } from './sql.mjs';
import { Random } from './random.mjs';
import { Subscriber } from './subscriber.mjs';

// So many connections at once
const AT_ONCE = 12;

export class Resumer {
  constructor(player, most) {
    Object.assign(this, { player, run: player.run, judge: player.judge, most });
    this.random = new Random(player.run.seed + 0x3e50000);
    this.counts = { resumed: 0, refused: 0, replayed: 0 };
    this.membership = []; // rounds in which what policies read has changed
  }

  // Behind which messages is it worth the most to have lost the connection?
  #choose(subscriber) {
    const { entries } = subscriber.log;
    const usable = (i) => entries[i].cursor !== null && entries[i].held;
    const all = entries.map((_, i) => i).filter(usable);
    const now = all.filter((i) => entries[i].round === this.run.round);
    const most = subscriber.bindings.some((b) => b.flood) ? Math.min(1, this.most) : this.most;
    if (now.length <= most) return now;
    const kinds = [
      (i) => entries[i].kind === 'event' && entries[i + 1]?.kind === 'refetch',
      (i) => entries[i].kind === 'commit',
      (i) => entries[i].kind === 'event' && entries[i + 1]?.kind === 'event' && entries[i].own === entries[i + 1].own,
      (i) => entries[i].kind === 'event' && entries[i + 1]?.kind !== 'commit',
      (i) => entries[i + 1]?.kind === 'event' && i === now[0],
      (i) => i === now[0],
      (i) => i === now.at(-1),
      () => true,
      () => true,
    ];
    const chosen = new Set();
    for (const kind of this.random.some(kinds, kinds.length)) {
      const fit = now.filter((i) => kind(i) && !chosen.has(i));
      if (fit.length > 0 && chosen.size < most) chosen.add(this.random.pick(fit));
    }
    // and one of an earlier round
    if (now.length < all.length && this.random.chance(0.3)) chosen.add(this.random.pick(all.slice(0, -now.length)));
    return [...chosen];
  }

  // Who goes on, with what
  #plan() {
    const plan = [];
    for (const subscriber of this.player.subscribers) {
      if (subscriber.memory !== 'cursor' || subscriber.closed || subscriber.down) continue;
      subscriber.log.before();
      for (const at of this.#choose(subscriber)) plan.push(this.#make(subscriber, at));
    }
    return plan;
  }

  #make(original, at) {
    const entry = original.log.entries[at];
    let { who } = entry;
    const other = this.random.chance(0.1) && this.random.pick(this.player.subscribers);
    if (other) who = { role: other.role, claims: other.claims };
    const { bindings, interval } = original;
    const subscriber = new Subscriber(this.run, { name: `${original.name}-${at}`, ...who, bindings, interval, memory: 'cursor' });
    subscriber.log.cursor = entry.cursor;
    subscriber.former = [entry.who, { role: original.role, claims: original.claims }];
    return { original, at, entry, subscriber };
  }

  // At rest, of a round
  async check(stable, membership) {
    if (membership) this.membership.push(this.run.round);
    const plan = this.#plan();
    while (plan.length > 0 && this.judge.failures.length === 0) await this.#checkSome(plan.splice(0, AT_ONCE), stable);
  }

  async #checkSome(some, stable) {
    try {
      await Promise.all(some.map((one) => this.#resume(one)));
      await this.player.marker(some.map((one) => one.subscriber));
      for (const one of some) await this.#judge(one, stable);
    } finally {
      for (const { subscriber } of some) subscriber.close();
    }
  }

  async #resume(one) {
    const { subscriber, entry } = one;
    one.begin = await subscriber.connect(entry.held);
    await subscriber.settled(one.begin);
    for (const view of subscriber.views) if (view.must) await view.load();
  }

  async #judge({ original, at, entry, subscriber, begin }, stable) {
    const { judge, run } = this;
    const sent = subscriber.log.entries.slice(1);
    const same = canonical(entry.who) === canonical({ role: subscriber.role, claims: subscriber.claims });
    const describe = () => ({
      prefix: `message ${at} of ${original.log.entries.length} of ${original.name}, of round ${entry.round + 1}; cursor ${entry.cursor}`,
      around: original.log.entries.slice(Math.max(0, at - 4), at + 12).map((e, i) => brief(e, at - Math.min(at, 4) + i)),
      reply: begin, sent: sent.map((e) => brief(e)),
    });
    if (begin.resumed) this.counts.resumed++;
    else this.counts.refused++;
    this.counts.replayed += sent.filter((e) => e.kind === 'event').length;
    subscriber.problems.push(...[this.#repeats(subscriber)].filter(Boolean));
    for (const problem of subscriber.problems) judge.fail(null, `${subscriber.name}, resumed: ${problem}`, describe());
    for (const view of subscriber.views) {
      if (!view.served) continue;
      if (same && entry.round === run.round) judge.checkSafety(view);
      if (!run.state.whole) continue;
      const { hidden } = run.state.access[`${view.live.name} ${subscriber.role}`];
      if (hidden && this.membership.some((round) => round >= entry.round)) continue;
      judge.staleSince(view, original.views.find((v) => v.binding === view.binding && v.live === view.live), entry);
      const difference = await judge.checkRows(view);
      if (difference) judge.fail(view, 'the rows held after going on from a cursor are not those of SELECT', {
        ...difference, held: entry.held[subscriber.views.indexOf(view)], told: view.told, trace: view.trace.join(', '), ...describe(),
      });
    }
    if (stable && same && begin.resumed && entry.round === run.round && !subscriber.interval) this.#compare(original, at, subscriber, describe);
  }

  // What came must be what came to the one that stayed.
  #compare(original, at, subscriber, describe) {
    const rest = original.log.entries.slice(at + 1);
    const sent = subscriber.log.entries.slice(1);
    if ([...rest, ...sent].some((e) => e.kind === 'refetch' || (e.kind === 'reply' && !e.resumed))) return;
    if (rest.some((e) => canonical(e.who) !== canonical(original.log.entries[at].who))) return;
    const had = messages(original.log.entries.slice(0, at + 1).filter((e) => e.own && compareCursors(parseCursor(e.own), subscriber.log.since) === 0));
    const next = rest.find((e) => e.own);
    const place = ({ own }) => own.split(':').slice(0, 3).join(':');
    if (next?.kind === 'commit' && place(next) !== place({ own: subscriber.log.entries[0].cursor }) &&
        !sent.some((e) => e.kind === 'commit' && place(e) === place(next)))
      this.judge.fail(null, `${subscriber.name}, resumed, was not told the end of the transaction`, { end: next.own, ...describe() });
    const wanted = messages(rest);
    const found = messages(sent);
    for (const [id, texts] of wanted) {
      let told = found.get(id) ?? [];
      // behind what is wanted there is what was committed since: markers
      let differs = texts.findIndex((text, i) => text !== told[i]);
      // of a change that comes in several messages, all come again
      while (differs >= 0 && told.length > 0 && had.has(id) && (had.get(id).includes(told[0]) || told[0].endsWith(' end'))) {
        told = told.slice(1);
        differs = texts.findIndex((text, i) => text !== told[i]);
      }
      if (differs < 0) continue;
      this.judge.fail(null, `${subscriber.name}, resumed, got other messages than the one that stayed`,
        { differs, wanted: texts.slice(differs, differs + 3), found: told.slice(differs, differs + 3), counts: [texts.length, told.length], ...describe() });
      return;
    }
  }

  // An event with the cursor gone on from must be part of the change behind it.
  #repeats(subscriber) {
    const { since, entries } = subscriber.log;
    if (!since || subscriber.interval) return null;
    const events = entries.slice(1).filter((e) => e.kind === 'event' || e.kind === 'commit').map((e) => parseCursor(e.own));
    const first = events.findIndex((cursor) => compareCursors(cursor, since) > 0);
    const behind = events[first];
    if (first === 0 || (behind && behind.lsn === since.lsn && behind.seq === since.seq + 1)) return null;
    return 'an event came again that the cursor is behind of';
  }
}

const brief = (e, i) => `${i === undefined ? '' : `${i} `}${e.kind} ${e.own ?? e.message ?? e.refetch ?? ''}${
  e.data ? ` ${e.data.type} ${e.data.table} ${JSON.stringify(e.data.record ?? null)} ${JSON.stringify(e.data.old_record ?? null)} ${e.ids}` : ''}`;

// Messages as texts, for each binding.  Those of one change come in any order, and
// so with other cursors.  Large values are looked up, and may be others by now.
function messages(entries) {
  const result = new Map();
  for (const e of entries) {
    if (e.kind !== 'event' && e.kind !== 'commit') continue;
    const { lsn } = parseCursor(e.own);
    const { big, ...record } = e.data?.record ?? {};
    const text = e.kind === 'commit' ? `${lsn} end` : `${lsn} ${e.data?.type} ${canonical(record)} ${canonical(e.data?.old_record ?? null)}`;
    for (const id of e.ids ?? [...result.keys()]) {
      if (!result.has(id)) result.set(id, []);
      result.get(id).push(text);
    }
  }
  return result;
}
