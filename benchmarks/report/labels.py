"""Labels beside what they name, so that no plot needs a legend, and none over another."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tfship.benchmarks.report.colours import placeholder
from tfship.benchmarks.report.drawing import Canvas

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Box", "Label", "around", "beside", "room", "spread"]

# Pixels.
_LINE, _LEADER, _GAP = 17.0, 16.0, 5.0
# The most of a plot's width that a label takes.
_BESIDE, _AROUND = 0.35, 0.5

Point = tuple[float, float]


@dataclass(frozen=True)
class Label:
    """A text for the point (x, y) of a plot, in its units; whose colour it has; the point's radius in pixels."""

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
        """Return the area that both cover."""
        across = min(self.right, other.right) - max(self.left, other.left)
        up = min(self.top, other.top) - max(self.bottom, other.bottom)
        return max(across, 0.0) * max(up, 0.0)


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Return places as near to the wanted ones as `gap` between any two allows, within bounds, in the same order.

    Least squares: isotonic regression by pooling neighbours that are too close (Robertson et al., 1988).
    """
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    pools: list[tuple[float, int]] = []
    for rank, index in enumerate(order):
        mean, count = wanted[index] - rank * gap, 1
        while pools and pools[-1][0] > mean:
            before, many = pools.pop()
            mean, count = (before * many + mean * count) / (many + count), many + count
        pools.append((mean, count))
    means = itertools.chain.from_iterable([mean] * count for mean, count in pools)
    top = high - (len(order) - 1) * gap
    placed = [0.0] * len(order)
    for rank, (index, mean) in enumerate(zip(order, means, strict=True)):
        placed[index] = max(low, min(mean, top)) + rank * gap
    return placed


def room(canvas: Canvas, texts: Sequence[str]) -> float:
    """Return how many pixels `beside` needs at the right of the axes."""
    return max(canvas.extent(canvas.cut(text, _BESIDE)) for text in texts) + _LEADER + 2 * _GAP


def beside(canvas: Canvas, axes: "Axes", labels: Sequence[Label]) -> None:
    """Write labels at the right of the axes, each on the height of its line's end as far as others leave room."""
    ends = _pixels(axes, labels)
    box = axes.get_window_extent()
    heights = spread([y for _, y in ends], _LINE, box.y0, box.y1)
    for label, (x, y), height in zip(labels, ends, heights, strict=True):
        start = box.x1 + _LEADER
        _line(canvas, [x + 3, box.x1 + 4, start], [y, y, height], label.colour)
        _write(canvas, start + _GAP, height, canvas.cut(label.text, _BESIDE))


def around(canvas: Canvas, axes: "Axes", labels: Sequence[Label]) -> None:
    """Write labels above or below their points, like flags on poles as high as it takes to cover nothing.

    From right to left, texts at the right of their poles: so poles pass the texts that are there already.
    """
    points = _pixels(axes, labels)
    window = Box(*axes.get_window_extent().extents)
    # A circle covers less than the square around it.
    taken = [
        Box(x - 0.8 * label.radius, y - 0.8 * label.radius, x + 0.8 * label.radius, y + 0.8 * label.radius)
        for (x, y), label in zip(points, labels, strict=True)
    ]
    poles: list[Box] = []
    for label, point in sorted(zip(labels, points, strict=True), key=lambda each: each[1], reverse=True):
        text = canvas.cut(label.text, _AROUND)
        flags = list(_flags(point, label.radius, canvas.extent(text), points, window))
        free = (
            (box, pole)
            for box, pole in flags
            if not any(map(box.overlap, [*taken, *poles]))
            and not any(map(pole.overlap, taken[len(points) :]))
        )
        box, pole = next(free, flags[-1])
        taken.append(box)
        if not box.left < point[0] < box.right:
            poles.append(pole)
            _line(canvas, [point[0], point[0]], [pole.bottom, pole.top], label.colour)
        _write(canvas, box.left, (box.bottom + box.top) / 2, text)


def _pixels(axes: "Axes", labels: Sequence[Label]) -> list[Point]:
    # Limits that nobody has set are only found when somebody asks for them.
    axes.set(xlim=axes.get_xlim(), ylim=axes.get_ylim())
    pixels = axes.transData.transform([(label.x, label.y) for label in labels])
    return [(float(x), float(y)) for x, y in pixels]


def _flags(
    point: Point, radius: float, width: float, points: Sequence[Point], window: Box
) -> Iterator[tuple[Box, Box]]:
    """Yield the places of a text within the window, with the pole that each needs, the nearest first."""
    x, y = point
    left = min(max(x - width / 2, window.left), window.right - width)
    if sum(left <= other <= left + width for other, _ in points) > 1:
        # Not alone, so that it must make room for poles.
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

    drawn = placeholder(colour)
    canvas.figure.add_artist(Line2D(x, y, color=drawn, linewidth=1, alpha=0.8, transform=IdentityTransform()))


def _write(canvas: Canvas, x: float, y: float, text: str) -> None:
    from matplotlib.transforms import IdentityTransform

    canvas.figure.text(x, y, text, va="center_baseline", transform=IdentityTransform())
