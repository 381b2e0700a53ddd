"""Where ink is on a picture: what `export.contract` says of the method `digit`, steps 3 and 4.

`export.prepare` does the same in the graph of `serving_bytes`. Whatever is decided here is decided by whole numbers, or
by the same operations of float64: both find the same ink.
"""

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export import contract as rules

__all__ = ["Box", "Components", "Found", "Grey", "Written", "cell_of", "found", "opening", "window"]

# Values 0…255; small, because all of it is done while somebody waits.
Grey = NDArray[np.uint8]
# Top, bottom, left and right, bottom and right exclusive.
Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Written:
    """A digit: its strokes [h, w] of 0…255, and by how much they stand out."""

    strokes: Grey
    distinct: float


class Found:
    """The ink, darker than its surroundings, on a picture [h, w]; `chosen` are the labels of what may be digits.

    What is less than a `cell` apart is one component.
    """

    def __init__(self, grey: Grey, cell: int) -> None:
        self._grey = grey
        size = self._size = max(3, int(rules.WINDOW * min(grey.shape)) | 1)
        self._contrast = window(window(grey, size, np.maximum), size, np.minimum) - grey
        self.ink = Components(_is_ink(self._contrast, self._contrast, size), cell)
        if self.ink.inner.any() and self.ink.outer.any():
            outside = window(self.ink.of(self.ink.outer), 2 * rules.CELL + 1, np.maximum)
            inside = np.where(outside, 0, self._contrast)
            if inside.max() >= rules.FAINTEST:
                again = Components(_is_ink(self._contrast, inside, size), cell)
                if again.inner.any():
                    self.ink = again
        self.chosen = self.ink.inner if self.ink.inner.any() else self.ink.outer
        self._sums = self.ink.sums(self._contrast)

    def digit(self) -> Written | None:
        """Return the one digit on the picture, if there is one."""
        weights = np.where(self.chosen, self._sums, 0)
        # The largest first; the first of equals.
        for label in np.argsort(-weights, kind="stable")[: rules.CANDIDATES]:
            distinct = self.distinct(int(label), self._size // 2) if weights[label] else 0.0
            if distinct >= rules.FAINTEST:
                parts = np.flatnonzero(self.ink.parts(int(label)) & self.chosen)
                return Written(self.strokes(parts, self._whole), distinct)
        return None

    def strokes(self, labels: NDArray[np.intp], box: Box) -> Grey:
        """Return what was written within a box, [h, w] of 0…255, in components of these labels."""
        top, bottom, left, right = box
        these = np.isin(self.ink.labels[top:bottom, left:right], labels)
        strokes: Grey = np.where(window(these, 3, np.maximum), self._strokes[top:bottom, left:right], 0)
        return strokes

    @functools.cached_property
    def _strokes(self) -> Grey:
        full = np.maximum(window(self._contrast, 4 * cell_of(self._grey) + 1, np.maximum), 1)
        share = self._contrast / full
        strokes = np.rint(((share - rules.PALE) / (rules.FULL - rules.PALE)).clip(0, 1) * 255)
        found: Grey = strokes.astype(np.uint8)
        return found

    @property
    def _whole(self) -> Box:
        height, width = self._grey.shape
        return 0, height, 0, width

    def distinct(self, label: int, least: int) -> float:
        """Return by how much a component is darker than paper: its contrast, or what lies around, if that is less.

        Around is as far as it is large, and `least` pixels at least.
        """
        top, bottom, left, right = self.ink.box(label)
        margin = max(bottom - top, right - left, least)
        around = self._grey[max(0, top - margin) : bottom + margin, max(0, left - margin) : right + margin]
        # The median, the higher of the two in the middle.
        middle = int(np.searchsorted(np.bincount(around.ravel()).cumsum(), around.size // 2, "right"))
        area = int(self.ink.areas[label])
        below = middle * area - int(self.ink.of_label(self._grey, label))
        return min(below, int(self._sums[label])) / area


def found(grey: Grey, cell: int) -> list[Found]:
    """Return what is dark, and what is light, on a picture [h, w]; nothing on one without pixels."""
    return [Found(grey, cell), Found(255 - grey, cell)] if grey.size else []


class Components:
    """The components of ink [h, w], by label. Label 0 is none, and not all others are of one."""

    def __init__(self, ink: NDArray[np.bool_], cell: int) -> None:
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

    def of_label(self, values: NDArray[Any], label: int) -> int:
        """Return the sum of whole numbers [h, w] within one label."""
        top, bottom, left, right = self.box(label)
        here = self.labels[top:bottom, left:right] == label
        return int(values[top:bottom, left:right][here].sum(dtype=np.int64))

    def box(self, label: int) -> Box:
        """Return what a component lies in."""
        top, bottom, left, right = (
            int(ends[label]) for ends in (self.tops, self.bottoms, self.lefts, self.rights)
        )
        return top, bottom, left, right

    def parts(self, label: int) -> NDArray[np.bool_]:
        """Return the labels of what belongs to the digit whose largest component is `label`."""
        top, bottom, left, right = self.box(label)
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


def window(values: NDArray[Any], size: int, extreme: np.ufunc) -> NDArray[Any]:
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


def opening(ink: NDArray[np.bool_], size: int) -> NDArray[np.bool_]:
    """Return the ink that squares of `size` fit into."""
    return window(window(ink, size, np.minimum), size, np.maximum)


def cell_of(picture: NDArray[Any]) -> int:
    """Return the size of cells that a digit's strokes aren't broken on, where it may be all of the picture."""
    return rules.CELL if min(picture.shape) >= rules.SPECKLED else 1


def _is_ink(contrast: Grey, compared: Grey, size: int) -> NDArray[np.bool_]:
    """Tell where contrast is ink, compared with another's strongest, on the whole and around."""
    strongest, local = int(compared.max()), window(compared, size, np.maximum)
    above = (contrast > rules.INK * strongest) & (contrast > rules.LOCAL * local)
    return above & (contrast >= rules.FAINTEST)


def _labelled(cells: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Return each cell's component (with its eight neighbours): the highest number of a cell in it, from 1; or 0."""
    labels = np.arange(1, cells.size + 1, dtype=np.int32).reshape(cells.shape) * cells
    while True:
        grown = window(labels, 3, np.maximum) * cells
        # A cell's label is a cell of its component, whose own label may be higher: no need to walk there.
        grown = np.where(cells, grown.ravel()[grown - 1], 0)
        if np.array_equal(grown, labels):
            return labels
        labels = grown
