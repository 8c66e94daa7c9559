// A gateway that is not ours: the engine starts it as one of its gateways, and
// the test says what it says.
//
// The server's rtsync-gateway is replaced by a program that asks the test, over
// TCP, whether it wants to be this one; else it becomes the real one.

import { chmod, readdir, rename, writeFile } from 'node:fs/promises';
import net from 'node:net';
import { once } from 'node:events';
import { until } from '../../e2e/lib/tap.mjs';
import { Body, CONFIG, JOIN_REPLY, HELLO, READY } from '../../gateway/engine.mjs';

const dir = process.env.CLUSTER_DIR;

async function find(folder, name) {
  for (const entry of await readdir(folder, { withFileTypes: true })) {
    const path = `${folder}/${entry.name}`;
    if (entry.isDirectory()) {
      const found = await find(path, name);
      if (found) return found;
    } else if (entry.name === name) return path;
  }
  return null;
}

const program = (real, port) => `#!/usr/bin/perl
use strict;
use IO::Socket::INET;
my $test = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => ${port});
my $answer = '';
sysread($test, $answer, 1) if $test;
exec '${real}' if $answer ne 'y';
open(my $link, '+<&=', 3) or die;
my $wanted = '';
vec($wanted, fileno($_), 1) = 1 for ($test, $link);
while (1)
{
	select(my $ready = $wanted, undef, undef, undef);
	for ([$test, $link], [$link, $test])
	{
		next unless vec($ready, fileno($_->[0]), 1);
		exit unless sysread($_->[0], my $bytes, 65536);
		while (length $bytes)
		{
			my $n = syswrite($_->[1], $bytes) or exit;
			substr($bytes, 0, $n) = '';
		}
	}
}
`;

export class HostileGateway {
  number = null; // which of the gateways it is
  messages = []; // from the engine: { type, body }
  ended = false; // the engine has closed the link

  // To be called before the engine starts its gateways: the first becomes this.
  static async prepare() {
    const hostile = new HostileGateway();
    hostile.listener = net.createServer((socket) => {
      socket.on('error', () => {});
      if (hostile.socket) socket.end('n');
      else hostile.#take(socket);
    });
    hostile.listener.listen(0, '127.0.0.1');
    await once(hostile.listener, 'listening');
    const path = await find(`${dir}/root`, 'rtsync-gateway');
    await rename(path, `${path}.real`);
    await writeFile(path, program(`${path}.real`, hostile.listener.address().port));
    await chmod(path, 0o755);
    return hostile;
  }

  #take(socket) {
    this.socket = socket;
    socket.write('y');
    let pending = Buffer.alloc(0);
    socket.on('data', (data) => {
      pending = Buffer.concat([pending, data]);
      while (pending.length >= 8 && pending.length >= 8 + pending.readUInt32LE(0)) {
        const length = pending.readUInt32LE(0);
        this.messages.push({ type: pending.readUInt32LE(4), body: pending.subarray(8, 8 + length) });
        pending = pending.subarray(8 + length);
        this.#handle(this.messages.at(-1));
      }
    });
    socket.on('close', () => {
      this.ended = true;
    });
  }

  #handle({ type, body }) {
    if (type === HELLO) this.send(READY, new Body().u32(1));
    if (type !== CONFIG) return;
    for (let at = 4; at < body.length; ) {
      const strings = [0, 1].map(() => {
        const length = body.readUInt32LE(at);
        at += 4 + length;
        return body.subarray(at - length, at).toString();
      });
      if (strings[0] === 'gateway') this.number = Number(strings[1]);
    }
  }

  send(type, body) {
    const bytes = Buffer.isBuffer(body) ? body : body.bytes();
    const header = Buffer.alloc(8);
    header.writeUInt32LE(bytes.length, 0);
    header.writeUInt32LE(type, 4);
    this.socket.write(Buffer.concat([header, bytes]));
  }

  // The number of its nth channel or connection, or of another gateway's
  id(n, gateway = this.number) {
    return (BigInt(gateway) << 48n) | BigInt(n);
  }

  // Joins a topic as its nth channel; returns the rights, or null if refused.
  async join(type, n, topic, isPrivate, token) {
    this.send(type, new Body().u64(this.id(n)).string(topic).u8(isPrivate ? 1 : 0).u8(0).u8(0).u64(0).u32(0).string(token).string(null).u32(0));
    const reply = await until(`the answer to ${topic}`, () =>
      this.messages.find((m) => m.type === JOIN_REPLY && m.body.readBigUInt64LE(0) === this.id(n)));
    return reply.body[8] ? reply.body[9] : null;
  }

  close() {
    this.listener.close();
    this.socket?.destroy();
  }
}
