/* Stage: the elements of a player and its controls. Knows nothing of the network. */

import { MODES, STATES, TOUCH, delay } from './words.js';

const ICONS = {
  play: 'M8 5.1v13.8a1 1 0 0 0 1.5.9l11-6.9a1 1 0 0 0 0-1.8l-11-6.9A1 1 0 0 0 8 5.1z',
  pause: 'M7 4h3.4v16H7zM13.6 4H17v16h-3.4z',
  sound: 'M4 9v6h4l5 4.5v-15L8 9zm12.2-1.6a6.4 6.4 0 0 1 0 9.2m2.6-11.8a10 10 0 0 1 0 14.4',
  muted: 'M4 9v6h4l5 4.5v-15L8 9zm12.5.6 4.8 4.8m0-4.8-4.8 4.8',
  full: 'M4 9V4h5M20 9V4h-5M4 15v5h5M20 15v5h-5',
  info: 'M12 3.5a8.5 8.5 0 1 0 0 17 8.5 8.5 0 0 0 0-17zM12 11v5.5M12 7.6v.2',
};
const OUTLINED = new Set(['full', 'sound', 'muted', 'info']);
const SVG = 'http://www.w3.org/2000/svg';
const IDLE = 2800;

const hint = (label, key) => (TOUCH ? label : `${label} (${key})`);

export function element(tag, properties = {}, ...children) {
  const { dataset = {}, attributes = {}, ...rest } = properties;
  const made = Object.assign(document.createElement(tag), rest);
  Object.assign(made.dataset, dataset);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children.filter((c) => c !== null && c !== undefined));
  return made;
}

function icon(name) {
  const svg = document.createElementNS(SVG, 'svg');
  const path = document.createElementNS(SVG, 'path');
  svg.setAttribute('viewBox', '0 0 24 24');
  svg.setAttribute('aria-hidden', 'true');
  if (OUTLINED.has(name)) svg.classList.add('outlined');
  path.setAttribute('d', ICONS[name]);
  svg.append(path);
  return svg;
}

function iconButton(name, label, className = '') {
  return element('button', { type: 'button', className: `icon ${className}`, title: label, attributes: { 'aria-label': label } }, icon(name));
}

/** Events on `stage.root`: toggle, mute, live, full, panel, mode (detail), token (detail). */
export class Stage {
  constructor(root, { room, embedded }) {
    this.root = root;
    this.video = element('video', { playsInline: true, disableRemotePlayback: true, attributes: { playsinline: '', 'aria-label': `Live video of ${room}` } });
    this.canvas = element('canvas', { width: 16, height: 9, hidden: true, attributes: { role: 'img', 'aria-label': `Live pictures of ${room}` } });
    this.unmute = element('button', { type: 'button', className: 'unmute', hidden: true }, icon('muted'), 'Tap for sound');
    this.lack = element('p', { className: 'lack', hidden: true, attributes: { role: 'status' } });
    this.panel = element('div', { className: 'panel-on', hidden: true, id: 'player-panel', attributes: { role: 'region', 'aria-label': 'Figures of this stream' } }, element('dl'));
    root.replaceChildren(this.video, this.canvas, this.buildMessage(), this.lack, this.unmute, this.panel, this.buildBar());
    root.classList.toggle('embedded', embedded);
    root.tabIndex = -1;
    this.listen();
  }

  buildMessage() {
    this.title = element('strong');
    this.text = element('p');
    this.action = element('button', { type: 'button', className: 'primary', hidden: true }, icon('play'), 'Play');
    this.field = element('input', { type: 'password', autocomplete: 'off', spellcheck: false, required: true, placeholder: 'Viewer token', attributes: { 'aria-label': 'Viewer token' } });
    this.form = element('form', { className: 'token', hidden: true }, this.field, element('button', { className: 'primary' }, 'Open'));
    const words = element('div', { className: 'words', attributes: { role: 'status' } }, this.title, this.text);
    this.message = element('div', { className: 'message' }, element('div', { className: 'spinner' }), words, this.action, this.form);
    return this.message;
  }

  buildBar() {
    this.toggle = iconButton('play', hint('Play', 'space'));
    this.mute = iconButton('muted', hint('Sound', 'm'));
    this.volume = element('input', { type: 'range', min: 0, max: 1, step: 0.05, className: 'volume', attributes: { 'aria-label': 'Volume' } });
    this.live = element('button', { type: 'button', className: 'live', title: hint('Go to the live edge', 'l') }, element('i'), element('span', {}, 'Live'));
    this.delay = element('span', { className: 'delay', title: 'Delay from the node to this screen' });
    this.mode = element('select', { className: 'mode', hidden: true, title: 'How it is played', attributes: { 'aria-label': 'How it is played' } });
    this.info = iconButton('info', hint('Figures', 'i'), 'info');
    this.info.setAttribute('aria-expanded', 'false');
    this.info.setAttribute('aria-controls', 'player-panel');
    this.full = iconButton('full', hint('Full screen', 'f'), 'full');
    const gap = element('span', { className: 'gap' });
    this.bar = element('div', { className: 'bar' }, this.toggle, this.mute, this.volume, this.live, this.delay, gap, this.mode, this.info, this.full);
    return this.bar;
  }

  emit(name, detail) {
    this.root.dispatchEvent(new CustomEvent(name, { detail }));
  }

  listen() {
    const { root } = this;
    for (const [button, name] of [[this.toggle, 'toggle'], [this.action, 'toggle'], [this.mute, 'mute'], [this.unmute, 'mute'], [this.live, 'live'], [this.full, 'full'], [this.info, 'panel']]) {
      button.addEventListener('click', () => this.emit(name));
    }
    this.volume.addEventListener('input', () => this.emit('volume', Number(this.volume.value)));
    this.mode.addEventListener('change', () => this.emit('mode', this.mode.value));
    this.form.addEventListener('submit', (e) => {
      e.preventDefault();
      this.emit('token', this.field.value.trim());
      this.field.value = '';
    });
    for (const name of ['pointermove', 'pointerdown', 'focusin', 'keydown']) root.addEventListener(name, () => this.wake());
    for (const picture of [this.video, this.canvas]) picture.addEventListener('dblclick', () => this.emit('full'));
    document.addEventListener('keydown', (e) => this.key(e));
    document.addEventListener('fullscreenchange', () => root.classList.toggle('full', document.fullscreenElement === root));
    root.addEventListener('panel', () => this.togglePanel());
    this.wake();
  }

  togglePanel() {
    this.panel.hidden = !this.panel.hidden;
    this.info.setAttribute('aria-expanded', String(!this.panel.hidden));
  }

  key(e) {
    if (e.ctrlKey || e.metaKey || e.altKey || e.target.closest?.('input, select, textarea, button, a, summary')) return;
    const name = { ' ': 'toggle', k: 'toggle', m: 'mute', l: 'live', f: 'full', i: 'panel' }[e.key];
    if (!name) return;
    e.preventDefault();
    this.emit(name);
    this.wake();
  }

  /** Controls show, and go once nobody has moved for a while. */
  wake() {
    this.root.classList.remove('idle');
    clearTimeout(this.idle);
    this.idle = setTimeout(() => {
      if (!this.bar.matches(':hover, :focus-within')) this.root.classList.add('idle');
    }, IDLE);
  }

  show(state, detail = '') {
    const { dataset } = this.root;
    if (dataset.state === state && this.said === detail) return;
    dataset.state = state;
    this.said = detail;
    const [title, text] = STATES[state] ?? ['', ''];
    this.title.textContent = title;
    this.text.textContent = detail || text;
    this.message.hidden = !title;
    this.message.dataset.kind = state;
    const asks = state === 'token' || state === 'refused';
    this.form.hidden = !asks;
    this.action.hidden = state !== 'tap';
    this.wake();
  }

  picture(which) {
    this.video.hidden = which === 'canvas';
    this.canvas.hidden = which !== 'canvas';
  }

  /** What this way of playing leaves out, in words that stay on the screen; '' takes them away. */
  lacks(words) {
    if (this.lack.textContent === words) return;
    this.lack.textContent = words;
    this.lack.hidden = !words;
  }

  playing(is) {
    const label = hint(is ? 'Pause' : 'Play', 'space');
    this.toggle.replaceChildren(icon(is ? 'pause' : 'play'));
    this.toggle.title = label;
    this.toggle.setAttribute('aria-label', label);
  }

  sound({ muted, volume, has, offer }) {
    this.mute.replaceChildren(icon(muted ? 'muted' : 'sound'));
    this.mute.setAttribute('aria-pressed', String(muted));
    this.mute.hidden = this.volume.hidden = !has;
    this.volume.value = muted ? 0 : volume;
    this.unmute.hidden = !offer;
  }

  modes(offered, chosen, current) {
    const wanted = ['auto', ...offered].join();
    if (this.mode.dataset.offered !== wanted) {
      this.mode.replaceChildren(...['auto', ...offered].map((value) => element('option', { value }, MODES[value])));
      this.mode.dataset.offered = wanted;
    }
    this.mode.value = chosen;
    this.mode.hidden = offered.length < 2;
    this.root.dataset.mode = current ?? '';
  }

  latency(value, behind) {
    this.delay.textContent = delay(value) ?? '';
    this.live.classList.toggle('behind', behind);
    this.root.dataset.latency = value === null ? '' : value.toFixed(3);
  }
}
