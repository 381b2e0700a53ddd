// Segmentation of ink on an image with a digit: steps 3 to 5 of the method `digit`, as in
// `client/images/segmentation.py`. `export/preprocessing/input_contract.py` describes them.

import { components } from "./components.js";
import * as rules from "./rules.js";
import { closing, maximum } from "./windows.js";

/** @typedef {import("./windows.js").Grey} Grey */
/** @typedef {import("./components.js").Component} Component */
/** @typedef {import("./components.js").Cells} Cells */

// Smallest area of a further digit, relative to the largest digit's, and smallest distance, relative to its height.
const SIMILAR = 0.2;
const APART = 0.15;
const WHITE = 255;

/**
 * A digit: its components, the largest first, its contrast `distinct`, and the number of other digits on the image.
 * @typedef {object} Digit
 * @property {Ink} ink
 * @property {Component[]} parts
 * @property {number} distinct
 * @property {number} neighbours
 */

/**
 * Return the dark or light digit on an image, or null if there is none.
 * @param {Grey} image
 * @returns {Digit | null}
 */
export function located(image) {
  if (!image.data.length) return null;
  const dark = new Ink(image).digit();
  const light = new Ink(negative(image)).digit();
  // For ties, dark ink.
  return light && (!dark || light.distinct > dark.distinct) ? light : dark;
}

/**
 * Return the box around components, in whole cells, within an image.
 * @param {Component[]} parts
 * @param {Grey} image
 * @returns {{top: number, bottom: number, left: number, right: number}} bottom and right are exclusive
 */
export function box(parts, { height, width }) {
  return {
    top: Math.min(...parts.map((each) => each.top)),
    bottom: Math.min(height, Math.max(...parts.map((each) => each.bottom))),
    left: Math.min(...parts.map((each) => each.left)),
    right: Math.min(width, Math.max(...parts.map((each) => each.right))),
  };
}

/** Ink that is darker than its surroundings. */
class Ink {
  /** @param {Grey} image */
  constructor(image) {
    const { height, width } = image;
    this.image = image;
    // Ink less than a cell apart is one component. Small gaps don't split a digit's strokes.
    this.cell = Math.min(height, width) >= rules.SPECKLED ? rules.CELL : 1;
    this.size = Math.min(Math.max(3, Math.trunc(rules.WINDOW * Math.min(height, width)) | 1), rules.WIDEST);
    this.contrast = difference(closing(image, this.size), image);
    this.mask = this.isInk();
    /** @type {Cells} */
    this.cells = components(this.mask, image, this.contrast, this.cell);
    this.chosen = chosen(this.cells.components);
  }

  /** @returns {Uint8Array} 1 for ink, 0 for other pixels */
  isInk() {
    const contrast = this.contrast.data;
    const local = maximum(this.contrast, this.size).data;
    // The smallest contrast of ink by the strongest one around it, compared in 32 bits as by NumPy.
    const least = Float32Array.from({ length: WHITE + 1 }, (_, strongest) => Math.fround(rules.LOCAL) * strongest);
    const mask = new Uint8Array(contrast.length);
    for (let at = 0; at < mask.length; at++) {
      mask[at] = contrast[at] >= rules.FAINTEST && contrast[at] > least[local[at]] ? 1 : 0;
    }
    return mask;
  }

  /** @returns {Digit | null} the main digit on the image */
  digit() {
    // Largest first; the sort is stable.
    const largest = this.chosen.toSorted((one, other) => other.weight - one.weight);
    for (const component of largest.slice(0, rules.CANDIDATES)) {
      const distinct = component.weight ? this.distinct(component) : 0;
      if (distinct >= rules.FAINTEST) {
        const parts = this.chosen.filter((each) => each !== component && isPart(each, component));
        const neighbours = this.neighbours(component);
        return { ink: this, parts: [component, ...parts], distinct, neighbours };
      }
    }
    return null;
  }

  /**
   * Return how much darker than paper a component is: the smaller of its contrast and that to its surroundings.
   *
   * The surroundings reach as far as the component is large, at least half a window. Their grey value is the median of
   * the cells' means.
   * @param {Component} component
   * @returns {number}
   */
  distinct({ top, bottom, left, right, area, grey, weight }) {
    const { means, rows, columns } = this.cells;
    const margin = Math.floor(Math.max(bottom - top, right - left, this.size >> 1) / this.cell);
    const [firstRow, lastRow] = [Math.max(0, top / this.cell - margin), Math.min(rows, bottom / this.cell + margin)];
    const [first, last] = [Math.max(0, left / this.cell - margin), Math.min(columns, right / this.cell + margin)];
    const counts = new Uint32Array(WHITE + 1);
    for (let row = firstRow; row < lastRow; row++) {
      for (let column = first; column < last; column++) counts[means[row * columns + column]]++;
    }
    // The upper median.
    const half = Math.floor(((lastRow - firstRow) * (last - first)) / 2);
    let middle = 0;
    for (let below = counts[0]; below <= half; below += counts[middle]) middle++;
    return Math.min(middle * area - grey, weight) / area;
  }

  /**
   * Return the number of other components that may be digits: similar to a component in size, distinct, and apart.
   * @param {Component} component
   * @returns {number}
   */
  neighbours(component) {
    const height = component.bottom - component.top;
    const digits = [component];
    for (const other of this.chosen) {
      const sameHeight = 2 * Math.abs(other.bottom - other.top - height) <= height;
      if (!sameHeight || other.area < SIMILAR * component.area) continue;
      const near = digits.some((each) => gap(other, each) < APART * height);
      if (!near && this.distinct(other) >= rules.FAINTEST) digits.push(other);
    }
    return digits.length - 1;
  }

  /**
   * Return the strokes of components, 0…255, in their box and a margin around.
   * @param {Component[]} parts
   * @returns {Grey}
   */
  strokes(parts) {
    const { contrast, ink, these } = this.around(parts, rules.EDGE);
    const full = quantile(
      contrast.data.filter((_, at) => ink[at] && these.data[at]),
      rules.FULL,
    );
    const palest = Math.max(rules.PALEST, Math.min(this.noise(parts) + 1, rules.LOCAL * full));
    const others = maximum({ ...these, data: ink.map((inked, at) => (inked && !these.data[at] ? 1 : 0)) }, 3).data;
    const data = contrast.data.map((value, at) => {
      if (value < palest || others[at]) return 0;
      // Rounds halves up.
      return Math.min(Math.floor((2 * WHITE * value + full) / (2 * full)), WHITE);
    });
    return { ...contrast, data };
  }

  /**
   * @param {Component[]} parts
   * @returns {number} the contrast of nearly all paper around components, 0 without paper
   */
  noise(parts) {
    const { contrast, ink, these } = this.around(parts, 1);
    const reach = Math.trunc(rules.PAPER * longer(box(parts, this.image)));
    const near = maximum(these, 2 * reach + 1).data;
    return quantile(
      contrast.data.filter((_, at) => !near[at] && !ink[at]),
      rules.NOISE,
    );
  }

  /**
   * Return contrast and ink in the box of components with a margin, and which pixels are in cells of these components.
   * @param {Component[]} parts
   * @param {number} share the margin as a share of the longer side
   * @returns {{contrast: Grey, ink: Uint8Array, these: Grey}}
   */
  around(parts, share) {
    const { height, width } = this.image;
    const within = box(parts, this.image);
    const margin = Math.trunc(share * longer(within));
    const [firstRow, lastRow] = [Math.max(0, within.top - margin), Math.min(height, within.bottom + margin)];
    const [first, last] = [Math.max(0, within.left - margin), Math.min(width, within.right + margin)];
    const size = { height: lastRow - firstRow, width: last - first };
    const [contrast, ink, these] = [0, 0, 0].map(() => new Uint8Array(size.height * size.width));
    const labels = new Set(parts.map((each) => each.label));
    for (let at = 0, row = firstRow; row < lastRow; row++) {
      const cells = Math.floor(row / this.cell) * this.cells.columns;
      for (let column = first; column < last; column++, at++) {
        contrast[at] = this.contrast.data[row * width + column];
        ink[at] = this.mask[row * width + column];
        these[at] = labels.has(this.cells.labels[cells + Math.floor(column / this.cell)]) ? 1 : 0;
      }
    }
    return { contrast: { data: contrast, ...size }, ink, these: { data: these, ...size } };
  }
}

/**
 * @param {{top: number, bottom: number, left: number, right: number}} box
 * @returns {number} its longer side
 */
function longer({ top, bottom, left, right }) {
  return Math.max(bottom - top, right - left);
}

/**
 * @param {Uint8Array} values
 * @param {number} share
 * @returns {number} the lowest of 0…255 that at least this share of the values doesn't exceed; 0 without values
 */
function quantile(values, share) {
  const counts = new Uint32Array(WHITE + 1);
  for (const value of values) counts[value]++;
  let level = 0;
  for (let below = counts[0]; below < share * values.length; below += counts[level]) level++;
  return level;
}

/**
 * @param {Grey} image
 * @returns {Grey} the image with light and dark swapped
 */
function negative({ data, height, width }) {
  const swapped = new Uint8Array(data.length);
  for (let at = 0; at < swapped.length; at++) swapped[at] = WHITE - data[at];
  return { data: swapped, height, width };
}

/**
 * @param {Grey} one
 * @param {Grey} other
 * @returns {Grey} the first image minus the other
 */
function difference({ data, height, width }, { data: others }) {
  const found = new Uint8Array(data.length);
  for (let at = 0; at < found.length; at++) found[at] = data[at] - others[at];
  return { data: found, height, width };
}

/**
 * Return the components that may be digits: those within the image that aren't specks, or else those at its border.
 * @param {Component[]} all
 * @returns {Component[]}
 */
function chosen(all) {
  const outer = all.filter((each) => each.touches);
  const speck = rules.SPECK * outer.reduce((area, each) => Math.max(area, each.area), 0);
  const inner = all.filter((each) => !each.touches && each.area > speck);
  return inner.length ? inner : outer;
}

/**
 * @param {Component} other
 * @param {Component} component the largest of a digit
 * @returns {boolean} whether another component is a part of the digit
 */
function isPart(other, component) {
  return gap(other, component) <= rules.NEAR * longer(component) && other.area >= rules.PART * component.area;
}

/**
 * @param {Component} one
 * @param {Component} other
 * @returns {number} the distance of two boxes along the axis on which they are farther apart; negative if they overlap
 */
function gap(one, other) {
  return Math.max(
    one.top - other.bottom,
    other.top - one.bottom,
    one.left - other.right,
    other.left - one.right,
  );
}
