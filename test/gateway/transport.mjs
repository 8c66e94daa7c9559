/*
 * How the tests reach the gateway: plainly, or, with GATEWAY_TLS in the
 * environment, over TLS with a certificate of their own.
 */
import fs from 'node:fs'
import net from 'node:net'
import os from 'node:os'
import path from 'node:path'
import tls from 'node:tls'
import { makeAuthority, makeCertificate } from './certificates.mjs'

const overTls = Boolean(process.env.GATEWAY_TLS)
let own

function authority() {
  if (own) return own
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'rtsync-certificates.'))
  process.on('exit', () => fs.rmSync(directory, { recursive: true, force: true }))
  own = { ca: makeAuthority(directory), directory, first: makeCertificate(directory, 'first') }
  return own
}

/* The settings that make a gateway speak TLS, if that is how we reach it */
export function tlsSettings() {
  if (!overTls) return {}
  const { first } = authority()
  return { ssl: 1, ssl_certificate: first.certificate, ssl_key: first.key }
}

export { authority }

/* The event that says that a socket of connect() is ready */
export const CONNECTED = overTls ? 'secureConnect' : 'connect'

export function connect(options) {
  options = { host: '127.0.0.1', ...options }
  return overTls ? tls.connect({ ca: authority().ca, servername: 'localhost', ...options }) : net.connect(options)
}

/* Have the connection reset instead of closed; what is TLS of it ends without a word. */
export function reset(socket) {
  if (overTls) socket.destroy()
  else socket.resetAndDestroy()
}
