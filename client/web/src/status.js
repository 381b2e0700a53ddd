/** The status line: one sentence, about the most important topic; and the answers for screen readers. */

/** @typedef {"file" | "image" | "runtime" | "server" | "model" | "version" | "files" | "swap"} Topic */

/** Most important first. @type {Topic[]} */
const TOPICS = ["file", "image", "runtime", "server", "model", "version", "files", "swap"];
const TROUBLES = new Set(["file", "image", "runtime", "server", "model", "version", "files"]);
// In milliseconds.
const SWAP = 8000;
const REST = 700;

export class Status {
  /** @type {Map<Topic, string>} */
  #texts = new Map();
  #line;
  #announcement;
  #next = "";
  #details = "";
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #rest;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #swap;

  /**
   * @param {HTMLElement} line
   * @param {HTMLElement} announcement a polite live region
   */
  constructor(line, announcement) {
    this.#line = line;
    this.#announcement = announcement;
  }

  /**
   * Show a sentence about a topic, or remove it.
   *
   * @param {Topic} topic
   * @param {string} [text]
   */
  notice(topic, text) {
    if (text === this.#texts.get(topic)) return;
    if (text) this.#texts.set(topic, text);
    else this.#texts.delete(topic);
    if (topic === "swap") {
      clearTimeout(this.#swap);
      if (text) this.#swap = setTimeout(() => this.notice("swap"), SWAP);
    }
    const first = TOPICS.find((each) => this.#texts.has(each));
    this.#line.textContent = (first && this.#texts.get(first)) ?? "";
    this.#line.dataset.topic = first ?? "";
    this.#line.dataset.trouble = String(first !== undefined && TROUBLES.has(first));
  }

  /**
   * Tell screen readers an answer once it rests, unless they know it.
   *
   * @param {string} answer
   * @param {string} details
   */
  announce(answer, details) {
    this.#details = details;
    if (answer === this.#next) return;
    this.#next = answer;
    clearTimeout(this.#rest);
    this.#rest = setTimeout(() => {
      this.#announcement.textContent = answer && `${answer}, ${this.#details}`;
    }, REST);
  }
}
