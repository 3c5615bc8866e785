/**
 * Panels on a page without a kernel: a stand-in for anywidget's model.
 *
 * Each `<div class="rar-live" data-panel="NAME" data-state='JSON'>` gets the panel of `./NAME.js`
 * in place of what it holds, a picture for browsers that run no scripts.
 */

/** State and those who listen to it, as anywidget passes them to `render`. */
export function makeModel(state) {
  const values = {...state}, listeners = new Map();
  const heard = event => listeners.get(event) ?? listeners.set(event, new Set()).get(event);
  return {
    get: name => values[name],
    set(name, value) {
      if (values[name] === value) return;
      values[name] = value;
      for (const listener of [...heard(`change:${name}`), ...heard('change')]) listener();
    },
    save_changes() {},  // nobody else has to know
    on: (event, listener) => void heard(event).add(listener),
    off: (event, listener) => void heard(event).delete(listener),
  };
}

/** Put the panel of a div in place of its picture. */
export async function start(div) {
  const {default: panel} = await import(`./${div.dataset.panel}.js`);
  const el = document.createElement('div');
  const model = makeModel(JSON.parse(div.dataset.state));
  await panel.render({model, el});
  div.replaceChildren(el);
}

if (globalThis.document) {
  for (const div of document.querySelectorAll('.rar-live')) start(div);
}
