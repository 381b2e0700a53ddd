"""Evaluation images with labels, from folders and `.npz` files, and class names from text files."""

import codecs
import hashlib
import math
import os
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfship.export.preprocessing.input_contract import Contract
from tfship.export.sources.image_archive import ImageArchive
from tfship.export.sources.image_folder import ImageFolder
from tfship.train.common.errors import DataError, UsageError
from tfship.train.common.progress import Progress

__all__ = ["Images", "find", "pixels", "read", "read_labels"]

# Larger arrays of pixels are kept in a temporary file, since a data set may be larger than the memory.
_IN_MEMORY = 256 << 20
# In bytes; larger than the names of any model's classes.
_MAX_TEXT = 16 << 20
# UTF-32 first, since its mark begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


@dataclass(frozen=True)
class Images:
    """Images with labels.

    `pixels` are uint8 [N, H, W, C]; large arrays are read-only, in a temporary file. `truth` contains class numbers
    [N], or 0/1 rows [N, labels] if an image may have several labels; it is empty without labels. `class_names` are the
    names of the classes in order, None if the data has none. `data` is the description for cards: `label`, `files`,
    `sha256` (of pixels and labels), `test` (the number of images) and `values` (the stored dtype and range).
    """

    data: dict[str, Any]
    pixels: NDArray[np.uint8]
    truth: NDArray[np.int64]
    class_names: tuple[str, ...] | None = None

    @property
    def labelled(self) -> bool:
        """Whether the images have labels."""
        return len(self.truth) == len(self.pixels)


def find(
    path: Path, rules: Contract, *, labelled: bool = True, training: bool = False
) -> ImageFolder | ImageArchive:
    """Return the images of a folder or an `.npz` file, not yet read.

    `rules` is the contract with size, channels and preparation; if it has labels, they number the folders of the same
    names. `training` prefers the training images of a file. Raises DataError if `path` contains no images.
    """
    if path.is_dir():
        return ImageFolder(path, rules, labelled=labelled)
    return ImageArchive(path, rules, labelled=labelled, training=training)


def read(path: Path, rules: Contract, *, labelled: bool = True) -> Images:
    """Read the images of a folder or an `.npz` file, as described for `find`, and the labels if `labelled`.

    Raises DataError for images and labels that can't be used, with what was found and a remedy.
    """
    found = find(path, rules, labelled=labelled)
    truth = found.truth if labelled and found.truth is not None else np.empty(0, np.int64)
    hasher = hashlib.sha256()
    stored = pixels(found, path, hasher=hasher)
    hasher.update(truth.astype("<i8").tobytes())
    name = path.resolve().name
    data = {
        "label": name,
        "files": [name],
        "sha256": hasher.hexdigest(),
        "test": len(stored),
        "values": found.values,
    }
    return Images(data, stored, truth, found.class_names)


def pixels(
    found: ImageFolder | ImageArchive,
    path: Path,
    chosen: NDArray[np.int64] | None = None,
    hasher: Any = None,
) -> NDArray[np.uint8]:
    """Return pixels uint8 [N, H, W, C] of all images, or of the sorted indices `chosen`, with progress.

    Large arrays are kept in an unnamed temporary file, whose space is freed with the array. `hasher` is updated with
    the bytes. Raises DataError if there is no space for the file.
    """
    count = len(found) if chosen is None else len(chosen)

    def blocks() -> Iterator[NDArray[np.uint8]]:
        with Progress(f"reading {path.name}", count, "images") as progress:
            for block in found.blocks(chosen):
                if hasher is not None:
                    hasher.update(np.ascontiguousarray(block).data)
                yield block
                progress.advance(len(block))

    reading = blocks()
    first = next(reading)
    shape = (count, *first.shape[1:])
    if math.prod(shape) <= _IN_MEMORY:
        return np.concatenate([first, *reading])
    folder = _temporary()
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(np.ascontiguousarray(first).data)
            for block in reading:
                file.write(np.ascontiguousarray(block).data)
            file.flush()
            return np.memmap(file, np.uint8, "r", shape=shape)
    except OSError as error:
        raise DataError(
            f"{path}: its {count:,} images need {math.prod(shape) / 1e9:.1f} GB in {folder} ({error.strerror}); free "
            "some space, or set TMPDIR to another folder"
        ) from error


def read_labels(path: Path) -> tuple[str, ...]:
    """Return the class names in a text file, one a line; UsageError if they can't be read or aren't unique.

    The text is UTF-8, or UTF-16 with a byte-order mark. Blank lines and surrounding spaces are ignored. If every line
    begins with its number ("0 cat", "1 dog", as Teachable Machine writes them), the numbers are removed.
    """
    names = [line.strip() for line in re.split(r"\r\n|\r|\n", _text(path)) if line.strip()]
    if not names:
        raise UsageError(f"{path}: an empty file; expected a class name on each line")
    parts = [each.split(maxsplit=1) for each in names]
    if all(len(each) == 2 and each[0] == str(number) for number, each in enumerate(parts)):
        names = [name for _, name in parts]
    first: dict[str, int] = {}
    for number, name in enumerate(names):
        if name in first:
            raise UsageError(
                f"{path}: contains {name!r} twice, as class {first[name]} and as class {number}; expected a "
                "different name for each class"
            )
        first[name] = number
    return tuple(names)


def _text(path: Path) -> str:
    expected = "expected a text file, UTF-8 or UTF-16, with a class name on each line"
    try:
        if path.stat().st_size > _MAX_TEXT:
            raise UsageError(f"{path}: larger than {_MAX_TEXT >> 20} MiB; {expected}")
        data = path.read_bytes()
        encoding = next((name for mark, name in _MARKS if data.startswith(mark)), "utf-8")
        text = data.decode(encoding)
    except OSError as error:
        raise UsageError(f"{path}: can't be read ({error.strerror}); {expected}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: can't be read ({error}); {expected}; save it again as UTF-8") from error
    if "\0" in text:
        raise UsageError(
            f"{path}: can't be read (it contains zero bytes); {expected}; save it again as UTF-8"
        )
    return text


def _temporary() -> str:
    """Return the folder for large temporary files: TMPDIR, or /var/tmp, since /tmp may be in memory.

    Source: https://www.freedesktop.org/software/systemd/man/latest/file-hierarchy.html
    """
    large = "/var/tmp"  # noqa: S108 - the file has no name there
    return large if "TMPDIR" not in os.environ and os.access(large, os.W_OK) else tempfile.gettempdir()
