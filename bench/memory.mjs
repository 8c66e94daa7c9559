// What 5,000 idle connections take in the gateway.

import { Crowd, greetGateway } from './lib/crowd.mjs';
import { createRole, createTable, figure, gatewayPids, hostname, memoryOf, port, sleep, token } from './lib/measure.mjs';

const CONNECTIONS = 5000;

await createRole('reader');
await createTable('idle', 'id int PRIMARY KEY', { roles: ['reader'] });
const [gateway] = await gatewayPids();
const apikey = token('reader');

async function measure(what, greet) {
  const before = await memoryOf(gateway, 'RssAnon');
  const crowd = new Crowd();
  await crowd.connect(CONNECTIONS, hostname, port, greet);
  await sleep(2000);
  const after = await memoryOf(gateway, 'RssAnon');
  const each = (after - before) / CONNECTIONS;
  console.log(`${CONNECTIONS} connections ${what}: ${(before / 1e6).toFixed(1)} MB -> ${(after / 1e6).toFixed(1)} MB, ${each.toFixed(0)} bytes each`);
  return { each, crowd };
}

const { each, crowd } = await measure('that have joined nothing', greetGateway(apikey));
// These come on top of the first, so that no memory that those gave back is
// used again.
const joined = await measure('that have joined a channel',
  greetGateway(apikey, [{ event: '*', schema: 'public', table: 'idle' }]));
figure('memory.bytes_per_connection', each, 0);
console.log(`with a channel: ${joined.each.toFixed(0)} bytes each`);
crowd.close();
joined.crowd.close();
process.exit(0);
