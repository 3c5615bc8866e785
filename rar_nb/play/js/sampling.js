/**
 * Sampling an image, one token at a time: what `rar_nb.sampler` does in Python, without its model.
 *
 * Nothing here knows a page or a network. Tests compare every function with its Python namesake.
 */

const MASK = 2n ** 64n - 1n;

/** Philox 4×64: 10 rounds that scramble a counter (Salmon et al., 2011). Four numbers below 2⁶⁴. */
function philox([a, b, c, d], [k, l]) {
  for (let round = 0; round < 10; round++) {
    const x = 0xD2E7470EE14C6C93n * a, y = 0xCA5A826395121157n * c;
    [a, b, c, d] = [(y >> 64n) ^ b ^ k, y & MASK, (x >> 64n) ^ d ^ l, x & MASK];
    k = (k + 0x9E3779B97F4A7C15n) & MASK;
    l = (l + 0xBB67AE8584CAA73Bn) & MASK;
  }
  return [a, b, c, d];
}

/**
 * The random numbers of image `index` of a set: to the last bit those of `image_noise` in Python.
 * @param {number | bigint} seed of the set, from 0 to below 2⁶⁴
 * @returns {Float32Array} `count` numbers in [0, 1)
 */
export function imageNoise(seed, index, count) {
  const key = [BigInt(seed), BigInt(index)], noise = new Float32Array(count);
  for (let i = 0, block = 1n; i < count; block++) {
    for (const number of philox([block, 0n, 0n, 0n], key)) {
      for (const half of [number & 0xFFFFFFFFn, number >> 32n]) {
        if (i < count) noise[i++] = Number(half >> 8n) / 2 ** 24;
      }
    }
  }
  return noise;
}

/** How guidance grows over the image: s(progress, power), from 0 to 1. */
export const GUIDANCE_SCHEDULES = {
  pow_cosine: (progress, power) => (1 - Math.cos(Math.PI * progress ** power)) / 2,
  linear: progress => progress,
  constant: () => 1,
};

/** The weight of guidance at step `k` of `length`: w = 1 + (g − 1)·s. */
export function guidanceWeight(k, length, scale, power, schedule = 'pow_cosine') {
  return 1 + (scale - 1) * GUIDANCE_SCHEDULES[schedule](k / length, power);
}

/**
 * Logits that are sampled from: u + w·(c − u), divided by the temperature.
 * @param {Float32Array} logits 2·V of them: with the class, then without
 * @param {number | null} weight w; null without guidance
 * @returns {Float32Array} V logits
 */
export function guidedLogits(logits, weight, temperature) {
  const size = logits.length / 2;
  return Float32Array.from({length: size}, (_, i) => {
    const c = logits[i], u = logits[size + i];
    return (weight === null ? c : u + weight * (c - u)) / temperature;
  });
}

/** Probabilities of logits. */
export function softmax(logits) {
  const highest = logits.reduce((a, b) => Math.max(a, b), -Infinity);
  const powers = Float64Array.from(logits, x => Math.exp(x - highest));
  const sum = powers.reduce((a, b) => a + b, 0);
  return powers.map(p => p / sum);
}

/** The id whose interval of cumulated probability has `noise`, a number in [0, 1). */
export function choose(probabilities, noise) {
  const total = probabilities.reduce((a, b) => a + b, 0);
  let cumulated = 0;
  for (let id = 0; id < probabilities.length; id++) {
    cumulated += probabilities[id];
    if (cumulated > noise * total) return id;
  }
  return probabilities.length - 1;
}

/** How unsure a prediction is, in nats. */
export function entropy(probabilities) {
  return probabilities.reduce((sum, p) => p > 0 ? sum - p * Math.log(p) : sum, 0);
}

/** An order of an image's own, for models that have no final one: from the second half of noise. */
export function randomOrder(seed, index, length) {
  const scores = imageNoise(seed, index, 2 * length).subarray(length);
  return Array.from(scores.keys()).sort((a, b) => scores[a] - scores[b]);
}

/**
 * What the network reads at one position of the sequence: cls, the class, then the tokens.
 * @param {object} settings as in `settings.json`
 * @param {number} position from 0 (cls) to L
 * @param {number} label the class
 * @param {number} token sampled last, if position > 1
 */
export function entryAt(settings, order, position, label, token) {
  const {cls_id, first_class_id, null_id} = settings;
  const condition = [first_class_id + label, null_id];  // with the class, and without
  const entry = position === 0 ? [cls_id, cls_id] : position === 1 ? condition : [token, token];
  const place = position < 2 ? position : 2 + order[position - 2];
  const target = position === 0 ? 0 : 2 + order[position - 1];
  return {entry, condition, place: [place], target: [target], position: [position]};
}

/**
 * Sample an image, step by step.
 * @param {function} step reads one entry: from what `entryAt` returns to a promise of
 *   `{logits, attention}`; it remembers what it has read
 * @param {object} settings as in `settings.json`
 * @param {object} request `{label, noise, order, known, scale, power, temperature}`; `known` has a
 *   token for each cell, -1 where one is to be sampled
 */
export const sampleSteps = async function* (step, settings, request) {
  const {label, noise, order, known, scale, power, temperature} = request;
  const length = order.length;
  const schedule = settings.sample.guidance_schedule;
  let token;
  await step(entryAt(settings, order, 0, label));
  for (let k = 0; k < length; k++) {
    const {logits, attention} = await step(entryAt(settings, order, k + 1, label, token));
    const weight = scale ? guidanceWeight(k, length, scale, power, schedule) : null;
    const probabilities = softmax(guidedLogits(logits, weight, temperature));
    const given = known[order[k]] >= 0;
    token = given ? known[order[k]] : choose(probabilities, noise[k]);
    yield {cell: order[k], token, given, weight: weight ?? 1, probabilities, attention};
  }
};
