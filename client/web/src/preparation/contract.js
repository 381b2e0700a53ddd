// The input contract of a model: `contract.json`, read as in `export/preprocessing/input_contract.py`.

import { INDEPENDENT, PROBABILITIES_OF_CLASSES, SCHEMA } from "./rules.js";

/** @typedef {"digit" | "resize"} Preparation */
/** @typedef {"probabilities" | "independent"} Outputs */

/**
 * Inputs and outputs of one model. `scale` and `offset` contain one number for each channel, in the model's order.
 * @typedef {object} Contract
 * @property {string} model
 * @property {string[]} labels
 * @property {number} height
 * @property {number} width
 * @property {number} channels 1 (grey) or 3
 * @property {number[]} scale
 * @property {number[]} offset
 * @property {boolean} bgr whether the model's order is BGR
 * @property {Preparation} preparation
 * @property {Outputs} outputs
 * @property {number | null} tfliteBatch fixed number of images per call of the TFLite files, null for any number
 */

// Schemas before `SCHEMA` that are read. The older one has one range of values for all channels.
const [RANGED, CHANNELS] = [2, 3];
const WHITE = 255;

/**
 * Read a contract. Throws an Error for any other content.
 * @param {unknown} json the text of `contract.json`, or its parsed value
 * @returns {Contract}
 */
export function parse(json) {
  try {
    const value = typeof json === "string" ? JSON.parse(json) : json;
    const { schema } = object(value);
    if (schema !== SCHEMA && schema !== CHANNELS && schema !== RANGED) {
      throw new Error(`schema ${schema}; expected ${RANGED} to ${SCHEMA}`);
    }
    return read({ ...(schema === RANGED ? withChannels(object(value)) : object(value)), schema: SCHEMA });
  } catch (error) {
    const reason = error instanceof Error ? error.message : error;
    throw new Error(`not an input contract of this version (${reason}); export the model again`, { cause: error });
  }
}

/**
 * Return the model's values for prepared pixels of 0…255, in the model's order of channels. They are bit-identical to
 * `Scaling.apply`, which multiplies, divides and adds in 32 bits.
 * @param {Uint8Array} pixels of any number of images
 * @param {Contract} contract
 * @returns {Float32Array}
 */
export function values(pixels, contract) {
  const { channels } = contract;
  const tables = contract.scale.map((scale, channel) => table(scale, contract.offset[channel]));
  const scaled = new Float32Array(pixels.length);
  for (let channel = 0; channel < channels; channel++) {
    const from = contract.bgr ? channels - 1 - channel : channel;
    for (let at = 0; at < pixels.length; at += channels) {
      scaled[at + channel] = tables[channel][pixels[at + from]];
    }
  }
  return scaled;
}

/**
 * @param {number} scale
 * @param {number} offset
 * @returns {Float32Array} the value of each pixel value
 */
function table(scale, offset) {
  const span = Math.fround(scale * WHITE);
  return Float32Array.from({ length: WHITE + 1 }, (_, pixel) =>
    Math.fround(Math.fround(Math.fround(pixel * span) / WHITE) + Math.fround(offset)),
  );
}

/**
 * @param {Record<string, unknown>} value
 * @returns {Contract}
 */
function read(value) {
  const image = object(value.image);
  const [height, width, channels] = shape(image);
  /** @type {Contract} */
  const contract = {
    model: String(value.model),
    labels: list(value.labels, "string", "labels"),
    height,
    width,
    channels,
    scale: list(image.scale, "number", "scale"),
    offset: list(image.offset, "number", "offset"),
    bgr: image.channels === "BGR",
    preparation: choice(value.preparation, ["digit", "resize"], "preparation"),
    outputs: choice(value.outputs, [PROBABILITIES_OF_CLASSES, INDEPENDENT], "outputs"),
    tfliteBatch: value.tflite_batch === null ? null : Number(value.tflite_batch),
  };
  const { scale, offset } = contract;
  if (scale.length !== channels || offset.length !== channels || !equal(described(contract), value)) {
    throw new Error("its parts don't agree");
  }
  return contract;
}

/**
 * Convert a description of the older schema to that of the next one.
 * @param {Record<string, unknown>} value
 * @returns {Record<string, unknown>}
 */
function withChannels(value) {
  const { range, ...image } = object(value.image);
  const [low, high] = list(range, "number", "range");
  const [, , channels] = shape(image);
  return {
    ...value,
    image: { ...image, scale: Array(channels).fill((high - low) / WHITE), offset: Array(channels).fill(low) },
    outputs: PROBABILITIES_OF_CLASSES,
    tflite_batch: null,
  };
}

/**
 * Return the contents of `contract.json`.
 * @param {Contract} contract
 * @returns {Record<string, unknown>}
 */
function described(contract) {
  const { model, labels, height, width, channels, scale, offset, bgr, preparation, outputs } = contract;
  const image = { dtype: "float32", shape: [null, height, width, channels] };
  const probabilities = { dtype: "float32", shape: [null, labels.length] };
  const texts = { dtype: "string", shape: [null] };
  const order = channels === 1 ? "grey" : bgr ? "BGR" : "RGB";
  return {
    schema: SCHEMA,
    model,
    labels,
    image: { ...image, layout: "NHWC", channels: order, scale, offset },
    preparation,
    outputs,
    tflite_batch: contract.tfliteBatch,
    signatures: {
      serving_default: { inputs: { image }, outputs: { probabilities } },
      serving_uint8: { inputs: { image: { ...image, dtype: "uint8" } }, outputs: { probabilities } },
      serving_bytes: {
        inputs: { image_bytes: texts },
        outputs: { probabilities, label: texts, score: { dtype: "float32", shape: [null] } },
      },
      classify: {
        inputs: { inputs: texts },
        outputs: { classes: { dtype: "string", shape: [null, labels.length] }, scores: probabilities },
      },
    },
  };
}

/**
 * @param {unknown} one
 * @param {unknown} other
 * @returns {boolean} whether two values of JSON are equal; the order of an object's keys doesn't matter
 */
function equal(one, other) {
  if (typeof one !== "object" || typeof other !== "object" || !one || !other) return one === other;
  if (Array.isArray(one) !== Array.isArray(other)) return false;
  const [first, second] = [new Map(Object.entries(one)), new Map(Object.entries(other))];
  return first.size === second.size && [...first].every(([key, value]) => equal(value, second.get(key)));
}

/**
 * @param {unknown} value
 * @returns {Record<string, unknown>}
 */
function object(value) {
  if (typeof value !== "object" || !value || Array.isArray(value)) throw new Error("an object is missing");
  return Object.fromEntries(Object.entries(value));
}

/**
 * @param {Record<string, unknown>} image
 * @returns {number[]} height, width and channels
 */
function shape(image) {
  const [count, ...sides] = Array.isArray(image.shape) ? image.shape : [];
  const [, , channels] = list(sides, "number", "shape");
  if (count !== null || sides.length !== 3 || !sides.every((side) => side > 0) || ![1, 3].includes(channels)) {
    throw new Error("shape isn't [null, height, width, 1 or 3]");
  }
  return sides;
}

/**
 * @template {"number" | "string"} Kind
 * @param {unknown} value
 * @param {Kind} kind
 * @param {string} name
 * @returns {(Kind extends "number" ? number : string)[]}
 */
function list(value, kind, name) {
  if (!Array.isArray(value) || !value.every((each) => typeof each === kind)) {
    throw new Error(`${name} isn't a list of ${kind}s`);
  }
  return value;
}

/**
 * @template {string} Choice
 * @param {unknown} value
 * @param {Choice[]} choices
 * @param {string} name
 * @returns {Choice}
 */
function choice(value, choices, name) {
  const found = choices.find((each) => each === value);
  if (found === undefined) throw new Error(`${name} ${value}; expected ${choices.join(" or ")}`);
  return found;
}
