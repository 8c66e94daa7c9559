// Filters: as the protocol writes them, and as SQL says the same.

import { ident, literal } from './sql.mjs';
import { typeNamed } from './types.mjs';

const operators = { eq: '=', neq: '<>', lt: '<', lte: '<=', gt: '>', gte: '>=' };
const patterns = { like: 'LIKE', ilike: 'ILIKE', match: '~', imatch: '~*' };
const patternValues = ['a%', '%b', '_', '%', '%,%', 'A%'];
const regexValues = ['^a', 'b$', '.', '[ab]', '^$', 'B'];

// A value as the grammar of filters wants it
function quoted(value, inList) {
  const special = /[,()"\\]/.test(value) || value !== value.trim() ||
    (inList && (value === '' || /[{}]/.test(value) || /^null$/i.test(value)));
  return special ? `"${value.replaceAll('\\', '\\\\').replaceAll('"', '\\"')}"` : value;
}

function randomOne(random, table, column) {
  const type = typeNamed(column.type) ?? { values: column.values, ordered: true };
  const values = column.values ?? type.values;
  const name = ident(column.name);
  const cast = column.sqlType;
  const value = random.pick(values);
  const choices = [[1, 'is']];
  if (type.ordered) choices.push([5, 'compare'], [type.array ? 0 : 2, 'in'], [1, 'isdistinct']);
  if (type.pattern) choices.push([2, 'like'], [2, 'match']);
  const kind = random.weighted(choices);
  const not = random.chance(0.2);
  let op, text, sql;
  if (kind === 'is') {
    const word = type.boolean ? random.pick(['null', 'true', 'false', 'unknown']) : 'null';
    [op, text, sql] = ['is', word, `${name} IS ${word.toUpperCase()}`];
  } else if (kind === 'compare') {
    op = random.weighted([[6, 'eq'], [1, 'neq'], [1, 'lt'], [1, 'lte'], [1, 'gt'], [1, 'gte']]);
    [text, sql] = [quoted(value), `${name} ${operators[op]} ${literal(value)}::${cast}`];
  } else if (kind === 'in') {
    const list = random.some(values, random.between(1, 3));
    op = 'in';
    text = `(${list.map((v) => quoted(v, true)).join(',')})`;
    sql = `${name} IN (${list.map((v) => `${literal(v)}::${cast}`).join(', ')})`;
  } else if (kind === 'isdistinct') {
    op = 'isdistinct';
    [text, sql] = [quoted(value), `${name} IS DISTINCT FROM ${literal(value)}::${cast}`];
  } else {
    op = random.pick(kind === 'like' ? ['like', 'ilike'] : ['match', 'imatch']);
    const pattern = random.pick(kind === 'like' ? patternValues : regexValues);
    [text, sql] = [quoted(pattern), `${name} ${patterns[op]} ${literal(pattern)}`];
  }
  return {
    text: `${column.name}=${not ? 'not.' : ''}${op}.${text}`,
    sql: not ? `NOT (${sql})` : `(${sql})`,
    columns: [column.name],
  };
}

// A filter over some of the columns, ANDed: { text, sql, columns }
export function randomFilter(random, table, columns) {
  const parts = [];
  const n = random.weighted([[6, 1], [2, 2], [1, 3]]);
  for (let i = 0; i < n; i++) parts.push(randomOne(random, table, random.pick(columns)));
  return {
    text: parts.map((p) => p.text).join(random.chance(0.5) ? ',' : ', '),
    sql: parts.map((p) => p.sql).join(' AND '),
    columns: [...new Set(parts.flatMap((p) => p.columns))],
  };
}

// Any condition over the row
export function randomWhere(random, table, columns) {
  const has = (name) => columns.some((c) => c.name === name);
  const choices = [
    ['n', 'n > 2 OR n IS NULL'], ['n', 'n % 3 = 1'], ['label', "label || 'x' = 'ax'"], ['label', "lower(label) SIMILAR TO '(a|b)%'"],
    ['team', 'team * 2 > 3'], ['owner', "owner::text LIKE '%1'"], ['flag', 'flag IS NOT TRUE'],
    ['n', 'n = ANY (ARRAY[1, 2, 3, 5, 8])'], ['team', 'CASE WHEN team IS NULL THEN true ELSE team < 3 END'],
  ].filter(([name]) => has(name));
  if (choices.length === 0) return null;
  const [name, sql] = random.pick(choices);
  return { where: sql, sql: `(${sql})`, columns: [name] };
}
