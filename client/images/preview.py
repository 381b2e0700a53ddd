"""What the model saw: a prepared picture, drawn in a terminal and kept as a PNG."""

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

from tfship.client.images.sources import STDIN, PictureSource
from tfship.train.common.errors import UsageError
from tfship.train.common.files import write_bytes

__all__ = ["Kept", "draw", "drawing", "png"]

# From paper to ink, or from dark to light.
_SHADES = np.array(list(" .:-=+*#%@"))
# A drawing needs no more, however wide the terminal.
_MOST_COLUMNS = 80


class Kept:
    """Writes pictures as PNG to `path`: a `.png` file for a single one, or a folder, made if need be.

    There, with the flag `--seen`, a picture `five.jpg` becomes `five.seen.png`, and `five-2.seen.png` where the same
    run has written that. Raises UsageError, which names the `flag`, for one file for several pictures, or in the place
    of one of `sources`, which is never written.
    """

    def __init__(self, path: Path, sources: Iterable[PictureSource], flag: str = "--seen") -> None:
        self._suffix = f".{flag.removeprefix('--')}.png"
        inputs = list(sources)
        paths = [each.path for each in inputs if each.path is not None]
        self._inputs = {place for path in paths for place in (_place(path), os.path.realpath(path))}
        self._written: set[str] = set()
        self._file = path if path.suffix.lower() == ".png" and not path.is_dir() else None
        self._folder = path.parent if self._file else path
        if self._file and len(inputs) > 1:
            raise UsageError(f"{flag} {path}: one file for {len(inputs)} pictures; expected a folder")
        if self._file and _place(self._file) in self._inputs:
            raise UsageError(
                f"{flag} {path}: the picture itself, which stays as it is; expected another file"
            )
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(
                f"{flag} {path}: {self._folder} can't be a folder ({error.strerror}); expected a folder or a .png file"
            ) from None

    def write(self, name: str, data: bytes) -> Path:
        """Write what was made, as PNG, of the picture called `name`; return the file."""
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
    _picture(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def draw(pixels: NDArray[np.uint8], stream: TextIO) -> None:
    """Print pixels uint8 [height, width, channels]: in colour on a terminal, unless NO_COLOR is set, else in shades."""
    terminal = stream.isatty() and os.environ.get("TERM") != "dumb" and not os.environ.get("NO_COLOR")
    colour = terminal and "utf" in (stream.encoding or "").lower()
    columns = shutil.get_terminal_size().columns if stream.isatty() else _MOST_COLUMNS
    print(drawing(pixels, min(columns, _MOST_COLUMNS), colour=colour), file=stream, flush=True)


def drawing(pixels: NDArray[np.uint8], columns: int, *, colour: bool) -> str:
    """Return pixels uint8 [height, width, channels] as text of at most `columns`, a character for two rows of pixels.

    In colour it is the upper half block, in 24-bit colours by ANSI's escapes; else one of ten shades of ASCII.
    """
    height, width = pixels.shape[:2]
    if width > columns:
        size = (columns, max(1, round(height * columns / width)))
        pixels = np.asarray(_picture(pixels).resize(size, Image.Resampling.BOX))
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


def _picture(pixels: NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def _place(path: Path) -> str:
    """Return where a file of this path is put: links are followed to its folder, not from its name."""
    return str(Path(os.path.realpath(path.parent), path.name))


def _stem(name: str) -> str:
    if name == STDIN:
        return "stdin"
    if "://" in name:
        return PurePosixPath(unquote(urlsplit(name).path).replace("\0", "")).stem or "picture"
    return Path(name).stem
