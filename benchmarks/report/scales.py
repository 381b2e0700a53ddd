"""Axes of the plots: logarithmic scale for times, horizontal names of vertical axes."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from tfship.benchmarks.report.colours import placeholder
from tfship.benchmarks.report.drawing import Canvas

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["integers", "name_above", "times"]

_TICKS = [step * 10**power for power in range(-1, 8) for step in (1, 2, 5)]
# Minimum padding of an axis, in decades.
_MIN_PADDING = 0.04
# Width of the tick labels of a vertical axis, in pixels.
_TICK_LABELS = 56


def times(
    axes: "Axes",
    which: Literal["x", "y"],
    microseconds: Sequence[float],
    *,
    max_ticks: int,
    pad: float = 0.03,
) -> None:
    """Give the axis `which` a logarithmic scale for the times `microseconds`.

    Ticks are at 1, 2 and 5, or at powers of ten if that would be more than `max_ticks`. `pad` is the padding as a
    share of the values' span.
    """
    low, high = math.log10(min(microseconds)), math.log10(max(microseconds))
    padding = max(pad * (high - low), _MIN_PADDING)
    bounds = 10 ** (low - padding), 10 ** (high + padding)
    ticks = [time for time in _TICKS if bounds[0] <= time <= bounds[1]]
    if len(ticks) > max_ticks:
        ticks = [time for time in ticks if math.log10(time) == round(math.log10(time))]
    axes.set(**{f"{which}scale": "log", f"{which}lim": bounds})
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_ticks(ticks, [f"{time / 1e3:g} ms" if time >= 1e3 else f"{time:g} µs" for time in ticks])
    axis.set_ticks([], minor=True)


def integers(axes: "Axes", which: Literal["x", "y"], max_ticks: int) -> None:
    """Give the axis `which` at most `max_ticks` ticks at round integers, with commas as thousands separators."""
    axes.locator_params(which, nbins=max_ticks)
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_formatter(lambda value, _: f"{value:,.0f}")


def name_above(canvas: Canvas, axes: "Axes", name: str, title: str = "") -> None:
    """Write the name of the vertical axis horizontally above it, below the axes' `title`."""
    from matplotlib.transforms import IdentityTransform

    box, at = axes.get_window_extent(), IdentityTransform()
    left = max(box.x0 - _TICK_LABELS, 2)
    canvas.figure.text(left, box.y1 + 12, name, color=placeholder("muted"), transform=at)
    if title:
        canvas.figure.text(left, box.y1 + 30, title, weight="bold", transform=at)
