"""Images in a folder with a folder for each class, prepared by the input contract. Loads TensorFlow on first use."""

import contextlib
import os
import re
import threading
import unicodedata
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from tfship.export.preprocessing.input_contract import Contract, Scaling
from tfship.train.common.errors import DataError
from tfship.train.common.tensorflow_loader import tensorflow

__all__ = ["ImageFolder"]

_READABLE = frozenset({".png", ".jpg", ".jpeg"})
# Image formats that the signature `serving_bytes` doesn't accept; they must not be ignored silently.
_OTHERS = frozenset({".avif", ".bmp", ".gif", ".heic", ".heif", ".jfif", ".jp2", ".tif", ".tiff", ".webp"})
# Besides hidden folders: macOS adds this folder to its archives.
_NOT_CLASSES = frozenset({"__MACOSX"})
_MAX_THREADS = 4
# Larger files are decoded one at a time: a photograph of 12 megapixels needs some hundred megabytes of memory.
_LARGE_BYTES = 1 << 20
_BLOCK = 64
_SHOWN = 5


class ImageFolder:
    """The PNG and JPEG images below a folder, as pixels uint8, and their classes.

    With `labelled`, the folder must contain a folder for each class. If the contract's labels name the folders, they
    number the classes. Otherwise the sorted folder names do, as in Keras' `image_dataset_from_directory`. Without
    `labelled`, images may be at any depth, and each folder's images form a class. Other files and hidden ones are
    ignored. Raises DataError for other image formats, empty folders and any other structure.
    """

    def __init__(self, path: Path, rules: Contract, *, labelled: bool = True) -> None:
        self._path, self._rules = path, rules
        self.class_names: tuple[str, ...] | None = None
        self.truth: NDArray[np.int64] | None = None
        if labelled:
            self._read_classes()
            return
        self._images = _images(path)
        if not self._images:
            raise DataError(
                f"{path}: contains no PNG or JPEG images; expected a folder of them, or an .npz file"
            )
        parents = {each: number for number, each in enumerate(sorted({each.parent for each in self._images}))}
        if len(parents) > 1:
            self.truth = np.array([parents[each.parent] for each in self._images])

    def __len__(self) -> int:
        return len(self._images)

    values = "uint8 0…255"

    def describe(self, chosen: NDArray[np.int64]) -> dict[str, Any]:
        """Return the description of the images with indices `chosen` for cards."""
        return {"pictures": [self._images[index].relative_to(self._path).as_posix() for index in chosen]}

    def blocks(self, chosen: NDArray[np.int64] | None = None) -> Iterator[NDArray[np.uint8]]:
        """Yield blocks of pixels uint8 [rows, H, W, C], prepared by the contract, of all or of the `chosen` images.

        `chosen` are indices. Raises DataError with the file's path for an image that can't be read or prepared.
        """
        tf = tensorflow()
        from tfship.export.preprocessing.graph import preparation

        # Without labels and scaling, so that evaluation and calibration share one traced function.
        rules = self._rules
        plain = Scaling.of_range(0, 1, rules.channels)
        prepare = preparation(Contract("", (), *rules.shape, plain, rules.preparation))
        one_at_a_time = threading.Lock()

        def decode(path: Path) -> NDArray[np.uint8]:
            try:
                data = path.read_bytes()
            except OSError as error:
                raise DataError(f"{path}: can't be read ({error.strerror})") from error
            if not data:
                raise DataError(f"{path}: an empty file; expected a PNG or JPEG image")
            try:
                with one_at_a_time if len(data) > _LARGE_BYTES else contextlib.nullcontext():
                    pixels: NDArray[np.uint8] = prepare(tf.constant(data)).numpy()
            except tf.errors.OpError as error:
                raise DataError(f"{path}: {_reason(error.message)}; replace or remove the image") from error
            return pixels

        paths = self._images if chosen is None else [self._images[index] for index in chosen]
        with ThreadPoolExecutor(min(_MAX_THREADS, os.cpu_count() or 1)) as pool:
            for start in range(0, len(paths), _BLOCK):
                yield np.stack(list(pool.map(decode, paths[start : start + _BLOCK])))

    def _read_classes(self) -> None:
        folders = sorted(
            (each for each in _entries(self._path) if each.is_dir() and each.name not in _NOT_CLASSES),
            key=lambda each: each.name,
        )
        images = {folder: _images(folder) for folder in folders}
        self._check_structure(images)
        names = [_text(each) for each in folders]
        self.class_names, numbers = _numbered(names, self._rules.labels, self._path)
        self._images = [image for found in images.values() for image in found]
        self.truth = np.repeat(np.array(numbers, np.int64), [len(found) for found in images.values()])

    def _check_structure(self, images: dict[Path, list[Path]]) -> None:
        expected = "expected a folder with a folder of PNG or JPEG images for each class"
        if not any(images.values()):
            loose = any(each.suffix.lower() in _READABLE | _OTHERS for each in _entries(self._path))
            found = "contains images, but no folders of them" if loose else "contains no PNG or JPEG images"
            raise DataError(f"{self._path}: {found}; {expected}")
        names = ", ".join(each.name for each in list(images)[:_SHOWN])
        if not any(each.parent == folder for folder, found in images.items() for each in found):
            # Such as train/ and test/, which hold the classes' folders.
            raise DataError(
                f"{self._path}: its folders ({names}) contain folders of images; {expected}; give one of these "
                f"folders, such as {next(folder for folder, found in images.items() if found)}"
            )
        if len(images) == 1:
            raise DataError(
                f"{self._path}: contains a single folder, {names}; {expected}, of two classes or more"
            )
        for folder, inside in images.items():
            if not inside:
                raise DataError(
                    f"{folder}: contains no PNG or JPEG images; add images of this class, or remove the folder if the "
                    "model has no such class"
                )


def _text(folder: Path) -> str:
    """Return a folder's name in Unicode form NFC; macOS decomposes accented letters."""
    try:
        folder.name.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{folder}: its name isn't UTF-8; rename the folder") from error
    return unicodedata.normalize("NFC", folder.name)


def _reason(message: str) -> str:
    """Return an operation's error message, without the Python calls and the node that TensorFlow adds."""
    text = message.split("\n\t [[")[0].split("\n\n")[-1].removeprefix("assertion failed: ")
    return " ".join(re.sub(r"[\[\]]", "", text).split())


def _numbered(names: Sequence[str], labels: Sequence[str], path: Path) -> tuple[tuple[str, ...], list[int]]:
    """Return the classes' names by their numbers, and the number of each folder."""
    by_name = {unicodedata.normalize("NFC", each): number for number, each in enumerate(labels)}
    unknown = [each for each in names if each not in by_name]
    if labels and not unknown:
        return tuple(labels), [by_name[each] for each in names]
    if labels and len(unknown) < len(names):
        raise DataError(
            f"{path}: the folder {unknown[0]} isn't a label; expected one of {', '.join(labels[:_SHOWN])}"
            f"{' …' if len(labels) > _SHOWN else ''}; rename the folders to the labels"
        )
    if labels and len(names) != len(labels):
        raise DataError(
            f"{path}: contains {len(names)} folders, and there are {len(labels)} labels with other names; rename "
            "the folders to the labels"
        )
    return tuple(names), list(range(len(names)))


def _images(folder: Path) -> list[Path]:
    """Return the sorted paths of all images below a folder; DataError for images of other formats."""
    found = []
    for parent, folders, files in os.walk(folder, onerror=_refuse):
        folders[:] = [each for each in folders if not each.startswith(".") and each not in _NOT_CLASSES]
        for path in (Path(parent, each) for each in files if not each.startswith(".")):
            suffix = path.suffix.lower()
            if suffix in _OTHERS:
                raise DataError(
                    f"{path}: a {suffix[1:].upper()} image; expected PNG or JPEG; convert it, for example with "
                    f"Pillow's Image.open({path.name!r}).save({path.with_suffix('.png').name!r})"
                )
            if suffix in _READABLE and path.is_file():
                found.append(path)
    return sorted(found)


def _entries(path: Path) -> list[Path]:
    """Return the entries of a folder except hidden ones."""
    try:
        return [each for each in path.iterdir() if not each.name.startswith(".")]
    except OSError as error:
        _refuse(error)


def _refuse(error: OSError) -> NoReturn:
    raise DataError(f"{error.filename}: can't be read ({error.strerror})") from error
