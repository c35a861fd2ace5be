// @ts-check
/* Connection: one WHIP or WHEP session, set up, watched, restarted and set up again. medianode.js makes players and publishers of it. */

/** @typedef {import('./medianode.d.ts').State} State */
/** @typedef {import('./medianode.d.ts').ErrorCode} ErrorCode */
/** @typedef {import('./medianode.d.ts').ConnectionOptions} ConnectionOptions */
/** @typedef {Record<string, any>} Row a member of RTCStatsReport */

const BACKOFF = [250, 1000, 2000, 4000, 8000, 15_000];
const MAX_RETRY_AFTER = 60_000;
const HTTP_TIMEOUT = 10_000;
const HICCUP = 500; // ms: often it comes back by itself
const RESTART_TIMEOUT = 8000; // for an ICE restart to connect; Chromium says `failed` 10 s after `disconnected`
const RESTART_TRIES = 6;
const BUSY_FOR = 30_000; // our own lost session may hold the room until the node has noticed
const STABLE = 10_000; // live for so long: the next loss starts with the shortest wait
const FINAL = new Set(['unauthorized', 'not-found', 'busy', 'codec', 'disabled', 'refused', 'unsupported']);
/** @type {Record<number, ErrorCode>} */
const CODES = { 401: 'unauthorized', 403: 'unauthorized', 404: 'not-found', 405: 'disabled', 406: 'codec', 409: 'busy', 415: 'codec', 429: 'too-many', 501: 'disabled', 503: 'full' };

export class MedianodeError extends Error {
  /** @param {ErrorCode} code @param {string} message @param {{status?: number, retryAfter?: number | null}} [more] */
  constructor(code, message, { status = 0, retryAfter = null } = {}) {
    super(message);
    this.name = 'MedianodeError';
    this.code = code;
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

/** @param {string | null} link @returns {RTCIceServer[]} */
export function iceServersOf(link) {
  const servers = [];
  for (const [, address, rest] of (link ?? '').matchAll(/<([^>]*)>((?:\s*;\s*[\w*-]+\s*(?:=\s*(?:"(?:[^"\\]|\\.)*"|[^\s",;]+))?)*)/g)) {
    /** @type {Record<string, string>} */
    const given = {};
    for (const [, name, quoted, bare] of rest.matchAll(/;\s*([\w*-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s",;]+))/g)) {
      given[name.toLowerCase()] = quoted === undefined ? bare : quoted.replace(/\\(.)/g, '$1');
    }
    if (given.rel !== 'ice-server' || !/^(stun|turn)s?:/i.test(address)) continue;
    servers.push(given.username ? { urls: address, username: given.username, credential: given.credential ?? '' } : { urls: address });
  }
  return servers;
}

/** @param {string} sdp @param {string} name */
const attribute = (sdp, name) => new RegExp(`^a=${name}:(.*?)\\r?$`, 'm').exec(sdp)?.[1] ?? '';

/** What a PATCH carries (RFC 8840): the credentials, and candidates where the node is not ICE-lite.
 * @param {string} sdp @param {RTCIceCandidate[]} candidates @param {boolean} complete */
function fragmentOf(sdp, candidates = [], complete = false) {
  const media = /^m=.*?\r?$/m.exec(sdp)?.[0].trim() ?? 'm=audio 9 UDP/TLS/RTP/SAVPF 0';
  const lines = [media, `a=mid:${attribute(sdp, 'mid')}`, `a=ice-ufrag:${attribute(sdp, 'ice-ufrag')}`, `a=ice-pwd:${attribute(sdp, 'ice-pwd')}`];
  lines.push(...candidates.map((c) => `a=${c.candidate}`));
  if (complete) lines.push('a=end-of-candidates');
  return `a=group:BUNDLE ${attribute(sdp, 'group').replace(/^BUNDLE /, '')}\r\n${lines.join('\r\n')}\r\n`;
}

/** The answer with the credentials and candidates of an ICE restart's fragment.
 * @param {string} answer @param {string} fragment */
function restarted(answer, fragment) {
  const [user, password] = [attribute(fragment, 'ice-ufrag'), attribute(fragment, 'ice-pwd')];
  const fresh = fragment.split(/\r?\n/).filter((line) => line.startsWith('a=candidate:'));
  let placed = fresh.length === 0;
  const lines = answer.split(/\r?\n/).filter((line) => placed || !line.startsWith('a=candidate:')).flatMap((line) => {
    if (line.startsWith('a=ice-ufrag:')) return [`a=ice-ufrag:${user}`];
    if (!line.startsWith('a=ice-pwd:')) return [line];
    const more = placed ? [] : fresh;
    placed = true;
    return [`a=ice-pwd:${password}`, ...more];
  });
  return lines.join('\r\n');
}

/** Does `condition` come true within `ms`?
 * @param {number} ms @param {() => boolean} condition */
async function within(ms, condition) {
  for (const end = performance.now() + ms; performance.now() < end && !condition(); ) await new Promise((resolve) => setTimeout(resolve, 100));
  return condition();
}

/** Browsers decode (and send) Opus in stereo only where their own description says so.
 * @param {string} sdp */
function stereo(sdp) {
  const type = /^a=rtpmap:(\d+) opus\/48000\/2/im.exec(sdp)?.[1];
  if (!type) return sdp;
  return sdp.replace(new RegExp(`^(a=fmtp:${type} (?!.*\\bstereo=).*?)(\\r?)$`, 'm'), '$1;stereo=1;sprop-stereo=1$2');
}

/** One resource on the node: made by POST, changed by PATCH, ended by DELETE. */
class Session {
  /** @param {string} url @param {string} token */
  constructor(url, token) {
    this.url = new URL(url, globalThis.document?.baseURI).href;
    this.token = token;
    this.location = '';
    this.etag = '';
    this.answer = '';
    /** @type {RTCIceServer[]} */
    this.iceServers = [];
  }

  /** The token goes to the origin that was asked, and to no other.
   * @param {string} url @param {RequestInit & {headers?: Record<string, string>}} init */
  async ask(url, init) {
    /** @type {Record<string, string>} */
    const headers = { ...init.headers };
    if (this.token && new URL(url).origin === new URL(this.url).origin) headers.Authorization = `Bearer ${this.token}`;
    try {
      return await fetch(url, { signal: AbortSignal.timeout?.(HTTP_TIMEOUT), cache: 'no-store', credentials: 'omit', ...init, headers });
    } catch {
      throw new MedianodeError('unreachable', 'the node does not answer');
    }
  }

  /** @param {string} offer */
  async open(offer) {
    const response = await this.ask(this.url, { method: 'POST', body: offer, headers: { 'Content-Type': 'application/sdp', Accept: 'application/sdp' } });
    if (response.status !== 201) throw await refusal(response);
    const location = response.headers.get('Location');
    this.location = location ? new URL(location, response.url || this.url).href : '';
    this.etag = response.headers.get('ETag') ?? '';
    this.iceServers = iceServersOf(response.headers.get('Link'));
    this.answer = await response.text();
  }

  /** The node's fragment after an ICE restart; '' where it had nothing to say.
   * @param {string} fragment @param {string} match */
  async patch(fragment, match) {
    if (!this.location) throw new MedianodeError('disabled', 'the node named no Location to PATCH');
    const response = await this.ask(this.location, { method: 'PATCH', body: fragment, headers: { 'Content-Type': 'application/trickle-ice-sdpfrag', ...(match ? { 'If-Match': match } : {}) } });
    if (!response.ok) throw await refusal(response);
    this.etag = response.headers.get('ETag') ?? this.etag;
    return response.status === 200 ? response.text() : '';
  }

  /** Goes out even while the page goes away. What fails here the node finds out by itself. */
  end() {
    const { location } = this;
    this.location = '';
    if (location) this.ask(location, { method: 'DELETE', keepalive: true, signal: null }).catch(() => {});
  }
}

/** @param {Response} response */
async function refusal(response) {
  const { status } = response;
  const text = await response.text().catch(() => '');
  let words = /^\s*[{[<]/.test(text) ? '' : text.trim().slice(0, 300);
  try {
    const body = JSON.parse(text);
    words = [body.error?.message ?? body.detail ?? body.message ?? ''].flat().join('; ');
  } catch {
    words ||= `HTTP ${status}`;
  }
  const asked = response.headers.get('Retry-After');
  const ms = asked === null ? NaN : /^\d+$/.test(asked) ? Number(asked) * 1000 : Date.parse(asked) - Date.now();
  const retryAfter = Number.isFinite(ms) ? Math.min(Math.max(ms, 0), MAX_RETRY_AFTER) : null;
  return new MedianodeError(CODES[status] ?? (status >= 500 ? 'server' : 'refused'), words || `HTTP ${status}`, { status, retryAfter });
}

export class Connection extends EventTarget {
  /** @param {ConnectionOptions} options */
  constructor(options) {
    super();
    this.options = options;
    /** @type {State} */
    this.state = 'idle';
    /** @type {MedianodeError | null} */
    this.error = null;
    /** @type {any} */
    this.stats = null;
    /** @type {RTCPeerConnection | null} */
    this.peerConnection = null;
    /** @type {Session | null} */
    this.session = null;
    /** @type {Map<string, Row>} */
    this.before = new Map();
    this.turn = 0; // which run is the living one
    this.failures = 0;
    this.liveAt = this.lostAt = 0;
    this.restarting = false;
    this.everLive = false;
    /** @type {(error: MedianodeError) => void} */
    this.lose = () => {};
    this.wake = () => {};
    this.onOnline = () => this.wake();
    this.onHide = () => this.suspend();
    this.onShow = (/** @type {PageTransitionEvent} */ e) => e.persisted && this.suspended && this.start();
    this.suspended = false;
  }

  start() {
    if (!['idle', 'closed', 'failed'].includes(this.state)) return;
    Object.assign(this, { suspended: false, failures: 0, everLive: false });
    globalThis.addEventListener?.('online', this.onOnline);
    globalThis.addEventListener?.('pagehide', this.onHide);
    globalThis.addEventListener?.('pageshow', this.onShow);
    this.run(++this.turn);
  }

  reconnect() {
    this.lose(new MedianodeError('stalled', 'a new session was asked for'));
    this.wake();
  }

  close() {
    if (this.state === 'idle' || this.state === 'closed') return;
    globalThis.removeEventListener?.('online', this.onOnline);
    globalThis.removeEventListener?.('pagehide', this.onHide);
    globalThis.removeEventListener?.('pageshow', this.onShow);
    this.stop();
    this.tell('closed');
  }

  /** The page goes away, perhaps into the back-forward cache. */
  suspend() {
    if (this.state === 'failed') return;
    this.close();
    this.suspended = true;
    globalThis.addEventListener?.('pageshow', this.onShow);
  }

  stop() {
    this.turn += 1;
    this.lose(new MedianodeError('stalled', 'closed'));
    this.release();
    this.wake();
  }

  release() {
    this.session?.end();
    this.peerConnection?.close();
    this.session = this.peerConnection = null;
    this.before.clear();
  }

  /** @param {State} state @param {MedianodeError | null} [error] @param {number | null} [retryIn] */
  tell(state, error = null, retryIn = null) {
    this.state = state;
    this.error = error;
    this.emit('state', { state, error, retryIn });
  }

  /** @param {string} name @param {any} detail */
  emit(name, detail) {
    return this.dispatchEvent(new CustomEvent(name, { detail, cancelable: name === 'stall' }));
  }

  /** @param {number} turn */
  async run(turn) {
    this.tell('connecting');
    while (turn === this.turn) {
      let error;
      try {
        await this.once(turn);
      } catch (e) {
        error = e instanceof MedianodeError ? e : new MedianodeError('unsupported', `${e}`);
      }
      if (turn !== this.turn || !error) return;
      if (this.state === 'live') this.lostAt = performance.now();
      this.release();
      const wait = this.next(error);
      if (wait === null) return this.stop(), this.tell('failed', error);
      this.tell(error.code === 'not-found' || (error.code === 'full' && !this.everLive) ? 'waiting' : 'reconnecting', error, wait);
      await this.pause(wait);
    }
  }

  /** ms to wait after `error`; null: it is of no use. Spread, for a thousand players must not come in step.
   * @param {MedianodeError} error */
  next(error) {
    const { code, retryAfter } = error;
    if (this.options.reconnect === false) return null;
    const ours = code === 'busy' && this.everLive && performance.now() - this.lostAt < BUSY_FOR;
    if (FINAL.has(code) && retryAfter === null && !ours) return null;
    const wait = Math.max(BACKOFF[Math.min(this.failures++, BACKOFF.length - 1)], retryAfter ?? 0);
    return Math.round(wait * (0.85 + Math.random() * 0.3));
  }

  /** @param {number} ms @returns {Promise<void>} */
  pause(ms) {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, ms);
      this.wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }

  /** One session from its offer to its loss, which is thrown.
   * @param {number} turn */
  async once(turn) {
    if (!globalThis.RTCPeerConnection) throw new MedianodeError('unsupported', 'this browser has no WebRTC');
    const { options } = this;
    const given = options.iceServers ?? [];
    const token = (typeof options.token === 'function' ? await options.token() : options.token) ?? '';
    if (turn !== this.turn) return;
    /** @type {RTCConfiguration} */
    const configuration = { bundlePolicy: 'max-bundle', iceServers: given, iceTransportPolicy: options.iceTransportPolicy ?? 'all' };
    const pc = new RTCPeerConnection(configuration);
    const session = new Session(options.url, token);
    this.peerConnection = pc;
    const lost = new Promise((_, reject) => {
      this.lose = reject;
    });
    lost.catch(() => {}); // it may come before anybody waits for it
    const timers = [setTimeout(() => this.lose(new MedianodeError('ice', 'no connection for media came about')), options.connectTimeout ?? 10_000)];
    pc.onconnectionstatechange = () => this.connection(pc, session, timers);
    this.prepare(pc);
    try {
      const offer = await pc.createOffer();
      const sdp = stereo(offer.sdp ?? '');
      const opened = session.open(sdp).then(() => pc === this.peerConnection || session.end()); // nobody waits for it any more
      await Promise.race([opened, lost]);
      if (pc !== this.peerConnection) return;
      this.session = session;
      // RFC 9725 4.6: the servers that the answer names are there before gathering begins
      if (session.iceServers.length) pc.setConfiguration?.({ ...configuration, iceServers: [...given, ...session.iceServers] });
      if (!/^a=ice-lite/m.test(session.answer)) this.trickle(pc, session, sdp);
      await pc.setLocalDescription({ type: 'offer', sdp });
      session.answer = this.answered(session.answer);
      await pc.setRemoteDescription({ type: 'answer', sdp: session.answer });
      if (turn !== this.turn) return;
      this.watchTransports(pc);
      timers.push(setInterval(() => this.measure(pc, turn), options.statsInterval ?? 1000));
      await lost;
    } finally {
      timers.forEach(clearTimeout);
      pc.onconnectionstatechange = null;
    }
  }

  /** @param {RTCPeerConnection} pc @param {Session} session @param {ReturnType<typeof setTimeout>[]} timers */
  connection(pc, session, timers) {
    const state = pc.connectionState;
    if (state === 'connected') {
      clearTimeout(timers[0]);
      this.connected(pc);
    } else if (state === 'failed') this.lose(new MedianodeError('ice', 'the connection for media was lost'));
    else if (state === 'disconnected' && session.location) this.restart(pc, session);
  }

  /** `connectionState` stays `connected` when the node ends DTLS: only the transports tell.
   * @param {RTCPeerConnection} pc */
  watchTransports(pc) {
    const transports = new Set(pc.getTransceivers().map((t) => t.receiver.transport ?? t.sender.transport));
    for (const transport of transports) {
      if (!transport) continue;
      const look = () => transport.state === 'closed' && pc === this.peerConnection && this.lose(new MedianodeError('closed-by-node', 'the node ended the session'));
      transport.addEventListener('statechange', look);
    }
  }

  /** ICE restart by PATCH: another network, a rebound NAT.
   * @param {RTCPeerConnection} pc @param {Session} session */
  async restart(pc, session) {
    const over = () => pc !== this.peerConnection || pc.connectionState === 'connected';
    if (this.restarting) return;
    this.restarting = true;
    try {
      if (!(await within(HICCUP, over))) await this.restartIce(pc, session, over);
    } catch (e) {
      if (pc === this.peerConnection) this.lose(e instanceof MedianodeError && e.code === 'ice' ? e : new MedianodeError('ice', `the connection for media was lost: ${e}`));
    } finally {
      this.restarting = false;
    }
  }

  /** @param {RTCPeerConnection} pc @param {Session} session @param {() => boolean} over it is well again, or of no use any more */
  async restartIce(pc, session, over) {
    const offer = await pc.createOffer({ iceRestart: true });
    const sdp = stereo(offer.sdp ?? '');
    await pc.setLocalDescription({ type: 'offer', sdp });
    const fragment = await this.insist(() => session.patch(fragmentOf(sdp), '*'), over);
    if (pc !== this.peerConnection) return;
    if (!attribute(fragment, 'ice-ufrag')) throw new MedianodeError('ice', 'the node restarts no ICE');
    session.answer = restarted(session.answer, fragment);
    await pc.setRemoteDescription({ type: 'answer', sdp: session.answer });
    if (!(await within(RESTART_TIMEOUT, over))) throw new MedianodeError('ice', 'the connection for media did not come back');
  }

  /** While the network is away.
   * @param {() => Promise<string>} act @param {() => boolean} over */
  async insist(act, over) {
    for (let i = 1; ; i++) {
      try {
        return await act();
      } catch (e) {
        if (!(e instanceof MedianodeError) || e.code !== 'unreachable' || i >= RESTART_TRIES || over()) throw e;
        await new Promise((resolve) => setTimeout(resolve, 1000));
      }
    }
  }

  /** Only for nodes that must know our candidates; an ICE-lite one learns them from our checks.
   * @param {RTCPeerConnection} pc @param {Session} session @param {string} sdp */
  trickle(pc, session, sdp) {
    /** @type {RTCIceCandidate[]} */
    let waiting = [];
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    let timer;
    const flush = (/** @type {boolean} */ complete) => {
      clearTimeout(timer);
      timer = undefined;
      session.patch(fragmentOf(sdp, waiting, complete), session.etag).catch(() => {
        pc.onicecandidate = null; // it takes none: what it has must do
      });
      waiting = [];
    };
    pc.onicecandidate = ({ candidate }) => {
      if (!candidate?.candidate) return flush(true);
      waiting.push(candidate);
      timer ??= setTimeout(() => flush(false), 50);
    };
  }

  live() {
    if (this.state === 'live') return;
    this.liveAt = performance.now();
    this.everLive = true;
    this.tell('live');
  }

  /** @param {RTCPeerConnection} pc @param {number} turn */
  async measure(pc, turn) {
    const report = await pc.getStats().catch(() => null);
    if (!report || turn !== this.turn || pc !== this.peerConnection) return;
    /** @type {Row[]} */
    const rows = [];
    report.forEach((/** @type {Row} */ row) => rows.push(row));
    this.stats = { ...path(rows), ...this.figures(rows) };
    this.before = new Map(rows.map((row) => [row.id, row]));
    if (this.state === 'live') {
      if (performance.now() - this.liveAt > STABLE) this.failures = 0;
      this.liveAt ||= performance.now();
    }
    this.emit('stats', this.stats);
    this.look(pc);
  }

  /** How much `name` grew since the last look; null where that is not known.
   * @param {Row | undefined} row @param {string} name */
  grown(row, name) {
    const old = row && this.before.get(row.id);
    return row && old && typeof row[name] === 'number' && typeof old[name] === 'number' ? row[name] - old[name] : null;
  }

  /** @param {Row[]} rows @param {string} name */
  rate(rows, name) {
    let [bits, known] = [0, false];
    for (const row of rows) {
      const bytes = this.grown(row, name);
      const ms = this.grown(row, 'timestamp');
      if (bytes === null || !ms) continue;
      bits += (bytes * 8000) / ms;
      known = true;
    }
    return known ? Math.round(bits) : null;
  }

  /** @param {RTCPeerConnection} _pc */
  prepare(_pc) {}

  /** @param {string} sdp */
  answered(sdp) {
    return sdp;
  }

  /** @param {RTCPeerConnection} _pc */
  connected(_pc) {}

  /** @param {RTCPeerConnection} _pc */
  look(_pc) {}

  /** @param {Row[]} _rows @returns {Record<string, any>} */
  figures(_rows) {
    return {};
  }
}

/** @param {Row[]} rows */
export function path(rows) {
  const byId = new Map(rows.map((row) => [row.id, row]));
  const chosen = byId.get(rows.find((row) => row.type === 'transport')?.selectedCandidatePairId);
  const pair = chosen ?? rows.find((row) => row.type === 'candidate-pair' && row.nominated && row.state === 'succeeded');
  const [local, remote] = [byId.get(pair?.localCandidateId), byId.get(pair?.remoteCandidateId)];
  return { transport: remote?.protocol ?? null, relayed: local?.candidateType === 'relay', rtt: pair?.currentRoundTripTime ?? null };
}

/** @param {Row[]} rows @param {Row | undefined} row */
export const codecOf = (rows, row) => rows.find((r) => r.id === row?.codecId)?.mimeType?.split('/')[1] ?? null;
