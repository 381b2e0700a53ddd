"""Ink on an image: what `export.preprocessing.input_contract` says of the method `digit`, steps 3 to 5.

`export.preprocessing.digit` does the same in the graph of `serving_bytes`. Both decide by whole numbers, or by the
same IEEE operations, and find the same ink.
"""

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfship.export.preprocessing import input_contract as rules

__all__ = ["Box", "Components", "Found", "Grey", "cell_of", "found", "window"]

# Another digit has at least this share of the largest one's area, at a distance of this share of its height.
_SIMILAR, _APART = 0.2, 0.15
# Values 0…255, in 8 bits for speed.
Grey = NDArray[np.uint8]
# Top, bottom, left and right, bottom and right exclusive.
Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Written:
    """A digit: the ink that it is in, the labels of its components, and by how much it stands out."""

    found: "Found"
    labels: NDArray[np.intp]
    distinct: float

    @property
    def neighbours(self) -> int:
        """The number of components that may be other digits: nearly as high as the largest, and apart from it."""
        return len(self.found.digits(int(self.labels[0]))) - 1

    @functools.cached_property
    def strokes(self) -> Grey:
        """What was written, 0…255 [h, w], within the digit's box and a pixel around; all 0 if it is too pale."""
        return self.found.strokes(self.labels)


class Found:
    """The ink that is darker than its surroundings on an image [h, w].

    `chosen` [labels] says which components may be digits. Ink less than a `cell` apart is one component.
    """

    def __init__(self, grey: Grey, cell: int) -> None:
        self._grey, self._cell = grey, cell
        size = self._size = min(max(3, int(rules.WINDOW * min(grey.shape)) | 1), rules.WIDEST)
        self._contrast = window(window(grey, size, np.maximum), size, np.minimum) - grey
        self.ink = Components(self._is_ink(), grey, self._contrast, cell)
        self.chosen = self.ink.inner if self.ink.inner.any() else self.ink.outer

    def digit(self) -> "Written | None":
        """Return the one digit on the image, if there is one."""
        weights = np.where(self.chosen, self.ink.weights, 0)
        # The largest first; the first of equals.
        for label in np.argsort(-weights, kind="stable")[: rules.CANDIDATES]:
            distinct = self.distinct(int(label), self._size // 2) if weights[label] else 0.0
            if distinct >= rules.FAINTEST:
                parts = np.flatnonzero(self.ink.parts(int(label)) & self.chosen)
                return Written(self, np.append(label, parts[parts != label]), distinct)
        return None

    def digits(self, label: int) -> list[int]:
        """Return a component and those that are nearly as high and as large, stand out, and lie apart from it."""
        ink = self.ink
        heights = ink.bottoms - ink.tops
        similar = self.chosen & (2 * np.abs(heights - heights[label]) <= heights[label])
        similar &= ink.areas >= _SIMILAR * ink.areas[label]
        apart = _APART * heights[label]
        digits = [label]
        for other in np.flatnonzero(similar):
            gaps = (
                max(ink.tops[other] - ink.bottoms[each], ink.tops[each] - ink.bottoms[other],
                    ink.lefts[other] - ink.rights[each], ink.lefts[each] - ink.rights[other])
                for each in digits
            )  # fmt: skip
            if min(gaps) >= apart and self.distinct(int(other), self._size // 2) >= rules.FAINTEST:
                digits.append(int(other))
        return digits

    def box(self, labels: NDArray[np.intp]) -> Box:
        """Return the box around components, in whole cells, within the image."""
        height, width = self._grey.shape
        top, bottom, left, right = self.ink.around(labels)
        return top, min(bottom, height), left, min(right, width)

    def strokes(self, labels: NDArray[np.intp]) -> Grey:
        """Return what was written in components of these labels, within their box and a pixel around, 0…255."""
        top, bottom, left, right = self.box(labels)
        cell = self._cell
        cells = np.isin(
            self.ink.cells[top // cell : -(-bottom // cell), left // cell : -(-right // cell)], labels
        )
        these = cells.repeat(cell, 0).repeat(cell, 1)[: bottom - top, : right - left]
        these &= self.ink.ink[top:bottom, left:right]
        height, width = self._grey.shape
        # A stroke's edge is a pixel wide, and may lie outside of the box.
        ends = (
            slice(max(0, top - 1), min(height, bottom + 1)), slice(max(0, left - 1), min(width, right + 1))
        )  # fmt: skip
        padding = (top - ends[0].start, ends[0].stop - bottom), (left - ends[1].start, ends[1].stop - right)
        near = window(np.pad(these, padding), 3, np.maximum)
        strokes: Grey = np.where(near, self._strokes[ends], 0)
        return strokes

    def distinct(self, label: int, least: int) -> float:
        """Return by how much a component is darker than paper: its contrast, or what lies around, if that is less.

        Around is as far as the component is large, and `least` pixels at least; the median of the cells' means.
        """
        top, bottom, left, right = self.ink.box(label)
        margin = max(bottom - top, right - left, least) // self._cell
        top, bottom, left, right = (side // self._cell for side in (top, bottom, left, right))
        around = self.ink.means[
            max(0, top - margin) : bottom + margin, max(0, left - margin) : right + margin
        ]
        # The higher of the two in the middle.
        middle = int(np.searchsorted(np.bincount(around.ravel()).cumsum(), around.size // 2, "right"))
        area = int(self.ink.areas[label])
        return min(middle * area - int(self.ink.greys[label]), int(self.ink.weights[label])) / area

    def _is_ink(self) -> NDArray[np.bool_]:
        contrast = self._contrast
        local = window(contrast, self._size, np.maximum)
        return (contrast >= rules.FAINTEST) & (contrast > np.float32(rules.LOCAL) * local)

    @functools.cached_property
    def _strokes(self) -> Grey:
        full = np.maximum(window(self._contrast, 4 * self._cell + 1, np.maximum), 1)
        share = self._contrast / full
        strokes = np.rint(((share - rules.PALE) / (rules.FULL - rules.PALE)).clip(0, 1) * 255)
        found: Grey = strokes.astype(np.uint8)
        return found


def found(grey: Grey, cell: int) -> list[Found]:
    """Return what is dark, and what is light, on an image [h, w]; nothing on one without pixels."""
    return [Found(grey, cell), Found(255 - grey, cell)] if grey.size else []


class Components:
    """The components of ink [h, w], counted in cells. Label 0 is none, and not every other label is in use.

    By cell [rows, columns]: `cells` are labels, `means` the mean grey values, rounded down.
    By label: `areas` are pixels of ink, `weights` and `greys` sums of their contrast and grey values; `inner` and
    `outer` components don't touch the image's border and do; `tops`, `bottoms`, `lefts`, `rights` are in pixels.
    """

    def __init__(self, ink: NDArray[np.bool_], grey: Grey, contrast: Grey, cell: int) -> None:
        self.ink = ink
        rim = np.zeros_like(ink)
        for side in (np.s_[0], np.s_[-1], np.s_[:, 0], np.s_[:, -1]):
            rim[side] = ink[side]
        areas = _by_cell(ink, cell)
        self.cells = _labelled(areas > 0)
        self.means = _by_cell(grey, cell) // _by_cell(np.ones_like(ink), cell)
        self._inked = areas > 0
        self._labels, self._count = self.cells[self._inked], areas.size + 1
        self.areas = self._sums(areas)
        self.weights, self.greys = (self._sums(_by_cell(each * ink, cell)) for each in (contrast, grey))
        there, edge = self.areas > 0, self._sums(_by_cell(rim, cell)) > 0
        self.outer = there & edge
        self.inner = there & ~edge & (self.areas > rules.SPECK * self.areas[self.outer].max(initial=0))
        rows, columns = self._inked.nonzero()
        self.tops, self.bottoms = self._ends(self._labels, rows * cell, cell)
        order = np.argsort(columns, kind="stable")
        self.lefts, self.rights = self._ends(self._labels[order], columns[order] * cell, cell)

    def box(self, label: int) -> Box:
        """Return what a component lies in, in whole cells."""
        return self.around(np.array([label]))

    def around(self, labels: NDArray[np.intp]) -> Box:
        """Return what components lie in, in whole cells."""
        tops, bottoms, lefts, rights = (
            each[labels] for each in (self.tops, self.bottoms, self.lefts, self.rights)
        )
        return int(tops.min()), int(bottoms.max()), int(lefts.min()), int(rights.max())

    def parts(self, label: int) -> NDArray[np.bool_]:
        """Return the labels of what belongs to the digit whose largest component is `label`."""
        top, bottom, left, right = self.box(label)
        gaps = [self.tops - bottom, top - self.bottoms, self.lefts - right, left - self.rights]
        near = np.max(gaps, 0) <= rules.NEAR * max(bottom - top, right - left)
        parts: NDArray[np.bool_] = near & (self.areas >= rules.PART * self.areas[label]) & (self.areas > 0)
        return parts

    def _sums(self, values: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the sum of whole numbers by cell within each label."""
        return np.bincount(self._labels, values[self._inked], self._count).astype(np.int64)

    def _ends(
        self, labels: NDArray[np.int32], places: NDArray[np.int64], cell: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return each label's first and last (exclusive) of its ascending places; far apart where it has none."""
        first, last = np.full(self._count, self.ink.size), np.zeros(self._count, np.int64)
        # Of several values for one place, the last one stays.
        first[labels[::-1]] = places[::-1]
        last[labels] = places + cell
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


def cell_of(image: NDArray[Any]) -> int:
    """Return the size of cells that a digit's strokes aren't broken on, where it may be all of the image."""
    return rules.CELL if min(image.shape) >= rules.SPECKLED else 1


def _by_cell(values: NDArray[Any], cell: int) -> NDArray[np.int64]:
    """Return the sum of the values [h, w] in each cell, [rows, columns]."""
    height, width = values.shape
    padded = np.pad(values, ((0, -height % cell), (0, -width % cell)))
    sums: NDArray[np.int64] = padded.reshape(padded.shape[0] // cell, cell, -1, cell).sum((1, 3), np.int64)
    return sums


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
