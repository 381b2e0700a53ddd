"""Plots of a model's formats in this process.

Each function returns a plot, or a sentence with the reason why there is none.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tfship.benchmarks.report import labels, scales
from tfship.benchmarks.report.colours import of_format, placeholder
from tfship.benchmarks.report.drawing import Canvas, Plot
from tfship.benchmarks.report.figures import duration
from tfship.benchmarks.report.labels import Label
from tfship.benchmarks.report.models import Model, Row, missing_sentence

__all__ = ["accuracy", "distribution", "latency", "layers"]

# Ends and ticks of the axis of a distribution.
_SHARES = (0.01, 0.1, 0.5, 0.9, 0.99, 0.999)
_PERCENTILES = {"p50_us": 0.5, "p90_us": 0.9, "p99_us": 0.99, "p99.9_us": 0.999}


def accuracy(model: Model) -> Plot | str:
    """Return the plot of accuracy against latency, with the file's size as the area."""
    front = set(model.front)
    candidates = [*model.plain, *(row for row in model.variants if row["name"] in front)]
    rows = [row for row in candidates if row["query"] and row["query"]["p50_us"]]
    if not rows:
        return missing_sentence(candidates, "query")
    values = [100 * model.accuracy(row) for row in rows]
    interval = [100 * bound for bound in model.reference["accuracy"]["interval95"]]
    best = sorted((row for row in rows if row["name"] in front), key=_median)

    def draw(canvas: Canvas) -> None:
        axes = canvas.axes(left=46, right=12, top=30, bottom=46)
        low, high = min(*interval, *values), max(*interval, *values)
        padding = 0.12 * (high - low)
        axes.set(ylim=(low - padding, high + padding), xlabel="median latency of one image, model only")
        scales.times(axes, "x", [*map(_median, rows)], pad=0.09, max_ticks=5 if canvas.narrow else 12)
        scales.name_above(canvas, axes, "accuracy, %")
        axes.axhspan(*interval, color=placeholder("grid"), alpha=0.45, linewidth=0)
        largest = 18 if canvas.narrow else 26
        radii = [largest * math.sqrt(row["bytes"] / max(row["bytes"] for row in rows)) for row in rows]
        for row, value, radius in zip(rows, values, radii, strict=True):
            at, colour = (_median(row), value), placeholder(of_format(row["format"]))
            filled, line = (0.55, 2) if row["name"] in front else (0.2, 1)
            area = math.pi * radius**2
            axes.scatter(*at, s=area, facecolor=colour, edgecolor="none", alpha=filled, zorder=3)
            axes.scatter(*at, s=area, facecolor="none", edgecolor=colour, linewidth=line, zorder=4)
        steps = [_median(row) for row in best], [100 * model.accuracy(row) for row in best]
        axes.plot(*steps, color=placeholder("ink"), linewidth=1, linestyle=(0, (4, 3)), zorder=2)
        points = [
            Label(row["name"], of_format(row["format"]), _median(row), value, radius)
            for row, value, radius in zip(rows, values, radii, strict=True)
        ]
        labels.near_points(canvas, axes, points)

    name, names = model.reference["name"], ", ".join(row["name"] for row in best)
    return Plot(
        "Accuracy against latency",
        f"Filled circles and dashed line: the Pareto front. Area: file size. Grey band: 95 % interval of {name}'s "
        "accuracy; differences within it may be chance.",
        f"Accuracy against median latency of {len(rows)} rows in process. On the Pareto front: {names or 'none'}.",
        draw,
        (400, 400),
    )


def latency(model: Model, quantiles: Sequence[float]) -> Plot | str:
    """Return the plot of the latency distribution of one image; `quantiles` are the timings' shares, 0 to 1."""
    curves = [(row, distribution(row["query"], quantiles)) for row in model.plain if row["query"]]
    curves = [(row, curve) for row, curve in curves if curve]
    if not curves:
        return missing_sentence(model.plain, "query")

    def draw(canvas: Canvas) -> None:
        side = labels.margin(canvas, [row["name"] for row, _ in curves])
        axes = canvas.axes(left=58, right=side, top=30, bottom=46)
        scales.times(axes, "y", [time for _, curve in curves for _, time in curve], max_ticks=12)
        scales.name_above(canvas, axes, "latency of one image")
        odds = [_log_odds(share) for share in _SHARES]
        axes.set(xlim=(odds[0], odds[-1]), xlabel="percentile")
        axes.set_xticks(odds, [f"{100 * share:g}" for share in _SHARES])
        ends = []
        for row, curve in curves:
            points = [(_log_odds(share), time) for share, time in curve]
            axes.plot(*zip(*points, strict=True), color=placeholder(of_format(row["format"])), linewidth=2)
            ends.append(Label(row["name"], of_format(row["format"]), *points[-1]))
        labels.at_line_ends(canvas, axes, ends)

    medians = [f"{row['name']} {duration(_median(row))}" for row, _ in curves if row["query"]["p50_us"]]
    return Plot(
        "Latency distribution",
        "Latency by percentile, model only: at 99, the latency that 99 of 100 inferences don't exceed. Both axes are "
        "logarithmic: percentiles by their odds, time by its value.",
        f"Percentiles of the latency of one image, model only. Medians: {'; '.join(medians)}.",
        draw,
        (440, 420),
    )


def layers(model: Model) -> Plot | str:
    """Return the plot of the quantization noise in each layer's output."""
    by_format: Mapping[str, Sequence[Mapping[str, Any]]] = model.entry["layers"]
    # Formats may have different layers; the order is that of the format with the most layers.
    longest = sorted(by_format.values(), key=len, reverse=True)
    keys = list(dict.fromkeys(_key(layer) for each in longest for layer in each))
    curves = {
        name: [(keys.index(_key(layer)), layer["snr_db"]) for layer in each if layer["snr_db"] is not None]
        for name, each in by_format.items()
    }
    curves = {name: curve for name, curve in curves.items() if curve}
    if not curves:
        return "Quantization noise by layer: not measured in this run."
    # Some layers become two operators: the second one's name includes the operator.
    first = dict(reversed(keys))
    names = [
        _short(name if first[name] == operator else f"{name} {operator.lower()}") for name, operator in keys
    ]

    def draw(canvas: Canvas) -> None:
        longest_name = max(map(canvas.extent, names))
        axes = canvas.axes(
            left=40
            if canvas.narrow
            else max(40, canvas.extent(names[0])),  # the slanted label extends to the left
            right=labels.margin(canvas, list(curves)),
            top=30,
            bottom=20 + (longest_name if canvas.narrow else longest_name / 2),
        )
        axes.set_xlim(-0.3, len(names) - 0.7)
        turned: dict[str, Any] = (
            {"rotation": 90, "va": "center"} if canvas.narrow else {"rotation": 30, "va": "top"}
        )
        axes.set_xticks(range(len(names)), names, ha="right", rotation_mode="anchor", **turned)
        for name, curve in curves.items():
            colour = placeholder(of_format(name))
            axes.plot(*zip(*curve, strict=True), color=colour, linewidth=1.5, marker="o", markersize=5)
        scales.integers(axes, "y", max_ticks=6)
        scales.name_above(canvas, axes, "signal to noise, dB")
        labels.at_line_ends(
            canvas, axes, [Label(name, of_format(name), *curve[-1]) for name, curve in curves.items()]
        )

    noisiest = {name: min(curve, key=lambda point: point[1]) for name, curve in curves.items()}
    lowest = [f"{name} {names[at]} with {noise:.0f} dB" for name, (at, noise) in noisiest.items()]
    return Plot(
        "Quantization noise by layer",
        "Signal-to-noise ratio of each layer's output after quantization, first to last layer. Higher is better; 6 dB "
        "correspond to one bit. A layer without a point is exact.",
        f"Signal-to-noise ratio by layer after quantization. The noisiest layers: {'; '.join(lowest)}.",
        draw,
        (360, 420),
    )


def distribution(timing: Mapping[str, Any], quantiles: Sequence[float]) -> list[tuple[float, float]]:
    """Return pairs of share and microseconds, up to the highest percentile with enough samples."""
    known = [share for which, share in _PERCENTILES.items() if timing[which] is not None]
    pairs = zip(quantiles, timing["quantiles_us"], strict=True)
    return [(share, time) for share, time in pairs if _SHARES[0] <= share <= max(known, default=0)]


def _key(layer: Mapping[str, Any]) -> tuple[str, str]:
    return layer["name"], layer["operator"]


def _short(name: str) -> str:
    # Keeps the end: long names begin with the model's name.
    return name if len(name) <= 20 else f"…{name[-19:]}"


def _log_odds(share: float) -> float:
    return math.log10(share / (1 - share))


def _median(row: Row) -> float:
    return float(row["query"]["p50_us"])
