/**
 * Two engines that run a model for `watch.js`: a page's own, and the kernel of JupyterLab.
 *
 * An engine is `{settings, sequence, decode, isFast}`. `sequence(name)` gives a function that reads
 * one entry after the other (see `entryAt` of `sampling.js`) and promises `{logits, attention}`; a
 * page's own has `fork()`, which gives another such function that has read the same so far.
 * `decode(rows of tokens)` promises the pixels of all images, one after the other. A fast one is
 * asked ahead for pictures that may be looked at later.
 */

import {remember} from './common.js';

const opened = new Map();  // address of a folder: promise of the engine that is there
// Of all views of a panel, as they share its kernel; a random start keeps two windows apart.
let asked = Math.floor(Math.random() * 2 ** 48), sequences = asked;

/** The address of a folder of exported files; '' is the one beside this module. */
export function addressOf(folder) {
  if (!folder) return new URL('browser_model/', import.meta.url);
  return new URL(folder.endsWith('/') ? folder : `${folder}/`, document.baseURI);
}

/** The engine of a page without a kernel: ONNX Runtime Web and the files in a folder. */
export function openFolder(folder) {
  const base = addressOf(folder);
  return remember(opened, base.href, () => startFolder(base));
}

/** What a promise makes of a file, or an error that names the file. */
export async function naming(url, promise) {
  try {
    return await promise;
  } catch (problem) {
    throw new Error(`${url} can't be read: ${problem.message}`);
  }
}

/** A file, as 'json', 'blob' or 'arrayBuffer'. */
export async function fetched(url, kind) {
  const answer = await naming(url, fetch(url));
  if (!answer.ok) throw new Error(`${url} is not there (${answer.status})`);
  return naming(url, answer[kind]());
}

async function startFolder(base) {
  const settings = await fetched(new URL('settings.json', base), 'json');
  const loaded = new Map();  // the runtime, and sessions by file
  let starts = 0, last = Promise.resolve();

  async function start() {
    // A module that failed stays so under its address, which is why each attempt has another one.
    const ort = await import(new URL(`ort.wasm.min.mjs?${starts++}`, base).href);
    ort.env.wasm.wasmPaths = base.href;
    // On two cores, two threads were slower than one: a step is so short that they mostly wait for
    // one another. And a page could use them only if its server isolated it from all others.
    ort.env.wasm.numThreads = 1;
    return ort;
  }

  const runtime = () => remember(loaded, 'runtime', start);

  async function load(file) {
    const ort = await runtime(), url = new URL(file, base);
    const bytes = new Uint8Array(await fetched(url, 'arrayBuffer'));
    try {
      const started = ort.InferenceSession.create(bytes, {executionProviders: ['wasm']});
      return {graph: await naming(url, started), Tensor: ort.Tensor};
    } catch (problem) {
      loaded.delete('runtime');  // it would refuse all further sessions
      throw problem;
    }
  }

  /** A session, started when it is asked for the first time. */
  const session = file => remember(loaded, file, () => load(file));

  /** Run a graph, once all earlier runs are over: the runtime refuses two at a time. */
  function run(graph, inputs) {
    const result = last.then(() => graph.run(inputs));
    last = result.catch(() => null);
    return result;
  }

  /** A function that reads one entry after the other, and remembers keys and values. */
  function sequence(name, keys = null, values = null) {
    const {num_layers, num_heads, head_dim, models} = settings;
    async function read(ids) {
      const {graph, Tensor} = await session(models[name]);
      const shape = [num_layers, 2, num_heads, 0, head_dim];
      keys ??= new Tensor('float32', new Float32Array(0), shape);
      values ??= new Tensor('float32', new Float32Array(0), shape);
      const inputs = Object.entries(ids).map(
        ([input, list]) => [input, new Tensor('int32', Int32Array.from(list), [list.length])]);
      const results = await run(graph, {...Object.fromEntries(inputs), keys, values});
      keys = results.new_keys;
      values = results.new_values;
      return {logits: results.logits.data, attention: results.attention.data};
    }
    read.fork = () => sequence(name, keys, values);
    return read;
  }

  /** Pixels of images, one after the other. */
  async function decode(rows) {
    const {graph, Tensor} = await session(settings.decoder);
    const tokens = new Tensor('int32', Int32Array.from(rows.flat()), [rows.length, rows[0].length]);
    return (await run(graph, {tokens})).images.data;
  }

  return {settings, sequence, decode, isFast: true};
}

/** Questions to the kernel of JupyterLab: `ask(request)` promises its answer, lists of numbers. */
export function askKernel(model) {
  const waiting = new Map();
  function hear(content, buffers) {
    const {resolve, reject} = waiting.get(content.number) ?? {};
    waiting.delete(content.number);
    if (content.problem) reject?.(new Error(content.problem));
    else resolve?.(buffers.map(b => new Float32Array(
      b.buffer.slice(b.byteOffset, b.byteOffset + b.byteLength))));
  }
  function ask(request) {
    return new Promise((resolve, reject) => {
      waiting.set(++asked, {resolve, reject});
      model.send({...request, number: asked});
    });
  }
  model.on('msg:custom', hear);
  return {ask, close: () => model.off('msg:custom', hear)};
}

/** The engine of JupyterLab: its kernel. */
export function openKernel(model) {
  const {ask, close} = askKernel(model);
  return {
    settings: model.get('settings'),
    sequence(generator) {
      const sequence = ++sequences;
      return async ids => {
        const [logits, attention] = await ask({kind: 'step', generator, sequence, ...ids});
        return {logits, attention};
      };
    },
    decode: async tokens => (await ask({kind: 'decode', tokens}))[0],
    close,
  };
}
