/** Annealing: the share r of random orders over a training, and the orders of a batch. */
import {change, choice, draggable, follow, frame, html, keys, onWidth, player, set, slider, svg,
  tick} from './common.js';
import {SCAN_ORDERS, namedOrder, stepsOf} from './orders.js';
import {batchNumbers, learningRateAt, randomRatioAt, stepAt} from './schedules.js';
import {tilePixels} from './tiles.js';

const STYLES = `
.rar-anneal {display: grid; gap: 6px 26px; align-items: start}
@container (min-width: 690px) {.rar-anneal {grid-template-columns: minmax(0, 1fr) 340px}}
@container (min-width: 800px) {.rar-anneal {grid-template-columns: minmax(0, 1fr) 453px}}
.rar-anneal > div {min-width: 0}
.rar-app figure {margin: 0 0 6px; padding: 0; min-width: 0}
.rar-plot {width: 100%; overflow: visible; user-select: none}
.rar-app .rar-plot text {font-size: 12.5px}
.rar-plot .band {fill: var(--rar-random); opacity: .16}
.rar-plot .axis {stroke: var(--rar-ink)}
.rar-plot .edge {stroke: var(--rar-line)}
.rar-plot .now {stroke: var(--rar-ink); stroke-width: 1.5}
.rar-plot path {fill: none; stroke-width: 2.5; stroke-linejoin: round}
.rar-plot .random {stroke: var(--rar-random)}
.rar-plot .rate {stroke: var(--rar-rate)}
.rar-plot .raster {stroke: var(--rar-raster)}
.rar-plot .thin {stroke: var(--rar-control); stroke-width: 1.2}
.rar-app .rar-plot .random-ink {fill: var(--rar-random-ink)}
.rar-app .rar-plot .rate-ink {fill: var(--rar-rate-ink)}
.rar-app .rar-plot .raster-ink {fill: var(--rar-raster-ink)}
.rar-app .rar-plot .faint {fill: var(--rar-faint)}
.rar-dot {stroke: var(--rar-ink); stroke-width: 1}
.rar-handle {cursor: ew-resize}
.rar-handle rect {fill: transparent}
.rar-handle line {stroke: var(--rar-random-ink); stroke-width: 2; stroke-dasharray: 4 3}
.rar-handle circle {fill: var(--rar-random); stroke: var(--rar-ink); stroke-width: 1.5}
.rar-app .rar-handle:focus-visible {outline: none}
.rar-handle:focus-visible circle {stroke: var(--rar-known-ink); stroke-width: 4}
.rar-handle:focus-visible line {stroke: var(--rar-known-ink); stroke-dasharray: none}
.rar-app .rar-now {margin: 2px 0 4px; min-height: 2.9em}
.rar-tiles {image-rendering: pixelated; margin: 2px 0 8px}
.rar-share {width: 100%; height: 34px; overflow: visible}
.rar-app .rar-key {display: flex; flex-wrap: wrap; gap: 2px 16px; font-size: 13px}
.rar-key i {display: inline-block; width: 12px; height: 12px; margin-right: 5px; border-radius: 2px;
  vertical-align: -1px}
`;
const COLUMNS = 8, FEW = 6, ROWS = 8, WIDE = 453;  // of tiles, and pixels for all columns
const [LEFT, RIGHT, TOP, BOTTOM] = [30, 12, 24, 22];  // around a plot, in pixels
const percent = (share, digits = 1) => `${(100 * share).toFixed(digits)} %`;
const short = epoch => String(Number(epoch.toFixed(2)));

/** What a hand can do. Each changes the model, from which everything is drawn. */
function makeHand(model) {
  /** The settings of the run that is shown. */
  function run() {
    const [anneal_start, anneal_end, batch_size] =
      ['anneal_start', 'anneal_end', 'batch_size'].map(name => model.get(name));
    const own = model.get('settings')[model.get('setting')];
    const steps_per_epoch = batch_size === own.batch_size ? own.steps_per_epoch
      : Math.floor(own.images / batch_size);
    return {...own, anneal_start, anneal_end, batch_size, steps_per_epoch};
  }
  const unit = () => run().epochs >= 50 ? 1 : 0.1;
  /** An epoch within the run, a multiple of `unit`. */
  const within = epoch => Number(
    Math.max(0, Math.min(run().epochs, Math.round(epoch / unit()) * unit())).toFixed(6));
  const epoch = () => Math.min(model.get('epoch'), run().epochs);
  const go = to => change(model, {epoch: within(to)});

  /** Move an end of the annealing, which pushes the other one. */
  function move(name, to) {
    const at = within(to), start = name === 'anneal_start';
    change(model, {anneal_start: start ? at : Math.min(at, model.get('anneal_start')),
      anneal_end: start ? Math.max(at, model.get('anneal_end')) : at});
  }
  /** Another run, as it was trained; the epoch stays the same share of the whole. */
  function choose(setting) {
    const share = epoch() / run().epochs, next = model.get('settings')[setting];
    change(model, {setting, anneal_start: next.anneal_start, anneal_end: next.anneal_end,
      batch_size: next.batch_size});
    go(share * next.epochs);
  }
  const values = () => model.get('schedules')[model.get('schedule')];
  return {run, unit, epoch, go, move, choose, values};
}

/** A picture as wide as its place, with pixels for units; `draw` is called with the width. */
function makePicture(height, ...children) {
  const element = svg('svg', {class: 'rar-plot', height}, ...children);
  return {element, fit: width => set(element, {viewBox: `0 0 ${width} ${height}`})};
}

const lineOf = points => 'M' + points.map(([x, y]) => `${x.toFixed(1)},${y.toFixed(1)}`).join('L');

/** One end of the annealing: a line with a knob, moved by mouse and by arrow keys. */
function makeHandle(name, title, hand) {
  const [zone, line, knob] = ['rect', 'line', 'circle'].map(kind => svg(kind));
  const element = svg('g', {class: 'rar-handle', role: 'slider', tabindex: 0, 'aria-label': title,
    'aria-valuemin': 0}, zone, line, knob);
  const by = units => event => hand.move(name,
    hand.run()[name] + units * hand.unit() * (event.shiftKey ? 10 : 1));
  keys(element, {ArrowLeft: by(-1), ArrowDown: by(-1), ArrowRight: by(1), ArrowUp: by(1),
    PageDown: by(-10), PageUp: by(10), Home: () => hand.move(name, 0),
    End: () => hand.move(name, hand.run().epochs)});
  function show(x, top, bottom, at) {
    set(zone, {x: x - 11, y: top - 11, width: 22, height: bottom - top + 22});
    set(line, {x1: x, x2: x, y1: top, y2: bottom});
    set(knob, {cx: x, cy: at, r: 7});
    const run = hand.run();
    set(element, {'aria-valuemax': run.epochs, 'aria-valuenow': run[name],
      'aria-valuetext': `epoch ${short(run[name])}`});
  }
  return {element, show};
}

/** The curves of r and the learning rate, with the ends of the annealing to be dragged. */
function makeCurves(hand) {
  const height = 230, bottom = height - BOTTOM, top = 40;
  const band = svg('rect', {class: 'band'}), area = svg('rect', {fill: 'transparent'});
  const [axis, edge, now] = ['axis', 'edge', 'now'].map(name => svg('line', {class: name}));
  const [rate, random] = ['rate', 'random'].map(name => svg('path', {class: name}));
  const dots = ['rate', 'random'].map(name => svg('circle',
    {class: 'rar-dot', r: 5, fill: `var(--rar-${name})`}));
  const texts = Array.from({length: 6}, () => svg('text', {class: 'faint'}));
  const start = makeHandle('anneal_start', 'the annealing starts', hand);
  const end = makeHandle('anneal_end', 'the annealing ends', hand);
  const {element, fit} = makePicture(height, band, edge, axis, area, rate, random, now, ...dots,
    ...texts, start.element, end.element);
  let width = 480, run;
  const x = epoch => LEFT + (width - LEFT - RIGHT) * epoch / run.epochs;
  const y = share => bottom - (bottom - top) * share;
  const epochAt = share => (share * width - LEFT) / (width - LEFT - RIGHT) * run.epochs;
  const drag = (part, move) => draggable(part, x => move(epochAt(x)), element, 'pan-y');
  drag(area, hand.go);
  drag(start.element, epoch => hand.move('anneal_start', epoch));
  drag(end.element, epoch => hand.move('anneal_end', epoch));

  /** The corners of r's curve, which may fall at once. */
  function ratios() {
    const {anneal_start: from, anneal_end: to, epochs} = run, points = from > 0 ? [[0, 1]] : [];
    if (from >= epochs) return [...points, [epochs, 1]];
    for (let i = 0; i <= 50 && to > 0; i++) {
      const epoch = from + (to - from) * i / 50;
      points.push([epoch, from === to ? 1 - i / 50
        : randomRatioAt(epoch * run.steps_per_epoch, run, hand.values())]);
    }
    return [...points, [to, 0], [epochs, 0]];
  }

  /** Everything but the epoch. */
  function show(pixels = width) {
    [width, run] = [pixels, hand.run()];
    fit(width);
    const {anneal_start: from, anneal_end: to, epochs} = run, right = width - RIGHT;
    set(band, {x: x(from), y: top, width: x(to) - x(from), height: bottom - top});
    set(area, {x: LEFT, y: top, width: right - LEFT, height: bottom - top});
    set(axis, {x1: LEFT, x2: right, y1: bottom, y2: bottom});
    set(edge, {x1: LEFT, x2: right, y1: top, y2: top});
    set(random, {d: lineOf(ratios().map(([epoch, r]) => [x(epoch), y(r)]))});
    const steps = Array.from({length: 121}, (_, i) => i / 120 * epochs);
    set(rate, {d: lineOf(steps.map(epoch => [x(epoch),
      y(learningRateAt(epoch * run.steps_per_epoch, run) / run.learning_rate)]))});
    start.show(x(from), top, bottom, top);
    end.show(x(to), top, bottom, bottom);
    const labels = [
      [LEFT, bottom + 16, '0', 'middle'], [right, bottom + 16, `epoch ${short(epochs)}`, 'end'],
      [LEFT - 7, bottom, '0', 'end'], [LEFT - 7, top + 6, '1', 'end'],
      [Math.max(x(from) + 8, LEFT + 60), 14, `start ${short(from)}`, 'end'],
      [Math.min(x(to) - 8, right - 54), 30, `end ${short(to)}`, 'start']];
    labels.forEach(([x, y, text, anchor], i) => set(texts[i], {x, y, text, 'text-anchor': anchor}));
  }

  function draw(epoch, r, share) {
    set(now, {x1: x(epoch), x2: x(epoch), y1: top, y2: bottom});
    [share, r].forEach((value, i) => set(dots[i], {cx: x(epoch), cy: y(value)}));
  }
  return {element, show, draw};
}

/** The losses of a run that was trained, over its own epochs. */
function makeLoss(measured) {
  const height = 174, top = 22, bottom = height - BOTTOM;
  const lines = ['loss', 'random', 'raster'].map(name => svg('path',
    {class: name === 'loss' ? 'thin' : name}));
  const band = svg('rect', {class: 'band'}), now = svg('line', {class: 'now'});
  const axis = svg('line', {class: 'axis'});
  const ticks = [2, 3, 4, 5].map(() => svg('text', {class: 'faint'}));
  const names = [['training', 'faint'], ['random order', 'random-ink'],
    ['raster order', 'raster-ink']].map(([text, kind]) => svg('text', {class: kind, text}));
  const ends = [0, 1].map(() => svg('text', {class: 'faint'})), at = svg('text');
  const {element, fit} = makePicture(height, band, ...lines, axis, now, ...ticks, ...names,
    ...ends, at);
  const {epochs, anneal_start: from, anneal_end: to, curves} = measured;
  set(element, {role: 'img', 'aria-label': 'Losses of a trained run over its epochs: after the '
    + `annealing ${curves.raster.at(-1)[1].toFixed(2)} nats a token in raster order, and `
    + `${curves.random.at(-1)[1].toFixed(2)} in random order`});
  let width = 480;
  const x = epoch => LEFT + (width - LEFT - RIGHT) * epoch / epochs;
  const y = loss => bottom - (bottom - top) * (loss - 2) / 3;

  function show(pixels) {
    width = pixels;
    fit(width);
    set(band, {x: x(from), y: top, width: x(to) - x(from), height: bottom - top});
    set(axis, {x1: LEFT, x2: x(epochs), y1: bottom, y2: bottom});
    ['loss', 'random', 'raster'].forEach((name, i) => {
      const points = curves[name].map(([epoch, loss]) => [x(epoch), y(loss)]);
      set(lines[i], {d: lineOf(points)});
      set(names[i], i === 0 ? {x: points[2][0] + 8, y: points[2][1]}
        : {x: x(epochs), y: points.at(-1)[1] - 6, 'text-anchor': 'end'});
    });
    ticks.forEach((text, i) => set(text, {x: LEFT - 7, y: y(2 + i) + 4, text: 2 + i,
      'text-anchor': 'end'}));
    ends.forEach((text, i) => set(text, {x: x(i * epochs), y: bottom + 16, 'text-anchor':
      i ? 'end' : 'middle', text: i ? `epoch ${short(epochs)}` : '0'}));
  }

  /** Mark the same share of this run. */
  function draw(share) {
    const place = x(share * epochs), late = share > 0.5;
    set(now, {x1: place, x2: place, y1: top, y2: bottom});
    set(at, {x: place + (late ? -6 : 6), y: top - 6, 'text-anchor': late ? 'end' : 'start',
      text: `epoch ${short(share * epochs)}, ${percent(share, 0)} of this run`});
  }
  return {element, show, draw};
}

/** The first orders of a batch as tiles, and the share of random ones in all of it. */
function makeBatch() {
  const canvas = html('canvas', {class: 'rar-tiles', role: 'img'}), height = 34;
  const [random, final] = ['random', 'raster'].map(name => svg('rect',
    {y: 18, height: 16, fill: `var(--rar-${name})`}));
  const spread = svg('line', {y1: 14.5, y2: 14.5, stroke: 'var(--rar-ink)', 'stroke-width': 3});
  const mark = svg('path', {fill: 'var(--rar-ink)'});
  const bar = svg('svg', {class: 'rar-share', height, 'aria-hidden': true}, random, final, spread,
    mark);
  const [about, expected, found] = [html('p'), html('p'), html('p')];
  const element = html('div', {}, about, canvas, expected, bar, found);
  let key = '', numbers, tiles, width = 400;

  /** Random numbers of a batch, which are the same for every epoch unless they are fresh. */
  function prepare(run, step) {
    const now = [run.seed, step, run.batch_size, run.num_tokens].join();
    if (now === key) return;
    key = now;
    const side = Math.sqrt(run.num_tokens);
    numbers = batchNumbers(run, step, COLUMNS * ROWS);
    tiles = numbers.orders.map(order => stepsOf(order, side));
  }

  const columns = () => width < WIDE ? FEW : COLUMNS;
  const seen = () => tiles.slice(0, columns() * ROWS);

  function paint(run, r, order) {
    const side = Math.sqrt(run.num_tokens), steps = stepsOf(order, side);
    const {width: w, height: h, data} = tilePixels(seen().map((own, i) => numbers.limits[i] < r
      ? {steps: own, random: true} : {steps, random: false}), columns(), side);
    if (canvas.width !== w || canvas.height !== h) [canvas.width, canvas.height] = [w, h];
    const scale = Math.max(1, Math.floor(Math.min(width, 460) / w));  // whole pixels, evenly
    canvas.style.width = `${w * scale}px`;
    canvas.getContext('2d').putImageData(new ImageData(data, w, h), 0, 0);
  }

  function draw(run, step, r, order) {
    prepare(run, step);
    paint(run, r, order);
    const batch = run.batch_size, count = numbers.limits.filter(limit => limit < r).length;
    const share = count / batch, wide = 2 * Math.sqrt(r * (1 - r) / batch);
    const x = share => share * width;
    set(bar, {viewBox: `0 0 ${width} ${height}`});
    set(random, {width: x(share)});
    set(final, {x: x(share), width: width - x(share)});
    set(spread, {x1: x(Math.max(0, r - wide)), x2: x(Math.min(1, r + wide))});
    set(mark, {d: `M${x(r) - 6},1h12l-6,11z`});
    set(about, {text: `The orders of the first ${seen().length} of ${batch} images, a tile each. `
      + 'Its cells are tokens: dark ones are predicted first, bright ones last.'});
    set(expected, {text: `expected: r = ${percent(r)} ± ${percent(wide)} (two deviations)`});
    set(found, {text: `in this batch: ${count} of ${batch} orders are random, ${percent(share)}`});
    set(canvas, {'aria-label': `The first ${seen().length} orders of the batch: `
      + `${seen().filter((_, i) => numbers.limits[i] < r).length} are random`});
  }
  return {element, draw, fit: pixels => { width = pixels; }};
}

/** What is chosen above the curves. */
function makeSettings(model, hand) {
  const settings = model.get('settings'), results = model.get('results');
  const setting = choice('run', Object.entries(settings).map(([name, {title}]) => [name, title]),
    hand.choose);
  const preset = choice('annealing', [[-1, 'your own'], ...results.map(({text}, i) => [i, text])],
    i => results[i] && change(model, {anneal_start: results[i].start, anneal_end: results[i].end,
      final_order: results[i].final_order, schedule: 'linear',
      batch_size: settings.rar_l.batch_size}));
  const schedule = choice('schedule', Object.keys(model.get('schedules')),
    name => change(model, {schedule: name}));
  const order = choice('final order', model.get('names'),
    final_order => change(model, {final_order}));
  const batch = choice('batch size', [16, 64, 256, 1024, 2048],
    batch_size => change(model, {batch_size}));
  const fresh = tick('new random numbers at every epoch, as in a training',
    fresh => change(model, {fresh}));
  const element = html('div', {class: 'rar-row'}, setting.element, preset.element,
    schedule.element, order.element, batch.element, fresh.element);

  function show() {
    const published = model.get('setting') === 'rar_l' && model.get('schedule') === 'linear'
      && model.get('batch_size') === settings.rar_l.batch_size;
    const found = results.findIndex(row => row.start === model.get('anneal_start')
      && row.end === model.get('anneal_end') && row.final_order === model.get('final_order'));
    preset.show(published ? found : -1);
    set(preset.element, {hidden: model.get('setting') !== 'rar_l' || results.length === 0});
    set(batch.element, {hidden: !settings[model.get('setting')].images});
    set(schedule.element, {hidden: Object.keys(model.get('schedules')).length < 2});
    for (const [one, name] of [[setting, 'setting'], [schedule, 'schedule'], [batch, 'batch_size'],
      [order, 'final_order'], [fresh, 'fresh']]) one.show(model.get(name));
  }
  return {element, show};
}

/** The order in which the annealing ends: the paper's, or a registered one, or what is wrong. */
function finalOrder(model, side) {
  const name = model.get('final_order');
  const {order, problem} = namedOrder(name, side, model.get('registered'));
  return problem ? {problem: `${name}: ${problem}`, order: SCAN_ORDERS.raster(side)} : {order};
}

const key = (color, text) => html('span', {}, html('i', {style: `background: var(--rar-${color})`}),
  text);

function render({model, el}) {
  const root = frame(el, 'Annealing', STYLES), hand = makeHand(model);
  const settings = makeSettings(model, hand), curves = makeCurves(hand), batch = makeBatch();
  const measured = model.get('measured'), loss = makeLoss(measured);
  const epochs = slider('epoch', {oninput: to => {
    play.stop();
    hand.go(to);
  }});
  const play = player('the training', {
    start: () => hand.epoch() === hand.run().epochs && hand.go(0),
    tick: () => {
      hand.go(hand.epoch() + hand.unit());
      return hand.epoch() < hand.run().epochs;
    },
    interval: () => Math.max(30, 12000 * hand.unit() / hand.run().epochs),
  });
  const [said, rest] = [html('b'), html('span')], [r_now, rate_now] = [html('span'), html('span')];
  const left = html('div', {}, html('p', {class: 'rar-now'}, said, rest),
    html('figure', {}, html('figcaption', {class: 'rar-key'}, key('random', r_now),
      key('rate', rate_now)), curves.element),
    html('div', {class: 'rar-row'}, play.element, epochs.element),
    html('figure', {}, html('figcaption', {text: measured.title}), loss.element));
  const right = html('div', {}, html('p', {class: 'rar-key'}, key('random', 'random order'),
    key('raster', 'final order')), batch.element);
  root.append(settings.element, html('div', {class: 'rar-anneal'}, left, right));

  function draw() {
    const run = hand.run(), epoch = hand.epoch(), step = stepAt(epoch, run);
    const r = randomRatioAt(step, run, hand.values()), rate = learningRateAt(step, run);
    const {order, problem} = finalOrder(model, Math.sqrt(run.num_tokens));
    set(said, {text: `epoch ${short(epoch)} of ${short(run.epochs)}`});
    const total = (run.epochs * run.steps_per_epoch).toLocaleString('en');
    set(rest, {text: problem ? `. ${problem}`
      : `, step ${step.toLocaleString('en')} of ${total}. `
      + `Random orders alone for ${percent(run.anneal_start / run.epochs, 0)} of the run, `
      + `the final order alone for ${percent(1 - run.anneal_end / run.epochs, 0)}.`});
    set(r_now, {text: `share of random orders, r = ${percent(r)}`});
    set(rate_now, {text: `learning rate ${rate.toExponential(1)}, `
      + `${percent(rate / run.learning_rate, 0)} of its peak`});
    curves.draw(epoch, r, rate / run.learning_rate);
    loss.draw(epoch / run.epochs);
    batch.draw(run, model.get('fresh') ? step : 0, r, order);
    set(epochs.input, {step: hand.unit()});
    epochs.show({value: epoch, max: run.epochs, text: short(epoch),
      spoken: `epoch ${short(epoch)}, r ${percent(r, 0)}`});
  }
  function drawAll() {
    settings.show();
    curves.show();
    draw();
  }
  curves.show(480);
  drawAll();
  const ends = [
    onWidth(left, width => {
      curves.show(width);
      loss.show(width);
      draw();
    }),
    onWidth(right, width => {
      batch.fit(width);
      draw();
    }),
    follow(model, ['epoch'], draw),
    follow(model, ['setting', 'anneal_start', 'anneal_end', 'batch_size', 'schedule', 'schedules',
      'final_order', 'registered', 'fresh'], drawAll), play.stop];
  return () => ends.forEach(end => end());
}

export default {render};
