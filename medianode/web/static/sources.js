/* Sources: cameras, microphones, screens, how loud they are, and why a browser does not hand them out. */

const SMOOTH = 0.72; // of the last level that stays, per picture
const FLOOR = -54; // dBFS that fills none of the meter

export const WIDTHS = { 360: 640, 540: 960, 720: 1280, 1080: 1920, 1440: 2560 };
/** What a picture of this height needs at 30 a second, bits per second. */
const RATES = { 360: 800_000, 540: 1_500_000, 720: 2_500_000, 1080: 4_500_000, 1440: 8_000_000 };

export const bitrateFor = (height, fps) => Math.round((RATES[height] ?? RATES[720]) * (fps > 30 ? 1.5 : fps < 20 ? 0.7 : 1));

/** [what, why, [what to do…]] for an error of getUserMedia or getDisplayMedia, or for a page that may not ask; null: nothing is wrong. */
export function refused(error, what) {
  const thing = { camera: 'the camera', microphone: 'the microphone', screen: 'the screen', both: 'camera and microphone' }[what] ?? what;
  switch (error?.name) {
    case 'NotAllowedError':
    case 'SecurityError':
      if (/system/i.test(error.message)) return [`The system does not let this browser use ${thing}`, '', ['Allow it in the privacy settings of the computer or phone, then try again.']];
      if (what === 'screen') return ['No screen was shared', 'The choice was called off, or sharing is not allowed here.', ['Press Screen again and pick a window, a tab or the whole screen.']];
      return [`This page was not allowed to use ${thing}`, '', ['Press the camera or lock sign beside the address, allow it, then try again.', 'In a private window or a company browser it may be forbidden altogether.']];
    case 'NotFoundError':
    case 'DevicesNotFoundError':
      return [`There is no ${what === 'both' ? 'camera or microphone' : what}`, 'The browser finds none.', ['Plug one in, or choose another source.']];
    case 'NotReadableError':
    case 'TrackStartError':
    case 'AbortError':
      return [`${thing[0].toUpperCase()}${thing.slice(1)} is busy or broken`, 'Another program or another tab may be using it.', ['Close the other one (a video call, OBS), or unplug it and plug it in again.']];
    case 'OverconstrainedError':
      return [`${thing[0].toUpperCase()}${thing.slice(1)} cannot do that`, `It does not offer the chosen ${error.constraint || 'setting'}.`, ['Choose a smaller picture or another device.']];
    default:
      return [`${thing[0].toUpperCase()}${thing.slice(1)} does not start`, `${error?.message ?? error}`, []];
  }
}

/** A picture of this size and rate, from this device or from the front or back of a phone. */
export function pictureOf({ height, fps, device, facing }) {
  const size = { width: { ideal: WIDTHS[height] }, height: { ideal: height }, frameRate: { ideal: fps } };
  if (device) return { ...size, deviceId: { exact: device } };
  return facing ? { ...size, facingMode: { ideal: facing } } : size;
}

export function soundOf({ device, music }) {
  const treated = !music;
  const how = { echoCancellation: treated, noiseSuppression: treated, autoGainControl: treated, channelCount: { ideal: music ? 2 : 1 } };
  return device ? { ...how, deviceId: { exact: device } } : how;
}

/** {camera: [...], microphone: [...]}; names are told only once one was allowed. */
export async function devices() {
  const found = await navigator.mediaDevices.enumerateDevices();
  const of = (kind) => found.filter((d) => d.kind === kind && d.deviceId);
  return { camera: of('videoinput'), microphone: of('audioinput') };
}

/** Several sounds made one, and how loud it is. */
export class Mixer {
  constructor() {
    this.context = null;
    this.inputs = [];
    this.level = 0;
  }

  /** One track of all `tracks`: itself where there is one, null for none. */
  set(tracks) {
    this.clear();
    if (!tracks.length) return null;
    this.context ??= new AudioContext({ latencyHint: 'interactive' });
    if (this.context.state === 'suspended') this.context.resume().catch(() => {});
    this.analyser ??= Object.assign(this.context.createAnalyser(), { fftSize: 1024 });
    this.out = tracks.length > 1 ? this.context.createMediaStreamDestination() : null;
    for (const track of tracks) {
      const input = this.context.createMediaStreamSource(new MediaStream([track]));
      input.connect(this.analyser);
      if (this.out) input.connect(this.out);
      this.inputs.push(input);
    }
    this.samples ??= new Float32Array(this.analyser.fftSize);
    return this.out ? this.out.stream.getAudioTracks()[0] : tracks[0];
  }

  /** 0 to 1: quick up, slow down. */
  measure() {
    let loud = 0;
    if (this.inputs.length) {
      this.analyser.getFloatTimeDomainData(this.samples);
      let sum = 0;
      for (const s of this.samples) sum += s * s;
      const db = 10 * Math.log10(sum / this.samples.length + 1e-12);
      loud = Math.min(1, Math.max(0, 1 - db / FLOOR));
    }
    this.level = Math.max(loud, this.level * SMOOTH);
    return this.level;
  }

  clear() {
    for (const input of this.inputs) input.disconnect();
    this.inputs = [];
    this.out?.stream.getTracks().forEach((track) => track.stop());
    this.out = null;
  }
}
