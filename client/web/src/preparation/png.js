// Decoding of PNG (ISO/IEC 15948) without the browser's decoder.
//
// A canvas multiplies colours by their opacity and loses precision, and browsers differ in how they reduce 16 bits and
// convert colours by profiles. Here, pixels are those of Pillow.

import { orientationOf, text } from "./metadata.js";

const [GREY, RGB, PALETTE, GREY_WITH_OPACITY, RGB_WITH_OPACITY] = [0, 2, 3, 4, 6];
/** @type {Record<number, {channels: number, depths: number[]}>} */
const FORMS = {
  [GREY]: { channels: 1, depths: [1, 2, 4, 8, 16] },
  [RGB]: { channels: 3, depths: [8, 16] },
  [PALETTE]: { channels: 1, depths: [1, 2, 4, 8] },
  [GREY_WITH_OPACITY]: { channels: 2, depths: [8, 16] },
  [RGB_WITH_OPACITY]: { channels: 4, depths: [8, 16] },
};
const SIGNATURE = 8;
// First column, first row, and the steps of the passes of an interlaced image (Adam7).
const PASSES = [[0, 0, 8, 8], [4, 0, 8, 8], [0, 4, 4, 8], [2, 0, 4, 4], [0, 2, 2, 4], [1, 0, 2, 2], [0, 1, 1, 2]];
const WHOLE = [[0, 0, 1, 1]];

/**
 * @typedef {object} Header
 * @property {number} width
 * @property {number} height
 * @property {number} depth bits per sample
 * @property {number} form colour type
 * @property {number} channels
 * @property {number[][]} passes
 */

/**
 * @typedef {object} Colours
 * @property {Uint8Array} palette RGB of each entry
 * @property {Uint8Array | null} opacity of a palette's entries, or the transparent grey or colour, 16 bits per sample
 */

/**
 * Return the header. Throws a RangeError if it is damaged.
 * @param {Uint8Array} bytes
 * @returns {Header}
 */
export function header(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const start = SIGNATURE + 8;
  const [width, height] = [view.getUint32(start), view.getUint32(start + 4)];
  const [depth, form, , , interlaced] = Array.from({ length: 5 }, (_, at) => view.getUint8(start + 8 + at));
  const known = FORMS[form];
  if (text(bytes, SIGNATURE + 4, 4) !== "IHDR" || !width || !height || !known?.depths.includes(depth)) {
    throw new RangeError("no header");
  }
  return { width, height, depth, form, channels: known.channels, passes: interlaced ? PASSES : WHOLE };
}

/**
 * Decode an image. Rejects if it is damaged.
 * @param {Uint8Array<ArrayBuffer>} bytes
 * @returns {Promise<{rgba: Uint8Array, orientation: number}>} pixels as stored, and the EXIF orientation
 */
export async function decodePng(bytes) {
  const image = header(bytes);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  /** @type {Colours} */
  const colours = { palette: new Uint8Array(), opacity: null };
  /** @type {Uint8Array<ArrayBuffer>[]} */
  const data = [];
  let orientation = 1;
  for (let at = SIGNATURE; at + 8 <= bytes.length; at += 12 + view.getUint32(at)) {
    const [name, content] = [text(bytes, at + 4, 4), bytes.subarray(at + 8, at + 8 + view.getUint32(at))];
    if (name === "PLTE") colours.palette = content;
    if (name === "tRNS") colours.opacity = content;
    if (name === "eXIf") orientation = orientationOf(content);
    if (name === "IDAT") data.push(content);
    if (name === "IEND") break;
  }
  const sizes = image.passes.map((pass) => sizeOf(image, pass));
  const lines = await inflated(data, sizes.reduce((sum, { rows, stride }) => sum + rows * (stride + 1), 0));
  const rgba = new Uint8Array(4 * image.width * image.height);
  const samples = new Uint16Array(image.width * image.channels);
  let from = 0;
  image.passes.forEach(([left, top, across, down], pass) => {
    const { rows, columns, stride } = sizes[pass];
    let above = new Uint8Array(stride);
    for (let row = 0; row < rows; row++, from += stride + 1) {
      const line = lines.subarray(from + 1, from + 1 + stride);
      unfilter(lines[from], line, above, Math.max(1, (image.channels * image.depth) >> 3));
      unpack(line, image.depth, samples.subarray(0, columns * image.channels));
      const start = (top + row * down) * image.width + left;
      colour(samples, columns, image, colours, { rgba, at: 4 * start, step: 4 * across });
      above = line;
    }
  });
  return { rgba, orientation };
}

/**
 * @param {Header} image
 * @param {number[]} pass
 * @returns {{rows: number, columns: number, stride: number}} the size of a pass, and the bytes of one of its lines
 */
function sizeOf({ width, height, channels, depth }, [left, top, across, down]) {
  const [columns, rows] = [Math.ceil((width - left) / across), Math.ceil((height - top) / down)];
  if (columns <= 0 || rows <= 0) return { rows: 0, columns: 0, stride: 0 };
  return { rows, columns, stride: Math.ceil((columns * channels * depth) / 8) };
}

/**
 * Decompress the first `length` bytes. Rejects if there are fewer.
 * @param {Uint8Array<ArrayBuffer>[]} parts
 * @param {number} length
 * @returns {Promise<Uint8Array<ArrayBuffer>>}
 */
async function inflated(parts, length) {
  const reader = new Blob(parts).stream().pipeThrough(new DecompressionStream("deflate")).getReader();
  const found = new Uint8Array(length);
  for (let at = 0; at < length;) {
    const { value, done } = await reader.read();
    if (done) throw new RangeError("too few pixels");
    found.set(value.subarray(0, length - at), at);
    at += value.length;
  }
  // Further bytes, and their checksum, don't matter.
  reader.cancel().catch(() => {});
  return found;
}

/**
 * Undo the filter of a line in place (ISO/IEC 15948, 9.2).
 * @param {number} filter
 * @param {Uint8Array} line
 * @param {Uint8Array} above the line above, without its filter
 * @param {number} size bytes per pixel, at least 1
 */
function unfilter(filter, line, above, size) {
  const { length } = line;
  if (filter === 1) {
    for (let at = size; at < length; at++) line[at] += line[at - size];
  } else if (filter === 2) {
    for (let at = 0; at < length; at++) line[at] += above[at];
  } else if (filter === 3) {
    for (let at = 0; at < length; at++) line[at] += ((at < size ? 0 : line[at - size]) + above[at]) >> 1;
  } else if (filter === 4) {
    for (let at = 0; at < Math.min(size, length); at++) line[at] += above[at];
    for (let at = size; at < length; at++) line[at] += paeth(line[at - size], above[at], above[at - size]);
  } else if (filter) {
    throw new RangeError(`filter ${filter}`);
  }
}

/**
 * @param {number} left
 * @param {number} above
 * @param {number} corner
 * @returns {number} the neighbour that is nearest to left + above - corner
 */
function paeth(left, above, corner) {
  const toLeft = Math.abs(above - corner);
  const toAbove = Math.abs(left - corner);
  const toCorner = Math.abs(left + above - 2 * corner);
  if (toLeft <= toAbove && toLeft <= toCorner) return left;
  return toAbove <= toCorner ? above : corner;
}

/**
 * Unpack samples of 1 to 16 bits.
 * @param {Uint8Array} line
 * @param {number} depth
 * @param {Uint16Array} samples
 */
function unpack(line, depth, samples) {
  if (depth === 8) {
    samples.set(line);
  } else if (depth === 16) {
    for (let at = 0; at < samples.length; at++) samples[at] = (line[2 * at] << 8) | line[2 * at + 1];
  } else {
    const most = (1 << depth) - 1;
    for (let at = 0; at < samples.length; at++) {
      const bit = at * depth;
      samples[at] = (line[bit >> 3] >> (8 - depth - (bit & 7))) & most;
    }
  }
}

/**
 * Write the colours of a line of samples.
 * @param {Uint16Array} samples
 * @param {number} columns
 * @param {Header} image
 * @param {Colours} colours
 * @param {{rgba: Uint8Array, at: number, step: number}} to
 */
function colour(samples, columns, { depth, form, channels }, { palette, opacity }, { rgba, at, step }) {
  const grey = form === GREY || form === GREY_WITH_OPACITY;
  const translucent = form === GREY_WITH_OPACITY || form === RGB_WITH_OPACITY;
  const key = opacity && !translucent && form !== PALETTE ? keyOf(opacity, channels) : null;
  for (let column = 0, from = 0; column < columns; column++, from += channels, at += step) {
    const first = samples[from];
    if (form === PALETTE) {
      // Missing entries are black.
      for (let channel = 0; channel < 3; channel++) rgba[at + channel] = palette[3 * first + channel] ?? 0;
      rgba[at + 3] = opacity?.[first] ?? 255;
      continue;
    }
    if (grey) {
      rgba[at] = rgba[at + 1] = rgba[at + 2] = greyOf(first, depth, translucent);
    } else {
      for (let channel = 0; channel < 3; channel++) rgba[at + channel] = samples[from + channel] >> (depth - 8);
    }
    if (translucent) rgba[at + 3] = samples[from + channels - 1] >> (depth - 8);
    else rgba[at + 3] = key?.every((value, channel) => value === samples[from + channel]) ? 0 : 255;
  }
}

/**
 * Return a grey value of 8 bits. Pillow scales 16 bits of grey, and drops the lower 8 bits of other samples.
 * @param {number} sample
 * @param {number} depth
 * @param {boolean} dropped
 * @returns {number}
 */
function greyOf(sample, depth, dropped) {
  if (depth === 16) return dropped ? sample >> 8 : Math.floor((sample + 128) / 257);
  return depth === 8 ? sample : (sample * 255) / ((1 << depth) - 1);
}

/**
 * @param {Uint8Array} opacity
 * @param {number} channels
 * @returns {number[]} the samples of the transparent grey or colour
 */
function keyOf(opacity, channels) {
  return Array.from({ length: channels }, (_, at) => (opacity[2 * at] << 8) | opacity[2 * at + 1]);
}
