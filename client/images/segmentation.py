"""Segmentation of ink on an image: steps 3 to 5 of the method `digit` in `export.preprocessing.input_contract`.

`export.preprocessing.digit` does the same in the graph of `serving_bytes`. Both use integers, or the same IEEE
operations, and find the same ink.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfship.export.preprocessing import input_contract as rules

__all__ = ["Box", "Components", "Found", "Grey", "cell_of", "found", "window"]

# Smallest area of a further digit, relative to the largest digit's, and smallest distance, relative to its height.
_SIMILAR, _APART = 0.2, 0.15
_WHITE = 255
# Values 0…255; 8 bits are fastest.
Grey = NDArray[np.uint8]
# Top, bottom, left and right in pixels; bottom and right are exclusive.
Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Written:
    """A digit: its ink, the labels of its components, the largest first, and its contrast `distinct`."""

    found: "Found"
    labels: NDArray[np.intp]
    distinct: float

    @property
    def neighbours(self) -> int:
        """The number of other components that may be digits: similar to the largest in size, and apart from it."""
        return len(self.found.digits(int(self.labels[0]))) - 1

    @property
    def strokes(self) -> Grey:
        """The digit's strokes, 0…255 [h, w], in its box and a margin around."""
        return self.found.strokes(self.labels)


class Found:
    """Ink that is darker than its surroundings, on an image [h, w].

    `chosen` [labels] is true for components that may be digits. Ink less than a `cell` apart is one component.
    """

    def __init__(self, grey: Grey, cell: int) -> None:
        self._grey, self._cell = grey, cell
        size = self._size = min(max(3, int(rules.WINDOW * min(grey.shape)) | 1), rules.WIDEST)
        self._contrast = window(window(grey, size, np.maximum), size, np.minimum) - grey
        self.ink = Components(self._is_ink(), grey, self._contrast, cell)
        self.chosen = self.ink.inner if self.ink.inner.any() else self.ink.outer

    def digit(self) -> "Written | None":
        """Return the main digit on the image, None if there is none."""
        weights = np.where(self.chosen, self.ink.weights, 0)
        # Largest first; ties in the order of labels.
        for label in np.argsort(-weights, kind="stable")[: rules.CANDIDATES]:
            distinct = self.distinct(int(label), self._size // 2) if weights[label] else 0.0
            if distinct >= rules.FAINTEST:
                parts = np.flatnonzero(self.ink.parts(int(label)) & self.chosen)
                return Written(self, np.append(label, parts[parts != label]), distinct)
        return None

    def digits(self, label: int) -> list[int]:
        """Return the labels of a component and of other digits: similar in height and area, distinct, and apart."""
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
        """Return the strokes of a digit, 0…255 [h, w], in the box of its components, `labels`, and a margin around."""
        part = self._around(labels, rules.EDGE)
        contrast, ink, these = (
            self._contrast[part].astype(np.int64),
            self.ink.ink[part],
            self._these(part, labels),
        )
        full = _quantile(contrast[ink & these], rules.FULL)
        palest = max(rules.PALEST, min(self._noise(labels) + 1, rules.LOCAL * full))
        contrast[(contrast < palest) | window(ink & ~these, 3, np.maximum)] = 0
        # Rounds halves up.
        strokes: Grey = ((2 * _WHITE * contrast + full) // (2 * full)).clip(max=_WHITE).astype(np.uint8)
        return strokes

    def _noise(self, labels: NDArray[np.intp]) -> int:
        """Return the contrast of nearly all paper around components, 0 without paper."""
        part = self._around(labels, 1.0)
        top, bottom, left, right = self.box(labels)
        reach = int(rules.PAPER * max(bottom - top, right - left))
        near = window(self._these(part, labels), 2 * reach + 1, np.maximum)
        return _quantile(self._contrast[part][~(near | self.ink.ink[part])], rules.NOISE)

    def _around(self, labels: NDArray[np.intp], share: float) -> tuple[slice, slice]:
        """Return rows and columns of the components' box with a margin, a share of its longer side."""
        top, bottom, left, right = self.box(labels)
        margin = int(share * max(bottom - top, right - left))
        return np.s_[max(0, top - margin) : bottom + margin, max(0, left - margin) : right + margin]

    def _these(self, part: tuple[slice, slice], labels: NDArray[np.intp]) -> NDArray[np.bool_]:
        """Return which pixels of a part [h, w] are in cells of these components."""
        rows, columns = (
            np.arange(length)[side] // self._cell for side, length in zip(part, self._grey.shape, strict=True)
        )
        return np.isin(self.ink.cells[np.ix_(rows, columns)], labels)

    def distinct(self, label: int, least: int) -> float:
        """Return how much darker than paper a component is: the smaller of its contrast and that to its surroundings.

        The surroundings reach as far as the component is large, at least `least` pixels. Their grey value is the median
        of the cells' means.
        """
        top, bottom, left, right = self.ink.box(label)
        margin = max(bottom - top, right - left, least) // self._cell
        top, bottom, left, right = (side // self._cell for side in (top, bottom, left, right))
        around = self.ink.means[
            max(0, top - margin) : bottom + margin, max(0, left - margin) : right + margin
        ]
        # The upper median.
        middle = int(np.searchsorted(np.bincount(around.ravel()).cumsum(), around.size // 2, "right"))
        area = int(self.ink.areas[label])
        return min(middle * area - int(self.ink.greys[label]), int(self.ink.weights[label])) / area

    def _is_ink(self) -> NDArray[np.bool_]:
        contrast = self._contrast
        local = window(contrast, self._size, np.maximum)
        return (contrast >= rules.FAINTEST) & (contrast > np.float32(rules.LOCAL) * local)


def found(grey: Grey, cell: int) -> list[Found]:
    """Return dark ink and light ink on an image [h, w]; an empty list for one without pixels."""
    return [Found(grey, cell), Found(255 - grey, cell)] if grey.size else []


class Components:
    """The connected components of ink [h, w], in cells. Label 0 is background; some other labels are unused.

    By cell [rows, columns]: `cells` holds labels, `means` the mean grey values, rounded down.
    By label: `areas` in pixels of ink; `weights` and `greys`, the sums of their contrast and grey values; `outer` and
    `inner`, whether the component touches the image's border or not; `tops`, `bottoms`, `lefts`, `rights` in pixels.
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
        """Return a component's box, in whole cells."""
        return self.around(np.array([label]))

    def around(self, labels: NDArray[np.intp]) -> Box:
        """Return the box around components, in whole cells."""
        tops, bottoms, lefts, rights = (
            each[labels] for each in (self.tops, self.bottoms, self.lefts, self.rights)
        )
        return int(tops.min()), int(bottoms.max()), int(lefts.min()), int(rights.max())

    def parts(self, label: int) -> NDArray[np.bool_]:
        """Return which labels are parts of the digit whose largest component is `label`, bool [labels]."""
        top, bottom, left, right = self.box(label)
        gaps = [self.tops - bottom, top - self.bottoms, self.lefts - right, left - self.rights]
        near = np.max(gaps, 0) <= rules.NEAR * max(bottom - top, right - left)
        parts: NDArray[np.bool_] = near & (self.areas >= rules.PART * self.areas[label]) & (self.areas > 0)
        return parts

    def _sums(self, values: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return each label's sum of integers by cell."""
        return np.bincount(self._labels, values[self._inked], self._count).astype(np.int64)

    def _ends(
        self, labels: NDArray[np.int32], places: NDArray[np.int64], cell: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return each label's first and last (exclusive) place, given ascending places; out of range if it has none."""
        first, last = np.full(self._count, self.ink.size), np.zeros(self._count, np.int64)
        # If an index occurs several times, numpy keeps the last assignment.
        first[labels[::-1]] = places[::-1]
        last[labels] = places + cell
        return first, last


def window(values: NDArray[Any], size: int, extreme: np.ufunc) -> NDArray[Any]:
    """Return the extreme of the square of `size` (odd) around each value, [h, w], within the image."""
    for _ in range(2):
        # Along the first axis, then, transposed, along the second. Padding with edge values changes no extreme.
        reach = 1
        values = np.pad(values, ((size // 2, size // 2), (0, 0)), "edge")
        # Two overlapping windows of one length make a window of up to twice that length.
        while reach < size:
            step = min(reach, size - reach)
            values = extreme(values[:-step], values[step:])
            reach += step
        values = values.T
    return values


def cell_of(image: NDArray[Any]) -> int:
    """Return the cell size for an image of a single digit, so that small gaps don't split its strokes."""
    return rules.CELL if min(image.shape) >= rules.SPECKLED else 1


def _quantile(values: NDArray[Any], share: float) -> int:
    """Return the lowest of 0…255 that at least this share of the values doesn't exceed; 0 without values."""
    counts = np.bincount(values, minlength=_WHITE + 1).cumsum()
    return int(np.sum(counts < share * counts[-1]))


def _by_cell(values: NDArray[Any], cell: int) -> NDArray[np.int64]:
    """Return the sum of the values [h, w] in each cell, [rows, columns]."""
    height, width = values.shape
    padded = np.pad(values, ((0, -height % cell), (0, -width % cell)))
    sums: NDArray[np.int64] = padded.reshape(padded.shape[0] // cell, cell, -1, cell).sum((1, 3), np.int64)
    return sums


def _labelled(cells: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Return the labels of 8-connected components: the highest number, from 1, of a cell in it; 0 for background."""
    labels = np.arange(1, cells.size + 1, dtype=np.int32).reshape(cells.shape) * cells
    while True:
        grown = window(labels, 3, np.maximum) * cells
        # A label is the number of a cell of the component. Jumping to that cell's label saves iterations.
        grown = np.where(cells, grown.ravel()[grown - 1], 0)
        if np.array_equal(grown, labels):
            return labels
        labels = grown
