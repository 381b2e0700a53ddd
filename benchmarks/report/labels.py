"""Labels next to their lines or points, without overlaps, instead of legends."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tfship.benchmarks.report.colours import placeholder
from tfship.benchmarks.report.drawing import Canvas

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Box", "Label", "at_line_ends", "margin", "near_points", "spread"]

# Pixels: line height, length of a leader line, gap.
_LINE, _LEADER, _GAP = 17.0, 16.0, 5.0
# Maximum share of a plot's width for a label.
_AT_LINE_END, _NEAR_POINT = 0.35, 0.5

Point = tuple[float, float]


@dataclass(frozen=True)
class Label:
    """A label for the point (x, y) in data coordinates: text, colour name, the point's radius in pixels."""

    text: str
    colour: str
    x: float
    y: float
    radius: float = 0.0


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels."""

    left: float
    bottom: float
    right: float
    top: float

    def overlap(self, other: "Box") -> float:
        """Return the area of the intersection."""
        across = min(self.right, other.right) - max(self.left, other.left)
        up = min(self.top, other.top) - max(self.bottom, other.bottom)
        return max(across, 0.0) * max(up, 0.0)


def spread(positions: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Return the nearest positions, from `low` to `high`, with the same order and at least `gap` between any two.

    Least squares: isotonic regression by pooling neighbours that are too close (Robertson et al., 1988).
    """
    order = sorted(range(len(positions)), key=lambda index: positions[index])
    pools: list[tuple[float, int]] = []
    for rank, index in enumerate(order):
        mean, count = positions[index] - rank * gap, 1
        while pools and pools[-1][0] > mean:
            other, size = pools.pop()
            mean, count = (other * size + mean * count) / (size + count), size + count
        pools.append((mean, count))
    means = itertools.chain.from_iterable([mean] * count for mean, count in pools)
    top = high - (len(order) - 1) * gap
    placed = [0.0] * len(order)
    for rank, (index, mean) in enumerate(zip(order, means, strict=True)):
        placed[index] = max(low, min(mean, top)) + rank * gap
    return placed


def margin(canvas: Canvas, texts: Sequence[str]) -> float:
    """Return the width in pixels that `at_line_ends` needs to the right of the axes."""
    return max(canvas.extent(canvas.cut(text, _AT_LINE_END)) for text in texts) + _LEADER + 2 * _GAP


def at_line_ends(canvas: Canvas, axes: "Axes", labels: Sequence[Label]) -> None:
    """Write labels to the right of the axes, each as close as possible to the height of its line's end."""
    ends = _pixels(axes, labels)
    box = axes.get_window_extent()
    heights = spread([y for _, y in ends], _LINE, box.y0, box.y1)
    for label, (x, y), height in zip(labels, ends, heights, strict=True):
        start = box.x1 + _LEADER
        _line(canvas, [x + 3, box.x1 + 4, start], [y, y, height], label.colour)
        _write(canvas, start + _GAP, height, canvas.cut(label.text, _AT_LINE_END))


def near_points(canvas: Canvas, axes: "Axes", labels: Sequence[Label]) -> None:
    """Write labels above or below their points, as near as possible without covering points or other labels.

    Labels are placed from right to left, with the text to the right of its leader line. So leader lines avoid the
    labels placed before.
    """
    points = _pixels(axes, labels)
    window = Box(*axes.get_window_extent().extents)
    # Slightly smaller than the square around a circle, whose corners are empty.
    occupied = [
        Box(x - 0.8 * label.radius, y - 0.8 * label.radius, x + 0.8 * label.radius, y + 0.8 * label.radius)
        for (x, y), label in zip(points, labels, strict=True)
    ]
    leaders: list[Box] = []
    for label, point in sorted(zip(labels, points, strict=True), key=lambda each: each[1], reverse=True):
        text = canvas.cut(label.text, _NEAR_POINT)
        candidates = list(_candidates(point, label.radius, canvas.extent(text), points, window))
        free = (
            (box, leader)
            for box, leader in candidates
            if not any(map(box.overlap, [*occupied, *leaders]))
            and not any(map(leader.overlap, occupied[len(points) :]))
        )
        box, leader = next(free, candidates[-1])
        occupied.append(box)
        if not box.left < point[0] < box.right:
            leaders.append(leader)
            _line(canvas, [point[0], point[0]], [leader.bottom, leader.top], label.colour)
        _write(canvas, box.left, (box.bottom + box.top) / 2, text)


def _pixels(axes: "Axes", labels: Sequence[Label]) -> list[Point]:
    # Matplotlib computes automatic limits only when they are read.
    axes.set(xlim=axes.get_xlim(), ylim=axes.get_ylim())
    pixels = axes.transData.transform([(label.x, label.y) for label in labels])
    return [(float(x), float(y)) for x, y in pixels]


def _candidates(
    point: Point, radius: float, width: float, points: Sequence[Point], window: Box
) -> Iterator[tuple[Box, Box]]:
    """Yield the possible boxes of a text within the window, each with its leader line, nearest first."""
    x, y = point
    left = min(max(x - width / 2, window.left), window.right - width)
    if sum(left <= other <= left + width for other, _ in points) > 1:
        # Near other points: the text goes to one side, to leave space for their leader lines.
        left = x + _GAP if x + _GAP + width <= window.right else x - _GAP - width
    for height in range(2, int(window.top - window.bottom), 3):
        above, below = y + radius + height, y - radius - height - _LINE
        if above + _LINE <= window.top:
            box = Box(left, above, left + width, above + _LINE)
            yield box, Box(x - 1, y + radius, x + 1, box.top)
        if window.bottom <= below:
            box = Box(left, below, left + width, below + _LINE)
            yield box, Box(x - 1, box.bottom, x + 1, y - radius)


def _line(canvas: Canvas, x: list[float], y: list[float], colour: str) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.transforms import IdentityTransform

    line = Line2D(x, y, color=placeholder(colour), linewidth=1, alpha=0.8, transform=IdentityTransform())
    canvas.figure.add_artist(line)


def _write(canvas: Canvas, x: float, y: float, text: str) -> None:
    from matplotlib.transforms import IdentityTransform

    canvas.figure.text(x, y, text, va="center_baseline", transform=IdentityTransform())
