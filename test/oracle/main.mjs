// node main.mjs --runs N --from SEED: runs seeds, in the database of the
// environment, and prints one line for each that fails, with all about it.

import { parseArgs } from 'node:util';
import { database, sql } from '../e2e/lib/server.mjs';
import { open, prepare } from './database.mjs';
import { play } from './play.mjs';

const { values } = parseArgs({
  options: {
    runs: { type: 'string', default: '1' },
    from: { type: 'string', default: '1' },
    step: { type: 'string', default: '1' },
    verbose: { type: 'boolean', default: false },
    seconds: { type: 'string', default: '0' },
    resumes: { type: 'string', default: '3' },
    'stop-at-failure': { type: 'boolean', default: false },
  },
});
const name = process.env.PGDATABASE.replace(/[^a-z0-9_]/g, '_');
const [{ virtual }] = await sql("SELECT current_setting('server_version_num')::int >= 180000 AS virtual");
const features = { where: true, virtual };
const started = Date.now();
const deadline = Number(values.seconds) > 0 ? started + 1000 * Number(values.seconds) : Infinity;

// Large values are a text again and again.
const clipped = (text) => text.replace(/([0-9a-f]{32})\1+/g, '$1...');

await prepare(name);
const connections = [await open(), await open()];
let passed = 0;
let failed = 0;
const totals = {};
for (let i = 0; i < Number(values.runs) && Date.now() < deadline; i++) {
  const seed = Number(values.from) + i * Number(values.step);
  const { failures, statements, counts } = await play(seed, name, connections, features, Number(values.resumes));
  for (const [what, count] of Object.entries(counts)) totals[what] = (totals[what] ?? 0) + count;
  if (failures.length === 0) {
    passed++;
    if (values.verbose) console.log(`# seed ${seed}: ${JSON.stringify(counts)}`);
    continue;
  }
  failed++;
  console.log(`not ok - seed ${seed}`);
  for (const failure of failures.slice(0, 4))
    for (const [what, value] of Object.entries(failure)) if (value !== undefined)
      console.log(`#   ${what}: ${clipped(typeof value === 'string' ? value.replaceAll('\n', '\n#     ') : JSON.stringify(value))}`);
  console.log('#   statements:');
  for (const text of statements) console.log(`#     ${text.replaceAll('\n', '\n#     ')};`);
  if (values['stop-at-failure']) break;
}
console.log(`# ${JSON.stringify({ passed, failed, seconds: (Date.now() - started) / 1000, ...totals })}`);
for (const connection of connections) await connection.end();
await database.end();
process.exit(failed > 0 ? 1 : 0);
