/* Start page: whoever holds an API key sees what is live and makes keys for encoders and cameras. */

import { showMade } from './publish.js';
import { element } from './stage.js';
import { bitrate, codecs, copy, duration } from './words.js';

const KEY = 'medianode.key';
const RENEW = 4000;
const POSTER_AGE = 10_000;
const $ = (id) => document.getElementById(id);

let key = sessionStorage.getItem(KEY) ?? '';
const cards = new Map();

class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** The API's answer; throws Refused with the node's own words. */
async function api(path, body) {
  const init = { headers: { Authorization: `Bearer ${key}` }, cache: 'no-store' };
  if (body) Object.assign(init, { method: 'POST', body: JSON.stringify(body), headers: { ...init.headers, 'Content-Type': 'application/json' } });
  const response = await fetch(`api/v1/${path}`, init);
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Refused(response.status, [answer.message ?? `HTTP ${response.status}`].flat().join('; '));
  return answer;
}

function enter(inside) {
  $('gate').hidden = inside;
  $('board').hidden = $('signed-in').hidden = !inside;
  if (!inside) $('key').focus();
}

function leave(words = '') {
  key = '';
  sessionStorage.removeItem(KEY);
  for (const card of cards.values()) card.remove();
  cards.clear();
  $('made').replaceChildren();
  $('made').hidden = true;
  $('key-wrong').textContent = words;
  enter(false);
}

const wrongKey = (e) => e instanceof Refused && (e.status === 401 || e.status === 403);
const why = (e) => (e instanceof Refused ? e.message : 'The node cannot be reached. Trying again…');

async function signIn(given) {
  key = given;
  try {
    await renew();
  } catch (e) {
    leave(wrongKey(e) ? 'This key is not accepted here.' : why(e));
    return;
  }
  sessionStorage.setItem(KEY, key);
  enter(true);
  offerApps();
}

async function offerApps() {
  try {
    const { data } = await api('projects');
    $('apps').replaceChildren(...data.map((p) => element('option', { value: p.slug })));
    if (data.length && !data.some((p) => p.slug === $('app').value)) $('app').value = data[0].slug;
  } catch {
    $('apps').replaceChildren(); // the key may not list projects: their names can still be typed
  }
}

/** Both lists, joined by room. */
async function renew() {
  const [rooms, sessions] = await Promise.all([api('rooms?limit=500'), api('sessions?limit=500')]);
  const byId = new Map(sessions.data.map((s) => [s.id + s.app, s]));
  const live = rooms.data.filter((r) => r.onAir);
  const seen = new Set();
  for (const room of live) {
    const id = `${room.app}/${room.room}`;
    seen.add(id);
    if (!cards.has(id)) cards.set(id, new Card(room));
    cards.get(id).update(room, byId.get(room.programme + room.app));
  }
  for (const [id, card] of cards) {
    if (seen.has(id)) continue;
    card.remove();
    cards.delete(id);
  }
  const viewers = live.reduce((sum, room) => sum + watching(room), 0);
  $('live-count').textContent = live.length ? `${live.length} live, ${viewers} watching` : '';
  $('empty').hidden = live.length > 0;
}

const watching = (room) => Object.values(room.viewers).reduce((a, b) => a + b, 0);

class Card {
  constructor({ app, room }) {
    Object.assign(this, { app, room, posterAt: 0 });
    this.path = `${encodeURIComponent(app)}/${encodeURIComponent(room)}`;
    this.image = element('img', { alt: '', hidden: true });
    this.badge = element('span', { className: 'badge' }, 'Live');
    this.count = element('span', { className: 'badge count' });
    this.facts = element('p');
    this.source = element('p');
    this.hints = element('p', { className: 'wrong' });
    const play = `play/${this.path}`;
    const share = element('button', { type: 'button' }, 'Copy viewer link');
    share.addEventListener('click', () => this.share(share));
    const poster = element('a', { className: 'poster', href: play, attributes: { 'aria-label': `Play ${room}` } }, 'No picture yet', this.image, this.badge, this.count);
    const doing = element('div', { className: 'doing' }, element('a', { className: 'button main', href: play }, 'Play'), share);
    const body = element('div', { className: 'body' }, element('h3', {}, element('a', { href: play, title: room }, room)), this.facts, this.source, this.hints, doing);
    this.item = element('li', { className: 'card', dataset: { room } }, poster, body);
    $('cards').append(this.item);
  }

  update(room, session) {
    const n = watching(room);
    const tracks = session?.tracks ?? [];
    const video = tracks.find((t) => t.kind === 'video');
    const audio = tracks.find((t) => t.kind === 'audio');
    const rate = tracks.reduce((sum, t) => sum + t.bitrate, 0);
    const fps = video?.frameRate || video?.declaredFrameRate;
    const size = video?.height ? `${video.width}×${video.height}${fps ? ` at ${Math.round(fps)} fps` : ''}` : null;
    this.badge.textContent = room.held ? 'Waiting for the encoder' : 'Live';
    this.badge.classList.toggle('held', room.held);
    this.count.textContent = `${n} watching`;
    this.facts.textContent = [codecs({ videoCodec: video?.codec, audioCodec: audio?.codec }), size, bitrate(rate)].filter(Boolean).join(' · ');
    this.source.textContent = session ? `${session.door.toUpperCase()} from ${session.name || session.identity}, ${duration(session.uptime)}` : '';
    this.hints.textContent = session?.hints?.[0] ?? '';
    if (!room.held && performance.now() - this.posterAt > POSTER_AGE) this.poster();
  }

  /** By fetch, for the key must not stand in an address. */
  async poster() {
    this.posterAt = performance.now();
    const response = await fetch(`live/${this.path}/frame.jpg?w=320`, { headers: { Authorization: `Bearer ${key}` } }).catch(() => null);
    if (!response?.ok) return;
    const url = URL.createObjectURL(await response.blob());
    this.image.onload = this.image.onerror = () => URL.revokeObjectURL(url);
    this.image.src = url;
    this.image.hidden = false;
  }

  /** A link that opens the room also where viewers need a token. */
  async share(button) {
    let link = new URL(`play/${this.path}`, location.href).href;
    try {
      const open = await fetch(`play/${this.path}/state.json`, { cache: 'no-store' });
      if (open.status === 401) {
        const body = { room: this.room, canPublish: false, hidden: true, name: 'Viewer', ttl: '24h' };
        const { data } = await api(`apps/${encodeURIComponent(this.app)}/tokens`, body);
        link += `?token=${encodeURIComponent(data.token)}`;
      }
    } catch (e) {
      $('trouble').textContent = `No viewer link: ${why(e)}`;
      $('trouble').hidden = false;
      return;
    }
    copy(button, link);
  }

  remove() {
    this.item.remove();
  }
}

async function make(e) {
  e.preventDefault();
  const [app, room, kind] = [$('app').value.trim(), $('room').value.trim(), $('kind').value];
  const button = $('make').querySelector('button');
  button.disabled = true;
  $('make-wrong').textContent = '';
  try {
    const camera = kind === 'ws-mjpeg';
    const path = `apps/${encodeURIComponent(app)}/${camera ? 'ws-ingest' : 'ingress'}`;
    const { data } = await api(path, camera ? { room } : { inputType: 'rtmp', room });
    showMade($('made'), { app, kind, made: data, node: document.body.dataset });
  } catch (error) {
    $('made').hidden = true;
    $('make-wrong').textContent = why(error);
  }
  button.disabled = false;
}

async function beat() {
  if (key && !$('board').hidden && !document.hidden) {
    try {
      await renew();
      $('trouble').hidden = true;
    } catch (e) {
      if (wrongKey(e)) leave('This key is no longer accepted.');
      else {
        $('trouble').textContent = why(e);
        $('trouble').hidden = false;
      }
    }
  }
  setTimeout(beat, RENEW);
}

$('key-form').addEventListener('submit', (e) => {
  e.preventDefault();
  signIn($('key').value.trim());
  $('key').value = '';
});
$('leave').addEventListener('click', () => leave());
$('make').addEventListener('submit', make);
document.addEventListener('visibilitychange', () => !document.hidden && key && renew().catch(() => {}));
if (!document.body.dataset.wsJpeg) $('kind').querySelector('[value="ws-mjpeg"]').remove();
if (key) await signIn(key);
else enter(false);
beat();
