/**
 * A digit with a hole, and what three methods put into it.
 *
 * Fillings come from the kernel of JupyterLab, or are computed in the page by `filling.js`. Either
 * is a `filler`: `digit(number)`, `classes(wish, signal)`, and `fill(wish, label, method, signal)`,
 * which gives one filling after the other and then the loss of the true tokens. A `wish` is what
 * they follow from, a part of the state. When it changes, the signal stops what is computed for the
 * old one.
 */
import {
  button, change, choice, follow, frame, html, opening, paint, rest, seedField, set, slider,
  speaker, svg, whenSeen,
} from './common.js';
import {addressOf, askKernel, fetched, naming, openFolder} from './engines.js';
import {HOW, classProbabilities, fillHole, fillOrder, holeLoss, readKnown} from './filling.js';
import {cutHoles} from './holes.js';
import {imageNoise} from './sampling.js';

const COUNT = 4;  // fillings by each method
const WISH = ['digit', 'hole', 'how', 'seed', 'guidance_scale', 'guess'];
const HINT = 'To erase cells or bring them back, drag over the digit, or use arrow keys and space.';
const COLOR = {'any order': 'random', 'annealed': 'raster'};  // of a model, in `common.js`
const STYLE = `
.rar-filled {display: grid; gap: 12px 22px; margin: 8px 0 4px;
  grid-template-columns: minmax(0, 312fr) 130px minmax(0, 440fr)}
.rar-filled p {min-height: 21px; margin: 0 0 4px}
.rar-app .rar-hole text {font-size: .42px; text-anchor: middle; dominant-baseline: central}
.rar-filled canvas {aspect-ratio: 1; image-rendering: pixelated; background: var(--rar-cell)}
.rar-app .rar-original {width: 120px; margin-bottom: 14px}
.rar-classes {display: grid; grid-template: 1fr auto / repeat(10, 1fr); height: 130px;
  width: 130px; text-align: center; font-size: 13px}
.rar-classes i {background: var(--rar-quiet); align-self: end; margin: 0 1px}
.rar-classes i.rar-taken {background: var(--rar-model)}
.rar-methods > div {border-left: 5px solid; padding-left: 9px; margin-bottom: 10px;
  max-width: 460px}
.rar-methods > div:last-child {margin: 0}
.rar-fillings {display: grid; grid-template-columns: repeat(4, minmax(0, 1fr)); gap: 5px}
.rar-fillings canvas {width: 100%}
.rar-fillings .rar-old, .rar-old i {opacity: .3}
@container (max-width: 680px) {
  .rar-filled {grid-template-columns: minmax(0, 312px) 1fr}
  .rar-methods {grid-column: 1 / -1}
}
@container (max-width: 460px) {
  .rar-filled {grid-template-columns: minmax(0, 1fr)}
  .rar-known {display: flex; gap: 30px}
}
`;

/* ---- two fillers ------------------------------------------------------------------------- */

/** The validation digits of a page: tokens, classes, and all pictures, one below the other. */
async function openDigits(address, {size, low, high}) {
  const {tokens, labels} = await fetched(new URL('digits.json', address), 'json');
  const url = new URL('digits.png', address);
  const sheet = await naming(url, createImageBitmap(await fetched(url, 'blob')));
  const canvas = html('canvas', {width: size, height: size});
  const context = canvas.getContext('2d', {willReadFrequently: true});
  function pixels(number) {
    context.drawImage(sheet, 0, number * size, size, size, 0, 0, size, size);
    const {data} = context.getImageData(0, 0, size, size);
    return Float32Array.from({length: size * size},
      (_, i) => low + (high - low) * data[4 * i] / 255);
  }
  return {tokens, labels, pixels};
}

/** `read` for a page that wants to draw meanwhile, and may want something else by then. */
function attentive(read, signal) {
  async function readNext(ids) {
    await rest();
    signal.throwIfAborted();
    return read(ids);
  }
  readNext.fork = () => attentive(read.fork(), signal);
  return readNext;
}

/** A page without a kernel. */
async function openPage(folder, power) {
  const engine = await openFolder(folder), {settings} = engine;
  const {num_tokens, grid_size} = settings;
  const {tokens, labels, pixels} = await openDigits(addressOf(folder), settings.image);
  const taskOf = ({digit, hole, how, seed}) => ({hole, tokens: tokens[digit],
    order: fillOrder(hole, grid_size, how, seed)});
  const open = (name, signal) => attentive(engine.sequence(name), signal);
  return {
    digit: async number => ({label: labels[number], pixels: pixels(number)}),
    classes: (wish, signal) => classProbabilities(() => open('any order', signal), settings,
      taskOf(wish), num_tokens - wish.hole.length),
    async *fill(wish, label, {model, own}, signal) {
      const task = {...taskOf(wish), label, ...own && {order: settings.order}};
      const begun = await readKnown(open(model, signal), settings, task);
      for (let i = 0; i < COUNT; i++) {
        const noise = imageNoise(wish.seed, i, num_tokens), scale = wish.guidance_scale;
        const filled = await fillHole(begun, settings, task, {noise, scale, power});
        yield {tokens: filled, pixels: await engine.decode([filled])};
      }
      yield {loss: await holeLoss(begun, settings, task)};
    },
    close() {},
  };
}

/** The kernel of JupyterLab, which fills all holes of a method at once. */
function openKernel(model) {
  const {ask, close} = askKernel(model);
  const part = (list, i) => list.subarray(i * list.length / COUNT, (i + 1) * list.length / COUNT);
  return {
    async digit(digit) {
      const [[label], pixels] = await ask({kind: 'digit', digit});
      return {label, pixels};
    },
    async classes({digit, hole, how, seed}) {
      const [probabilities] = await ask({kind: 'classes', digit, hole, how, seed});
      return probabilities;
    },
    async *fill({digit, hole, how, seed, guidance_scale}, label, {model, own}) {
      const [tokens, pixels, [loss]] = await ask({kind: 'fill', digit, hole, how, seed,
        guidance_scale, label, model, own});
      for (let i = 0; i < COUNT; i++) yield {tokens: part(tokens, i), pixels: part(pixels, i)};
      yield {loss};
    },
    close,
  };
}

/* ---- what is seen ------------------------------------------------------------------------ */

/** The digit with its hole, and the order in which the hole is filled. */
class HoleView {
  constructor(grid) {
    const cells = Array.from({length: grid * grid}, (_, i) => [i % grid, Math.floor(i / grid)]);
    const box = ([x, y], more) => svg('rect', {x, y, width: 1, height: 1, ...more});
    this.covers = cells.map(at => box(at, {stroke: 'var(--rar-quiet)', 'stroke-width': .02}));
    this.numbers = cells.map(([x, y]) => svg('text', {x: x + .5, y: y + .5}));
    this.cursor = box([0, 0], {fill: 'none', stroke: 'var(--rar-next)', 'stroke-width': .12,
      visibility: 'hidden'});
    this.canvas = html('canvas');
    this.picture = html('div', {class: 'rar-picture'}, this.canvas, svg('svg', {
      viewBox: `0 0 ${grid} ${grid}`, class: 'rar-hole', 'aria-hidden': 'true'}, ...this.covers,
    ...this.numbers, this.cursor));
    this.title = html('p');
    this.element = html('div', {}, this.title, this.picture);
  }

  draw(order, hole) {
    const known = order.length - hole.length;
    const text = `${hole.length} of ${order.length} cells to fill`;
    order.forEach((cell, k) => {
      set(this.covers[cell], {fill: k < known ? 'none' : 'var(--rar-cell)'});
      set(this.numbers[cell], {text: k < known ? '' : k - known + 1});
    });
    set(this.title, {text});
    set(this.picture, {'aria-label': `digit with a hole, ${text}`});
  }
}

/** The whole digit, and how probable each class is, given the known tokens. */
class KnownView {
  constructor(num_classes) {
    this.canvas = html('canvas', {class: 'rar-original', role: 'img', 'aria-label': 'original'});
    this.bars = Array.from({length: num_classes}, () => html('i'));
    const names = this.bars.map((_, label) => html('span', {text: label}));
    this.title = html('p');
    this.chart = html('div', {class: 'rar-classes', role: 'img',
      'aria-label': 'how probable each class is'}, ...this.bars, ...names);
    this.element = html('div', {class: 'rar-known'},
      html('div', {}, html('p', {text: 'original'}), this.canvas),
      html('div', {}, this.title, this.chart));
  }

  /** `how` is how the class was found. */
  draw(probabilities, label, how) {
    const percent = p => `${Math.round(100 * p)} %`;
    this.bars.forEach((bar, c) => set(bar, {class: c === label ? 'rar-taken' : null,
      style: `height: ${(100 * probabilities[c]).toFixed(1)}%`}));
    set(this.title, {text: `class ${label} (${how})`});
    const spoken = Array.from(probabilities, (p, c) => `${c}: ${percent(p)}`).join(', ');
    set(this.chart, {class: 'rar-classes', 'aria-label': `how probable each class is: ${spoken}`});
  }
}

/** The fillings by one method. */
class MethodView {
  constructor({model, own}, order_name) {
    this.way = own ? `${order_name} order` : null;
    this.name = html('b');
    this.loss = html('span');
    this.model = model;
    this.canvases = Array.from({length: COUNT}, () => html('canvas', {role: 'img'}));
    this.element = html('div', {style: `border-color: var(--rar-${COLOR[model]})`},
      html('p', {}, this.name, this.loss),
      html('div', {class: 'rar-fillings'}, ...this.canvases));
  }

  /** Nothing of what is shown belongs to this way of filling any more. */
  begin(how) {
    const name = `${this.model}, ${this.way ?? how}`;
    set(this.name, {text: name});
    this.waitFor(0);
    this.canvases.forEach((canvas, i) => set(canvas, {class: 'rar-old', 'data-tokens': null,
      'aria-label': `${name}, filling ${i + 1}`}));
  }

  /** Say what comes next. */
  waitFor(filled) {
    set(this.loss, {text: filled < COUNT ? `: ${filled} of ${COUNT} holes filled …`
      : ': measuring the loss …'});
  }

  drawFilling(i, {tokens, pixels}, image) {
    this.waitFor(i + 1);
    paint(this.canvases[i], pixels, image);
    set(this.canvases[i], {class: null, 'data-tokens': tokens.join(' ')});
  }

  drawLoss(loss) {
    set(this.loss, {text: `: ${loss.toFixed(2)} nats`});
  }
}

/** All controls, and `show`, which sets them to the state. */
function controlsOf(model, {num_digits}) {
  const slide = (name, trait, range, text) => {
    const one = slider(name, {...range, oninput: value => change(model, {[trait]: value})});
    return {...one, show: () => one.show({value: model.get(trait), text: text(model.get(trait))})};
  };
  const digit = slide('digit', 'digit', {max: num_digits - 1}, String);
  const scale = slide('guidance scale', 'guidance_scale', {max: 8, step: .5},
    x => x ? x.toFixed(1) : 'off');
  const seed = seedField(model);
  const how = choice('order', HOW, value => change(model, {how: value}));
  const guess = choice('class', [[false, 'the true one'], [true, 'guessed from what is left']],
    value => change(model, {guess: value}));
  const row = (...elements) => html('div', {class: 'rar-row'}, ...elements);
  const element = html('div', {}, row(digit.element, scale.element),
    row(how.element, guess.element, ...seed.elements));
  return {element, show() {
    for (const one of [digit, scale, seed]) one.show();
    how.show(model.get('how'));
    guess.show(model.get('guess'));
  }};
}

/* ---- the panel --------------------------------------------------------------------------- */

async function render({model, el}) {
  const root = frame(el, 'a hole in a digit, and its fillings', STYLE);
  let panel = null;
  const {element: status, open} = opening(async () => {
    const filler = model.send ? openKernel(model)
      : await openPage(model.get('folder'), model.get('settings').guidance_power);
    panel = new Panel(model, root, status, filler);
  });
  root.append(status);
  await open();
  return () => panel?.end();
}

class Panel {
  constructor(model, root, status, filler) {
    const settings = model.get('settings'), {grid_size, num_classes, order_name} = settings;
    Object.assign(this, {model, status, filler, settings, wanted: new AbortController()});
    this.controls = controlsOf(model, settings);
    this.hole = new HoleView(grid_size);
    this.known = new KnownView(num_classes);
    this.methods = settings.methods.map(method => new MethodView(method, order_name));
    const {element: voice, say} = speaker();
    this.say = say;
    cutHoles(this.hole, grid_size, () => model.get('hole'), hole => change(model, {hole}), say);
    this.filled = html('div', {class: 'rar-methods'}, ...this.methods.map(one => one.element));
    this.close = button('close the hole', () => change(model, {hole: []}));
    root.append(this.controls.element, html('div', {class: 'rar-filled'}, this.hole.element,
      this.known.element, this.filled), html('div', {class: 'rar-row'}, status, this.close), voice);
    const ends = [follow(model, WISH, () => this.renew()), whenSeen(root, () => this.renew())];
    this.end = () => {
      for (const end of ends) end();
      this.wanted.abort();
      filler.close();
    };
    this.begin();
  }

  /** What the state says, before anything is computed. */
  begin() {
    const [hole, how, seed] = ['hole', 'how', 'seed'].map(name => this.model.get(name));
    this.controls.show();
    this.hole.draw(fillOrder(hole, this.settings.grid_size, how, seed), hole);
    set(this.known.chart, {class: 'rar-classes rar-old'});
    for (const method of this.methods) method.begin(how);
    set(this.filled, {hidden: !hole.length});
    set(this.close, {disabled: !hole.length});
  }

  /** Drop what is computed, and fill anew. */
  renew() {
    this.wanted.abort();
    this.wanted = new AbortController();
    this.say('');  // not what belongs to the old one
    this.begin();
    if (!this.busy) this.work();
  }

  /** Fill until nothing else is wanted: the kernel and the page do one thing at a time. */
  async work() {
    this.busy = true;
    let signal;
    do {
      ({signal} = this.wanted);
      try {
        await this.fill(signal);
      } catch (problem) {
        if (!signal.aborted) set(this.status, {text: problem.message});
      }
    } while (signal !== this.wanted.signal);
    this.busy = false;
  }

  async fill(signal) {
    const {model, filler, settings, methods} = this;
    const wish = Object.fromEntries(WISH.map(name => [name, model.get(name)]));
    const digit = await filler.digit(wish.digit);
    signal.throwIfAborted();
    for (const {canvas} of [this.hole, this.known]) paint(canvas, digit.pixels, settings.image);
    const probabilities = await filler.classes(wish, signal);
    signal.throwIfAborted();
    const label = wish.guess ? probabilities.indexOf(Math.max(...probabilities)) : digit.label;
    const blind = wish.hole.length === settings.grid_size ** 2;  // nothing is left
    this.known.draw(probabilities, label,
      wish.guess ? blind ? 'a blind guess' : 'guessed' : 'true');
    set(this.status, {text: HINT});
    if (!wish.hole.length) return;
    for (const [k, method] of settings.methods.entries()) {
      let i = 0;
      for await (const found of filler.fill(wish, label, method, signal)) {
        signal.throwIfAborted();
        if (found.tokens) methods[k].drawFilling(i++, found, settings.image);
        else methods[k].drawLoss(found.loss);
      }
    }
    this.say(methods.map(one => one.name.textContent + one.loss.textContent).join(', '));
  }
}

export default {render};
