/** The table of the formats and the server. The chosen row's answer fills the bars. */

import { agree } from "./decision.js";
import { milliseconds, percent, size } from "./texts.js";
import { Format, Remote } from "./version.js";

/** @typedef {import("./version.js").Row} Row */
/** @typedef {import("./version.js").Version} Version */

const CELLS = /** @type {const} */ (["size", "accuracy", "latency", "answer", "agreement"]);
const NUMBERS = new Set(["size", "accuracy", "latency"]);

/** @typedef {(typeof CELLS)[number]} Cell */
/** @typedef {{line: HTMLTableRowElement, cells: Map<Cell, HTMLElement>, reason: HTMLElement}} Line */

export class Table {
  #body;
  #chosen;
  /** @type {Map<Row, Line>} */
  #lines = new Map();
  #timing = document.createElement("td");

  /**
   * @param {HTMLTableElement} table
   * @param {(row: Row) => void} chosen
   */
  constructor(table, chosen) {
    this.#body = table.tBodies[0];
    this.#chosen = chosen;
  }

  /** @param {Version} version */
  build(version) {
    this.#lines.clear();
    this.#body.replaceChildren();
    for (const row of version.rows) this.#body.append(this.#line(row));
    const line = document.createElement("tr");
    line.className = "timing";
    this.#timing.colSpan = CELLS.length + 1;
    line.append(this.#timing);
    this.#body.append(line);
  }

  /**
   * Write what has changed.
   *
   * @param {Version} version
   * @param {Row | undefined} chosen
   */
  update(version, chosen) {
    for (const [row, { line, cells, reason }] of this.#lines) {
      const text = obstacle(row);
      line.dataset.state = row.state;
      line.toggleAttribute("data-chosen", row === chosen);
      line.querySelector("input")?.toggleAttribute("disabled", row.state === "failed" || row.state === "absent");
      reason.hidden = !text;
      put(reason, text);
      for (const [name, cell] of cells) {
        cell.hidden = Boolean(text);
        if (text) continue;
        if (name === "answer") answer(cell, row);
        else if (name === "agreement") agreement(cell, row, version);
        else put(cell, content(name, row, version));
      }
    }
    const { state, timing } = version.remote;
    const parts = state === "ready" ? timing.map(({ name, duration }) => `${name} ${duration.toFixed(2)}`) : [];
    put(this.#timing, parts.length ? `Server-Timing in ms: ${parts.join(", ")}` : "");
  }

  /**
   * Mark the chosen row.
   *
   * @param {Row} row
   */
  check(row) {
    const input = this.#lines.get(row)?.line.querySelector("input");
    if (input) input.checked = true;
  }

  /** @param {Row} row */
  #line(row) {
    const line = document.createElement("tr");
    line.dataset.row = row.name;
    const head = document.createElement("th");
    head.scope = "row";
    const label = document.createElement("label");
    const input = Object.assign(document.createElement("input"), { type: "radio", name: "row", value: row.name });
    input.addEventListener("change", () => this.#chosen(row));
    label.append(input, row.name);
    head.append(label);
    const cells = new Map(CELLS.map((name) => [name, cell(name)]));
    const reason = cell("reason");
    reason.colSpan = CELLS.length;
    line.append(head, ...cells.values(), reason);
    line.addEventListener("click", (event) => {
      if (!(event.target instanceof Node && label.contains(event.target))) input.click();
    });
    this.#lines.set(row, { line, cells, reason });
    return line;
  }
}

/** @param {string} name */
function cell(name) {
  const data = document.createElement("td");
  data.dataset.cell = name;
  if (NUMBERS.has(name)) data.className = "number";
  return data;
}

/**
 * Return why a row has no figures; empty if it has.
 *
 * @param {Row} row
 */
function obstacle(row) {
  if (row.state === "absent" || row.state === "failed") return row.reason;
  return row instanceof Format && row.state === "waiting" && !row.automatic
    ? `${size(row.file?.bytes ?? 0)}; choose this row to load it`
    : "";
}

/**
 * @param {"size" | "accuracy" | "latency"} name
 * @param {Row} row
 * @param {Version} version
 */
function content(name, row, version) {
  const { latency, state } = row;
  switch (name) {
    case "size":
      return row instanceof Format ? size(row.file?.bytes ?? 0) : `version ${version.number}`;
    case "accuracy":
      return row instanceof Format && row.accuracy !== null ? percent(row.accuracy, 2) : "";
    default:
      if (state !== "ready") return "loading …";
      return latency.count ? milliseconds(latency.median) : "–";
  }
}

/**
 * @param {HTMLElement} element
 * @param {Row} row
 */
function answer(element, { answer: found }) {
  if (!element.children.length) element.append(document.createElement("strong"), " ", document.createElement("span"));
  const [text, score] = element.children;
  put(text, found ? found.decision.text : "–");
  put(score, found ? percent(found.decision.score) : "");
}

/**
 * Write whether a row's answer is the one of float32 and of the server.
 *
 * @param {HTMLElement} element
 * @param {Row} row
 * @param {Version} version
 */
function agreement(element, row, version) {
  const { answer } = row;
  if (!answer) {
    put(element, "");
    delete element.dataset.agrees;
    return;
  }
  const others = [version.reference, version.remote].filter(
    (other) => other && other !== row && other.answer?.image === answer.image,
  );
  // The server's answer is often to an earlier image; its last agreement is kept.
  if (!others.length && row instanceof Remote) return;
  const differing = others.filter((other) => other?.answer && !agree(other.answer.decision, answer.decision));
  const names = differing.map((other) => other?.name);
  put(element, names.length ? `≠ ${names.join(", ")}` : others.length ? "✓" : "");
  element.dataset.agrees = String(!names.length);
}

/**
 * @param {Element} element
 * @param {string} text
 */
function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}
