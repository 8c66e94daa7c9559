// The server's own figures, live: reads /metrics once a second and draws what
// changed.  In service Prometheus and Grafana do this.

const config = await (await fetch('config.json')).json();
const KEEP = 120; // seconds

function parse(text) {
  const samples = new Map();
  for (const line of text.split('\n')) {
    const match = /^(\S+) (\S+)$/.exec(line);
    if (match && !line.startsWith('#')) samples.set(match[1], Number(match[2]));
  }
  return samples;
}

// Below which bound was this part of what a histogram counted meanwhile?
function quantile(now, before, name, part) {
  const buckets = [...now.keys()].filter((key) => key.startsWith(`${name}_bucket{le="`));
  const grew = (key) => now.get(key) - (before.get(key) ?? 0);
  const total = grew(`${name}_count`);
  if (!total) return null;
  const bucket = buckets.find((key) => grew(key) >= total * part);
  return Number(/le="(.*)"/.exec(bucket)[1].replace('+Inf', 'Infinity')) * 1000;
}

const value = (name) => (now) => now.get(name);
const rate = (name) => (now, before) => now.get(name) - before.get(name);
const bytes = (n) => (n < 1024 ? `${n} B` : n < 1024 ** 2 ? `${(n / 1024).toFixed(1)} kB` : `${(n / 1024 ** 2).toFixed(1)} MB`);
const plain = (n) => String(n);
const tiles = [
  ['Connections', value('rtsync_connections'), plain],
  ['Channels', value('rtsync_channels'), plain],
  ['Changes a second', rate('rtsync_changes_total'), plain],
  ['Events a second', rate('rtsync_events_total'), plain],
  ['Frames sent a second', rate('rtsync_sent_frames_total'), plain],
  ['Bytes sent a second', rate('rtsync_sent_bytes_total'), bytes],
  ['Commit to send, p99', (now, before) => quantile(now, before, 'rtsync_commit_to_send_seconds', 0.99), (n) => `≤ ${n} ms`],
  ['WAL not delivered yet', value('rtsync_wal_lag_bytes'), bytes],
  ['WAL kept by the slot', value('rtsync_retained_wal_bytes'), bytes],
  ['Memory of the history', value('rtsync_history_bytes'), bytes],
].map(([title, read, format]) => {
  const card = document.createElement('section');
  card.className = 'card';
  card.innerHTML = '<h2></h2><b>–</b><canvas width="600" height="140"></canvas>';
  card.querySelector('h2').textContent = title;
  document.getElementById('tiles').append(card);
  return { read, format, points: [], text: card.querySelector('b'), canvas: card.querySelector('canvas') };
});

function draw({ canvas, points }) {
  const context = canvas.getContext('2d');
  const top = Math.max(...points.map((p) => p ?? 0), 1e-9);
  const at = (p, i) => [(600 * (i + KEEP - points.length)) / (KEEP - 1), 134 - ((p ?? 0) / top) * 124];
  context.clearRect(0, 0, 600, 140);
  context.beginPath();
  points.forEach((p, i) => context.lineTo(...at(p, i)));
  context.strokeStyle = getComputedStyle(document.documentElement).getPropertyValue('--blue');
  context.lineWidth = 3;
  context.stroke();
  context.lineTo(600, 140);
  context.lineTo(at(0, 0)[0], 140);
  context.globalAlpha = 0.12;
  context.fillStyle = context.strokeStyle;
  context.fill();
  context.globalAlpha = 1;
}

let before = null;
async function tick() {
  const state = document.getElementById('state');
  try {
    const answer = await fetch('/metrics', { headers: { Authorization: `Bearer ${config.metricsToken}` } });
    const now = parse(await answer.text());
    for (const tile of before ? tiles : []) {
      const point = tile.read(now, before);
      tile.points.push(point);
      if (tile.points.length > KEEP) tile.points.shift();
      tile.text.textContent = point == null ? '–' : tile.format(point);
      draw(tile);
    }
    before = now;
    const ready = now.get('rtsync_ready') === 1;
    state.className = ready ? 'on' : 'off';
    state.textContent = ready ? 'ready' : 'not ready';
  } catch {
    state.className = 'off';
    state.textContent = 'nobody answers';
  }
}
tick();
setInterval(tick, 1000);
