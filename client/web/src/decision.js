/** The decision that scores stand for: the best label, or the labels of an image. */

import { INDEPENDENT, THRESHOLD } from "./preparation/rules.js";
import { percent } from "./texts.js";

/** @typedef {import("./preparation/contract.js").Contract} Contract */

/**
 * `labels` are the numbers of the labels, `text` names them, `score` is the best one's.
 *
 * @typedef {{labels: number[], text: string, score: number}} Decision
 */

/**
 * @param {Float32Array} scores
 * @param {Contract} contract
 * @returns {Decision}
 */
export function decide(scores, contract) {
  const [best] = ranked(scores, 1);
  const score = scores[best];
  if (contract.outputs !== INDEPENDENT) return { labels: [best], text: contract.labels[best], score };
  const labels = ranked(scores, scores.length).filter((index) => scores[index] >= THRESHOLD);
  const text = labels.map((index) => contract.labels[index]).join(", ");
  return { labels, text: text || `no label ≥ ${percent(THRESHOLD)}`, score };
}

/**
 * Return the numbers of the best labels, best first.
 *
 * @param {Float32Array} scores
 * @param {number} most
 */
export function ranked(scores, most) {
  const order = Array.from(scores.keys()).sort((one, other) => scores[other] - scores[one] || one - other);
  return order.slice(0, most);
}

/**
 * Return whether two decisions name the same labels.
 *
 * @param {Decision} one
 * @param {Decision} other
 */
export function agree(one, other) {
  const [labels, others] = [new Set(one.labels), new Set(other.labels)];
  return labels.size === others.size && [...labels].every((label) => others.has(label));
}
