"""Images and labels in `.npz` files, read in blocks of some megabytes."""

import contextlib
import functools
import math
import struct
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from tfship.export.preprocessing.input_contract import Contract
from tfship.train.common.errors import DataError
from tfship.train.common.files import DAMAGED

__all__ = ["ImageArchive"]

# Names of the arrays of images and labels in any case, as used by Keras' data sets, NumPy users and MedMNIST.
_EVALUATION = (
    ("x_test", "y_test"), ("x_val", "y_val"), ("x", "y"), ("images", "labels"),
    ("test_images", "test_labels"), ("val_images", "val_labels"),
)  # fmt: skip
_TRAINING = (("x_train", "y_train"), ("train_images", "train_labels"))

_BLOCK_BYTES = 16 << 20
_NPY = b"\x93NUMPY"
_WHITE = 255
# Resizing may move values of 0…1 outside this range by up to half a step of 1/255.
_TOLERANCE = 0.5 / _WHITE
# No model has more classes; larger numbers aren't class numbers, and some don't fit int64.
_MAX_CLASSES = 1 << 31
_SHOWN = 5


class ImageArchive:
    """The images of an `.npz` file as pixels uint8, and their labels.

    The images are [N, H, W, C] with the sizes in `rules`; for grey models, the axis of the channel may be missing. They
    are pixels (integers or whole floats of 0…255), floats of 0…1, which are rounded to 255ths, or booleans. `training`
    prefers training images if a file has several parts, and needs no labels. Raises DataError for anything else.
    """

    class_names = None

    def __init__(self, path: Path, rules: Contract, *, labelled: bool = True, training: bool = False) -> None:
        self._path, self._rules = path, rules
        names = _names(path)
        self._images, self._labels = self._choose_arrays(names, labelled=labelled, training=training)
        self._check_shape()

    def __len__(self) -> int:
        return self._images.shape[0]

    @functools.cached_property
    def truth(self) -> NDArray[np.int64] | None:
        """Class numbers [N], or 0/1 rows [N, labels]; None if the file has no labels. DataError for other values."""
        if self._labels is None:
            return None
        return _Labels(self._path, self._labels).truth(len(self))

    @property
    def values(self) -> str:
        """The stored dtype and range of the images for cards, such as "float32 0…1"."""
        dtype = self._images.dtype
        return f"{dtype} {'0…1' if dtype.kind == 'b' or self._is_share else '0…255'}"

    def describe(self, chosen: NDArray[np.int64]) -> dict[str, Any]:
        """Return the description of the images with indices `chosen` for cards."""
        return {"file": self._path.name, "array": self._images.name, "indices": chosen.tolist()}

    def blocks(self, chosen: NDArray[np.int64] | None = None) -> Iterator[NDArray[np.uint8]]:
        """Yield blocks of pixels uint8 [rows, H, W, C] of all images, or of the sorted indices `chosen`."""
        convert, start, highest = self._conversion(), 0, 0
        for block in self._images.blocks():
            if chosen is not None:
                within = chosen[(chosen >= start) & (chosen < start + len(block))] - start
                start += len(block)
                if not len(within):
                    continue
                block = block[within]
            pixels = convert(block).reshape(-1, *self._rules.shape)
            highest = max(highest, int(pixels.max()))
            yield pixels
        if highest == 1:
            raise self._error("contains no value above 1", "pixels of 0 to 255; multiply it by 255")

    def _choose_arrays(
        self, names: Sequence[str], *, labelled: bool, training: bool
    ) -> tuple["_Array", "_Array | None"]:
        """Return the arrays of images and of labels."""
        by_name = {each.lower(): each for each in reversed(names)}
        pairs = (*_TRAINING, *_EVALUATION) if training else (*_EVALUATION, *(() if labelled else _TRAINING))
        for x, y in pairs:
            if x in by_name and (y in by_name or not labelled):
                wanted = y in by_name and (labelled or training)
                labels = _Array(self._path, by_name[y]) if wanted else None
                return _Array(self._path, by_name[x]), labels
        if not labelled and len(names) == 1:
            return _Array(self._path, names[0]), None
        found = ", ".join(names[:_SHOWN]) + (" …" if len(names) > _SHOWN else "") or "nothing"
        expected = " or ".join(f"{x} and {y}" for x, y in _EVALUATION)
        if any(x in by_name for x, _ in _TRAINING):
            remedy = "save images that the model wasn't trained on under these names"
        else:
            remedy = "np.savez('eval.npz', x=images, y=class_numbers)"
        raise DataError(f"{self._path}: contains {found}; expected arrays {expected}; {remedy}")

    def _check_shape(self) -> None:
        """Raise DataError, with a remedy, for images of another shape."""
        shape, (height, width, channels) = self._images.shape, self._rules.shape
        name, sizes = self._images.name, shape[1:]
        if not shape or not shape[0]:
            raise DataError(f"{self._path}: {name} is {self._images}; expected one image or more")
        without_ones = [each for each in sizes if each != 1]
        if sizes == self._rules.shape or (
            channels == 1
            and len(sizes) in (2, 3)
            and without_ones == [each for each in (height, width) if each != 1]
        ):
            return
        wanted = f"pixels uint8 [N, {height}, {width}, {channels}]"
        model = "grey" if channels == 1 else "RGB"
        if sizes == (channels, height, width):
            remedy = f"put the channels last: {name}.transpose(0, 2, 3, 1)"
        elif shape == self._rules.shape:
            remedy = f"for a single image: {name}[np.newaxis]"
        elif len(shape) == 2 and sizes[0] == height * width * channels:
            remedy = f"{name}.reshape(-1, {height}, {width}, {channels})"
        elif len(sizes) == 3 and sizes[0] in (1, 3) and sizes[2] not in (1, 3, 4):
            remedy = f"put the channels last, {name}.transpose(0, 2, 3, 1), and change the size"
        elif len(sizes) == 3 and sizes[2] == 4:
            remedy = f"the model takes {model} images; remove the fourth channel, opacity: {name}[..., :3]"
        elif channels == 3 and (len(sizes) == 2 or sizes[2:] == (1,)):
            axes = "" if len(sizes) == 3 else "[..., np.newaxis]"
            remedy = (
                f"the images are grey, and the model takes RGB: np.repeat({name}{axes}, 3, -1) if it was "
                "trained on such images"
            )
        elif channels == 1 and sizes[2:] == (3,):
            remedy = "the images are RGB, and the model takes grey ones; convert them as for its training"
        elif len(sizes) in (2, 3):
            remedy = f"resize them as for the model's training; if it takes any size, give --size {sizes[0]},{sizes[1]}"
        else:
            remedy = "save them as np.savez('eval.npz', x=images, y=class_numbers)"
        raise DataError(f"{self._path}: {name} is {self._images}; expected {wanted}; {remedy}")

    def _conversion(self) -> Callable[[NDArray[Any]], NDArray[np.uint8]]:
        """Return the function that converts a block of values to pixels."""
        kind = self._images.dtype.kind
        if kind == "b":
            return lambda values: values.astype(np.uint8) * np.uint8(_WHITE)
        if self._is_share:
            return lambda values: np.rint(values.clip(0, 1).astype(np.float32) * _WHITE).astype(np.uint8)
        return lambda values: values.astype(np.uint8, copy=False)

    @functools.cached_property
    def _is_share(self) -> bool:
        """Whether the values are floats of 0…1 rather than pixels; DataError if they are neither."""
        dtype = self._images.dtype
        if dtype == np.uint8 or dtype.kind == "b":
            return False
        if dtype.kind not in "iuf":
            raise self._error(f"is {self._images}", "numbers: pixels uint8 of 0 to 255, or floats of 0 to 1")
        low, high, whole = math.inf, -math.inf, True
        for block in self._images.blocks():
            if not np.isfinite(block).all():
                raise self._error("contains NaN or infinite values", "pixels of 0 to 255")
            low, high = min(low, float(block.min())), max(high, float(block.max()))
            whole = whole and (dtype.kind != "f" or bool((block == np.rint(block)).all()))
        if dtype.kind == "f" and low >= -_TOLERANCE and high <= 1 + _TOLERANCE:
            return True
        if whole and low >= 0 and high <= _WHITE:
            return False
        found, name = f"is {dtype} of {low:g} to {high:g}", self._images.name
        expected = "pixels uint8 of 0 to 255, or floats of 0 to 1"
        if low >= 0 and _WHITE // 4 < high <= _WHITE:
            found, remedy = f"{found}, not all whole", f"round them: {name}.round().astype('uint8')"
        elif low >= 0 and dtype.kind in "iu" and high < 1 << 16:
            remedy = f"convert the 16-bit values: ({name} // 257).astype('uint8')"
        elif low >= -1 - _TOLERANCE and high <= 1 + _TOLERANCE:
            remedy = f"convert the values of -1 to 1: (({name} + 1) * 127.5).round().astype('uint8')"
        else:
            remedy = "save the images before they are scaled for the model"
        raise self._error(found, f"{expected}; {remedy}")

    def _error(self, found: str, expected: str) -> DataError:
        return DataError(f"{self._path}: {self._images.name} {found}; expected {expected}")


class _Labels:
    """An array of labels."""

    def __init__(self, path: Path, array: "_Array") -> None:
        self._path, self._array = path, array

    def truth(self, count: int) -> NDArray[np.int64]:
        """Return class numbers [count], or 0/1 rows [count, labels]."""
        array = self._array
        name, shape = array.name, array.shape
        expected = f"{count} class numbers, or {count} rows of 0 and 1"
        if not shape or shape[0] != count:
            raise DataError(f"{self._path}: {name} is {array} for {count} images; expected {expected}")
        if len(shape) > 2 or 0 in shape:
            raise DataError(f"{self._path}: {name} is {array}; expected {expected}, one for each image")
        if array.dtype.kind in "SU":
            raise DataError(
                f"{self._path}: {name} contains names; expected class numbers in the order of the model's outputs; "
                f"use np.searchsorted(names, {name}) for sorted names"
            )
        if array.dtype.kind not in "biuf":
            raise DataError(f"{self._path}: {name} is {array}; expected {expected}")
        values = np.concatenate(list(array.blocks()))
        if shape[1:] == (1,):
            values = values[:, 0]
        if values.dtype.kind == "f":
            values = values.astype(np.float64)
            self._check_whole(values, count)
        if values.min() < 0 or values.max() >= _MAX_CLASSES:
            raise DataError(
                f"{self._path}: {name} contains {values.min():g} to {values.max():g}; expected class numbers from 0 on"
            )
        numbers = values.astype(np.int64)
        if numbers.ndim == 1:
            return numbers
        if numbers.max() > 1:
            raise DataError(
                f"{self._path}: {name} contains rows of {shape[1]} numbers up to {numbers.max()}; expected {expected}"
            )
        # If each row has exactly one 1, the rows are one-hot class numbers.
        return numbers.argmax(1) if (numbers.sum(1) == 1).all() else numbers

    def _check_whole(self, values: NDArray[Any], count: int) -> None:
        name = self._array.name
        if not np.isfinite(values).all():
            raise DataError(f"{self._path}: {name} contains NaN or infinite values; expected class numbers")
        if (values == np.rint(values)).all():
            return
        if values.ndim == 2 and values.min() >= 0 and np.allclose(values.sum(1), 1, atol=1e-3):
            raise DataError(
                f"{self._path}: {name} contains probabilities; expected class numbers; use {name}.argmax(1)"
            )
        raise DataError(
            f"{self._path}: {name} contains regression targets, {values.min():g} to {values.max():g}; expected "
            f"{count} class numbers, or {count} rows of 0 and 1, since only classifiers can be verified"
        )


class _Array:
    """One array of an archive, which is read in blocks."""

    def __init__(self, path: Path, name: str) -> None:
        self._path, self.name = path, name
        with _reading(path), zipfile.ZipFile(path) as archive:
            member = archive.getinfo(f"{name}.npy")
            with archive.open(member) as file:
                self.shape, self._by_columns, self.dtype = _header(file)
                left = member.file_size - file.tell()
        if self.dtype.hasobject:
            raise DataError(
                f"{path}: {name} contains Python objects, which only pickle can read; expected numbers; save "
                f"np.stack({name}), or {name}.astype('int64')"
            )
        if math.prod(self.shape) * self.dtype.itemsize > left:
            raise DataError(f"{path}: {name} is truncated; expected {self}; save the file again")

    def __str__(self) -> str:
        return f"{self.dtype} {list(self.shape)}"

    def blocks(self) -> Iterator[NDArray[Any]]:
        """Yield the rows in order, in blocks of some megabytes."""
        row = math.prod(self.shape[1:]) * self.dtype.itemsize
        rows = max(1, _BLOCK_BYTES // max(1, row))
        with (
            _reading(self._path),
            zipfile.ZipFile(self._path) as archive,
            archive.open(f"{self.name}.npy") as file,
        ):
            if self._by_columns:  # a row's values aren't contiguous
                whole = npy.read_array(file)
                yield from (whole[start : start + rows] for start in range(0, len(whole), rows))
                return
            _header(file)
            for start in range(0, self.shape[0], rows):
                count = min(rows, self.shape[0] - start)
                data = file.read(count * row)
                yield np.frombuffer(data, self.dtype).reshape(count, *self.shape[1:])
            file.read(1)  # the end of the stream, where zipfile verifies the checksum


def _names(path: Path) -> list[str]:
    """Return the names of the arrays in an archive."""
    with _reading(path):
        with path.open("rb") as file:
            if file.read(len(_NPY)) == _NPY:
                raise DataError(
                    f"{path}: a .npy file, which contains one array and no labels; expected an .npz file; use "
                    "np.savez('eval.npz', x=images, y=class_numbers)"
                )
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    arrays = [each.removesuffix(".npy") for each in names if each.endswith(".npy")]
    if names and not arrays:
        raise DataError(
            f"{path}: an archive of {names[0]} and other files, not of arrays; expected an .npz file; unpack it and "
            "give the folder that contains a folder of images for each class"
        )
    return arrays


def _header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Return shape, whether the values are stored by columns, and dtype; leave `file` at the first value."""
    version = npy.read_magic(file)
    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"version {version} of the .npy format")
    shape, by_columns, dtype = readers[version](file)
    return shape, by_columns and len(shape) > 1, dtype


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise DataError(
            f"{path}: no such file or folder; expected labelled images, a folder with a folder for each class, or an "
            ".npz file"
        ) from None
    except (*DAMAGED, RuntimeError, ArithmeticError, MemoryError, struct.error) as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(
            f"{path}: not a readable .npz file ({reason}); expected a file written by np.savez"
        ) from error
