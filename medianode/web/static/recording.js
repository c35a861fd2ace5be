/* Recording: plays one, from its beginning also while it grows; time of day, cuts, downloads. */

import { Archive, Refused } from './archive.js';
import { HlsEngine, loadHls, playsNatively } from './engines.js';
import { element } from './stage.js';
import { instant, length, size, time } from './words.js';

const RENEW = 4000;
const AGAIN = 3000;
const $ = (id) => document.getElementById(id);
const { app, recording, hls: hasScript } = document.body.dataset;
const root = new URL('../../', location.href);
const archive = new Archive(root);
const base = `vod/${app}/${recording}`;
const video = $('video');
const marks = { from: null, to: null };
const WORDS = {
  refused: 'It is no longer open to you. Load this page again.',
  gone: 'The recording could not be loaded.',
  unsupported: 'This browser cannot play this recording. The download works.',
  media: 'This browser could not play on. Load this page again, or take the download.',
  404: 'This recording is no longer here.',
  413: 'This recording is too long for one playlist. Players take a part of it: index.m3u8 with ?from= and &to=.',
  415: 'HLS does not carry this recording’s codec. The download works.',
};
let info = null;
let ranges = []; // of the clock, ms
let engine = null;
let early = 10; // seconds

/** As live ones are played, but from anywhere, and it is not over at its end: people go back. */
class Replay extends HlsEngine {
  options() {
    return { startPosition: this.from, backBufferLength: 60, maxBufferLength: 30, enableWorker: true };
  }

  start() {
    super.start();
    this.hls.on(this.Hls.Events.FRAG_BUFFERED, () => this.done || trouble(''));
  }

  end(reason, detail) {
    if (reason !== 'ended') super.end(reason, detail);
  }
}

const growing = () => info?.state === 'recording';
const first = () => ranges[0]?.from ?? Date.parse(info.startedAt);
const last = () => ranges.at(-1)?.to ?? first();
const share = (ms) => (100 * ms) / Math.max(1, last() - first()); // of the bar, in per cent

/** Players count without the gaps; people look at the clock. */
function clockOf(played) {
  let left = played * 1000;
  for (const { from, to } of ranges) {
    if (left <= to - from) return from + left;
    left -= to - from;
  }
  return last();
}

function playedAt(at) {
  let before = 0;
  for (const { from, to } of ranges) {
    if (at <= to) return (before + Math.max(0, at - from)) / 1000;
    before += to - from;
  }
  return before / 1000;
}

/** In hls.js a gap is closed up; by the browser itself, and where the player says which time it is, that counts. */
const now = () => engine?.hls?.playingDate?.getTime() ?? clockOf(video.currentTime);

async function ask() {
  info = await archive.json(`${base}/info.json`);
  ranges = info.ranges.map(({ from, to, here }) => ({ from: Date.parse(from), to: Date.parse(to), here }));
  $('title').textContent = document.title = info.title || `${info.room}, ${instant(info.startedAt)}`;
  $('all').href = archive.url(`recordings/${app}`, { room: info.room });
  onAir().catch(() => ($('watch').hidden = true));
  $('state').textContent = { recording: 'being recorded', finished: 'finished', failed: 'failed' }[info.state] ?? info.state;
  $('length').textContent = length(info.duration);
  $('size').textContent = size(info.bytes);
  $('gaps').textContent = info.gaps.length ? `${info.gaps.length} (${[...new Set(info.gaps.map((gap) => gap.cause))].join(', ')})` : 'none';
  $('live').hidden = !growing();
  $('begin').textContent = instant(first());
  $('end').textContent = instant(last());
  $('ranges').replaceChildren(
    ...ranges.map(({ from, to, here }) => {
      const bar = element('div', { className: here ? 'range' : 'range away' });
      Object.assign(bar.style, { left: `${share(from - first())}%`, width: `${share(to - from)}%` });
      return bar;
    }),
  );
  cut();
}

/** Back to the room, while there is something to see. */
async function onAir() {
  const room = `play/${app}/${encodeURIComponent(info.room)}`;
  const facts = await archive.json(`${room}/state.json`);
  $('watch').hidden = !facts.onAir;
  $('watch').href = archive.url(room);
}

function cut() {
  const low = marks.from ?? first();
  const high = marks.to ?? last();
  $('cut').hidden = marks.from === null && marks.to === null;
  Object.assign($('cut').style, { left: `${share(low - first())}%`, width: `${share(high - low)}%` });
  const query = {};
  if (marks.from !== null) query.from = new Date(marks.from).toISOString();
  if (marks.to !== null) query.to = new Date(marks.to).toISOString();
  $('download').href = archive.url(`${base}/download.mp4`, query);
  $('download').textContent = $('cut').hidden ? 'Download MP4' : `Download ${length((high - low) / 1000)} as MP4`;
}

function mark(which) {
  marks[which] = now();
  if (marks.from !== null && marks.to !== null && marks.to <= marks.from) marks[which === 'from' ? 'to' : 'from'] = null;
  cut();
}

function tick() {
  if (!info || !$('stage').checkVisibility()) return;
  const at = now();
  const part = share(Math.min(last(), Math.max(first(), at)) - first());
  $('hand').style.left = `${part}%`;
  $('track').setAttribute('aria-valuenow', String(Math.round(part)));
  $('track').setAttribute('aria-valuetext', instant(at));
  $('now').textContent = time(at);
  if (video.videoWidth) $('picture').textContent = `${video.videoWidth}×${video.videoHeight}`;
}

function seek(at) {
  video.currentTime = playedAt(Math.min(last(), Math.max(first(), at)));
}

async function play() {
  const at = Date.parse(new URLSearchParams(location.search).get('t') ?? '');
  const start = Number.isNaN(at) ? 0 : playedAt(at);
  const source = archive.url(`${base}/index.m3u8`);
  const Hls = hasScript ? await loadHls() : null;
  if (Hls?.isSupported()) {
    engine = new Replay(Hls, video, source, archive.token, { ready() {}, state() {}, network: away, end: over });
    engine.from = start;
    return engine.start();
  }
  if (!playsNatively(video)) return trouble('This browser plays no HLS by itself, and hls.js is not installed on this node. The download works.');
  video.src = source;
  video.addEventListener('loadedmetadata', () => start && (video.currentTime = start), { once: true });
}

const over = (reason, detail) => trouble(WORDS[detail] ?? WORDS[reason]);

function away() {
  trouble('The recording could not be loaded. Trying again…');
  engine.retries = 0; // as long as somebody waits for it
  setTimeout(() => engine.retry(), AGAIN);
}

function trouble(words) {
  $('trouble').hidden = !words;
  $('trouble').textContent = words;
}

async function begin() {
  try {
    await ask();
    if (archive.key && !archive.token) await probe();
  } catch (e) {
    const closed = e instanceof Refused && (e.status === 401 || e.status === 403);
    $('key-form').hidden = !closed;
    // one that was ordered this moment begins with its next key frame
    if (e.status === 404 && early-- > 0) setTimeout(begin, 1000);
    return trouble(closed && !archive.key && !archive.token ? '' : e instanceof Refused ? e.message : 'The node cannot be reached.');
  }
  $('key-form').hidden = true;
  trouble('');
  cut();
  video.poster = archive.url(`${base}/poster.jpg`, { width: 960 });
  $('stage').hidden = false;
  await play();
  setInterval(tick, 250);
  setInterval(() => growing() && ask().catch(() => {}), RENEW);
}

/** Is a token needed for what players fetch, which know of no keys? */
async function probe() {
  const open = await fetch(archive.url(`${base}/info.json`), { cache: 'no-store' });
  if (open.status === 401) await archive.borrow(app, info.room);
}

$('key-form').addEventListener('submit', (e) => {
  e.preventDefault();
  const given = $('key').value.trim();
  if (given.split('.').length === 3) archive.token = given;
  else archive.keep(given);
  begin();
});
$('back').addEventListener('click', () => (video.currentTime -= 10));
$('forward').addEventListener('click', () => (video.currentTime += 10));
$('live').addEventListener('click', () => {
  if (video.seekable.length) video.currentTime = Math.max(0, video.seekable.end(0) - 3);
  video.play();
});
$('from').addEventListener('click', () => mark('from'));
$('to').addEventListener('click', () => mark('to'));
$('track').addEventListener('pointerdown', (e) => {
  const box = $('track').getBoundingClientRect();
  seek(first() + ((e.clientX - box.left) / box.width) * (last() - first()));
});
$('track').addEventListener('keydown', (e) => {
  const step = { ArrowLeft: -5, ArrowRight: 5, PageDown: -60, PageUp: 60 }[e.key];
  if (!step) return;
  e.preventDefault(); // the page does not scroll along
  video.currentTime += step;
});
begin();
