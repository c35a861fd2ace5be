/* Real time: the engine over WHEP. The face is that of engines.js. */

import { WhepPlayer } from './medianode.js';

const DEADLINE = 7000; // ms to the first picture; then the next way to play is tried
const REBUILD = 12_000; // ms for a lost session to come back while the room is on air
/** What HTTP or the network said → how the player takes it. */
const REASONS = { unauthorized: 'refused', codec: 'unsupported', unsupported: 'unsupported', disabled: 'unsupported', refused: 'unsupported', 'not-found': 'unsupported' };

export const canRealtime = () => typeof RTCPeerConnection === 'function' && typeof MediaStream === 'function';

export class WhepEngine {
  /** `held()`: the publisher is away and may come back, so that silence is no fault. `taken`: a player that already runs. */
  constructor(video, url, token, report, { held, taken = null }) {
    Object.assign(this, { video, url, token, report, held, taken, done: false, was: false, listening: new AbortController(), offset: null });
    this.player = taken ?? new WhepPlayer(null, { url, token, autoplay: false });
  }

  on(name, handler) {
    this.player.addEventListener(name, handler, { signal: this.listening.signal });
  }

  start() {
    const { player } = this;
    this.on('track', () => this.report.ready());
    this.on('state', (e) => this.state(e.detail));
    this.on('stall', (e) => this.held() && e.preventDefault());
    player.attach(this.video);
    if (this.taken) {
      this.report.ready();
      this.state({ state: player.state, error: player.error });
    } else player.start();
    if (!this.was) this.wait(DEADLINE);
  }

  wait(ms) {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => (this.held() ? this.wait(ms) : this.end('late', this.player.error?.code ?? 'ice')), ms);
  }

  state({ state, error }) {
    if (this.done) return;
    if (state === 'live') {
      this.was = true;
      clearTimeout(this.timer);
      this.report.state('playing');
    } else if (state === 'failed') this.end(REASONS[error.code] ?? 'late', error.code);
    else if (state === 'waiting' && error.code === 'not-found') this.end('gone', error.status); // the page knows better what is on
    else if (state === 'waiting' || state === 'reconnecting') {
      this.report.state('buffering');
      if (this.was) this.wait(REBUILD);
      this.was = false;
    }
  }

  end(reason, detail) {
    if (this.done) return;
    this.done = true;
    clearTimeout(this.timer);
    this.report.end(reason, detail);
  }

  stop() {
    this.done = true;
    clearTimeout(this.timer);
    this.listening.abort();
    this.player.close();
    this.player.attach(null);
  }

  progress() {
    const pictures = this.video.getVideoPlaybackQuality?.().totalVideoFrames ?? 0;
    return pictures + (this.player.stats?.moved ?? 0);
  }

  retry() {
    return false;
  }

  nudge() {
    this.player.reconnect();
  }

  renew() {}

  goLive() {}

  stats(now) {
    this.player.clockOffset = now - Date.now();
    const s = this.player.stats;
    return { latency: s?.latency ?? null, target: null, width: s?.width ?? null, height: s?.height ?? null, fps: s?.fps ?? null, more: s };
  }
}

/** Looks aside whether real time works by now; resolves to a player that runs, or null. Nothing is seen or heard of it. */
export function probe(url, token) {
  const player = new WhepPlayer(null, { url, token, autoplay: false, reconnect: false });
  return new Promise((resolve) => {
    const timer = setTimeout(() => player.close(), DEADLINE);
    player.addEventListener('state', ({ detail: { state } }) => {
      if (!['live', 'failed', 'closed'].includes(state)) return;
      clearTimeout(timer);
      delete player.options.reconnect;
      resolve(state === 'live' ? player : null);
    });
    player.start();
  });
}
