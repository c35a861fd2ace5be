/* Pulled: cameras that the node calls, and how that goes, in words. */

import { element } from './stage.js';

const RENEW = 2000;
const STATES = { idle: 'Idle', opening: 'Calling', running: 'Live', waiting: 'Does not answer', disabled: 'Switched off' };
const STATUS = { running: 'publishing', waiting: 'error' }; // what a key's row calls them, for its colours

/** Of a view of `/pulls`: [a word or two, a colour, a sentence]. */
export function pulledWords(pull) {
  const { state, error, onDemand } = pull;
  const word = state === 'idle' && onDemand ? 'On demand' : (STATES[state] ?? state);
  const more = {
    idle: onDemand ? 'Called when somebody watches.' : 'Waiting for a node to call it.',
    opening: error ? `Calling again: ${error}` : 'Being called…',
    running: `Fetched over ${pull.using.toUpperCase() || 'the network'}.`,
    waiting: `Trying again: ${error || 'the reason is not known'}`,
    disabled: '',
  };
  return [word, STATUS[state] ?? 'inactive', more[state] ?? ''];
}

/** Fill `box` with a camera and how it goes; asks until the box shows something else. `play`: its player's address. */
export function showPulled(box, { app, made, api, why, play }) {
  const path = `apps/${encodeURIComponent(app)}/pulls/${encodeURIComponent(made.ingressId)}`;
  const state = element('span', { className: 'state' });
  const address = element('code');
  const words = element('p', { className: 'hint', attributes: { role: 'status' } }, 'Being called…');
  const title = element('h3', {}, `Camera for ${made.roomName ?? made.room}`, state);
  const note = element('p', { className: 'note' }, 'The node fetches it from ', address, '. ', play ? element('a', { href: play }, 'Open its player') : '');
  box.replaceChildren(title, note, words);
  box.hidden = false;
  box.scrollIntoView({ block: 'nearest', behavior: 'smooth' });
  renew();

  async function renew() {
    if (!title.isConnected) return;
    if (document.hidden) return setTimeout(renew, RENEW);
    try {
      const { data } = await api(path);
      const [word, status, more] = pulledWords(data);
      state.textContent = word;
      state.dataset.status = status;
      address.textContent = data.url;
      if (words.textContent !== more) words.textContent = more;
    } catch (e) {
      words.textContent = why(e);
      if (e.status === 404) return;
    }
    setTimeout(renew, RENEW);
  }
}
