/** REST client of the model server that serves this page, and of its files for browsers. */

import { parse } from "./preparation/contract.js";
import { reason } from "./texts.js";

/** @typedef {import("./preparation/contract.js").Contract} Contract */
/** @typedef {import("./tensors.js").Description} Description */

/** @typedef {{version: string, state: string, status: {error_code: string, error_message: string}}} VersionStatus */
/** @typedef {{name: string, model_version_status: VersionStatus[]}} ModelStatus */
/** @typedef {{name: string, duration: number}} Timing `duration` is in milliseconds */
/** @typedef {{scores: Float32Array, milliseconds: number, timing: Timing[]}} Prediction */

/**
 * A file for browsers, or the reason why it was left out.
 *
 * @typedef {{format: string, left_out: string}} LeftOut
 * @typedef {Description & {format: string, file: string, bytes: number}} WebFile
 */

/**
 * The export card, `export.json`.
 *
 * @typedef {object} Card
 * @property {{format: string, bytes: number, accuracy: {value: number} | null}[]} artefacts
 * @property {(WebFile | LeftOut)[]} [web]
 * @property {Record<string, string>} [unconverted]
 * @property {Record<string, string>} [withheld]
 */

const STATUS_SECONDS = 5;
const PREDICT_SECONDS = 30;
const FILE_SECONDS = 300;
// The page is at `web/` of the server.
const ROOT = new URL("../", document.baseURI);

/** A failed request. `lost`: the server didn't respond, so that the request may succeed later. */
export class ServerError extends Error {
  /**
   * @param {string} message
   * @param {{lost?: boolean, cause?: unknown}} [options]
   */
  constructor(message, { lost = false, cause } = {}) {
    super(message, { cause });
    this.lost = lost;
  }
}

/** @returns {Promise<ModelStatus[]>} */
export async function models() {
  const { models: found } = await json(await request("v1/models", STATUS_SECONDS));
  if (!Array.isArray(found)) throw new ServerError("the server's list of models has an unknown form");
  return found;
}

/**
 * @param {string} name
 * @param {string} version
 * @returns {Promise<Contract>}
 */
export async function contract(name, version) {
  const response = await request(`${folder(name, version)}contract.json`, STATUS_SECONDS);
  return parse(await json(response));
}

/**
 * @param {string} name
 * @param {string} version
 * @returns {Promise<Card>}
 */
export async function card(name, version) {
  return json(await request(`${folder(name, version)}export.json`, STATUS_SECONDS));
}

/**
 * Return a file of a version.
 *
 * @param {string} name
 * @param {string} version
 * @param {string} path
 */
export async function file(name, version, path) {
  const response = await request(folder(name, version) + path, FILE_SECONDS);
  return new Uint8Array(await body(response.arrayBuffer(), FILE_SECONDS));
}

/**
 * Return the server's scores for one image.
 *
 * @param {string} name
 * @param {string} version
 * @param {Float32Array} values
 * @param {number[]} shape height, width and channels
 * @returns {Promise<Prediction>}
 */
export async function predict(name, version, values, shape) {
  const path = `v1/models/${encodeURIComponent(name)}/versions/${encodeURIComponent(version)}:predict`;
  // Nine digits are enough for float32.
  const numbers = Array.from(values, (value) => Number(value.toPrecision(9)));
  const content = JSON.stringify({ instances: [nested(numbers, shape)] });
  const begin = performance.now();
  const response = await request(path, PREDICT_SECONDS, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: content,
  });
  const { predictions } = await json(response);
  const milliseconds = elapsed(response.url) ?? performance.now() - begin;
  const scores = predictions?.[0];
  if (!Array.isArray(scores) || !scores.every((score) => typeof score === "number")) {
    throw new ServerError("the server's prediction has an unknown form");
  }
  const timing = timings(response.headers.get("Server-Timing") ?? "");
  return { scores: Float32Array.from(scores), milliseconds, timing };
}

/**
 * Return the duration of the last request of a URL as the browser's network measured it, without waiting for the page.
 *
 * @param {string} url
 */
function elapsed(url) {
  const entry = performance.getEntriesByName(url, "resource").at(-1);
  // The browser keeps a limited number of entries.
  performance.clearResourceTimings();
  return entry?.duration || undefined;
}

/**
 * Return the entries of a header `Server-Timing` that have a duration.
 *
 * @param {string} header
 * @returns {Timing[]}
 */
export function timings(header) {
  return header.split(",").flatMap((entry) => {
    const [name, ...parameters] = entry.split(";").map((part) => part.trim());
    const found = parameters.find((parameter) => /^dur\s*=/i.test(parameter));
    const duration = Number(found?.split("=")[1].trim().replaceAll('"', ""));
    return name && Number.isFinite(duration) ? [{ name, duration }] : [];
  });
}

/**
 * @param {string} name
 * @param {string} version
 */
function folder(name, version) {
  return `web/models/${encodeURIComponent(name)}/versions/${encodeURIComponent(version)}/`;
}

/**
 * @param {string} path
 * @param {number} seconds
 * @param {RequestInit} [options]
 */
async function request(path, seconds, options = {}) {
  const response = await body(
    fetch(new URL(path, ROOT), { ...options, signal: AbortSignal.timeout(seconds * 1000) }),
    seconds,
  );
  if (response.ok) return response;
  const text = await response.text().catch(() => "");
  throw new ServerError(`the server responded with status ${response.status}${detail(text)}`);
}

/**
 * @template T
 * @param {Promise<T>} promise a response or its content
 * @param {number} seconds
 */
async function body(promise, seconds) {
  try {
    return await promise;
  } catch (error) {
    const late = error instanceof DOMException && error.name === "TimeoutError";
    const message = late ? `the server didn't respond within ${seconds} s` : "the server can't be reached";
    throw new ServerError(message, { lost: true, cause: error });
  }
}

/** @param {Response} response */
async function json(response) {
  const text = await body(response.text(), PREDICT_SECONDS);
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new ServerError(`the server's response isn't JSON (${reason(error)})`, { cause: error });
  }
}

/** @param {string} text */
function detail(text) {
  try {
    return `: ${JSON.parse(text).error}`;
  } catch {
    return "";
  }
}

/**
 * @param {number[]} numbers
 * @param {number[]} shape
 * @returns {unknown[]}
 */
function nested(numbers, [length, ...rest]) {
  if (!rest.length) return numbers;
  const size = numbers.length / length;
  return Array.from({ length }, (_, index) => nested(numbers.slice(index * size, (index + 1) * size), rest));
}
