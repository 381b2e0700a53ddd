/** Functions that Python calls in a headless browser to verify and measure model files: `window.tfship`. */

import { loadRuntime } from "./runtime.js";
import { arrayOf } from "./tensors.js";

/** @typedef {import("./runtime.js").Model} Model */
/** @typedef {import("./tensors.js").Tensor} Tensor */

/** @type {import("./runtime.js").Runtime | undefined} */
let runtime;
/** @type {Map<number, Model>} */
const models = new Map();
/** Inputs by the model's id. @type {Map<number, Tensor[]>} */
const held = new Map();
let count = 0;

const script = /** @type {HTMLScriptElement | null} */ (document.currentScript)?.src;

const tfship = {
  /**
   * Load the runtime and return its name.
   *
   * @param {{threads?: boolean, webgpu?: boolean, folder?: string}} options `folder` is the URL of LiteRT's files;
   *   by default `wasm/` beside this script
   */
  async start({ threads = false, webgpu = false, folder } = {}) {
    const wasm = folder ?? new URL("wasm/", script || location.href).href;
    runtime = await loadRuntime(wasm, { threads, webgpu });
    return runtime.name;
  },

  /**
   * Load a model file and return its id.
   *
   * @param {string} url
   * @param {import("./tensors.js").Description} description
   */
  async load(url, description) {
    if (!runtime) throw new Error("call start() first");
    const response = await fetch(url);
    if (!response.ok) throw new Error(`${url}: status ${response.status}`);
    models.set(++count, await runtime.load(new Uint8Array(await response.arrayBuffer()), description));
    return count;
  },

  /**
   * Return the scores for `images` inputs, base64 of float32 [images, labels].
   *
   * @param {number} id
   * @param {string} inputs base64 of the inputs in the model's dtype, one after the other
   * @param {number} images
   */
  async run(id, inputs, images) {
    const model = modelOf(id);
    /** @type {Float32Array[]} */
    const rows = [];
    for (const input of split(inputs, images, model)) rows.push(await model.run(input));
    return encoded(rows);
  },

  /**
   * Keep inputs for `measure`; the parameters are those of `run`.
   *
   * @param {number} id
   * @param {string} inputs
   * @param {number} images
   */
  hold(id, inputs, images) {
    held.set(id, split(inputs, images, modelOf(id)));
  },

  /**
   * Return the times of single inferences in milliseconds, from input tensor to output tensor.
   *
   * @param {number} id
   * @param {number} start number of the first held input; the others follow in turn
   * @param {number} repeats
   * @param {number} warmup number of inferences before them, which aren't timed
   */
  async measure(id, start, repeats, warmup) {
    const model = modelOf(id);
    const tensors = held.get(id) ?? [];
    /** @type {number[]} */
    const times = [];
    for (let step = -warmup; step < repeats; step++) {
      const tensor = tensors[(start + Math.max(step, 0)) % tensors.length];
      const begin = performance.now();
      await model.infer(tensor);
      if (step >= 0) times.push(performance.now() - begin);
    }
    return times;
  },

  /** @param {number} id */
  unload(id) {
    modelOf(id).delete();
    models.delete(id);
    held.delete(id);
  },
};

/** @param {number} id */
function modelOf(id) {
  const model = models.get(id);
  if (!model) throw new Error(`no model ${id} is loaded`);
  return model;
}

/**
 * @param {string} text
 * @param {number} images
 * @param {Model} model
 * @returns {Tensor[]}
 */
function split(text, images, model) {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const tensors = new (arrayOf(model.dtype))(bytes.buffer);
  if (!images || tensors.length !== images * model.size) {
    throw new Error(`expected ${images} × ${model.size} elements; found ${tensors.length}`);
  }
  return Array.from({ length: images }, (_, index) => tensors.slice(index * model.size, (index + 1) * model.size));
}

/** @param {Float32Array[]} rows */
function encoded(rows) {
  const bytes = rows.map((row) => new Uint8Array(row.buffer, row.byteOffset, row.byteLength));
  return btoa(bytes.map((row) => String.fromCharCode(...row)).join(""));
}

Object.assign(window, { tfship });
