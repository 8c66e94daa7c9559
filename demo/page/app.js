// The page of the demonstration.  Everything that is live comes through one
// WebSocket from the database host, with the unmodified Supabase client; only
// what this page asks to be written goes to the application's own server.

const as = new URLSearchParams(location.search).get('as') ?? 'ann';
const colors = { Ann: '#2f5bea', Ben: '#c2410c', Ada: '#7c3aed' };
const $ = (id) => document.getElementById(id);

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

for (const [key, name] of [['ann', 'Ann'], ['ben', 'Ben'], ['ada', 'Ada']]) {
  $('people').append(element('a', { href: `?as=${key}`, className: key === as ? 'me' : '', textContent: name }));
}

//
// The application's server: who am I, and what do I want done
//

const config = await (await fetch('config.json')).json();
const post = async (path, body, token) => {
  const answer = await fetch(config.app + path, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json', Authorization: `Bearer ${token}` },
    body: JSON.stringify(body),
  });
  return answer.json();
};
const me = await post('/login', { as });
const command = (body) => post('/do', body, me.token);
$('whose').textContent = me.team === 'everything' ? 'you see every team’s' : `you see those of ${me.team}`;

//
// The database, live
//

const client = supabase.createClient(location.origin, me.token, { auth: { persistSession: false } });
await client.realtime.setAuth(me.token);

const teams = { 1: 'Acme', 2: 'Globex' };
const next = { ready: 'in use', 'in use': 'broken', broken: 'ready' };
const rows = new Map(); // id -> <li>
let snapshot = false;

function show(asset, fresh) {
  const row = element(
    'li',
    { className: fresh ? 'fresh' : '' },
    element('span', { className: 'id', textContent: `#${asset.id}` }),
    element('span', { className: 'name', textContent: asset.name }),
    element('span', { className: 'team', textContent: teams[asset.project_id] }),
    element('button', {
      className: `status ${asset.status.replace(' ', '-')}`,
      textContent: asset.status,
      onclick: () => command({ do: 'status', id: asset.id, status: next[asset.status] ?? 'ready' }),
    }),
    element(
      'span',
      { className: 'more' },
      element('button', { textContent: '⇄', title: 'hand over to the other team', onclick: () => command({ do: 'give', id: asset.id }) }),
      element('button', { textContent: '✕', title: 'delete', onclick: () => command({ do: 'remove', id: asset.id }) }),
    ),
  );
  row.dataset.id = asset.id;
  const before = rows.get(asset.id);
  rows.set(asset.id, row);
  if (before) before.replaceWith(row);
  else {
    const after = [...$('assets').children].find((other) => Number(other.dataset.id) > asset.id);
    $('assets').insertBefore(row, after ?? null);
  }
}

function hide(id) {
  const row = rows.get(id);
  rows.delete(id);
  row?.classList.add('gone');
  setTimeout(() => row?.remove(), 350);
}

function forgetRows() {
  rows.clear();
  $('assets').replaceChildren();
}

const latencies = [];
function measure(commit) {
  latencies.push(Math.max(0, Date.now() - Date.parse(commit)));
  if (latencies.length > 20) latencies.shift();
  $('latency').textContent = `${[...latencies].sort((a, b) => a - b)[latencies.length >> 1]} ms`;
}

function log(kind, what) {
  $('events').prepend(element('li', { className: kind }, element('b', { textContent: kind }), ` ${what}`));
  while ($('events').children.length > 40) $('events').lastChild.remove();
}

client
  .channel('assets')
  .on('postgres_changes', { event: '*', schema: 'public', table: 'assets', rtsync: { snapshot: true } }, (change) => {
    if (change.eventType === 'DELETE') hide(change.old.id);
    else show(change.new, !snapshot);
    $('count').textContent = rows.size;
    if (snapshot) return;
    measure(change.commit_timestamp);
    log(change.eventType, JSON.stringify(change.eventType === 'DELETE' ? change.old : change.new));
  })
  .on('system', {}, ({ status }) => {
    if (status === 'snapshot_begin') {
      snapshot = true;
      forgetRows();
    }
    if (status === 'snapshot_end') snapshot = false;
  })
  .subscribe((status) => {
    $('state').className = status === 'SUBSCRIBED' ? 'on' : 'off';
    $('state').textContent = status === 'SUBSCRIBED' ? 'live' : status.toLowerCase().replace('_', ' ');
  });

//
// Each other: presence, cursors, chat
//

const key = crypto.randomUUID();
const yard = client.channel('yard', {
  config: {
    private: true,
    presence: { key },
    broadcast: { replay: { since: Date.now() - 3_600_000, limit: 10 } },
  },
});
const cursors = new Map();

function cursorOf({ key, name }) {
  let cursor = cursors.get(key);
  if (!cursor) {
    cursor = element('div');
    cursor.innerHTML = '<svg viewBox="0 0 16 16"><path d="M1 1l5 14 2.5-6L15 6.500z"/></svg><span></span>';
    cursor.querySelector('path').setAttribute('fill', colors[name] ?? '#555');
    cursor.querySelector('span').style.background = colors[name] ?? '#555';
    cursor.querySelector('span').textContent = name;
    cursors.set(key, cursor);
    $('cursors').append(cursor);
  }
  return cursor;
}

yard
  .on('presence', { event: 'sync' }, () => {
    const present = Object.values(yard.presenceState()).map(([meta]) => meta);
    $('present').replaceChildren(
      ...present.map(({ name }) => {
        const badge = element('li', { textContent: name.slice(0, 2), title: name });
        badge.style.background = colors[name] ?? '#555';
        return badge;
      }),
    );
    const keys = Object.keys(yard.presenceState());
    for (const [key, cursor] of cursors)
      if (!keys.includes(key)) {
        cursor.remove();
        cursors.delete(key);
      }
  })
  .on('broadcast', { event: 'cursor' }, ({ payload }) => {
    cursorOf(payload).style.transform = `translate(${payload.x * innerWidth}px, ${payload.y * innerHeight}px)`;
  })
  .on('broadcast', { event: 'chat' }, ({ payload, meta }) => {
    const line = element('li', {}, element('b', { textContent: payload.from }), element('span', { textContent: payload.text }));
    line.querySelector('b').style.color = colors[payload.from] ?? '';
    $('chat').append(line);
    $('chat').scrollTop = $('chat').scrollHeight;
    if (!meta?.replayed) log('chat', JSON.stringify(payload));
  })
  .subscribe((status) => {
    if (status === 'SUBSCRIBED') yard.track({ name: me.name, team: me.team });
  });

// Where the pointer is goes out 25 times a second at most, and the last place
// always.
let place = null;
addEventListener('pointermove', ({ clientX, clientY }) => {
  if (!place) setTimeout(sendPlace, 40);
  place = { key, name: me.name, x: clientX / innerWidth, y: clientY / innerHeight };
});

function sendPlace() {
  yard.send({ type: 'broadcast', event: 'cursor', payload: place });
  place = null;
}

function onSubmit(form, body) {
  $(form).onsubmit = (event) => {
    event.preventDefault();
    const input = $(form).elements[0];
    if (input.value.trim()) command(body(input.value.trim()));
    input.value = '';
  };
}
onSubmit('add', (name) => ({ do: 'add', name }));
onSubmit('say', (text) => ({ do: 'say', text }));
