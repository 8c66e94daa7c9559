// node lib/main.mjs FILE: runs the tests of a file.

import { resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { note, runAll } from './tap.mjs';

const file = process.argv[2];
try {
  await import(pathToFileURL(resolve(file)));
} catch (error) {
  console.log(`not ok - ${file} could be prepared`);
  for (const line of String(error?.stack ?? error).split('\n')) note(line);
  process.exit(1);
}
process.exit((await runAll()) ? 0 : 1);
