// Nothing lost, nothing invented: writers commit numbered rows, 200 clients of
// different rights keep copies of what they may see, and everything between
// them fails at random.  In the end each copy is what SELECT shows.
//
//	CHECKER_SECONDS	of faults under load (default 60); from 300 on, with those that take long
//	CHECKER_SEED	the same faults and writes again, as far as time allows
//	CHECKER_CLIENTS	default 200
//	CHECKER_FAULTS	a regular expression: only those with such names

import { assert, atEnd, note, sleep, test, until } from '../e2e/lib/tap.mjs';
import { sql } from '../e2e/lib/server.mjs';
import { Random } from '../oracle/random.mjs';
import { FAULTS, inject } from './checker/faults.mjs';
import { Follower } from './checker/follower.mjs';
import { Link } from './checker/link.mjs';
import { place, prepareNodes } from './checker/nodes.mjs';
import { watchClients, watched } from './checker/watch.mjs';
import { prepareFaults } from './lib/faults.mjs';
import { Writer, createWorld, viewOf, writeEnd } from './checker/world.mjs';

const seconds = Number(process.env.CHECKER_SECONDS ?? 60);
const seed = Number(process.env.CHECKER_SEED ?? Date.now() % 1_000_000);
const many = Number(process.env.CHECKER_CLIENTS ?? 200);
const names = new RegExp(process.env.CHECKER_FAULTS ?? '');
const long = seconds >= 300;
const random = new Random(seed);

// Two in five go on from a cursor, two leave it to the server, one begins anew.
const kindOf = (number) => ['cursor', 'session', 'cursor', 'session', 'plain'][Math.floor(number / 3) % 5];

const faults = {}; // how many of each name
const COMPARISON = 'a comparison';
let doing = 'nothing';

const count = (name) => {
  faults[name] = (faults[name] ?? 0) + 1;
};

// One client in ten is slow, among them those who see all, and all of them come
// and go; some stay away for longer than the history lasts.
async function disturb(followers, links, over) {
  const slow = followers.filter(({ number }) => number % 10 === 7);
  const large = followers.filter(({ number }) => number % 50 === 0);
  const choices = [
    [0.6, 'client dropped', () => random.pick(followers).drop()],
    [0.1, 'client away', () => random.pick(followers).vanish(2000 + random.int(15_000))],
    [0.25, 'client frozen', () => random.pick(slow).freeze(sleep(100 + random.int(3000)))],
    [0.03, 'client frozen for long', () => random.pick(large).freeze(sleep(4000 + random.int(6000)))],
    [0.02, 'link severed', () => links.cut(3000)],
  ].map(([often, name, run]) => [often, { name, run }]);
  while (!over()) {
    await until('the end of a comparison', () => doing !== COMPARISON, { timeout: 300_000, every: 20 });
    const { name, run } = random.weighted(choices);
    count(name);
    run();
    await sleep(50 + random.int(150));
  }
}

// Each fault once, then as chance has it.  With those that make everybody read
// anew a loss before them stays hidden: the short form does them first, the
// long one compares before them, now and then.
async function break_(world, enough, compare) {
  const possible = FAULTS.filter((fault) => (long || !fault.long) && names.test(fault.name));
  const lasting = possible.filter((fault) => !fault.anew);
  const first = random.some(possible, possible.length);
  if (!long) first.sort((a, b) => Boolean(a.anew) - Boolean(b.anew));
  let compared = performance.now();
  while (!enough() || first.length > 0) {
    doing = 'nothing';
    await sleep(long ? 1500 + random.int(2000) : 500 + random.int(1000)); // under load
    const fault = first.pop() ?? random.weighted((long || lasting.length === 0 ? possible : lasting).map((f) => [f.often, f]));
    if (long && fault.anew && performance.now() - compared > 45_000) {
      doing = COMPARISON;
      await compare();
      compared = performance.now();
    }
    doing = fault.name;
    const started = performance.now();
    count(fault.name);
    await watched(`the fault "${fault.name}"`, inject(fault, world));
    if (process.env.CHECKER_VERBOSE) note(`${fault.name}: ${Math.round(performance.now() - started)} ms`);
  }
}

const total = (followers, count) => followers.reduce((sum, { counts }) => sum + counts[count], 0);

function reasons(followers) {
  const all = {};
  for (const { counts, kind } of followers)
    for (const [why, n] of Object.entries(counts.told)) all[`${kind}: ${why}`] = (all[`${kind}: ${why}`] ?? 0) + n;
  return Object.entries(all).sort((a, b) => b[1] - a[1]);
}

test(`${many} clients hold what SELECT shows after ${seconds} s of faults (seed ${seed})`, async () => {
  await prepareFaults();
  await prepareNodes();
  await createWorld();
  // a few seconds of the load
  await sql("ALTER SYSTEM SET rtsync.history_size = '1MB'");
  await sql('SELECT pg_reload_conf()');
  const links = await new Link().open();
  const followers = Array.from({ length: many }, (_, number) =>
    new Follower(number, kindOf(number), viewOf(number), {
      heartbeat: kindOf(number) === 'session' ? 400 : 5000,
      address: () => (number % 4 === 0 ? links.url : place.url),
    }));
  atEnd(() => followers.forEach((f) => f.stop()));
  const ends = followers.map((f) => f.run());
  const others = (ready) => () => followers.filter((f) => !ready(f));
  const everybody = (what, ready, timeout) =>
    watched(what, until(what, () => followers.every(ready), { timeout, every: 20 }), others(ready));
  await everybody('all clients to be there', (f) => f.live, 180_000);

  const writers = [1, 2, 3].map(() => new Writer(random, 15));
  const writing = writers.map((w) => w.run());
  const started = Date.now();
  const wrong = [];
  let over = false;

  // When all comes to rest, each copy is what SELECT shows.
  let comparisons = 0;
  async function compare() {
    const n = ++comparisons;
    for (const writer of writers) writer.paused = true;
    for (const follower of followers) follower.come();
    await watched('the writers to rest', until('the writers to rest', () => writers.every((w) => w.resting), { timeout: 120_000 }));
    // What is still lost without a word must come to light.
    await watched('the last row to be written',
      until('the last row to be written', () => writeEnd(n).then(() => true, () => false), { timeout: 120_000, every: 100 }));
    await everybody('all to have the last row', (f) => f.has(n), 240_000);
    const truths = new Map();
    for (const { view } of followers)
      if (!truths.has(view.name)) truths.set(view.name, await watched(`SELECT as ${view.name}`, view.select()));
    for (const follower of followers) {
      const difference = follower.difference(truths.get(follower.view.name));
      if (difference !== null)
        wrong.push(`client ${follower.number} (${follower.kind}, ${follower.view.name}), comparison ${n}: ${difference.slice(0, 5).join('; ')}`);
    }
    // All are told so.  What they read anew would become more and more, and the
    // numbers begin anew with the writers' connections.
    if (!over) await sql('TRUNCATE journal');
    for (const writer of writers) writer.paused = false;
  }

  const isOver = () => over;
  await Promise.all([
    break_({ writers, followers }, () => Date.now() - started > seconds * 1000, compare).finally(() => {
      over = true;
    }),
    disturb(followers, links, isOver),
    watchClients(followers, () => doing, isOver),
  ]);
  for (const writer of writers) writer.stopped = true;
  await watched('the writers to end', Promise.all(writing));
  const load = Math.round((Date.now() - started) / 1000);
  await compare();
  for (const follower of followers) {
    for (const problem of follower.problems) wrong.push(`client ${follower.number} (${follower.kind}): ${problem}`);
    follower.stop();
  }
  await watched('the clients to end', Promise.all(ends), () => followers);
  links.close();
  for (const [why, n] of reasons(followers).slice(0, 15)) note(`refetched ${n} times, ${why}`);
  for (const line of wrong.slice(0, 30)) note(line);
  note(`${load} s of load, ${comparisons} comparisons: ${writers.reduce((sum, w) => sum + w.commits, 0)} commits, ${total(followers, 'events')} events, ` +
    `${Object.values(faults).reduce((a, b) => a + b, 0)} faults (${Object.entries(faults).sort().map(([name, n]) => `${n} ${name}`).join(', ')}), ` +
    `${total(followers, 'connections') - many} reconnects, ${total(followers, 'resumes')} resumes, ${total(followers, 'refetches')} refetches`);
  assert.equal(wrong.length, 0, `${wrong.length} things are wrong`);
}, { timeout: (seconds + 900) * 1000 });
