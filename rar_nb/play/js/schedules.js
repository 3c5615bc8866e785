/** r, learning rate and the orders of a batch: 05_trainer's and 11_annealing's functions again. */
import {argsort, torchGenerator} from './orders.js';

/** A whole number as Python rounds: a half goes to the even neighbour. */
export function roundHalfEven(x) {
  const low = Math.floor(x), rest = x - low;
  return rest < 0.5 || rest === 0.5 && low % 2 === 0 ? low : low + 1;
}

/** Optimizer steps in a number of epochs. */
export const stepsIn = (epochs, run) => roundHalfEven(epochs * run.steps_per_epoch);

/** The step whose batch is shown at an epoch: the last that is taken at the end of the run. */
export const stepAt = (epoch, run) => Math.min(stepsIn(run.epochs, run) - 1, stepsIn(epoch, run));

/**
 * r between the start of the annealing (progress 0) and its end (1): a straight line, or a
 * registered schedule's values at equal distances, with straight lines between them.
 */
export function ratioAlong(progress, values = null) {
  if (!values) return 1 - progress;
  const at = progress * (values.length - 1), k = Math.min(Math.floor(at), values.length - 2);
  return values[k] + (at - k) * (values[k + 1] - values[k]);
}

/** Probability of a random order at a step (equation 5). */
export function randomRatioAt(step, run, values = null) {
  const start = stepsIn(run.anneal_start, run), end = stepsIn(run.anneal_end, run);
  if (step < start) return 1;
  if (step >= end) return 0;
  return ratioAlong((step - start) / (end - start), values);
}

/** Linear warm-up, then a cosine (supplement, Table 1). */
export function learningRateAt(step, run) {
  const warmup = stepsIn(run.warmup_epochs, run), total = stepsIn(run.epochs, run);
  const {learning_rate: peak, min_learning_rate: least} = run;
  if (step < warmup) return peak * step / warmup;
  const progress = Math.min(1, (step - warmup) / Math.max(1, total - warmup));
  return least + (peak - least) * (1 + Math.cos(Math.PI * progress)) / 2;
}

/** The seed of a step's random choices (`step_generator`). */
export function stepSeed(seed, step) {
  const wide = (BigInt(step) + 2654435769n * BigInt(seed - 42)) % 4294967296n;
  return Number((wide + 4294967296n) % 4294967296n);
}

/**
 * The random numbers of a step's batch, as `sample_orders` takes them: the orders that the first
 * `count` images get if theirs are random, and of each image the number that r must exceed.
 */
export function batchNumbers(run, step, count) {
  const {batch_size: batch, num_tokens: length} = run, shown = Math.min(count, batch);
  const generator = torchGenerator(stepSeed(run.seed, step)), scores = new Float64Array(length);
  const orders = Array.from({length: shown}, () => {
    for (let i = 0; i < length; i++) scores[i] = generator.rand();
    return argsort(scores);
  });
  generator.skip((batch - shown) * length);
  return {orders, limits: Float64Array.from({length: batch}, () => generator.rand())};
}
