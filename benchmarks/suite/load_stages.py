"""The stages with several callers: the Offline scenario, the sweep over connections, and the Server scenario."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfship.benchmarks.harness import scenarios
from tfship.benchmarks.harness.callers import Callers
from tfship.benchmarks.harness.scenarios import CALLERS, OFFLINE_BATCH
from tfship.benchmarks.suite.measured_model import Bench, Classes
from tfship.benchmarks.suite.system_under_test import Subject
from tfship.serving.server.settings import cores

__all__ = ["offline", "server", "sweep", "under_load"]

# Enough to keep a server busy at all times.
_OFFLINE_CONNECTIONS = 4
_DIFFERENT = 8


def offline(bench: Bench, classes: Classes) -> dict[str, Any]:
    """Run MLPerf's Offline scenario with all cores, on every row except variants."""

    def run(row: Subject) -> dict[str, Any]:
        at_once = _OFFLINE_CONNECTIONS if row.server else max(1, cores() // (row.threads or cores()))
        pixels = bench.queries(OFFLINE_BATCH, _DIFFERENT)
        with Callers(row, pixels, at_once) as callers:
            expected = _by_query(classes, row, OFFLINE_BATCH, len(pixels))
            return scenarios.offline(callers, expected, images=bench.mode.offline)

    return bench.each("offline", run)


def sweep(bench: Bench, classes: Classes) -> dict[str, Any]:
    """Measure the throughput of servers in a closed loop, over increasing numbers of connections."""

    def run(row: Subject) -> list[dict[str, Any]]:
        connections, seconds = bench.mode.connections, bench.mode.sweep_seconds
        with Callers(row, bench.queries(1, len(bench.pixels)), max(connections)) as callers:
            return scenarios.sweep(callers, _by_query(classes, row, 1, len(callers)), connections, seconds)

    return bench.each("connections", run)


def server(bench: Bench, classes: Classes) -> dict[str, Any]:
    """Run MLPerf's Server scenario on all served rows, and on the reference in this process."""

    def run(row: Subject) -> dict[str, Any]:
        with under_load(bench, row) as callers:
            return scenarios.server(
                callers,
                _by_query(classes, row, 1, len(callers)),
                bound_ms=bench.options.bound_ms,
                seconds=bench.mode.trial_seconds,
                rates=bench.mode.trials,
            )

    return bench.each("server", run)


def under_load(bench: Bench, row: Subject) -> Callers:
    """Return the callers of a row in the Server scenario, with queries of one image."""
    return Callers(row, bench.queries(1, len(bench.pixels)), CALLERS if row.server else cores())


def _by_query(classes: Classes, row: Subject, size: int, count: int) -> Sequence[NDArray[np.int64]]:
    """Return the classes that the row predicted, for the images of `count` queries of `size` images."""
    return [
        classes[row.name].take(np.arange(number * size, (number + 1) * size), mode="wrap")
        for number in range(count)
    ]
