"""From a picture as a person has it to the tensor that the model takes, by the model's input contract.

`export.contract` says what is done and why; `export.prepare` does the same in the graph of `serving_bytes`. Whatever
is decided here is decided by whole numbers, or by the same operations of float64: both find the same ink.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from client import decoding
from client.decoding import Picture
from export import contract as rules
from export.contract import Contract
from train.errors import DataError

__all__ = ["SUFFIXES", "from_bytes", "from_file", "pixels"]

# What a folder is searched for.
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"})

_Whole = NDArray[np.int64]
# Halves that come out exactly here may miss by 1e-13 in the graph's arithmetic: none is left exactly half.
_NUDGE = 0.5 + 1e-6


def from_file(path: Path, contract: Contract) -> NDArray[np.float32]:
    """Read a picture file into a tensor float32 [height, width, channels] of the contract's values.

    Raises DataError, naming the file, if it isn't there, is no picture or shows nothing.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error.strerror})") from error
    return from_bytes(data, contract, str(path))


def from_bytes(data: bytes, contract: Contract, name: str = "picture") -> NDArray[np.float32]:
    """Decode an encoded picture (PNG, JPEG …, any size and mode) into a tensor as `from_file` does."""
    tensor: NDArray[np.float32] = contract.scale(pixels(data, contract, name)[np.newaxis])[0]
    return tensor


def pixels(data: bytes, contract: Contract, name: str = "picture") -> NDArray[np.uint8]:
    """Decode and prepare an encoded picture as pixels uint8 [height, width, channels]."""
    with decoding.opened(data, name) as picture:
        if contract.preparation == "digit":
            grey = picture.grey()
        else:
            return _resized(picture, contract)
    return _digit(grey, contract, name)[..., np.newaxis]


def _resized(picture: Picture, contract: Contract) -> NDArray[np.uint8]:
    height, width = picture.shape
    to_height, to_width = (
        (contract.width, contract.height) if picture.turned else (contract.height, contract.width)
    )
    rows = _resampling(height, 0, height, to_height, _triangle)
    columns = _resampling(width, 0, width, to_width, _triangle)
    stretched = np.zeros((contract.channels, to_height, to_width))
    for part, strip in picture.strips(contract.channels):
        for channel in range(contract.channels):
            stretched[channel] += rows[:, part] @ strip[..., channel].astype(np.float64) @ columns.T
    return _to_pixels(picture.upright(np.moveaxis(stretched, 0, -1)))


def _digit(grey: NDArray[np.uint8], contract: Contract, name: str) -> NDArray[np.uint8]:
    """Return the digit as MNIST shows it, uint8 [height, width]."""
    box = contract.height * rules.BOX // rules.FIELD
    if grey.shape == contract.shape[:2] and _is_prepared(grey, box):
        return grey  # any change could only do harm
    small = _reduced(grey)
    found = [each for each in (_written(small), _written(255 - small)) if each is not None]
    if not found:
        raise DataError(f"{name}: nothing to see on it; expected a digit in one ink on plain paper")
    # The first of equals, which is dark ink.
    strokes = max(found, key=lambda each: each.distinct).strokes
    return _normalised(_thickened(strokes), contract, box)


def _is_prepared(grey: NDArray[np.uint8], box: int) -> bool:
    """Tell whether a picture of the model's size has black paper and a digit of the box's size, or nearly."""
    paper = np.median(np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]]))
    if paper != 0 or not grey.any():
        return False
    top, bottom, left, right = _extent(grey > 0)
    return abs(max(bottom - top, right - left) - box) <= rules.SLACK


def _reduced(grey: NDArray[np.uint8]) -> _Whole:
    """Return the picture at a size that it is looked at in, of values 0…255."""
    factor = -(-max(grey.shape) // rules.WORKING)
    height, width = (side // factor for side in grey.shape)
    blocks = grey[: height * factor, : width * factor].reshape(height, factor, width, factor)
    sums, area = blocks.sum((1, 3), dtype=np.int64), factor * factor
    small = ((2 * sums + area) // (2 * area)).astype(np.uint8)
    if min(small.shape) >= rules.SPECKLED:
        small = np.asarray(Image.fromarray(small).filter(ImageFilter.MedianFilter(3)))
    whole: _Whole = small.astype(np.int64)
    return whole


@dataclass(frozen=True)
class _Ink:
    """A digit: its strokes [h, w] of 0…255, and by how much they stand out."""

    strokes: _Whole
    distinct: float


def _written(grey: _Whole) -> _Ink | None:
    """Return the digit in dark ink, if there is one."""
    if not grey.size:
        return None
    window = _window_of(grey)
    contrast = _window(_window(grey, window, np.maximum), window, np.minimum) - grey
    local = _window(contrast, window, np.maximum)
    ink = _Components(_is_ink(contrast, local, int(contrast.max())))
    if ink.inner.any() and ink.outer.any():
        inside = np.where(_window(ink.of(ink.outer), 2 * rules.CELL + 1, np.maximum), 0, contrast)
        if inside.max() >= rules.FAINTEST:
            nearby = _window(inside, window, np.maximum)
            again = _Components(_is_ink(contrast, nearby, int(inside.max())))
            if again.inner.any():
                ink, local = again, nearby
    chosen = ink.inner if ink.inner.any() else ink.outer
    weights = np.where(chosen, ink.sums(contrast), 0)
    # The largest first; the first of equals.
    for label in np.argsort(-weights, kind="stable")[: rules.CANDIDATES]:
        if not weights[label]:
            break
        distinct = _distinct(grey, contrast, ink, label)
        if distinct >= rules.FAINTEST:
            digit = _window(ink.of(ink.parts(label) & chosen), 3, np.maximum)
            share = contrast / np.maximum(local, 1)
            strokes = np.rint(((share - rules.PALE) / (rules.FULL - rules.PALE)).clip(0, 1) * 255)
            return _Ink(np.where(digit, strokes, 0).astype(np.int64), distinct)
    return None


def _window_of(grey: _Whole) -> int:
    return max(3, int(rules.WINDOW * min(grey.shape)) | 1)


def _is_ink(contrast: _Whole, local: _Whole, strongest: int) -> NDArray[np.bool_]:
    above = (contrast > rules.INK * strongest) & (contrast > rules.LOCAL * local)
    return above & (contrast >= rules.FAINTEST)


class _Components:
    """The components of ink [h, w], by label. Label 0 is none, and not all others are of one."""

    def __init__(self, ink: NDArray[np.bool_]) -> None:
        cell = rules.CELL if min(ink.shape) >= rules.SPECKLED else 1
        height, width = ink.shape
        padded = np.pad(ink, ((0, -height % cell), (0, -width % cell)))
        cells = np.asarray(padded.reshape(padded.shape[0] // cell, cell, -1, cell).any((1, 3)))
        labels = _labelled(cells).repeat(cell, 0).repeat(cell, 1)[:height, :width]
        self.labels = np.where(ink, labels, 0)
        self._count = cells.size + 1
        self.areas = self.sums(np.ones_like(self.labels))
        self.areas[0] = 0
        edge = np.zeros(self._count, np.bool_)
        for side in (self.labels[0], self.labels[-1], self.labels[:, 0], self.labels[:, -1]):
            edge[side] = True
        there = self.areas > 0
        self.outer = there & edge
        self.inner = there & ~edge & (self.areas > rules.SPECK * self.areas[self.outer].max(initial=0))
        self.tops, self.bottoms = self._ends(0)
        self.lefts, self.rights = self._ends(1)

    def of(self, labels: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return where the components of these labels are."""
        return labels[self.labels]

    def sums(self, values: _Whole) -> _Whole:
        """Return the sum of values [h, w] within each label."""
        return np.bincount(self.labels.ravel(), values.ravel(), self._count).astype(np.int64)

    def parts(self, label: int) -> NDArray[np.bool_]:
        """Return the labels of what belongs to the digit whose largest component is `label`."""
        top, bottom, left, right = (
            ends[label] for ends in (self.tops, self.bottoms, self.lefts, self.rights)
        )
        gaps = [self.tops - bottom, top - self.bottoms, self.lefts - right, left - self.rights]
        near = np.max(gaps, 0) <= rules.NEAR * max(bottom - top, right - left)
        parts: NDArray[np.bool_] = near & (self.areas >= rules.PART * self.areas[label]) & (self.areas > 0)
        return parts

    def _ends(self, axis: int) -> tuple[_Whole, _Whole]:
        """Return each label's first and last place along an axis, the last exclusive; far apart where there is none."""
        places: _Whole = np.indices(self.labels.shape)[axis]
        first, last = np.full(self._count, self.labels.size), np.zeros(self._count, np.int64)
        np.minimum.at(first, self.labels, places)
        np.maximum.at(last, self.labels, places + 1)
        return first, last


def _labelled(cells: NDArray[np.bool_]) -> _Whole:
    """Return each cell's component (with its eight neighbours): the highest number of a cell in it, from 1; or 0."""
    labels = np.where(cells, np.arange(1, cells.size + 1).reshape(cells.shape), 0)
    while True:
        grown = np.where(cells, _window(labels, 3, np.maximum), 0)
        if np.array_equal(grown, labels):
            return labels
        labels = grown


def _distinct(grey: _Whole, contrast: _Whole, ink: _Components, label: int) -> float:
    """Return by how much a component is darker than paper: its contrast, but no more than what lies around tells."""
    top, bottom, left, right = (ends[label] for ends in (ink.tops, ink.bottoms, ink.lefts, ink.rights))
    margin = max(bottom - top, right - left, _window_of(grey) // 2)
    around = grey[max(0, top - margin) : bottom + margin, max(0, left - margin) : right + margin].ravel()
    middle = int(np.partition(around, around.size // 2)[around.size // 2])
    area = int(ink.areas[label])
    return min(middle * area - int(ink.sums(grey)[label]), int(ink.sums(contrast)[label])) / area


def _window(values: NDArray[Any], size: int, extreme: np.ufunc) -> NDArray[Any]:
    """Return the extreme of the square of `size` (odd) around each value, [h, w], of what is inside."""
    least = extreme is np.maximum
    info = None if values.dtype == np.bool_ else np.iinfo(values.dtype)
    filling = (not least) if info is None else info.min if least else info.max
    for axis in (0, 1):
        padding = [(0, 0), (0, 0)]
        padding[axis] = (size // 2, size // 2)
        reach, length = 1, values.shape[axis]
        values = np.moveaxis(np.pad(values, padding, constant_values=filling), axis, 0)
        # Of windows of a length, two make one of up to twice that.
        while reach < size:
            step = min(reach, size - reach)
            values = extreme(values[:-step], values[step:])
            reach += step
        values = np.moveaxis(values[:length], 0, axis)
    return values


def _thickened(strokes: _Whole) -> _Whole:
    """Return strokes [h, w] of 0…255 as a pen would have made them that is as thick as MNIST's."""
    top, bottom, left, right = _extent(strokes > 0)
    wanted = int(rules.STROKE * max(bottom - top, right - left))
    ink = strokes > 127
    width = 1
    while width + 2 <= wanted and 2 * _opened(ink, width + 2).sum() >= ink.sum():
        width += 2
    return _window(strokes, max(wanted - width, 0) | 1, np.maximum)


def _opened(ink: NDArray[np.bool_], size: int) -> NDArray[np.bool_]:
    """Return the ink that squares of `size` fit into."""
    return _window(_window(ink, size, np.minimum), size, np.maximum)


def _normalised(strokes: _Whole, contract: Contract, box: int) -> NDArray[np.uint8]:
    """Return strokes [h, w] of 0…255 as a digit of the box's size, by its centre of mass in the middle of the field."""
    top, bottom, left, right = _extent(strokes > 0)
    longer = max(bottom - top, right - left)
    # Halves up, in integers.
    height, width = (
        max(1, (2 * side * box + longer) // (2 * longer)) for side in (bottom - top, right - left)
    )
    rows = _resampling(strokes.shape[0], top, bottom, height, _lanczos)
    columns = _resampling(strokes.shape[1], left, right, width, _lanczos)
    small = _to_pixels(rows @ strokes @ columns.T)
    weights = small.astype(np.float64)
    total = weights.sum()
    top = _place(weights.sum(1), total, contract.height)
    left = _place(weights.sum(0), total, contract.width)
    field = np.zeros(contract.shape[:2], np.uint8)
    field[top : top + height, left : left + width] = small
    return field


def _place(profile: NDArray[np.float64], total: float, field: int) -> int:
    """Return where a digit with this profile begins, so that its centre of mass is in the middle of the field."""
    centre = float((profile * np.arange(len(profile))).sum() / total)
    # A very lopsided digit stays inside the field rather than in the exact middle.
    return int(np.clip(np.floor((field - 1) / 2 - centre + _NUDGE), 0, field - len(profile)))


def _extent(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """Return top, bottom, left and right (bottom and right exclusive) of the true values."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


def _resampling(
    length: int,
    start: int,
    stop: int,
    size: int,
    kernel: Callable[[NDArray[np.float64]], NDArray[np.float64]],
) -> NDArray[np.float64]:
    """Return the matrix [size, length] that resamples pixels start…stop of `length` to `size`."""
    scale = (stop - start) / size
    centres = start + (np.arange(size) + 0.5) * scale
    places = np.arange(length) + 0.5
    weights = kernel((places - centres[:, np.newaxis]) / max(scale, 1.0))
    weights = np.where((places > start) & (places < stop), weights, 0.0)
    matrix: NDArray[np.float64] = weights / weights.sum(1, keepdims=True)
    return matrix


def _triangle(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.maximum(0.0, 1.0 - np.abs(x))


def _lanczos(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(np.abs(x) < 3.0, np.sinc(x) * np.sinc(x / 3.0), 0.0)


def _to_pixels(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    pixels: NDArray[np.uint8] = np.floor(values.clip(0.0, 255.0) + _NUDGE).astype(np.uint8)
    return pixels
