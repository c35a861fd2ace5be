/* Publish: what to type into an encoder or a camera, once a key was made. */

import { element } from './stage.js';
import { copy } from './words.js';

function row(label, value) {
  const field = element('input', { readOnly: true, value, className: 'mono' });
  const button = element('button', { type: 'button' }, 'Copy');
  button.addEventListener('click', () => copy(button, value, field));
  return element('label', { className: 'field' }, label, element('span', { className: 'copy' }, field, button));
}

function obs({ url, secureUrl, streamKey }) {
  return `Settings → Stream
  Service      Custom…
  Server       ${url}
  Stream key   ${streamKey}

Settings → Output (advanced)
  Keyframe interval   2 s
  Rate control        CBR

Encrypted: use ${secureUrl} as the server.`;
}

function ffmpeg({ url, secureUrl, streamKey, certificate }) {
  const verify = certificate ? ' -tls_verify 1 -ca_file certificate.pem' : '';
  return `ffmpeg -re -stream_loop -1 -i input.mp4 -c:v libx264 -preset veryfast -tune zerolatency \\
  -b:v 2500k -maxrate 2500k -bufsize 2500k -g 60 -pix_fmt yuv420p -c:a aac -b:a 128k \\
  -f flv ${url}/${streamKey}

# Encrypted
ffmpeg -re -i input.mp4 -c copy -f flv${verify} ${secureUrl}/${streamKey}`;
}

function obsWhip({ url, key }) {
  return `OBS Studio 30 or newer

Settings → Stream
  Service        WHIP
  Server         ${url}
  Bearer Token   ${key}

Settings → Output (advanced)
  Encoder             x264 or a hardware H.264 one
  Rate control        CBR, 2500 kbit/s, buffer 750 kbit
  Keyframe interval   2 s
  B-frames            0
  Audio encoder       Opus, 48 kHz`;
}

function ffmpegWhip({ url, key }) {
  return `ffmpeg -re -stream_loop -1 -i input.mp4 -c:v libx264 -preset veryfast -tune zerolatency \\
  -profile:v baseline -bf 0 -g 60 -b:v 2500k -maxrate 2500k -bufsize 750k -pix_fmt yuv420p \\
  -c:a libopus -ar 48000 -ac 2 -b:a 96k \\
  -f whip -authorization ${key} "${url}"`;
}

function gstreamerWhip({ url, key }) {
  return `gst-launch-1.0 \\
  whipclientsink name=out video-caps="video/x-h264" \\
    signaller::whip-endpoint="${url}" \\
    signaller::auth-token="${key}" \\
  v4l2src ! videoconvert ! queue ! out. \\
  autoaudiosrc ! audioconvert ! queue ! out.`;
}

/** How other programs publish by WHIP; `certificate`: where the node's own one is, if it must be trusted. */
export function whipWords({ url, key, certificate = '' }) {
  const facts = { url, key };
  const trust = certificate ? element('p', { className: 'hint' }, 'The node made its certificate itself: ', element('a', { href: certificate, download: 'certificate.pem' }, 'download it'), ' and let the program trust it, or use http:// within your own network.') : null;
  return [row('WHIP address', url), row('Bearer token', key), trust, ...snippets([['OBS', obsWhip(facts)], ['FFmpeg', ffmpegWhip(facts)], ['GStreamer', gstreamerWhip(facts)]])].filter(Boolean);
}

function esp32({ wsUrl, streamKey }) {
  const url = new URL(wsUrl);
  const secure = url.protocol === 'wss:';
  const port = url.port || (secure ? 443 : 80);
  return `#include <WiFi.h>
#include <esp_camera.h>
#include <WebSocketsClient.h>   // arduinoWebSockets by Markus Sattler

WebSocketsClient ws;
bool ready = false;
unsigned long last = 0;

void onEvent(WStype_t type, uint8_t* text, size_t n) {
  if (type == WStype_DISCONNECTED) ready = false;
  if (type == WStype_TEXT && strstr((char*)text, "\\"ready\\"")) ready = true;
}

void setup() {
  // Wi-Fi and esp_camera_init(...) with PIXFORMAT_JPEG as in your board's example
  ws.setExtraHeaders("Authorization: Bearer ${streamKey}");
  ws.begin${secure ? 'SSL' : ''}("${url.hostname}", ${port}, "${url.pathname}${url.search}");
  ws.onEvent(onEvent);
  ws.setReconnectInterval(3000);
  ws.enableHeartbeat(15000, 3000, 2);
}

void loop() {
  ws.loop();
  if (!ready || millis() - last < 100) return;   // 10 frames a second
  last = millis();
  camera_fb_t* frame = esp_camera_fb_get();
  if (!frame) return;
  ws.sendBIN(frame->buf, frame->len);
  esp_camera_fb_return(frame);
}`;
}

function python({ wsUrl, streamKey }) {
  return `# pip install websockets
import pathlib, time
from websockets.sync.client import connect

headers = {"Authorization": "Bearer ${streamKey}"}
with connect("${wsUrl}", additional_headers=headers) as ws:
    print(ws.recv())                              # {"type":"ready",…}
    while True:
        for jpeg in sorted(pathlib.Path("frames").glob("*.jpg")):
            ws.send(jpeg.read_bytes())            # one message, one JPEG
            time.sleep(0.1)`;
}

/** One of several texts at a time, each with a copy button. */
function snippets(entries) {
  const code = element('code');
  const button = element('button', { type: 'button' }, 'Copy');
  button.addEventListener('click', () => copy(button, code.textContent));
  const tabs = entries.map(([name, text]) => {
    const tab = element('button', { type: 'button', attributes: { role: 'tab' } }, name);
    tab.addEventListener('click', () => {
      for (const other of tabs) other.setAttribute('aria-selected', String(other === tab));
      code.textContent = text;
    });
    return tab;
  });
  tabs[0].click();
  const pre = element('pre', { tabIndex: 0, attributes: { role: 'tabpanel', 'aria-label': 'What to type' } }, code);
  return [element('div', { className: 'tabs', attributes: { role: 'tablist' } }, ...tabs), element('div', { className: 'snippet' }, button, pre)];
}

function forEncoder(made, node) {
  const { url = node.rtmp, streamKey } = made;
  const secureUrl = node.rtmps;
  const facts = { url, secureUrl, streamKey, certificate: node.certificate };
  const srt = node.srt ? row('SRT, all in one', `${node.srt}?streamid=${encodeURIComponent(streamKey)}`) : null;
  const rows = [row('Server', url), row('Server, encrypted (RTMPS)', secureUrl), row('Stream key', streamKey), srt];
  const trust = node.certificate
    ? element('p', { className: 'hint' }, 'RTMPS uses a certificate that this node made itself. ', element('a', { href: node.certificate, download: 'certificate.pem' }, 'Download certificate.pem'), ' and tell the encoder to trust it.')
    : null;
  return [...rows, trust, ...snippets([['OBS', obs(facts)], ['FFmpeg', ffmpeg(facts)]])];
}

function forCamera(made) {
  return [row('WebSocket address', made.wsUrl), row('Camera key', made.streamKey), ...snippets([['ESP32-CAM', esp32(made)], ['Python', python(made)]])];
}

function forWhip(made, node, page) {
  const { whipUrl, streamKey } = made;
  const open = element('p', {}, element('a', { className: 'button main', href: `${page}#key=${encodeURIComponent(streamKey)}` }, 'Publish from this browser'));
  const secure = new URL(whipUrl, document.baseURI).protocol === 'https:';
  return [open, ...whipWords({ url: new URL(whipUrl, document.baseURI).href, key: streamKey, certificate: secure ? node.certificate : '' })];
}

/** Fill `box` with all that is needed to publish. `made`: StreamHub's answer; `node`: the page's data set; `play`: the player's address; `page`: where a browser publishes. */
export function showMade(box, { kind, made, node, play: href, page }) {
  const room = made.roomName ?? made.room;
  const play = element('a', { href }, 'Open its player');
  const note = element('p', { className: 'note' }, 'Whoever has this key can publish here. Keep it to yourself. ', play, ': it waits and starts by itself.');
  const parts = kind === 'ws-mjpeg' ? forCamera(made) : kind === 'whip' ? forWhip(made, node, page) : forEncoder(made, node);
  box.replaceChildren(element('h3', {}, `Key for ${room}`), note, ...parts.filter(Boolean));
  box.hidden = false;
  box.scrollIntoView({ block: 'nearest', behavior: 'smooth' });
}
