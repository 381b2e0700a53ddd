/** A version of a model as the server has it: its contract and its rows, the formats and the server. */

import { Latency } from "./latency.js";
import * as server from "./server.js";
import { reason } from "./texts.js";

/** @typedef {import("./preparation/contract.js").Contract} Contract */
/** @typedef {import("./decision.js").Decision} Decision */
/** @typedef {import("./server.js").Card} Card */
/** @typedef {import("./server.js").WebFile} WebFile */

/** @typedef {{scores: Float32Array, decision: Decision, image: number}} Answer `image` is the image's number */
/** @typedef {"waiting" | "loading" | "ready" | "failed" | "absent"} State */

export const SERVER = "server";
const REFERENCE = "float32";
const SAVED_MODEL = "savedmodel";
const PREFERRED = "int8";
// More files are only loaded on request, which saves a phone's memory and traffic.
const AUTOMATIC_BYTES = 32 << 20;

/** A row of the table: a way to run the version. `reason` says why it failed or is absent. */
export class Row {
  latency = new Latency();
  /** @type {Answer | null} */
  answer = null;
  reason = "";

  /**
   * @param {string} name
   * @param {State} state
   */
  constructor(name, state) {
    this.name = name;
    this.state = state;
  }

  /** @param {string} reason */
  fail(reason) {
    this.state = "failed";
    this.reason = reason;
    this.answer = null;
  }
}

/** A format. `model` is the compiled file. */
export class Format extends Row {
  /** @type {import("./runtime.js").Model | null} */
  model = null;
  /** Whether the failed file may load later. */
  again = false;
  automatic = true;

  /**
   * @param {string} name
   * @param {{file?: WebFile, reason?: string, accuracy?: number | null}} about
   */
  constructor(name, { file, reason = "", accuracy = null }) {
    super(name, file ? "waiting" : "absent");
    this.file = file ?? null;
    this.reason = reason;
    this.accuracy = accuracy;
  }

  delete() {
    this.model?.delete();
    this.model = null;
    this.state = "absent";
  }
}

/** The model server. `timing` is the header `Server-Timing` of its last response, `image` the last request's image. */
export class Remote extends Row {
  image = 0;
  /** @type {import("./server.js").Timing[]} */
  timing = [];

  constructor() {
    super(SERVER, "ready");
  }

  /**
   * Send no more requests, until `revive`.
   *
   * @param {string} reason
   */
  suspend(reason) {
    this.fail(reason);
    this.state = "absent";
  }

  /** Send requests again. */
  revive() {
    if (this.state !== "absent") return;
    this.state = "ready";
    this.reason = "";
    this.image = 0;
  }
}

export class Version {
  remote = new Remote();
  #deleted = false;

  /**
   * @param {string} name
   * @param {string} number
   * @param {Contract} contract
   * @param {Card} card
   */
  constructor(name, number, contract, card) {
    this.name = name;
    this.number = number;
    this.contract = contract;
    this.formats = formats(card);
    /** Whether the export wrote files for browsers. */
    this.complete = Boolean(card.web?.length);
    let bytes = 0;
    for (const [index, format] of this.queue().entries()) {
      bytes += format.file?.bytes ?? 0;
      format.automatic = index === 0 || bytes <= AUTOMATIC_BYTES;
    }
  }

  /**
   * Load the contract and the card.
   *
   * @param {string} name
   * @param {string} number
   */
  static async open(name, number) {
    const [contract, card] = await Promise.all([server.contract(name, number), server.card(name, number)]);
    return new Version(name, number, contract, card);
  }

  /** All rows, the server last. */
  get rows() {
    return [...this.formats, this.remote];
  }

  /** The format that the others are compared with. */
  get reference() {
    return this.formats.find(({ name }) => name === REFERENCE);
  }

  /** The formats that wait for their file, in the order to load them: int8 or the smallest, then the table's order. */
  queue() {
    const waiting = this.formats.filter(({ state }) => state === "waiting");
    const smallest = [...waiting].sort((one, other) => (one.file?.bytes ?? 0) - (other.file?.bytes ?? 0))[0];
    const first = waiting.find(({ name }) => name === PREFERRED) ?? smallest;
    return first ? [first, ...waiting.filter((format) => format !== first)] : [];
  }

  /**
   * Load a format's file and compile it.
   *
   * @param {Format} format
   * @param {import("./runtime.js").Runtime} runtime
   */
  async load(format, runtime) {
    if (!format.file) return;
    format.state = "loading";
    try {
      const bytes = await server.file(this.name, this.number, format.file.file);
      const model = await runtime.load(bytes, format.file);
      // The first inference allocates memory. It is no sample of the latency.
      await model.infer(model.zeros());
      format.model = model;
      format.state = "ready";
      if (this.#deleted) format.delete();
    } catch (error) {
      format.fail(reason(error));
      format.again = error instanceof server.ServerError && error.lost;
    }
  }

  delete() {
    this.#deleted = true;
    for (const format of this.formats) format.delete();
  }
}

/** @param {Card} card */
function formats({ artefacts, web = [], unconverted = {}, withheld = {} }) {
  const files = new Map(web.map((entry) => [entry.format, entry]));
  const made = artefacts
    .filter(({ format }) => format !== SAVED_MODEL)
    .map(({ format, accuracy }) => {
      const entry = files.get(format);
      const value = accuracy?.value ?? null;
      if (!entry) return new Format(format, { reason: "the export wrote no file for browsers", accuracy: value });
      if ("left_out" in entry) return new Format(format, { reason: entry.left_out, accuracy: value });
      return new Format(format, { file: entry, accuracy: value });
    });
  const missing = Object.entries({ ...unconverted, ...withheld });
  return [...made, ...missing.map(([format, reason]) => new Format(format, { reason }))];
}
