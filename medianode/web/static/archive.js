/* Archive: what the pages of recordings share: who asks, the words for times and sizes. */

const KEY = 'medianode.key';
const token = () => new URLSearchParams(location.search).get('token') ?? '';

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** Paths from the node's root; a token rides in the address, a key in Authorization and nowhere else. */
export class Archive {
  constructor(root) {
    this.root = root;
    this.token = token();
    try {
      this.key = sessionStorage.getItem(KEY) ?? '';
    } catch {
      this.key = ''; // a sandboxed frame has no storage
    }
  }

  keep(key) {
    this.key = key;
    try {
      sessionStorage.setItem(KEY, key);
    } catch {
      return;
    }
  }

  url(path, query = {}) {
    const full = new URL(path, this.root);
    for (const [name, value] of Object.entries({ ...query, ...(this.token ? { token: this.token } : {}) })) full.searchParams.set(name, value);
    return full.href;
  }

  async json(path, query = {}, init = {}) {
    const headers = this.key ? { Authorization: `Bearer ${this.key}`, ...init.headers } : init.headers;
    const response = await fetch(this.url(path, query), { cache: 'no-store', ...init, headers });
    const answer = await response.json().catch(() => ({}));
    if (!response.ok) throw new Refused(response.status, answer.error?.message ?? answer.message ?? `HTTP ${response.status}`);
    return answer;
  }

  /** null: there is none, or not for this key. */
  async picture(path, query) {
    const response = await fetch(this.url(path, query), { headers: { Authorization: `Bearer ${this.key}` } }).catch(() => null);
    return response?.ok ? response.blob() : null;
  }

  /** A token for what players fetch, where only a key opens the room: keys do not belong into addresses. */
  async borrow(app, room) {
    if (this.token || !this.key) return;
    const body = JSON.stringify({ room });
    const made = await this.json(`api/v1/apps/${app}/view-links`, {}, { method: 'POST', body, headers: { 'Content-Type': 'application/json' } });
    const link = made.data ?? made;
    this.token = link.token ?? new URL(link.url, this.root).searchParams.get('token') ?? '';
  }
}

export const time = (at) => new Date(at).toLocaleTimeString([], { hour12: false });
export const instant = (at) => new Date(at).toLocaleString([], { dateStyle: 'medium', timeStyle: 'medium', hour12: false });

export function length(seconds) {
  const whole = Math.round(seconds);
  const [h, m, s] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const two = (n) => String(n).padStart(2, '0');
  return h ? `${h}:${two(m)}:${two(s)}` : `${m}:${two(s)}`;
}

export function size(bytes) {
  if (bytes < 1e6) return `${Math.round(bytes / 1e3)} kB`;
  return bytes < 1e9 ? `${(bytes / 1e6).toFixed(1)} MB` : `${(bytes / 1e9).toFixed(2)} GB`;
}
