"""Labels beside what they name, so that no plot needs a legend, and none over another."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.report.colours import placeholder
from benchmarks.report.drawing import Canvas

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Box", "Label", "around", "beside", "room", "spread"]

# Pixels.
_LINE, _LEADER, _GAP = 17.0, 16.0, 5.0
# The most of a plot's width that a label takes.
_BESIDE, _AROUND = 0.35, 0.5
# Where along a leader it is looked what lies below it.
_STEPS = [step / 12 for step in range(12)]

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

    def holds(self, point: Point) -> bool:
        """Tell whether a point lies in it."""
        return self.left < point[0] < self.right and self.bottom < point[1] < self.top


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
    """Write labels near their points: the nearest place where they cover neither points nor one another."""
    points = _pixels(axes, labels)
    window = axes.get_window_extent()
    # A circle covers less than the square around it.
    taken = [
        Box(x - 0.8 * label.radius, y - 0.8 * label.radius, x + 0.8 * label.radius, y + 0.8 * label.radius)
        for (x, y), label in zip(points, labels, strict=True)
    ]
    # Small points have the fewest places that are near.
    for index in sorted(range(len(labels)), key=lambda index: labels[index].radius):
        label, point = labels[index], points[index]
        # Its own circle is where its leader begins.
        others = [*taken[:index], *taken[index + 1 :]]
        box = min(
            _places(canvas, label, *point, Box(*window.extents)),
            key=lambda box: _cost(box, label, point, taken[index], others),
        )
        taken.append(box)
        start, end = _leader(label, point, box)
        if math.dist(start, end) > 6:
            _line(canvas, [start[0], end[0]], [start[1], end[1]], label.colour)
        _write(canvas, box.left + 2, (box.bottom + box.top) / 2, canvas.cut(label.text, _AROUND))


def _pixels(axes: "Axes", labels: Sequence[Label]) -> list[Point]:
    # Limits that nobody has set are only found when somebody asks for them.
    axes.set(xlim=axes.get_xlim(), ylim=axes.get_ylim())
    pixels = axes.transData.transform([(label.x, label.y) for label in labels])
    return [(float(x), float(y)) for x, y in pixels]


def _places(canvas: Canvas, label: Label, x: float, y: float, window: Box) -> list[Box]:
    """Return the places within the window where a label may stand, at growing distances in sixteen directions."""
    width, height = canvas.extent(canvas.cut(label.text, _AROUND)) + 4, _LINE
    places = []
    for distance, turn in itertools.product((3, 12, 24, 38, 54, 72, 92, 114), range(16)):
        angle = turn * math.pi / 8
        reach = label.radius + distance
        # The label's middle, so far out that its edge is at that distance.
        across = x + math.cos(angle) * (reach + width / 2)
        up = y + math.sin(angle) * (reach + height / 2)
        left = min(max(across - width / 2, window.left), window.right - width)
        bottom = min(max(up - height / 2, window.bottom), window.top - height)
        places.append(Box(left, bottom, left + width, bottom + height))
    return places


def _cost(box: Box, label: Label, point: Point, own: Box, others: Sequence[Box]) -> float:
    """Return how bad a place is: for what the label covers, what its leader crosses, how far away it is."""
    start, end = _leader(label, point, box)
    steps = [(start[0] + t * (end[0] - start[0]), start[1] + t * (end[1] - start[1])) for t in _STEPS]
    crossed = sum(other.holds(step) for other in others for step in steps)
    covered = sum(box.overlap(other) for other in (own, *others))
    middle = ((box.left + box.right) / 2, (box.bottom + box.top) / 2)
    return 100 * covered + 20 * crossed + math.dist(point, middle)


def _leader(label: Label, point: Point, box: Box) -> tuple[Point, Point]:
    """Return where a line from the point's circle to its label begins and ends."""
    x, y = point
    end = min(max(x, box.left), box.right), min(max(y, box.bottom), box.top)
    share = label.radius / max(math.dist(point, end), label.radius, 1e-9)
    return (x + share * (end[0] - x), y + share * (end[1] - y)), end


def _line(canvas: Canvas, x: list[float], y: list[float], colour: str) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.transforms import IdentityTransform

    drawn = placeholder(colour)
    canvas.figure.add_artist(Line2D(x, y, color=drawn, linewidth=1, alpha=0.8, transform=IdentityTransform()))


def _write(canvas: Canvas, x: float, y: float, text: str) -> None:
    from matplotlib.transforms import IdentityTransform

    canvas.figure.text(x, y, text, va="center_baseline", transform=IdentityTransform())
