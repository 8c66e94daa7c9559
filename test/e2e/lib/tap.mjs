// The smallest test harness that prints TAP: a file registers its tests, then
// main.mjs runs them one after the other, each with a time limit.

import assert from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';

export { assert, sleep };

const tests = [];
const cleanups = [];

// Registers a test.  Its time limit leaves room for several waits that take long.
export function test(name, run, { timeout = 180_000 } = {}) {
  tests.push({ name, run, timeout });
}

// Registers something to do when all tests have run.
export function atEnd(cleanup) {
  cleanups.push(cleanup);
}

// Waits until the condition is true (or returns something), and returns that.
// The time is for a machine that is busy: who waits for nothing has failed anyway.
export async function until(what, condition, { timeout = 60_000, every = 5 } = {}) {
  const deadline = Date.now() + timeout;
  for (;;) {
    const result = await condition();
    if (result) return result;
    if (Date.now() > deadline) throw new Error(`waited ${timeout} ms for ${what}`);
    await sleep(every);
  }
}

// Prints a line that belongs to the test that runs, and is not a result.
export function note(text) {
  console.log(`# ${text}`);
}

async function runOne({ run, timeout }) {
  let timer;
  const limit = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`not finished after ${timeout} ms`)), timeout);
  });
  try {
    await Promise.race([run(), limit]);
  } finally {
    clearTimeout(timer);
  }
}

// Runs what was registered; returns whether all of it passed.
export async function runAll() {
  let failed = 0;
  console.log(`1..${tests.length}`);
  for (const [index, entry] of tests.entries()) {
    try {
      await runOne(entry);
      console.log(`ok ${index + 1} - ${entry.name}`);
    } catch (error) {
      failed++;
      console.log(`not ok ${index + 1} - ${entry.name}`);
      for (const line of String(error?.stack ?? error).split('\n')) note(line);
    }
  }
  for (const cleanup of cleanups.reverse()) {
    try {
      await cleanup();
    } catch (error) {
      note(`while cleaning up: ${error}`);
    }
  }
  return failed === 0;
}

// A rejection that nobody awaits belongs to some test: let it be seen, but let
// the others run.
process.on('unhandledRejection', (error) => note(`unhandled: ${error?.stack ?? error}`));
