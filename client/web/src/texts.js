/** Texts for numbers and errors. */

/** @param {number} bytes */
export function size(bytes) {
  const kib = bytes / 1024;
  if (kib < 1000) return `${kib.toPrecision(3)} KiB`;
  return `${(kib / 1024).toPrecision(kib / 1024 < 1000 ? 3 : 4)} MiB`;
}

/** @param {number} value */
export function milliseconds(value) {
  return `${value.toFixed(value < 10 ? 2 : value < 100 ? 1 : 0)} ms`;
}

/**
 * @param {number} share
 * @param {number} [digits]
 */
export function percent(share, digits = 1) {
  return `${(100 * share).toFixed(digits)}%`;
}

/** @param {unknown} error */
export function reason(error) {
  return error instanceof Error ? error.message : String(error);
}

/** @param {string} text */
export function sentence(text) {
  const trimmed = text.trim().replace(/\.$/, "");
  return `${trimmed.charAt(0).toUpperCase()}${trimmed.slice(1)}.`;
}
