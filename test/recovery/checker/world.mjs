// What the checker's clients look at: tables with and without row security, who
// may see what of them, and the writers that change them.

import { randomUUID } from 'node:crypto';
import { sleep } from '../../e2e/lib/tap.mjs';
import { createRole, createTable, pg, selectAs, sql, token } from '../../e2e/lib/server.mjs';

const OWNERS = 20;
const GROUPS = 10;
const ITEM_TABLES = ['items_a', 'items_b', 'items_c'];

// Numbered rows, and nothing is changed afterwards.  Each stream, which is what
// one connection of a writer commits, counts them all, those of each owner and
// those of each group: who sees all of one of these meets no gap in its
// numbers, at no time.
export const JOURNAL = 'journal';

// No row security.  What is written last comes here, for all to see.
export const BOARD = 'board';
export const END = 1_000_000_000;

export async function createWorld() {
  await createRole('owner');
  await createRole('auditor');
  const roles = ['owner', 'auditor'];
  await sql('CREATE SEQUENCE journal_id; CREATE SEQUENCE version');
  await createTable(JOURNAL, `id int PRIMARY KEY DEFAULT nextval('journal_id'), owner int, grp int, pad text,
    stream int, number int, owner_number int, grp_number int`, { roles });
  await createTable(BOARD, 'id int PRIMARY KEY, n int', { roles });
  for (const table of ITEM_TABLES)
    await createTable(table, 'id int PRIMARY KEY, owner int, grp int, n int, pad text', { roles, full: true });
  for (const table of [JOURNAL, ...ITEM_TABLES])
    await sql(`ALTER TABLE ${table} ENABLE ROW LEVEL SECURITY;
      CREATE POLICY own ON ${table} TO owner USING (owner = (rtsync.jwt() ->> 'sub')::int);
      CREATE POLICY every ON ${table} TO auditor USING (true)`);
}

// Whose eyes a client has, and what it asks for.  Most see what they own.
//
// One in eleven gets it in batches, and of what never goes: a query of its own
// can meet a row that comes and goes within a batch, of which it is not told.
export function viewOf(number) {
  const interval = number % 11 === 6 ? 100 + number * 5 : null;
  const tables = interval === null ? [JOURNAL, BOARD, ...ITEM_TABLES] : [JOURNAL, BOARD];
  if (number % 50 === 0) return view('auditor', 'auditor', tables, null, interval);
  if (number % 5 === 0) return view('auditor', 'auditor', tables, number / 5 % GROUPS, interval);
  return view('owner', String(number % OWNERS), tables, null, interval);
}

function view(role, sub, tables, grp, interval) {
  const filterOf = (table) => {
    if (table === BOARD) return interval === null ? null : ['id', END];
    return grp === null ? null : ['grp', grp];
  };
  const filters = Object.fromEntries(tables.map((table) => [table, filterOf(table)]));
  return {
    name: `${role} ${sub} ${grp}${interval === null ? '' : ' in batches'}`,
    token: () => token(role, { sub }),
    tables,
    batches: interval !== null,
    // which of the numbers in the journal has no gap
    numbers: role === 'owner' ? 'owner_number' : grp === null ? 'number' : 'grp_number',
    bindings: tables.map((table) => ({
      event: '*', schema: 'public', table, ...(filters[table] && { filter: filters[table].join('=eq.') }),
      ...(interval !== null && { rtsync: { interval } }),
    })),
    // What SELECT shows: a map of table to a map of id to row
    select: async () => {
      const parts = tables.map((table) =>
        `SELECT '${table}' AS t, to_jsonb(${table}) AS r FROM ${table}${filters[table] ? ` WHERE ${filters[table].join(' = ')}` : ''}`);
      const rows = await selectAs(role, { sub }, parts.join(' UNION ALL '));
      const result = new Map(tables.map((table) => [table, new Map()]));
      for (const { t, r } of rows) result.get(t).set(r.id, r);
      return result;
    },
  };
}

let streams = 1;

// Writes transactions until it is told to stop; restarts cost it the one
// under way.
export class Writer {
  commits = 0;
  failures = 0;
  stopped = false;
  paused = false;
  resting = false; // it is, and has no transaction under way
  numbers = {}; // the last ones that this stream has committed

  constructor(random, pace) {
    this.random = random;
    this.pace = pace;
  }

  // Nobody may know whether the last transaction of a connection that ended was
  // committed: the next one counts anew.
  #begin() {
    this.stream = streams++;
    this.numbers = {};
  }

  #statement(numbers) {
    const table = ITEM_TABLES[this.random.int(ITEM_TABLES.length)];
    const id = this.random.int(500);
    const owner = this.random.int(OWNERS);
    const grp = this.random.int(GROUPS);
    const pad = this.random.int(3) === 0 ? `'${(randomUUID() + randomUUID()).repeat(30)}'` : `'${randomUUID()}'`;
    const dice = this.random.next();
    if (dice < 0.3) {
      const values = ['all', `owner ${owner}`, `grp ${grp}`].map((what) => (numbers[what] = (numbers[what] ?? 0) + 1));
      return `INSERT INTO journal (owner, grp, pad, stream, number, owner_number, grp_number)
        VALUES (${owner}, ${grp}, ${pad}, ${this.stream}, ${values.join(', ')})`;
    }
    if (dice < 0.4)
      return `INSERT INTO board VALUES (${this.random.int(200)}, nextval('version'))
        ON CONFLICT (id) DO UPDATE SET n = EXCLUDED.n`;
    if (dice < 0.45) return `DELETE FROM board WHERE id = ${this.random.int(200)}`;
    if (dice < 0.65)
      return `INSERT INTO ${table} VALUES (${id}, ${owner}, ${grp}, nextval('version'), ${pad})
        ON CONFLICT (id) DO UPDATE SET owner = EXCLUDED.owner, grp = EXCLUDED.grp, n = EXCLUDED.n`;
    if (dice < 0.85) return `UPDATE ${table} SET n = nextval('version') WHERE id = ${id}`;
    if (dice < 0.9) return `UPDATE ${table} SET id = 500 + ${id} WHERE id = ${id}
        AND NOT EXISTS (SELECT FROM ${table} WHERE id = 500 + ${id})`;
    return `DELETE FROM ${table} WHERE id IN (${id}, 500 + ${id})`;
  }

  async run() {
    let connection = null;
    while (!this.stopped) {
      try {
        if (this.paused) {
          await connection?.end().catch(() => {});
          connection = null;
          this.resting = true;
          await sleep(50);
          continue;
        }
        this.resting = false;
        if (connection === null) {
          const fresh = new pg.Client();
          fresh.on('error', () => {});
          await fresh.connect();
          connection = fresh;
          this.#begin();
        }
        const n = 1 + this.random.int(6);
        const numbers = { ...this.numbers };
        const statements = Array.from({ length: n }, () => this.#statement(numbers));
        const end = this.random.int(20) === 0 ? 'ROLLBACK' : 'COMMIT';
        await connection.query(['BEGIN', ...statements, end].join(';'));
        if (end === 'COMMIT') {
          this.commits++;
          this.numbers = numbers;
        }
        await sleep(this.pace * 2 * this.random.next());
      } catch (error) {
        this.failures++;
        if (/deadlock|duplicate key/.test(error.message)) await connection.query('ROLLBACK').catch(() => {});
        else {
          await connection?.end().catch(() => {});
          connection = null;
        }
        await sleep(50);
      }
    }
    await connection?.end().catch(() => {});
    this.resting = true;
  }
}

export async function writeEnd(n) {
  await sql(`INSERT INTO board VALUES (${END}, ${n}) ON CONFLICT (id) DO UPDATE SET n = ${n}`);
}
