/* Words: what people read. Codecs, numbers, states. */

const CODECS = {
  h264: 'H.264', hevc: 'H.265', av1: 'AV1', vp8: 'VP8', vp9: 'VP9', mjpeg: 'JPEG', aac: 'AAC', opus: 'Opus', mp3: 'MP3', flac: 'FLAC', ac3: 'AC-3', eac3: 'E-AC-3',
  pcm_alaw: 'G.711 A-law', pcm_mulaw: 'G.711 µ-law',
};

export const MODES = { auto: 'Auto', whep: 'Real time (WebRTC)', hls: 'Low-latency HLS', native: 'HLS (native)', mjpeg: 'MJPEG' };

/** state → [title, text]; what is not here needs no words. */
export const STATES = {
  connecting: ['Connecting…', ''],
  buffering: ['Buffering…', ''],
  waiting: ['Waiting for the stream', 'Nobody is publishing here at the moment. It starts by itself.'],
  called: ['The camera is being called…', 'It starts in some seconds.'],
  unanswered: ['The camera does not answer', 'Trying again…'],
  held: ['The publisher lost its connection', 'Waiting for it to come back…'],
  ended: ['The stream has ended', 'Leave this page open: it starts again by itself.'],
  token: ['This room is private', 'It needs a viewer token. Ask whoever sent you the link.'],
  refused: ['This token does not open this room', 'It may have expired. Paste another one.'],
  unknown: ['There is no such room', 'Check the address.'],
  unsupported: ['This browser cannot play this stream', ''],
  offline: ['Cannot reach the node; trying again…', ''],
  busy: ['Too many viewers, or too many tries', 'Trying again in a moment…'],
  blocked: ['Real time does not come through', ''],
  tap: ['Ready to play', ''],
};

export const codec = (name) => CODECS[name] ?? name?.toUpperCase() ?? null;

export const codecs = (facts) => [codec(facts.videoCodec), codec(facts.audioCodec)].filter(Boolean).join(' + ') || null;

export function bitrate(bits) {
  if (!bits) return null;
  return bits >= 1e6 ? `${(bits / 1e6).toFixed(1)} Mbit/s` : `${Math.max(1, Math.round(bits / 1e3))} kbit/s`;
}

export function seconds(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return null;
  return value < 10 ? `${Math.max(0, value).toFixed(1)} s` : `${Math.round(value)} s`;
}

/** Under a second in milliseconds. */
export function delay(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return null;
  return value < 1 ? `${Math.max(0, Math.round(value * 1000))} ms` : seconds(value);
}

/** 0 to 1 in per cent. */
export function share(value) {
  if (value === null || value === undefined) return null;
  return value > 0 && value < 0.001 ? 'under 0.1 %' : `${(value * 100).toFixed(value ? 1 : 0)} %`;
}

export function duration(value) {
  const all = Math.max(0, Math.floor(value));
  const [h, m, s] = [Math.floor(all / 3600), Math.floor(all / 60) % 60, all % 60];
  if (h >= 48) return `${Math.floor(h / 24)} days`;
  return h ? `${h} h ${m} min` : m ? `${m} min` : `${s} s`;
}

/** 0:07, 12:34, 1:02:03. */
export function length(value) {
  const all = Math.round(value);
  const [h, m, s] = [Math.floor(all / 3600), Math.floor(all / 60) % 60, all % 60];
  const two = (n) => String(n).padStart(2, '0');
  return h ? `${h}:${two(m)}:${two(s)}` : `${m}:${two(s)}`;
}

/** A running clock; after two days it counts those. */
export function elapsed(value) {
  const all = Math.max(0, Math.floor(value));
  return all >= 48 * 3600 ? `${Math.floor(all / 86_400)} days` : length(all);
}

export const time = (at) => new Date(at).toLocaleTimeString([], { hour12: false });
export const instant = (at) => new Date(at).toLocaleString([], { dateStyle: 'medium', timeStyle: 'medium', hour12: false });

export function size(bytes) {
  if (bytes < 1e6) return `${Math.round(bytes / 1e3)} kB`;
  return bytes < 1e9 ? `${(bytes / 1e6).toFixed(1)} MB` : `${(bytes / 1e9).toFixed(2)} GB`;
}

/** A live stream's room is 32 digits, by which nobody knows it. */
export const nameless = (room) => /(^|-)[0-9a-f]{32}$/.test(room);

/** Nothing here has keys to press. */
export const TOUCH = matchMedia('(hover: none), (pointer: coarse)').matches;

/** Copy, and say so on the button. Without the clipboard (plain http) the text is selected, to be copied by hand. */
export async function copy(button, text, field) {
  const before = button.textContent;
  let said = 'Copied';
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    field?.focus();
    field?.select?.();
    said = field && document.execCommand?.('copy') ? 'Copied' : TOUCH ? 'Selected' : 'Press Ctrl+C';
  }
  button.textContent = said;
  setTimeout(() => {
    button.textContent = before;
  }, 1600);
}
