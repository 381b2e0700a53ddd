"""The built files of the web page, which `make web` writes: the page, LiteRT.js, and its WebAssembly.

Their sources are in `client/web`. All files are stored compressed by gzip, as they are sent.
"""

import gzip
import importlib.util
from pathlib import Path

from tfship.train.common.errors import UsageError

__all__ = ["HEADERS", "ROOT", "built", "files", "find", "media_type", "read"]

# Path of the page on a model server.
ROOT = "/web/"
_SUFFIX = ".gz"
_MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".json": "application/json",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
    ".wasm": "application/wasm",
}
# Nothing is loaded from elsewhere. WebAssembly needs its own permission, and LiteRT.js' threads a blob's worker. A page
# that is isolated from other origins may share memory between threads.
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; "
    "img-src 'self' blob: data:; connect-src 'self'; worker-src 'self' blob:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "cross-origin-embedder-policy": "require-corp",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


def find() -> Path | None:
    """Return the folder of the built files, None if they aren't built."""
    # Looked up without importing the client, which depends on this package.
    package = importlib.util.find_spec("tfship.client")
    if package is None or package.origin is None:
        return None
    folder = Path(package.origin).parent / "web" / "dist"
    return folder if folder.is_dir() else None


def built(what: str) -> Path:
    """Return the folder of the built files. Raises UsageError, which says that `what` needs them, if there is none."""
    folder = find()
    if folder is None:
        raise UsageError(
            f"{what} needs the page's files, which aren't built; run `make web` in a checkout of tfship"
        )
    return folder


def files(folder: Path) -> dict[str, Path]:
    """Return the paths of the files in `folder`, which are compressed by gzip, by their names on the page's server."""
    return {
        path.relative_to(folder).as_posix().removesuffix(_SUFFIX): path
        for path in sorted(folder.rglob(f"*{_SUFFIX}"))
    }


def read(path: Path) -> bytes:
    """Return the uncompressed content of a built file."""
    return gzip.decompress(path.read_bytes())


def media_type(name: str) -> str:
    """Return the media type of the file `name`, by its suffix."""
    return _MEDIA_TYPES.get(Path(name).suffix, "application/octet-stream")
