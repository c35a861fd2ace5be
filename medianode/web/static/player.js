/* Player: keeps one room on the screen. Asks the node what is on, picks an engine, and starts over whenever that ends. */

import { HlsEngine, MjpegEngine, NativeEngine, loadHls, playsNatively, unplayable, withToken } from './engines.js';
import { factsInto, fillPanel, panelRows, shareLinks } from './figures.js';
import { WhepEngine, canRealtime, probe } from './realtime.js';
import { Stage } from './stage.js';
import { codec, codecs, MODES } from './words.js';

const POLL_WAITING = 3000;
const POLL_CALLED = 1000; // of a source that is being opened
const POLL_PLAYING = 5000;
const SETTLED = 3000; // ms of playing before the node's frame rate is believed
const STALLED = { say: 2, ask: 3, nudge: 7, rebuild: 14 }; // seconds without movement
const FAR_BEHIND = 6; // seconds over the target, after which catching up at 1.1 times would take too long
const BACKOFF = [300, 1000, 2000, 4000, 5000];
const CLIMB = [30_000, 60_000, 120_000, 300_000, 900_000]; // ms until a better way that failed is tried again
const NAMES = { realtime: 'whep', webrtc: 'whep', 'll-hls': 'hls' }; // what an operator may call them
const FORGIVEN = new Set(['late', 'stalled']); // the network's fault may pass; a codec's does not
const LIVE_ONLY = new Set(['whep', 'mjpeg']); // cannot be paused, only left
const ROOT = new URL('../../', location.href);

const remembered = {
  get: (key) => {
    try {
      return localStorage.getItem(`medianode.${key}`);
    } catch {
      return null; // a sandboxed frame has no storage
    }
  },
  set: (key, value) => {
    try {
      localStorage.setItem(`medianode.${key}`, value);
    } catch {
      return;
    }
  },
};

class Refusal extends Error {
  constructor(status) {
    super(`HTTP ${status}`);
    this.status = status;
  }
}

export class Player {
  constructor(root, { app, room, embedded = false, hls = true, engine = '', ports = {}, onFacts = () => {} }) {
    const query = new URLSearchParams(location.search);
    Object.assign(this, { app, room, embedded, ports, onFacts, hasScript: hls, Hls: null, engine: null, current: null, facts: null });
    this.token = query.get('token') ?? '';
    const wanted = query.get('mode') ?? query.get('engine') ?? engine;
    this.chosen = [NAMES[wanted] ?? wanted].find((mode) => Object.hasOwn(MODES, mode)) ?? 'auto';
    this.paused = query.get('autoplay') === '0';
    this.startMuted = query.has('muted') ? query.get('muted') !== '0' : embedded;
    this.rejected = new Map(); // mode → {why, until}; until, on performance.now's clock, it is not picked by itself
    Object.assign(this, { tumbles: new Map(), probed: null, probing: false, gone: 0 });
    Object.assign(this, { hasPlayed: false, lost: false, playingSince: 0, askedAt: 0, failures: 0, offset: 0, still: 0, last: -1, behind: 0, wakeUp: () => {} });
    this.stage = new Stage(root, { room, embedded });
    const { video } = this.stage;
    video.muted = this.startMuted;
    video.volume = Number(remembered.get('volume') ?? 1);
    this.listen(root);
  }

  url(path) {
    return new URL(`${path.replace('{}', `${encodeURIComponent(this.app)}/${encodeURIComponent(this.room)}`)}`, ROOT).href;
  }

  listen(root) {
    const on = (name, handler) => root.addEventListener(name, (e) => handler(e.detail));
    on('toggle', () => (this.paused ? this.resume() : this.pause()));
    on('mute', () => this.setMuted(!this.stage.video.muted));
    on('volume', (value) => this.setVolume(value));
    on('live', () => (this.paused ? this.resume() : this.engine?.goLive()));
    on('full', () => this.fullScreen(root));
    on('mode', (mode) => this.choose(mode));
    on('panel', () => this.figures(this.engine?.stats(Date.now() + this.offset) ?? null));
    on('token', (token) => {
      this.token = token;
      if (!this.embedded) shareLinks(this);
      this.wakeUp();
    });
    this.stage.video.addEventListener('volumechange', () => this.showSound());
    addEventListener('online', () => this.wakeUp());
    document.addEventListener('visibilitychange', () => this.visibility());
    setInterval(() => this.tick(), 1000);
  }

  async run() {
    this.Hls = this.hasScript ? await loadHls() : null;
    for (;;) await this.round();
  }

  /** Ask, then wait or play until it ends. */
  async round() {
    if (!this.hasPlayed) this.stage.show('connecting');
    try {
      await this.ask();
    } catch (e) {
      return this.refused(e);
    }
    const { facts, lost } = this;
    this.offer();
    this.lost &&= !facts.onAir;
    if (facts.held) return this.rest('held', 1000);
    if (!facts.onAir && facts.source) return this.called(facts.source);
    if (!facts.onAir) return this.rest(this.hasPlayed && !lost ? 'ended' : 'waiting', POLL_WAITING);
    if (this.paused) {
      this.stage.show('tap');
      return this.sleep(60_000);
    }
    const mode = this.pick();
    if (!mode) return this.rest('unsupported', POLL_PLAYING, this.excuse());
    const [reason, detail] = await this.play(mode);
    return this.after(mode, reason, detail);
  }

  /** The node fetches this room from somewhere. What is fetched on demand opens by our asking, while somebody looks. */
  called(source) {
    if (source !== 'idle') return this.rest(source === 'failing' ? 'unanswered' : 'called', POLL_CALLED);
    if (!this.paused) return this.rest('waiting', POLL_WAITING);
    this.stage.show('tap');
    return this.sleep(60_000);
  }

  /** The node's state of this room into `facts`; keeps `offset`, the node's clock minus ours. */
  async ask() {
    const sent = Date.now();
    const abort = AbortSignal.timeout?.(8000);
    const want = this.paused || document.hidden ? '' : '?want=1';
    const response = await fetch(withToken(this.url(`play/{}/state.json${want}`), this.token), { cache: 'no-store', signal: abort });
    if (!response.ok) throw new Refusal(response.status);
    const before = this.facts;
    this.facts = await response.json();
    this.askedAt = performance.now();
    this.offset = this.facts.now - (sent + Date.now()) / 2;
    if (before && codecs(before) !== codecs(this.facts)) this.forgive();
    this.tellFacts();
  }

  refused(error) {
    const status = error instanceof Refusal ? error.status : 0;
    if (status === 401 || status === 403) return this.rest(this.token ? 'refused' : 'token', 600_000);
    if (status === 404 || status === 400) return this.rest('unknown', 30_000);
    if (status === 429) return this.rest('busy', POLL_WAITING);
    this.unreachable();
    return this.rest('offline', POLL_WAITING);
  }

  /** It may come back restarted, and what was on air before means nothing then. */
  unreachable() {
    this.lost = true;
    this.stage.show('offline');
  }

  rest(state, ms, detail) {
    this.stage.show(state, detail);
    this.stage.playing(false);
    this.stage.lacks('');
    return this.sleep(ms * (0.85 + Math.random() * 0.3)); // a thousand players must not ask in step
  }

  sleep(ms) {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, ms);
      this.wakeUp = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }

  /** What this browser can do of what the node offers, best first. */
  able() {
    const { facts, stage } = this;
    const ways = (facts?.modes ?? []).flatMap((mode) => {
      if (mode === 'whep') return canRealtime() ? ['whep'] : [];
      if (mode !== 'hls') return [mode];
      return [...(this.Hls?.isSupported() ? ['hls'] : []), ...(playsNatively(stage.video) ? ['native'] : [])];
    });
    return [...new Set(ways)];
  }

  pick() {
    const able = this.able();
    if (this.chosen !== 'auto' && able.includes(this.chosen)) return this.rejected.get(this.chosen)?.until === Infinity ? null : this.chosen;
    const now = performance.now();
    const untried = able.find((mode) => !(this.rejected.get(mode)?.until > now));
    if (untried) return untried;
    return able.find((mode) => FORGIVEN.has(this.rejected.get(mode).why)) ?? null; // nothing works: again from the top
  }

  forgive() {
    this.rejected.clear();
    this.tumbles.clear();
  }

  /** It did not work: for good, or for a while that grows each time. */
  reject(mode, why) {
    const again = this.tumbles.get(mode) ?? 0;
    this.tumbles.set(mode, again + 1);
    const until = FORGIVEN.has(why) ? performance.now() + CLIMB[Math.min(again, CLIMB.length - 1)] * (0.85 + Math.random() * 0.3) : Infinity;
    this.rejected.set(mode, { why, until });
  }

  /** Back up the ladder: while a lesser way plays well, try the better one aside, and change over once it plays too. */
  async climb() {
    const { engine, current } = this;
    const able = this.able();
    const better = able.slice(0, able.indexOf(current)).find((mode) => this.rejected.get(mode)?.until <= performance.now());
    if (this.chosen !== 'auto' || !better || this.probing || document.hidden || this.still) return;
    if (better !== 'whep') {
      this.reject(better, 'late'); // if it fails again, it waits longer
      this.rejected.delete(better);
      return this.finish('switch');
    }
    this.probing = true;
    const player = await probe(this.url('whep/{}'), this.token);
    this.probing = false;
    if (!player) this.reject('whep', 'late');
    else if (this.engine !== engine || this.paused) player.close();
    else {
      this.rejected.delete('whep');
      this.probed = player;
      this.finish('switch');
    }
  }

  excuse() {
    const name = codec(this.facts.videoCodec) ?? codec(this.facts.audioCodec) ?? 'its codec';
    if (!this.able().length && !this.Hls) return 'hls.js is not installed on this node, and this browser does not play HLS by itself.';
    return this.chosen === 'auto' ? `It is sent as ${codecs(this.facts) ?? name}. Try another browser or device.` : `${MODES[this.chosen]} cannot carry ${name} here. Choose another way to play.`;
  }

  /** Why these are pictures without sound, where the browser is the reason. */
  lacking(mode) {
    const { facts } = this;
    if (mode !== 'mjpeg' || facts.jpeg || this.chosen === 'mjpeg' || !['hls', 'native'].some((way) => this.rejected.get(way)?.until === Infinity)) return '';
    const given = [facts.videoCodec, facts.audioCodec].filter(Boolean);
    const bad = unplayable(given);
    const names = (bad.length ? bad : given).map(codec).join(' + ');
    return `This browser cannot play ${names}: pictures only${facts.audioCodec ? ', no sound' : ''}`;
  }

  offer() {
    this.stage.modes(this.able(), this.chosen, this.current);
  }

  /** Resolves to [reason, detail] when the engine has ended. */
  play(mode) {
    const { stage } = this;
    this.current = mode;
    this.offer();
    stage.picture(mode === 'mjpeg' ? 'canvas' : 'video');
    stage.lacks(this.lacking(mode));
    if (!this.hasPlayed) stage.show('connecting');
    Object.assign(this, { still: 0, last: -1, behind: 0, asking: false, playingSince: 0, nextAsk: performance.now() + POLL_PLAYING });
    return new Promise((resolve) => {
      this.finish = (reason, detail) => resolve([reason, detail]);
      const report = {
        ready: () => this.begin(mode),
        state: (state) => this.moved(state),
        network: () => this.network(),
        end: this.finish,
      };
      this.engine = this.build(mode, report);
      this.engine.start();
      this.showSound();
    }).finally(() => {
      this.engine?.stop();
      this.engine = this.current = null;
      stage.latency(null, false);
    });
  }

  build(mode, report) {
    const { video, canvas } = this.stage;
    if (mode === 'whep') {
      const taken = this.probed;
      this.probed = null;
      return new WhepEngine(video, this.url('whep/{}'), this.token, report, { held: () => this.facts.held || !this.facts.onAir, taken });
    }
    if (mode === 'mjpeg') return new MjpegEngine(canvas, this.url('live/{}/mjpeg'), this.token, report);
    const playlist = this.url('hls/{}/index.m3u8');
    return mode === 'hls' ? new HlsEngine(this.Hls, video, playlist, this.token, report) : new NativeEngine(video, playlist, this.token, report);
  }

  async after(mode, reason, detail) {
    if (reason === 'switch') {
      this.failures = 0;
      return;
    }
    const never = reason === 'stalled' && !this.playingSince; // what played may stall once
    if (reason === 'unsupported' || reason === 'media' || reason === 'late' || never) this.reject(mode, reason);
    this.gone = reason === 'gone' && this.facts.onAir && !this.facts.held ? this.gone + 1 : 0;
    if (mode === 'whep' && this.gone > 1) this.reject(mode, 'late'); // on air, and not for real time
    if (mode === 'whep' && this.chosen === 'whep' && reason === 'late') return this.rest('blocked', POLL_PLAYING, this.blockedWords(detail));
    if (this.rejected.has(mode)) return;
    const wait = BACKOFF[Math.min(this.failures++, BACKOFF.length - 1)];
    await this.sleep(wait);
  }

  blockedWords(code) {
    const { udp, tcp } = this.ports;
    if (code === 'full') return 'The node has no place for another viewer in real time. Choose Auto or HLS below.';
    return `Is UDP port ${udp || 8189} ${tcp ? `or TCP port ${tcp} ` : ''}of the node blocked on the way? Choose Auto or HLS below.`;
  }

  async begin(mode) {
    if (mode === 'mjpeg' || this.paused) return;
    const { video } = this.stage;
    try {
      await video.play();
    } catch (e) {
      if (e.name !== 'NotAllowedError') return; // AbortError: the engine was replaced meanwhile
      if (video.muted) return this.blocked();
      video.muted = true;
      await video.play().catch((again) => again.name === 'NotAllowedError' && this.blocked());
    }
    this.showSound();
  }

  blocked() {
    this.paused = true;
    this.finish?.('switch');
  }

  /** The engine says that pictures move, or do not. */
  moved(state) {
    if (this.paused || !this.engine) return;
    if (state === 'buffering') {
      if (!this.hasPlayed) this.stage.show('connecting');
      return;
    }
    Object.assign(this, { hasPlayed: true, failures: 0, still: 0, gone: 0 });
    this.stage.show('playing');
    this.stage.playing(true);
    if (this.playingSince) return;
    this.playingSince = performance.now();
    this.check();
  }

  async network() {
    if (this.still >= STALLED.say) this.check();
    await this.sleep(BACKOFF[Math.min(this.engine?.retries ?? 0, BACKOFF.length - 1)]);
    if (!this.engine || this.engine.done) return;
    if (!this.engine.retry()) this.finish('network');
  }

  tick() {
    const { engine, stage } = this;
    if (!engine || this.paused) return this.figures(engine?.stats(Date.now() + this.offset) ?? null);
    const at = engine.progress();
    if (at !== this.last) {
      if (this.still >= STALLED.say && this.last >= 0) this.moved('playing');
      Object.assign(this, { still: 0, last: at });
    } else {
      this.still += 1;
      this.stalled();
    }
    const stats = engine.stats(Date.now() + this.offset);
    const over = stats.latency !== null && stats.latency > Math.max((stats.target ?? 4) + FAR_BEHIND, 8);
    this.behind = over ? this.behind + 1 : 0;
    if (this.behind >= 4 && this.still === 0) {
      engine.goLive();
      this.behind = 0;
    }
    stage.latency(stats.latency, over);
    this.figures(stats);
    if (performance.now() > this.nextAsk && !document.hidden) this.check();
    if (this.playingSince && performance.now() - this.playingSince > SETTLED) this.climb();
  }

  stalled() {
    const { stage, still } = this;
    if (document.hidden && this.current === 'mjpeg') return;
    if (still === STALLED.say) stage.show(this.hasPlayed ? 'buffering' : 'connecting');
    if (still === STALLED.say || (still >= STALLED.ask && still % 2)) this.check();
    if (still !== STALLED.nudge || this.facts.held) return;
    this.engine.nudge();
    this.last = this.engine.progress(); // a jump is not yet movement
  }

  /** While playing: renew the facts; end what is over, say what is held, rebuild what does not move though it should. */
  async check() {
    if (this.asking) return;
    this.asking = true;
    this.nextAsk = performance.now() + POLL_PLAYING * (this.embedded ? 2 : 1) * (0.85 + Math.random() * 0.3);
    const { engine } = this;
    try {
      await this.ask();
    } catch (e) {
      this.asking = false;
      if (this.engine !== engine) return;
      if (e instanceof Refusal && e.status < 500 && e.status !== 429) this.finish('gone');
      else if (this.still >= STALLED.say && !(e instanceof Refusal && e.status === 429)) this.unreachable();
      return;
    }
    this.asking = false;
    if (this.engine !== engine) return;
    if (this.stage.root.dataset.state === 'offline') return this.finish('switch');
    if (this.still < STALLED.ask) return;
    const wasHeld = this.stage.root.dataset.state === 'held';
    if (this.facts.held) this.stage.show('held');
    else if (!this.facts.onAir) this.finish('ended');
    else if (wasHeld) this.returned();
    else if (this.still >= STALLED.rebuild) this.finish('stalled');
  }

  /** The publisher is back within its hold: the same playlist goes on. */
  returned() {
    this.still = STALLED.say;
    this.playingSince = 0; // its figures start anew
    this.stage.show('buffering');
    this.wakeUp(); // out of a backoff
    this.engine.renew();
  }

  pause() {
    this.paused = true;
    this.stage.playing(false);
    const over = LIVE_ONLY.has(this.current);
    if (over) this.finish('switch');
    else this.stage.video.pause();
    this.stage.show(over ? 'tap' : 'paused');
  }

  resume() {
    this.paused = false;
    this.last = -1;
    if (!this.engine) {
      this.stage.video.play().catch(() => {}); // within the tap: iPhones then let this element play later on
      return this.wakeUp();
    }
    this.engine.goLive();
    this.stage.show('buffering');
    return this.begin(this.current);
  }

  choose(mode) {
    this.chosen = mode;
    this.forgive();
    this.finish?.('switch');
    this.wakeUp();
  }

  visibility() {
    if (document.hidden) {
      clearTimeout(this.hiding);
      this.hiding = setTimeout(() => this.hide(), 10_000);
      return;
    }
    clearTimeout(this.hiding);
    if (this.hidden) {
      this.hidden = false;
      this.resume();
    } else if (this.current && this.current !== 'mjpeg' && !this.paused) this.engine.goLive();
    this.wakeUp();
  }

  /** Pictures that nobody sees need not be sent, where there is no sound to listen to: MJPEG; and a camera on demand must not stay open. */
  hide() {
    const { video } = this.stage;
    const silent = this.current === 'mjpeg' || (this.facts?.onDemand && (video.muted || !this.facts.audioCodec));
    if (!silent || !this.current || this.paused || document.pictureInPictureElement) return;
    this.hidden = true;
    this.pause();
    this.finish('switch');
  }

  setMuted(muted) {
    const { video } = this.stage;
    video.muted = muted;
    if (!muted && video.volume === 0) video.volume = 1;
  }

  setVolume(value) {
    const { video } = this.stage;
    video.volume = value;
    video.muted = value === 0;
    remembered.set('volume', String(value || 1));
  }

  showSound() {
    const { video } = this.stage;
    const has = this.current !== 'mjpeg' && Boolean(this.facts?.audioCodec);
    this.stage.sound({ muted: video.muted, volume: video.volume, has, offer: has && video.muted && !this.embedded });
    this.stage.root.classList.toggle('sound-only', this.current !== 'mjpeg' && this.facts?.videoCodec === null && has);
  }

  async fullScreen(root) {
    if (document.fullscreenElement) return document.exitFullscreen();
    if (root.requestFullscreen) return root.requestFullscreen().catch(() => {}); // a frame without allow="fullscreen"
    return this.stage.video.webkitEnterFullscreen?.(); // iPhone: only the video itself can
  }

  tellFacts() {
    this.showSound();
    this.figures(this.engine?.stats(Date.now() + this.offset) ?? null);
  }

  figures(stats) {
    const settled = this.playingSince > 0 && this.askedAt - this.playingSince >= SETTLED;
    this.onFacts(this.facts, stats, { mode: this.current, now: Date.now() + this.offset, settled });
    if (!this.stage.panel.hidden) fillPanel(this.stage.panel.firstChild, panelRows(this.facts, stats, this.current));
  }
}

function mount(root) {
  const { app, room, embed, hls, engine, udp, tcp } = root.dataset;
  const list = document.querySelector('[data-facts]');
  const player = new Player(root, { app, room, embedded: embed === 'on', hls: hls === 'on', engine, ports: { udp, tcp }, onFacts: list ? factsInto(list) : undefined });
  shareLinks(player);
  player.run();
}

for (const root of document.querySelectorAll('[data-player]')) mount(root);
