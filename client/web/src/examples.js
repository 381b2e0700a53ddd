/** Example digits: the strokes of a pen, as SVG paths on a square of 100 × 100. */

/** @typedef {import("./pad.js").Stroke} Stroke */

const SIDE = 100;
// Distance of the points along a stroke.
const STEP = 1.5;
const PATHS = [
  "M52 18 C32 17 25 36 26 53 C27 70 36 83 51 82 C67 81 75 66 74 48 C73 31 65 18 51 18",
  "M40 31 C47 27 52 22 55 17 C54 40 53 62 53 84",
  "M29 34 C30 15 70 12 69 35 C68 51 42 66 27 82 C42 80 58 81 75 81",
  "M30 24 C43 13 70 17 66 34 C64 44 54 48 45 49 C60 48 73 54 70 68 C66 86 40 87 27 76",
  "M57 17 C48 32 36 48 26 61 C43 60 60 61 78 60 M63 40 C62 55 61 71 61 86",
  "M71 18 C59 19 48 19 37 19 C36 28 35 37 33 46 C48 38 73 43 72 63 C70 86 40 88 27 77",
  "M65 17 C45 25 31 44 30 63 C30 87 69 89 70 66 C70 49 40 47 32 63",
  "M26 20 C42 20 58 20 74 19 C62 39 51 61 45 85",
  "M66 29 C61 13 37 13 35 28 C34 46 70 50 70 68 C69 87 31 87 31 68 C31 50 65 46 66 29",
  "M68 33 C62 13 32 17 32 37 C33 55 64 54 68 34 C68 52 66 69 62 86",
];

/** Number of examples. */
export const EXAMPLES = PATHS.length;

/**
 * Return the strokes of an example.
 *
 * @param {number} digit
 * @returns {Stroke[]}
 */
export function example(digit) {
  return PATHS[digit].split(/(?=M)/).map((data) => {
    const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
    path.setAttribute("d", data);
    const length = path.getTotalLength();
    const count = Math.ceil(length / STEP);
    return Array.from({ length: count + 1 }, (_, index) => {
      const { x, y } = path.getPointAtLength((index / count) * length);
      return { x: x / SIDE, y: y / SIDE };
    });
  });
}
