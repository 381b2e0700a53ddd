"""Previews of prepared images, the model's input, as drawings in a terminal and as PNG files."""

import io
import os
import shutil
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import TextIO
from urllib.parse import unquote, urlsplit

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tfship.client.images.sources import STDIN, ImageSource
from tfship.train.common.errors import UsageError
from tfship.train.common.files import write_bytes

__all__ = ["PngWriter", "draw", "drawing", "png"]

# From dark to light, which for prepared digits is from paper to ink.
_SHADES = np.array(list(" .:-=+*#%@"))
# Wider terminals aren't filled.
_MOST_COLUMNS = 80


class PngWriter:
    """Writes images as PNG to `path`: a `.png` file for one image, or a folder, which is created if necessary.

    In a folder, with the flag `--seen`, the image `five.jpg` becomes `five.seen.png`, or `five-2.seen.png` if this run
    has written the former. Raises UsageError, which names the `flag`, for one file for several images, and for a file
    among `sources`, which are never overwritten.
    """

    def __init__(self, path: Path, sources: Iterable[ImageSource], flag: str = "--seen") -> None:
        self._suffix = f".{flag.removeprefix('--')}.png"
        inputs = list(sources)
        paths = [each.path for each in inputs if each.path is not None]
        self._inputs = {place for path in paths for place in (_place(path), os.path.realpath(path))}
        self._written: set[str] = set()
        self._file = path if path.suffix.lower() == ".png" and not path.is_dir() else None
        self._folder = path.parent if self._file else path
        if self._file and len(inputs) > 1:
            raise UsageError(f"{flag} {path}: one file for {len(inputs)} images; expected a folder")
        if self._file and _place(self._file) in self._inputs:
            raise UsageError(
                f"{flag} {path}: the input image, which is never overwritten; expected another file"
            )
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(
                f"{flag} {path}: can't create folder {self._folder} ({error.strerror}); give a folder or a .png file"
            ) from None

    def write(self, name: str, data: bytes) -> Path:
        """Write `data`, the PNG made from the image called `name`, and return its path."""
        path = self._file or self._free(_stem(name))
        write_bytes(path, data)
        return path

    def _free(self, stem: str) -> Path:
        number = 1
        while True:
            path = self._folder / f"{stem}{f'-{number}' if number > 1 else ''}{self._suffix}"
            place = _place(path)
            if place not in self._written and place not in self._inputs:
                self._written.add(place)
                return path
            number += 1


def png(pixels: NDArray[np.uint8]) -> bytes:
    """Return pixels uint8 [height, width, channels] as PNG."""
    buffer = io.BytesIO()
    _pillow(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def draw(pixels: NDArray[np.uint8], stream: TextIO) -> None:
    """Print pixels uint8 [height, width, channels], in colour on a terminal unless NO_COLOR is set, else as ASCII."""
    terminal = stream.isatty() and os.environ.get("TERM") != "dumb" and not os.environ.get("NO_COLOR")
    colour = terminal and "utf" in (stream.encoding or "").lower()
    columns = shutil.get_terminal_size().columns if stream.isatty() else _MOST_COLUMNS
    print(drawing(pixels, min(columns, _MOST_COLUMNS), colour=colour), file=stream, flush=True)


def drawing(pixels: NDArray[np.uint8], columns: int, *, colour: bool) -> str:
    """Return pixels uint8 [height, width, channels] as text of at most `columns`; each character shows two rows.

    In colour, a character is the upper half block in 24-bit colours (ANSI escapes), else one of ten ASCII shades.
    """
    height, width = pixels.shape[:2]
    if width > columns:
        size = (columns, max(1, round(height * columns / width)))
        pixels = np.asarray(_pillow(pixels).resize(size, Image.Resampling.BOX))
        pixels = pixels.reshape(*pixels.shape[:2], -1)
    if len(pixels) % 2:
        pixels = np.concatenate([pixels, np.zeros_like(pixels[:1])])
    upper, lower = pixels[::2], pixels[1::2]
    if not colour:
        light = (upper.astype(np.float64) + lower).mean(-1) / (2 * 256)
        return "\n".join("".join(row).rstrip() for row in _SHADES[(light * len(_SHADES)).astype(int)])
    repeats = (1, 1, 3 // pixels.shape[-1])
    rows = zip(np.tile(upper, repeats).tolist(), np.tile(lower, repeats).tolist(), strict=True)
    return "\n".join(
        "".join(
            f"\x1b[38;2;{';'.join(map(str, top))};48;2;{';'.join(map(str, bottom))}m▀"
            for top, bottom in zip(*row, strict=True)
        )
        + "\x1b[0m"
        for row in rows
    )


def _pillow(pixels: NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def _place(path: Path) -> str:
    """Return the path with its folder's symbolic links resolved, but not the file's own."""
    return str(Path(os.path.realpath(path.parent), path.name))


def _stem(name: str) -> str:
    if name == STDIN:
        return "stdin"
    if "://" in name:
        return PurePosixPath(unquote(urlsplit(name).path).replace("\0", "")).stem or "image"
    return Path(name).stem
