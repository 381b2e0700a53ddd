"""All digits of one image, such as a postcode or a page of numbers, each with its box, prepared as a single digit."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from tfship.client.images import decoding, preprocessing, preview, segmentation
from tfship.client.images.segmentation import Box, Found, Grey
from tfship.export.preprocessing import input_contract as rules
from tfship.export.preprocessing.input_contract import Contract
from tfship.train.common.errors import DataError

__all__ = ["Digit", "drawn", "find"]

# Longer side, in pixels, of the reduced image; a digit on a page of numbers keeps about thirty pixels.
_WORKING = 1280
# Relative to the digits' usual height. Lower components are dust, wider ones lines or words, higher ones frames.
_LEAST, _WIDEST, _HIGHEST = 0.35, 2.0, 3.0
# Largest height, and distance, of a part above or below the rest of a digit, such as the bar of a 5.
_PART, _NEAR = 0.5, 0.3
# Largest vertical distance between the centres of digits on one line.
_SAME_LINE = 0.6
_MOST = 1000
_BOX_COLOUR = (220, 30, 30)


@dataclass(frozen=True)
class Digit:
    """One digit of an image: its box in pixels of the upright image, and prepared pixels uint8 [height, width, 1]."""

    box: Box
    pixels: NDArray[np.uint8]


def find(data: bytes, contract: Contract, name: str = "image") -> list[list[Digit]]:
    """Return the digits of an encoded image, line by line, each from left to right.

    Raises DataError for an invalid image, and for one with no digits or with more than 1,000 components.
    """
    with decoding.decoded(data, name) as image:
        grey = image.grey()
    scale = preprocessing.reduction(grey, _WORKING)
    small = preprocessing.reduced(grey, scale)
    # cell=1: gaps between digits are smaller than the gaps that are allowed within a single digit.
    pages = [_Page(found, name) for found in segmentation.found(small, cell=1)]
    # The larger area is the digits': their loops, in the other kind of ink, are smaller.
    page = max(pages, key=lambda page: page.area, default=None)
    if page is None or not page.groups:
        raise DataError(f"{name}: nothing to see on the image; expected digits in one ink on plain paper")
    return [[page.digit(group, scale, contract) for group in line] for line in page.lines()]


def drawn(data: bytes, digits: Iterable[tuple[Box, str]], name: str = "image") -> bytes:
    """Return the image, upright, as PNG, with boxes and their labels."""
    with decoding.decoded(data, name) as image:
        canvas = Image.fromarray(image.pixels(3))
    pencil = ImageDraw.Draw(canvas)
    for (top, bottom, left, right), label in digits:
        width = max(1, (bottom - top) // 25)
        frame = (left - 2 * width, top - 2 * width, right + 2 * width - 1, bottom + 2 * width - 1)
        pencil.rectangle(frame, outline=_BOX_COLOUR, width=width)
        pencil.text(frame[:2], label, _BOX_COLOUR, font_size=max(10, (bottom - top) // 3), anchor="lb")
    return preview.png(np.asarray(canvas))


@dataclass(frozen=True)
class _Group:
    """One digit: the box around its components, and its strokes, 0…255 [h, w]."""

    box: Box
    strokes: Grey


class _Page:
    """The digits in ink of one kind, dark or light."""

    def __init__(self, found: Found, name: str) -> None:
        self._found = found
        components = found.ink
        labels = np.flatnonzero(found.chosen)
        heights = components.bottoms[labels] - components.tops[labels]
        widths = components.rights[labels] - components.lefts[labels]
        areas = components.areas[labels]
        self._height = _weighted_median(heights, areas)
        large = heights >= _LEAST * self._height
        fitting = large & (widths <= _WIDEST * self._height) & (heights <= _HIGHEST * self._height)
        if fitting.sum() > _MOST:
            raise DataError(f"{name}: more than {_MOST:,} components found; expected digits on plain paper")
        around = int(self._height)
        mains = [int(each) for each in labels[fitting] if found.distinct(int(each), around) >= rules.FAINTEST]
        usual = float(np.median(components.areas[mains])) if mains else 0.0
        small = (heights <= _PART * self._height) & (areas >= rules.PART * usual)
        self.groups = self._grouped(mains, [int(each) for each in labels[small] if each not in mains])
        boxes = (group.box for group in self.groups)
        self.area = sum((bottom - top) * (right - left) for top, bottom, left, right in boxes)

    def _grouped(self, mains: list[int], parts: list[int]) -> list[_Group]:
        """Return one digit for each of `mains`, with the parts above or below it."""
        box = self._found.ink.box
        groups = {main: [main] for main in mains}
        for part in parts:
            gaps = {main: gap for main in mains if (gap := _gap(box(part), box(main))) is not None}
            if gaps and min(gaps.values()) <= _NEAR * self._height:
                groups[min(gaps, key=lambda main: gaps[main])].append(part)
        return [
            _Group(_around(map(box, labels)), self._found.strokes(np.array(labels)))
            for labels in groups.values()
        ]

    def lines(self) -> list[list[_Group]]:
        """Return the digits in reading order."""
        lines: list[list[_Group]] = []
        for group in sorted(self.groups, key=_middle):
            middle = sum(map(_middle, lines[-1])) / len(lines[-1]) if lines else -math.inf
            if _middle(group) - middle > _SAME_LINE * self._height:
                lines.append([])
            lines[-1].append(group)
        return [sorted(line, key=lambda group: group.box[2]) for line in lines]

    def digit(self, group: _Group, scale: int, contract: Contract) -> Digit:
        """Return a digit of an image that was reduced by `scale`."""
        top, bottom, left, right = (side * scale for side in group.box)
        return Digit(
            (top, bottom, left, right), preprocessing.as_mnist(group.strokes, contract)[..., np.newaxis]
        )


def _middle(group: _Group) -> float:
    return (group.box[0] + group.box[1]) / 2


def _around(boxes: Iterable[Box]) -> Box:
    tops, bottoms, lefts, rights = zip(*boxes, strict=True)
    return min(tops), max(bottoms), min(lefts), max(rights)


def _gap(part: Box, main: Box) -> int | None:
    """Return the vertical distance of a part, None if it doesn't overlap at least half of the narrower width."""
    shared = min(part[3], main[3]) - max(part[2], main[2])
    if 2 * shared < min(part[3] - part[2], main[3] - main[2]):
        return None
    return max(part[0] - main[1], main[0] - part[1], 0)


def _weighted_median(values: NDArray[np.int64], weights: NDArray[np.int64]) -> float:
    if not values.size:
        return 0.0
    order = np.argsort(values)
    sums = weights[order].cumsum()
    return float(values[order][np.searchsorted(sums, sums[-1] / 2)])
