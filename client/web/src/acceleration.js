/** WebGPU instead of WebAssembly, for the float formats that it runs with equal scores and faster. */

import { agree, decide } from "./decision.js";
import { Latency } from "./latency.js";
import { file } from "./server.js";
import { inputOf, scoresOf } from "./tensors.js";

/** @typedef {import("./version.js").Version} Version */
/** @typedef {import("./version.js").Format} Format */
/** @typedef {import("./runtime.js").Runtime} Runtime */
/** @typedef {import("./runtime.js").Model} Model */

const FORMATS = new Set(["float32", "float16"]);
const DIFFERENCE = 1e-3;
const RUNS = 9;
// In milliseconds. WebGPU isn't faster than this, as it also copies the tensors.
const FAST = 2;

/**
 * Move formats of a version to WebGPU. Formats that fail there stay where they are.
 *
 * @param {Version} version
 * @param {Runtime} gpu
 * @param {{pixels: Uint8Array, values: Float32Array}} image the image whose scores are compared
 * @param {import("./inference.js").Inference} inference
 */
export async function accelerate(version, gpu, image, inference) {
  for (const format of version.formats) {
    if (!format.model || !format.file || !FORMATS.has(format.name) || format.latency.median < FAST) continue;
    try {
      const bytes = await file(version.name, version.number, format.file.file);
      const candidate = await gpu.load(bytes, format.file);
      await inference.pause(() => replace(format, candidate, version, image));
    } catch (error) {
      console.debug(`${format.name}: not on WebGPU`, error);
    }
  }
}

/**
 * Replace a format's model by one on WebGPU if that one has equal scores and is faster.
 *
 * @param {Format} format
 * @param {Model} candidate
 * @param {Version} version
 * @param {{pixels: Uint8Array, values: Float32Array}} image
 */
async function replace(format, candidate, { contract }, image) {
  const { model, file: about } = format;
  let better = false;
  try {
    if (!model || !about) return;
    const input = inputOf(image.pixels, image.values, about);
    const [one, other] = [await measured(model, input), await measured(candidate, input)];
    const [expected, found] = [scoresOf(one.output, about), scoresOf(other.output, about)];
    better =
      other.median < one.median &&
      found.every((score, index) => Math.abs(score - expected[index]) <= DIFFERENCE) &&
      agree(decide(found, contract), decide(expected, contract));
    if (!better) return;
    model.delete();
    format.model = candidate;
    format.latency.clear();
  } finally {
    if (!better) candidate.delete();
  }
}

/**
 * @param {Model} model
 * @param {import("./tensors.js").Tensor} input
 */
async function measured(model, input) {
  const latency = new Latency();
  let output = await model.infer(input);
  for (let run = 0; run < RUNS; run++) {
    const begin = performance.now();
    output = await model.infer(input);
    latency.add(performance.now() - begin);
  }
  return { output, median: latency.median };
}
