// The real clients, unmodified, in the versions that are out there.

import { RealtimeClient as Client119 } from '@supabase/realtime-js';
import { RealtimeClient as Client111 } from 'realtime-js-2.111';
import { RealtimeClient as Client90 } from 'realtime-js-2.90';
import WebSocket from 'ws';
import { until } from './tap.mjs';
import { url } from './server.mjs';

export const versions = [
  { name: '2.90', Client: Client90, vsn: '1.0.0' },
  { name: '2.111', Client: Client111, vsn: '2.0.0' },
  { name: '2.119', Client: Client119, vsn: '2.0.0' },
];

// A connection of this version with this token as its key.
export function connect(version, token, { base = url, ...options } = {}) {
  return new version.Client(`${base}/realtime/v1`, {
    params: { apikey: token },
    transport: WebSocket,
    ...options,
  });
}

// Subscribes to bindings and resolves when SUBSCRIBED is reported.  The result
// has the channel, the events received so far, the system messages, and the
// statuses reported.
export async function subscribe(client, topic, bindings, { onSubscribed } = {}) {
  const subscription = { events: [], systems: [], statuses: [], channel: client.channel(topic) };
  const { channel } = subscription;
  for (const binding of bindings) {
    channel.on('postgres_changes', binding, (event) => subscription.events.push(event));
  }
  channel.on('system', {}, (message) => subscription.systems.push(message));
  channel.subscribe((status, error) => {
    subscription.statuses.push({ status, error });
    if (status === 'SUBSCRIBED') onSubscribed?.();
  });
  await until(`topic ${topic} to be subscribed`, () => {
    const failed = subscription.statuses.find(({ status }) => status !== 'SUBSCRIBED');
    if (failed) throw new Error(`${topic}: ${failed.status} ${failed.error}`);
    return subscription.statuses.length > 0;
  });
  return subscription;
}

// Waits for n events altogether and returns the last of them.
export async function eventNumber(subscription, n) {
  await until(`event number ${n}`, () => subscription.events.length >= n);
  return subscription.events[n - 1];
}
