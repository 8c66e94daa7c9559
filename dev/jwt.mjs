// Signs a JSON Web Token with HS256, as an authentication server would.
//
// The demo and the tests make their own tokens; an application leaves this to
// the service that logs its users in.

import { createHmac } from 'node:crypto';

const encode = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');

// claims: { role, sub, ... }; "exp" is an hour from now unless it is given.
export function signToken(claims, secret, header = { alg: 'HS256', typ: 'JWT' }) {
  const expiry = Math.floor(Date.now() / 1000) + 3600;
  const signed = `${encode(header)}.${encode({ exp: expiry, ...claims })}`;
  const signature = createHmac('sha256', secret).update(signed).digest('base64url');
  return `${signed}.${signature}`;
}
