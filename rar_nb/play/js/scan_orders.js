/** Scan orders: walk through a grid step by step, and compare orders, your own among them. */
import {button, cellsBetween, change, draggable, follow, frame, html, keys, onTheme, onWidth,
  player, seedField, set, slider, speaker, svg} from './common.js';
import {SCAN_ORDERS, jumps, knownNeighbours, namedOrder, neighbours, randomOrder, statistics,
  stepsOf} from './orders.js';

const STYLES = `
.rar-walk {display: grid; gap: 4px 22px; align-items: start}
@container (min-width: 690px) {
  .rar-walk {grid-template-columns: minmax(340px, 1fr) minmax(0, 480px)}
}
.rar-app .rar-sides .rar-slider {flex-basis: 150px}
.rar-app .rar-orders {border: 0; padding: 0; margin: 0; min-width: 0}
.rar-app .rar-orders table {border-collapse: collapse; width: 100%; margin: 0; font-size: 14px;
  color: inherit; display: table}
.rar-app .rar-orders :is(th, td, tr) {border: 0; padding: 0; background: none; font-weight: normal;
  text-align: left; vertical-align: middle; color: inherit}
.rar-app .rar-orders thead th {color: var(--rar-faint); font-size: 12.5px; padding: 0 0 2px;
  line-height: 1.2; vertical-align: bottom}
.rar-app .rar-orders tbody tr:hover {background: var(--rar-soft)}
.rar-app .rar-orders tbody tr.chosen {background: var(--rar-soft); font-weight: bold;
  box-shadow: inset 4px 0 var(--rar-next)}
.rar-app .rar-orders tr.chosen :is(th, td) {font-weight: bold}
.rar-app .rar-orders label {padding: 1px 4px 1px 9px; cursor: pointer; display: flex;
  min-height: 32px}
.rar-app .rar-orders input {margin: 0; flex: none; accent-color: var(--rar-next)}
.rar-app .rar-orders label svg {flex: none; background: var(--rar-cell); border-radius: 3px}
.rar-app .rar-orders td {width: 19%; font-variant-numeric: tabular-nums}
.rar-app .rar-orders tbody td {padding-bottom: 3px; background: linear-gradient(to right,
  var(--rar-control) var(--share, 0%), transparent 0)
  no-repeat left bottom 5px / calc(100% - 14px) 3px}
.rar-app .rar-orders tr.chosen td {background-image: linear-gradient(to right,
  var(--rar-next) var(--share, 0%), transparent 0)}
.rar-grid {width: 100%; max-width: 480px; aspect-ratio: 1; cursor: pointer;
  user-select: none}
.rar-app .rar-said {min-height: 2.9em; margin: 6px 0 0}
.rar-said b {color: var(--rar-next-ink)}
.rar-charts {display: grid; gap: 4px 22px}
@container (min-width: 690px) {.rar-charts {grid-template-columns: 1fr 1fr}}
.rar-app figure {margin: 0; padding: 0; min-width: 0}
.rar-chart {position: relative; padding-left: 30px; height: 86px}
.rar-chart svg {width: 100%; height: 100%; cursor: ew-resize; overflow: visible}
.rar-chart span {position: absolute; left: 0; width: 25px; text-align: right; font-size: 12px;
  line-height: 1; color: var(--rar-faint)}
.rar-chart .rest {fill: var(--rar-control); opacity: .45}
.rar-chart .done {fill: var(--rar-known-cell)}
.rar-chart .now {fill: var(--rar-next)}
.rar-chart line {stroke: var(--rar-ink); vector-effect: non-scaling-stroke}
.rar-chart .mean {stroke-dasharray: 5 4}
`;
const COPY = {raster: 'rows, left to right', random: 'a shuffle, decided by its seed',
  yours: 'click cells in your order, or drag over them'};
const middle = (cell, g) => [cell % g + 0.5, Math.floor(cell / g) + 0.5];
const pointsOf = (order, g) => order.map(cell => middle(cell, g).join()).join(' ');

/** The order that is chosen by its name; see `namedOrder`. */
function orderOf(model, name, g) {
  if (name === 'random') return {order: randomOrder(g, model.get('seed'))};
  if (name === 'yours') return {order: model.get('cells')[g] ?? []};
  return namedOrder(name, g, model.get('registered'));
}

/** All that follows from the state but for the step. */
function walkOf(model, name, g) {
  const {order, problem} = orderOf(model, name, g), far = jumps(order, g);
  return {g, name, order, problem, far, steps: stepsOf(order, g), near: knownNeighbours(order, g),
    mean: far.reduce((sum, distance) => sum + distance, 0) / Math.max(1, far.length)};
}

/** What a hand can do. Each changes the model, from which everything is drawn. */
function makeHand(model) {
  let key = [], walk;
  /** The present walk, computed anew only if something else than the step has changed. */
  function current() {
    const names = ['order', 'grid_size', 'seed', 'cells', 'registered'];
    const values = names.map(name => model.get(name));
    if (values.some((value, i) => value !== key[i])) {
      [key, walk] = [values, walkOf(model, values[0], values[1])];
    }
    return walk;
  }
  const step = () => Math.min(model.get('step'), current().order.length);
  const go = to => change(model, {step: Math.max(0, Math.min(current().order.length, to))});

  /** Choose an order, or another size; the step stays the same share of the way. */
  function choose(values) {
    const share = step() / Math.max(1, current().order.length);
    for (const [name, value] of Object.entries(values)) model.set(name, value);
    const {name, order} = current();
    go(name === 'yours' ? order.length : Math.round(share * order.length));
  }

  const own = () => model.get('cells')[model.get('grid_size')] ?? [];
  function setOwn(cells) {
    change(model, {cells: {...model.get('cells'), [model.get('grid_size')]: cells},
      step: cells.length});
  }
  /** Add a cell to your order, or take it out. */
  function put(cell, adding) {
    if (adding !== own().includes(cell)) {
      setOwn(adding ? [...own(), cell] : own().filter(other => other !== cell));
    }
  }
  return {current, step, go, choose, own, setOwn, put};
}

/* ---- the grid, on a canvas: a browser takes far longer to lay out 1,024 elements ------------ */

/** Cells: those that are known, darker for a later step; the next one; and all others. */
function paintCells(context, ink, {g, steps}, step) {
  for (let cell = 0; cell < g * g; cell++) {
    const k = steps[cell], known = k >= 0 && k < step;
    context.fillStyle = k === step ? ink.next : known ? ink['known-cell'] : ink.cell;
    context.globalAlpha = known ? 0.4 + 0.6 * k / (g * g) : 1;
    context.fillRect(cell % g + 0.03, Math.floor(cell / g) + 0.03, 0.94, 0.94);
  }
  context.globalAlpha = 1;
}

/** The path through the known cells, and the jump to the next one. */
function paintPath(context, ink, {g, order, mean}, step) {
  const thick = Math.min(0.13, 0.18 / Math.max(1, mean) ** 0.8);
  function line(cells, style) {
    Object.assign(context, style);
    context.beginPath();
    for (const cell of cells) context.lineTo(...middle(cell, g));
    context.stroke();
  }
  line(order.slice(0, step), {strokeStyle: ink.path, lineWidth: thick, lineJoin: 'round',
    globalAlpha: Math.min(1, 5 / Math.max(1, mean))});
  context.globalAlpha = 1;
  if (step === 0 || step === order.length) return;
  line(order.slice(step - 1, step + 1), {strokeStyle: ink.next, lineWidth: Math.max(thick, 0.07),
    lineCap: 'round'});
}

/** A frame within a cell, `margin` away from its edges. */
function paintFrame(context, cell, g, margin, [color, width, dashes]) {
  const [x, y] = middle(cell, g), side = 1 - 2 * margin;
  Object.assign(context, {strokeStyle: color, lineWidth: width, lineCap: 'butt'});
  context.setLineDash(dashes);
  context.beginPath();
  context.roundRect(x - side / 2, y - side / 2, side, side, 0.08);
  context.stroke();
  context.setLineDash([]);
}

/** Frames around the neighbours of the next cell: thick ones if it knows them. */
function paintNeighbours(context, ink, {g, order, steps}, step) {
  if (step === order.length) return;
  for (const cell of neighbours(order[step], g)) {
    const known = steps[cell] >= 0 && steps[cell] < step;
    paintFrame(context, cell, g, 0.1, known ? [ink.ink, 0.09, []] : [ink.faint, 0.05, [0.12, 0.1]]);
  }
}

/** Steps, in 12 pixels and more, where a cell of `side` pixels is wide enough for them. */
function paintNumbers(context, ink, {g, steps}, step, side) {
  const size = Math.max(12, Math.min(20, 0.36 * side)), font = `${size}px system-ui, sans-serif`;
  if (String(g ** 2 - 1).length * 0.6 * size + 2 > side) return;
  context.font = font;
  steps.forEach((k, cell) => {
    if (k < 0) return;
    context.fillStyle = k < step ? ink.ink : ink.faint;
    if (k === step) Object.assign(context, {fillStyle: '#000', font: `bold ${font}`});
    const [x, y] = middle(cell, g);
    context.fillText(k, side * x, side * y);
    if (k === step) context.font = font;
  });
}

/** The grid: its cells, the path through them, and what surrounds the next one. */
function makeGrid() {
  const element = html('canvas', {class: 'rar-grid', tabindex: 0, role: 'application',
    'aria-roledescription': 'grid of cells', onfocus: paint, onblur: paint});
  const context = element.getContext('2d');
  let walk, step, ink, pointed = 0, width = 0;

  /** Draw the walk, once the grid is on the page. */
  function paint() {
    if (!ink) return;
    const {g, name} = walk, ratio = window.devicePixelRatio, unit = ratio * width / g;
    element.width = element.height = Math.round(ratio * width);  // which also empties it
    context.setTransform(unit, 0, 0, unit, 0, 0);
    for (const part of [paintCells, paintPath, paintNeighbours]) part(context, ink, walk, step);
    if (name === 'yours' && element.matches(':focus-visible')) {
      paintFrame(context, Math.min(pointed, g * g - 1), g, 0.04, [ink.ink, 0.08, [0.2, 0.12]]);
    }
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    Object.assign(context, {textAlign: 'center', textBaseline: 'middle'});
    paintNumbers(context, ink, walk, step, width / g);
  }

  /** Take the colours of the page's theme. */
  function color() {
    const style = getComputedStyle(element);
    ink = Object.fromEntries(['cell', 'known-cell', 'next', 'path', 'ink', 'faint'].map(
      name => [name, style.getPropertyValue(`--rar-${name}`)]));
    paint();
  }

  /** A walk after `to` steps. */
  function draw(next, to) {
    [walk, step] = [next, to];
    paint();
  }

  /** Put the frame of the keyboard around a cell. */
  function point(cell) {
    pointed = cell;
    paint();
  }

  const ends = [onTheme(color), onWidth(element, pixels => {
    width = pixels;
    color();
  })];
  window.addEventListener('resize', paint);  // also of other sharpness
  return {element, draw, point, end() {
    for (const end of ends) end();
    window.removeEventListener('resize', paint);
  }};
}

/* ---- charts and the table of all orders ---------------------------------------------------- */

let views = 0;  // so that each view's names are its own

/** A bar a step: done, now, and to come. */
function makeChart(high, onstep) {
  const clip = svg('rect', {y: -1, height: 3}), id = `rar-done-${views++}`;
  const [rest, done] = ['rest', 'done'].map(name => svg('path', {class: name}));
  set(done, {'clip-path': `url(#${id})`});
  const now = svg('rect', {class: 'now'}), mean = svg('line', {class: 'mean', x1: 0});
  const base = svg('line', {x1: 0, y1: 1, y2: 1});
  const picture = svg('svg', {preserveAspectRatio: 'none', 'aria-hidden': true},
    svg('clipPath', {id}, clip), rest, done, now, mean, base);
  const title = html('figcaption'), top = html('span', {style: 'top: 0'});
  const bottom = html('span', {text: '0', style: 'bottom: 0'});
  const element = html('figure', {}, title,
    html('div', {class: 'rar-chart'}, top, bottom, picture));
  let values = [], n = 1, scale = 1;
  draggable(picture, x => onstep(Math.floor(x * n)), picture, 'pan-y');

  /** Other values, one a step from step `n - values.length` on. */
  function show(next, steps, average = null) {
    [values, n] = [next, Math.max(1, steps)];
    scale = high ?? Math.max(2, ...values);
    const first = n - values.length;
    const bars = values.map((v, i) => `M${first + i + 0.1},1v${-v / scale}h.8v${v / scale}z`);
    set(picture, {viewBox: `0 0 ${n} 1`});
    for (const path of [rest, done]) set(path, {d: bars.join('')});
    set(base, {x2: n});
    set(mean, {x2: n, y1: 1 - average / scale, y2: 1 - average / scale,
      display: average ? null : 'none'});
    set(top, {text: high ?? scale.toFixed(scale < 10 ? 1 : 0)});
  }

  function draw(step, text) {
    const value = values[step - (n - values.length)] ?? 0;
    const width = Math.max(0.8, n / 160);  // still seen among a thousand
    set(clip, {width: step});
    set(now, {x: step + 0.5 - width / 2, y: 1 - value / scale, width, height: value / scale});
    set(title, {text});
  }
  return {element, show, draw};
}

const numbered = new WeakMap();  // statistics by order: sizes are gone through back and forth

function numbersOf(order, g) {
  if (!numbered.has(order)) numbered.set(order, statistics(order, g));
  return numbered.get(order);
}

/** The orders to choose from, a line each: a small picture, the name, and three numbers. */
function makeTable(names, onchoice) {
  const group = `rar-order-${views++}`, columns = ['mean', 'longest', 'touching'];
  const rows = names.map(name => {
    const path = svg('polyline', {fill: 'none', stroke: 'var(--rar-ink)', 'stroke-width': 0.16});
    const radio = html('input', {type: 'radio', name: group, onchange: () => onchoice(name)});
    const picture = svg('svg', {width: 28, height: 28, 'aria-hidden': true}, path);
    const numbers = columns.map(() => html('td'));
    const label = html('label', {title: COPY[name] ?? null}, radio, picture,
      html('span', {text: name}));
    const element = html('tr', {}, html('th', {scope: 'row'}, label), ...numbers);
    return {name, path, radio, picture, numbers, element};
  });
  const head = ['order', 'mean jump', 'longest jump', 'touch a known cell'];
  const element = html('fieldset', {class: 'rar-orders'}, html('legend', {class: 'rar-hidden',
    text: 'Scan order'}), html('table', {}, html('thead', {}, html('tr', {}, ...head.map(
    text => html('th', {scope: 'col', text})))), html('tbody', {}, ...rows.map(r => r.element))));

  /** Numbers of all orders of a grid, with bars as shares of the largest; and their pictures. */
  function show(model) {
    const g = model.get('grid_size');
    const numbers = rows.map(row => numbersOf(orderOf(model, row.name, g).order, g));
    const most = columns.map(column => Math.max(...numbers.map(found => found?.[column] ?? 0)));
    rows.forEach((row, i) => {
      const found = numbers[i], chosen = row.name === model.get('order');
      set(row.element, {class: chosen ? 'chosen' : null});
      row.radio.checked = chosen;
      row.numbers.forEach((cell, c) => {
        const value = found?.[columns[c]];
        set(cell, {text: found === null ? '–' : c < 2 ? value.toFixed(2)
          : `${Math.round(100 * value)} %`});
        cell.style.setProperty('--share', `${found ? 100 * value / most[c] : 0}%`);
      });
      const side = row.name === 'yours' ? g : 6, drawn = orderOf(model, row.name, side).order;
      if (drawn === row.drawn) return;
      row.drawn = drawn;
      set(row.picture, {viewBox: `0 0 ${side} ${side}`});
      set(row.path, {points: pointsOf(drawn, side), 'stroke-width': side / 36});
    });
  }
  return {element, show};
}

/** The pointer on the grid: it goes to a cell's step, or writes your own order. */
function listenToPointer(element, hand) {
  let before, adding;
  draggable(element, (x, y, first) => {
    const {g, name, steps} = hand.current();
    const passed = cellsBetween(first ? [x, y] : before, [x, y], g);
    before = [x, y];
    if (name === 'yours') {
      if (first) adding = !hand.own().includes(passed[0]);
      for (const cell of passed) hand.put(cell, adding);
    } else if (passed.length && steps[passed.at(-1)] >= 0) {
      hand.go(steps[passed.at(-1)]);
    }
  });
}

/** The keys of the grid: arrows go from cell to cell, the space bar writes your own order. */
function listenToKeys(grid, hand, say) {
  let row = 0, column = 0;  // of the frame
  function move(down, right, event) {
    const {g, name, order, steps} = hand.current(), own = name === 'yours';
    if (!own) {
      const from = order[hand.step()] ?? order.at(-1) ?? 0;
      [row, column] = [Math.floor(from / g), from % g];
    }
    const within = at => Math.max(0, Math.min(g - 1, at));
    [row, column] = [within(row + down), within(column + right)];
    const cell = row * g + column;
    grid.point(cell);
    if (!own) return hand.go(Math.max(0, steps[cell]));
    if (event.shiftKey) hand.put(cell, true);
    const k = hand.own().indexOf(cell);
    say(`row ${row + 1}, column ${column + 1}, ${k < 0 ? 'not in your order' : `step ${k}`}`);
  }
  function press() {
    const {g, name} = hand.current(), cell = Math.min(row, g - 1) * g + Math.min(column, g - 1);
    if (name !== 'yours') return;
    hand.put(cell, !hand.own().includes(cell));
    grid.point(cell);
  }
  keys(grid.element, {
    ArrowUp: event => move(-1, 0, event), ArrowDown: event => move(1, 0, event),
    ArrowLeft: event => move(0, -1, event), ArrowRight: event => move(0, 1, event),
    ' ': press, Enter: press,
    Home: () => hand.go(0), End: () => hand.go(hand.current().order.length),
    Backspace: () => hand.current().name === 'yours' && hand.setOwn(hand.own().slice(0, -1)),
  });
}

/** The state in words: what comes next, and what it knows. */
function wordsOf({g, name, order, far, near, problem}, step) {
  if (problem) return ['', `${name} has no order for ${g} × ${g} cells. ${problem}`];
  if (name === 'yours' && order.length < 2) {
    return ['your order', ': click cells of the grid in the order in which you would predict them, '
      + 'or drag over them. A second click takes a cell out.'];
  }
  const done = `${step} of ${order.length} steps done`;
  if (step === order.length) {
    return [done, name === 'yours' && step < g * g
      ? `: ${g * g - step} cells are left to be clicked.` : ': every cell is known.'];
  }
  const cell = order[step], count = neighbours(cell, g).length;
  const jump = step ? `, ${far[step - 1].toFixed(2)} cells from the one before` : '';
  return [done, `. Next: row ${Math.floor(cell / g) + 1}, column ${cell % g + 1}${jump}. `
    + `It knows ${near[step]} of its ${count} neighbours.`];
}

/** Buttons that change what is walked through: the grid's side, the seed, your own order. */
function makeSettings(model, hand) {
  const side = slider('grid', {min: 2, max: 32, oninput: g => hand.choose({grid_size: g})});
  const sides = [[7, 'as the digits of this suite'], [16, 'as RAR on ImageNet']].map(([g, title]) =>
    button(`${g} × ${g}`, () => hand.choose({grid_size: g}), {title}));
  const seed = seedField(model, 'another');
  const random = html('div', {class: 'rar-row'}, ...seed.elements);
  const yours = html('div', {class: 'rar-row'},
    button('undo', () => hand.setOwn(hand.own().slice(0, -1))),
    button('clear', () => hand.setOwn([])),
    button('finish in raster order', () => hand.setOwn([...new Set([...hand.own(),
      ...SCAN_ORDERS.raster(hand.current().g)])])));
  const element = html('div', {},
    html('div', {class: 'rar-row rar-sides'}, side.element, ...sides), random, yours);
  function show({g, name}) {
    side.show({value: g, text: `${g} × ${g}`});
    sides.forEach((one, i) => set(one, {'aria-pressed': String([7, 16][i] === g)}));
    set(random, {hidden: name !== 'random'});
    set(yours, {hidden: name !== 'yours'});
    seed.show();
  }
  return {element, show};
}

/** The line below the grid: a step back and on, play, and a slider over all steps. */
function makeWalker(hand) {
  const steps = slider('step', {oninput: to => {
    play.stop();
    hand.go(to);
  }});
  const play = player('the walk', {
    start: () => hand.step() === hand.current().order.length && hand.go(0),
    tick: () => {
      hand.go(hand.step() + 1);
      return hand.step() < hand.current().order.length;
    },
    interval: () => Math.min(180, 15000 / hand.current().order.length),
  });
  const by = (text, way, name) => button(text, () => {
    play.stop();
    hand.go(hand.step() + way);
  }, {'aria-label': name});
  const element = html('div', {class: 'rar-row'}, play.element, by('◀', -1, 'a step back'),
    by('▶', 1, 'a step on'), steps.element);
  return {element, stop: play.stop, show: (step, most, spoken) => steps.show(
    {value: step, max: most, text: `${step} of ${most}`, spoken})};
}

function render({model, el}) {
  const root = frame(el, 'Scan orders', STYLES), hand = makeHand(model), spoken = speaker();
  const grid = makeGrid(), settings = makeSettings(model, hand), walker = makeWalker(hand);
  const table = makeTable([...model.get('names'), 'random', 'yours'], order => {
    walker.stop();
    hand.choose({order});
  });
  const far = makeChart(null, hand.go), near = makeChart(4, hand.go);
  const [done, next] = [html('b'), html('span')];
  listenToPointer(grid.element, hand);
  listenToKeys(grid, hand, spoken.say);
  grid.element.addEventListener('pointerdown', walker.stop);
  root.append(
    html('div', {class: 'rar-walk'}, html('div', {}, table.element, settings.element,
      html('p', {class: 'rar-said'}, done, next), walker.element), grid.element),
    html('div', {class: 'rar-charts'}, far.element, near.element), spoken.element);

  let shown;
  function draw() {
    const walk = hand.current(), step = hand.step(), {g, name, order} = walk;
    if (walk !== shown) {
      shown = walk;
      far.show(walk.far, order.length, walk.mean);
      near.show(walk.near, order.length);
      table.show(model);
      settings.show(walk);
      // A finger writes your own order; on any other order it may scroll the page, too.
      grid.element.style.touchAction = name === 'yours' ? 'none' : 'pan-y';
      set(grid.element, {'aria-label': `${g} by ${g} cells. ` + (name === 'yours'
        ? 'Arrow keys move a frame, the space bar adds a cell to your order or takes it out.'
        : 'Arrow keys go to the step of a neighbouring cell.')});
    }
    grid.draw(walk, step);
    const jump = step > 0 && step < order.length ? `: ${walk.far[step - 1].toFixed(2)} now,` : ':';
    const mean = `${walk.mean.toFixed(2)} on average (dashed)`;
    far.draw(step, `Distance from the cell before${jump} ${mean}`);
    const knows = step < order.length ? `: ${walk.near[step]} now` : '';
    near.draw(step, `Neighbours known when a cell is predicted${knows}`);
    const words = wordsOf(walk, step);
    set(done, {text: words[0]});
    set(next, {text: words[1]});
    walker.show(step, order.length, words.join(''));
    spoken.say(document.activeElement === grid.element && name !== 'yours' ? words.join('') : '');
  }
  draw();
  const names = ['order', 'grid_size', 'seed', 'cells', 'registered', 'step'];
  const unfollow = follow(model, names, draw);
  return () => {
    unfollow();
    walker.stop();
    grid.end();
  };
}

export default {render};
