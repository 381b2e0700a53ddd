"""What the plots' axes have in common: times on a logarithmic scale, names where they can be read."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from tfship.benchmarks.report.colours import placeholder
from tfship.benchmarks.report.drawing import Canvas

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["above", "times", "whole"]

_TICKS = [step * 10**power for power in range(-1, 8) for step in (1, 2, 5)]
# The least that an axis reaches beyond its values, in decades.
_BEYOND = 0.04
# Pixels that are left for the ticks' labels beside a vertical axis.
_TICK_LABELS = 56


def times(
    axes: "Axes", which: Literal["x", "y"], microseconds: Sequence[float], *, most: int, pad: float = 0.03
) -> None:
    """Give an axis the logarithmic scale of times, with ticks at 1, 2 and 5 unless these are more than `most`.

    It reaches beyond the values by the share `pad` of their span.
    """
    low, high = math.log10(min(microseconds)), math.log10(max(microseconds))
    beyond = max(pad * (high - low), _BEYOND)
    bounds = 10 ** (low - beyond), 10 ** (high + beyond)
    ticks = [time for time in _TICKS if bounds[0] <= time <= bounds[1]]
    if len(ticks) > most:
        ticks = [time for time in ticks if math.log10(time) == round(math.log10(time))]
    axes.set(**{f"{which}scale": "log", f"{which}lim": bounds})
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_ticks(ticks, [f"{time / 1e3:g} ms" if time >= 1e3 else f"{time:g} µs" for time in ticks])
    axis.set_ticks([], minor=True)


def whole(axes: "Axes", which: Literal["x", "y"], most: int) -> None:
    """Give an axis at most so many ticks, at round numbers with a comma before the thousands."""
    axes.locator_params(which, nbins=most)
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_formatter(lambda value, _: f"{value:,.0f}")


def above(canvas: Canvas, axes: "Axes", name: str, title: str = "") -> None:
    """Name the vertical axis above it, where one reads it without turning one's head, below the axes' title."""
    from matplotlib.transforms import IdentityTransform

    box, at = axes.get_window_extent(), IdentityTransform()
    left = max(box.x0 - _TICK_LABELS, 2)
    canvas.figure.text(left, box.y1 + 12, name, color=placeholder("muted"), transform=at)
    if title:
        canvas.figure.text(left, box.y1 + 30, title, weight="bold", transform=at)
