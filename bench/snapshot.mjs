// Rows per second of a snapshot, against psql's COPY of the same query as the
// same role with the same claims.
//
// Ours is timed from the join until "snapshot_end" has arrived: starting the
// worker, the query with its row security, the JSON, the link, the gateway,
// and a client that cuts the stream into WebSocket frames and counts them, but
// does not parse them.  psql is timed from its start to its end; its rows, in
// COPY's text format, are written to /dev/null.

import http from 'node:http';
import { createRole, createTable, figure, hostname, median, port, server, sql, token } from './lib/measure.mjs';

const ROWS = 300_000;
const ROUNDS = 5;
const SUB = '6f1ed002-ab55-4b1c-9c6b-000000000001';

await createRole('reader');
await createTable('todos', `id bigint PRIMARY KEY, owner uuid NOT NULL, title text, done boolean, priority int,
  created_at timestamptz DEFAULT now(), tags text[], meta jsonb`, { roles: ['reader'] });
await sql(`INSERT INTO todos SELECT g, CASE WHEN g % 10 = 0 THEN gen_random_uuid() ELSE '${SUB}'::uuid END,
  'Something that is to be done, number ' || g, g % 3 = 0, g % 7, now() - g * interval '1 s',
  ARRAY['home', 'number ' || g % 10], '{"source": "bench", "weight": 1.5}' FROM generate_series(1, ${ROWS}) g`);
await sql(`ALTER TABLE todos ENABLE ROW LEVEL SECURITY`);
await sql(`CREATE POLICY own ON todos FOR SELECT TO reader USING (owner = (SELECT rtsync.uid()))`);
await sql('VACUUM ANALYZE todos');
const [{ count: visible }] = await sql(`SELECT count(*)::int FROM todos WHERE owner = '${SUB}'`);

// A client's text frame (RFC 6455, section 5.2), masked with zeros
function clientFrame(text) {
  const payload = Buffer.from(text);
  const header = Buffer.alloc(8);
  header[0] = 0x81;
  header[1] = 0x80 | 126;
  header.writeUInt16BE(payload.length, 2);
  return Buffer.concat([header, payload]);
}

// Counts frames; holds what is left of a piece, and the last frame's beginning.
class FrameCounter {
  frames = 0;
  #rest = Buffer.alloc(0);
  #skip = 0;
  ended = false;

  take(piece) {
    let at = 0;
    if (this.#skip > 0) {
      at = Math.min(this.#skip, piece.length);
      this.#skip -= at;
      if (this.#skip > 0) return;
    }
    let data = piece.subarray(at);
    if (this.#rest.length > 0) data = Buffer.concat([this.#rest, data]);
    at = 0;
    for (;;) {
      const left = data.length - at;
      if (left < 2) break;
      const short = data[at + 1];
      const header = short < 126 ? 2 : short === 126 ? 4 : 10;
      if (left < header) break;
      const length = short < 126 ? short : short === 126 ? data.readUInt16BE(at + 2) : Number(data.readBigUInt64BE(at + 2));
      // a system message is small, and taken whole
      if (length < 300 && left < header + length) break;
      if (length < 300) this.ended ||= data.includes('snapshot_end', at);
      else this.frames++;
      at += header + length;
      if (at >= data.length) {
        this.#skip = at - data.length;
        at = data.length;
        break;
      }
    }
    this.#rest = Buffer.from(data.subarray(at));
  }
}

function ours() {
  return new Promise((resolve, reject) => {
    const apikey = token('reader', { sub: SUB });
    const request = http.get({
      host: hostname,
      port,
      path: `/realtime/v1/websocket?vsn=2.0.0&apikey=${apikey}`,
      headers: {
        Connection: 'Upgrade', Upgrade: 'websocket', 'Sec-WebSocket-Version': 13,
        'Sec-WebSocket-Key': 'dGhlIHNhbXBsZSBub25jZQ==',
      },
    });
    request.on('error', reject);
    request.on('upgrade', (response, socket) => {
      const counter = new FrameCounter();
      const start = performance.now();
      socket.on('data', (piece) => {
        counter.take(piece);
        if (!counter.ended) return;
        const seconds = (performance.now() - start) / 1000;
        socket.destroy();
        if (counter.frames < visible) reject(new Error(`${counter.frames} of ${visible} rows`));
        resolve(visible / seconds);
      });
      const binding = { event: '*', schema: 'public', table: 'todos', rtsync: { snapshot: true } };
      socket.write(clientFrame(JSON.stringify(['1', '1', 'realtime:bench', 'phx_join', { config: { postgres_changes: [binding] } }])));
    });
  });
}

async function theirs() {
  const start = performance.now();
  await server('psql', '-X', '-q', '-o', '/dev/null', '-c', 'SET ROLE reader',
    '-c', `SET request.jwt.claims = '${JSON.stringify({ role: 'reader', sub: SUB })}'`,
    '-c', 'COPY (SELECT * FROM todos) TO STDOUT');
  return visible / ((performance.now() - start) / 1000);
}

const results = [];
for (let n = 0; n <= ROUNDS; n++) {
  const result = { ours: await ours(), theirs: await theirs() };
  if (n > 0) results.push(result); // the first one warms up
}
const text = (side) => results.map((r) => `${Math.round(r[side] / 1000)}k`).join(' ');
console.log(`${visible} rows, rows/s`);
console.log(`  rtsync, to a client  ${text('ours')}`);
console.log(`  psql COPY            ${text('theirs')}`);
figure('snapshot.rows_per_s', median(results.map((r) => r.ours)), 0);
figure('snapshot.ratio_to_copy', median(results.map((r) => r.ours / r.theirs)));
process.exit(0);
