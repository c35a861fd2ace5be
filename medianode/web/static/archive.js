/* Archive: how the pages of recordings ask the node, and who asks. */

export const KEY = 'medianode.key'; // of the tab's storage

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** What the node answered; throws Refused with its own words. */
export async function answered(response) {
  const answer = await response.json().catch(() => ({}));
  if (response.ok) return answer;
  throw new Refused(response.status, [answer.error?.message ?? answer.message ?? `HTTP ${response.status}`].flat().join('; '));
}

/** Paths from the node's root; a token rides in the address, a key in Authorization and nowhere else. */
export class Archive {
  constructor(root) {
    this.root = root;
    this.token = new URLSearchParams(location.search).get('token') ?? '';
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
    return answered(await fetch(this.url(path, query), { cache: 'no-store', ...init, headers }));
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
