// Preparation of images for a model, by its input contract, as in `client/images/preprocessing.py`.
// `export/preprocessing/input_contract.py` describes the steps and their reasons.

import { LANCZOS, NUDGE, resampled, TRIANGLE } from "./resampling.js";
import * as rules from "./rules.js";
import { box, located } from "./segmentation.js";
import { maximum } from "./windows.js";

/** @typedef {import("./contract.js").Contract} Contract */
/** @typedef {import("./decoding.js").DecodedImage} DecodedImage */
/** @typedef {import("./windows.js").Grey} Grey */

/**
 * Return an image as prepared pixels [height, width, channels], and its number of digits.
 *
 * The number is an estimate, used for a hint, and 1 for the method `resize`. Throws an Error for an empty image.
 * @param {DecodedImage} image
 * @param {Contract} contract
 * @returns {{pixels: Uint8Array, digits: number}}
 */
export function prepare(image, contract) {
  const { height, width } = image;
  if (contract.preparation === "digit") return digit({ data: image.grey(), height, width }, contract);
  const { channels } = contract;
  const data = channels === 1 ? image.grey() : image.rgb();
  return { pixels: resampled(data, { height, width, channels }, contract, TRIANGLE), digits: 1 };
}

/**
 * @param {Grey} grey
 * @param {Contract} contract
 * @returns {{pixels: Uint8Array, digits: number}} the digit in MNIST's form, and the number of digits
 */
function digit(grey, contract) {
  const fits = grey.height === contract.height && grey.width === contract.width;
  if (fits && isPrepared(grey, boxOf(contract))) return { pixels: grey.data, digits: 1 };
  const factor = reduction(grey);
  const found = located(reduced(grey, factor));
  if (!found) throw new Error("nothing to see on the image; expected a digit in one ink on plain paper");
  const near = surroundings(grey, found, factor);
  const closer = reduction(near);
  const { ink, parts } = (closer < factor && located(reduced(near, closer))) || found;
  return { pixels: asMnist(ink.strokes(parts), contract), digits: 1 + found.neighbours };
}

/**
 * Return the part of an image around a digit that was found on the reduced image.
 * @param {Grey} grey
 * @param {import("./segmentation.js").Digit} found
 * @param {number} factor
 * @returns {Grey}
 */
function surroundings(grey, { ink, parts }, factor) {
  const { top, bottom, left, right } = box(parts, ink.image);
  const margin = Math.trunc(rules.MARGIN * Math.max(bottom - top, right - left) * factor);
  return cropped(grey, {
    top: Math.max(0, top * factor - margin),
    bottom: Math.min(grey.height, bottom * factor + margin),
    left: Math.max(0, left * factor - margin),
    right: Math.min(grey.width, right * factor + margin),
  });
}

/**
 * @param {{height: number}} contract
 * @returns {number} the digit's longer side
 */
function boxOf({ height }) {
  return Math.floor((height * rules.BOX) / rules.FIELD);
}

/**
 * @param {Grey} grey
 * @param {number} longer
 * @returns {boolean} whether an image of the model's size has black paper and a digit of about the box's size
 */
function isPrepared({ data, height, width }, longer) {
  let black = 0;
  for (let column = 0; column < width; column++) {
    black += Number(data[column] === 0) + Number(data[(height - 1) * width + column] === 0);
  }
  for (let row = 0; row < height; row++) {
    black += Number(data[row * width] === 0) + Number(data[(row + 1) * width - 1] === 0);
  }
  // The median of the border is black.
  if (black <= height + width) return false;
  const extent = extentOf({ data, height, width });
  if (!extent) return false;
  const { top, bottom, left, right } = extent;
  return Math.abs(Math.max(bottom - top, right - left) - longer) <= rules.SLACK;
}

/**
 * @param {{height: number, width: number}} size
 * @returns {number} the integer that divides the sides so that they have at most `WORKING` pixels; at most `REDUCTION`
 */
function reduction({ height, width }) {
  return Math.min(Math.ceil(Math.max(height, width) / rules.WORKING), rules.REDUCTION);
}

/**
 * Return the means of blocks of an image; for factor 1, a large image is median-filtered.
 * @param {Grey} grey
 * @param {number} factor
 * @returns {Grey}
 */
function reduced(grey, factor) {
  const [height, width] = [Math.floor(grey.height / factor), Math.floor(grey.width / factor)];
  if (factor === 1) return Math.min(height, width) >= rules.SPECKLED ? medians(grey) : grey;
  const data = new Uint8Array(height * width);
  const area = factor * factor;
  const sums = new Int32Array(width);
  for (let row = 0; row < height; row++) {
    sums.fill(0);
    for (let line = row * factor; line < (row + 1) * factor; line++) {
      for (let column = 0, from = line * grey.width; column < width; column++, from += factor) {
        let sum = 0;
        for (let at = 0; at < factor; at++) sum += grey.data[from + at];
        sums[column] += sum;
      }
    }
    for (let column = 0; column < width; column++) {
      data[row * width + column] = Math.floor((2 * sums[column] + area) / (2 * area));
    }
  }
  return { data, height, width };
}

/**
 * Return the medians of 3 × 3 pixels; the border is repeated outwards.
 * @param {Grey} grey
 * @returns {Grey}
 */
function medians({ data, height, width }) {
  const found = new Uint8Array(data.length);
  // The lowest, middle and highest value of each column of three.
  const [low, middle, high] = [0, 1, 2].map(() => new Uint8Array(width + 2));
  for (let row = 0; row < height; row++) {
    const above = Math.max(row - 1, 0) * width;
    const below = Math.min(row + 1, height - 1) * width;
    for (let column = -1; column <= width; column++) {
      const at = Math.min(Math.max(column, 0), width - 1);
      const [one, two, three] = [data[above + at], data[row * width + at], data[below + at]];
      low[column + 1] = Math.min(one, two, three);
      middle[column + 1] = median(one, two, three);
      high[column + 1] = Math.max(one, two, three);
    }
    for (let column = 0; column < width; column++) {
      found[row * width + column] = median(
        Math.max(low[column], low[column + 1], low[column + 2]),
        median(middle[column], middle[column + 1], middle[column + 2]),
        Math.min(high[column], high[column + 1], high[column + 2]),
      );
    }
  }
  return { data: found, height, width };
}

/**
 * @param {number} one
 * @param {number} two
 * @param {number} three
 * @returns {number}
 */
function median(one, two, three) {
  return Math.max(Math.min(one, two), Math.min(Math.max(one, two), three));
}

/**
 * Return strokes of 0…255 in the form of MNIST's digits.
 * @param {Grey} strokes
 * @param {Contract} contract
 * @returns {Uint8Array}
 */
function asMnist(strokes, contract) {
  const { top, bottom, left, right } = extentWithin(strokes);
  const growth = strokeGrowth(strokes, Math.max(bottom - top, right - left));
  const wider = maximum(padded(strokes, growth >> 1), growth);
  return centred(cropped(wider, extentWithin(wider)), contract);
}

/**
 * Return the size (odd) of the window that widens strokes to the pen's width in MNIST.
 *
 * A pen's width is the area divided by half the outline's length. Steps along rows and columns are on average 4 / π
 * times as long as the outline, so the width is about 5/2 of the area divided by the number of steps.
 * @param {Grey} strokes
 * @param {number} longer the digit's longer side
 * @returns {number}
 */
function strokeGrowth(strokes, longer) {
  const { data, height, width } = padded(strokes, 1);
  const written = data.map((value) => (value > 127 ? 1 : 0));
  let [area, outline] = [0, 0];
  for (let at = 0; at < height * width; at++) {
    area += written[at];
    // The padding is empty, so the end of a row and the beginning of the next one are equal.
    outline += (written[at] ^ written[at + 1]) + (written[at] ^ written[at + width]);
  }
  const lacking = rules.STROKE * longer - (2.5 * area) / Math.max(outline, 1);
  return 2 * Math.max(Math.trunc(lacking / 2), 0) + 1;
}

/**
 * Return strokes as a digit of the box's size, with its centre of mass at the centre of the field.
 * @param {Grey} strokes a digit without margins
 * @param {Contract} contract
 * @returns {Uint8Array}
 */
function centred({ data, height, width }, contract) {
  const side = boxOf(contract);
  const longer = Math.max(height, width);
  // Rounds halves up.
  const [tall, wide] = [height, width].map((each) =>
    Math.max(1, Math.floor((2 * each * side + longer) / (2 * longer))),
  );
  const small = resampled(data, { height, width, channels: 1 }, { height: tall, width: wide }, LANCZOS);
  const rows = new Float64Array(tall);
  const columns = new Float64Array(wide);
  small.forEach((value, at) => {
    rows[Math.floor(at / wide)] += value;
    columns[at % wide] += value;
  });
  const [top, left] = [place(rows, contract.height), place(columns, contract.width)];
  const field = new Uint8Array(contract.height * contract.width);
  for (let row = 0; row < tall; row++) {
    field.set(small.subarray(row * wide, (row + 1) * wide), (top + row) * contract.width + left);
  }
  return field;
}

/**
 * Return where a digit begins, so that its centre of mass is at the centre of the field.
 * @param {Float64Array} profile the sums of the digit's rows or columns
 * @param {number} field
 * @returns {number}
 */
function place(profile, field) {
  const total = profile.reduce((sum, value) => sum + value);
  const centre = profile.reduce((sum, value, at) => sum + value * at, 0) / total;
  // A very asymmetric digit is kept inside the field rather than centred.
  return Math.min(Math.max(Math.floor((field - 1) / 2 - centre + NUDGE), 0), field - profile.length);
}

/**
 * @typedef {{top: number, bottom: number, left: number, right: number}} Extent bottom and right are exclusive
 */

/**
 * @param {Grey} grey
 * @returns {Extent | null} the box around the values above 0
 */
function extentOf({ data, height, width }) {
  let [top, bottom, left, right] = [height, 0, width, 0];
  for (let row = 0, at = 0; row < height; row++) {
    for (let column = 0; column < width; column++, at++) {
      if (!data[at]) continue;
      top = Math.min(top, row);
      bottom = row + 1;
      left = Math.min(left, column);
      right = Math.max(right, column + 1);
    }
  }
  return bottom ? { top, bottom, left, right } : null;
}

/**
 * @param {Grey} strokes with values above 0
 * @returns {Extent}
 */
function extentWithin(strokes) {
  return extentOf(strokes) ?? { top: 0, bottom: strokes.height, left: 0, right: strokes.width };
}

/**
 * @param {Grey} grey
 * @param {Extent} extent
 * @returns {Grey}
 */
function cropped({ data, width: stride }, { top, bottom, left, right }) {
  const [height, width] = [bottom - top, right - left];
  const part = new Uint8Array(height * width);
  for (let row = 0; row < height; row++) {
    const from = (top + row) * stride;
    part.set(data.subarray(from + left, from + right), row * width);
  }
  return { data: part, height, width };
}

/**
 * @param {Grey} grey
 * @param {number} margin width of the margin of zeros
 * @returns {Grey}
 */
function padded({ data, height, width }, margin) {
  const [tall, wide] = [height + 2 * margin, width + 2 * margin];
  const larger = new Uint8Array(tall * wide);
  for (let row = 0; row < height; row++) {
    larger.set(data.subarray(row * width, (row + 1) * width), (row + margin) * wide + margin);
  }
  return { data: larger, height: tall, width: wide };
}
