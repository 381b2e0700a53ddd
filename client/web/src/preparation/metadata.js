// Metadata of encoded images: format, size and EXIF orientation.
//
// Browsers get images without EXIF and colour profiles. So no browser turns the image or converts its colours, which
// Pillow doesn't do either.

/**
 * @typedef {object} Metadata
 * @property {string} kind the format, such as "image/jpeg" or "a HEIC image"; empty if it is unknown
 * @property {number} width 0 if it is unknown before decoding
 * @property {number} height
 * @property {number} orientation by EXIF, 1 to 8; others mean 1
 * @property {Uint8Array<ArrayBuffer>[]} parts the file without metadata
 */

const HEIC = ["heic", "heix", "heim", "heis", "hevc", "mif1", "msf1"];
// Formats by their first bytes, after `at` bytes.
const KINDS = [
  { kind: "image/png", at: 0, start: ["\x89PNG\r\n\x1a\n"] },
  { kind: "image/jpeg", at: 0, start: ["\xff\xd8\xff"] },
  { kind: "image/gif", at: 0, start: ["GIF87a", "GIF89a"] },
  { kind: "image/bmp", at: 0, start: ["BM"] },
  { kind: "image/webp", at: 8, start: ["WEBP"] },
  { kind: "a TIFF image", at: 0, start: ["II*\0", "MM\0*"] },
  { kind: "a HEIC image", at: 4, start: HEIC.map((brand) => `ftyp${brand}`) },
  { kind: "an AVIF image", at: 4, start: ["ftypavif", "ftypavis"] },
  { kind: "a JPEG 2000 image", at: 4, start: ["jP  "] },
  { kind: "a JPEG XL image", at: 4, start: ["JXL "] },
];
const EXIF = "Exif\0\0";
const ORIENTATION_TAG = 0x0112;
const [SHORT, LONG] = [3, 4];
const [START_OF_SCAN, APP1, APP15, APP14] = [0xda, 0xe1, 0xef, 0xee];
// Markers of frames, which contain the size, and markers among them that aren't.
const [FIRST_FRAME, LAST_FRAME, NO_FRAMES] = [0xc0, 0xcf, [0xc4, 0xc8, 0xcc]];

/**
 * @param {Uint8Array<ArrayBuffer>} bytes an encoded image
 * @returns {Metadata}
 */
export function metadata(bytes) {
  const kind = KINDS.find(({ at, start }) => start.some((each) => text(bytes, at, each.length) === each))?.kind ?? "";
  if (kind === "image/jpeg") return { kind, ...jpeg(bytes) };
  if (kind === "image/webp") return { kind, ...webp(bytes) };
  return { kind, width: 0, height: 0, orientation: 1, parts: [bytes] };
}

/**
 * Return the orientation of EXIF data (EXIF 2.32, 4.6.4), 1 if there is none.
 * @param {Uint8Array} exif a TIFF header and a directory
 * @returns {number}
 */
export function orientationOf(exif) {
  const little = text(exif, 0, 4) === "II*\0";
  if (!little && text(exif, 0, 4) !== "MM\0*") return 1;
  const view = new DataView(exif.buffer, exif.byteOffset, exif.length);
  try {
    const directory = view.getUint32(4, little);
    const count = view.getUint16(directory, little);
    for (let at = directory + 2; at < directory + 2 + 12 * count; at += 12) {
      if (view.getUint16(at, little) !== ORIENTATION_TAG) continue;
      const type = view.getUint16(at + 2, little);
      if (type === SHORT) return view.getUint16(at + 8, little);
      return type === LONG ? view.getUint32(at + 8, little) : 1;
    }
  } catch (error) {
    // An offset beyond the end.
    if (!(error instanceof RangeError)) throw error;
  }
  return 1;
}

/**
 * Return characters of one byte each.
 * @param {Uint8Array} bytes
 * @param {number} at
 * @param {number} length
 * @returns {string}
 */
export function text(bytes, at, length) {
  return String.fromCharCode(...bytes.subarray(at, at + length));
}

/**
 * @param {Uint8Array<ArrayBuffer>} bytes
 * @returns {Omit<Metadata, "kind">}
 */
function jpeg(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const parts = [bytes.subarray(0, 2)];
  let [width, height, orientation] = [0, 0, 0];
  let at = 2;
  while (at + 4 <= bytes.length && bytes[at] === 0xff) {
    const marker = bytes[at + 1];
    // Markers may be preceded by fill bytes.
    if (marker === 0xff) {
      at++;
      continue;
    }
    if (marker === START_OF_SCAN) break;
    const end = at + 2 + view.getUint16(at + 2);
    if (marker >= FIRST_FRAME && marker <= LAST_FRAME && !NO_FRAMES.includes(marker) && end <= bytes.length) {
      [height, width] = [view.getUint16(at + 5), view.getUint16(at + 7)];
    }
    if (marker === APP1 && text(bytes, at + 4, EXIF.length) === EXIF) {
      orientation ||= orientationOf(bytes.subarray(at + 4 + EXIF.length, end));
    }
    // Adobe's segment, APP14, names the colours' encoding, and JFIF's is APP0.
    if (marker < APP1 || marker > APP15 || marker === APP14) parts.push(bytes.subarray(at, end));
    at = end;
  }
  parts.push(bytes.subarray(at));
  return { width, height, orientation: orientation || 1, parts };
}

/**
 * @param {Uint8Array<ArrayBuffer>} bytes
 * @returns {Omit<Metadata, "kind">}
 */
function webp(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const parts = [bytes.slice(0, 12)];
  let [width, height, orientation] = [0, 0, 1];
  let at = 12;
  while (at + 8 <= bytes.length) {
    const name = text(bytes, at, 4);
    // Chunks begin at even places.
    const end = Math.min(bytes.length, at + 8 + view.getUint32(at + 4, true) + (bytes[at + 4] & 1));
    const content = bytes.slice(at + 8, end);
    if (name === "EXIF") {
      const prefix = text(content, 0, EXIF.length) === EXIF ? EXIF.length : 0;
      orientation = orientationOf(content.subarray(prefix));
    }
    if (!["EXIF", "ICCP", "XMP "].includes(name)) {
      const chunk = bytes.slice(at, end);
      if (name === "VP8X" && chunk.length >= 18) {
        const bits = view.getUint32(at + 12, true);
        [width, height] = [(bits & 0xffffff) + 1, (view.getUint32(at + 14, true) >> 8) + 1];
        // No profile, EXIF or XMP.
        chunk[8] &= ~0b101100;
      }
      parts.push(chunk);
    }
    at = end;
  }
  const length = parts.reduce((sum, part) => sum + part.length, 0) - 8;
  new DataView(parts[0].buffer).setUint32(4, length, true);
  return { width, height, orientation, parts };
}
