/** The model that the page shows: the server's models, the version in use, and its files. */

import { loadRuntime } from "./runtime.js";
import { models, ServerError } from "./server.js";
import { reason, sentence } from "./texts.js";
import { Version } from "./version.js";

/** @typedef {import("./server.js").ModelStatus} ModelStatus */
/** @typedef {import("./version.js").Format} Format */

/**
 * `served` gets the names of the models, `use` the version to run, `changed` is called if a row changes. `notice` shows
 * a sentence about a topic, or removes it.
 *
 * @typedef {object} Callbacks
 * @property {(names: string[], chosen: string) => void} served
 * @property {(version: Version) => void} use
 * @property {() => void} changed
 * @property {(topic: import("./status.js").Topic, text?: string) => void} notice
 */

const POLL = 2000;
const DEFAULT = "cnn";
export const WASM = new URL("wasm/", document.baseURI).href;

export class Session {
  /** @type {Version | null} */
  version = null;
  /** @type {import("./runtime.js").Runtime | null} */
  runtime = null;
  #callbacks;
  #chosen;
  /** @type {string | undefined} */
  #opening;
  /** Versions whose contract or card can't be used. @type {Set<string>} */
  #refused = new Set();
  /** @type {Promise<void>} */
  #loads = Promise.resolve();

  /**
   * @param {string | null} chosen the model that the URL names
   * @param {Callbacks} callbacks
   */
  constructor(chosen, callbacks) {
    this.#chosen = chosen;
    this.#callbacks = callbacks;
  }

  /** Follow the server's models until the page is closed. */
  async follow() {
    for (;;) {
      try {
        await this.#reached(await models());
      } catch (error) {
        this.lost(error);
      }
      await new Promise((resolve) => setTimeout(resolve, POLL));
      if (document.hidden) {
        await new Promise((resolve) => document.addEventListener("visibilitychange", resolve, { once: true }));
      }
    }
  }

  /** @param {string} name */
  async choose(name) {
    this.#chosen = name;
    try {
      await this.#reached(await models());
    } catch (error) {
      this.lost(error);
    }
  }

  /** @param {unknown} error */
  lost(error) {
    const continues = this.version?.formats.some(({ state }) => state === "ready");
    const text = error instanceof ServerError && error.lost ? "the server doesn't respond" : reason(error);
    this.#callbacks.notice("server", sentence(`${text}${continues ? "; the formats in this browser continue" : ""}`));
    this.version?.remote.suspend("no response");
    this.#callbacks.changed();
  }

  /**
   * Load a format that isn't loaded by itself.
   *
   * @param {Format} format
   */
  request(format) {
    if (format.state !== "waiting" || format.automatic || !this.version) return;
    format.automatic = true;
    this.#load(this.version);
  }

  /** @param {ModelStatus[]} list */
  async #reached(list) {
    this.#callbacks.notice("server");
    const served = new Map(list.flatMap((model) => available(model)));
    const names = [...served.keys()];
    const name = this.#name(names);
    if (!name) {
      if (!this.version) this.#callbacks.notice("model", "The server has no model yet.");
      return;
    }
    this.#callbacks.served(names, name);
    const number = /** @type {string} */ (served.get(name));
    const current = this.version;
    if (current?.name !== name || current.number !== number) await this.#open(name, number);
    else {
      this.#opening = undefined;
      this.#revive(current);
    }
  }

  /** @param {string[]} names */
  #name(names) {
    const { version } = this;
    const wanted = this.#chosen ?? version?.name;
    if (wanted && names.includes(wanted)) {
      this.#callbacks.notice("model");
      return wanted;
    }
    if (version && version.name === wanted) {
      this.#callbacks.notice("model", `The server no longer serves ${wanted}; the formats in this browser continue.`);
      version.remote.suspend("not served");
      return undefined;
    }
    const others = version && names.includes(version.name) ? version.name : names[0];
    const name = !version && names.includes(DEFAULT) ? DEFAULT : others;
    const text = `The server has no model named ${wanted}; the page shows ${name}.`;
    this.#callbacks.notice("model", wanted && name ? text : undefined);
    return name;
  }

  /**
   * Use the server and the files again that failed because the server didn't respond.
   *
   * @param {Version} version
   */
  #revive(version) {
    version.remote.revive();
    for (const format of version.formats.filter(({ again }) => again)) {
      format.again = false;
      format.state = "waiting";
      this.#load(version);
    }
    this.#callbacks.changed();
  }

  /**
   * @param {string} name
   * @param {string} number
   */
  async #open(name, number) {
    const key = `${name} ${number}`;
    if (this.#opening === key || this.#refused.has(key)) return;
    this.#opening = key;
    try {
      const version = await Version.open(name, number);
      const previous = this.version;
      const swap = previous?.name === name;
      if (swap) await this.#first(version);
      if (this.#opening !== key) return version.delete();
      this.version = version;
      this.#callbacks.use(version);
      this.#callbacks.notice("version");
      this.#callbacks.notice("swap", swap ? `Version ${number} has replaced version ${previous.number}.` : undefined);
      const text = `This export of ${name} has no files for browsers: only the server runs it. Export the model again.`;
      this.#callbacks.notice("files", version.complete ? undefined : text);
      this.#load(version);
    } catch (error) {
      if (error instanceof ServerError && error.lost) throw error;
      this.#refused.add(key);
      this.#callbacks.notice("version", `Version ${number} of ${name} can't be shown: ${reason(error)}.`);
    } finally {
      if (this.#opening === key) this.#opening = undefined;
    }
  }

  /**
   * Load the waiting formats, one after the other.
   *
   * @param {Version} version
   */
  #load(version) {
    this.#loads = this.#loads.then(async () => {
      while (version === this.version && (await this.#first(version)));
    });
  }

  /**
   * Load the first of the waiting formats; false if there is none.
   *
   * @param {Version} version
   */
  async #first(version) {
    const format = version.queue().find(({ automatic }) => automatic);
    if (!format || !(await this.#start(version))) return false;
    const loaded = version.load(format, /** @type {import("./runtime.js").Runtime} */ (this.runtime));
    this.#callbacks.changed();
    await loaded;
    this.#callbacks.changed();
    return true;
  }

  /**
   * Load the runtime; false if this browser can't run it.
   *
   * @param {Version} version
   */
  async #start(version) {
    if (this.runtime) return true;
    try {
      // A network for digits is too small to gain from threads.
      this.runtime = await loadRuntime(WASM, { threads: version.contract.preparation !== "digit", webgpu: false });
      return true;
    } catch (error) {
      this.#callbacks.notice("runtime", `Only the server responds: ${reason(error)}.`);
      for (const format of version.queue()) format.fail(reason(error));
      return false;
    }
  }
}

/**
 * Return the name and the highest available version of a model; nothing if none is available.
 *
 * @param {ModelStatus} model
 * @returns {[string, string][]}
 */
function available({ name, model_version_status: versions }) {
  const numbers = versions.filter(({ state }) => state === "AVAILABLE").map(({ version }) => version);
  const [highest] = numbers.sort((one, other) => Number(other) - Number(one));
  return highest === undefined ? [] : [[name, highest]];
}
