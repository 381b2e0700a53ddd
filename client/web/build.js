/**
 * Build the page into `dist/`: bundles, LiteRT's WebAssembly files and licences, each stored only as gzip.
 *
 * The server sends the files with `Content-Encoding: gzip`. The folder replaces the previous one when it is complete.
 */

import { chmodSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";

import { build } from "esbuild";

const HERE = dirname(fileURLToPath(import.meta.url));
const DIST = join(HERE, "dist");
const LITERT = join(HERE, "node_modules", "@litertjs", "core", "wasm");
const VARIANTS = ["litert_wasm_internal", "litert_wasm_threaded_internal", "litert_wasm_compat_internal"];
const STATIC = ["index.html", "icon.svg"];

/** @param {string} entry @param {"esm" | "iife"} format */
async function bundle(entry, format) {
  const { outputFiles } = await build({
    absWorkingDir: HERE,
    entryPoints: [entry],
    bundle: true,
    format,
    legalComments: "none",
    logLevel: "warning",
    minify: true,
    target: "es2022",
    write: false,
  });
  return outputFiles[0].contents;
}

/** @param {Uint8Array} contents */
function compressed(contents) {
  const bytes = gzipSync(contents, { level: 9 });
  // The header's operating system: "unknown" on every system.
  bytes[9] = 255;
  return bytes;
}

const folder = mkdtempSync(join(HERE, "node_modules", ".dist-"));
try {
  chmodSync(folder, 0o755);
  mkdirSync(join(folder, "wasm"));
  /** @param {string} name @param {Uint8Array} contents */
  const put = (name, contents) => {
    const bytes = compressed(contents);
    writeFileSync(join(folder, `${name}.gz`), bytes);
    console.log(`${name.padEnd(44)} ${String(contents.length).padStart(9)} ${String(bytes.length).padStart(8)}`);
  };
  put("page.js", await bundle("src/page.js", "esm"));
  put("harness.js", await bundle("src/harness.js", "iife"));
  put("style.css", await bundle("style.css", "esm"));
  for (const name of STATIC) put(name, readFileSync(join(HERE, name)));
  for (const name of VARIANTS.flatMap((each) => [`${each}.js`, `${each}.wasm`])) {
    put(`wasm/${name}`, readFileSync(join(LITERT, name)));
  }
  put("THIRD_PARTY.txt", readFileSync(join(HERE, "third_party.txt")));
  rmSync(DIST, { recursive: true, force: true });
  renameSync(folder, DIST);
} catch (error) {
  rmSync(folder, { recursive: true, force: true });
  throw error;
}
