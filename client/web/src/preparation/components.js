// The connected components of ink on an image, in cells of several pixels.

/** @typedef {import("./windows.js").Grey} Grey */

/**
 * A component: its label, its ink in pixels (`area`), and the sums of the ink's contrast (`weight`) and grey values.
 * `touches` is true if it touches the image's border. The box contains whole cells, in pixels; `bottom` and `right` are
 * exclusive.
 * @typedef {object} Component
 * @property {number} label
 * @property {number} area
 * @property {number} weight
 * @property {number} grey
 * @property {boolean} touches
 * @property {number} top
 * @property {number} bottom
 * @property {number} left
 * @property {number} right
 */

/**
 * The cells of an image: each cell's label, 0 for background, and its mean grey value, rounded down.
 * @typedef {object} Cells
 * @property {number} rows
 * @property {number} columns
 * @property {Int32Array} labels
 * @property {Uint8Array} means
 * @property {Component[]} components by their last cells, which resolves ties
 */

/**
 * Return the cells and the components of ink.
 * @param {Uint8Array} ink 1 for ink, 0 for other pixels
 * @param {Grey} image
 * @param {Grey} contrast
 * @param {number} cell the cell's side in pixels
 * @returns {Cells}
 */
export function components(ink, image, contrast, cell) {
  const { height, width } = image;
  const [rows, columns] = [Math.ceil(height / cell), Math.ceil(width / cell)];
  const areas = new Int32Array(rows * columns);
  const sums = new Int32Array(areas.length);
  const greys = new Int32Array(areas.length);
  const weights = new Int32Array(areas.length);
  const rim = new Uint8Array(areas.length);
  for (let row = 0, at = 0; row < height; row++) {
    const first = Math.floor(row / cell) * columns;
    const outer = row === 0 || row === height - 1;
    for (let column = 0; column < width; column++, at++) {
      const place = first + Math.floor(column / cell);
      const grey = image.data[at];
      sums[place] += grey;
      if (!ink[at]) continue;
      areas[place]++;
      greys[place] += grey;
      weights[place] += contrast.data[at];
      if (outer || column === 0 || column === width - 1) rim[place] = 1;
    }
  }
  const means = new Uint8Array(areas.length);
  for (let row = 0, place = 0; row < rows; row++) {
    const tall = Math.min(cell, height - row * cell);
    for (let column = 0; column < columns; column++, place++) {
      means[place] = sums[place] / (tall * Math.min(cell, width - column * cell));
    }
  }
  /** @type {Component[]} */
  const found = [];
  const labels = new Int32Array(areas.length);
  // From the last cell backwards, since a component is ordered by its last cell.
  for (let start = areas.length - 1; start >= 0; start--) {
    if (!areas[start] || labels[start]) continue;
    const members = connected(start, areas, labels, columns, found.length + 1);
    found.push(component(found.length + 1, members, { areas, greys, weights, rim }, columns, cell));
  }
  return { rows, columns, labels, means, components: found.reverse() };
}

/**
 * Give a label to the 8-connected cells of ink that contain `start`, and return them.
 * @param {number} start
 * @param {Int32Array} areas
 * @param {Int32Array} labels
 * @param {number} columns
 * @param {number} label
 * @returns {number[]}
 */
function connected(start, areas, labels, columns, label) {
  const members = [start];
  labels[start] = label;
  for (let index = 0; index < members.length; index++) {
    const place = members[index];
    const column = place % columns;
    const [first, last] = [column ? -1 : 0, column < columns - 1 ? 1 : 0];
    for (let row = place - columns; row <= place + columns; row += columns) {
      for (let next = row + first; next <= row + last; next++) {
        if (areas[next] > 0 && !labels[next]) {
          labels[next] = label;
          members.push(next);
        }
      }
    }
  }
  return members;
}

/**
 * @param {number} label
 * @param {number[]} members
 * @param {{areas: Int32Array, greys: Int32Array, weights: Int32Array, rim: Uint8Array}} cells
 * @param {number} columns
 * @param {number} cell
 * @returns {Component}
 */
function component(label, members, { areas, greys, weights, rim }, columns, cell) {
  let [area, grey, weight, touches] = [0, 0, 0, false];
  let [top, bottom, left, right] = [Infinity, 0, Infinity, 0];
  for (const place of members) {
    area += areas[place];
    grey += greys[place];
    weight += weights[place];
    touches ||= rim[place] > 0;
    const row = Math.floor(place / columns);
    const column = place % columns;
    top = Math.min(top, row);
    bottom = Math.max(bottom, row + 1);
    left = Math.min(left, column);
    right = Math.max(right, column + 1);
  }
  return {
    label,
    area,
    weight,
    grey,
    touches,
    top: top * cell,
    bottom: bottom * cell,
    left: left * cell,
    right: right * cell,
  };
}
