// Nothing lost, nothing invented: writers commit numbered rows, 200 clients of
// different rights keep copies of what they may see, and everything between
// them fails at random.  In the end each copy is what SELECT shows.
//
//	CHECKER_SECONDS	of faults under load (default 40); from 300 on, with those that take long
//	CHECKER_SEED	the same faults and writes again, as far as time allows
//	CHECKER_CLIENTS	default 200

import { assert, atEnd, note, sleep, test, until } from '../e2e/lib/tap.mjs';
import { sql, url } from '../e2e/lib/server.mjs';
import { Random } from '../oracle/random.mjs';
import { FAULTS, Link, inject } from './checker/faults.mjs';
import { Follower } from './checker/follower.mjs';
import { prepareFaults } from './lib/faults.mjs';
import { END, Writer, createWorld, viewOf, writeEnd } from './checker/world.mjs';

const seconds = Number(process.env.CHECKER_SECONDS ?? 40);
const seed = Number(process.env.CHECKER_SEED ?? Date.now() % 1_000_000);
const many = Number(process.env.CHECKER_CLIENTS ?? 200);
const random = new Random(seed);

// Two in five go on from a cursor, two leave it to the server, one begins anew.
const kindOf = (number) => ['cursor', 'session', 'cursor', 'session', 'plain'][Math.floor(number / 3) % 5];

// One client in ten is slow, among them those who see all, and all of them come
// and go; some stay away for longer than the history lasts.
async function disturb(followers, links, over) {
  const slow = followers.filter(({ number }) => number % 10 === 7);
  const large = followers.filter(({ number }) => number % 50 === 0);
  while (!over()) {
    const dice = random.next();
    if (dice < 0.6) random.pick(followers).drop();
    else if (dice < 0.7) random.pick(followers).vanish(2000 + random.int(15_000));
    else if (dice < 0.95) random.pick(slow).freeze(100 + random.int(3000));
    else if (dice < 0.98) random.pick(large).freeze(4000 + random.int(6000));
    else links.cut(3000);
    await sleep(50 + random.int(150));
  }
}

async function break_(world, over) {
  const possible = FAULTS.filter((fault) => seconds >= 300 || !fault.long);
  const done = {};
  // each once, then as chance has it
  const first = random.some(possible, possible.length);
  while (!over()) {
    await sleep(1500 + random.int(2000)); // under load
    const fault = first.pop() ?? random.weighted(possible.map((f) => [f.often, f]));
    done[fault.name] = (done[fault.name] ?? 0) + 1;
    await inject(fault, world);
  }
  return done;
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
  await createWorld();
  // a few seconds of the load
  await sql("ALTER SYSTEM SET rtsync.history_size = '1MB'");
  await sql('SELECT pg_reload_conf()');
  const links = await new Link().open();
  const followers = Array.from({ length: many }, (_, number) =>
    new Follower(number, kindOf(number), viewOf(number), {
      heartbeat: kindOf(number) === 'session' ? 400 : 5000,
      address: () => (number % 4 === 0 ? links.url : url),
    }));
  atEnd(() => followers.forEach((f) => f.stop()));
  const ends = followers.map((f) => f.run());
  await until('all clients to be there', () => followers.every((f) => f.live), { timeout: 60_000 });

  const writers = [1, 2, 3].map(() => new Writer(random, 15));
  const writing = writers.map((w) => w.run());
  const deadline = Date.now() + seconds * 1000;
  const over = () => Date.now() > deadline;
  const [faults] = await Promise.all([break_({ writers, followers }, over), disturb(followers, links, over)]);
  for (const writer of writers) writer.stopped = true;
  await Promise.all(writing);

  // What is still lost without a word must come to light.
  await until('the last row to be written', () => writeEnd().then(() => true, () => false), { timeout: 60_000, every: 100 });
  await until('all to have the last row', () => followers.every((f) => f.has('board', END)), { timeout: 120_000, every: 50 })
    .catch((error) => {
      const without = followers.filter((f) => !f.has('board', END));
      note(`without it: ${without.map((f) => `${f.number} (${f.kind}, ${f.live ? 'live' : 'away'})`).slice(0, 20)}`);
      throw error;
    });

  note(`${writers.reduce((sum, w) => sum + w.commits, 0)} commits, ${total(followers, 'events')} events, ` +
    `${Object.values(faults).reduce((a, b) => a + b, 0)} faults, ${total(followers, 'connections') - many} reconnects, ` +
    `${total(followers, 'resumes')} resumes, ${total(followers, 'refetches')} refetches`);
  note(`faults: ${Object.entries(faults).map(([name, n]) => `${n} ${name}`).join(', ')}`);
  for (const [why, n] of reasons(followers).slice(0, 15)) note(`refetched ${n} times, ${why}`);

  const truths = new Map();
  const wrong = [];
  for (const follower of followers) {
    const { view } = follower;
    if (!truths.has(view.name)) truths.set(view.name, await view.select());
    const difference = follower.difference(truths.get(view.name));
    if (difference !== null) wrong.push(`client ${follower.number} (${follower.kind}, ${view.name}): ${difference.slice(0, 5).join('; ')}`);
    for (const problem of follower.problems) wrong.push(`client ${follower.number} (${follower.kind}): ${problem}`);
    follower.stop();
  }
  await Promise.all(ends);
  links.close();
  for (const line of wrong.slice(0, 30)) note(line);
  assert.equal(wrong.length, 0, `${wrong.length} things are wrong`);
}, { timeout: (seconds + 300) * 1000 });
