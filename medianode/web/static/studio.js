/* Studio: publish this room from a camera or a screen. */

import { WhipPublisher } from './medianode.js';
import { whipWords } from './publish.js';
import { Mixer, bitrateFor, devices, pictureOf, refused, soundOf, WIDTHS } from './sources.js';
import { element } from './stage.js';
import { bitrate, codec, delay, elapsed, seconds, share } from './words.js';

const CODECS = { 'video/H264': 'H.264', 'video/VP8': 'VP8', 'video/VP9': 'VP9', 'video/AV1': 'AV1', 'video/H265': 'H.265' };
const LIMITS = { none: 'nothing', cpu: 'this computer’s speed', bandwidth: 'the network', other: 'the browser' };
const WATCH = 5000; // ms between looks at how many watch
const PLAIN = 'none';
const $ = (id) => document.getElementById(id);
const { app, room, udp, tcp, certificate } = document.body.dataset;
const path = `${encodeURIComponent(app)}/${encodeURIComponent(room)}`;
const whip = new URL(`../../whip/${path}`, location.href).href;

const session = {
  get: (name) => {
    try {
      return sessionStorage.getItem(`medianode.${name}`) ?? '';
    } catch {
      return ''; // storage is switched off
    }
  },
  set: (name, value) => {
    try {
      sessionStorage.setItem(`medianode.${name}`, value);
    } catch {
      return;
    }
  },
};

class Studio {
  constructor() {
    Object.assign(this, { source: '', video: null, microphone: null, screenSound: null, sending: null, facing: 'user', publisher: null, liveSince: 0, turn: 0, lock: null });
    this.mixer = new Mixer();
    this.listen();
    this.codecs();
    this.takeKey();
    this.level();
    if (this.mayAsk()) this.list();
  }

  listen() {
    $('use-camera').addEventListener('click', () => this.use('camera'));
    $('use-screen').addEventListener('click', () => this.use('screen'));
    $('flip').addEventListener('click', () => this.flip());
    $('go').addEventListener('click', () => (this.publisher ? this.stop('Stopped.') : this.go()));
    for (const id of ['camera', 'size', 'rate']) $(id).addEventListener('change', () => this.repicture(id === 'camera'));
    for (const id of ['microphone', 'music']) $(id).addEventListener('change', () => this.resound());
    $('bitrate').addEventListener('change', () => this.publisher?.setMaxBitrate(this.bitrate(), this.fps()));
    $('key').addEventListener('input', () => this.keyed());
    $('key').addEventListener('keydown', (e) => e.key === 'Enter' && !$('go').disabled && $('go').click());
    $('show-key').addEventListener('click', () => this.showKey());
    navigator.mediaDevices?.addEventListener?.('devicechange', () => this.list());
    addEventListener('hashchange', () => this.takeKey());
    addEventListener('beforeunload', (e) => this.publisher && e.preventDefault());
    document.addEventListener('visibilitychange', () => this.publisher && this.stayAwake());
    setInterval(() => this.viewers(), WATCH);
  }

  /** Cameras are handed out only where the page came safely: says how to get there. */
  mayAsk() {
    if (navigator.mediaDevices?.getUserMedia && globalThis.RTCPeerConnection) {
      $('use-screen').disabled = !navigator.mediaDevices.getDisplayMedia;
      return true;
    }
    $('use-camera').disabled = $('use-screen').disabled = true;
    if (isSecureContext) {
      this.trouble(['This browser cannot publish', 'It has no WebRTC, or it is switched off.', ['Use a current Chrome, Edge, Firefox or Safari.']]);
      return false;
    }
    const safe = new URL(location.href);
    safe.protocol = 'https:';
    const key = $('key').value;
    if (key) safe.hash = `key=${encodeURIComponent(key)}`;
    const link = element('a', { href: safe.href }, `https://${safe.host}${safe.pathname}`);
    const steps = [element('span', {}, 'This node speaks TLS on the same port: open ', link, certificate ? ' and accept its certificate, which it made itself.' : '.')];
    if (certificate) steps.push(element('span', {}, 'Or ', element('a', { href: `../../${certificate}`, download: 'certificate.pem' }, 'download the certificate'), ' and tell your system to trust it; then there is no warning.'));
    steps.push('On the machine of the node itself http://localhost works as it is.');
    this.trouble(['Cameras need a safe page', 'Browsers hand out cameras and screens only to pages opened by https, or on localhost.', steps]);
    return false;
  }

  /** From the fragment, which is then taken out of the address: it could be seen on a shared screen. */
  takeKey() {
    const given = new URLSearchParams(location.hash.slice(1)).get('key');
    if (given !== null) {
      session.set(`whip.${path}`, given);
      history.replaceState(null, '', location.pathname + location.search);
    }
    $('key').value = session.get(`whip.${path}`);
    this.keyed();
  }

  keyed() {
    session.set(`whip.${path}`, $('key').value.trim());
    $('others').replaceChildren(...whipWords({ url: whip, key: $('key').value.trim() || 'STREAM_KEY', certificate: location.protocol === 'https:' && certificate ? `../../${certificate}` : '' }));
    this.offer();
  }

  showKey() {
    const shown = $('key').type === 'text';
    $('key').type = shown ? 'password' : 'text';
    $('show-key').textContent = shown ? 'Show' : 'Hide';
    $('show-key').setAttribute('aria-pressed', String(!shown));
  }

  offer() {
    if (this.publisher) return;
    const [source, key] = [this.sending?.getTracks().length, $('key').value.trim()];
    $('go').disabled = !(source && key);
    if (!this.spoken) $('said').textContent = !source ? 'Choose a camera or a screen.' : !key ? 'Now the stream key of this room.' : 'Ready. Nothing is sent before you press Go live.';
  }

  codecs() {
    const able = new Set(globalThis.RTCRtpSender?.getCapabilities?.('video')?.codecs.map((c) => c.mimeType));
    for (const [value, words] of Object.entries(CODECS)) if (able.has(value)) $('codec').append(element('option', { value }, words));
  }

  fps() {
    return Number($('rate').value);
  }

  bitrate() {
    return Number($('bitrate').value) || bitrateFor(Number($('size').value), this.fps());
  }

  async list() {
    const found = await devices().catch(() => ({ camera: [], microphone: [] }));
    for (const kind of ['camera', 'microphone']) {
      const select = $(kind);
      const track = kind === 'camera' ? (this.source === 'camera' ? this.video : null) : this.microphone;
      const chosen = track?.getSettings().deviceId ?? select.value;
      const options = found[kind].map((d, i) => element('option', { value: d.deviceId }, d.label || `${kind === 'camera' ? 'Camera' : 'Microphone'} ${i + 1}`));
      if (kind === 'microphone') options.push(element('option', { value: PLAIN }, 'No microphone'));
      if (!options.length) options.push(element('option', { value: '' }, 'None found'));
      const off = kind === 'microphone' && select.value === PLAIN;
      select.replaceChildren(...options);
      select.value = off ? PLAIN : chosen;
      if (select.selectedIndex < 0) select.selectedIndex = 0;
      select.disabled = false;
    }
    $('flip').hidden = found.camera.length < 2 || !matchMedia('(pointer: coarse)').matches;
  }

  async use(source) {
    const turn = ++this.turn;
    this.spoken = false;
    this.trouble(null);
    try {
      const stream = source === 'camera' ? await this.openCamera() : await this.openScreen();
      if (turn !== this.turn) return stream.getTracks().forEach((track) => track.stop());
      this.adopt(source, stream);
      await this.send();
      await this.list();
    } catch (e) {
      this.trouble(refused(e, source === 'screen' ? 'screen' : e.what ?? 'camera'));
    }
  }

  /** Camera and microphone in one question; where one of them is missing, the other by itself. */
  async openCamera(device = '') {
    const picture = pictureOf({ height: Number($('size').value), fps: this.fps(), device, facing: device ? '' : this.facing });
    const sound = this.microphone || $('microphone').value === PLAIN ? false : soundOf({ device: '', music: $('music').checked });
    try {
      return await navigator.mediaDevices.getUserMedia({ video: picture, audio: sound });
    } catch (e) {
      if (!sound || e.name === 'NotAllowedError') throw e;
      const alone = await navigator.mediaDevices.getUserMedia({ video: picture }).catch(() => null);
      if (alone) {
        this.trouble(refused(e, 'microphone'));
        return alone;
      }
      const heard = await navigator.mediaDevices.getUserMedia({ audio: sound }).catch(() => null);
      if (!heard) throw e;
      this.trouble(refused(e, 'camera'));
      return heard;
    }
  }

  openScreen() {
    const height = Number($('size').value);
    const video = { width: { max: WIDTHS[height] }, height: { max: height }, frameRate: { ideal: this.fps() } };
    const audio = { echoCancellation: false, noiseSuppression: false, autoGainControl: false, suppressLocalAudioPlayback: false };
    return navigator.mediaDevices.getDisplayMedia({ video, audio, systemAudio: 'include', surfaceSwitching: 'include' });
  }

  /** Take over what was opened; what it replaces is given back. */
  adopt(source, stream) {
    const [video] = stream.getVideoTracks();
    const [audio] = stream.getAudioTracks();
    this.source = source;
    this.video?.stop();
    this.video = video ?? null;
    this.screenSound?.stop();
    this.screenSound = source === 'screen' ? (audio ?? null) : null;
    if (source === 'camera' && audio) {
      this.microphone?.stop();
      this.microphone = audio;
    }
    if (video) {
      video.contentHint = source === 'screen' ? 'detail' : 'motion';
      video.addEventListener('ended', () => this.gone(video));
    }
    this.facing = video?.getSettings().facingMode ?? this.facing;
    for (const name of ['camera', 'screen']) $(`use-${name}`).setAttribute('aria-pressed', String(source === name));
    document.querySelector('[data-for="camera"]').hidden = source === 'screen';
    $('preview').classList.toggle('mirrored', source === 'camera' && this.facing !== 'environment');
  }

  /** What is chosen goes to the preview and, while live, out. */
  async send() {
    const sounds = [this.microphone, this.screenSound].filter((track) => track?.readyState === 'live');
    const audio = this.mixer.set(sounds);
    const video = this.video?.readyState === 'live' ? this.video : null;
    this.sending = new MediaStream([video, audio].filter(Boolean));
    const seen = $('video');
    seen.srcObject = video ? new MediaStream([video]) : null;
    if (video) seen.play().catch(() => {});
    $('blank').hidden = Boolean(video);
    $('blank').textContent = audio ? 'Sound only: there is no picture.' : 'Choose a camera or a screen to see it here. Nothing is sent before you press Go live.';
    this.offer();
    const { publisher } = this;
    if (!publisher) return;
    await publisher.replaceTrack('video', video);
    await publisher.replaceTrack('audio', audio);
  }

  async repicture(other) {
    if (this.source === 'camera') await this.recamera(other ? $('camera').value : '');
    else if (this.source === 'screen') {
      const height = Number($('size').value);
      await this.video?.applyConstraints({ width: { max: WIDTHS[height] }, height: { max: height }, frameRate: { ideal: this.fps() } }).catch((e) => this.trouble(refused(e, 'screen')));
    }
    await this.publisher?.setMaxBitrate(this.bitrate(), this.fps());
  }

  /** `device` '': the same one, in another size. Phones open one camera at a time. */
  async recamera(device) {
    const wanted = { height: Number($('size').value), fps: this.fps(), device: device || this.video?.getSettings().deviceId };
    this.trouble(null);
    try {
      if (!device && this.video) return await this.video.applyConstraints(pictureOf(wanted));
      const before = this.video;
      before?.stop();
      const stream = await navigator.mediaDevices.getUserMedia({ video: pictureOf(wanted) });
      this.adopt('camera', stream);
      await this.send();
    } catch (e) {
      this.trouble(refused(e, 'camera'));
    }
  }

  async flip() {
    this.facing = this.facing === 'environment' ? 'user' : 'environment';
    this.video?.stop();
    const [facing, turn] = [this.facing, ++this.turn];
    try {
      const stream = await navigator.mediaDevices.getUserMedia({ video: pictureOf({ height: Number($('size').value), fps: this.fps(), facing }) });
      if (turn !== this.turn) return stream.getTracks().forEach((track) => track.stop());
      this.adopt('camera', stream);
      await this.send();
      await this.list();
    } catch (e) {
      this.trouble(refused(e, 'camera'));
    }
  }

  async resound() {
    const device = $('microphone').value;
    this.microphone?.stop();
    this.microphone = null;
    this.trouble(null);
    try {
      if (device !== PLAIN) {
        const stream = await navigator.mediaDevices.getUserMedia({ audio: soundOf({ device, music: $('music').checked }) });
        [this.microphone] = stream.getAudioTracks();
      }
    } catch (e) {
      this.trouble(refused(e, 'microphone'));
    }
    await this.send();
    await this.list();
  }

  /** Unplugged, taken away by the system, or the browser's own “stop sharing”. */
  async gone(track) {
    if (track !== this.video) return;
    this.video = null;
    if (this.source === 'screen') {
      if (this.publisher) this.stop('Sharing was ended.');
      return this.send();
    }
    this.trouble(['The camera is gone', 'It was unplugged, or another program took it.', ['The stream goes on with sound; choose another camera to bring the picture back.']]);
    await this.send();
    return this.list();
  }

  go() {
    const { sending } = this;
    const chosen = $('codec').value;
    this.trouble(null);
    this.publisher = new WhipPublisher(sending, {
      url: whip,
      token: $('key').value.trim(),
      codecs: chosen ? [chosen] : ['video/H264', 'video/VP8'],
      maxBitrate: this.bitrate(),
      maxFramerate: this.fps(),
      simulcast: $('layers').checked && sending.getVideoTracks().length > 0,
      degradationPreference: this.source === 'screen' ? 'maintain-resolution' : null,
      audioBitrate: $('music').checked ? 160_000 : 64_000,
    });
    this.publisher.addEventListener('state', (e) => this.state(e.detail));
    this.publisher.addEventListener('stats', (e) => this.figures(e.detail));
    this.shown(true);
    this.publisher.start();
    this.stayAwake();
  }

  shown(on) {
    $('go').textContent = on ? 'Stop' : 'Go live';
    $('go').classList.toggle('stop', on);
    $('go').classList.toggle('main', !on);
    for (const id of ['key', 'show-key', 'codec', 'layers']) $(id).disabled = on;
    if (!on) {
      $('badge').hidden = $('clock').hidden = true;
      this.offer();
    }
  }

  state({ state, error, retryIn }) {
    document.body.dataset.state = state;
    const live = state === 'live';
    $('badge').hidden = !(live || (state === 'reconnecting' && this.liveSince));
    $('badge').dataset.state = live ? 'live' : 'wait';
    $('badge').textContent = live ? 'Live' : 'Reconnecting';
    if (live) {
      this.liveSince ||= performance.now();
      this.trouble(null);
      $('said').textContent = 'You are live.';
    } else if (state === 'connecting') $('said').textContent = 'Connecting…';
    else if (state === 'failed') {
      this.stop('');
      this.trouble(this.reason(error));
    } else if (state === 'waiting' || state === 'reconnecting') {
      $('said').textContent = retryIn < 1000 ? 'Trying again…' : `Trying again in ${seconds(retryIn / 1000)}…`;
      this.trouble(this.reason(error));
    }
  }

  /** The node's refusal, or what the network did, in plain words. */
  reason(error) {
    const ports = [udp && `UDP port ${udp}`, tcp && `TCP port ${tcp}`].filter(Boolean).join(' and ') || 'the media ports';
    const said = error.status ? `The node says: ${error.message}` : error.message;
    switch (error.code) {
      case 'unauthorized':
        return ['The stream key is wrong', said, ['Paste the key of a WHIP ingress of this room: the start page makes one.']];
      case 'busy':
        return ['Somebody else is publishing here', said, ['Wait until they stop, or publish to another room.']];
      case 'full':
        return ['The node is full', said, ['It tries again by itself.']];
      case 'too-many':
        return ['Too many tries', said, ['It tries again by itself.']];
      case 'codec':
        return ['This browser and the node share no codec', said, ['Choose Auto as the codec, or another browser.']];
      case 'not-found':
        return ['There is no such room or project', said, ['Check the address of this page.']];
      case 'disabled':
        return ['This node takes no WebRTC', said, ['Ask its operator to enable it, or publish by RTMP.']];
      case 'ice':
        return ['The node was reached, but no way for the media was found', `${ports} of the node must be open on the way: a firewall may block them.`, ['Try another network (a phone’s hotspot, no VPN).', 'On the node: is rtc.public_addresses right? “medianode doctor” tells more.']];
      case 'closed-by-node':
        return ['The node ended the session', 'Another encoder may have taken over, or the node was restarted.', []];
      case 'unreachable':
        return ['The node does not answer', 'The network may be down, or the node stopped.', ['It tries again by itself.']];
      default:
        return ['It did not work', said, []];
    }
  }

  stop(words) {
    const { publisher } = this;
    this.publisher = null;
    this.liveSince = 0;
    publisher?.close();
    document.body.dataset.state = 'closed';
    this.spoken = true; // till something else is chosen
    this.shown(false);
    $('said').textContent = words || 'Nothing is sent.';
    this.lock?.release().catch(() => {});
    this.lock = null;
  }

  figures(s) {
    const put = (name, value) => {
      const cell = document.querySelector(`[data-fact="${name}"]`);
      if (cell.textContent !== value) cell.textContent = value ?? '–';
    };
    const size = s.width ? `${s.width} × ${s.height}` : null;
    const names = [s.videoCodec, s.audioCodec].filter(Boolean).map((name) => codec(name.toLowerCase().replace('h265', 'hevc')));
    put('bitrate', bitrate(s.bitrate));
    put('picture', [size, s.fps ? `${Math.round(s.fps)} fps` : null].filter(Boolean).join(', ') || '–');
    put('codec', names.join(' + ') || '–');
    put('loss', share(s.loss));
    put('rtt', delay(s.rtt));
    put('way', [s.transport?.toUpperCase(), s.relayed ? 'relayed' : null].filter(Boolean).join(', ') || '–');
    put('limitation', LIMITS[s.limitation] ?? '–');
    $('clock').hidden = !this.liveSince;
    if (this.liveSince) $('clock').textContent = elapsed((performance.now() - this.liveSince) / 1000);
  }

  async viewers() {
    if (document.body.dataset.state !== 'live' || document.hidden || this.private) return;
    const response = await fetch(new URL(`../../play/${path}/state.json`, location.href), { cache: 'no-store' }).catch(() => null);
    this.private = response?.status === 401; // the key publishes, it does not view
    const facts = response?.ok ? await response.json().catch(() => null) : null;
    document.querySelector('[data-fact="viewers"]').textContent = facts ? String(facts.viewers) : '–';
  }

  trouble(reason) {
    const box = $('trouble');
    box.hidden = !reason;
    if (!reason) return;
    const [what, why, steps] = reason;
    const [title, text, list] = box.children;
    title.textContent = what;
    text.textContent = why;
    list.replaceChildren(...steps.map((step) => element('li', {}, step)));
  }

  level() {
    const bar = $('level').firstElementChild;
    let told = 0;
    const draw = (now) => {
      const level = this.mixer.measure();
      bar.style.clipPath = `inset(0 ${((1 - level) * 100).toFixed(1)}% 0 0)`;
      if (now - told > 1000) {
        told = now;
        $('level').setAttribute('aria-valuenow', String(Math.round(level * 100)));
      }
      requestAnimationFrame(draw);
    };
    requestAnimationFrame(draw);
  }

  /** A phone that falls asleep stops its camera. */
  async stayAwake() {
    if (document.hidden || !navigator.wakeLock || (this.lock && !this.lock.released)) return;
    this.lock = await navigator.wakeLock.request('screen').catch(() => null); // battery saver: then not
    if (!this.publisher) this.lock?.release().catch(() => {});
  }
}

new Studio();
