// Decoding of images to upright pixels, as in `client/images/decoding.py`.
//
// PNG is decoded in `png.js`, other formats by the browser. Only translucent images need WebGL.

import { metadata } from "./metadata.js";
import { decodePng, header } from "./png.js";
import { FAINTEST, MOST_PIXELS, MOST_SIDE } from "./rules.js";
import { pixelsOf } from "./webgl.js";

/** @typedef {import("./metadata.js").Metadata} Metadata */
/** @typedef {Uint8Array | Uint8ClampedArray} Rgba */

const WHITE = 255;
const EXPECTED = "expected PNG, JPEG or another image format";
// Larger files hardly contain an image of a size that is read.
const MOST_BYTES = 8 * MOST_PIXELS;
// Canvases have limits for their areas.
const STRIP_PIXELS = 1 << 20;

/** A decoded image. Transparent parts become white, or black if the ink would be invisible on white. */
export class DecodedImage {
  /**
   * @param {Rgba} rgba pixels as stored; colours aren't multiplied by their opacity
   * @param {number} width as stored
   * @param {number} height as stored
   * @param {number} orientation by EXIF; values other than 2 to 8 mean upright
   */
  constructor(rgba, width, height, orientation = 1) {
    this.rgba = rgba;
    this.stored = { width, height };
    this.orientation = orientation;
    const turned = orientation >= 5 && orientation <= 8;
    this.width = turned ? height : width;
    this.height = turned ? width : height;
    // One number of 32 bits per pixel, with red in the lowest ones: processors are little-endian.
    this.words = new Int32Array(rgba.buffer, rgba.byteOffset, rgba.length / 4);
  }

  /** @returns {Uint8Array} the image, upright, in grey (ITU-R 601 luma), [height, width] */
  grey() {
    const values = greys(this.words, WHITE);
    return this.upright(isFaint(values) && !isOpaque(this.words) ? greys(this.words, 0) : values, 1);
  }

  /** @returns {Uint8Array} the image, upright, in RGB, [height, width, 3] */
  rgb() {
    const { rgba, words } = this;
    const paper = !isOpaque(words) && isFaint(greys(words, WHITE)) ? 0 : WHITE;
    const values = new Uint8Array((rgba.length / 4) * 3);
    for (let from = 0, at = 0; from < rgba.length; from += 4, at += 3) {
      const opacity = rgba[from + 3];
      values[at] = onPaper(rgba[from], opacity, paper);
      values[at + 1] = onPaper(rgba[from + 1], opacity, paper);
      values[at + 2] = onPaper(rgba[from + 2], opacity, paper);
    }
    return this.upright(values, 3);
  }

  /**
   * Return values of this image, as stored, in its orientation (EXIF 2.32, 4.6.4).
   * @param {Uint8Array} values
   * @param {number} channels
   * @returns {Uint8Array}
   */
  upright(values, channels) {
    const { orientation, width, height } = this;
    if (orientation < 2 || orientation > 8) return values;
    let [down, across] = [this.stored.width * channels, channels];
    if (orientation >= 5) [down, across] = [across, down];
    let start = 0;
    if ([3, 4, 7, 8].includes(orientation)) [start, down] = [start + (height - 1) * down, -down];
    if ([2, 3, 6, 7].includes(orientation)) [start, across] = [start + (width - 1) * across, -across];
    const turned = new Uint8Array(values.length);
    for (let row = 0, at = 0; row < height; row++) {
      for (let column = 0, from = start + row * down; column < width; column++, from += across) {
        for (let channel = 0; channel < channels; channel++) turned[at++] = values[from + channel];
      }
    }
    return turned;
  }
}

/**
 * Decode an image. Rejects with an Error that says what was found and what was expected.
 * @param {Blob} blob
 * @returns {Promise<DecodedImage>}
 */
export async function decode(blob) {
  if (!blob.size) throw new Error(`an empty file; ${EXPECTED}: choose another file`);
  if (blob.size > MOST_BYTES) throw tooLarge();
  const bytes = new Uint8Array(await blob.arrayBuffer());
  const found = metadata(bytes);
  try {
    return await (found.kind === "image/png" ? png(bytes) : others(found));
  } catch (error) {
    if (error instanceof SizeError) throw error;
    throw new Error(`${problem(found.kind)}; ${EXPECTED}: convert it, or choose another file`, { cause: error });
  }
}

/**
 * Return the pixels of a canvas. A canvas keeps transparent colours only roughly; opaque ones are exact.
 * @param {ImageData} imageData
 * @returns {DecodedImage}
 */
export function fromImageData({ data, width, height }) {
  return new DecodedImage(data, width, height);
}

/** An image that is too large. */
class SizeError extends Error {}

/**
 * @param {Uint8Array<ArrayBuffer>} bytes
 * @returns {Promise<DecodedImage>}
 */
async function png(bytes) {
  const { width, height } = header(bytes);
  checkSize(width, height);
  const { rgba, orientation } = await decodePng(bytes);
  return new DecodedImage(rgba, width, height, orientation);
}

/**
 * Decode another format than PNG by the browser.
 * @param {Metadata} found
 * @returns {Promise<DecodedImage>}
 */
async function others({ kind, width, height, orientation, parts }) {
  checkSize(width, height);
  const type = kind.startsWith("image/") ? kind : "";
  const blob = new Blob(parts, { type });
  const bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
  try {
    checkSize(bitmap.width, bitmap.height);
    const rgba = drawn(bitmap);
    const exact = isTranslucent(rgba) ? pixelsOf(bitmap) : null;
    return new DecodedImage(exact ?? rgba, bitmap.width, bitmap.height, orientation);
  } finally {
    bitmap.close();
  }
}

/**
 * @param {ImageBitmap} bitmap
 * @returns {Uint8ClampedArray} its pixels
 */
function drawn(bitmap) {
  const { width, height } = bitmap;
  const rows = Math.max(1, Math.floor(STRIP_PIXELS / width));
  const canvas = new OffscreenCanvas(width, Math.min(rows, height));
  const context = canvas.getContext("2d", { willReadFrequently: true });
  if (!context) throw new Error("no canvas");
  const rgba = new Uint8ClampedArray(4 * width * height);
  for (let top = 0; top < height; top += rows) {
    const tall = Math.min(rows, height - top);
    context.clearRect(0, 0, width, tall);
    context.drawImage(bitmap, 0, top, width, tall, 0, 0, width, tall);
    rgba.set(context.getImageData(0, 0, width, tall).data, 4 * width * top);
  }
  return rgba;
}

/**
 * @param {string} kind
 * @returns {string} what is wrong with a file of this format that can't be decoded
 */
function problem(kind) {
  if (kind.startsWith("image/")) return "a damaged image";
  return kind ? `${kind}, which this browser can't read` : "not an image";
}

/**
 * @param {number} width
 * @param {number} height
 */
function checkSize(width, height) {
  if (width * height > MOST_PIXELS) throw tooLarge();
  if (Math.max(width, height) > MOST_SIDE) {
    const size = [width, height].map((side) => side.toLocaleString("en")).join(" × ");
    const most = MOST_SIDE.toLocaleString("en");
    throw new SizeError(`${size} pixels; expected ${most} per side at most: scale the image down`);
  }
}

/** @returns {SizeError} */
function tooLarge() {
  return new SizeError(`more than ${MOST_PIXELS.toLocaleString("en")} pixels; expected fewer: scale the image down`);
}

/**
 * @param {Uint8ClampedArray} rgba
 * @returns {boolean} whether any pixel is neither opaque nor invisible
 */
function isTranslucent(rgba) {
  for (let at = 3; at < rgba.length; at += 4) if (rgba[at] > 0 && rgba[at] < WHITE) return true;
  return false;
}

/**
 * @param {Int32Array} words
 * @returns {boolean}
 */
function isOpaque(words) {
  for (let at = 0; at < words.length; at++) if (words[at] >>> 24 !== WHITE) return false;
  return true;
}

/**
 * @param {Uint8Array} values on white
 * @returns {boolean} whether no ink is visible
 */
function isFaint(values) {
  for (let at = 0; at < values.length; at++) if (values[at] <= WHITE - FAINTEST) return false;
  return true;
}

/**
 * Return the grey values (ITU-R 601 luma) on paper of a grey value, rounded like Pillow.
 * @param {Int32Array} words
 * @param {number} paper
 * @returns {Uint8Array}
 */
function greys(words, paper) {
  const values = new Uint8Array(words.length);
  // A transparent pixel is as light as the paper.
  let last = 0;
  let value = paper;
  for (let at = 0; at < words.length; at++) {
    const word = words[at];
    // Drawings contain few colours.
    if (word !== last) {
      const opacity = word >>> 24;
      const red = onPaper(word & 255, opacity, paper);
      const green = onPaper((word >> 8) & 255, opacity, paper);
      const blue = onPaper((word >> 16) & 255, opacity, paper);
      value = (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16;
      last = word;
    }
    values[at] = value;
  }
  return values;
}

/**
 * @param {number} value
 * @param {number} opacity
 * @param {number} paper
 * @returns {number} a translucent value on paper
 */
function onPaper(value, opacity, paper) {
  if (opacity === WHITE) return value;
  return Math.floor((value * opacity + paper * (WHITE - opacity) + 127) / WHITE);
}
