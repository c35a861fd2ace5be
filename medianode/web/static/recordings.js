/* Recordings: one day of an app's rooms as bars; a bar opens the recording where it was pressed. */

import { Archive, Refused } from './archive.js';
import { element } from './stage.js';
import { instant, length, nameless, size, time } from './words.js';

const DAY = 86_400_000;
const RENEW = 10_000;
const POSTERS = 60;
const $ = (id) => document.getElementById(id);
const archive = new Archive(new URL('../', location.href));
const { app } = document.body.dataset;
const room = new URLSearchParams(location.search).get('room') ?? '';
let day = midnight(Date.now());
let asked = 0;

function midnight(at) {
  const date = new Date(at);
  date.setHours(0, 0, 0, 0);
  return date.getTime();
}

const iso = (at) => new Date(at).toISOString();

const address = (id, query = {}) => archive.url(`vod/${app}/${id}`, query);

const name = ({ room, title, labels }) => (nameless(room) && (title || labels?.name)) || room;

/** Ranges of the day, by room; clips are copies of what is there. */
function byRoom(told) {
  const recordings = new Map(told.recordings.map((each) => [each.id, each]));
  const now = Date.parse(told.now);
  const ranges = told.ranges ?? told.recordings.filter(({ reason }) => reason !== 'clip').map((r) => ({ recording: r.id, from: r.startedAt, to: r.endedAt ?? told.now, here: true }));
  const names = new Map();
  const rooms = new Map();
  for (const range of ranges) {
    const recording = recordings.get(range.recording);
    if (!recording) continue;
    const whose = `${recording.room}/${recording.identity ?? ''}`;
    const also = recording.identity && !recording.room.endsWith(`-${recording.identity}`) ? ` · ${recording.identity}` : '';
    if (!names.has(whose)) names.set(whose, name(recording) + also);
    const of = names.get(whose);
    if (!rooms.has(of)) rooms.set(of, []);
    rooms.get(of).push({ recording, here: range.here, from: Date.parse(range.from), to: Math.min(Date.parse(range.to), now) });
  }
  return new Map([...rooms].sort(([a], [b]) => a.localeCompare(b)));
}

function lane(name, ranges, end) {
  const bar = element('div', { className: 'lane' });
  for (const { recording, here, from, to } of ranges) {
    const low = Math.max(from, day);
    const high = Math.min(to, end);
    if (high <= low) continue;
    const link = element('a', { className: 'range', href: address(recording.id, { t: iso(low) }), title: `${time(from)} to ${time(to)}${recording.title ? `: ${recording.title}` : ''}` });
    link.classList.toggle('growing', recording.state === 'recording');
    link.classList.toggle('away', !here);
    link.style.left = `${((low - day) / (end - day)) * 100}%`;
    link.style.width = `${((high - low) / (end - day)) * 100}%`;
    link.addEventListener('click', (e) => {
      const box = link.getBoundingClientRect();
      if (box.width > 4 && e.clientX) link.href = address(recording.id, { t: iso(low + ((e.clientX - box.left) / box.width) * (high - low)) });
    });
    bar.append(link);
  }
  return element('div', { className: 'row' }, element('span', { className: 'name', textContent: name, title: name }), bar);
}

function take(recording) {
  const path = `vod/${app}/${recording.id}/poster.jpg`;
  const picture = element('img', { alt: '', loading: 'lazy', width: 320, height: 180, src: archive.url(path, { width: 320 }) });
  picture.addEventListener('error', () => fetched(picture, path), { once: true });
  const words = element(
    'div',
    {},
    element('strong', { textContent: recording.title || name(recording) }),
    element('span', { textContent: instant(recording.startedAt) }),
    element('span', { textContent: recording.state === 'recording' ? 'being recorded' : [recording.reason === 'clip' ? 'Clip' : '', length(recording.duration), size(recording.bytes)].filter(Boolean).join(' · ') }),
  );
  return element('li', {}, element('a', { href: address(recording.id) }, picture, words));
}

/** A picture that only a key opens: those do not belong into addresses. */
async function fetched(picture, path) {
  const blob = archive.key ? await archive.picture(path, { width: 320 }) : null;
  if (!blob) return picture.replaceWith(element('span', { className: 'no-picture', textContent: 'No picture' }));
  picture.addEventListener('load', () => URL.revokeObjectURL(picture.src), { once: true });
  picture.src = URL.createObjectURL(blob);
}

async function show() {
  const turn = ++asked;
  const end = midnight(day + DAY * 1.5);
  const local = new Date(day);
  $('day').value = `${local.getFullYear()}-${String(local.getMonth() + 1).padStart(2, '0')}-${String(local.getDate()).padStart(2, '0')}`;
  let told;
  try {
    const path = room ? `vod/${app}/rooms/${encodeURIComponent(room)}/recordings.json` : `vod/${app}/recordings.json`;
    told = await archive.json(path, { from: iso(day), to: iso(end) });
  } catch (e) {
    return turn === asked && refused(e);
  }
  if (turn !== asked) return;
  $('key-form').hidden = $('trouble').hidden = true;
  $('board').hidden = false;
  const rooms = byRoom(told);
  $('rooms').replaceChildren(...[...rooms].map(([name, ranges]) => lane(name, ranges, end)));
  const list = told.recordings.slice().sort((a, b) => b.startedAt.localeCompare(a.startedAt));
  const shown = list.slice(0, POSTERS).map((each) => each.id).join();
  if ($('takes').dataset.shown !== shown) $('takes').replaceChildren(...list.slice(0, POSTERS).map(take));
  $('takes').dataset.shown = shown;
  $('empty').hidden = list.length > 0;
  $('count').textContent = told.more ? `the newest ${list.length} recordings` : `${list.length} recording${list.length === 1 ? '' : 's'}`;
}

function refused(e) {
  const closed = e instanceof Refused && (e.status === 401 || e.status === 403);
  if (closed) {
    $('key-form').hidden = false;
    $('board').hidden = true;
  }
  $('trouble').hidden = closed && !archive.key;
  $('trouble').textContent = e instanceof Refused ? e.message : 'The node cannot be reached. Trying again…';
}

$('hours').append(...[0, 3, 6, 9, 12, 15, 18, 21, 24].map((hour) => element('span', { textContent: String(hour).padStart(2, '0') })));
$('before').addEventListener('click', () => go(midnight(day - DAY / 2)));
$('after').addEventListener('click', () => go(midnight(day + DAY * 1.5)));
$('day').addEventListener('change', () => $('day').value && go(midnight(`${$('day').value}T12:00`)));
$('key-form').addEventListener('submit', (e) => {
  e.preventDefault();
  archive.keep($('key').value.trim());
  show();
});

function go(at) {
  day = at;
  show();
}

show();
setInterval(() => document.hidden || !$('key-form').hidden || show(), RENEW);
