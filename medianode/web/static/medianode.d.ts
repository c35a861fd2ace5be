/** Types of medianode.js: watch (WHEP) and publish (WHIP) from any web page. Times are seconds, rates bits per second, unless a name says ms. */

export type State =
  /** not started */
  | 'idle'
  /** a session is being set up */
  | 'connecting'
  /** media flows */
  | 'live'
  /** the node says that there is nothing to watch yet, or that it is full: tried again as it asked */
  | 'waiting'
  /** it was lost, and is being set up again */
  | 'reconnecting'
  /** trying again is of no use: see `error` */
  | 'failed'
  | 'closed';

export type ErrorCode =
  | 'unauthorized' // 401, 403: the token is missing, wrong or expired
  | 'not-found' // 404: no such room, or (with Retry-After) nothing on air
  | 'busy' // 409: somebody else publishes there
  | 'codec' // 406, 415: no codec is shared
  | 'disabled' // 405, 501: the node does not do this
  | 'full' // 503: the node or the room is full, or it is stopping
  | 'too-many' // 429
  | 'refused' // any other 4xx
  | 'server' // any other 5xx
  | 'unreachable' // no answer to HTTP
  | 'ice' // no way for media: UDP and TCP are blocked
  | 'closed-by-node' // the node ended the session
  | 'stalled' // connected, and nothing moves
  | 'unsupported'; // this browser has no WebRTC

export class MedianodeError extends Error {
  constructor(code: ErrorCode, message: string, more?: { status?: number; retryAfter?: number | null });
  readonly code: ErrorCode;
  /** HTTP status, 0 where there was no answer. */
  readonly status: number;
  /** What the node asked for, in ms; null where it did not. */
  readonly retryAfter: number | null;
}

export interface ConnectionOptions {
  /** `https://node/whep/app/room` or `https://node/whip/app/room`; relative to the page. */
  url: string;
  /** Sent as `Authorization: Bearer`. A function is asked anew for each session. */
  token?: string | (() => string | Promise<string>);
  /** Beside what the node names in its Link headers. */
  iceServers?: RTCIceServer[];
  /** `relay` for tests of a TURN server. */
  iceTransportPolicy?: RTCIceTransportPolicy;
  /** Set up again what was lost. Default true. */
  reconnect?: boolean;
  /** ms from the offer to a connection. Default 10000. */
  connectTimeout?: number;
  /** ms between `stats` events. Default 1000. */
  statsInterval?: number;
}

export interface StateDetail {
  state: State;
  error: MedianodeError | null;
  /** ms until the next try, in `waiting` and `reconnecting`. */
  retryIn: number | null;
}

export interface CommonStats {
  transport: 'udp' | 'tcp' | null;
  /** By way of a TURN server. */
  relayed: boolean;
  rtt: number | null;
  bitrate: number | null;
  /** 0 to 1, over the last interval. */
  loss: number | null;
  width: number | null;
  height: number | null;
  fps: number | null;
  videoCodec: string | null;
  audioCodec: string | null;
}

export interface PlayerStats extends CommonStats {
  /** From the node to the screen: measured where `clockOffset` was set and the node's clock is told, else estimated. */
  latency: number | null;
  jitterBuffer: number | null;
  packetsLost: number;
  framesDecoded: number;
  framesDropped: number;
  freezes: number;
  frozen: number;
  nacks: number;
  keyFrameRequests: number;
  /** 0 to 1. */
  audioLevel: number | null;
}

export interface PublisherStats extends CommonStats {
  targetBitrate: number | null;
  /** Why the picture is smaller or slower than asked for. */
  limitation: 'none' | 'cpu' | 'bandwidth' | 'other' | null;
  framesSent: number;
  keyFrames: number;
  nacks: number;
  retransmittedPackets: number;
  /** One per simulcast layer. */
  layers: { rid: string; width: number | null; height: number | null; fps: number | null; active: boolean }[];
}

export interface ConnectionEvents<Stats> {
  state: CustomEvent<StateDetail>;
  stats: CustomEvent<Stats>;
  /** Nothing moved for `stallTimeout`. `preventDefault()`: leave it as it is, and look again later. Players only. */
  stall: CustomEvent<null>;
  /** A remote track came. Players only. */
  track: CustomEvent<MediaStreamTrack>;
  /** The browser allowed no sound without a gesture; it plays muted. Players only. */
  muted: CustomEvent<null>;
  /** A local track ended: unplugged, or sharing was stopped. Publishers only. */
  ended: CustomEvent<MediaStreamTrack>;
}

declare class Connection<Stats> extends EventTarget {
  readonly state: State;
  readonly error: MedianodeError | null;
  /** The latest figures; null before the first. */
  readonly stats: Stats | null;
  readonly peerConnection: RTCPeerConnection | null;
  start(): void;
  /** Set up a new session now. */
  reconnect(): void;
  /** Ends the session on the node (DELETE) and gives everything back. Idempotent; `start()` begins again. */
  close(): void;
  addEventListener<K extends keyof ConnectionEvents<Stats>>(
    type: K,
    listener: (event: ConnectionEvents<Stats>[K]) => void,
    options?: boolean | AddEventListenerOptions,
  ): void;
  addEventListener(type: string, listener: EventListenerOrEventListenerObject | null, options?: boolean | AddEventListenerOptions): void;
}

export interface PlayerOptions extends ConnectionOptions {
  /** Call `play()`, muted where sound is not allowed. Default true. */
  autoplay?: boolean;
  /** ms that the browser holds media back against jitter; default: as the node asks. */
  jitterBufferTarget?: number | null;
  /** ms without a decoded frame while connected, after which the session is set up anew; 0: never. Default 3000. */
  stallTimeout?: number;
}

export class WhepPlayer extends Connection<PlayerStats> {
  /** `video` may be null: the stream can be attached later. */
  constructor(video: HTMLMediaElement | null, options: PlayerOptions);
  readonly stream: MediaStream;
  /** The node's clock minus this one, ms; makes `latency` a measurement. */
  clockOffset: number | null;
  jitterBufferTarget: number | null;
  attach(video: HTMLMediaElement | null): void;
}

export interface PublisherOptions extends ConnectionOptions {
  /** Preferred first, e.g. `['video/H264', 'video/VP8']`; the others follow. Default H.264, which every kind of player takes. */
  codecs?: string[];
  /** Upper bound of the video. Default 2 500 000. */
  maxBitrate?: number;
  maxFramerate?: number | null;
  /** Three layers: full, half and quarter size. Default false. */
  simulcast?: boolean;
  degradationPreference?: 'balanced' | 'maintain-framerate' | 'maintain-resolution' | null;
  /** Opus, bits per second. Default 96 000. */
  audioBitrate?: number;
}

export class WhipPublisher extends Connection<PublisherStats> {
  constructor(stream: MediaStream, options: PublisherOptions);
  /** Another camera, microphone or screen, without a new session; null sends nothing of that kind. */
  replaceTrack(kind: 'video' | 'audio', track: MediaStreamTrack | null): Promise<void>;
  setMaxBitrate(bitrate: number, maxFramerate?: number | null): Promise<void>;
}

/** The ICE servers of `Link: <turn:…>; rel="ice-server"; username="…"; credential="…"` headers. */
export function iceServersOf(link: string | null): RTCIceServer[];
