/**
 * Watch a model sample an image, token by token, and fill holes.
 *
 * The numbers come from `sampling.js`, the predictions from one of the engines of `engines.js`.
 */
import {
  button, change, choice, follow, frame, html, numberField, opening, paint, pause, player, rest,
  seedField, set, slider, speaker, svg, tick, whenSeen,
} from './common.js';
import {openFolder, openKernel} from './engines.js';
import {fillOrder} from './filling.js';
import {cutHoles} from './holes.js';
import {entropy, guidanceWeight, imageNoise, randomOrder, sampleSteps} from './sampling.js';

const CANDIDATES = 6;  // tokens that are shown at each step
const SMALL_GRID = 8;  // cells along a side up to which ids of tokens can be read
const STYLE = `
.rar-views {display: grid; grid-template-columns: repeat(auto-fit, minmax(205px, 1fr));
  gap: 10px 22px; margin: 8px 0}
.rar-pair.rar-compared {display: grid; gap: 0 22px;
  grid-template-columns: repeat(auto-fit, minmax(240px, 1fr))}
.rar-compared .rar-views {grid-template-columns: minmax(0, 1fr); align-content: start}
.rar-views .rar-title {font-weight: 600; margin: 0 0 4px; min-height: 21px}
.rar-attention {max-width: 340px}
.rar-candidates {display: grid; grid-template-columns: max-content 34px 1fr; gap: 7px 8px;
  align-items: center; margin: 0 0 6px; max-width: 340px}
.rar-candidates canvas {width: 34px; height: 34px; image-rendering: pixelated;
  background: var(--rar-cell)}
.rar-bar {display: flex; align-items: center; gap: 6px}
.rar-bar i {height: 20px; background: var(--rar-quiet); flex: none; min-width: 1px}
.rar-bar.rar-chosen i {background: var(--rar-next)}
.rar-courses {display: flex; gap: 0 22px}
.rar-courses figure {flex: 1; min-width: 0; margin: 0; padding: 0}
.rar-courses svg {width: 100%; height: 44px}
.rar-app svg .rar-id {fill: #fff; stroke: #000; stroke-width: .1; paint-order: stroke}
.rar-labels button {padding: 3px 8px}
.rar-sliders {display: grid; gap: 6px 22px; margin: 6px 0;
  grid-template-columns: repeat(auto-fit, minmax(200px, 1fr))}
.rar-app .rar-sliders span {white-space: nowrap}
@container (440px < width < 800px) {  /* the name of a slider above it */
  .rar-app .rar-sliders label {flex-wrap: wrap; gap: 0 8px}
  .rar-app .rar-sliders span {flex-basis: 100%}
}
`;

/* ---- an image that is being sampled ------------------------------------------------------ */

/** What is to be sampled, from the panel's state. */
function requestOf(model, settings) {
  const {num_tokens, grid_size} = settings;
  const hole = model.get('hole'), base = model.get('base');
  const seed = model.get('seed'), holed = base.length === num_tokens && hole.length > 0;
  return {
    label: model.get('label'), scale: model.get('guidance_scale'),
    power: model.get('guidance_power'), temperature: model.get('temperature'),
    noise: imageNoise(seed, 0, num_tokens),
    order: holed ? fillOrder(hole, grid_size)
      : settings.order ?? randomOrder(seed, 0, num_tokens),
    known: holed ? base.map((token, cell) => hole.includes(cell) ? -1 : token)
      : Array(num_tokens).fill(-1),
    first: holed ? num_tokens - hole.length : 0,  // step from which on tokens are sampled
  };
}

/** An image: its steps so far, and what has been decoded of it. */
class Course {
  /** `seen` is called when there is something new to be seen. */
  constructor(engine, settings, name, request, seen) {
    Object.assign(this, {engine, settings, name, request, seen, steps: [], stopped: false});
    this.pixels = new Map();  // such as 'picture 12' or 'patches 12'
    this.busy = this.missed = false;  // decoding; and somebody waits for something else
  }

  /** Sample all tokens. */
  async run() {
    const {engine, settings, request} = this;
    for await (const step of sampleSteps(engine.sequence(this.name), settings, request)) {
      if (this.stopped) return;
      this.steps.push(step);
      this.seen();
      await rest();
    }
  }

  /** Tokens in raster order after `known` steps; -1 where there is none yet. */
  tokens(known) {
    const tokens = [...this.request.known];
    for (const {cell, token} of this.steps.slice(0, known)) tokens[cell] = token;
    return tokens;
  }

  /** The likeliest ids at a step, and the one that was chosen. */
  candidates(k) {
    const {probabilities, token} = this.steps[k];
    const ids = Array.from(probabilities.keys()).sort((a, b) => probabilities[b] - probabilities[a])
      .slice(0, CANDIDATES);
    if (!ids.includes(token)) ids[ids.length - 1] = token;
    return ids;
  }

  /** What the decoder reads for a key of `pixels`; unknown cells are those of a black image. */
  rows(kind, k) {
    const {empty} = this.settings;
    const tokens = this.tokens(k).map((token, cell) => token < 0 ? empty[cell] : token);
    if (kind === 'picture') return [tokens];
    return this.candidates(k).map(id => tokens.with(this.steps[k].cell, id));
  }

  /** Decoded pixels, or null while they are on their way; then `seen` is called. */
  decoded(kind, k) {
    const found = this.pixels.get(`${kind} ${k}`);
    if (!found) {
      this.missed = true;
      if (!this.busy) this.decode(kind, k);
    }
    return found ?? null;
  }

  async decode(kind, k) {
    if (this.problem) return;
    this.busy = true;
    try {
      this.pixels.set(`${kind} ${k}`, await this.engine.decode(this.rows(kind, k)));
    } catch (problem) {
      this.problem = problem;
    }
    this.busy = false;
    if (!this.missed) return;
    this.missed = false;
    this.seen();
  }

  /** Decode all that may be looked at later, so that nobody waits for it. */
  async decodeAhead() {
    for (let k = 0; k < this.steps.length; k++) {
      for (const kind of ['picture', 'patches']) {
        while (this.busy) await pause();
        if (this.stopped || this.problem) return;
        if (!this.pixels.has(`${kind} ${k}`)) await this.decode(kind, k);
        await pause();
      }
    }
  }
}

/* ---- what is seen of it ------------------------------------------------------------------ */

const percent = p => p >= 0.01 ? `${Math.round(100 * p)} %` : `${(100 * p).toFixed(1)} %`;

/** Attention of one step: of one head, or of all heads on average. */
function attentionOf({attention}, {num_layers, num_heads}, layer, head) {
  const length = attention.length / num_layers / num_heads;
  const heads = head < 0 ? Array.from({length: num_heads}, (_, h) => h) : [head];
  return Array.from({length}, (_, i) => heads.reduce(
    (sum, h) => sum + attention[(layer * num_heads + h) * length + i], 0) / heads.length);
}

/** Picture, candidates and attention of one course, side by side. */
class View {
  constructor(settings) {
    const g = settings.grid_size, cells = Array.from({length: g * g}, (_, i) => i);
    const box = (i, more) => svg('rect', {x: i % g, y: Math.floor(i / g), width: 1, height: 1,
      ...more});
    Object.assign(this, {settings, canvas: html('canvas')});
    this.covers = cells.map(i => box(i, {fill: 'var(--rar-cell)'}));
    this.holes = cells.map(i => box(i, {fill: 'none', stroke: 'var(--rar-known)',
      'stroke-width': 0.06, 'stroke-dasharray': '.16 .12'}));
    this.framed = box(0, {class: 'rar-framed', fill: 'none', stroke: 'var(--rar-next)',
      'stroke-width': 0.12});
    this.cursor = box(0, {fill: 'none', stroke: 'var(--rar-known)', 'stroke-width': 0.16,
      visibility: 'hidden'});
    this.ids = cells.map(i => svg('text', {class: 'rar-id', x: i % g + .5, 'text-anchor': 'middle',
      y: Math.floor(i / g) + .65, 'font-size': settings.codebook_size > 1000 ? .32 : .42}));
    this.overlay = svg('svg', {viewBox: `0 0 ${g} ${g}`, 'aria-hidden': 'true'},
      ...this.covers, ...this.holes, ...this.ids, this.framed, this.cursor);
    this.picture = html('div', {class: 'rar-picture', role: 'img'}, this.canvas,
      this.overlay);
    this.looks = cells.map(i => box(i, {fill: 'var(--rar-cell)', stroke: 'var(--rar-paper)',
      'stroke-width': 0.04}));
    this.asking = box(0, {fill: 'none', stroke: 'var(--rar-next)', 'stroke-width': 0.1});
    this.starts = [0, 1].map(i => svg('rect', {x: g + .35, y: i * .42 * g, width: 1, height: 1,
      fill: 'none', stroke: 'var(--rar-line)', 'stroke-width': 0.04}));
    this.names = [0, 1, 2, 3].map(i => svg('text', {x: g + .85, 'font-size': 0.42,
      y: (i >> 1) * .42 * g + [1.45, 1.95][i % 2], 'text-anchor': 'middle'}));
    this.attention = svg('svg', {class: 'rar-attention', role: 'img', 'aria-label': 'attention',
      viewBox: `-.06 -.06 ${g + 1.6} ${g + .12}`}, ...this.looks, this.asking, ...this.starts,
      ...this.names);
    this.rows = Array.from({length: CANDIDATES}, () => {
      const row = {id: html('span', {class: 'rar-faint'}), patch: html('canvas'), bar: html('i'),
        text: html('span')};
      row.line = html('span', {class: 'rar-bar'}, row.bar, row.text);
      return row;
    });
    this.list = html('div', {class: 'rar-candidates'}, ...this.rows.flatMap(
      ({id, patch, line}) => [id, patch, line]));
    this.facts = html('p', {class: 'rar-faint'});
    this.titles = Array.from({length: 3}, () => html('p', {class: 'rar-title'}));
    const column = (i, ...children) => html('div', {}, this.titles[i], ...children);
    this.element = html('div', {class: 'rar-views'}, column(0, this.picture),
      column(1, this.list, this.facts), column(2, this.attention));
  }

  draw(course, wanted, {layer, head, hole, ids}) {
    const {settings, titles} = this, {order, first} = course.request;
    const length = order.length, there = course.steps.length;
    const known = Math.max(Math.min(wanted, there), Math.min(first, there));
    this.element.dataset.known = known;
    this.element.dataset.tokens = course.tokens(known).join(' ');
    const pixels = course.decoded('picture', known);
    this.element.dataset.pictured = pixels ? known : '';
    if (pixels) {  // else the picture before this one stays a moment longer
      paint(this.canvas, pixels, settings.image);
      course.tokens(known).forEach((token, i) => {
        set(this.covers[i], {visibility: token < 0 ? 'visible' : 'hidden'});
        set(this.ids[i], {text: ids && token >= 0 ? token : ''});
      });
    }
    this.holes.forEach((mark, i) => set(mark, {visibility: hole.has(i) ? 'visible' : 'hidden'}));
    set(titles[0], {text: `${course.name}: ${known} of ${length} tokens`});
    set(this.picture, {'aria-label': `picture of ${known} of ${length} tokens`});
    const now = Math.min(known, there - 1), live = there < length && known === there;
    this.frameCell(order[Math.max(0, now)]);
    if (now < 0) return;
    this.drawCandidates(course, now, now < known, live);
    this.drawAttention(course, now, attentionOf(course.steps[now], settings, layer, head));
  }

  /** Frame the cell of the token whose probabilities and attention are shown. */
  frameCell(cell) {
    const g = this.settings.grid_size, place = {x: cell % g, y: Math.floor(cell / g)};
    for (const mark of [this.framed, this.asking]) set(mark, place);
  }

  drawCandidates(course, k, isLast, live) {
    const {grid_size, image} = this.settings, step = course.steps[k], ids = course.candidates(k);
    const patches = live ? null : course.decoded('patches', k);  // else sampling would wait
    set(this.titles[1], {text: isLast ? 'the last token' : 'the next token'});
    const guidance = course.request.scale ? `weight of guidance ${step.weight.toFixed(2)}`
      : 'guidance off';
    set(this.facts, {text: `entropy ${entropy(step.probabilities).toFixed(2)} nats, ${guidance}`});
    const corner = [step.cell % grid_size, Math.floor(step.cell / grid_size)];
    const box = [...corner.map(at => at * image.stride), image.stride];
    this.rows.forEach((row, i) => {
      const p = step.probabilities[ids[i]], chosen = ids[i] === step.token;
      set(row.id, {text: ids[i]});
      set(row.bar, {style: `width: ${(55 * p).toFixed(1)}%`});
      set(row.line, {class: chosen ? 'rar-bar rar-chosen' : 'rar-bar'});
      const how = step.given ? 'known' : 'sampled';
      set(row.text, {text: percent(p) + (chosen ? `, ${how}` : '')});
      set(row.patch, {style: patches ? null : 'visibility: hidden'});
      if (patches) paint(row.patch, patches, image, i, box);
    });
  }

  drawAttention(course, k, weights) {
    const {order} = course.request, most = Math.max(...weights);
    const at = new Map(order.slice(0, k).map((cell, i) => [cell, weights[i + 2]]));
    // The shade to write with, and a least opacity, so that weak cells are seen in the dark, too.
    const shade = w => ({fill: 'var(--rar-model-ink)',
      'fill-opacity': Math.max(.08, w / most).toFixed(3)});
    this.looks.forEach((cell, i) => set(cell, at.has(i) ? shade(at.get(i))
      : {fill: 'var(--rar-cell)', 'fill-opacity': 1}));
    this.starts.forEach((start, i) => set(start, shade(weights[i])));
    const texts = ['cls', percent(weights[0]), 'class', percent(weights[1])];
    this.names.forEach((text, i) => set(text, {text: texts[i]}));
    const rest = 1 - weights[0] - weights[1];
    set(this.titles[2], {text: `attention: ${percent(rest)} to tokens`});
    set(this.attention, {'aria-label': `attention: cls ${percent(weights[0])}, class `
      + `${percent(weights[1])}, tokens so far ${percent(rest)}`});
  }
}

/* ---- the panel --------------------------------------------------------------------------- */

const SAMPLED = ['label', 'guidance_scale', 'guidance_power', 'temperature', 'seed', 'generator',
  'compare', 'hole', 'base'];  // traits that decide what is sampled

/** Buttons for a few classes, a field for many. */
function labelControl(model, count) {
  if (count > 20) return numberField(model, 'class', 'label', count - 1);
  const buttons = Array.from({length: count}, (_, label) => button(
    String(label), () => change(model, {label}), {'aria-label': `class ${label}`}));
  const element = html('div', {class: 'rar-row rar-labels', role: 'group', 'aria-label': 'class'},
    html('span', {text: 'class'}), ...buttons);
  return {element, show: () => buttons.forEach((one, label) => set(
    one, {'aria-pressed': String(label === model.get('label'))}))};
}

/** All controls of what is sampled, and `show`, which sets them to the state. */
function samplingControls(model, settings) {
  const names = Object.keys(settings.models);
  const label = labelControl(model, settings.num_classes);
  const real = (name, trait, min, max, step) => {
    const one = slider(name, {min, max, step, oninput: value => change(model, {[trait]: value})});
    return {...one, refresh: () => {
      const value = model.get(trait);  // only a guidance scale can be 0
      one.show({value, text: value ? value.toFixed(2) : 'off'});
    }};
  };
  const most = Math.max(8, settings.sample.guidance_scale);
  const sliders = [real('guidance scale', 'guidance_scale', 0, most, .25),
    real('power', 'guidance_power', .25, 4, .25), real('temperature', 'temperature', .1, 2, .05)];
  const seed = seedField(model);
  const generator = choice('model', names, value => change(model, {generator: value,
    compare: value === model.get('compare') ? '' : model.get('compare')}));
  const others = [['', 'none'], ...names.map(name => [name, name])];
  const compare = choice('compare with', others, value => change(model, {compare: value}));
  const choices = names.length > 1 ? [generator.element, compare.element] : [];
  const run = runControl(model);
  const element = html('div', {}, label.element,
    html('div', {class: 'rar-sliders'}, ...sliders.map(one => one.element)),
    html('div', {class: 'rar-row'}, ...seed.elements, ...run.elements, ...choices));
  return {element, show() {
    label.show();
    run.show();
    for (const one of sliders) one.refresh();
    seed.show();
    generator.show(model.get('generator'));
    compare.show(model.get('compare'));
    others.forEach(([name], i) => {
      const same = name === model.get('generator');  // as the model that is shown
      set(compare.select.options[i], {hidden: same, disabled: same});
    });
  }};
}

/** A quantity over the steps, from 0 at the bottom; a mark stands at the present one. */
function stepChart(color, length) {
  const area = svg('polygon', {fill: `var(--rar-${color}-ink)`, 'fill-opacity': .75});
  const mark = svg('rect', {y: 0, width: 1, height: 1, fill: 'var(--rar-next)',
    stroke: 'var(--rar-paper)', 'stroke-width': 1.5, 'vector-effect': 'non-scaling-stroke'});
  const strip = svg('svg', {viewBox: `0 0 ${length} 1`, preserveAspectRatio: 'none', role: 'img',
    'aria-label': 'no step yet'}, area, mark);
  const title = html('figcaption', {class: 'rar-faint'});
  function show(values, highest, now, text) {
    const heights = values.map(value => (1 - value / highest).toFixed(3));
    const points = heights.flatMap((y, k) => [`${k},${y}`, `${k + 1},${y}`]);
    set(area, {points: [`0,1`, ...points, `${heights.length},1`].join(' ')});
    set(mark, {x: Math.min(now, length - 1)});
    set(title, {text});
    set(strip, {'aria-label': text});
  }
  return {element: html('figure', {}, title, strip), show};
}

/** The weights of guidance of all steps: none where it is off. */
function guidanceOf({scale, power, order}, {sample}) {
  return scale ? order.map((_, k) => guidanceWeight(k, order.length, scale, power,
    sample.guidance_schedule)) : [];
}

/** Over the chart of these weights. */
function captionOf(weights) {
  if (!weights.length) return 'guidance is off';
  const [least, most] = [Math.min(...weights), Math.max(...weights)];
  return least < 1 ? `guidance, down to ${least.toFixed(2)}` : `guidance, up to ${most.toFixed(2)}`;
}

/** Steps: play, one back, one forth, a slider, and what changes from step to step. */
function stepControls(model, settings) {
  const length = settings.num_tokens;
  let first = 0;  // the step at which something is to be sampled: before it, all is known
  const now = () => Math.min(length, Math.max(first, model.get('step')));
  const go = step => change(model, {step: Math.min(length, Math.max(first, step))});
  const play = player('the steps', {
    start: () => {
      if (now() === length) go(first);
    },
    tick: () => {
      go(now() + 1);
      return now() < length;
    },
    interval: () => 120,
  });
  const steps = slider('step', {max: length, oninput: step => {
    play.stop();
    go(step);
  }});
  const buttons = [['◀', -1, 'one step back'], ['▶', 1, 'one step forth']].map(
    ([text, by, name]) => button(text, () => {
      play.stop();
      go(now() + by);
    }, {'aria-label': name}));
  const [doubt, guidance] = [stepChart('model', length), stepChart('raster', length)];
  const element = html('div', {}, html('div', {class: 'rar-row'}, play.element, ...buttons,
    steps.element), html('div', {class: 'rar-courses'}, doubt.element, guidance.element));
  function show(course, known) {
    first = course.request.first;
    steps.show({min: first, value: known, spoken: `${known} of ${length} tokens`});
    const most = Math.log(settings.codebook_size);
    doubt.show(course.steps.map(step => entropy(step.probabilities)), most, known,
      `entropy, up to ${most.toFixed(2)} nats`);
    const weights = guidanceOf(course.request, settings);
    guidance.show(weights, Math.max(...weights), known, captionOf(weights));
  }
  return {element, show, stop: play.stop};
}

async function render({model, el}) {
  const root = frame(el, 'a model that samples an image', STYLE);
  let panel = null;
  const {element: status, open} = opening(async () => {
    panel?.end();
    panel = null;
    const engine = model.send ? openKernel(model) : await openFolder(model.get('folder'));
    panel = new Panel(model, root, status, engine, open);
  });
  root.append(status);
  await open();
  return () => panel?.end();
}

/** A list of runs, where a kernel can open several. */
function runControl(model) {
  const runs = model.get('runs');
  const list = choice('run', runs, run => change(model, {run}));
  const elements = model.send && runs.length > 1 ? [list.element] : [];
  return {elements, show: () => list.show(model.get('run'))};
}

class Panel {
  /** `again` opens the panel anew, for another run. */
  constructor(model, root, status, engine, again) {
    const {settings} = engine, {grid_size, num_layers, num_heads} = settings;
    Object.assign(this, {model, status, engine, settings, courses: []});
    this.draw = this.draw.bind(this);
    this.controls = samplingControls(model, settings);
    this.steps = stepControls(model, settings);
    this.views = [0, 1].map(() => new View(settings));
    const {element: voice, say} = speaker();
    cutHoles(this.views[0], grid_size, () => model.get('hole'), hole => this.cut(hole), say);
    const range = (count, text) => Array.from({length: count}, (_, i) => [i, `${text} ${i}`]);
    this.layer = choice('attention of', range(num_layers, 'layer'),
      layer => change(model, {layer}));
    this.head = choice('', [[-1, 'mean of all heads'], ...range(num_heads, 'head')],
      head => change(model, {head}));
    set(this.head.select, {'aria-label': 'head'});
    this.ids = tick('ids of tokens', ids => change(model, {ids}));
    set(this.ids.element, {hidden: grid_size > SMALL_GRID});
    this.clear = button('close the hole', () => change(model, {hole: [], base: []}));
    this.hint = html('p', {class: 'rar-faint'});
    this.pair = html('div', {class: 'rar-pair'}, ...this.views.map(view => view.element));
    const row = html('div', {class: 'rar-row'}, this.layer.element, this.head.element,
      this.ids.element, this.clear);
    const element = html('div', {}, this.controls.element, this.steps.element, this.pair,
      this.hint, row, voice);
    root.append(element);
    const run = model.get('settings');
    const ends = [follow(model, ['settings', ...SAMPLED],
      () => model.get('settings') === run ? this.sample() : again()),
    follow(model, ['step', 'layer', 'head', 'ids', 'problem'], this.draw),
    follow(model, ['run'], this.controls.show),
    whenSeen(root, () => this.sample())];
    this.end = () => {
      for (const end of ends) end();
      for (const course of this.courses) course.stopped = true;
      this.steps.stop();
      engine.close?.();
      element.remove();
    };
    this.controls.show();
    set(this.views[1].element, {hidden: true});
  }

  /** Sample anew. */
  async sample() {
    const {model, engine, settings} = this;
    for (const course of this.courses) course.stopped = true;
    const request = requestOf(model, settings);
    const names = [model.get('generator'), model.get('compare')].filter(name => name);
    const courses = names.map(
      name => new Course(engine, settings, name, request, this.draw));
    this.courses = courses;
    this.controls.show();
    try {
      for (const course of courses) if (!course.stopped) await course.run();
    } catch (problem) {
      if (courses !== this.courses) return;  // nobody waits for it any more
      courses[0].problem = problem;
      this.draw();
      throw problem;
    }
    if (courses !== this.courses) return;
    change(model, {tokens: courses[0].tokens(settings.num_tokens)});
    this.draw();
    const hole = model.get('hole');  // one that was given without the image around it
    if (hole.length && !model.get('base').length) return change(model, {base: this.finished()});
    if (engine.isFast) for (const course of courses) await course.decodeAhead();
  }

  /** Tokens of the whole first image; null while it is being sampled. */
  finished() {
    const [course] = this.courses, length = this.settings.num_tokens;
    return course?.steps.length === length ? course.tokens(length) : null;
  }

  /** Fill another hole of the same image, which is whole before the first cut. */
  cut(hole) {
    const base = this.model.get('base'), tokens = base.length ? base : this.finished();
    if (!tokens) return;
    change(this.model, {base: hole.length ? tokens : [], hole, step: this.settings.num_tokens});
  }

  draw() {
    const {model, settings, courses, views} = this, [first] = courses;
    if (!first) return;
    const hole = new Set(model.get('hole')), wanted = model.get('step');
    const show = {layer: model.get('layer'), head: model.get('head'), hole,
      ids: model.get('ids') && settings.grid_size <= SMALL_GRID};
    courses.forEach((course, i) => views[i].draw(course, wanted, show));
    set(views[1].element, {hidden: courses.length < 2});
    this.pair.classList.toggle('rar-compared', courses.length > 1);
    const broken = courses.map(course => course.problem).find(one => one);
    const problem = model.get('problem') || broken && `The model can't go on: ${broken.message}`;
    set(this.status, {hidden: first.steps.length > 0 && !problem, ...problem && {text: problem}});
    this.steps.show(first, Number(views[0].element.dataset.known));
    this.layer.show(show.layer);
    this.head.show(show.head);
    this.ids.show(show.ids);
    set(this.clear, {disabled: !hole.size});
    set(this.hint, {text: hole.size
      ? `Known tokens are read first, then the hole is filled, from the rim inwards: ${hole.size} `
        + (hole.size > 1 ? 'cells.' : 'cell.')
      : 'Drag over the picture to cut a hole into it; or focus it, and use arrow keys and space.'});
  }
}

export default {render};
