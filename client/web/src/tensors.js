/**
 * Tensors of a model file: its input for an image, and the scores in its output.
 *
 * Quantized tensors follow `Quantization` in `export/runtimes/protocol.py`, with the same float32 arithmetic.
 */

/** @typedef {{scale: number, zero_point: number}} Quantization */
/** @typedef {{dtype?: string, quantization: Quantization | null}} TensorDescription */
/** @typedef {Float32Array | Uint8Array | Int32Array} Tensor */

/**
 * The tensors of a model file. `takes_pixels`: the input is unscaled pixels, by default if its dtype is uint8.
 *
 * @typedef {object} Description
 * @property {TensorDescription & {takes_pixels?: boolean}} input
 * @property {TensorDescription} output
 */

const ARRAYS = { float32: Float32Array, uint8: Uint8Array, int32: Int32Array };

/**
 * Return the array type of `dtype`.
 *
 * @param {string} dtype
 */
export function arrayOf(dtype) {
  const found = ARRAYS[/** @type {keyof typeof ARRAYS} */ (dtype)];
  if (!found) throw new Error(`dtype ${dtype} can't be run in a browser; expected ${Object.keys(ARRAYS).join(", ")}`);
  return found;
}

/**
 * Return the input tensor for an image: its pixels, its values, or its quantized values.
 *
 * @param {Uint8Array} pixels
 * @param {Float32Array} values
 * @param {Description} description
 * @returns {Tensor}
 */
export function inputOf(pixels, values, { input }) {
  if (input.takes_pixels ?? input.dtype === "uint8") return pixels;
  return input.quantization ? quantized(values, input.quantization) : values;
}

/**
 * Return the scores in an output tensor.
 *
 * @param {Tensor} output
 * @param {Description} description
 * @returns {Float32Array}
 */
export function scoresOf(output, { output: { quantization } }) {
  if (!quantization) return output instanceof Float32Array ? output : Float32Array.from(output);
  const scale = Math.fround(quantization.scale);
  return Float32Array.from(output, (integer) => (integer - quantization.zero_point) * scale);
}

/**
 * @param {Float32Array} values
 * @param {Quantization} quantization
 */
function quantized(values, { scale, zero_point: zero }) {
  const step = Math.fround(scale);
  return Uint8Array.from(values, (value) =>
    Math.min(255, Math.max(0, halfToEven(Math.fround(value / step)) + zero)),
  );
}

/** @param {number} value */
function halfToEven(value) {
  const floor = Math.floor(value);
  const rest = value - floor;
  if (rest === 0.5) return floor % 2 === 0 ? floor : floor + 1;
  return rest < 0.5 ? floor : floor + 1;
}
