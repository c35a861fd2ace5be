// A publisher and a viewer that measure. In a page of the node's own origin; `harness.chromium` calls what is in `lab`.
// The picture carries the time it was drawn at as blocks; once a second it flashes and the sound beeps.
const BLOCKS = 20, ROW = 1 / 8, BEEP = 120;
const wall = () => performance.timeOrigin + performance.now();
const check = (n) => ((n >> 12) + (n >> 8) + (n >> 4) + n) & 15;

function draw(context, width, height, count) {
  const t = wall();
  const flash = t % 1000 < BEEP;
  context.fillStyle = flash ? '#fff' : '#203040';
  context.fillRect(0, 0, width, height);
  context.fillStyle = '#c04020';  // in the upper part: the lower middle is where the flash is looked for
  context.fillRect((count * 7) % width, height * 0.2, width / 10, height / 5);
  const n = Math.floor(t) & 0xffff, bits = (n << 4) | check(n), side = width / BLOCKS;
  for (let i = 0; i < BLOCKS; i++) {
    context.fillStyle = (bits >> (BLOCKS - 1 - i)) & 1 ? '#fff' : '#000';
    context.fillRect(i * side, 0, Math.ceil(side), height * ROW);
  }
}

function read(pixels, width, height) {
  const at = (x, y) => { const i = (Math.floor(y) * width + Math.floor(x)) * 4; return (pixels[i] + pixels[i + 1] + pixels[i + 2]) / 3; };
  let bits = 0;
  for (let i = 0; i < BLOCKS; i++) bits = (bits << 1) | (at((i + 0.5) * width / BLOCKS, height * ROW / 2) > 128 ? 1 : 0);
  const n = bits >> 4;
  return { time: check(n) === (bits & 15) ? n : null, bright: at(width / 2, height * 0.75) > 150 };
}

// In workers and by the wall clock: a starved machine delays sound, but loses none, so what is measured is the node.
const VOICE = `onmessage = ({ data: writable }) => {
  const writer = writable.getWriter(), wall = () => performance.timeOrigin + performance.now(), start = wall();
  let made = 0;
  setInterval(() => {
    for (; start + (made + 1) * 10 <= wall(); made++) {
      const samples = new Float32Array(480);
      for (let i = 0; i < 480; i++) {
        const n = made * 480 + i, loud = (start + n / 48) % 1000 < ${BEEP};
        samples[i] = 0.02 * Math.sin(n * 2 * Math.PI * 440 / 48000) + (loud ? 0.6 * Math.sin(n * 2 * Math.PI * 1000 / 48000) : 0);
      }
      writer.write(new AudioData({ format: 'f32', sampleRate: 48000, numberOfFrames: 480, numberOfChannels: 1, timestamp: made * 10000, data: samples }));
    }
  }, 5);
}`;
const EAR = `onmessage = async ({ data: readable }) => {
  let quiet = 0;
  for await (const data of readable) {
    const now = performance.timeOrigin + performance.now(), samples = new Float32Array(data.numberOfFrames);
    data.copyTo(samples, { planeIndex: 0, format: 'f32-planar' });
    const at = samples.findIndex((s) => Math.abs(s) > 0.2), length = samples.length / data.sampleRate * 1000;
    data.close();
    if (at < 0) quiet += length;
    else { if (quiet > 200) postMessage(now - length + at / samples.length * length); quiet = 0; }
  }
}`;
const worker = (text) => new Worker(URL.createObjectURL(new Blob([text], { type: 'text/javascript' })));

async function source({ width = 640, height = 360, fps = 30, noise = false } = {}) {
  const canvas = Object.assign(document.createElement('canvas'), { width, height });
  document.body.append(canvas);
  const context = canvas.getContext('2d');
  const image = noise ? context.createImageData(width, height) : null;
  const words = noise ? new Uint32Array(image.data.buffer) : null;
  const stream = canvas.captureStream(fps);
  let count = 0, next = 0;
  const frame = (now) => {
    requestAnimationFrame(frame);
    if (now < next - 4) return;
    next = Math.max(next + 1000 / fps, now - 1000 / fps);
    if (noise) {
      let x = (Math.random() * 1e9) | 1;
      for (let i = 0; i < words.length; i++) { x ^= x << 13; x ^= x >>> 17; x ^= x << 5; words[i] = x | 0xff000000; }
      context.putImageData(image, 0, 0);
    } else draw(context, width, height, count);
    count++;
  };
  requestAnimationFrame(frame);
  const voice = new MediaStreamTrackGenerator({ kind: 'audio' });
  worker(VOICE).postMessage(voice.writable, [voice.writable]);
  return new MediaStream([...stream.getVideoTracks(), voice]);
}

async function exchange(pc, url, token, only) {
  await pc.setLocalDescription();
  const headers = { 'Content-Type': 'application/sdp', ...(token ? { Authorization: `Bearer ${token}` } : {}) };
  const response = await fetch(url, { method: 'POST', body: pc.localDescription.sdp, headers });
  let sdp = await response.text();
  if (response.status !== 201) throw new Error(`${url}: ${response.status} ${sdp}`);
  if (only) {  // candidates of the answer: one UDP port of a relay, or TCP alone
    sdp = sdp.split('\r\n').filter((line) => !line.startsWith('a=candidate:') || (only.tcp ? / tcp /i.test(line) : / udp /i.test(line)))
      .map((line) => only.udp && line.startsWith('a=candidate:') ? `a=candidate:1 1 udp 2130706431 127.0.0.1 ${only.udp} typ host` : line)
      .filter((line, i, all) => all.indexOf(line) === i || !line.startsWith('a=candidate:')).join('\r\n');
  }
  await pc.setRemoteDescription({ type: 'answer', sdp });
  return new URL(response.headers.get('Location'), url).href;
}

const connected = (pc) => new Promise((resolve, reject) => {
  const look = () => {
    if (pc.connectionState === 'connected') resolve();
    else if (pc.connectionState === 'failed') reject(new Error('the connection failed'));
  };
  pc.addEventListener('connectionstatechange', look);
  setTimeout(() => reject(new Error(`not connected: ICE ${pc.iceConnectionState}, ${pc.connectionState}`)), 10000);
  look();
});

async function publish({ url, token, codec, media = {}, camera = false, layers = false, maxBitrate = 0, only = null }) {
  const stream = camera
    ? await navigator.mediaDevices.getUserMedia({ audio: true, video: { width: 640, height: 360, frameRate: 30 } })
    : await source(media);
  const pc = lab.pc = new RTCPeerConnection({ bundlePolicy: 'max-bundle' });
  // low bounds: a still picture gives the estimate little to grow by, and the best layer is sent only where all would find room
  const three = [['q', 4, 80_000], ['h', 2, 250_000], ['f', 1, 700_000]];
  const encodings = layers ? three.map(([rid, scaleResolutionDownBy, max]) => ({ rid, scaleResolutionDownBy, maxBitrate: max })) : [{}];
  if (maxBitrate) encodings[0].maxBitrate = maxBitrate;
  const video = pc.addTransceiver(stream.getVideoTracks()[0], { direction: 'sendonly', streams: [stream], sendEncodings: encodings });
  const kept = RTCRtpSender.getCapabilities('video').codecs.filter((c) => [`video/${codec}`, 'video/rtx'].includes(c.mimeType));
  video.setCodecPreferences(kept);
  pc.addTransceiver(stream.getAudioTracks()[0], { direction: 'sendonly', streams: [stream] });
  lab.session = await exchange(pc, url, token, only);
  await connected(pc);
}

async function play({ url, token, only = null, measure = false, codecs = null }) {
  const video = Object.assign(document.createElement('video'), { autoplay: true, playsInline: true });
  document.body.append(video);
  const pc = lab.pc = new RTCPeerConnection({ bundlePolicy: 'max-bundle' });
  lab.video = video;
  lab.seen = { latency: [], flashes: [], beeps: [], frames: 0, unread: 0, first: null, gap: 0, states: [] };
  const stream = new Promise((resolve) => { pc.ontrack = (event) => { video.srcObject = event.streams[0]; resolve(event.streams[0]); }; });
  pc.addEventListener('connectionstatechange', () => lab.seen.states.push(pc.connectionState));
  const transceiver = pc.addTransceiver('video', { direction: 'recvonly' });
  pc.addTransceiver('audio', { direction: 'recvonly' });
  if (codecs) transceiver.setCodecPreferences(RTCRtpReceiver.getCapabilities('video').codecs.filter((c) => codecs.includes(c.mimeType)));
  const started = performance.now();
  const eye = new OffscreenCanvas(160, 90).getContext('2d', { willReadFrequently: true });
  let bright = false, last = 0;
  const look = (now, frame) => {
    video.requestVideoFrameCallback(look);
    const { seen } = lab;
    seen.frames++;
    seen.first ??= now - started;
    if (last) seen.gap = Math.max(seen.gap, now - last);
    last = now;
    if (!measure) return;
    eye.drawImage(video, 0, 0, 160, 90);
    const { time, bright: is } = read(eye.getImageData(0, 0, 160, 90).data, 160, 90);
    const shown = performance.timeOrigin + frame.expectedDisplayTime;
    if (time === null) seen.unread++;
    else seen.latency.push(((Math.floor(shown) - time) & 0xffff) << 16 >> 16);
    if (is && !bright) seen.flashes.push(shown);
    bright = is;
  };
  video.requestVideoFrameCallback(look);
  lab.session = await exchange(pc, url, token, only);
  await connected(pc);
  if (measure) {
    const { readable } = new MediaStreamTrackProcessor({ track: (await stream).getAudioTracks()[0] });
    const ear = worker(EAR);
    ear.onmessage = ({ data }) => lab.seen.beeps.push(data);
    ear.postMessage(readable, [readable]);
  }
}

async function stats() {
  const all = [...(await lab.pc.getStats()).values()];
  const transport = all.find((s) => s.type === 'transport');
  const pair = all.find((s) => s.id === transport?.selectedCandidatePairId);
  const of = (type, kind) => all.filter((s) => s.type === type && s.kind === kind);
  return {
    video: of('inbound-rtp', 'video')[0] ?? null, audio: of('inbound-rtp', 'audio')[0] ?? null, sent: of('outbound-rtp', 'video'),
    heard: of('outbound-rtp', 'audio')[0] ?? null, path: all.find((s) => s.id === pair?.remoteCandidateId)?.protocol ?? '',
    estimate: pair?.availableOutgoingBitrate ?? 0, codecs: all.filter((s) => s.type === 'codec').map((s) => s.mimeType),
    state: lab.pc.connectionState,
  };
}

function forget() { Object.assign(lab.seen, { latency: [], flashes: [], beeps: [], frames: 0, unread: 0, gap: 0 }); }

window.lab = { publish, play, stats, forget };
