// Extremes of square windows around each value of an image.

/**
 * An image of one channel; rows one after the other.
 * @typedef {{data: Uint8Array, height: number, width: number}} Grey
 */

/**
 * An image whose rows are padded to whole words of four values, which are compared at once.
 * @typedef {{words: Int32Array, height: number, width: number, stride: number}} Packed
 */

const WORD = 4;
// Two of the four values of a word, with room for a carry between them.
const PAIR = 0x00ff00ff;
const CARRY = 0x01000100;
const ONES = 0x00010001;

/**
 * Return the largest value of the square of `size` (odd) around each value, within the image.
 * @param {Grey} image
 * @param {number} size
 * @returns {Grey}
 */
export function maximum(image, size) {
  return unpacked(transposed(largest(transposed(largest(packed(image), size)), size)));
}

/**
 * Return the closing by a square of `size` (odd): the smallest of the largest values around each value.
 * @param {Grey} image
 * @param {number} size
 * @returns {Grey}
 */
export function closing(image, size) {
  const filled = largest(transposed(largest(packed(image), size)), size);
  // The smallest value is the largest one of the negative.
  return unpacked(inverted(largest(transposed(largest(inverted(filled), size)), size)));
}

/**
 * Return the largest value of a column of `size` around each value, by van Herk's and Gil's algorithm. Columns are cut
 * into blocks of `size`. Each window is the end of one block and the beginning of the next one.
 * @param {Packed} image
 * @param {number} size
 * @returns {Packed}
 */
function largest({ words, height, width, stride }, size) {
  const reach = size >> 1;
  const found = new Int32Array(words.length);
  // For each value: the largest one from the block's beginning to it, and from it to the block's end.
  const before = words.slice();
  const after = words.slice();
  for (let row = 1; row < height; row++) {
    if (row % size) raise(before, row * stride, before, (row - 1) * stride, stride);
  }
  for (let row = height - 2; row >= 0; row--) {
    if ((row + 1) % size) raise(after, row * stride, after, (row + 1) * stride, stride);
  }
  for (let row = 0; row < height; row++) {
    const top = Math.max(0, row - reach);
    const bottom = Math.min(height - 1, row + reach);
    const at = row * stride;
    // A window at the image's border may lie within one block, at its beginning or its end.
    if (top % size === 0) {
      found.set(before.subarray(bottom * stride, (bottom + 1) * stride), at);
    } else {
      found.set(after.subarray(top * stride, (top + 1) * stride), at);
      if (Math.floor(top / size) < Math.floor(bottom / size)) raise(found, at, before, bottom * stride, stride);
    }
  }
  return { words: found, height, width, stride };
}

/**
 * Raise each value in words to the one in others, if that is larger.
 * @param {Int32Array} words
 * @param {number} at
 * @param {Int32Array} others
 * @param {number} from
 * @param {number} count
 */
function raise(words, at, others, from, count) {
  for (let index = 0; index < count; index++) {
    const one = words[at + index];
    const other = others[from + index];
    if (one === other) continue;
    words[at + index] = larger(one & PAIR, other & PAIR) | (larger((one >>> 8) & PAIR, (other >>> 8) & PAIR) << 8);
  }
}

/**
 * @param {number} one a pair of values
 * @param {number} other a pair of values
 * @returns {number} the larger value of each
 */
function larger(one, other) {
  // All bits of the values that are larger in the first pair.
  const mask = ((((one | CARRY) - other) >>> 8) & ONES) * 255;
  return other ^ ((one ^ other) & mask);
}

/**
 * @param {Packed} image
 * @returns {Packed} the negative
 */
function inverted({ words, height, width, stride }) {
  const found = new Int32Array(words.length);
  for (let at = 0; at < found.length; at++) found[at] = ~words[at];
  return { words: found, height, width, stride };
}

/**
 * @param {Packed} image
 * @returns {Packed}
 */
function transposed({ words, height, width, stride }) {
  const turned = new Int32Array(width * Math.ceil(height / WORD));
  const wide = turned.length / width;
  const [from, to] = [new Uint8Array(words.buffer), new Uint8Array(turned.buffer)];
  for (let row = 0; row < height; row++) {
    const start = row * stride * WORD;
    for (let column = 0, place = row; column < width; column++, place += wide * WORD) to[place] = from[start + column];
  }
  return { words: turned, height: width, width: height, stride: wide };
}

/**
 * @param {Grey} image
 * @returns {Packed}
 */
function packed({ data, height, width }) {
  const stride = Math.ceil(width / WORD);
  const bytes = new Uint8Array(height * stride * WORD);
  for (let row = 0; row < height; row++) bytes.set(data.subarray(row * width, (row + 1) * width), row * stride * WORD);
  return { words: new Int32Array(bytes.buffer), height, width, stride };
}

/**
 * @param {Packed} image
 * @returns {Grey}
 */
function unpacked({ words, height, width, stride }) {
  const bytes = new Uint8Array(words.buffer);
  const data = new Uint8Array(height * width);
  for (let row = 0; row < height; row++) {
    const start = row * stride * WORD;
    data.set(bytes.subarray(start, start + width), row * width);
  }
  return { data, height, width };
}
