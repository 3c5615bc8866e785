/**
 * What the panels share: elements, one look in both themes, controls and keys.
 *
 * A panel is a module with anywidget's interface, `export default {render({model, el})}`. All that
 * it remembers is in `model`: it calls `set` and `save_changes` when a hand moves something, and
 * draws when `change:NAME` arrives, whether the hand or Python made the change.
 */

/** Colours as in `rar_nb.style.COLORS`; a test compares the two. */
export const COLORS = {
  raster: '#0072B2', random: '#E69F00', real: '#000000', model: '#009E73',
  next: '#D55E00', known: '#56B4E9', rate: '#CC79A7', quiet: '#999999',
};

const colors = Object.entries(COLORS).map(([name, value]) => `--rar-${name}: ${value};`).join(' ');
// Text needs more contrast than areas, so each colour has a shade to write with.
const light = `--rar-ink: #1b1b1b; --rar-faint: #5c5c5c; --rar-paper: #ffffff; --rar-line: #d5d5d5;
  --rar-cell: #e6e6e6; --rar-soft: #f3f5f7; --rar-control: #6b6b6b; --rar-path: #ffffff;
  --rar-raster-ink: #00639b; --rar-random-ink: #8a5a00; --rar-model-ink: #00694c;
  --rar-next-ink: #b34700; --rar-known-ink: #0b6aa3; --rar-rate-ink: #97406f;
  --rar-known-cell: #56b4e9; color-scheme: light;`;
const dark = `--rar-ink: #ececec; --rar-faint: #b4b4b4; --rar-paper: #111111; --rar-line: #4a4a4a;
  --rar-cell: #333333; --rar-soft: #1e2226; --rar-control: #a0a0a0; --rar-path: #111111;
  --rar-real: #ffffff; --rar-raster-ink: #6cbcf0; --rar-random-ink: #f0b429;
  --rar-model-ink: #3ecfa3; --rar-next-ink: #ff9457; --rar-known-ink: #7cc8f4;
  --rar-rate-ink: #e3a0c6; --rar-known-cell: #256c95; color-scheme: dark;`;

/** A page's own word for its theme comes first (JupyterLab's, Sphinx's), then the system's. */
export const STYLES = `
.rar-app {${colors} ${light}}
@media (prefers-color-scheme: dark) {
  :root:not([data-theme="light"]) body:not([data-jp-theme-light]) .rar-app {${dark}}
}
:root[data-theme="dark"] .rar-app, [data-jp-theme-light="false"] .rar-app {${dark}}
.rar-app {color: var(--rar-ink); max-width: 960px; padding: 2px;
  background: var(--jp-layout-color0, var(--pst-color-background, var(--rar-paper)));
  font: 14px/1.45 system-ui, sans-serif; container-type: inline-size; text-align: left}
.rar-app *, .rar-app *::before {box-sizing: border-box}
.rar-app :focus {outline: none}
.rar-app :focus-visible {outline: 3px solid var(--rar-known-ink); outline-offset: 2px;
  border-radius: 3px}
.rar-app [hidden] {display: none !important}
.rar-app svg, .rar-app canvas {display: block; max-width: 100%}
.rar-app svg text {font-family: system-ui, sans-serif; fill: var(--rar-ink)}
.rar-app p {margin: 0; color: inherit}
.rar-row {display: flex; flex-wrap: wrap; gap: 6px 14px; align-items: center; margin: 6px 0}
.rar-app label {display: inline-flex; gap: 8px; align-items: center; margin: 0; max-width: 100%}
.rar-app select {max-width: 100%; flex: 0 1 auto}
.rar-app .rar-slider {flex: 1 1 220px; min-width: 0}
.rar-app .rar-slider input {flex: 1; min-width: 60px; height: 24px; margin: 0;
  accent-color: var(--rar-known-ink)}
.rar-app output {font-variant-numeric: tabular-nums; min-width: 3.5em}
.rar-app button, .rar-app select, .rar-app input[type=number] {font: inherit; line-height: 1.3;
  color: var(--rar-ink); background: var(--rar-soft); border: 1px solid var(--rar-control);
  border-radius: 6px; padding: 3px 10px; margin: 0; min-height: 30px; min-width: 30px;
  cursor: pointer}
.rar-app input[type=number] {cursor: text; padding: 3px 6px; width: 6em}
.rar-app button[aria-pressed=true] {background: var(--rar-known); color: #000; border-color: #000}
.rar-app button:disabled {opacity: .55; cursor: default}
.rar-app .rar-play {min-width: 6.2em}
.rar-faint {color: var(--rar-faint)}
.rar-picture {position: relative; aspect-ratio: 1; max-width: 340px; touch-action: none}
.rar-picture canvas {width: 100%; height: 100%; image-rendering: pixelated;
  background: var(--rar-cell)}
.rar-picture svg {position: absolute; inset: 0; width: 100%; height: 100%; overflow: visible}
.rar-picture.rar-drawn {cursor: crosshair}
.rar-app figcaption {font-size: 13px; font-weight: inherit; color: inherit; margin: 0; padding: 0;
  text-align: left}
.rar-app .rar-hidden {position: absolute; width: 1px; height: 1px; overflow: hidden;
  clip-path: inset(50%); white-space: nowrap}
`;

/**
 * Set attributes of an element: `on…` are listeners, `text` its text; null or false takes away.
 * Nothing is touched that is as it should be, since every touch costs the browser a layout.
 */
export function set(element, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name === 'text') {
      if (element.textContent !== String(value)) element.textContent = value;
    } else if (name.startsWith('on')) {
      element.addEventListener(name.slice(2), value);
    } else if (value === null || value === false) {
      element.removeAttribute(name);
    } else if (element.getAttribute(name) !== String(value)) {
      element.setAttribute(name, value === true ? '' : value);
    }
  }
  return element;
}

/** JupyterLab must leave the keys alone that are pressed in an element. */
const keepKeys = {'data-lm-suppress-shortcuts': 'true'};

/** An HTML element with attributes (see `set`) and children. */
export function html(name, attributes = {}, ...children) {
  const element = set(document.createElement(name), attributes);
  const controls = ['button', 'input', 'select', 'textarea'];
  if (controls.includes(name) || 'tabindex' in attributes) set(element, keepKeys);
  element.append(...children);
  return element;
}

/** An SVG element with attributes (see `set`) and children. */
export function svg(name, attributes = {}, ...children) {
  const element = set(document.createElementNS('http://www.w3.org/2000/svg', name), attributes);
  if ('tabindex' in attributes) set(element, keepKeys);
  element.append(...children);
  return element;
}

/** The frame of a panel: a labelled region with the look of this suite, appended to `el`. */
export function frame(el, label, styles = '') {
  const style = html('style', {text: STYLES + styles});
  const root = html('section', {class: 'rar-app', 'aria-label': label}, style);
  el.append(root);
  return root;
}

/** Change traits by hand: all at once, then tell Python. */
export function change(model, values) {
  for (const [name, value] of Object.entries(values)) model.set(name, value);
  model.save_changes();
}

/**
 * Call `draw` when one of `names` changes, once for all that change together; returns the function
 * that ends this.
 */
export function follow(model, names, draw) {
  const events = names.map(name => `change:${name}`);
  let waiting = false, ended = false;
  function changed() {
    if (waiting) return;
    waiting = true;
    queueMicrotask(() => {
      waiting = false;
      if (!ended) draw();
    });
  }
  for (const event of events) model.on(event, changed);
  return () => {
    ended = true;
    for (const event of events) model.off(event, changed);
  };
}

/** A button. */
export function button(text, onclick, attributes = {}) {
  return html('button', {type: 'button', text, onclick, ...attributes});
}

/**
 * A slider with its name on its left and its value on its right.
 * @returns {{element: Element, input: HTMLInputElement, show: function}} `show({value, max, text})`
 *   moves it; `text` is what is written, and `spoken` (else `text`) what screen readers say.
 */
export function slider(name, {min = 0, max, step = 1, oninput}) {
  const input = html('input', {type: 'range', min, max, step,
    oninput: () => oninput(Number(input.value))});
  const output = html('output');
  const element = html('label', {class: 'rar-slider'}, html('span', {text: name}), input, output);
  function show({value, min, max, text = value, spoken = text}) {
    if (min !== undefined) set(input, {min});
    if (max !== undefined) set(input, {max});
    if (Number(input.value) !== value) input.value = value;
    set(output, {text});
    set(input, {'aria-valuetext': spoken});
  }
  return {element, input, show};
}

/** A list to choose from: `options` are values, or pairs of value and text. */
export function choice(name, options, onchoice) {
  const pairs = options.map(option => Array.isArray(option) ? option : [option, option]);
  const select = html('select', {onchange: () => onchoice(pairs[select.selectedIndex][0])},
    ...pairs.map(([value, text]) => html('option', {value: String(value), text})));
  const element = html('label', {}, html('span', {text: name}), select);
  return {element, select, show: value => {
    select.selectedIndex = pairs.findIndex(pair => pair[0] === value);
  }};
}

/**
 * A play button: calls `tick` every `interval()` milliseconds until that returns false.
 * @returns {{element: HTMLButtonElement, stop: function}}
 */
export function player(name, {start, tick, interval}) {
  let frame = null, last = 0;
  function show() {
    const does = frame === null ? 'play' : 'pause';
    set(element, {text: does === 'play' ? '▶ play' : '❚❚ pause',
      'aria-label': `${does} ${name}`});
  }
  function stop() {
    cancelAnimationFrame(frame);
    frame = null;
    show();
  }
  function run(now) {
    frame = requestAnimationFrame(run);
    if (now - last < interval()) return;
    last = now;
    if (tick() === false) stop();
  }
  const element = button('', () => {
    if (frame !== null) return stop();
    start();
    frame = requestAnimationFrame(run);
    show();
  }, {class: 'rar-play'});
  show();
  return {element, stop};
}

/** A box to tick. */
export function tick(name, onchange) {
  const input = html('input', {type: 'checkbox', onchange: () => onchange(input.checked)});
  const element = html('label', {}, input, html('span', {text: name}));
  return {element, show: value => { input.checked = value; }};
}

/** A line of text that screen readers speak when it changes, once a hand rests for a moment. */
export function speaker() {
  let timer;
  const element = html('p', {class: 'rar-hidden', role: 'status'});
  return {element, say: text => {
    clearTimeout(timer);
    timer = setTimeout(() => set(element, {text}), 400);
  }};
}

/** Where a pointer is within an element, as shares of its width and height from the top left. */
export function place(event, element) {
  const box = element.getBoundingClientRect();
  return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
}

/**
 * Call `move(x, y, first)` with shares of width and height (of `within`) where a pointer presses an
 * element, and wherever it is dragged until it lets go: each place that it has passed, in order.
 * `touch` is what a finger may do there besides: nothing, or scroll the page up and down (pan-y).
 */
export function draggable(element, move, within = element, touch = 'none') {
  element.style.touchAction = touch;
  element.addEventListener('pointerdown', event => {
    if (event.button !== 0) return;
    element.setPointerCapture(event.pointerId);
    move(...place(event, within), true);
  });
  element.addEventListener('pointermove', event => {
    if (!(event.buttons & 1) || !element.hasPointerCapture(event.pointerId)) return;
    const passed = event.getCoalescedEvents?.() ?? [];
    for (const at of passed.length ? passed : [event]) move(...place(at, within), false);
  });
}

/**
 * Cells of a `g` × `g` grid that a straight line between two points passes, from its start on;
 * points are shares of width and height.
 */
export function cellsBetween([x0, y0], [x1, y1], g) {
  const pieces = Math.max(1, Math.ceil(4 * g * Math.hypot(x1 - x0, y1 - y0))), found = [];
  for (let i = 1; i <= pieces; i++) {
    const column = Math.floor(g * (x0 + (x1 - x0) * i / pieces));
    const row = Math.floor(g * (y0 + (y1 - y0) * i / pieces));
    const inside = column >= 0 && column < g && row >= 0 && row < g, cell = row * g + column;
    if (inside && cell !== found.at(-1)) found.push(cell);
  }
  return found;
}

/** Call `draw(width)` with an element's width in pixels, now and when it changes. */
export function onWidth(element, draw) {
  let width = 0;
  const observer = new ResizeObserver(entries => {
    const now = Math.round(entries.at(-1).contentRect.width);
    if (now === 0 || now === width) return;
    width = now;
    draw(width);
  });
  observer.observe(element);
  return () => observer.disconnect();
}

/** Call `draw` when the page, or the system, may have changed its theme (see `STYLES`). */
export function onTheme(draw) {
  const system = window.matchMedia('(prefers-color-scheme: dark)');
  const page = new MutationObserver(draw), attributeFilter = ['data-theme', 'data-jp-theme-light'];
  for (const at of [document.documentElement, document.body]) page.observe(at, {attributeFilter});
  system.addEventListener('change', draw);
  return () => {
    page.disconnect();
    system.removeEventListener('change', draw);
  };
}

/** Listen to keys by name, such as `{ArrowLeft: …, ' ': …}`; those keys do nothing else. */
export function keys(element, actions) {
  element.addEventListener('keydown', event => {
    if (!actions[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    event.stopPropagation();
    actions[event.key](event);
  });
}

/** Decoded pixels as a canvas shows them: one image of several, or a box of it. */
export function paint(canvas, pixels, image, index = 0, box = [0, 0, image.size]) {
  const {size, channels, low, high} = image, [left, top, side] = box;
  if (canvas.width !== side) canvas.width = canvas.height = side;
  const shown = new ImageData(side, side), plane = size * size;
  for (let i = 0; i < side * side; i++) {
    const at = (top + Math.floor(i / side)) * size + left + i % side;
    for (let c = 0; c < 3; c++) {
      const value = (pixels[(index * channels + c % channels) * plane + at] - low) / (high - low);
      shown.data[4 * i + c] = Math.floor(255 * Math.min(1, Math.max(0, value)));
    }
    shown.data[4 * i + 3] = 255;
  }
  canvas.getContext('2d').putImageData(shown, 0, 0);
}

/** A moment in which the page may draw and hear its reader. */
export const pause = () => new Promise(resolve => setTimeout(resolve));

let rested = 0;  // when the page last had such a moment

/** Such a moment, unless there was one in the last 10 ms. */
export async function rest() {
  if (performance.now() - rested <= 10) return;
  await pause();
  rested = performance.now();
}

/** What `make` promises, kept in a map for the next call; but what failed is tried again. */
export function remember(map, key, make) {
  if (!map.has(key)) {
    map.set(key, make());
    map.get(key).catch(() => map.delete(key));
  }
  return map.get(key);
}

/** A line of text about what is being opened, and `open`, which says why if that fails. */
export function opening(start) {
  const element = html('p', {class: 'rar-faint', role: 'status'});
  async function open() {
    set(element, {text: 'Loading the model …', hidden: false});
    try {
      await start();
    } catch (problem) {
      element.replaceChildren(`The model can't be loaded: ${problem.message} `,
        button('try again', open));
    }
  }
  return {element, open};
}

/** Call `start` once an element is seen; returns the function that ends this. */
export function whenSeen(element, start) {
  const watcher = new IntersectionObserver(entries => {
    if (!entries.some(entry => entry.isIntersecting)) return;
    watcher.disconnect();
    start();
  });
  watcher.observe(element);
  return () => watcher.disconnect();
}

/** A field for a trait that is a whole number, from 0 to `max`. */
export function numberField(model, name, trait, max) {
  const input = html('input', {type: 'number', min: 0, max, onchange: () => {
    const typed = Math.min(max, Math.round(input.value));
    if (input.value !== '' && typed >= 0) change(model, {[trait]: typed});
    show();  // also after something that is no such number
  }});
  function show() {
    input.value = model.get(trait);
  }
  return {element: html('label', {}, html('span', {text: name}), input), show};
}

/** A field for the seed of random numbers, and a button for the next one. */
export function seedField(model, another = 'other noise') {
  const {element, show} = numberField(model, 'seed', 'seed', 2 ** 32 - 1);
  const next = button(another, () => change(model, {seed: (model.get('seed') + 1) % 2 ** 32}));
  return {elements: [element, next], show};
}
