// One run: the world is made, the clients join, the rounds are played and
// judged.  Returns { failures, statements, counts }.

import { until } from '../e2e/lib/tap.mjs';
import { addDrops, makeRounds } from './changes.mjs';
import { clean, readState } from './database.mjs';
import { Judge } from './judge.mjs';
import { Resumer } from './resume.mjs';
import { Subscriber } from './subscriber.mjs';
import { makeWorld } from './world.mjs';

class Player {
  constructor(seed, name, [connection, other], features, resumes) {
    this.connection = connection;
    this.other = other;
    this.run = makeWorld(seed, name, features);
    this.rounds = makeRounds(this.run);
    this.run.clients.push(...this.run.twins);
    addDrops(this.run, this.rounds);
    this.statements = [];
    this.subscribers = [];
    this.counts = { events: 0, refetches: 0, rows: 0, checks: 0, drops: 0, rejoined: 0 };
    Object.assign(this.run, {
      epoch: 0, epochNow: 0, round: -1, loading: new Set(), states: [],
      views: () => this.subscribers.flatMap((s) => s.views),
    });
    for (const live of this.run.live) {
      const bytea = live.table.columns.filter((c) => c.bytea).map((c) => c.name); // never renamed
      live.normalize = (row) => {
        const result = { ...row };
        for (const name of bytea) if (typeof result[name] === 'string') result[name] = result[name].replace(/^\\x/, '');
        return result;
      };
    }
    this.judge = new Judge(this.run, connection);
    this.resumer = new Resumer(this, resumes);
  }

  async sql(text) {
    this.statements.push(text);
    await this.connection.query(text);
  }

  // Runs a transaction; one that fails is rolled back, as an application would.
  async transaction({ sql, rollback }) {
    try {
      await this.sql('BEGIN');
      for (const text of sql) await this.sql(text);
      await this.sql(rollback ? 'ROLLBACK' : 'COMMIT');
      return true;
    } catch (error) {
      this.statements.push(`-- ${error.message}`);
      await this.sql('ROLLBACK');
      return false;
    }
  }

  // Two transactions in turns.  The log is in the order of the statements; what
  // counts is that of the commits.
  async both({ both, turns }) {
    await this.judge.readLog(this.run.epoch);
    const connections = [this.connection, this.other];
    const open = [true, true];
    const ids = [];
    const left = both.map((t) => t.sql.length);
    const run = async (i, text) => {
      this.statements.push(`/* ${i + 1} */ ${text}`);
      await connections[i].query(text);
    };
    const end = async (i, how) => {
      open[i] = false;
      if (how === 'COMMIT') {
        const { rows } = await connections[i].query('SELECT pg_current_xact_id_if_assigned()::text AS id');
        ids.push(rows[0].id);
      }
      await run(i, how);
    };
    for (const i of [0, 1]) await run(i, "BEGIN; SET LOCAL lock_timeout = '20ms'");
    for (const i of turns) {
      if (!open[i]) continue;
      try {
        await run(i, both[i].sql[both[i].sql.length - left[i]]);
        if (--left[i] === 0) await end(i, both[i].rollback ? 'ROLLBACK' : 'COMMIT');
      } catch (error) {
        this.statements.push(`-- ${error.message}`);
        await end(i, 'ROLLBACK');
      }
    }
    await this.judge.readLog(this.run.epoch, ids);
  }

  async readState() {
    this.run.state = await readState(this.connection, this.run);
    this.run.states[this.run.epoch] = this.run.state;
  }

  // Who may see what changes: an epoch ends.
  async stateChange(step) {
    await this.judge.endEpoch(this.run.epoch);
    this.run.epochNow++;
    // Who is told to refetch meanwhile has to know the columns as they are then.
    let known;
    this.run.ready = new Promise((resolve) => (known = resolve));
    await this.transaction(step);
    this.run.epoch++;
    await this.readState();
    known();
  }

  async setUp() {
    await clean(this.connection, this.run.database);
    for (const text of this.run.setup) await this.sql(text);
    for (const text of this.run.initial) await this.transaction({ sql: [text] });
    await this.readState();
    await this.judge.readLog(0);
    this.judge.endRound();
  }

  async join(clients) {
    const subscribers = clients.map((client) => {
      const subscriber = new Subscriber(this.run, client);
      client.subscriber = subscriber;
      this.statements.push(`-- ${client.name} joins as ${client.role} ${JSON.stringify(client.claims)}: ${JSON.stringify(client.bindings.map((b) => b.spec))}`);
      return subscriber;
    });
    this.subscribers.push(...subscribers);
    await Promise.all(subscribers.map((s, i) => s.join(!clients[i].joinsAmid)));
  }

  async step(step) {
    for (const subscriber of this.subscribers) if (subscriber.session) subscriber.beat();
    if (step.state) return this.stateChange(step);
    if (step.token) {
      const { subscriber } = step.token;
      if (!subscriber || subscriber.closed || subscriber.tooSlow || subscriber.down || step.token === this.run.slow) return undefined;
      subscriber.dropAfter = null;
      this.statements.push(`-- ${step.token.name} becomes ${step.role} ${JSON.stringify(step.claims)}`);
      if (step.changes) {
        const became = subscriber.become(step.role, step.claims, false);
        for (const change of step.changes) await this.transaction(change);
        return became;
      }
      await this.judge.endEpoch(this.run.epoch);
      await this.quiet();
      // What has arrived until here is what the old one may see.
      for (const view of subscriber.views) {
        if (view.served) this.judge.checkSafety(view);
        view.received = [];
      }
      await subscriber.become(step.role, step.claims, true);
      return this.settle();
    }
    if (step.join) {
      const joined = this.join([step.join]);
      for (const change of step.changes) await this.transaction(change);
      return joined;
    }
    if (step.drop) return this.drop(step);
    if (step.outage) return this.outage(step);
    if (step.rejoin) return this.rejoin(step);
    if (step.both) return this.both(step);
    if (step.pause ?? step.resume) this.statements.push(`-- ${(step.pause ?? step.resume).name} ${step.pause ? 'reads no more' : 'reads again'}`);
    if (step.pause) return step.pause.subscriber.pause();
    if (step.resume) return step.resume.subscriber.resume();
    return this.transaction(step);
  }

  async settle() {
    while (this.run.loading.size > 0) {
      const waiting = [...this.run.loading];
      await Promise.all(waiting);
      for (const one of waiting) this.run.loading.delete(one);
    }
  }

  // A client loses its connection ...
  drop({ drop: { name, subscriber }, after }) {
    if (!subscriber || subscriber.closed || subscriber.tooSlow || subscriber.down) return;
    this.statements.push(`-- ${name} loses its connection${after ? ` behind ${after} changes` : ''}`);
    if (after > 0) subscriber.dropAfter = after;
    else subscriber.drop();
  }

  // ... or all of them do, and the server knows it ...
  async outage({ outage }) {
    for (const client of outage) this.drop({ drop: client, after: 0 });
    await until('the end of all connections', async () => {
      const { rows: [{ n }] } = await this.connection.query('SELECT count(*)::int AS n FROM rtsync.pg_stat_rtsync_subscription');
      return n === 0 || this.subscribers.some((s) => !s.down);
    }, { every: 10 });
  }

  // ... and comes back, while others write.
  async rejoin({ rejoin: { name, subscriber }, changes }) {
    if (!subscriber || subscriber.closed || subscriber.tooSlow || (!subscriber.down && subscriber.dropAfter === null)) return undefined;
    this.statements.push(`-- ${name} comes back`);
    const joined = subscriber.rejoin();
    for (const change of changes) await this.transaction(change);
    return joined;
  }

  // All of these have got what there is.
  async marker(subscribers) {
    const { rows: [{ id }] } = await this.connection.query('INSERT INTO oracle.marker DEFAULT VALUES RETURNING id');
    await Promise.all(subscribers.map((s) => s.reached(id)));
    await this.settle();
  }

  // A quiet point: everything that happened has arrived.
  async quiet() {
    for (const subscriber of this.subscribers) {
      subscriber.dropAfter = null;
      if (subscriber.down) await subscriber.rejoin();
    }
    await this.marker(this.subscribers);
    // One that did not read for very long, as on a busy machine, is closed, and no more judged.
    this.subscribers = this.subscribers.filter((s) => !s.tooSlow);
  }

  async playRound(round, index) {
    this.statements.push(`-- round ${index + 1}${round.stable ? ', in which only rows change' : ''}`);
    const changed = new Set();
    let membership = false;
    for (const step of round.steps) {
      await this.step(step);
      if (step.state) changed.add('state');
      if (step.reads) membership = true;
    }
    await this.judge.endEpoch(this.run.epoch);
    await this.quiet();
    await this.judgeRound(changed.size === 0, membership);
  }

  async judgeRound(stable, membership) {
    const { judge, run } = this;
    for (const view of run.views()) {
      const access = run.state.access[`${view.live.name} ${view.subscriber.role}`];
      // what changed who sees what is told again behind what came before it
      const waits = !stable || (membership && access.reads);
      this.counts.events += view.received.length;
      this.counts.refetches += view.told.length;
      this.counts.checks++;
      if (!view.served) {
        // ... but for what came under a former token
        const now = view.received.slice(view.before).find((e) => e.who.claims === view.subscriber.claims);
        if (now) judge.fail(view, 'events for a binding that was refused', { event: now.data });
        else judge.checkSafety(view);
        continue;
      }
      judge.checkSafety(view);
      if (stable && !view.fresh && view.servable(run.state)) judge.checkEvents(view);
      judge.noteStale(view);
      if (membership && access.hidden) await view.load();
      if (!run.state.whole) continue;
      let difference = await judge.checkRows(view);
      if (difference && waits)
        // ... and that others' rows have changed at most once a second
        await until('a message to refetch', async () => {
          await this.settle();
          difference = await judge.checkRows(view);
          return !difference;
        }, { every: 100 }).catch(() => {});
      if (difference) 
        judge.fail(view, 'the rows held are not those of SELECT', {
          ...difference, received: view.received.map((e) => e.data), told: view.told, loads: view.loads, trace: view.trace.join(', '),
        });
      this.counts.rows += view.replica?.length ?? 0;
    }
    for (const subscriber of this.subscribers) {
      for (const problem of subscriber.problems) judge.fail(null, `${subscriber.name}: ${problem}`);
      subscriber.problems = [];
    }
    if (judge.failures.length === 0) await this.resumer.check(stable, membership);
    judge.endRound();
  }

  async play() {
    try {
      await this.setUp();
      for (const [index, round] of this.rounds.entries()) {
        await this.join(this.run.clients.filter((c) => c.join === index && !c.joinsAmid));
        await this.playRound(round, index);
        if (this.judge.failures.length > 0) break;
      }
    } catch (error) {
      this.judge.failures.push({ what: String(error.stack ?? error) });
    } finally {
      for (const subscriber of this.subscribers) {
        subscriber.close();
        this.counts.drops += subscriber.drops;
        this.counts.rejoined += subscriber.resumed;
      }
      Object.assign(this.counts, this.resumer.counts);
    }
    return { failures: this.judge.failures, statements: this.statements, counts: this.counts };
  }
}

export const play = (seed, name, connections, features, resumes) => new Player(seed, name, connections, features, resumes).play();
