/** Scan orders, random ones and three numbers about each: 02_orders and 10_scan_orders, again. */

/** Rows left to right, top to bottom. */
const raster = g => Array.from({length: g * g}, (_, i) => i);

/** Rows alternately left to right and right to left. */
const alternate = g => raster(g).map(i => {
  const row = Math.floor(i / g), column = i % g;
  return row * g + (row % 2 ? g - 1 - column : column);
});

/** From the top left down the first column, right, up, left, and so on inwards. */
function spiralIn(g) {
  const order = [], seen = new Set();
  let i = 0, j = 0, di = 1, dj = 0;
  const free = (a, b) => a >= 0 && a < g && b >= 0 && b < g && !seen.has(a * g + b);
  while (order.length < g * g) {
    order.push(i * g + j);
    seen.add(i * g + j);
    if (!free(i + di, j + dj)) [di, dj] = [-dj, di];  // a left turn: down, right, up, left
    [i, j] = [i + di, j + dj];
  }
  return order;
}

/** The places of a list's numbers from the smallest to the largest; equal ones keep their order. */
export const argsort = values => Array.from(values, (_, i) => i)
  .sort((a, b) => values[a] - values[b]);

/** Sorted by Morton code: the bits of row and column interleaved, the column's bit lower. */
function zCurve(g) {
  function morton(cell) {
    const i = Math.floor(cell / g), j = cell % g;
    let code = 0;
    for (let b = 0; b < 10; b++) code += (j >> b & 1) * 4 ** b + (i >> b & 1) * 2 * 4 ** b;
    return code;
  }
  return argsort(raster(g).map(morton));
}

/** Each cell of the first quadrant, followed by the same cell of the other three. */
function subsample(g) {
  const half = Math.ceil(g / 2), order = [];
  for (let i = 0; i < half; i++) {
    for (let j = 0; j < half; j++) {
      for (const [a, b] of [[i, j], [i, j + half], [i + half, j], [i + half, j + half]]) {
        if (a < g && b < g) order.push(a * g + b);
      }
    }
  }
  return order;
}

/** The six orders of the paper (supplement, Figure 1): from a grid's side to cells by step. */
export const SCAN_ORDERS = {
  raster, spiral_in: spiralIn, spiral_out: g => spiralIn(g).reverse(), z_curve: zCurve, subsample,
  alternate,
};

const made = {};  // the paper's orders so far, by name and side

/** A registered order, else the paper's; `{order: [], problem}` if a registered one has none. */
export function namedOrder(name, g, registered) {
  const given = registered[name]?.[g] ?? (made[`${name} ${g}`] ??= SCAN_ORDERS[name](g));
  return typeof given === 'string' ? {order: [], problem: given} : {order: given};
}

/**
 * The Mersenne Twister: the same numbers as a `torch.Generator` on the CPU.
 * @param {number} seed a whole number from 0 to below 2³²
 */
export function torchGenerator(seed) {
  const size = 624, state = new Uint32Array(size);
  state[0] = seed;
  for (let i = 1; i < size; i++) {
    state[i] = Math.imul(1812433253, state[i - 1] ^ state[i - 1] >>> 30) + i;
  }
  let at = size;

  function twist() {
    for (let i = 0; i < size; i++) {
      const next = state[i + 1 < size ? i + 1 : 0];
      const bits = state[i] & 0x80000000 | next & 0x7fffffff;
      const other = state[i + 397 < size ? i + 397 : i + 397 - size];
      state[i] = other ^ bits >>> 1 ^ (next & 1 ? 0x9908b0df : 0);
    }
    at = 0;
  }

  /** 32 random bits, as a number from 0 to below 2³². */
  function random() {
    if (at === size) twist();
    let bits = state[at++];
    bits ^= bits >>> 11;
    bits ^= bits << 7 & 0x9d2c5680;
    bits ^= bits << 15 & 0xefc60000;
    return (bits ^ bits >>> 18) >>> 0;
  }

  return {
    random,
    /** What `torch.rand` gives in float32: 24 random bits as a share of 2²⁴. */
    rand: () => (random() & 0xffffff) / 0x1000000,
    /** Pass over `count` numbers. */
    skip(count) {
      while (count > size - at) {
        count -= size - at;
        twist();
      }
      at += count;
    },
  };
}

/** A list in a random order: the one that `torch.randperm` gives it for the same seed. */
export function shuffled(list, seed) {
  const generator = torchGenerator(seed), left = [...list];
  for (let i = 0; i < left.length - 1; i++) {
    const j = i + generator.random() % (left.length - i);
    [left[i], left[j]] = [left[j], left[i]];
  }
  return left;
}

/** A random order, the one that `named_order('random', g, seed)` gives in Python. */
export function randomOrder(g, seed) {
  const generator = torchGenerator(seed);
  return argsort(Float64Array.from({length: g * g}, () => generator.rand()));
}

/** The step that visits each cell; -1 for cells that `order`, a beginning, does not visit. */
export function stepsOf(order, g) {
  const steps = new Int32Array(g * g).fill(-1);
  order.forEach((cell, k) => { steps[cell] = k; });
  return steps;
}

/** Cells that share a side with one. */
export function neighbours(cell, g) {
  const around = [];
  if (cell >= g) around.push(cell - g);
  if (cell < g * (g - 1)) around.push(cell + g);
  if (cell % g > 0) around.push(cell - 1);
  if (cell % g < g - 1) around.push(cell + 1);
  return around;
}

/** Euclidean distance, in cells, from each cell of an order to the next. */
export const jumps = (order, g) => order.slice(1).map((cell, k) => Math.hypot(
  cell % g - order[k] % g, Math.floor(cell / g) - Math.floor(order[k] / g)));

/** How many neighbours of each cell of an order come before it. */
export function knownNeighbours(order, g) {
  const steps = stepsOf(order, g);
  return order.map((cell, k) => neighbours(cell, g)
    .filter(other => steps[other] >= 0 && steps[other] < k).length);
}

/**
 * Mean jump and longest jump, and the share of steps after the first whose cell touches a known
 * one; null for fewer than two cells.
 */
export function statistics(order, g) {
  if (order.length < 2) return null;
  const far = jumps(order, g), touching = knownNeighbours(order, g).slice(1).filter(n => n > 0);
  return {mean: far.reduce((sum, d) => sum + d, 0) / far.length, longest: Math.max(...far),
    touching: touching.length / far.length};
}
