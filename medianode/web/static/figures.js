/* Figures: what is told of a stream in numbers, below the player and on it, and the links to it. */

import { element } from './stage.js';
import { bitrate, codec, codecs, copy, delay, elapsed, share, MODES } from './words.js';
import { withToken } from './engines.js';

const PATHS = { udp: 'UDP', tcp: 'TCP (UDP does not come through)' };

/** The rows of the panel on the player: [words, value]. */
export function panelRows(facts, stats, mode) {
  const m = stats?.more;
  const size = stats?.width > 16 ? `${stats.width} × ${stats.height}` : null;
  const fps = stats?.fps ? `${Math.round(stats.fps)} fps` : null;
  const rows = [
    ['Played as', MODES[mode]],
    ['Delay', mode === 'mjpeg' ? 'under a second' : delay(stats?.latency)],
    ['Picture', [size, fps].filter(Boolean).join(', ')],
    ['Codec', m ? [m.videoCodec, m.audioCodec].filter(Boolean).map((name) => codec(name.toLowerCase().replace('h265', 'hevc'))).join(' + ') : facts && codecs(facts)],
    ['Bitrate', bitrate(m ? m.bitrate : facts?.bitrate)],
  ];
  if (m) {
    rows.push(
      ['Loss', share(m.loss)],
      ['Held against jitter', delay(m.jitterBuffer)],
      ['Round trip', delay(m.rtt)],
      ['Way', [PATHS[m.transport], m.relayed ? 'relayed' : null].filter(Boolean).join(', ')],
      ['Frozen', m.freezes ? `${m.freezes} times, ${m.frozen.toFixed(1)} s` : 'never'],
      ['Asked again', `${m.nacks} packets, ${m.keyFrameRequests} key frames`],
    );
  }
  return rows.map(([words, value]) => [words, value || '–']);
}

/** Fill a <dl>, touching only what changed. */
export function fillPanel(list, rows) {
  if (list.children.length !== rows.length) list.replaceChildren(...rows.map(() => element('div', {}, element('dt'), element('dd'))));
  rows.forEach(([words, value], i) => {
    const [dt, dd] = list.children[i].children;
    if (dt.textContent !== words) dt.textContent = words;
    if (dd.textContent !== value) dd.textContent = value;
  });
}

/** The list below the player on /play. */
export function factsInto(list) {
  const put = (name, value) => {
    const cell = list.querySelector(`[data-fact="${name}"]`);
    if (cell.textContent !== value) cell.textContent = value;
  };
  return (facts, stats, { mode, now, settled }) => {
    const size = stats?.width > 16 ? `${stats.width} × ${stats.height}` : facts?.width ? `${facts.width} × ${facts.height}` : null;
    const fps = mode === 'mjpeg' || mode === 'whep' ? stats?.fps : settled ? facts?.frameRate || stats?.fps : null;
    list.hidden = !facts?.onAir;
    put('mode', MODES[mode] ?? '–');
    put('latency', mode === 'mjpeg' ? 'under a second' : (delay(stats?.latency) ?? '–'));
    put('picture', [size, fps ? `${Math.round(fps)} fps` : null].filter(Boolean).join(', ') || '–');
    put('codec', (facts && codecs(facts)) || '–');
    put('bitrate', bitrate(facts?.bitrate) ?? '–');
    put('viewers', facts?.onAir ? String(facts.viewers) : '–');
    put('since', facts?.startedAt ? elapsed((now - facts.startedAt) / 1000) : '–');
  };
}

/** Each with the viewer's token, where the room needs one. */
export function shareLinks(player) {
  const link = (path) => withToken(player.url(path), player.token);
  const token = player.token ? `, token: '${player.token.replace(/[^\w.~+/=-]/g, '')}'` : '';
  const links = {
    script: `<video id="live" playsinline controls></video><script type="module">import { WhepPlayer } from '${new URL('static/medianode.js', player.url('')).href}'; new WhepPlayer(document.getElementById('live'), { url: '${player.url('whep/{}')}'${token} }).start();</script>`,
    whep: link('whep/{}'),
    hls: link('hls/{}/index.m3u8'),
    mjpeg: link('live/{}/mjpeg'),
    still: link('live/{}/frame.jpg'),
    embed: `<iframe src="${link('embed/{}').replaceAll('&', '&amp;')}" width="640" height="360" allow="autoplay; fullscreen" allowfullscreen style="border:0"></iframe>`,
  };
  const past = document.querySelector('[data-recordings]');
  if (past) past.href = withToken(new URL(`recordings/${encodeURIComponent(player.app)}?room=${encodeURIComponent(player.room)}`, player.url('')).href, player.token);
  const note = document.querySelector('[data-with-token]');
  if (note) note.hidden = !player.token;
  for (const field of document.querySelectorAll('[data-link]')) {
    field.value = links[field.dataset.link];
    const button = field.parentElement.querySelector('button');
    button.onclick = () => copy(button, field.value, field);
  }
}
