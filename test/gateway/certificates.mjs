/*
 * A certificate authority of our own, made anew with openssl in a directory
 * that the caller names, and certificates for this machine signed by it.
 */
import { execFileSync } from 'node:child_process'
import fs from 'node:fs'
import path from 'node:path'

const openssl = (...args) => execFileSync('openssl', args, { stdio: ['ignore', 'pipe', 'pipe'] })
const EC = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1']

/* Make the authority: the files ca.key and ca.crt. */
export function makeAuthority(directory) {
  openssl('req', '-x509', ...EC, '-nodes', '-days', '2', '-subj', '/CN=rtsync test authority',
    '-keyout', path.join(directory, 'ca.key'), '-out', path.join(directory, 'ca.crt'))
  return fs.readFileSync(path.join(directory, 'ca.crt'), 'utf8')
}

/*
 * Make the files name.key and name.crt, with the common name given, for
 * localhost.  With a passphrase the key is encrypted.
 */
export function makeCertificate(directory, name, { common = name, passphrase, rsa } = {}) {
  const file = extension => path.join(directory, `${name}.${extension}`)
  fs.writeFileSync(file('ext'), 'subjectAltName = DNS:localhost, IP:127.0.0.1\n')
  openssl('req', ...(rsa ? ['-newkey', `rsa:${rsa}`] : EC), '-subj', `/CN=${common}`, '-keyout', file('key'), '-out', file('csr'),
    ...(passphrase ? ['-passout', `pass:${passphrase}`] : ['-nodes']))
  openssl('x509', '-req', '-in', file('csr'), '-CA', path.join(directory, 'ca.crt'), '-CAkey', path.join(directory, 'ca.key'),
    '-CAcreateserial', '-days', '2', '-extfile', file('ext'), '-out', file('crt'))
  fs.chmodSync(file('key'), 0o600)
  return { key: fs.readFileSync(file('key'), 'utf8'), certificate: fs.readFileSync(file('crt'), 'utf8'), keyFile: file('key'), certificateFile: file('crt') }
}
