// The demonstration's page, in two windows of a real browser: row security,
// presence, cursors and chat.  With SCREENSHOT, leaves a picture there.

import { assert, atEnd, sleep, test, until } from '../e2e/lib/tap.mjs';
import { database, httpUrl, secret, sql } from '../e2e/lib/server.mjs';
import { readFile } from 'node:fs/promises';
import { startApp } from '../../demo/app.mjs';
import { Browser } from '../e2e/lib/chromium.mjs';

await sql(await readFile(new URL('../../demo/schema.sql', import.meta.url), 'utf8'));
const app = await startApp({
  pool: database,
  secret,
  root: process.env.PAGE_ROOT,
  metricsToken: process.env.METRICS_TOKEN,
});
atEnd(() => app.close());
const browser = await Browser.start();
atEnd(() => browser.stop());

const live = (page) =>
  until('the page to be live', async () =>
    page.evaluate("document.getElementById('state')?.textContent === 'live' && document.querySelectorAll('#assets li').length > 0"),
  { every: 50 });
const names = (page) =>
  page.evaluate("[...document.querySelectorAll('#assets li:not(.gone) .name')].map((n) => n.textContent)");
const shows = (page, what, expression) => until(what, () => page.evaluate(expression), { every: 20 });

let ann;
let ben;

test('two windows show what each may see, from a snapshot', async () => {
  const size = { width: 860, height: 640 };
  ann = await browser.open(`${httpUrl}/?as=ann`, size);
  ben = await browser.open(`${httpUrl}/?as=ben`, size);
  for (const [page, wanted] of [[ann, ['tower crane', 'tug boat', 'fork lift']], [ben, ['drill rig', 'pump', 'van']]]) {
    await live(page);
    await until('all rows', async () => (await names(page)).length >= 3);
    assert.deepEqual(await names(page), wanted);
  }
});

test('what one adds and changes comes back live, and not to the other team', async () => {
  await ann.type('#add input', 'barge');
  await shows(ann, 'the barge', "[...document.querySelectorAll('.name')].some((n) => n.textContent === 'barge')");
  await ann.click('#assets li:first-child .status');
  await shows(ann, 'the new status', "document.querySelector('#assets li:first-child .status').textContent === 'in use'");
  await shows(ann, 'the latency', "/^\\d+ ms$/.test(document.getElementById('latency').textContent)");
  assert.deepEqual(await names(ben), ['drill rig', 'pump', 'van']);
});

test('a row that is handed over leaves one window and comes into the other', async () => {
  await ben.click('#assets li:last-child .more button');
  await until('the van to move', async () => (await names(ann)).includes('van') && !(await names(ben)).includes('van'));
  await shows(ben, 'the DELETE with the key alone',
    "[...document.querySelectorAll('#events .DELETE')].some((e) => /^DELETE \\{\"id\":\\d+\\}$/.test(e.textContent))");
});

test('presence, cursors and chat', async () => {
  for (const page of [ann, ben])
    await shows(page, 'both to be present', "[...document.querySelectorAll('#present li')].map((l) => l.title).sort().join() === 'Ann,Ben'");
  await ben.move(400, 300);
  await shows(ann, 'Ben’s cursor', "document.querySelector('#cursors span')?.textContent === 'Ben'");
  await ben.move(520, 400);
  await shows(ann, 'it to be where Ben is',
    "/translate\\((519|520|521)(\\.\\d+)?px, (399|400|401)(\\.\\d+)?px\\)/.test(document.querySelector('#cursors div').style.transform)");
  await ann.type('#say input', 'the van is here now, thanks');
  await ben.type('#say input', 'take care of it');
  for (const page of [ann, ben])
    await shows(page, 'both lines', "document.querySelectorAll('#chat li').length === 2");
});

test('who comes later sees everything that an admin may, and what was said before', async () => {
  const ada = await browser.open(`${httpUrl}/?as=ada`);
  await live(ada);
  await until('all rows', async () => (await names(ada)).length === 7);
  await shows(ada, 'what was said', "document.querySelectorAll('#chat li').length === 2");
  await shows(ann, 'three to be present', "document.querySelectorAll('#present li').length === 3");
  if (process.env.SCREENSHOT) {
    await ada.move(560, 330);
    await sql("UPDATE assets SET status = 'broken' WHERE name = 'van'");
    await sql("UPDATE assets SET status = 'ready' WHERE name = 'drill rig'");
    await ann.move(300, 420);
    await ben.move(640, 215);
    for (const page of [ann, ben])
      await shows(page, 'the others’ cursors', "document.querySelectorAll('#cursors div').length === 2");
    await sleep(400);
    await browser.sideBySide([ann, ben], process.env.SCREENSHOT);
  }
  assert.deepEqual(ada.errors, []);
  await ada.close();
  await shows(ann, 'two to be present', "document.querySelectorAll('#present li').length === 2");
});

test('the figures of the dashboard move', async () => {
  const page = await browser.open(`${httpUrl}/dashboard.html`);
  await shows(page, 'it to be ready', "document.getElementById('state')?.textContent === 'ready'");
  await shows(page, 'two connections', "document.querySelector('.tiles b').textContent === '2'");
  assert.deepEqual(page.errors, []);
  if (process.env.SCREENSHOT) await page.screenshot(process.env.SCREENSHOT.replace('.png', '-dashboard.png'));
});

test('no script complained', () => {
  assert.deepEqual([...ann.errors, ...ben.errors], []);
});
