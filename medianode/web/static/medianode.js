// @ts-check
// @ts-self-types="./medianode.d.ts"
/* medianode.js: watch (WHEP) and publish (WHIP, RFC 9725) from any web page. No dependencies.
 *
 *   import { WhepPlayer } from 'https://node.example/static/medianode.js';
 *   new WhepPlayer(document.querySelector('video'), { url: 'https://node.example/whep/live/demo' }).start();
 */

import { Connection, codecOf, path, MedianodeError } from './connection.js';

export { MedianodeError, iceServersOf } from './connection.js';

/** @typedef {import('./medianode.d.ts').PlayerOptions} PlayerOptions */
/** @typedef {import('./medianode.d.ts').PublisherOptions} PublisherOptions */
/** @typedef {import('./connection.js').Row} Row */

const START_BITRATE = 1_200_000;
const NTP_EPOCH = 2_208_988_800_000;

export class WhepPlayer extends Connection {
  /** @param {HTMLMediaElement | null} video @param {PlayerOptions} options */
  constructor(video, options) {
    super(options);
    this.options = options;
    this.stream = new MediaStream();
    /** @type {number | null} */
    this.clockOffset = null;
    /** @type {number | null} */
    this.jitterBufferTarget = options.jitterBufferTarget ?? null;
    this.moved = 0;
    this.movedAt = 0;
    /** @type {HTMLMediaElement | null} */
    this.video = null;
    this.attach(video);
  }

  /** @param {HTMLMediaElement | null} video */
  attach(video) {
    if (this.video && this.video !== video && this.video.srcObject === this.stream) this.video.srcObject = null;
    this.video = video;
    if (!video || !this.stream.getTracks().length) return;
    if (video.srcObject !== this.stream) video.srcObject = this.stream;
    if (this.options.autoplay !== false) this.play(video);
  }

  /** @param {HTMLMediaElement} video */
  async play(video) {
    try {
      await video.play();
    } catch (e) {
      if (!(e instanceof DOMException) || e.name !== 'NotAllowedError' || video.muted) return; // AbortError: another stream took its place
      video.muted = true;
      this.emit('muted', null);
      await video.play().catch(() => {});
    }
  }

  close() {
    super.close();
    for (const track of this.stream.getTracks()) this.stream.removeTrack(track);
    if (this.video?.srcObject === this.stream) this.video.srcObject = null;
  }

  /** @param {RTCPeerConnection} pc */
  prepare(pc) {
    Object.assign(this, { moved: 0, movedAt: 0 });
    for (const kind of ['video', 'audio']) pc.addTransceiver(kind, { direction: 'recvonly' });
    pc.ontrack = ({ track, receiver }) => {
      if (pc !== this.peerConnection) return;
      const target = this.jitterBufferTarget;
      if (target !== null) Object.assign(receiver, 'jitterBufferTarget' in receiver ? { jitterBufferTarget: target } : { playoutDelayHint: target / 1000 });
      for (const old of this.stream.getTracks()) if (old.kind === track.kind) this.stream.removeTrack(old); // till now the last picture stood
      this.stream.addTrack(track);
      this.attach(this.video);
      const { video } = this;
      if (track.kind === 'video' && video instanceof HTMLVideoElement) video.requestVideoFrameCallback?.(() => pc === this.peerConnection && pc.connectionState === 'connected' && this.live());
      this.emit('track', track);
    };
  }

  connected() {
    this.movedAt = performance.now();
  }

  /** @param {Row[]} rows */
  figures(rows) {
    const inbound = rows.filter((row) => row.type === 'inbound-rtp');
    const [video, audio] = ['video', 'audio'].map((kind) => inbound.find((row) => row.kind === kind));
    const main = video?.packetsReceived ? video : audio;
    const [lost, got] = [this.grown(main, 'packetsLost'), this.grown(main, 'packetsReceived')];
    const emitted = this.grown(main, 'jitterBufferEmittedCount');
    const held = this.grown(main, 'jitterBufferDelay');
    const jitterBuffer = emitted && held !== null ? held / emitted : null;
    return {
      bitrate: this.rate(inbound, 'bytesReceived'),
      loss: lost !== null && got !== null && lost + got > 0 ? Math.max(0, lost) / Math.max(1, lost + got) : null,
      packetsLost: main?.packetsLost ?? 0,
      jitterBuffer,
      latency: this.latency(rows, main, jitterBuffer),
      width: video?.frameWidth ?? null,
      height: video?.frameHeight ?? null,
      fps: video?.framesPerSecond ?? null,
      videoCodec: codecOf(rows, video),
      audioCodec: codecOf(rows, audio),
      framesDecoded: video?.framesDecoded ?? 0,
      framesDropped: video?.framesDropped ?? 0,
      freezes: video?.freezeCount ?? 0,
      frozen: video?.totalFreezesDuration ?? 0,
      nacks: video?.nackCount ?? 0,
      keyFrameRequests: (video?.pliCount ?? 0) + (video?.firCount ?? 0),
      audioLevel: audio?.audioLevel ?? null,
      // silence is filled in where nothing comes: only packets tell that sound moves
      moved: video?.packetsReceived ? video.framesDecoded ?? 0 : audio?.packetsReceived ?? 0,
    };
  }

  /** Node to screen: by the node's clock in its sender reports where ours is known against it, else half a round trip and what is held here.
   * @param {Row[]} rows @param {Row | undefined} main @param {number | null} jitterBuffer */
  latency(rows, main, jitterBuffer) {
    const shown = main?.estimatedPlayoutTimestamp;
    if (shown && this.clockOffset !== null) {
      const measured = (Date.now() + this.clockOffset - (shown > NTP_EPOCH ? shown - NTP_EPOCH : shown)) / 1000;
      if (measured > 0 && measured < 30) return measured;
    }
    if (jitterBuffer === null) return null;
    const [done, spent] = [this.grown(main, 'framesDecoded'), this.grown(main, 'totalProcessingDelay')];
    const processing = done && spent !== null ? spent / done : jitterBuffer;
    return (path(rows).rtt ?? 0) / 2 + Math.max(processing, jitterBuffer);
  }

  /** @param {RTCPeerConnection} pc */
  look(pc) {
    const { moved } = this.stats;
    const now = performance.now();
    if (moved !== this.moved) {
      Object.assign(this, { moved, movedAt: now });
      if (moved > 0) this.live();
      return;
    }
    const patience = this.options.stallTimeout ?? 3000;
    if (pc.connectionState !== 'connected' || !patience || now - this.movedAt < patience) return;
    this.movedAt = now;
    if (this.emit('stall', null)) this.lose(new MedianodeError('stalled', `nothing was decoded for ${patience} ms`));
  }
}

export class WhipPublisher extends Connection {
  /** @param {MediaStream} stream @param {PublisherOptions} options */
  constructor(stream, options) {
    super(options);
    this.options = options;
    /** @type {Map<string, MediaStreamTrack | null>} */
    this.tracks = new Map();
    this.onEnded = (/** @type {Event} */ e) => this.emit('ended', e.target);
    for (const kind of ['video', 'audio']) this.hold(kind, stream.getTracks().find((track) => track.kind === kind) ?? null);
  }

  /** @param {string} kind @param {MediaStreamTrack | null} track */
  hold(kind, track) {
    this.tracks.get(kind)?.removeEventListener('ended', this.onEnded);
    this.tracks.set(kind, track);
    track?.addEventListener('ended', this.onEnded);
  }

  /** @param {'video' | 'audio'} kind @param {MediaStreamTrack | null} track */
  async replaceTrack(kind, track) {
    const had = this.tracks.get(kind);
    this.hold(kind, track);
    const sender = this.sender(kind);
    if (sender) await sender.replaceTrack(track);
    else if (track && !had) this.reconnect(); // its kind was not offered
  }

  /** @param {string} kind */
  sender(kind) {
    return this.peerConnection?.getTransceivers().find((t) => t.receiver.track.kind === kind)?.sender ?? null;
  }

  /** @param {number} bitrate @param {number | null} [maxFramerate] */
  async setMaxBitrate(bitrate, maxFramerate = this.options.maxFramerate ?? null) {
    Object.assign(this.options, { maxBitrate: bitrate, maxFramerate });
    const sender = this.sender('video');
    const parameters = sender?.getParameters();
    if (!sender || !parameters?.encodings?.length) return;
    const wanted = this.encodings();
    parameters.encodings.forEach((encoding, i) => Object.assign(encoding, wanted[i] && { maxBitrate: wanted[i].maxBitrate, maxFramerate: wanted[i].maxFramerate }));
    await sender.setParameters(parameters);
  }

  /** @returns {RTCRtpEncodingParameters[]} */
  encodings() {
    const { maxBitrate = 2_500_000, maxFramerate = null, simulcast = false } = this.options;
    const rate = maxFramerate ? { maxFramerate } : {};
    if (!simulcast) return [{ maxBitrate, ...rate }];
    return [
      { rid: 'q', scaleResolutionDownBy: 4, maxBitrate: Math.max(100_000, Math.round(maxBitrate * 0.07)), ...rate },
      { rid: 'h', scaleResolutionDownBy: 2, maxBitrate: Math.max(200_000, Math.round(maxBitrate * 0.25)), ...rate },
      { rid: 'f', maxBitrate, ...rate },
    ];
  }

  /** @param {RTCPeerConnection} pc */
  prepare(pc) {
    const stream = new MediaStream();
    const [video, audio] = [this.tracks.get('video'), this.tracks.get('audio')];
    if (audio) pc.addTransceiver(audio, { direction: 'sendonly', streams: [stream], sendEncodings: [{ maxBitrate: this.options.audioBitrate ?? 96_000 }] });
    if (!video) return;
    const transceiver = pc.addTransceiver(video, { direction: 'sendonly', streams: [stream], sendEncodings: this.encodings() });
    this.prefer(transceiver);
    const { degradationPreference } = this.options;
    if (!degradationPreference) return;
    const parameters = transceiver.sender.getParameters();
    transceiver.sender.setParameters(Object.assign(parameters, { degradationPreference })).catch(() => {}); // a wish: not every browser has it
  }

  /** @param {RTCRtpTransceiver} transceiver */
  prefer(transceiver) {
    const all = RTCRtpSender.getCapabilities?.('video')?.codecs;
    if (!all || !transceiver.setCodecPreferences) return;
    const wanted = (this.options.codecs ?? ['video/H264']).map((name) => name.toLowerCase());
    const place = (/** @type {{mimeType: string}} */ codec) => (wanted.indexOf(codec.mimeType.toLowerCase()) + wanted.length + 1) % (wanted.length + 1);
    try {
      transceiver.setCodecPreferences([...all].sort((a, b) => place(a) - place(b)));
    } catch {
      return; // the browser's own order stays
    }
  }

  /** Chromium begins with 300 kbit/s and a small picture, and takes a quarter of a minute to grow: let it begin higher. Others read on.
   * @param {string} sdp */
  answered(sdp) {
    const start = Math.round(Math.min(START_BITRATE, (this.options.maxBitrate ?? 2_500_000) / 2) / 1000);
    return sdp.replace(/^m=video [\s\S]*?(?=^m=|$(?![\s\S]))/m, (media) =>
      media.replace(/^a=rtpmap:(\d+) (?:H264|H265|VP8|VP9|AV1)\/90000\r?\n/gim, (line, type) => {
        const given = new RegExp(`^a=fmtp:${type} `, 'm');
        return given.test(media) ? line : `${line}a=fmtp:${type} x-google-start-bitrate=${start}\r\n`;
      }).replace(/^(a=fmtp:\d+ (?!apt=)(?!.*x-google-start-bitrate).*?)(\r?)$/gm, `$1;x-google-start-bitrate=${start}$2`),
    );
  }

  connected() {
    this.live();
  }

  /** @param {Row[]} rows */
  figures(rows) {
    const outbound = rows.filter((row) => row.type === 'outbound-rtp');
    const videos = outbound.filter((row) => row.kind === 'video');
    const best = videos.reduce((a, b) => ((b.frameWidth ?? 0) > (a?.frameWidth ?? 0) ? b : a), videos[0]);
    const audio = outbound.find((row) => row.kind === 'audio');
    const told = rows.filter((row) => row.type === 'remote-inbound-rtp');
    const about = told.find((row) => row.localId === (best ?? audio)?.id) ?? told[0];
    return {
      bitrate: this.rate(outbound, 'bytesSent'),
      targetBitrate: videos.some((row) => row.targetBitrate) ? videos.reduce((sum, row) => sum + (row.targetBitrate ?? 0), 0) : null,
      loss: about?.fractionLost ?? null,
      width: best?.frameWidth ?? null,
      height: best?.frameHeight ?? null,
      fps: best?.framesPerSecond ?? null,
      videoCodec: codecOf(rows, best),
      audioCodec: codecOf(rows, audio),
      limitation: best?.qualityLimitationReason ?? null,
      framesSent: best?.framesSent ?? 0,
      keyFrames: best?.keyFramesEncoded ?? 0,
      nacks: best?.nackCount ?? 0,
      retransmittedPackets: best?.retransmittedPacketsSent ?? 0,
      layers: videos.map((row) => ({ rid: row.rid ?? '', width: row.frameWidth ?? null, height: row.frameHeight ?? null, fps: row.framesPerSecond ?? null, active: row.active !== false })),
    };
  }
}
