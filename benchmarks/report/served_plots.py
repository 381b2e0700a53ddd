"""Plots of a model's served rows.

As in `benchmarks.report.plots`, each function returns a plot, or a sentence with the reason why there is none.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tfship.benchmarks.report import labels, scales
from tfship.benchmarks.report.colours import PARTS, of_format, placeholder
from tfship.benchmarks.report.drawing import Canvas, Plot
from tfship.benchmarks.report.figures import duration
from tfship.benchmarks.report.labels import Label
from tfship.benchmarks.report.models import Model, Row, missing_sentence

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["parts", "throughput"]

# Line style and marker by protocol. The colour shows the format that the server runs.
_LINES = {"gRPC": ("-", "o"), "REST base64": ("--", "s"), "REST JSON": (":", "^")}


def throughput(model: Model) -> Plot | str:
    """Return the plot of images per second by connections: a panel per server, a line per protocol."""
    rows = [row for row in model.served if row["sweep"]]
    if not rows:
        return missing_sentence(model.served, "sweep")
    servers: dict[str, list[Row]] = {}
    for row in rows:
        servers.setdefault(row["server"], []).append(row)
    highest = max(map(_highest_rate, rows))

    def draw(canvas: Canvas) -> None:
        side = labels.margin(canvas, [row["protocol"] for row in rows])
        width, height = canvas.size
        across, down = (width, height / len(servers)) if canvas.narrow else (width / len(servers), height)
        for place, (server, served) in enumerate(servers.items()):
            column, line = (0, place) if canvas.narrow else (place, 0)
            left, top = column * across, line * down
            axes = canvas.axes(
                left=left + 56,
                right=width - left - across + side,
                top=top + 52,
                bottom=height - top - down + 46,
            )
            axes.set(ylim=(0, 1.05 * highest), xlabel="connections")
            scales.integers(axes, "y", max_ticks=5)
            scales.name_above(canvas, axes, "images/s", title=canvas.cut(server, 0.8 * across / width))
            _lines(canvas, axes, served)

    fastest = max(rows, key=_highest_rate)
    return Plot(
        "Throughput against concurrency",
        "Closed loop, one image per request: each connection sends its next request after the last response.",
        f"Images per second by number of connections, {len(rows)} served rows. Maximum: {_highest_rate(fastest):,.0f} "
        f"by {fastest['name']}.",
        draw,
        (340, 250 * len(servers)),
    )


def parts(model: Model) -> Plot | str:
    """Return the plot of the parts of a request's time: one bar per row."""
    rows = [row for row in model.served if row["parts_us"]]
    if not rows:
        return missing_sentence(model.served, "parts_us")
    sums = [sum(row["parts_us"].values()) for row in rows]

    def draw(canvas: Canvas) -> None:
        # On a narrow page, names are above their bars.
        names = [canvas.cut(row["name"], 0.9 if canvas.narrow else 0.4) for row in rows]
        left = 6 if canvas.narrow else max(map(canvas.extent, names)) + 12
        axes = canvas.axes(left=left, right=canvas.extent("00.0 ms") + 10, top=4, bottom=46)
        axes.set(
            xlim=(0, max(sums)),
            ylim=(len(rows) - 0.5, -0.8 if canvas.narrow else -0.5),
            xlabel="microseconds",
        )
        scales.integers(axes, "x", max_ticks=4 if canvas.narrow else 8)
        axes.set_yticks([] if canvas.narrow else range(len(rows)), [] if canvas.narrow else names)
        axes.tick_params("y", labelcolor=placeholder("ink"))
        axes.spines["left"].set_visible(False)
        axes.grid(visible=False, axis="y")
        for place, (row, total) in enumerate(zip(rows, sums, strict=True)):
            _bar(axes, place, row, 0.46 if canvas.narrow else 0.62)
            text_style: dict[str, Any] = {"textcoords": "offset points", "color": placeholder("ink")}
            axes.annotate(duration(total), (total, place), (6, 0), va="center_baseline", **text_style)
            if canvas.narrow:
                axes.annotate(names[place], (0, place - 0.28), (0, 2), **text_style)

    totals = [f"{row['name']} {duration(total)}" for row, total in zip(rows, sums, strict=True)]
    return Plot(
        "Time of a request by part",
        "Medians. Blue: client; orange: server; network: the time that neither accounts for.",
        f"Parts of the time of one request. Totals: {'; '.join(totals)}.",
        draw,
        (34 * len(rows) + 50, 50 * len(rows) + 60),
        {part: part.replace("_", " ") for part in PARTS if any(part in row["parts_us"] for row in rows)},
    )


def _lines(canvas: Canvas, axes: "Axes", rows: Sequence[Row]) -> None:
    """Draw one server's lines with their labels."""
    ends, connections = [], set()
    for row in rows:
        line, marker = _LINES[row["protocol"]]
        sweep = sorted(row["sweep"], key=lambda point: point["connections"])
        points = [(math.log2(point["connections"]), point["rate"]) for point in sweep]
        connections |= {point["connections"] for point in sweep}
        axes.plot(
            *zip(*points, strict=True), color=placeholder(of_format(row["format"])), linewidth=1.8,
            linestyle=line, marker=marker, markersize=5,
        )  # fmt: skip
        ends.append(Label(row["protocol"], of_format(row["format"]), *points[-1]))
    axes.set_xticks([math.log2(count) for count in connections], [f"{count}" for count in connections])
    labels.at_line_ends(canvas, axes, ends)


def _bar(axes: "Axes", place: int, row: Row, high: float) -> None:
    start = 0.0
    for part in PARTS:
        spent = row["parts_us"].get(part, 0.0)
        axes.barh(
            place, spent, high, start, color=placeholder(part), edgecolor=placeholder("paper"), linewidth=0.8
        )
        start += spent


def _highest_rate(row: Row) -> float:
    return max(float(point["rate"]) for point in row["sweep"])
