/** Target-aware embeddings: where am I, where do I look, and a fork in the road. */
import {change, choice, draggable, follow, frame, html, keys, player, set, slider, speaker, svg}
  from './common.js';

const STYLES = `
.rar-app .rar-strip {width: 100%; border-collapse: collapse; table-layout: fixed; margin: 8px 0;
  font-size: 13px; color: inherit; display: table}
.rar-app .rar-strip :is(tr, th, td) {border: 0; background: none; padding: 1px; color: inherit;
  text-align: center; font-weight: normal; vertical-align: middle}
.rar-app .rar-strip th[scope=row] {text-align: left; width: 15%; line-height: 1.15}
.rar-app .rar-strip span {display: block; border-radius: 4px; line-height: 30px; height: 30px;
  background: var(--rar-cell); font-variant-numeric: tabular-nums}
.rar-app .rar-strip .known span {background: var(--rar-known-cell)}
.rar-app .rar-strip .next span {background: var(--rar-next); color: #000; font-weight: bold}
.rar-app .rar-strip th.now {font-weight: bold; color: var(--rar-next-ink)}
.rar-strip th[scope=col] {font-size: 12px; letter-spacing: -.03em}
.rar-app .rar-strip th[scope=col]:nth-child(2) {text-align: left}
.rar-forks {display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)); gap: 4px 18px;
  max-width: 720px}
.rar-forks p {font-size: 13px; line-height: 1.25; align-self: end}
.rar-forks .wide {grid-column: 1 / -1; font-size: 14px; margin-top: 6px}
.rar-app .rar-three {width: 100%; max-width: 190px}
.rar-three rect {stroke: var(--rar-paper); stroke-width: .06; fill: var(--rar-cell)}
.rar-three .known {fill: var(--rar-known-cell)}
.rar-three .next {fill: var(--rar-next)}
.rar-app .rar-three text {text-anchor: middle; dominant-baseline: central; font-size: .36px;
  pointer-events: none}
.rar-app .rar-three .on-next {fill: #000; font-weight: bold}
.rar-three .sure {fill: var(--rar-model)}
.rar-three .frame {fill: none; stroke: var(--rar-next); stroke-width: .09}
.rar-three.choice {cursor: pointer}
.rar-app .rar-told {min-height: 2.9em; margin: 8px 0 0}
`;
const SIDE = 3, CELLS = SIDE * SIDE, WAYS = ['first', 'second'];
const percent = share => `${Math.round(100 * share)} %`;
const at = cell => ({x: cell % SIDE, y: Math.floor(cell / SIDE)});

/** The roads: each order, and what both models expect after each of its beginnings. */
let last = ['', null];
function roadsOf(model) {
  const json = model.get('predictions');
  if (last[0] !== json) last = [json, JSON.parse(json)];
  return last[1];
}

/** All that follows from the state: the common beginning, and what both models expect. */
function forkOf(model) {
  const road = roadsOf(model)[model.get('road')], known = model.get('known');
  const prefix = road.order.slice(0, known), left = road.order.slice(known);
  const targets = WAYS.map((way, i) => left.includes(model.get(way)) ? model.get(way)
    : left.at(i === 0 ? 0 : -1));
  return {known, prefix, left, targets, order: road.order, without: road.without[known],
    withIt: targets.map(target => road.with[known][target])};
}

/** The sequence: each entry, its own position, and the position that it predicts. */
function makeStrip() {
  const names = ['cls', 'class', ...Array.from({length: CELLS}, (_, k) => `t${k + 1}`)];
  const head = names.map(text => html('th', {scope: 'col', text}));
  const rows = ['where am I?', 'where do I look?'].map(text => {
    const boxes = names.map(() => html('td', {}, html('span')));
    return {boxes, element: html('tr', {}, html('th', {scope: 'row', text}), ...boxes)};
  });
  const element = html('table', {class: 'rar-strip'}, html('thead', {}, html('tr', {},
    html('th', {scope: 'row', text: 'entry'}), ...head)),
  html('tbody', {}, ...rows.map(row => row.element)));

  /** The whole order is first's: the common beginning, its own cell, and then the rest. */
  function draw({known, prefix, left, targets: [target]}) {
    const order = [...prefix, target, ...left.filter(cell => cell !== target)], now = known + 1;
    names.forEach((_, entry) => {
      const own = entry < 2 ? '–' : order[entry - 2], looks = order[entry - 1] ?? '–';
      set(head[entry], {class: entry === now ? 'now' : null});
      set(rows[0].boxes[entry], {class: entry > 1 && entry <= now ? 'known' : null});
      set(rows[0].boxes[entry].firstChild, {text: own});
      set(rows[1].boxes[entry], {class: entry === now ? 'next' : null});
      set(rows[1].boxes[entry].firstChild, {text: entry === 0 ? '–' : looks});
    });
  }
  return {element, draw};
}

/** A grid of 3 × 3 cells with a text in each, and a frame around one. */
function makeGrid(label) {
  const cells = Array.from({length: CELLS}, (_, cell) => svg('rect', {...at(cell), width: 1,
    height: 1}));
  const texts = cells.map((_, cell) => svg('text', {x: at(cell).x + 0.5, y: at(cell).y + 0.5}));
  const box = svg('rect', {class: 'frame', width: 0.88, height: 0.88, rx: 0.08});
  const element = svg('svg', {class: 'rar-three', viewBox: '-.05 -.05 3.1 3.1', role: 'img',
    'aria-label': label}, ...cells, ...texts, box);
  return {element, cells, texts, frame: cell => set(box, {x: at(cell).x + 0.06,
    y: at(cell).y + 0.06})};
}

/** Where a way goes: known cells, and the next one, to be chosen by mouse and by arrow keys. */
function makeChoice(way, model) {
  const grid = makeGrid('');
  set(grid.element, {class: 'rar-three choice', role: 'slider', tabindex: 0, 'aria-valuemin': 0,
    'aria-valuemax': CELLS - 1, 'aria-label': `cell to which the ${way} order goes`});
  const go = cell => forkOf(model).left.includes(cell) && change(model, {[way]: cell});
  draggable(grid.element, (x, y) => {
    const [column, row] = [x, y].map(share => Math.floor(share * SIDE));
    if (Math.min(column, row) >= 0 && Math.max(column, row) < SIDE) go(row * SIDE + column);
  }, grid.element, 'pan-y');
  /** The next cell that is left, in the order of the grid. */
  const by = step => () => {
    const {left, targets} = forkOf(model), sorted = [...left].sort((a, b) => a - b);
    const k = sorted.indexOf(targets[WAYS.indexOf(way)]) + step;
    go(sorted[Math.max(0, Math.min(sorted.length - 1, k))]);
  };
  keys(grid.element, {ArrowRight: by(1), ArrowDown: by(1), ArrowLeft: by(-1), ArrowUp: by(-1),
    Home: by(-CELLS), End: by(CELLS)});
  function draw({prefix, targets}) {
    const target = targets[WAYS.indexOf(way)];
    grid.cells.forEach((cell, i) => set(cell, {class: i === target ? 'next'
      : prefix.includes(i) ? 'known' : null}));
    grid.texts.forEach((text, i) => set(text, {class: i === target ? 'on-next' : null,
      text: i === target ? '?' : prefix.includes(i) ? i : ''}));
    grid.frame(target);
    set(grid.element, {'aria-valuenow': target, 'aria-valuetext': `cell ${target}`});
  }
  return {element: grid.element, draw};
}

/** What a model expects: per cent a cell, greener for more. */
function makeBets(label) {
  const grid = makeGrid(label);
  function draw(shares, target) {
    shares.forEach((share, i) => {
      set(grid.cells[i], {class: 'sure', 'fill-opacity': (0.08 + 0.6 * share).toFixed(3)});
      set(grid.texts[i], {text: share > 0.005 ? Math.round(100 * share) : ''});
    });
    grid.frame(target);
    set(grid.element, {'aria-label': `${label}: ${percent(shares[target])} for cell ${target}`});
  }
  return {element: grid.element, draw};
}

function render({model, el}) {
  const root = frame(el, 'Target-aware embeddings', STYLES), spoken = speaker();
  const road = choice('order', Object.keys(roadsOf(model)),
    name => change(model, {road: name}));
  const steps = slider('cells known', {max: CELLS - 1, oninput: known => {
    play.stop();
    change(model, {known});
  }});
  const play = player('the order', {
    start: () => model.get('known') === CELLS - 1 && change(model, {known: 0}),
    tick: () => {
      change(model, {known: model.get('known') + 1});
      return model.get('known') < CELLS - 1;
    },
    interval: () => 700,
  });
  const strip = makeStrip(), told = html('p', {class: 'rar-told'});
  const ways = WAYS.map(way => makeChoice(way, model));
  const bets = WAYS.map(way => [makeBets(`${way} order, without the second table`),
    makeBets(`${way} order, with the second table`)]);
  const titles = ['known, and ? to be predicted: click another cell',
    'without “where do I look?”', 'with it'];
  root.append(html('div', {class: 'rar-row'}, road.element, play.element, steps.element),
    strip.element, html('div', {class: 'rar-forks'},
      ...titles.map(text => html('p', {text})),
      ...WAYS.flatMap((way, i) => [html('p', {class: 'wide', text: `the ${way} order`}),
        ways[i].element, ...bets[i].map(bet => bet.element)])), told, spoken.element);

  function draw() {
    const fork = forkOf(model), {targets, without, withIt, known, left} = fork;
    road.show(model.get('road'));
    steps.show({value: known, text: String(known)});
    strip.draw(fork);
    ways.forEach((way, i) => {
      way.draw(fork);
      bets[i][0].draw(without, targets[i]);
      bets[i][1].draw(withIt[i], targets[i]);
    });
    const [a, b] = targets;
    const text = `Both orders know the same ${known} cells. Without the second table the model has `
      + `one prediction for both: ${percent(without[a])} for cell ${a}, ${percent(without[b])} for `
      + `cell ${b}, with ${left.length} cells left. With the table it expects cell ${a} with `
      + `${percent(withIt[0][a])} in the first order, and cell ${b} with ${percent(withIt[1][b])} `
      + 'in the second.';
    set(told, {text});
    spoken.say(text);
  }
  draw();
  const unfollow = follow(model, ['predictions', 'road', 'known', 'first', 'second'], draw);
  return () => {
    unfollow();
    play.stop();
  };
}

export default {render};
