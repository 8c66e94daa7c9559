/*
 * The smallest runner that does: tests run one after the other, each prints a
 * TAP line.
 */
import assert from 'node:assert/strict'

const tests = []
export const test = (name, run) => tests.push({ name, run })
export const sleep = ms => new Promise(resolve => setTimeout(resolve, ms))
export { assert }

/*
 * How long to wait for what must come: a busy machine is slow, and who waits
 * for nothing has failed anyway.
 */
export const PATIENCE = 30000

/* Wait until the condition holds. */
export async function until(condition, what, timeout = PATIENCE) {
  const end = Date.now() + timeout
  while (!await condition()) {
    if (Date.now() > end) throw new Error(`timeout: ${typeof what === 'function' ? what() : what}`)
    await sleep(10)
  }
}

export async function run(suite) {
  const only = process.argv[2]
  let failed = 0
  for (const { name, run } of tests) {
    if (only && !name.includes(only)) continue
    let timer
    try {
      await Promise.race([run(), new Promise((_, reject) => {
        timer = setTimeout(() => reject(new Error('the test does not end')), 6 * PATIENCE)
      })])
      console.log(`ok - ${suite}: ${name}`)
    } catch (error) {
      failed++
      console.log(`not ok - ${suite}: ${name}`)
      for (const line of String(error.stack).split('\n').slice(0, 30)) console.log(`# ${line}`)
    }
    clearTimeout(timer)
  }
  process.exit(failed > 0 ? 1 : 0)
}
