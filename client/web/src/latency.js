/** Latency of the last inferences: their median. */

const SAMPLES = 50;

export class Latency {
  /** @type {number[]} */
  #samples = [];
  #next = 0;

  /** Number of inferences in the median. */
  get count() {
    return this.#samples.length;
  }

  /** Median in milliseconds, 0 without inferences. */
  get median() {
    const sorted = [...this.#samples].sort((one, other) => one - other);
    const middle = sorted.length >> 1;
    if (!sorted.length) return 0;
    return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
  }

  /** @param {number} milliseconds */
  add(milliseconds) {
    this.#samples[this.#next] = milliseconds;
    this.#next = (this.#next + 1) % SAMPLES;
  }

  clear() {
    this.#samples = [];
    this.#next = 0;
  }
}
