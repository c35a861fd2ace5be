/* Keys: the ingresses and cameras of an app, to be looked at and deleted. */

import { pulledWords } from './pulled.js';
import { element } from './stage.js';

const AGE = 10_000;
const STATUS = { inactive: 'Idle', buffering: 'Connecting', publishing: 'Live', complete: 'Ended', error: 'Failed' };
const SOURCES = [['rtmp', 'ingress'], ['ws-mjpeg', 'ws-ingest']];
const KINDS = { rtmp: 'Encoder (RTMP)', whip: 'Browser or encoder (WHIP)', url: 'Called by the node', 'ws-mjpeg': 'Camera (JPEG)' };

/** A camera's row names no address: it is this node's. */
function completed(app, row) {
  if (row.wsUrl) return row;
  const url = new URL(`ingest/ws?app=${encodeURIComponent(app)}&room=${encodeURIComponent(row.room)}`, document.baseURI);
  url.protocol = url.protocol === 'https:' ? 'wss:' : 'ws:';
  return { ...row, wsUrl: url.href };
}

function entry(app, kind, path, row, pulls = new Map()) {
  const camera = kind === 'ws-mjpeg';
  return {
    app,
    kind: camera ? kind : (row.inputType ?? kind),
    id: row.ingressId ?? row.id,
    path: `${path}/${encodeURIComponent(row.ingressId ?? row.id)}`,
    room: camera ? row.room : (row.room ?? row.roomName),
    name: camera ? row.identity : row.name,
    pull: pulls.get(row.ingressId),
    status: camera ? (row.active ? 'publishing' : 'inactive') : row.status,
    row: camera ? completed(app, row) : row,
  };
}

/** `app`: gives the chosen one; `api`, `why`: the page's; `show(box, app, kind, row)` fills a box with what an encoder needs. */
export class KeyList {
  constructor(parts) {
    Object.assign(this, parts, { at: -AGE, asked: 0, items: new Map() });
  }

  clear() {
    this.asked += 1;
    this.at = -AGE;
    this.items.clear();
    this.list.replaceChildren();
    this.count.textContent = this.wrong.textContent = '';
  }

  /** Both sorts, newest first; [entries, how many there are beyond them]. */
  async fetch(app) {
    const found = [];
    let beyond = 0;
    for (const [kind, name] of SOURCES) {
      const path = `apps/${encodeURIComponent(app)}/${name}`;
      const { data, total = data.length } = await this.api(`${path}?limit=200`);
      beyond += total - data.length;
      const pulls = data.some((row) => row.inputType === 'url') ? await this.pulls(app) : new Map();
      found.push(...data.map((row) => entry(app, kind, path, row, pulls)));
    }
    return [found, beyond];
  }

  /** How it goes with what the node calls, by ingress. */
  async pulls(app) {
    const { data } = await this.api(`apps/${encodeURIComponent(app)}/pulls?limit=200`);
    return new Map(data.map((pull) => [pull.ingressId, pull]));
  }

  /** The keys of this sort that the room has already. */
  async of(app, room, kind) {
    const whole = room === app || room.startsWith(`${app}-`) ? room : `${app}-${room}`;
    const [found] = await this.fetch(app);
    return found.filter((e) => e.kind === kind && e.room === whole);
  }

  beat() {
    if (performance.now() - this.at > AGE) this.renew();
  }

  async renew() {
    const app = this.app();
    const turn = ++this.asked;
    this.at = performance.now();
    if (!app) return;
    try {
      const [found, beyond] = await this.fetch(app);
      if (turn === this.asked) this.put(app, found, beyond);
    } catch (e) {
      if (turn !== this.asked) return;
      this.items.clear();
      this.list.replaceChildren();
      this.count.textContent = '';
      this.wrong.textContent = this.why(e);
    }
  }

  put(app, found, beyond) {
    this.wrong.textContent = '';
    const before = this.items;
    this.items = new Map(found.map((e) => [e.path, before.get(e.path) ?? new Item(e, this)]));
    for (const e of found) this.items.get(e.path).update(e);
    const none = element('li', { className: 'none' }, `App ${app} has no keys yet.`);
    const rows = found.length ? [...this.items.values()].map((item) => item.row) : [none];
    const same = rows.length === this.list.children.length && rows.every((row, i) => row === this.list.children[i]);
    if (!same) this.list.replaceChildren(...rows);
    this.count.textContent = `${found.length} in app ${app}${beyond > 0 ? `, and ${beyond} older ones not listed` : ''}`;
  }
}

class Item {
  constructor(given, owner) {
    Object.assign(this, { given, owner });
    this.state = element('span', { className: 'state' });
    this.about = element('p');
    this.wrong = element('p', { className: 'wrong', attributes: { role: 'alert' } });
    this.does = element('div', { className: 'does' });
    this.box = element('div', { className: 'made', hidden: true });
    const what = element('div', { className: 'what' }, element('strong', {}, given.room), this.state, this.about, this.wrong);
    this.row = element('li', { dataset: { key: given.id } }, element('div', { className: 'line' }, what, this.does), this.box);
    this.offer();
  }

  update(given) {
    this.given = given;
    const [word, status, more] = given.pull ? pulledWords(given.pull) : [STATUS[given.status] ?? given.status, given.status, ''];
    this.state.textContent = word;
    this.state.dataset.status = status;
    this.about.textContent = [KINDS[given.kind] ?? given.kind, given.name, more].filter(Boolean).join(' · ');
  }

  button(words, act, className = '') {
    const made = element('button', { type: 'button', className }, words);
    made.addEventListener('click', act);
    return made;
  }

  offer() {
    const { room } = this.given;
    const show = this.button(this.box.hidden ? 'Show' : 'Hide', () => this.toggle());
    show.setAttribute('aria-expanded', String(!this.box.hidden));
    show.setAttribute('aria-label', `${show.textContent} the key for ${room}`);
    const drop = this.button('Delete', () => this.confirm());
    drop.setAttribute('aria-label', `Delete the key for ${room}`);
    this.does.replaceChildren(show, drop);
  }

  async toggle() {
    if (this.box.hidden) await this.owner.show(this.box, this.given.app, this.given.kind, this.given.row);
    else {
      this.box.replaceChildren();
      this.box.hidden = true;
    }
    this.offer();
    this.does.firstChild.focus();
  }

  confirm() {
    const live = this.given.status === 'publishing';
    const drop = this.button(live ? 'Delete and disconnect it' : 'Yes, delete it', () => this.drop(drop), 'danger');
    const keep = this.button('Keep', () => {
      this.offer();
      this.does.lastChild.focus();
    });
    this.does.replaceChildren(drop, keep);
    keep.focus();
  }

  async drop(button) {
    button.disabled = true;
    this.wrong.textContent = '';
    try {
      await this.owner.api(this.given.path, null, 'DELETE');
      await this.owner.renew();
    } catch (e) {
      this.wrong.textContent = this.owner.why(e);
      this.offer();
    }
  }
}
