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

# Values 0…255; small, because all of it is done on a terminal while somebody waits.
_Grey = NDArray[np.uint8]
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


def _reduced(grey: _Grey) -> _Grey:
    """Return the picture at a size that it is looked at in."""
    factor = -(-max(grey.shape) // rules.WORKING)
    height, width = (side // factor for side in grey.shape)
    blocks = grey[: height * factor, : width * factor].reshape(height, factor, width, factor)
    sums, area = blocks.sum((1, 3), dtype=np.int64), factor * factor
    small: _Grey = ((2 * sums + area) // (2 * area)).astype(np.uint8)
    if min(small.shape) >= rules.SPECKLED:
        return np.asarray(Image.fromarray(small).filter(ImageFilter.MedianFilter(3)))
    return small


@dataclass(frozen=True)
class _Ink:
    """A digit: its strokes [h, w] of 0…255, and by how much they stand out."""

    strokes: _Grey
    distinct: float


def _written(grey: _Grey) -> _Ink | None:
    """Return the digit in dark ink, if there is one."""
    if not grey.size:
        return None
    window = _window_of(grey)
    contrast = _window(_window(grey, window, np.maximum), window, np.minimum) - grey
    ink = _Components(_is_ink(contrast, _window(contrast, window, np.maximum), int(contrast.max())))
    if ink.inner.any() and ink.outer.any():
        inside = np.where(_window(ink.of(ink.outer), 2 * rules.CELL + 1, np.maximum), 0, contrast)
        if inside.max() >= rules.FAINTEST:
            again = _Components(_is_ink(contrast, _window(inside, window, np.maximum), int(inside.max())))
            if again.inner.any():
                ink = again
    chosen = ink.inner if ink.inner.any() else ink.outer
    weights = np.where(chosen, ink.sums(contrast), 0)
    # The largest first; the first of equals.
    for label in np.argsort(-weights, kind="stable")[: rules.CANDIDATES]:
        if not weights[label]:
            break
        distinct = _distinct(grey, contrast, ink, int(label))
        if distinct >= rules.FAINTEST:
            digit = _window(ink.of(ink.parts(int(label)) & chosen), 3, np.maximum)
            full = np.maximum(_window(contrast, 4 * _cell_of(grey) + 1, np.maximum), 1)
            share = contrast / full
            strokes = np.rint(((share - rules.PALE) / (rules.FULL - rules.PALE)).clip(0, 1) * 255)
            return _Ink(np.where(digit, strokes, 0).astype(np.uint8), distinct)
    return None


def _window_of(grey: _Grey) -> int:
    return max(3, int(rules.WINDOW * min(grey.shape)) | 1)


def _cell_of(picture: NDArray[Any]) -> int:
    return rules.CELL if min(picture.shape) >= rules.SPECKLED else 1


def _is_ink(contrast: _Grey, local: _Grey, strongest: int) -> NDArray[np.bool_]:
    above = (contrast > rules.INK * strongest) & (contrast > rules.LOCAL * local)
    return above & (contrast >= rules.FAINTEST)


class _Components:
    """The components of ink [h, w], by label. Label 0 is none, and not all others are of one."""

    def __init__(self, ink: NDArray[np.bool_]) -> None:
        cell = _cell_of(ink)
        height, width = ink.shape
        padded = np.pad(ink, ((0, -height % cell), (0, -width % cell)))
        cells = np.asarray(padded.reshape(padded.shape[0] // cell, cell, -1, cell).any((1, 3)))
        self.labels = _labelled(cells).repeat(cell, 0).repeat(cell, 1)[:height, :width] * ink
        self._count = cells.size + 1
        self._ink = ink
        self._inked = self.labels[ink]
        self.areas = self.sums(ink)
        edge = np.zeros(self._count, np.bool_)
        for side in (self.labels[0], self.labels[-1], self.labels[:, 0], self.labels[:, -1]):
            edge[side] = True
        there = self.areas > 0
        self.outer = there & edge
        self.inner = there & ~edge & (self.areas > rules.SPECK * self.areas[self.outer].max(initial=0))
        rows, columns = ink.nonzero()
        self.tops, self.bottoms = self._ends(self._inked, rows)
        order = np.argsort(columns, kind="stable")
        self.lefts, self.rights = self._ends(self._inked[order], columns[order])

    def of(self, labels: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return where the components of these labels are."""
        return labels[self.labels]

    def sums(self, values: NDArray[Any]) -> NDArray[np.int64]:
        """Return the sum of whole numbers [h, w] within each label."""
        return np.bincount(self._inked, values[self._ink], self._count).astype(np.int64)

    def parts(self, label: int) -> NDArray[np.bool_]:
        """Return the labels of what belongs to the digit whose largest component is `label`."""
        top, bottom, left, right = (
            ends[label] for ends in (self.tops, self.bottoms, self.lefts, self.rights)
        )
        gaps = [self.tops - bottom, top - self.bottoms, self.lefts - right, left - self.rights]
        near = np.max(gaps, 0) <= rules.NEAR * max(bottom - top, right - left)
        parts: NDArray[np.bool_] = near & (self.areas >= rules.PART * self.areas[label]) & (self.areas > 0)
        return parts

    def _ends(
        self, labels: NDArray[np.int32], places: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return each label's first and last (exclusive) of its ascending places; far apart where it has none."""
        first, last = np.full(self._count, self.labels.size), np.zeros(self._count, np.int64)
        # Of several values for one place, the last one stays.
        first[labels[::-1]] = places[::-1]
        last[labels] = places + 1
        return first, last


def _labelled(cells: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Return each cell's component (with its eight neighbours): the highest number of a cell in it, from 1; or 0."""
    labels = np.arange(1, cells.size + 1, dtype=np.int32).reshape(cells.shape) * cells
    while True:
        grown = _window(labels, 3, np.maximum) * cells
        if np.array_equal(grown, labels):
            return labels
        labels = grown


def _distinct(grey: _Grey, contrast: _Grey, ink: _Components, label: int) -> float:
    """Return by how much a component is darker than paper: its contrast, but no more than what lies around tells."""
    top, bottom, left, right = (ends[label] for ends in (ink.tops, ink.bottoms, ink.lefts, ink.rights))
    margin = max(bottom - top, right - left, _window_of(grey) // 2)
    around = grey[max(0, top - margin) : bottom + margin, max(0, left - margin) : right + margin]
    # The median, the higher of the two in the middle.
    middle = int(np.searchsorted(np.bincount(around.ravel()).cumsum(), around.size // 2, "right"))
    area = int(ink.areas[label])
    return min(middle * area - int(ink.sums(grey)[label]), int(ink.sums(contrast)[label])) / area


def _window(values: NDArray[Any], size: int, extreme: np.ufunc) -> NDArray[Any]:
    """Return the extreme of the square of `size` (odd) around each value, [h, w], of what is inside."""
    for _ in range(2):
        # The rows and then, turned, the columns. What is outside is as what is at the edge: that changes no extreme.
        reach = 1
        values = np.pad(values, ((size // 2, size // 2), (0, 0)), "edge")
        # Of windows of a length, two make one of up to twice that.
        while reach < size:
            step = min(reach, size - reach)
            values = extreme(values[:-step], values[step:])
            reach += step
        values = values.T
    return values


def _thickened(strokes: _Grey) -> _Grey:
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


def _normalised(strokes: _Grey, contract: Contract, box: int) -> NDArray[np.uint8]:
    """Return strokes [h, w] of 0…255 as a digit of the box's size, by its centre of mass in the middle of the field."""
    top, bottom, left, right = _extent(strokes > 0)
    longer = max(bottom - top, right - left)
    # Halves up, in integers.
    height, width = (
        max(1, (2 * side * box + longer) // (2 * longer)) for side in (bottom - top, right - left)
    )
    rows = _resampling(bottom - top, 0, bottom - top, height, _lanczos)
    columns = _resampling(right - left, 0, right - left, width, _lanczos)
    small = _to_pixels(rows @ strokes[top:bottom, left:right].astype(np.float64) @ columns.T)
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
