/** LiteRT.js behind an interface that the page and the measurements need. */

import { getWebGpuDevice, loadAndCompile, loadLiteRt, supportsFeature, Tensor } from "@litertjs/core";

import { arrayOf, scoresOf } from "./tensors.js";
import { reason } from "./texts.js";

/** @typedef {import("./tensors.js").Description} Description */
/** @typedef {import("./tensors.js").Tensor} Values */
/** @typedef {import("@litertjs/core").CompiledModel} CompiledModel */
/** @typedef {{threads: boolean, webgpu: boolean}} Options */

const SIGNATURE = "serving_default";

/** LiteRT.js is one per page. @type {Promise<boolean> | undefined} */
let started;

/**
 * Return a runtime; LiteRT.js is loaded on the first call, which decides about threads.
 *
 * Threads and WebGPU are used only if the browser has them.
 *
 * @param {string} folder URL of the folder with LiteRT's WebAssembly files
 * @param {Options} options
 * @returns {Promise<Runtime>}
 */
export async function loadRuntime(folder, { threads, webgpu }) {
  started ??= start(folder, threads).catch((error) => {
    started = undefined;
    throw error;
  });
  const threaded = await started;
  if (webgpu && getWebGpuDevice()) return new Runtime("WebGPU", "webgpu");
  return new Runtime(threaded ? "WASM threads" : "WASM", "wasm");
}

/**
 * @param {string} folder
 * @param {boolean} threads
 */
async function start(folder, threads) {
  if (typeof WebAssembly !== "object") throw new Error("this browser has no WebAssembly");
  if (!WebAssembly.validate(SIMD)) throw new Error("this browser's WebAssembly has no SIMD");
  const threaded =
    threads &&
    globalThis.crossOriginIsolated &&
    (await supportsFeature("relaxedSimd")) &&
    (await supportsFeature("threads"));
  // LiteRT writes its progress to the error stream.
  Object.assign(globalThis, { Module: { printErr: report } });
  try {
    await loadLiteRt(folder, { threads: threaded });
  } catch (error) {
    throw error instanceof Error ? error : new Error(`LiteRT's files can't be loaded from ${folder}`, { cause: error });
  }
  return threaded;
}

/** @param {string} text */
function report(text) {
  if (/^(INFO|WARNING)\b/.test(text)) console.debug(text);
  else console.error(text);
}

/** A way to run model files: LiteRT.js on the processor or on WebGPU. */
export class Runtime {
  #accelerator;

  /**
   * @param {"WASM" | "WASM threads" | "WebGPU"} name
   * @param {"wasm" | "webgpu"} accelerator
   */
  constructor(name, accelerator) {
    this.name = name;
    this.#accelerator = accelerator;
  }

  /**
   * Compile a model file.
   *
   * @param {Uint8Array} bytes
   * @param {Description} description
   * @returns {Promise<Model>}
   */
  async load(bytes, description) {
    const compiled = await this.#compile(bytes);
    try {
      if (this.#accelerator === "webgpu" && !compiled.isFullyAccelerated) {
        throw new Error("WebGPU can't run all operators of the model");
      }
      return new Model(compiled, description, this.name);
    } catch (error) {
      compiled.delete();
      throw error;
    }
  }

  /** @param {Uint8Array} bytes */
  async #compile(bytes) {
    try {
      return await loadAndCompile(bytes, { accelerator: this.#accelerator, gpuOptions: { precision: "fp32" } });
    } catch (error) {
      throw new Error(reasonOf(error), { cause: error });
    }
  }
}

/**
 * Return LiteRT's reason for an error, without the lines of its source that it lists.
 *
 * @param {unknown} error
 */
function reasonOf(error) {
  const lines = reason(error).split("\n").map((line) => line.replace(/^[\s└├─]*(ERROR:)?\s*(\[[^\]]*\])?\s*/, ""));
  return lines.filter(Boolean).join("; ") || "LiteRT.js can't compile it";
}

/** A compiled model file with one input and one output. `runtime` is the runtime's name. */
export class Model {
  #compiled;
  #signature;
  #shape;
  #array;

  /**
   * @param {CompiledModel} compiled
   * @param {Description} description
   * @param {string} runtime
   */
  constructor(compiled, description, runtime) {
    this.description = description;
    this.runtime = runtime;
    this.#compiled = compiled;
    this.#signature = compiled.signatures[SIGNATURE] ?? Object.values(compiled.signatures)[0];
    const inputs = this.#signature.getInputDetails();
    const outputs = this.#signature.getOutputDetails();
    if (inputs.length !== 1 || outputs.length !== 1) {
      throw new Error(`expected one input and one output; found ${inputs.length} and ${outputs.length}`);
    }
    const { dtype, shape } = inputs[0];
    if (shape.some((side) => side < 0)) throw new Error(`expected no free dimension; found [${shape.join(", ")}]`);
    const { dtype: described = dtype } = description.input;
    if (dtype !== described) throw new Error(`expected an input of dtype ${described}; found ${dtype}`);
    this.#shape = shape;
    this.#array = arrayOf(dtype);
    this.dtype = dtype;
    /** Number of elements of the input. */
    this.size = shape.reduce((product, side) => product * side, 1);
  }

  /**
   * Return the scores for an input tensor.
   *
   * @param {Values} input
   * @returns {Promise<Float32Array>}
   */
  async run(input) {
    return scoresOf(await this.infer(input), this.description);
  }

  /**
   * Return the output tensor for an input tensor.
   *
   * @param {Values} input
   * @returns {Promise<Values>}
   */
  async infer(input) {
    if (!(input instanceof this.#array)) throw new Error(`expected an input of dtype ${this.dtype}`);
    const tensor = Tensor.fromTypedArray(/** @type {Float32Array<ArrayBuffer>} */ (input), this.#shape);
    try {
      const [output] = await this.#signature.run([tensor]);
      try {
        return /** @type {Values} */ (await output.data());
      } finally {
        output.delete();
      }
    } finally {
      tensor.delete();
    }
  }

  /** Return an input tensor of zeros. */
  zeros() {
    return new this.#array(this.size);
  }

  /** Free the model. */
  delete() {
    this.#compiled.delete();
  }
}

// A module with the instruction i8x16.splat: LiteRT needs SIMD of 128 bits.
const SIMD = new Uint8Array([
  0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11,
]);
