// Resampling along one axis by a kernel, as in `client/images/preprocessing.py`.

// For rounding. Exact halves may differ by 1e-13 from other implementations, so halves are shifted.
export const NUDGE = 0.5 + 1e-6;
const LOBES = 3;

/**
 * The weights of one resulting pixel: those of the pixels from `start` on.
 * @typedef {{start: number, weights: Float64Array}} Weights
 */

/**
 * Return the weights that resample `length` pixels to `size` pixels.
 * @param {number} length
 * @param {number} size
 * @param {Kernel} kernel
 * @returns {Weights[]}
 */
export function resampling(length, size, kernel) {
  const scale = length / size;
  const wide = Math.max(scale, 1);
  return Array.from({ length: size }, (_, index) => {
    const centre = (index + 0.5) * scale;
    const start = Math.max(0, Math.floor(centre - kernel.reach * wide - 0.5));
    const stop = Math.min(length, Math.ceil(centre + kernel.reach * wide + 0.5));
    const weights = Float64Array.from({ length: stop - start }, (_, at) =>
      kernel.weight((start + at + 0.5 - centre) / wide),
    );
    const sum = weights.reduce((total, weight) => total + weight);
    return { start, weights: weights.map((weight) => weight / sum) };
  });
}

/**
 * A kernel, 0 from `reach` on.
 * @typedef {{reach: number, weight: (x: number) => number}} Kernel
 */

/** @type {Kernel} */
export const TRIANGLE = { reach: 1, weight: (x) => Math.max(0, 1 - Math.abs(x)) };

/** @type {Kernel} */
export const LANCZOS = { reach: LOBES, weight: (x) => (Math.abs(x) < LOBES ? sinc(x) * sinc(x / LOBES) : 0) };

/**
 * Return an image that is resampled along both axes, rounded to 0…255.
 * @param {Uint8Array} data of one or several channels
 * @param {{height: number, width: number, channels: number}} shape
 * @param {{height: number, width: number}} to
 * @param {Kernel} kernel
 * @returns {Uint8Array}
 */
export function resampled(data, { height, width, channels }, to, kernel) {
  const columns = resampling(width, to.width, kernel);
  const length = width * channels;
  const found = new Uint8Array(to.height * to.width * channels);
  resampling(height, to.height, kernel).forEach(({ start, weights }, row) => {
    const sums = new Float64Array(length);
    weights.forEach((weight, index) => {
      if (weight) add(sums, data, (start + index) * length, weight);
    });
    columns.forEach(({ start: first, weights: shares }, column) => {
      for (let channel = 0; channel < channels; channel++) {
        let sum = 0;
        for (let at = 0; at < shares.length; at++) sum += shares[at] * sums[(first + at) * channels + channel];
        found[(row * to.width + column) * channels + channel] = Math.min(Math.max(sum, 0), 255) + NUDGE;
      }
    });
  });
  return found;
}

/**
 * Add a row's values, times a weight, to sums.
 * @param {Float64Array} sums
 * @param {Uint8Array} data
 * @param {number} from where the row begins
 * @param {number} weight
 */
function add(sums, data, from, weight) {
  for (let at = 0; at < sums.length; at++) sums[at] += weight * data[from + at];
}

/**
 * @param {number} x
 * @returns {number}
 */
function sinc(x) {
  return x ? Math.sin(Math.PI * x) / (Math.PI * x) : 1;
}
