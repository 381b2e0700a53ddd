/** The page: draw a digit or give an image, and compare the answers of all formats and of the server. */

import { accelerate } from "./acceleration.js";
import { AnswerView } from "./answer.js";
import { EXAMPLES, example } from "./examples.js";
import { listen } from "./images.js";
import { Inference } from "./inference.js";
import { Pad } from "./pad.js";
import { values } from "./preparation/contract.js";
import { decode, fromImageData } from "./preparation/decoding.js";
import { prepare } from "./preparation/preparation.js";
import { loadRuntime } from "./runtime.js";
import { Session, WASM } from "./session.js";
import { Status } from "./status.js";
import { Table } from "./table.js";
import { percent, reason, sentence } from "./texts.js";
import { Format } from "./version.js";

/** @typedef {import("./version.js").Row} Row */
/** @typedef {import("./version.js").Version} Version */

const TEXTS = {
  digit: {
    title: "Draw a digit",
    verb: "while you draw",
    placeholder: "Draw here",
    hint: "Or drop or paste an image, or press a key from 0 to 9.",
    pad: "Drawing area",
  },
  resize: {
    title: "Choose an image",
    verb: "side by side",
    placeholder: "Drop, paste or choose an image",
    hint: "The server gets only the image that the model sees.",
    pad: "Chosen image",
  },
};
const FIRST_EXAMPLE = 7;

/**
 * @template {HTMLElement} T
 * @param {string} id
 * @param {new () => T} type
 */
function element(id, type) {
  const found = document.getElementById(id);
  if (!(found instanceof type)) throw new Error(`the page has no ${type.name} ${id}`);
  return found;
}

/** @param {Version} version */
function formats(version) {
  const count = version.formats.filter(({ file }) => file).length;
  return `${count} ${count === 1 ? "format" : "formats"}`;
}

class Page {
  #status = new Status(element("status", HTMLElement), element("announcement", HTMLElement));
  #select = element("model", HTMLSelectElement);
  #pad = new Pad(element("pad", HTMLCanvasElement), () => this.#drawn());
  #table = new Table(element("formats", HTMLTableElement), (row) => this.#choose(row));
  #answer = new AnswerView({
    best: element("best", HTMLElement),
    source: element("source", HTMLElement),
    bars: element("bars", HTMLElement),
    seen: element("seen", HTMLCanvasElement),
  });
  #inference = new Inference({
    image: () => this.#image(),
    busy: () => this.#pad.busy,
    answered: () => this.#update(),
    lost: (error) => this.#session.lost(error),
  });
  #session = new Session(new URL(location.href).searchParams.get("model"), {
    served: (names, chosen) => this.#served(names, chosen),
    use: (version) => this.#use(version),
    changed: () => this.#inference.schedule(),
    notice: (topic, text) => this.#status.notice(topic, text),
  });
  /** @type {import("./preparation/decoding.js").DecodedImage | null} */
  #decoded = null;
  #received = 0;
  /** Name of the row that the user chose. */
  #choice = "";
  /** @type {Version | null} */
  #accelerated = null;
  #example = FIRST_EXAMPLE;

  start() {
    element("clear", HTMLElement).addEventListener("click", () => this.#pad.clear());
    element("undo", HTMLElement).addEventListener("click", () => this.#pad.undo());
    element("example", HTMLElement).addEventListener("click", () => {
      this.#play(this.#example);
      this.#example = (this.#example + 3) % EXAMPLES;
    });
    this.#select.addEventListener("change", () => {
      const url = new URL(location.href);
      url.searchParams.set("model", this.#select.value);
      history.replaceState(null, "", url);
      this.#session.choose(this.#select.value);
    });
    addEventListener("keydown", (event) => this.#key(event));
    const file = element("file", HTMLInputElement);
    listen([file, element("camera", HTMLInputElement)], (blob) => this.#receive(blob));
    for (const type of ["click", "keydown"]) {
      element("pad", HTMLElement).addEventListener(type, (event) => {
        const pressed = !(event instanceof KeyboardEvent) || event.key === "Enter";
        if (pressed && !this.#pad.enabled) file.click();
      });
    }
    this.#session.follow();
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    const { key, ctrlKey, metaKey, altKey, target } = event;
    if (!this.#pad.enabled || altKey || target instanceof HTMLSelectElement) return;
    if (ctrlKey || metaKey) {
      if (key !== "z") return;
      event.preventDefault();
      this.#pad.undo();
    } else if (/^[0-9]$/.test(key)) this.#play(Number(key));
    else if (key === "Escape") this.#pad.clear();
  }

  /** @param {number} digit */
  #play(digit) {
    this.#pad.play(example(digit));
  }

  /** @param {Blob} blob */
  async #receive(blob) {
    const turn = ++this.#received;
    try {
      const decoded = await decode(blob);
      const bitmap = await createImageBitmap(blob);
      if (turn !== this.#received) return bitmap.close();
      this.#status.notice("file");
      this.#pad.show(bitmap);
      this.#decoded = decoded;
      this.#inference.changed();
    } catch (error) {
      if (turn === this.#received) this.#status.notice("file", sentence(reason(error)));
    }
  }

  #drawn() {
    this.#status.notice("file");
    this.#decoded = null;
    this.#received++;
    document.body.toggleAttribute("data-drawn", !this.#pad.empty);
    this.#inference.changed();
  }

  /** Return the image as the model sees it. */
  #image() {
    const contract = this.#session.version?.contract;
    const source = this.#decoded ?? (this.#pad.empty ? null : fromImageData(this.#pad.drawing));
    document.body.toggleAttribute("data-drawn", Boolean(source));
    this.#status.notice("image");
    if (!contract || !source) return null;
    try {
      const { pixels, digits } = prepare(source, contract);
      if (this.#decoded && digits > 1) {
        this.#status.notice("image", `The image has ${digits} digits; the model gets the largest.`);
      }
      return { pixels, values: values(pixels, contract) };
    } catch (error) {
      if (!this.#pad.busy) this.#status.notice("image", sentence(reason(error)));
      return null;
    }
  }

  /**
   * @param {string[]} names
   * @param {string} chosen
   */
  #served(names, chosen) {
    const options = [...this.#select.options].map(({ value }) => value);
    if (options.join("\n") !== names.join("\n")) {
      this.#select.replaceChildren(...names.map((name) => new Option(name, name)));
    }
    this.#select.value = chosen;
    element("choice", HTMLElement).hidden = names.length < 2;
  }

  /** @param {Version} version */
  #use(version) {
    const { preparation, labels, channels } = version.contract;
    const texts = TEXTS[preparation];
    document.body.dataset.kind = preparation;
    document.title = `${version.name} · tfship`;
    for (const id of /** @type {const} */ (["title", "placeholder", "hint"])) {
      element(id, HTMLElement).textContent = texts[id];
    }
    const subject = version.complete ? `${formats(version)} and the server answer` : "The server answers";
    element("subtitle", HTMLElement).textContent = `${subject} ${texts.verb}.`;
    element("pad", HTMLElement).setAttribute("aria-label", texts.pad);
    document.body.toggleAttribute("data-many", labels.some((label) => label.length > 2));
    document.body.toggleAttribute("data-colour", channels > 1);
    this.#pad.enabled = preparation === "digit";
    if (!this.#pad.enabled && !this.#pad.empty) this.#pad.clear();
    this.#answer.build(version.contract);
    this.#table.build(version);
    this.#inference.use(version);
  }

  /** @param {Row} row */
  #choose(row) {
    this.#choice = row.name;
    if (row instanceof Format) this.#session.request(row);
    this.#inference.schedule();
  }

  /** Write the answers of the last pass. */
  #update() {
    const { version } = this.#session;
    if (!version) return;
    const chosen = this.#chosen(version);
    const { image } = this.#inference;
    this.#inference.choice = chosen?.name ?? "";
    if (chosen) this.#table.check(chosen);
    this.#table.update(version, chosen);
    this.#answer.show(chosen ?? null, chosen instanceof Format ? (chosen.model?.runtime ?? "") : "");
    this.#answer.see(image?.pixels ?? null);
    const decision = chosen?.answer?.decision;
    if (!this.#pad.busy) {
      this.#status.announce(decision ? `${chosen.name}: ${decision.text}` : "", percent(decision?.score ?? 0));
    }
    element("runtime", HTMLElement).textContent = this.#runtime(version);
    const loading = version.formats.some(
      ({ state, automatic }) => state === "loading" || (state === "waiting" && automatic),
    );
    if (!loading && image && !this.#pad.busy && this.#accelerated !== version) this.#accelerate(version, image);
  }

  /**
   * Return the row that fills the bars: the user's choice, or the first format that was loaded, or the server.
   *
   * @param {Version} version
   */
  #chosen(version) {
    const usable = version.rows.filter(({ state }) => state === "ready");
    const loaded = usable.filter((row) => row instanceof Format);
    const { choice } = this.#inference;
    return (
      usable.find(({ name }) => name === this.#choice) ??
      loaded.find(({ name }) => name === choice) ??
      loaded[0] ??
      usable[0]
    );
  }

  /** @param {Version} version */
  #runtime(version) {
    const { runtime } = this.#session;
    if (!runtime) return version.queue().length ? "Loading LiteRT.js …" : "";
    const moved = version.formats.filter(({ model }) => model && model.runtime !== runtime.name);
    const names = moved.map(({ name }) => name).join(", ");
    return `In this browser: LiteRT.js on ${runtime.name}${names ? `; ${names} on WebGPU` : ""}.`;
  }

  /**
   * @param {Version} version
   * @param {import("./inference.js").Image} image
   */
  async #accelerate(version, image) {
    this.#accelerated = version;
    if (!navigator.gpu || !this.#session.runtime) return;
    const gpu = await loadRuntime(WASM, { threads: false, webgpu: true });
    if (gpu.name !== "WebGPU") return;
    await accelerate(version, gpu, image, this.#inference);
    this.#inference.schedule();
  }
}

new Page().start();
