"""The stage with `--loadgen`: MLPerf's LoadGen drives the rows, and its figures stand beside ours.

Both ask the same queries, LoadGen between two runs of ours, so that a machine that drifts does so for both.
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
from tfship.benchmarks.suite import load_stages
from tfship.benchmarks.suite.measured_model import Bench
from tfship.benchmarks.suite.system_under_test import Subject
from tfship.serving.server.settings import cores
from tfship.train.common.errors import UsageError

__all__ = ["compared", "require", "run"]

# Of the highest rate that kept the bound: one that is kept again.
_SERVER_SHARE = 0.8
_SEED = 2
_Ask = Callable[[Sequence[int]], object]


def require() -> None:
    """Raise UsageError if LoadGen isn't installed."""
    if not mlperf_loadgen.AVAILABLE:
        raise UsageError("--loadgen: mlcommons-loadgen isn't installed; pip install mlcommons-loadgen")


def run(bench: Bench, server: dict[str, Any]) -> dict[str, Any]:
    """Return LoadGen's figures beside ours, by row and scenario; `server` is what `loaded.server` found.

    SingleStream for every row but variants, MultiStream and Offline in this process, Server at a share of the rate
    that was found.
    """

    def each(row: Subject) -> dict[str, Any]:
        scenarios: list[Scenario] = (
            ["SingleStream"] if row.server else ["SingleStream", "MultiStream", "Offline"]
        )
        found = compared(bench, row, scenarios)
        if rate := (server.get(row.name) or {}).get("rate"):
            found["server"] = _server(bench, row, _SERVER_SHARE * rate)
        return found

    return bench.each("LoadGen", [row for row in bench.rows if row.plain], each)


def compared(bench: Bench, row: Subject, scenarios: Sequence[Scenario]) -> dict[str, Any]:
    """Run scenarios on a row by ourselves and by LoadGen; return both figures by the result file's names.

    They are microseconds of SingleStream's 90th percentile and MultiStream's 99th, and Offline's images per second.
    """
    workers = cores()
    asked = row.open(workers)
    samples = [asked.prepared(each) for each in bench.queries(1, len(bench.pixels))]

    def ask(indices: Sequence[int]) -> object:
        return asked.ask(
            samples[indices[0]] if len(indices) == 1 else np.concatenate([samples[i] for i in indices])
        )

    found = {}
    with contextlib.closing(asked), ThreadPoolExecutor(workers) as pool:

        def ask_all(indices: Sequence[int]) -> object:
            starts = range(0, len(indices), OFFLINE_BATCH)
            return list(pool.map(lambda start: ask(indices[start : start + OFFLINE_BATCH]), starts))

        if "SingleStream" in scenarios:
            found["single_stream"] = _one_by_one(bench, "SingleStream", ask, 1, "90")
        if "MultiStream" in scenarios:
            found["multi_stream"] = _one_by_one(bench, "MultiStream", ask, IMAGES_PER_QUERY, "99")
        if "Offline" in scenarios:
            found["offline"] = _offline(bench, ask_all)
    return found


def _one_by_one(bench: Bench, scenario: Scenario, ask: _Ask, images: int, which: str) -> dict[str, Any]:
    count = len(bench.pixels)

    def ours() -> NDArray[np.float64]:
        timing = timer.in_turn(
            {scenario: lambda number: ask([(number + place) % count for place in range(images)])},
            window=max(bench.mode.window, timer.window_for(which)),
            window_seconds=bench.mode.window_seconds,
            most=bench.mode.most,
        )
        return timing[scenario].samples

    before = ours()
    summary = _drive(
        bench, scenario, ask,
        rate=images / float(np.median(before)), seconds=float(before.sum()), min_queries=timer.FLOORS[which],
    )  # fmt: skip
    samples = np.concatenate([before, ours()])
    found = float(np.percentile(samples, float(which))) * 1e6
    return _beside(found, {"90": summary.p90_ns, "99": summary.p99_ns}[which] / 1e3, summary)


def _offline(bench: Bench, ask_all: _Ask) -> dict[str, Any]:
    images = [number % len(bench.pixels) for number in range(bench.mode.offline)]

    def ours() -> float:
        load = load_loops.opened(lambda: contextlib.nullcontext(lambda _: ask_all(images)), 1, np.zeros(1), 1)
        return load.seconds

    before = ours()
    summary = _drive(
        bench, "Offline", ask_all,
        rate=len(images) / before, seconds=max(before, bench.mode.trial_seconds),
    )  # fmt: skip
    return _beside(2 * len(images) / (before + ours()), summary.rate, summary)


def _server(bench: Bench, row: Subject, rate: float) -> dict[str, Any]:
    """Return the 99th percentile in microseconds from the scheduled send, at `rate`."""
    count = max(timer.FLOORS["99"], round(rate * bench.mode.trial_seconds))
    with load_stages.under_load(bench, row) as callers, contextlib.ExitStack() as stack:
        due = load_loops.poisson(rate, count, np.random.default_rng(_SEED))
        load = load_loops.opened(callers.connect, callers.at_once, due, len(callers))
        mine = threading.local()
        lock = threading.Lock()

        def ask(indices: Sequence[int]) -> object:
            if not hasattr(mine, "call"):
                with lock:
                    mine.call = stack.enter_context(callers.connect())
            return mine.call(indices[0])

        summary = _drive(
            bench, "Server", ask,
            rate=rate, seconds=count / rate, min_queries=count, bound_ms=bench.options.bound_ms,
            threads=callers.at_once,
        )  # fmt: skip
    return _beside(float(np.percentile(load.latencies, 99)) * 1e6, summary.p99_ns / 1e3, summary)


def _drive(bench: Bench, scenario: Scenario, ask: _Ask, **options: Any) -> Summary:
    with tempfile.TemporaryDirectory(prefix="tfship-loadgen-") as folder:
        return mlperf_loadgen.drive(scenario, ask, len(bench.pixels), Path(folder), **options)


def _beside(ours: float, its: float, summary: Summary) -> dict[str, Any]:
    return {
        "ours": round(ours, 2),
        "loadgen": round(its, 2),
        "ratio": round(ours / its, 4),
        "valid": summary.valid,
        "summary": summary.text,
    }
