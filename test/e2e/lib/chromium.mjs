// A headless Chromium, driven over its DevTools protocol: as much of it as the
// tests need.

import { spawn } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import WebSocket from 'ws';
import { until } from './tap.mjs';

class Page {
  errors = []; // what the page's scripts complained about

  constructor(browser, session) {
    this.browser = browser;
    this.session = session;
  }

  call(method, parameters) {
    return this.browser.call(method, parameters, this.session);
  }

  // The value of an expression in the page, which may be a promise.
  async evaluate(expression) {
    const { result, exceptionDetails } = await this.call('Runtime.evaluate', {
      expression,
      awaitPromise: true,
      returnByValue: true,
    });
    if (exceptionDetails) throw new Error(exceptionDetails.exception?.description ?? exceptionDetails.text);
    return result.value;
  }

  // Moves the pointer to the middle of what the selector finds, and clicks; it has
  // to be there, and not moving.
  async click(selector) {
    const find = () => this.evaluate(`(() => {
      const found = document.querySelector(${JSON.stringify(selector)});
      const { x, y, width, height } = found.getBoundingClientRect();
      const place = { x: x + width / 2, y: y + height / 2 };
      return { ...place, there: found.contains(document.elementFromPoint(place.x, place.y)) };
    })()`);
    const { there, ...place } = await until(`${selector} to be still`, async () => {
      const before = await find();
      await this.move(before.x, before.y);
      const now = await find();
      return now.there && now.x === before.x && now.y === before.y && now;
    }, { every: 100 });
    for (const type of ['mousePressed', 'mouseReleased'])
      await this.call('Input.dispatchMouseEvent', { type, ...place, button: 'left', clickCount: 1 });
  }

  move(x, y) {
    return this.call('Input.dispatchMouseEvent', { type: 'mouseMoved', x, y });
  }

  // Types into a field, and presses Enter.
  async type(selector, text) {
    await this.evaluate(`document.querySelector(${JSON.stringify(selector)}).focus()`);
    await this.call('Input.insertText', { text });
    for (const type of ['keyDown', 'keyUp'])
      await this.call('Input.dispatchKeyEvent', { type, key: 'Enter', code: 'Enter', windowsVirtualKeyCode: 13, text: '\r' });
  }

  // A picture, in base64; also written to a file if one is named.
  async screenshot(file) {
    const { data } = await this.call('Page.captureScreenshot', { format: 'png' });
    if (file) await writeFile(file, Buffer.from(data, 'base64'));
    return data;
  }
}

export class Browser {
  #waiting = new Map();
  #pages = new Map();
  #lastId = 0;

  static async start(program = process.env.CHROMIUM ?? 'chromium') {
    const browser = new Browser();
    browser.profile = await mkdtemp(`${tmpdir()}/rtsync-chromium.`);
    browser.process = spawn(
      program,
      ['--headless=new', '--remote-debugging-port=0', `--user-data-dir=${browser.profile}`, '--no-first-run',
        '--disable-gpu', '--disable-dev-shm-usage', '--no-sandbox', '--hide-scrollbars', 'about:blank'],
      { stdio: ['ignore', 'ignore', 'pipe'], detached: true },
    );
    const address = await new Promise((resolve, reject) => {
      let text = '';
      browser.process.on('error', reject);
      browser.process.on('exit', () => reject(new Error(`${program} ended: ${text}`)));
      browser.process.stderr.on('data', (data) => {
        text += data;
        const match = /DevTools listening on (ws:\S+)/.exec(text);
        if (match) resolve(match[1]);
      });
    });
    browser.socket = new WebSocket(address);
    browser.socket.on('message', (data) => browser.#receive(JSON.parse(data)));
    await new Promise((resolve) => browser.socket.on('open', resolve));
    return browser;
  }

  #receive({ id, result, error, method, params, sessionId }) {
    const page = this.#pages.get(sessionId);
    if (method === 'Runtime.exceptionThrown') page?.errors.push(params.exceptionDetails.exception?.description ?? params.exceptionDetails.text);
    if (method === 'Runtime.consoleAPICalled' && params.type === 'error')
      page?.errors.push(params.args.map((a) => a.value ?? a.description).join(' '));
    const waiting = this.#waiting.get(id);
    this.#waiting.delete(id);
    if (error) waiting?.reject(new Error(error.message));
    else waiting?.resolve(result);
  }

  call(method, params = {}, sessionId = undefined) {
    const id = ++this.#lastId;
    this.socket.send(JSON.stringify({ id, method, params, sessionId }));
    return new Promise((resolve, reject) => this.#waiting.set(id, { resolve, reject }));
  }

  // Opens a window of its own, as that of somebody else.
  async open(url, { width = 1280, height = 800 } = {}) {
    const { browserContextId } = await this.call('Target.createBrowserContext');
    const { targetId } = await this.call('Target.createTarget', { url: 'about:blank', browserContextId, width, height });
    const { sessionId } = await this.call('Target.attachToTarget', { targetId, flatten: true });
    const page = new Page(this, sessionId);
    page.close = () => this.call('Target.closeTarget', { targetId });
    this.#pages.set(sessionId, page);
    await page.call('Runtime.enable');
    await page.call('Page.enable');
    await page.call('Emulation.setDeviceMetricsOverride', { width, height, deviceScaleFactor: 1, mobile: false });
    await page.call('Emulation.setFocusEmulationEnabled', { enabled: true });
    await page.call('Page.navigate', { url });
    return page;
  }

  // A picture of several windows beside each other.
  async sideBySide(pages, file) {
    const images = [];
    for (const page of pages) images.push(`<img src="data:image/png;base64,${await page.screenshot()}">`);
    const [{ width, height }] = [await pages[0].evaluate('({ width: innerWidth, height: innerHeight })')];
    const size = { width: pages.length * (width + 20) + 20, height: height + 40 };
    const sheet = await this.open('about:blank', size);
    await sheet.evaluate(`document.body.style = 'margin: 20px 0 0 20px; background: #cdd5e6; display: flex; gap: 20px; align-items: flex-start';
      document.body.innerHTML = ${JSON.stringify(images.join(''))};
      Promise.all([...document.images].map((i) => ((i.style = 'border-radius: 10px'), i.decode()))).then(() => true)`);
    await sheet.screenshot(file);
    await sheet.close();
  }

  // Ends it with all its processes.
  async stop() {
    this.socket.close();
    const ended = new Promise((resolve) => this.process.on('close', resolve));
    process.kill(-this.process.pid, 'SIGKILL');
    await ended;
    await rm(this.profile, { recursive: true, force: true, maxRetries: 10, retryDelay: 100 });
  }
}
