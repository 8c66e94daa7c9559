// Servers that do what the gateway does, each with how a client subscribes to
// the one topic and publishes on it: { name, port, pids, subscribe, publish,
// publisher }.  A server that cannot be had here is null.

import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import net from 'node:net';
import { promisify } from 'node:util';
import { binaryFrame, clientFrame, converse, handshake, textFrame } from './frames.mjs';
import { freePort } from '../../test/recovery/lib/cluster.mjs';
import { until } from '../../test/e2e/lib/tap.mjs';

const run = promisify(execFile);
const scratch = process.env.BENCH_SCRATCH;
const children = [];

// However this process ends, so do they.
process.on('exit', () => {
  for (const child of children) child.kill();
});

function start(program, args, options = {}) {
  const child = spawn(program, args, { stdio: ['ignore', 'pipe', 'inherit'], ...options });
  children.push(child);
  return child;
}

const listens = (port) => new Promise((resolve) => {
  const socket = net.connect(port, '127.0.0.1');
  socket.on('connect', () => resolve(socket.destroy() && true)).on('error', () => resolve(false));
});

const untilListening = (port) => until(`port ${port}`, () => listens(port), { timeout: 10_000 });

/*--------------------------------- gateway --------------------------------*/

const JOIN = { config: { broadcast: { self: false }, postgres_changes: [] } };

export function gatewayServer(name, port, pid, token) {
  const steps = [
    { send: handshake(`/realtime/v1/websocket?apikey=${token}&vsn=2.0.0`), answer: '101 Switching' },
    { send: textFrame(JSON.stringify(['1', '1', 'realtime:bench', 'phx_join', JOIN])), answer: '"ok"' },
  ];
  return {
    name, port, pids: [pid],
    subscribe: (socket) => converse(socket, steps),
    publisher: (socket) => converse(socket, steps),
    publish: (text) => textFrame(JSON.stringify(
      ['1', null, 'realtime:bench', 'broadcast', { type: 'broadcast', event: 'say', payload: { text } }])),
  };
}

/*------------------------------- npm servers ------------------------------*/

async function npmServer(file) {
  const child = start(process.execPath, [new URL(`../servers/${file}`, import.meta.url).pathname]);
  const [line] = await once(child.stdout, 'data');
  return { port: Number(line), pids: [child.pid] };
}

export async function wsServer() {
  const plain = (socket) => converse(socket, [{ send: handshake('/'), answer: '101 Switching' }]);
  return { name: 'ws', ...await npmServer('ws.mjs'), subscribe: plain, publisher: plain, publish: textFrame };
}

export async function socketIoServer() {
  const join = (socket) => converse(socket, [
    { send: handshake('/socket.io/?EIO=4&transport=websocket'), answer: '"sid"' },
    { send: textFrame('40'), answer: '40{' },
  ]);
  return {
    name: 'socket.io', ...await npmServer('socket.io.mjs'), subscribe: join, publisher: join,
    publish: (text) => textFrame(`42${JSON.stringify(['say', text])}`),
  };
}

/*----------------------------- Debian's servers ---------------------------*/

// Unpacks packages below build/, without installing them: nothing is started
// by them, and the system stays as it is.
async function unpack(name, packages) {
  const dir = new URL(`../../build/rivals/${name}`, import.meta.url).pathname;
  if (existsSync(`${dir}/unpacked`)) return dir;
  await mkdir(dir, { recursive: true });
  try {
    await run('apt-get', ['-q', 'download', ...packages], { cwd: dir });
    await run('sh', ['-c', 'for deb in *.deb; do dpkg -x "$deb" . || exit 1; done'], { cwd: dir });
  } catch (error) {
    console.log(`${name} is left out: ${error.message.trim().split('\n').at(-1)}`);
    return null;
  }
  await writeFile(`${dir}/unpacked`, '');
  return dir;
}

// Runs a server of Debian's; null, with a word about it, if it does not come up.
async function debianServer(name, program, args, port, env = {}) {
  const child = start(program, args, { stdio: ['ignore', 'ignore', 'pipe'], env: { ...process.env, ...env } });
  let errors = '';
  child.stderr.on('data', (data) => { errors += data; });
  const ended = once(child, 'exit').then(() => 'ended', (error) => String(error));
  const outcome = await Promise.race([ended, untilListening(port).then(() => null, (error) => error.message)]);
  if (outcome === null) return child;
  console.log(`${name} is left out: it ${outcome} ${errors.trim().split('\n').at(-1)}`);
  return null;
}

// The processes of this group leader and its children
async function family(pid) {
  const text = await readFile(`/proc/${pid}/task/${pid}/children`, 'utf8');
  return [pid, ...text.trim().split(' ').filter(Boolean).map(Number)];
}

export async function nchanServer() {
  const dir = await unpack('nchan', ['nginx', 'libnginx-mod-nchan']);
  if (!dir) return null;
  const port = await freePort();
  const at = `${scratch}/nchan`;
  await mkdir(`${at}/temp`, { recursive: true });
  // Both make folders of the system's at their start, whatever the configuration
  // says: let these be in ours, by a relative name that is as long.
  await run('sed', ['-i', 's#/var/lib/nginx/#temp/./././././#g',
    `${dir}/usr/sbin/nginx`, `${dir}/usr/lib/nginx/modules/ngx_nchan_module.so`]);
  await writeFile(`${at}/nginx.conf`, `
load_module ${dir}/usr/lib/nginx/modules/ngx_nchan_module.so;
daemon off;
worker_processes 1;
worker_rlimit_nofile 20000;
error_log stderr crit;
pid ${at}/pid;
events { worker_connections 10000; }
http {
  access_log off;
  client_body_temp_path ${at}/body; proxy_temp_path ${at}/proxy; fastcgi_temp_path ${at}/fastcgi;
  uwsgi_temp_path ${at}/uwsgi; scgi_temp_path ${at}/scgi;
  server {
    listen 127.0.0.1:${port};
    location = /sub { nchan_subscriber websocket; nchan_channel_id bench; nchan_subscriber_first_message newest; }
    location = /pub { nchan_publisher websocket; nchan_channel_id bench; nchan_store_messages off; }
  }
}
`);
  const child = await debianServer('nchan', `${dir}/usr/sbin/nginx`, ['-p', at, '-c', `${at}/nginx.conf`, '-e', 'stderr'], port);
  if (!child) return null;
  const open = (path) => (socket) => converse(socket, [{ send: handshake(path), answer: '101 Switching' }]);
  return { name: 'nchan', port, pids: await family(child.pid), subscribe: open('/sub'), publisher: open('/pub'), publish: textFrame };
}

export async function mosquittoServer() {
  const dir = await unpack('mosquitto', ['mosquitto', 'libmosquitto1', 'libcjson1', 'libdlt2', 'libwrap0']);
  if (!dir) return null;
  const port = await freePort();
  const libraries = ['amd64:x86_64', 'arm64:aarch64'].map((p) => `${dir}/usr/lib/${p.split(':')[1]}-linux-gnu`);
  // with no other listener than one for WebSockets it does not start
  await writeFile(`${scratch}/mosquitto.conf`, `
listener ${await freePort()} 127.0.0.1
listener ${port}
bind_interface lo
protocol websockets
allow_anonymous true
log_type error
max_queued_messages 0
set_tcp_nodelay true
`);
  const child = await debianServer('mosquitto', `${dir}/usr/sbin/mosquitto`, ['-c', `${scratch}/mosquitto.conf`], port,
    { LD_LIBRARY_PATH: libraries.join(':') });
  if (!child) return null;
  const text = (s) => Buffer.concat([Buffer.from([s.length >> 8, s.length & 255]), Buffer.from(s)]);
  // MQTT 3.1.1: the fixed header, with the length in groups of seven bits
  const packet = (type, ...parts) => {
    const body = Buffer.concat(parts);
    const length = body.length < 128 ? [body.length] : [0x80 | (body.length & 127), body.length >> 7];
    return Buffer.concat([Buffer.from([type, ...length]), body]);
  };
  let n = 0;
  const connect = () => [
    { send: handshake('/', 'Sec-WebSocket-Protocol: mqtt\r\n'), answer: '101 Switching' },
    { send: binaryFrame(packet(0x10, text('MQTT'), Buffer.from([4, 2, 0, 0]), text(`bench${n++}`))), answer: Buffer.from([0x20, 2, 0, 0]) },
  ];
  return {
    name: 'mosquitto', port, pids: [child.pid],
    subscribe: (socket) => converse(socket, [...connect(),
      { send: binaryFrame(packet(0x82, Buffer.from([0, 1]), text('bench'), Buffer.from([0]))), answer: Buffer.from([0x90, 3, 0, 1, 0]) }]),
    publisher: (socket) => converse(socket, connect()),
    publish: (payload) => clientFrame(2, packet(0x30, text('bench'), Buffer.from(payload))),
  };
}
