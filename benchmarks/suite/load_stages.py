"""The stages with several callers at a time: all images at once, connections in a closed loop, Poisson arrivals."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfship.benchmarks.harness import scenarios
from tfship.benchmarks.harness.callers import Callers
from tfship.benchmarks.harness.scenarios import CALLERS, OFFLINE_BATCH
from tfship.benchmarks.suite.measured_model import Bench, Classes
from tfship.benchmarks.suite.system_under_test import Subject
from tfship.export.conversion.formats import REFERENCE
from tfship.serving.server.settings import cores

__all__ = ["offline", "server", "sweep", "under_load"]

# As many as a server can be busy with while it waits for none of them.
_OFFLINE_CONNECTIONS = 4
_DIFFERENT = 8


def offline(bench: Bench, classes: Classes) -> dict[str, Any]:
    """Run MLPerf's Offline scenario on every row but variants, with all cores."""

    def run(row: Subject) -> dict[str, Any]:
        at_once = _OFFLINE_CONNECTIONS if row.server else max(1, cores() // (row.threads or cores()))
        pixels = bench.queries(OFFLINE_BATCH, _DIFFERENT)
        with Callers(row, pixels, at_once) as callers:
            return scenarios.offline(
                callers,
                _of_queries(classes, row, OFFLINE_BATCH, len(pixels)),
                at_once=at_once,
                images=bench.mode.offline,
            )

    return bench.each("offline", [row for row in bench.rows if row.plain], run)


def sweep(bench: Bench, classes: Classes) -> dict[str, Any]:
    """Ask servers over more and more connections, in a closed loop."""

    def run(row: Subject) -> list[dict[str, Any]]:
        connections, seconds = bench.mode.connections, bench.mode.sweep_seconds
        with Callers(row, bench.queries(1, len(bench.pixels)), max(connections)) as callers:
            return scenarios.sweep(callers, _of_queries(classes, row, 1, len(callers)), connections, seconds)

    return bench.each("connections", [row for row in bench.rows if row.server], run)


def server(bench: Bench, classes: Classes) -> dict[str, Any]:
    """Run MLPerf's Server scenario on every way of being served, and on the reference in this process."""

    def run(row: Subject) -> dict[str, Any]:
        with under_load(bench, row) as callers:
            return scenarios.server(
                callers,
                _of_queries(classes, row, 1, len(callers)),
                at_once=callers.at_once,
                bound_ms=bench.options.bound_ms,
                seconds=bench.mode.trial_seconds,
                rates=bench.mode.trials,
            )

    return bench.each("server", [row for row in bench.rows if row.server or row.name == REFERENCE], run)


def under_load(bench: Bench, row: Subject) -> Callers:
    """Return as many callers of a row as the Server scenario has, who ask about one image each."""
    return Callers(row, bench.queries(1, len(bench.pixels)), CALLERS if row.server else cores())


def _of_queries(classes: Classes, row: Subject, size: int, count: int) -> Sequence[NDArray[np.int64]]:
    """Return the classes of the images in `count` queries of `size`, by the row itself."""
    return [
        classes[row.name].take(np.arange(number * size, (number + 1) * size), mode="wrap")
        for number in range(count)
    ]
