"""The stage for `--loadgen`: MLPerf's LoadGen drives the rows, and its figures are compared with ours.

Both send the same queries. LoadGen runs between two runs of ours, so that drift of the machine affects both.
"""

import contextlib
import tempfile
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfship.benchmarks.harness import load_loops, mlperf_loadgen, timer
from tfship.benchmarks.harness.mlperf_loadgen import IMAGES_PER_QUERY, Scenario, Summary
from tfship.benchmarks.harness.scenarios import OFFLINE_BATCH
from tfship.benchmarks.harness.timer import Schedule
from tfship.benchmarks.suite import load_stages
from tfship.benchmarks.suite.measured_model import Bench
from tfship.benchmarks.suite.system_under_test import Subject
from tfship.serving.server.settings import cores
from tfship.train.common import cli

__all__ = ["compared", "require", "run"]

# Share of the highest rate that kept the bound, so that the bound is kept again.
_SERVER_SHARE = 0.8
_SEED = 2
_Run = Callable[[Sequence[int]], object]


def require() -> None:
    """Raise UsageError if LoadGen isn't installed."""
    if not mlperf_loadgen.AVAILABLE:
        raise cli.missing("--loadgen", "mlcommons-loadgen", "benchmark")


def run(bench: Bench, server: dict[str, Any]) -> dict[str, Any]:
    """Return LoadGen's figures and ours, by row and scenario. `server` has the results of `load_stages.server`.

    SingleStream runs on every row except variants, MultiStream and Offline in this process. Server runs at a share of
    the highest rate that kept the bound.
    """

    def measure(row: Subject) -> dict[str, Any]:
        scenarios: list[Scenario] = (
            ["SingleStream"] if row.server else ["SingleStream", "MultiStream", "Offline"]
        )
        found = compared(bench, row, scenarios)
        if rate := (server.get(row.name) or {}).get("rate"):
            found["server"] = _server(bench, row, _SERVER_SHARE * rate)
        return found

    return bench.each("LoadGen", measure)


def compared(bench: Bench, row: Subject, scenarios: Sequence[Scenario]) -> dict[str, Any]:
    """Run scenarios on a row without and with LoadGen; return both figures by scenario, as in the result file.

    The figures are the 90th percentile of SingleStream and the 99th of MultiStream in microseconds, and Offline's
    images per second.
    """
    workers = cores()
    target = row.open(workers)
    samples = [target.prepare(each) for each in bench.queries(1, len(bench.pixels))]

    def run(indices: Sequence[int]) -> object:
        return target.run(
            samples[indices[0]] if len(indices) == 1 else np.concatenate([samples[i] for i in indices])
        )

    found = {}
    with contextlib.closing(target), ThreadPoolExecutor(workers) as pool:

        def run_all(indices: Sequence[int]) -> object:
            starts = range(0, len(indices), OFFLINE_BATCH)
            return list(pool.map(lambda start: run(indices[start : start + OFFLINE_BATCH]), starts))

        if "SingleStream" in scenarios:
            found["single_stream"] = _one_by_one(bench, "SingleStream", run, 1, "90")
        if "MultiStream" in scenarios:
            found["multi_stream"] = _one_by_one(bench, "MultiStream", run, IMAGES_PER_QUERY, "99")
        if "Offline" in scenarios:
            found["offline"] = _offline(bench, run_all)
    return found


def _one_by_one(bench: Bench, scenario: Scenario, run: _Run, images: int, which: str) -> dict[str, Any]:
    count = len(bench.pixels)
    schedule = Schedule(
        window=max(bench.mode.window, timer.window_for(which)),
        window_seconds=bench.mode.window_seconds,
        most=bench.mode.most,
    )

    def ours() -> NDArray[np.float64]:
        timings = timer.in_turn(
            {scenario: lambda number: run([(number + place) % count for place in range(images)])}, schedule
        )
        return timings[scenario].samples

    before = ours()
    summary = _drive(
        bench, scenario, run,
        rate=images / float(np.median(before)), seconds=float(before.sum()), min_queries=timer.FLOORS[which],
    )  # fmt: skip
    samples = np.concatenate([before, ours()])
    found = float(np.percentile(samples, float(which))) * 1e6
    return _comparison(found, {"90": summary.p90_ns, "99": summary.p99_ns}[which] / 1e3, summary)


def _offline(bench: Bench, run_all: _Run) -> dict[str, Any]:
    images = [number % len(bench.pixels) for number in range(bench.mode.offline)]

    def ours() -> float:
        connect = lambda: contextlib.nullcontext(lambda _: run_all(images))  # noqa: E731
        return load_loops.open_loop(connect, 1, np.zeros(1), 1).seconds

    before = ours()
    summary = _drive(
        bench, "Offline", run_all,
        rate=len(images) / before, seconds=max(before, bench.mode.trial_seconds),
    )  # fmt: skip
    return _comparison(2 * len(images) / (before + ours()), summary.rate, summary)


def _server(bench: Bench, row: Subject, rate: float) -> dict[str, Any]:
    """Return the 99th percentiles at `rate`, in microseconds from when a query was due."""
    count = max(timer.FLOORS["99"], round(rate * bench.mode.trial_seconds))
    with load_stages.under_load(bench, row) as callers, contextlib.ExitStack() as stack:
        due = load_loops.poisson(rate, count, np.random.default_rng(_SEED))
        load = load_loops.open_loop(callers.connect, callers.at_once, due, len(callers))
        connection = threading.local()
        lock = threading.Lock()

        def run(indices: Sequence[int]) -> object:
            if not hasattr(connection, "call"):
                with lock:
                    connection.call = stack.enter_context(callers.connect())
            return connection.call(indices[0])

        summary = _drive(
            bench, "Server", run,
            rate=rate, seconds=count / rate, min_queries=count, bound_ms=bench.options.bound_ms,
            threads=callers.at_once,
        )  # fmt: skip
    return _comparison(float(np.percentile(load.latencies, 99)) * 1e6, summary.p99_ns / 1e3, summary)


def _drive(bench: Bench, scenario: Scenario, run: _Run, **options: Any) -> Summary:
    with tempfile.TemporaryDirectory(prefix="tfship-loadgen-") as folder:
        return mlperf_loadgen.drive(scenario, run, len(bench.pixels), Path(folder), **options)


def _comparison(ours: float, loadgen: float, summary: Summary) -> dict[str, Any]:
    return {
        "ours": round(ours, 2),
        "loadgen": round(loadgen, 2),
        "ratio": round(ours / loadgen, 4),
        "valid": summary.valid,
        "summary": summary.text,
    }
