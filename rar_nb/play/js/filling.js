/**
 * Filling a hole, one entry of a sequence at a time: what `rar_nb.play.inpainting` does in Python.
 *
 * Nothing here knows a page or a network. Tests compare every function with its Python namesake.
 * A `task` is `{label, order, tokens, hole}`: the class, cells by step, tokens of the whole image
 * in raster order, and the cells to be filled.
 */
import {SCAN_ORDERS, shuffled} from './orders.js';
import {choose, entryAt, guidanceWeight, guidedLogits, softmax} from './sampling.js';

/** The ways to go through a hole. */
export const HOW = ['nearest first', 'random', 'spiral'];

/** The cells of a hole, those first that are nearest to a known one. */
function nearestFirst(cells, known, grid) {
  const place = cell => [Math.floor(cell / grid), cell % grid];
  const between = ([i, j], [k, l]) => (i - k) ** 2 + (j - l) ** 2;
  const distance = cell => known.reduce(
    (least, other) => Math.min(least, between(place(cell), place(other))), Number.MAX_VALUE);
  const distances = new Map(cells.map(cell => [cell, distance(cell)]));
  return [...cells].sort((a, b) => distances.get(a) - distances.get(b));
}

/** The order that fills a hole: known cells row by row, then the hole's. `seed` is for 'random'. */
export function fillOrder(hole, grid, how = 'nearest first', seed = 0) {
  const all = SCAN_ORDERS.raster(grid), inside = new Set(hole);
  const known = all.filter(cell => !inside.has(cell)), cells = all.filter(cell => inside.has(cell));
  const ways = {
    'nearest first': () => nearestFirst(cells, known, grid),
    'random': () => shuffled(cells, seed),
    'spiral': () => SCAN_ORDERS.spiral_in(grid).filter(cell => inside.has(cell)),
  };
  return [...known, ...ways[how]()];
}

/** -ln p of a token, from logits. */
export function lossOf(logits, token) {
  const highest = logits.reduce((a, b) => Math.max(a, b), -Infinity);
  const sum = logits.reduce((total, x) => total + Math.exp(x - highest), 0);
  return highest + Math.log(sum) - logits[token];
}

/** Bayes' rule: how probable classes are whose losses over the known tokens are these. */
export const bayes = losses => softmax(losses.map(loss => -loss));

/** Losses over the first `count` tokens under two classes, which take the places of a class and
 * none. */
async function lossesOfTwo(read, settings, {order, tokens}, count, labels) {
  const condition = labels.map(label => settings.first_class_id + label), losses = [0, 0];
  for (let s = 0; s <= count; s++) {
    const ids = entryAt(settings, order, s, 0, tokens[order[s - 2]]);
    const entry = s === 1 ? condition : ids.entry;
    const {logits} = await read({...ids, entry, condition});
    if (s === 0) continue;
    const size = logits.length / 2;
    losses.forEach((_, i) => {
      losses[i] += lossOf(logits.subarray(i * size, (i + 1) * size), tokens[order[s - 1]]);
    });
  }
  return losses;
}

/** How probable each class is, given the first `count` tokens; `open` begins a sequence. */
export async function classProbabilities(open, settings, task, count) {
  const losses = [], last = settings.num_classes - 1;
  for (let label = 0; label <= last; label += 2) {
    const labels = [label, Math.min(label + 1, last)];
    losses.push(...await lossesOfTwo(open(), settings, task, count, labels));
  }
  return bayes(losses.slice(0, last + 1));
}

/** Read all that comes before a hole, once for all its fillings. */
export async function readKnown(read, settings, {label, order, tokens, hole}) {
  const inside = order.map(cell => hole.includes(cell)), first = inside.indexOf(true);
  let found = await read(entryAt(settings, order, 0, label));
  for (let k = 0; k <= first; k++) {
    found = await read(entryAt(settings, order, k + 1, label, tokens[order[k - 1]]));
  }
  return {read, logits: found.logits, first, last: inside.lastIndexOf(true)};
}

/** Go through a hole: `pick(k, logits)` gives the token of step k. All tokens, in raster order. */
async function goThrough(begun, settings, {label, order, tokens, hole}, pick) {
  const filled = [...tokens], read = begun.read.fork();
  for (let k = begun.first, {logits} = begun; k <= begun.last; k++) {
    if (k > begun.first) {
      ({logits} = await read(entryAt(settings, order, k + 1, label, filled[order[k - 1]])));
    }
    if (hole.includes(order[k])) filled[order[k]] = pick(k, logits);
  }
  return filled;
}

/** Sample the tokens of a hole; `begun` is what `readKnown` gives. */
export function fillHole(begun, settings, task, {noise, scale, power}) {
  return goThrough(begun, settings, task, (k, logits) => {
    const weight = scale ? guidanceWeight(k, task.order.length, scale, power) : null;
    return choose(softmax(guidedLogits(logits, weight, 1)), noise[k]);
  });
}

/** Mean -ln p of the true tokens of a hole. */
export async function holeLoss(begun, settings, task) {
  let sum = 0;
  await goThrough(begun, settings, task, (k, logits) => {
    const token = task.tokens[task.order[k]];
    sum += lossOf(logits.subarray(0, logits.length / 2), token);  // with the class
    return token;
  });
  return sum / task.hole.length;
}
