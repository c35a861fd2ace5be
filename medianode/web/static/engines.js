/* Engines: three ways to bring a room to the screen, one face.
 *
 *   start()      begin; the end is told once by report.end(reason), reason: ended | network | refused | gone | media | unsupported
 *   stop()       give everything back; idempotent
 *   progress()   a number that grows while pictures or sound move
 *   nudge()      it does not move: help it
 *   retry()      true if it goes on after a network error without being built anew
 *   renew()      the publisher is back: look at once
 *   goLive()     jump to the live edge
 *   stats(now)   {latency (s), width, height, fps}; null where not known. `now`: the node's clock, ms
 */

const PART_BOUND = 16 * 1024 * 1024;
const NOT_PLAYABLE = new Set(['manifestIncompatibleCodecsError', 'bufferAddCodecError', 'bufferIncompatibleCodecsError', 'fragParsingError']);

const MEASURED = 3000; // ms before a frame rate is told
const SAMPLES = {
  h264: 'video/mp4; codecs="avc1.42E01E"',
  hevc: 'video/mp4; codecs="hvc1.1.6.L93.B0"',
  av1: 'video/mp4; codecs="av01.0.05M.08"',
  vp8: 'video/mp4; codecs="vp08.00.10.08"',
  vp9: 'video/mp4; codecs="vp09.00.10.08"',
  aac: 'audio/mp4; codecs="mp4a.40.2"',
  opus: 'audio/mp4; codecs="opus"',
  flac: 'audio/mp4; codecs="flac"',
  mp3: 'audio/mp4; codecs="mp3"',
  ac3: 'audio/mp4; codecs="ac-3"',
  eac3: 'audio/mp4; codecs="ec-3"',
};

let loading = null;

/** Those of `names` that this browser says it cannot play; what it was never asked about counts as playable. */
export function unplayable(names) {
  const source = globalThis.ManagedMediaSource ?? globalThis.MediaSource;
  if (!source) return [];
  return names.filter((name) => SAMPLES[name] && !source.isTypeSupported(SAMPLES[name]));
}

/** The Hls class, or null where the script is missing. hls.js comes as UMD: a module import would not hand the class over. */
export function loadHls() {
  loading ??= new Promise((resolve) => {
    const script = document.createElement('script');
    script.src = new URL('vendor/hls.min.js', import.meta.url).href;
    script.onload = () => resolve(globalThis.Hls ?? null);
    script.onerror = () => {
      script.remove();
      loading = null;
      resolve(null);
    };
    document.head.append(script);
  });
  return loading;
}

export const playsNatively = (video) => video.canPlayType('application/vnd.apple.mpegurl') !== '';

export function withToken(url, token) {
  if (!token) return url;
  const full = new URL(url, location.href);
  if (!full.searchParams.has('token')) full.searchParams.set('token', token);
  return full.href;
}

function jump(video, to) {
  if (Number.isFinite(to) && Math.abs(video.currentTime - to) > 0.25) video.currentTime = to;
}

class VideoEngine {
  constructor(video, url, token, report) {
    Object.assign(this, { video, url, token, report, done: false, listening: new AbortController(), frames: [0, 0], fps: null });
    this.on('playing', () => report.state('playing'));
    this.on('waiting', () => report.state('buffering'));
    this.on('ended', () => this.end('ended'));
  }

  on(event, handler) {
    this.video.addEventListener(event, handler, { signal: this.listening.signal });
  }

  end(reason, detail) {
    if (this.done) return;
    this.done = true;
    this.report.end(reason, detail);
  }

  stop() {
    this.done = true;
    this.listening.abort();
    this.video.pause();
    this.video.removeAttribute('src');
    this.video.load();
  }

  progress() {
    return this.video.currentTime;
  }

  retry() {
    return false;
  }

  renew() {}

  pictures() {
    const [at, seen] = this.frames;
    const now = performance.now();
    const total = this.video.getVideoPlaybackQuality?.().totalVideoFrames ?? 0;
    if (at && now - at >= MEASURED) this.fps = total > seen ? ((total - seen) * 1000) / (now - at) : null;
    if (total && (!at || now - at >= MEASURED)) this.frames = [now, total];
    return { width: this.video.videoWidth || null, height: this.video.videoHeight || null, fps: this.fps };
  }
}

/** Low-latency HLS through Media Source Extensions. */
export class HlsEngine extends VideoEngine {
  constructor(Hls, ...rest) {
    super(...rest);
    Object.assign(this, { Hls, hls: null, retries: 0, recovered: [] });
  }

  /** What hls.js is to do. No liveSyncDuration here: it would then prefer that to the PART-HOLD-BACK that the node asks for. */
  options() {
    return {
      lowLatencyMode: true,
      maxLiveSyncPlaybackRate: 1.1,
      backBufferLength: 10, // months on a kiosk: what was seen is thrown away
      maxBufferLength: 20,
      maxMaxBufferLength: 40,
      maxBufferSize: 40 * 1024 * 1024,
      enableWorker: true,
      capLevelToPlayerSize: false,
      startFragPrefetch: true,
    };
  }

  start() {
    const { Hls } = this;
    this.hls = new Hls({
      ...this.options(),
      xhrSetup: (xhr, url) => {
        if (this.token) xhr.open('GET', withToken(url, this.token), true);
      },
    });
    this.hls.on(Hls.Events.ERROR, (_, data) => this.failed(data));
    this.hls.on(Hls.Events.FRAG_BUFFERED, () => {
      this.retries = 0;
    });
    this.hls.on(Hls.Events.MANIFEST_PARSED, () => this.report.ready());
    this.hls.loadSource(this.url);
    this.hls.attachMedia(this.video);
  }

  stop() {
    this.hls?.destroy();
    this.hls = null;
    super.stop();
  }

  failed(data) {
    if (!data.fatal || this.done) return;
    const code = data.response?.code ?? 0;
    if (code === 401 || code === 403) this.end('refused', code);
    else if (NOT_PLAYABLE.has(data.details)) this.end('unsupported', data.details);
    else if (data.type === this.Hls.ErrorTypes.MEDIA_ERROR) this.recover(data.details);
    else if (code >= 400 && code < 500) this.end('gone', code); // off air, or restarted: the old position means nothing any more
    else this.report.network();
  }

  recover(details) {
    const now = performance.now();
    this.recovered = this.recovered.filter((at) => now - at < 15_000);
    if (this.recovered.length >= 3) return this.end('media', details);
    if (this.recovered.length === 1) this.hls.swapAudioCodec();
    this.recovered.push(now);
    this.hls.recoverMediaError();
    return this.report.ready();
  }

  retry() {
    if (this.done || !this.hls || ++this.retries > 6) return false;
    if (this.hls.levels.length) this.hls.startLoad();
    else this.hls.loadSource(this.url);
    return true;
  }

  nudge() {
    const edge = this.hls?.liveSyncPosition;
    if (edge != null && edge > this.video.currentTime + 0.5) jump(this.video, edge);
    else this.hls?.startLoad();
  }

  renew() {
    this.hls?.startLoad(); // fetches the playlist at once
  }

  goLive() {
    jump(this.video, this.hls?.liveSyncPosition ?? NaN);
  }

  stats(now) {
    const shown = this.hls?.playingDate?.getTime();
    const measured = shown ? (now - shown) / 1000 : null;
    const told = this.hls?.latency || null;
    return { latency: measured !== null && measured > 0 && measured < 600 ? measured : told, target: this.hls?.targetLatency ?? null, ...this.pictures() };
  }
}

/** HLS by the browser itself: iPhones before Managed Media Source, TVs, and everywhere when hls.js is missing. */
export class NativeEngine extends VideoEngine {
  start() {
    this.on('error', () => this.end(this.video.error?.code === 2 ? 'network' : 'unsupported', this.video.error?.message));
    this.on('loadedmetadata', () => this.report.ready());
    this.video.src = withToken(this.url, this.token);
  }

  edge() {
    const { seekable } = this.video;
    return seekable.length ? seekable.end(seekable.length - 1) : NaN;
  }

  nudge() {
    this.goLive();
  }

  goLive() {
    jump(this.video, this.edge() - 3);
  }

  stats(now) {
    const start = this.video.getStartDate?.().getTime();
    const known = Number.isFinite(start) && start > 0;
    const behind = this.edge() - this.video.currentTime;
    const latency = known ? (now - start) / 1000 - this.video.currentTime : Number.isFinite(behind) ? behind : null;
    return { latency, target: null, ...this.pictures() };
  }
}

/** JPEG after JPEG, each shown as it comes; while one is being decoded only the newest of the others is kept. */
export class MjpegEngine {
  constructor(canvas, url, token, report) {
    Object.assign(this, { canvas, url, token, report, done: false, count: 0, marks: [], newest: null, busy: false });
    this.context = canvas.getContext('bitmaprenderer');
    this.aborting = new AbortController();
  }

  start() {
    this.run().catch((e) => this.end(e.name === 'MediaError' ? 'media' : 'network', e.message));
  }

  async run() {
    const response = await fetch(withToken(this.url, this.token), { signal: this.aborting.signal, cache: 'no-store' });
    const { status } = response;
    if (!response.ok) {
      const reason = status === 401 || status === 403 ? 'refused' : status === 415 || status === 501 ? 'unsupported' : status < 500 ? 'gone' : 'network';
      return this.end(reason, status);
    }
    this.report.ready();
    const parts = new Parts(PART_BOUND);
    const reader = response.body.getReader();
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return this.end('ended');
      for (const jpeg of parts.push(value)) this.show(jpeg);
    }
  }

  show(jpeg) {
    this.newest = jpeg;
    if (!this.busy) this.draw();
  }

  async draw() {
    this.busy = true;
    while (this.newest && !this.done) {
      const jpeg = this.newest;
      this.newest = null;
      try {
        const bitmap = await createImageBitmap(new Blob([jpeg], { type: 'image/jpeg' }));
        if (this.done) bitmap.close();
        else this.present(bitmap);
      } catch {
        this.broken = (this.broken ?? 0) + 1; // a camera's torn JPEG: the next one is on its way
      }
    }
    this.busy = false;
  }

  present(bitmap) {
    const { canvas } = this;
    if (canvas.width !== bitmap.width || canvas.height !== bitmap.height) [canvas.width, canvas.height] = [bitmap.width, bitmap.height];
    this.context.transferFromImageBitmap(bitmap);
    this.count += 1;
    const now = performance.now();
    if (this.marks.length && now - this.marks.at(-1) > MEASURED) this.marks = []; // a gap is not a frame rate
    this.marks.push(now);
    while (this.marks.length > 300 || now - this.marks[0] > 2 * MEASURED) this.marks.shift();
    this.report.state('playing');
  }

  end(reason, detail) {
    if (this.done) return;
    this.done = true;
    this.report.end(reason, detail);
  }

  stop() {
    this.done = true;
    this.newest = null;
    this.aborting.abort();
  }

  progress() {
    return this.count;
  }

  retry() {
    return false;
  }

  nudge() {}

  renew() {}

  goLive() {}

  stats() {
    const { marks, canvas } = this;
    const span = marks.length > 1 ? marks.at(-1) - marks[0] : 0;
    const fps = span >= MEASURED ? ((marks.length - 1) * 1000) / span : null;
    return { latency: null, target: null, width: canvas.width, height: canvas.height, fps };
  }
}

/** multipart/x-mixed-replace taken apart by its Content-Length; bytes in, JPEGs out, never more than `bound` held. */
export class Parts {
  constructor(bound) {
    Object.assign(this, { bound, bytes: new Uint8Array(65_536), from: 0, to: 0, want: -1 });
  }

  push(chunk) {
    this.append(chunk);
    const jpegs = [];
    for (;;) {
      if (this.want < 0 && !this.header()) return jpegs;
      if (this.to - this.from < this.want) return jpegs;
      jpegs.push(this.bytes.slice(this.from, this.from + this.want));
      this.from += this.want;
      this.want = -1;
    }
  }

  append(chunk) {
    const held = this.to - this.from;
    if (held + chunk.length > this.bound) throw new MediaError(`a part over ${this.bound} bytes`);
    if (this.to + chunk.length > this.bytes.length) {
      const grown = held + chunk.length > this.bytes.length ? new Uint8Array(2 * (held + chunk.length)) : this.bytes;
      grown.set(this.bytes.subarray(this.from, this.to));
      [this.bytes, this.from, this.to] = [grown, 0, held];
    }
    this.bytes.set(chunk, this.to);
    this.to += chunk.length;
  }

  header() {
    const { bytes } = this;
    for (let i = this.from; i + 3 < this.to; i++) {
      if (bytes[i] !== 13 || bytes[i + 1] !== 10 || bytes[i + 2] !== 13 || bytes[i + 3] !== 10) continue;
      const text = new TextDecoder('latin1').decode(bytes.subarray(this.from, i));
      const length = /content-length:\s*(\d+)/i.exec(text);
      if (!length || Number(length[1]) > this.bound) throw new MediaError('a part without a usable Content-Length');
      this.want = Number(length[1]);
      this.from = i + 4;
      return true;
    }
    if (this.to - this.from > 8192) throw new MediaError('a part whose header does not end');
    return false;
  }
}

class MediaError extends Error {
  name = 'MediaError';
}
