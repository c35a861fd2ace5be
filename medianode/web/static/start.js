/* Start page: whoever holds an API key sees what is live and makes keys for encoders and cameras. */

import { KEY, Refused, answered } from './archive.js';
import { KeyList } from './keys.js';
import { showMade } from './publish.js';
import { showPulled } from './pulled.js';
import { element } from './stage.js';
import { bitrate, codecs, copy, duration, nameless } from './words.js';

const RENEW = 4000;
const POSTER_AGE = 10_000;
const POSTER_RETRY = 2000;
const LINK_AGE = 60_000;
const PROJECTS_AGE = 30_000;
const TOKEN_AGE = 12 * 3600_000; // of the 24 hours for which a viewer's token is good
const WHERE = 'The first start of the node prints a key and keeps it in admin.key in its data directory; “medianode keys create NAME” on the node makes another.';
const $ = (id) => document.getElementById(id);

let key = sessionStorage.getItem(KEY) ?? '';
const cards = new Map();
const tokens = new Map(); // "app/room" → {token, at}
let viewing = new Map(); // app → "public" | "token", as far as the key may know
let projectsAt = -PROJECTS_AGE;

/** The API's answer. */
async function api(path, body = null, method = body ? 'POST' : 'GET') {
  const init = { method, headers: { Authorization: `Bearer ${key}` }, cache: 'no-store' };
  if (body) Object.assign(init, { body: JSON.stringify(body), headers: { ...init.headers, 'Content-Type': 'application/json' } });
  return answered(await fetch(`api/v1/${path}`, init));
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
  tokens.clear();
  viewing = new Map();
  projectsAt = -PROJECTS_AGE;
  keys.clear();
  clearMade();
  $('key-wrong').textContent = words;
  enter(false);
}

const wrongKey = (e) => e instanceof Refused && e.status === 401;
const noRight = (e) => e instanceof Refused && e.status === 403;
const why = (e) => (e instanceof Refused ? e.message : 'The node cannot be reached. Trying again…');

async function signIn(given) {
  key = given;
  try {
    await offerApps(true);
    await renew();
  } catch (e) {
    leave(wrongKey(e) ? `This key is not accepted here. ${WHERE}` : why(e));
    return;
  }
  sessionStorage.setItem(KEY, key);
  enter(true);
  keys.renew();
}

/** `first`: choose one that exists, where the one that stands there does not. */
async function offerApps(first = false) {
  try {
    projectsAt = performance.now();
    const { data } = await api('projects');
    viewing = new Map(data.map((p) => [p.slug, p.viewing]));
    $('apps').replaceChildren(...data.map((p) => element('option', { value: p.slug })));
    if (first && data.length && !data.some((p) => p.slug === $('app').value)) $('app').value = data[0].slug;
    if (first) choose();
  } catch (e) {
    if (!(e instanceof Refused) || e.status === 401) throw e;
    $('apps').replaceChildren(); // the key may not list projects: their names can still be typed
  }
}

/** Both lists, joined by room. */
async function renew() {
  const rooms = await api('rooms?limit=500'); // one after the other: a wrong key is told once
  const sessions = await api('sessions?limit=500');
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

/** Is a token needed to watch? Asked of the room itself where the key may not see the project. */
async function isPrivate(app, path) {
  if (viewing.has(app)) return viewing.get(app) === 'token';
  const open = await fetch(`play/${path}/state.json`, { cache: 'no-store' });
  return open.status === 401;
}

/** The player's address, with a viewer's token where the room needs one. Throws Refused where the key may not make any. */
async function viewerLink(app, room) {
  const path = `${encodeURIComponent(app)}/${encodeURIComponent(room)}`;
  if (!(await isPrivate(app, path))) return `play/${path}`;
  let made = tokens.get(path);
  if (!made || performance.now() - made.at > TOKEN_AGE) {
    const { data } = await api(`apps/${encodeURIComponent(app)}/tokens`, { room, canPublish: false, name: 'Viewer', ttl: '24h' });
    made = { token: data.token, at: performance.now() };
    tokens.set(path, made);
  }
  return `play/${path}?token=${encodeURIComponent(made.token)}`;
}

class Card {
  constructor({ app, room }) {
    Object.assign(this, { app, room, posterAt: -POSTER_AGE, gone: false, linked: '', linkedAt: -LINK_AGE });
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
    this.links = [];
    this.poster = element('a', { className: 'poster', href: play, attributes: { 'aria-label': `Play ${room}` } }, 'No picture yet', this.image, this.badge, this.count);
    this.links.push(this.poster, element('a', { className: 'button main', href: play }, 'Play'), element('a', { href: play, title: room }, room));
    const past = element('a', { href: `recordings/${encodeURIComponent(app)}?room=${encodeURIComponent(room)}`, className: 'button' }, 'Recordings');
    const doing = element('div', { className: 'doing' }, this.links[1], share, past);
    const body = element('div', { className: 'body' }, element('h3', {}, this.links[2]), this.facts, this.source, this.hints, doing);
    this.item = element('li', { className: 'card', dataset: { room } }, this.poster, body);
    $('cards').append(this.item);
  }

  update(room, session) {
    const n = watching(room);
    const tracks = session?.tracks ?? [];
    const video = tracks.find((t) => t.kind === 'video');
    const audio = tracks.find((t) => t.kind === 'audio');
    const rate = tracks.reduce((sum, t) => sum + t.bitrate, 0);
    const [measured, declared] = [video?.frameRate, video?.declaredFrameRate];
    const steady = declared && Math.abs(measured - declared) <= declared * 0.2; // one second's measure jitters
    const fps = steady ? declared : session?.uptime < 3 ? declared : measured || declared;
    const size = video?.height ? `${video.width}×${video.height}${fps ? ` at ${Math.round(fps)} fps` : ''}` : null;
    const slate = room.showing === 'slate'; // the gap has pictures then
    this.badge.textContent = slate ? 'Slate' : room.held ? 'Waiting for the encoder' : room.showing === 'backup' ? 'Backup' : 'Live';
    this.badge.classList.toggle('held', room.held && !slate);
    this.badge.classList.toggle('slate', slate);
    this.name(session);
    this.count.textContent = `${n} watching`;
    this.facts.textContent = [codecs({ videoCodec: video?.codec, audioCodec: audio?.codec }), size, bitrate(rate)].filter(Boolean).join(' · ');
    this.source.textContent = session ? `${session.door.toUpperCase()} from ${session.name || session.identity}, ${duration(session.uptime)}` : slate ? 'Waiting for the encoder' : '';
    this.hints.textContent = session?.hints?.[0] ?? '';
    const shown = slate ? 'slate' : 'other';
    if (shown !== this.shows) this.posterAt = -POSTER_AGE;
    this.shows = shown;
    if ((!room.held || slate) && performance.now() - this.posterAt > POSTER_AGE) this.renew();
    this.link();
  }

  /** Of a live stream the name that it was given, if any. */
  name(session) {
    const given = nameless(this.room) && session?.name ? session.name : this.room;
    if (this.links[2].textContent === given) return;
    this.links[2].textContent = given;
    this.poster.setAttribute('aria-label', `Play ${given}`);
  }

  /** The links play the room also where viewers need a token; without the right to make one they lead to the page that asks for it. */
  async link() {
    const known = viewing.get(this.app) ?? '';
    const now = performance.now();
    if (this.linked === known && now - this.linkedAt < LINK_AGE) return;
    Object.assign(this, { linked: known, linkedAt: now });
    const href = await viewerLink(this.app, this.room).catch(() => `play/${this.path}`);
    for (const a of this.links) if (a.getAttribute('href') !== href) a.href = href;
  }

  /** By fetch, for the key must not stand in an address. A room that has just begun has its first picture soon. */
  async renew() {
    this.posterAt = performance.now();
    const response = await fetch(`live/${this.path}/frame.jpg?w=320`, { headers: { Authorization: `Bearer ${key}` }, cache: 'no-store' }).catch(() => null);
    if (this.gone) return;
    if (!response?.ok) {
      if (response?.status === 404) setTimeout(() => !this.gone && !document.hidden && this.renew(), POSTER_RETRY);
      return;
    }
    const url = URL.createObjectURL(await response.blob());
    this.image.onload = this.image.onerror = () => URL.revokeObjectURL(url);
    this.image.src = url;
    this.image.hidden = false;
  }

  /** A link that opens the room also where viewers need a token. */
  async share(button) {
    let link;
    try {
      link = new URL(await viewerLink(this.app, this.room), location.href).href;
    } catch (e) {
      $('trouble').textContent = `No viewer link: ${why(e)}`;
      $('trouble').hidden = false;
      return;
    }
    copy(button, link);
  }

  remove() {
    this.gone = true;
    this.item.remove();
  }
}

const shown = async (box, app, kind, made) => {
  if (kind === 'url') return showPulled(box, { app, made, api, why, play: await viewerLink(app, made.roomName ?? made.room).catch(() => '') });
  const room = made.roomName ?? made.room;
  const play = await viewerLink(app, room).catch(() => `play/${encodeURIComponent(app)}/${encodeURIComponent(room)}`);
  const path = `${encodeURIComponent(app)}/${encodeURIComponent(room)}`;
  showMade(box, { kind, made: { whipUrl: `whip/${path}`, ...made }, node: document.body.dataset, play, page: `publish/${path}` });
};
const keys = new KeyList({ list: $('keys-list'), count: $('keys-count'), wrong: $('keys-wrong'), app: () => $('app').value.trim(), api, why, show: shown });

function clearMade() {
  $('made').replaceChildren();
  $('made').hidden = true;
  $('make-ask').replaceChildren();
  $('make-ask').hidden = true;
  $('make-wrong').textContent = '';
}

/** `again`: also where the room has a key already. */
async function make(again) {
  const [app, room, kind] = [$('app').value.trim(), $('room').value.trim(), $('kind').value];
  const camera = kind === 'ws-mjpeg';
  const button = $('make').querySelector('button');
  button.disabled = true;
  clearMade();
  try {
    const present = again ? [] : await keys.of(app, room, kind);
    if (present.length) askFirst(present);
    else {
      const path = `apps/${encodeURIComponent(app)}/${camera ? 'ws-ingest' : 'ingress'}`;
      const called = kind === 'url' ? { url: $('address').value.trim(), onDemand: $('on-demand').checked } : {};
      const { data } = await api(path, camera ? { room } : { inputType: kind, room, ...called }, 'POST');
      $('address').value = ''; // it may carry a password
      await shown($('made'), app, kind, data);
      keys.renew();
    }
  } catch (error) {
    $('make-wrong').textContent = why(error);
  }
  button.disabled = false;
}

function askFirst(present) {
  const [{ app, kind, room, row }] = present;
  const words =
    kind === 'url'
      ? `${room} has ${present.length === 1 ? 'a camera' : `${present.length} cameras`} that the node calls already.`
      : `${room} has ${present.length === 1 ? 'a key' : `${present.length} keys`} of this sort already. Another one is not needed to publish again.`;
  const show = element('button', { type: 'button' }, 'Show it');
  const another = element('button', { type: 'button' }, 'Make another');
  show.addEventListener('click', () => {
    clearMade();
    shown($('made'), app, kind, row);
  });
  another.addEventListener('click', () => make(true));
  $('make-ask').replaceChildren(element('span', {}, words), show, another);
  $('make-ask').hidden = false;
}

/** What the form asks for depends on what publishes; where the recordings are, on the app. */
function choose() {
  const called = $('kind').value === 'url';
  for (const field of document.querySelectorAll('[data-for="url"]')) {
    field.hidden = !called;
    field.querySelector('input').disabled = !called;
  }
  $('make-go').textContent = called ? 'Add the camera' : 'Make a key';
  $('recordings').href = `recordings/${encodeURIComponent($('app').value.trim() || 'live')}`;
}

async function beat() {
  if (key && !$('board').hidden && !document.hidden) {
    try {
      if (performance.now() - projectsAt > PROJECTS_AGE) await offerApps();
      await renew();
      keys.beat();
      $('trouble').hidden = true;
    } catch (e) {
      if (wrongKey(e)) leave(`This key is no longer accepted. ${WHERE}`);
      else if (noRight(e)) leave(why(e));
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
$('make').addEventListener('submit', (e) => {
  e.preventDefault();
  make(false);
});
$('make').addEventListener('invalid', clearMade, true);
$('app').addEventListener('change', () => keys.renew());
$('app').addEventListener('input', choose);
$('kind').addEventListener('change', choose);
document.addEventListener('visibilitychange', () => !document.hidden && key && renew().catch(() => {}));
if (!document.body.dataset.whip) $('kind').querySelector('[value="whip"]').remove();
if (!document.body.dataset.wsJpeg) $('kind').querySelector('[value="ws-mjpeg"]').remove();
choose();
if (key) await signIn(key);
else enter(false);
beat();
