// A WebSocket client's frames, and the handshake, as bytes.

import { randomBytes } from 'node:crypto';

export function clientFrame(opcode, payload) {
  const body = Buffer.from(payload);
  const mask = randomBytes(4);
  const head = [0x80 | opcode];
  if (body.length < 126) head.push(0x80 | body.length);
  else head.push(0x80 | 126, body.length >> 8, body.length & 255);
  return Buffer.concat([Buffer.from(head), mask, body.map((byte, i) => byte ^ mask[i % 4])]);
}

export const textFrame = (text) => clientFrame(1, text);
export const binaryFrame = (bytes) => clientFrame(2, bytes);

export const handshake = (path, headers = '') =>
  `GET ${path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n` +
  `Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: ${randomBytes(16).toString('base64')}\r\n${headers}\r\n`;

// Sends each step's bytes and waits until what came since holds its answer; the
// first step is the handshake.
export async function converse(socket, steps) {
  for (const { send, answer } of steps) {
    let received = Buffer.alloc(0);
    const answered = new Promise((resolve, reject) => {
      const failed = () => reject(new Error(`closed after ${JSON.stringify(received.toString('latin1').slice(0, 300))}`));
      const listen = (chunk) => {
        received = Buffer.concat([received, chunk]);
        if (!received.includes(answer)) return;
        socket.off('data', listen).off('close', failed);
        resolve();
      };
      socket.on('data', listen).on('close', failed);
    });
    if (send) socket.write(send);
    await answered;
  }
}
