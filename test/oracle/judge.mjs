// What each view should have been sent, and what it may have been sent.
//
// All row versions are logged by triggers.  Time is cut into epochs: within an
// epoch nothing changes who may see what.  At the end of an epoch each version
// of the round is asked for, as each principal: it is put into its table in a
// transaction that is rolled back, and SELECTed under the role, the claims and
// the filters.  So the server itself says what is visible; no condition is
// evaluated here.
//
// Checked at the end of a round:
//
//	safety	Each event's record is a version that was committed, and visible to
//			the principal in some epoch between its commit and its receipt; it
//			has only columns that were SELECTable in one of these.  With
//			nothing changing in between, that is "exactly visible".  Likewise
//			the row that a DELETE or an old_record speaks of.
//	events	In a round in which only rows changed: the events are exactly those
//			of the decision table, in order.
//	rows	What a view holds is what SELECT gives.
//
// Where less is compared, and why:
//
//	undecidable	Of the old row the WAL has only the replica identity.  Where a
//			policy or filter reads more, a DELETE, and an UPDATE after which the
//			row is not visible, send nothing, as documented.  The row that they
//			were about may stay in the replica until it is seen again or the
//			client refetches: such keys are in view.stale, and for these alone
//			a row may be held too many.
//	no key	A view whose columns do not have the primary key cannot apply
//			events: its rows are not compared, its events are.  Without a
//			primary key whole rows are compared as a multiset, unless a refetch
//			overlapped with events.
//	operations	What the publication does not publish (publish = ...) is not
//			heard of; when it publishes everything again, clients are told.
//	events of one kind	(INSERT alone, ...) make no replica: events are compared.
//	large values	Those that an UPDATE does not log can be absent, and without a
//			primary key stay so.
//	hidden	What a policy's function reads is not known to anybody.  After a
//			change of the membership tables such views read their rows anew.
//	intervals	What a client gets in batches is merged: its events are not those of
//			the decision table, but none says more than these, and they come in
//			their order.  It may have read a row, while others wrote, of which
//			it is told nothing since it came and went within a batch, as
//			documented: such a row may be held too long.
//	failing	Where a policy raises an error for a row, SELECT fails as a whole:
//			rows are compared when it succeeds again.  Another order of the
//			conditions may find the row invisible before: then nobody need be
//			told that something was withheld.

import { become } from './database.mjs';
import { canonical, ident, literal } from './sql.mjs';

const project = (row, columns) => Object.fromEntries(columns.filter((name) => name in row).map((name) => [name, row[name]]));

const sameOn = (part, row) => Object.entries(part).every(([name, value]) => name in row && canonical(row[name]) === canonical(value));

export class Judge {
  constructor(run, connection) {
    Object.assign(this, { run, connection });
    this.lastSeq = 0;
    this.firstEpoch = 0; // of the round
    this.entries = []; // of the round: { live, op, old, new, epoch, round }; old and new are versions
    this.past = []; // likewise, of the rounds before
    this.firstEpochs = []; // of each round
    this.versions = new Map();
    this.liveByOid = new Map();
    this.failures = [];
  }

  fail(view, what, details = {}) {
    this.failures.push({ view: view?.name, what, ...details, told: view?.told });
  }

  // What the log has got since the last time belongs to this epoch.  "order"
  // has transactions in the order of their commits, if that is not the log's.
  async readLog(epoch, order = []) {
    const { rows } = await this.connection.query(`
      SELECT seq, xid::text, op, old, new, (SELECT relname FROM pg_class WHERE oid = rel) AS relation,
        (SELECT relname FROM pg_class WHERE oid = coalesce(pg_partition_root(rel), (SELECT inhparent FROM pg_inherits WHERE inhrelid = rel))) AS root
      FROM oracle.log WHERE seq > $1 ORDER BY seq`, [this.lastSeq]);
    rows.sort((a, b) => order.indexOf(a.xid) - order.indexOf(b.xid) || a.seq - b.seq);
    for (const row of rows) {
      this.lastSeq = Math.max(this.lastSeq, row.seq);
      const live = this.run.live.find((l) => l.name === row.relation) ?? this.run.live.find((l) => l.name === row.root);
      const lives = live ? [live] : this.run.live.filter((l) => l.table.name === row.relation); // TRUNCATE of a root
      for (const each of lives)
        this.entries.push({
          live: each, op: row.op, epoch, round: this.run.round, relation: row.relation,
          old: row.old && this.version(each, row.old, -1), new: row.new && this.version(each, row.new, epoch),
        });
    }
  }

  version(live, raw, epoch) {
    const key = `${live.name} ${canonical(raw)}`;
    let version = this.versions.get(key);
    if (!version) {
      version = { live, raw, row: live.normalize(raw), epoch: epoch < 0 ? 0 : epoch, seen: new Map(), published: new Map() };
      this.versions.set(key, version);
    }
    return version;
  }

  // Ask for everything of the round that was not asked for in this epoch.
  async endEpoch(epoch) {
    await this.readLog(epoch);
    for (const live of this.run.live) {
      const versions = [...this.versions.values()].filter((v) => v.live === live);
      if (versions.length > 0) await this.look(live, versions, epoch);
    }
  }

  principals(live) {
    const found = new Map();
    for (const view of this.run.views()) {
      if (view.live !== live) continue;
      const there = this.run.state.tables[live.name].columns;
      for (const { role, claims } of [view.subscriber, view.subscriber.next, ...view.subscriber.former].filter(Boolean)) {
        const key = principalKey({ role, claims });
        if (!found.has(key)) found.set(key, { key, role, claims, filters: new Map() });
        if (view.binding.filter?.columns.every((name) => there.includes(name))) found.get(key).filters.set(view.binding.filter.sql, view.binding.filter.sql);
      }
    }
    return [...found.values()];
  }

  async look(live, versions, epoch) {
    const principals = this.principals(live);
    const { state } = this.run;
    const unreadable = (p) => state.access[`${live.name} ${p.role}`].columns.length === 0;
    for (const p of principals.filter(unreadable))
      for (const v of versions) note(v, p, epoch, null);
    const able = principals.filter((p) => !unreadable(p));
    if (able.length === 0) return;
    const partial = [...new Set(able.map((p) => p.role).filter((r) => !state.access[`${live.name} ${r}`].whole))];
    try {
      await this.connection.query(`BEGIN; SET LOCAL session_replication_role = replica;
        ${partial.map((r) => `GRANT SELECT ON ${live.sql} TO ${r};`).join(' ')}`);
      for (const batch of batches(versions, live)) await this.lookBatch(live, batch, able, epoch);
    } finally {
      await this.connection.query('ROLLBACK');
    }
  }

  async lookBatch(live, batch, principals, epoch) {
    const columns = this.run.state.tables[live.name].columns.filter((name) =>
      !live.table.columns.find((c) => c.name === name)?.generated).map(ident).join(', ');
    // Without a replica identity nothing can be deleted; nor need it be.
    const table = this.run.state.tables[live.name];
    const empty = table.full || table.identity.length > 0 ? `DELETE FROM ${live.sql};` : '';
    const results = await this.connection.query(`${empty}
      INSERT INTO ${live.sql} (${columns}) SELECT ${columns}
      FROM jsonb_populate_recordset(NULL::${live.sql}, ${literal(JSON.stringify(batch.map((v) => v.raw)))})
      RETURNING tableoid::int8 || ' ' || ctid AS place, tableoid::int8 AS rel, ctid`);
    const { rows } = Array.isArray(results) ? results.at(-1) : results;
    if (rows.length !== batch.length) throw new Error(`${rows.length} of ${batch.length} versions were put back`);
    const places = new Map(rows.map((r, i) => [r.place, batch[i]]));
    if (table.filter) {
      const passing = await this.connection.query(`SELECT tableoid::int8 || ' ' || ctid AS place FROM ${live.sql} WHERE ${table.filter}`);
      const passes = new Set(passing.rows.map((r) => places.get(r.place)));
      for (const v of batch) v.published.set(epoch, passes.has(v));
    }
    for (const principal of principals) {
      const filters = [...principal.filters.values()];
      const list = filters.map((sql, i) => `(${sql}) IS TRUE AS f${i}`);
      const enter = `SAVEPOINT p; ${become(principal.role, principal.claims)};`;
      let found;
      try {
        const results = await this.connection.query(`${enter}
          SELECT ${["tableoid::int8 || ' ' || ctid AS place", ...list].join(', ')} FROM ${live.sql}; ROLLBACK TO SAVEPOINT p`);
        found = new Map(results.at(-2).rows.map((r) => [places.get(r.place), filters.map((_, i) => r[`f${i}`])]));
      } catch {
        // A policy fails for some row: ask for one after the other.
        await this.connection.query('ROLLBACK TO SAVEPOINT p');
        const each = rows.map((r) => `oracle.attempt(${literal(`SELECT jsonb_build_array(${filters.map((sql) => `(${sql}) IS TRUE`).join(', ')})
          FROM ${live.sql} WHERE tableoid = ${r.rel} AND ctid = '${r.ctid}'`)})`);
        const results = await this.connection.query(`${enter} SELECT ARRAY[${each.join(', ')}] AS found; ROLLBACK TO SAVEPOINT p`);
        found = new Map();
        results.at(-2).rows[0].found.forEach((answer, i) => answer !== null && found.set(batch[i], answer));
      }
      for (const v of batch) {
        const answer = found.get(v);
        note(v, principal, epoch, answer === undefined ? null : answer === 'error' ? 'error' :
          new Map(filters.map((sql, i) => [sql, answer[i]])));
      }
    }
  }

  // Was the version visible in the view, for whom it was then, at some moment of
  // these epochs?  With "filtered", its filter counts too.
  visible(view, who, version, from, to, filtered = true) {
    const seen = version.seen.get(principalKey(who));
    if (!seen) return false;
    for (let epoch = from; epoch <= to; epoch++) {
      const answer = seen.get(epoch);
      if (version.published.get(epoch) === false) continue;
      if (answer && answer !== 'error' && (!filtered || !view.binding.filter || answer.get(view.binding.filter.sql))) return true;
    }
    return false;
  }

  // yes, no, or error, in one epoch; unknown if columns are not known
  verdict(view, version, epoch, known) {
    const access = this.run.state.access[`${view.live.name} ${view.subscriber.role}`];
    const answer = version.seen.get(principalKey(view.subscriber))?.get(epoch);
    const knows = (columns) => !known || columns.every((name) => known.includes(name));
    const policy = !knows(access.needs) ? 'unknown' : answer === 'error' ? 'error' : answer ? 'yes' : 'no';
    if (policy === 'no' || policy === 'error' || !view.binding.filter) return policy;
    if (!knows(view.binding.filter.columns)) return 'unknown';
    if (policy === 'unknown') return this.filterAlone(view, version, epoch);
    return answer.get(view.binding.filter.sql) ? 'yes' : 'no';
  }

  // The policy is not decidable, the filter is: we only know it for visible rows.
  filterAlone() {
    return 'unknown';
  }

  oldVerdict(view, entry) {
    const table = this.run.state.tables[view.live.name];
    return this.verdict(view, entry.old, entry.epoch, table.full ? null : table.identity);
  }

  // The events of a view for an entry of the log, in a round without other
  // changes: a list of { type, record, old }, or 'withheld'
  expected(view, entry) {
    const wants = (kind) => view.binding.spec.event === '*' || view.binding.spec.event === kind;
    const one = (type) => (wants(type) ? [{ type, entry }] : []);
    if (entry.op === 'T' || !this.run.state.operations.includes(entry.was ?? entry.op)) return [];
    // A row that the publication's row filter does not let through is none:
    // an UPDATE then is an INSERT, a DELETE or nothing.
    const published = (version) => version && version.published.get(entry.epoch) !== false;
    if (entry.op === 'U' && published(entry.old) !== published(entry.new))
      return this.expected(view, published(entry.new) ? { ...entry, op: 'I', was: 'U', old: null } : { ...entry, op: 'D', was: 'U', new: null });
    if (!published(entry.new ?? entry.old)) return [];
    const fresh = entry.new && this.verdict(view, entry.new, entry.epoch, null);
    if (fresh === 'error') return 'withheld';
    if (entry.op === 'I') return fresh === 'yes' ? one('INSERT') : [];
    const old = this.oldVerdict(view, entry);
    if (entry.op === 'D') return old === 'error' ? (wants('DELETE') ? 'withheld' : []) : old === 'yes' ? one('DELETE') : [];
    if (old === 'error') return 'withheld';
    if (fresh === 'yes') {
      const view_ = view.binding.spec.rtsync?.view;
      return view_ && old === 'no' ? one('INSERT') : one('UPDATE');
    }
    return old === 'yes' ? one('DELETE') : [];
  }

  // Does the event say what the entry did?
  fits(view, event, expected) {
    const { data } = event;
    const { entry } = expected;
    if (data.type !== expected.type) return false;
    if (data.type !== 'DELETE' && !this.shows(view, data, entry)) return false;
    return data.type === 'INSERT' || sameOn(data.old_record, entry.old.row);
  }

  // Does the event show the row that the entry left?
  shows(view, data, entry) {
    const shown = view.columns(this.run.state);
    for (const name of shown) {
      if (!(name in data.record)) {
        if (!this.mayLack(view, entry, name)) return false;
      } else if (canonical(data.record[name]) !== canonical(entry.new.row[name]) && !this.isLater(view, entry, name, data.record[name])) return false;
    }
    return Object.keys(data.record).every((name) => shown.includes(name));
  }

  // A large value that an UPDATE left as it was is not in the WAL, unless the
  // identity is the whole row.  The engine looks it up by primary key; it may
  // find a later one, or none.
  mayLack(view, { op, old, new: fresh }, name) {
    return op === 'U' && name === view.live.table.big && !this.run.state.tables[view.live.name].full &&
      canonical(old.row[name]) === canonical(fresh.row[name]);
  }

  isLater(view, entry, name, value) {
    return this.mayLack(view, entry, name) && this.entries.slice(this.entries.indexOf(entry))
      .some((e) => e.live === view.live && e.new && canonical(e.new.row[name]) === canonical(value));
  }

  // All events are such as the principal may get.
  checkSafety(view) {
    const { states } = this.run;
    if (view.replayed) return; // what is of former rounds was judged then
    for (const event of view.received) {
      const { data, epoch: received, who } = event;
      const entries = this.entries.filter((e) => e.live === view.live && e.epoch <= received);
      const columnsAllowed = (names, from) => names.every((name) => {
        for (let epoch = from; epoch <= received; epoch++)
          if (states[epoch]?.access[`${view.live.name} ${who.role}`]?.columns.includes(name)) return true;
        return false;
      });
      const isNew = (e) => e.new && Object.entries(data.record).every(([name, value]) => name in e.new.row &&
        (canonical(value) === canonical(e.new.row[name]) || this.isLater(view, e, name, value)));
      const isOld = (e) => e.old && sameOn(data.old_record ?? {}, e.old.row);
      const names = [...Object.keys(data.record ?? {}), ...Object.keys(data.old_record ?? {}), ...data.columns.map((c) => c.name)];
      const candidates = entries.filter((e) => columnsAllowed(names, e.epoch) && (data.type === 'DELETE' ? isOld(e) : isNew(e)) &&
        (data.type !== 'UPDATE' || isOld(e) || (view.subscriber.interval && entries.some(isOld))));
      if (candidates.length === 0) {
        this.fail(view, 'an event says what never was, or shows columns that may not be read', { event: data });
        continue;
      }
      // Of changes that are merged, the old row is the first one's.
      const before = (e) => (view.subscriber.interval ? entries.filter(isOld) : [e]);
      const ok = candidates.some((e) => {
        if (data.type !== 'DELETE') {
          if (!this.visible(view, who, e.new, e.epoch, received)) return false;
          // An old_record is the old row's, or of a key that could not be decided
          const extra = Object.keys(data.old_record ?? {}).filter((name) => canonical(e.new.row[name]) !== canonical(data.old_record[name]));
          return extra.length === 0 || before(e).some((o) => this.visible(view, who, o.old, o.epoch, received, false)) ||
            (extra.every((name) => states.slice(this.firstEpoch).some((state) => {
              const table = state.tables[view.live.name];
              return !table.full && table.identity.includes(name);
            })) && this.undecidable(view));
        }
        return this.visible(view, who, e.old, e.epoch, received);
      });
      if (!ok) this.fail(view, 'an event shows a row that the principal could not see', { event: data });
    }
  }

  // Did deciding about an old row take more in this round than the WAL has of it?
  undecidable(view, firstEpoch = this.firstEpoch) {
    return this.run.states.slice(firstEpoch).some((state) => {
      const table = state.tables[view.live.name];
      if (table.full) return false;
      const roles = [view.subscriber, ...view.subscriber.former].map((who) => who.role);
      const needs = [...roles.flatMap((role) => state.access[`${view.live.name} ${role}`].needs), ...(view.binding.filter?.columns ?? [])];
      return !needs.every((name) => table.identity.includes(name));
    });
  }

  checkEvents(view) {
    if (view.subscriber.interval) {
      this.checkBatches(view);
      return;
    }
    const wanted = [];
    let withheld = 0;
    for (const entry of this.entries) {
      if (entry.live !== view.live) continue;
      const expected = this.expected(view, entry);
      if (expected === 'withheld') withheld++;
      else wanted.push(...expected);
    }
    const received = [...view.received];
    if (withheld > 0) {
      // What fails may be there or not, but all else must be.
      let at = 0;
      for (const event of received) if (at < wanted.length && this.fits(view, event, wanted[at])) at++;
      if (at < wanted.length) this.fail(view, 'an event is missing', { wanted: describe(wanted[at]), received: received.map((e) => e.data) });
      else if (received.length > wanted.length) this.fail(view, 'events for rows whose policies fail', { received: received.map((e) => e.data) });
      return;
    }
    for (let i = 0; i < Math.max(wanted.length, received.length); i++) {
      if (i < wanted.length && i < received.length && this.fits(view, received[i], wanted[i])) continue;
      this.fail(view, `event ${i + 1} is not the one expected`, {
        wanted: wanted.slice(i, i + 3).map(describe), received: received.slice(i, i + 3).map((e) => e.data),
        counts: `${wanted.length} wanted, ${received.length} received`,
      });
      return;
    }
  }

  // Likewise for a view that gets them in batches
  checkBatches(view) {
    const entries = this.entries.filter((e) => e.live === view.live);
    const expected = entries.map((e) => this.expected(view, e));
    const most = expected.flat().length;
    if (view.binding.spec.event === '*' && view.received.length > most)
      this.fail(view, 'more events than changes', { received: view.received.map((e) => e.data), wanted: expected.flat().map((e) => e.entry ? describe(e) : e) });
    let at = 0;
    for (const { data } of view.received) {
      if (data.type === 'DELETE') continue; // may be that of any of its changes
      while (at < entries.length && !(entries[at].new && this.shows(view, data, entries[at]))) at++;
      if (at++ < entries.length) continue;
      this.fail(view, 'an event is not in the order of the changes', { event: data, received: view.received.map((e) => e.data), wanted: expected.flat().map((e) => e.entry ? describe(e) : e) });
      return;
    }
  }

  // Keys that may be held too long: see "undecidable" and "intervals" above.
  noteStale(view) {
    const key = view.key(this.run.state);
    const entries = this.entries.filter((e) => key && e.live === view.live);
    const add = (version) => version && view.stale.add(canonical(project(version.row, key)));
    if (view.amid) view.amids.add(this.run.round);
    if (this.undecidable(view)) for (const e of entries) add(e.old);
    if (view.subscriber.interval && view.amid) for (const e of entries) add(e.new);
  }

  // Likewise for a view that goes on from where another was, and so may get again
  // what is older than the rows that it read since.
  staleSince(view, other, { round, epoch }) {
    const key = view.key(this.run.state);
    const entries = [...this.past, ...this.entries].filter((e) => key && e.live === view.live && e.round >= round);
    const add = (version) => version && view.stale.add(canonical(project(version.row, key)));
    for (const text of other.stale) view.stale.add(text);
    if (this.undecidable(view, Math.min(epoch, this.firstEpochs[round]))) for (const e of entries) add(e.old);
    if (view.subscriber.interval) for (const e of entries) if (other.amids.has(e.round)) add(e.new);
  }

  async checkRows(view) {
    const { state } = this.run;
    const key = view.key(state);
    if (view.binding.spec.event !== '*' || key === false) return null;
    const selected = await view.select(state);
    if (selected.error || view.doubtful || !view.replica) {
      if (!selected.error) await view.load();
      view.doubtful = false;
      return null;
    }
    // Without a primary key, what an UPDATE left as it was cannot be looked up.
    const { big } = view.live.table;
    if (big && key && state.tables[view.live.name].pkey.length === 0)
      for (const row of view.replica)
        if (!(big in row)) delete selected.rows.find((s) => sameOn(project(row, key), s))?.[big];
    const held = new Map();
    const count = (rows, step) => {
      for (const row of rows) held.set(canonical(row), (held.get(canonical(row)) ?? 0) + step);
    };
    count(view.replica, 1);
    count(selected.rows, -1);
    const difference = [...held].filter(([, n]) => n !== 0);
    const selectedKeys = new Set(selected.rows.map((row) => key && canonical(project(row, key))));
    const wrong = difference.filter(([text, n]) => {
      if (n < 0 || !key) return true;
      const rowKey = canonical(project(JSON.parse(text), key));
      return selectedKeys.has(rowKey) || !view.stale.has(rowKey);
    });
    return wrong.length > 0 ? { holds: wrong.filter(([, n]) => n > 0).map(([t]) => t), lacks: wrong.filter(([, n]) => n < 0).map(([t]) => t) } : null;
  }

  endRound() {
    this.firstEpoch = this.run.epoch;
    this.past.push(...this.entries);
    this.entries = [];
    this.run.round++;
    this.firstEpochs[this.run.round] = this.firstEpoch;
    this.versions = new Map();
    for (const view of this.run.views()) {
      view.received = [];
      view.before = 0;
      view.told = [];
      view.trace = [];
      view.fresh = view.amid = view.replayed = false;
      view.subscriber.former = [];
    }
  }
}

const principalKey = ({ role, claims }) => `${role} ${canonical(claims)}`;

function note(version, principal, epoch, answer) {
  if (!version.seen.has(principal.key)) version.seen.set(principal.key, new Map());
  version.seen.get(principal.key).set(epoch, answer);
}

// Versions that can be in the table together: no two of a key
function batches(versions, live) {
  const result = [];
  const keys = [live.table.pkey, live.table.unique ? [live.table.unique] : []].filter((k) => k.length > 0);
  for (const version of versions) {
    const own = keys.map((k) => canonical(project(version.raw, k)));
    let batch = result.find((b) => own.every((k) => !b.keys.has(k)));
    if (!batch) result.push((batch = { keys: new Set(), versions: [] }));
    own.forEach((k) => batch.keys.add(k));
    batch.versions.push(version);
  }
  return result.map((b) => b.versions);
}

const describe = ({ type, entry }) => ({ type, new: entry.new?.row, old: entry.old?.row });
