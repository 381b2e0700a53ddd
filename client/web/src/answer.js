/** The answer: the decision in large type, its bars, and the image that the model sees. */

import { INDEPENDENT } from "./preparation/rules.js";
import { ranked } from "./decision.js";
import { milliseconds, percent } from "./texts.js";

/** @typedef {import("./preparation/contract.js").Contract} Contract */
/** @typedef {import("./version.js").Row} Row */

/** @typedef {{item: HTMLElement, label: HTMLElement, fill: HTMLElement, value: HTMLElement}} Bar */

// With more labels, only the best are shown.
const MOST = 10;
const BEST = 5;
// Shorter bars are only a dot.
const FAINT = 0.005;

export class AnswerView {
  #best;
  #source;
  #list;
  #seen;
  /** @type {Bar[]} */
  #bars = [];
  /** @type {Contract | null} */
  #contract = null;

  /**
   * @param {{best: HTMLElement, source: HTMLElement, bars: HTMLElement, seen: HTMLCanvasElement}} elements
   */
  constructor({ best, source, bars, seen }) {
    this.#best = best;
    this.#source = source;
    this.#list = bars;
    this.#seen = seen;
  }

  /** @param {Contract} contract */
  build(contract) {
    this.#contract = contract;
    const count = contract.labels.length > MOST ? BEST : contract.labels.length;
    this.#bars = Array.from({ length: count }, bar);
    this.#list.replaceChildren(...this.#bars.map(({ item }) => item));
    this.#seen.width = contract.width;
    this.#seen.height = contract.height;
    this.show(null, "");
    this.see(null);
  }

  /**
   * @param {Row | null} row
   * @param {string} runtime
   */
  show(row, runtime) {
    const contract = this.#contract;
    if (!contract) return;
    const answer = row?.answer ?? null;
    this.#best.textContent = answer?.decision.text ?? "–";
    this.#best.dataset.empty = String(!answer);
    this.#best.dataset.long = String((answer?.decision.text.length ?? 0) > 2);
    const score = percent(answer?.decision.score ?? 0);
    const parts = answer && row ? [score, row.name, runtime, milliseconds(row.latency.median)] : [];
    this.#source.textContent = parts.filter(Boolean).join(" · ");
    const all = this.#bars.length === contract.labels.length;
    const order = answer && !all ? ranked(answer.scores, this.#bars.length) : this.#bars.keys();
    for (const [at, index] of [...order].entries()) {
      const { item, label, fill, value } = this.#bars[at];
      const share = answer?.scores[index];
      label.textContent = answer || all ? contract.labels[index] : "";
      value.textContent = share === undefined ? "" : percent(share);
      fill.style.transform = `scaleX(${share && share >= FAINT ? share : 0})`;
      item.toggleAttribute("data-best", Boolean(answer?.decision.labels.includes(index)));
    }
    this.#list.dataset.outputs = contract.outputs === INDEPENDENT ? "independent" : "probabilities";
  }

  /**
   * Show the image that the model sees.
   *
   * @param {Uint8Array | null} pixels
   */
  see(pixels) {
    const { width, height } = this.#seen;
    const context = /** @type {CanvasRenderingContext2D} */ (this.#seen.getContext("2d"));
    context.clearRect(0, 0, width, height);
    if (!pixels) return;
    const channels = pixels.length / (width * height);
    const image = context.createImageData(width, height);
    for (let index = 0; index < width * height; index++) {
      for (let channel = 0; channel < 3; channel++) {
        image.data[4 * index + channel] = pixels[channels * index + Math.min(channel, channels - 1)];
      }
      image.data[4 * index + 3] = 255;
    }
    context.putImageData(image, 0, 0);
  }
}

/** @returns {Bar} */
function bar() {
  const [item, label, track, fill, value] = ["li", "span", "span", "span", "span"].map((tag) =>
    document.createElement(tag),
  );
  label.className = "label";
  track.className = "track";
  value.className = "value";
  track.append(fill);
  item.append(label, track, value);
  return { item, label, fill, value };
}
