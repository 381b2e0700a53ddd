/** Inference of the current image: the formats in this browser, one pass per animation frame, and the server. */

import { decide } from "./decision.js";
import { predict, ServerError } from "./server.js";
import { inputOf, scoresOf } from "./tensors.js";
import { reason } from "./texts.js";

/** @typedef {import("./version.js").Version} Version */
/** @typedef {import("./version.js").Format} Format */

/** @typedef {{pixels: Uint8Array, values: Float32Array, number: number}} Image */

/**
 * `image` returns the pixels and values to run, null for none. `busy`: the pen is moving. `answered` is called after a
 * pass, `lost` if the server doesn't respond.
 *
 * @typedef {object} Callbacks
 * @property {() => Omit<Image, "number"> | null} image
 * @property {() => boolean} busy
 * @property {() => void} answered
 * @property {(error: ServerError) => void} lost
 */

// In milliseconds. A pass ends after this time, so that frames leave time for the pen.
const BUDGET = 6;
// Slower formats wait until the pen rests.
const SLOW = 12;
const REST = 120;
// Interval between requests to the server.
const INTERVAL = 60;
// Inferences of an image that doesn't change, for the median; slow formats do less.
const SAMPLES = 15;
const SAMPLING = 400;

export class Inference {
  /** Name of the row that runs first. */
  choice = "";
  #callbacks;
  /** @type {Version | null} */
  #version = null;
  /** @type {Image | null} */
  #image = null;
  #number = 0;
  #changed = false;
  #scheduled = false;
  #requesting = false;
  /** @type {Promise<void>} */
  #pass = Promise.resolve();

  /** @param {Callbacks} callbacks */
  constructor(callbacks) {
    this.#callbacks = callbacks;
  }

  /** The image of the last pass. */
  get image() {
    return this.#image;
  }

  /**
   * Run the rows of a version from now on; frees the previous one.
   *
   * @param {Version} version
   */
  use(version) {
    const previous = this.#version;
    this.#version = version;
    if (previous) this.pause(() => previous.delete());
    this.changed();
  }

  /** Request the image anew in the next frame, and run it. */
  changed() {
    this.#changed = true;
    this.schedule();
  }

  /** Run what hasn't run yet in the next frame. */
  schedule() {
    if (this.#scheduled) return;
    this.#scheduled = true;
    requestAnimationFrame(() => this.pause(() => this.#run()));
  }

  /**
   * Call a function between two passes.
   *
   * @template T
   * @param {() => T | Promise<T>} between
   * @returns {Promise<T>}
   */
  pause(between) {
    const result = this.#pass.then(between);
    this.#pass = result.then(
      () => {},
      (error) => console.error(error),
    );
    return result;
  }

  async #run() {
    const version = this.#version;
    this.#scheduled = false;
    if (!version) return;
    if (this.#changed) {
      this.#changed = false;
      const image = this.#callbacks.image();
      this.#image = image && { ...image, number: ++this.#number };
      if (!image) for (const row of version.rows) row.answer = null;
    }
    if (this.#image) {
      this.#request(version, this.#image);
      await this.#infer(version, this.#image);
    }
    this.#callbacks.answered();
  }

  /**
   * @param {Version} version
   * @param {Image} image
   */
  async #infer(version, image) {
    const busy = this.#callbacks.busy();
    const begin = performance.now();
    let rested = true;
    let runs = 0;
    for (const format of this.#due(version, image)) {
      if (busy && format.latency.median > SLOW) {
        rested = false;
        continue;
      }
      if (runs && performance.now() - begin + format.latency.median > BUDGET) {
        this.schedule();
        return;
      }
      await this.#measure(version, format, image);
      runs++;
    }
    if (!rested) setTimeout(() => this.schedule(), REST);
    else if (runs) this.schedule();
  }

  /**
   * Return the formats to run: the chosen one, those with the oldest answers, then those with few samples.
   *
   * @param {Version} version
   * @param {Image} image
   */
  #due(version, image) {
    const ready = version.formats.filter(({ state }) => state === "ready");
    const stale = ready
      .filter(({ answer }) => answer?.image !== image.number)
      .sort((one, other) => this.#age(one) - this.#age(other));
    const few = ready.filter(
      ({ answer, latency }) =>
        answer?.image === image.number && latency.count < SAMPLES && latency.count * latency.median < SAMPLING,
    );
    return [...stale, ...few];
  }

  /** @param {Format} format */
  #age(format) {
    return format.name === this.choice ? -1 : (format.answer?.image ?? 0);
  }

  /**
   * @param {Version} version
   * @param {Format} format
   * @param {Image} image
   */
  async #measure(version, format, image) {
    const { model, file } = format;
    if (!model || !file) return;
    try {
      const input = inputOf(image.pixels, image.values, file);
      const begin = performance.now();
      const output = await model.infer(input);
      format.latency.add(performance.now() - begin);
      const scores = scoresOf(output, file);
      format.answer = { scores, decision: decide(scores, version.contract), image: image.number };
    } catch (error) {
      format.fail(reason(error));
    }
  }

  /**
   * @param {Version} version
   * @param {Image} image
   */
  async #request(version, image) {
    const { remote, contract } = version;
    const { latency } = remote;
    const few = remote.state === "ready" && latency.count < SAMPLES && latency.count * latency.median < SAMPLING;
    if (this.#requesting || remote.state === "absent" || (remote.image === image.number && !few)) return;
    this.#requesting = true;
    remote.image = image.number;
    try {
      const { height, width, channels } = contract;
      const shape = [height, width, channels];
      const { scores, milliseconds, timing } = await predict(version.name, version.number, image.values, shape);
      if (scores.length !== contract.labels.length) throw new Error(`the server returned ${scores.length} scores`);
      remote.state = "ready";
      remote.latency.add(milliseconds);
      remote.timing = timing;
      remote.answer = this.#image && { scores, decision: decide(scores, contract), image: image.number };
    } catch (error) {
      remote.fail(reason(error));
      if (error instanceof ServerError && error.lost) this.#callbacks.lost(error);
    }
    setTimeout(() => {
      this.#requesting = false;
      this.schedule();
    }, INTERVAL);
  }
}
