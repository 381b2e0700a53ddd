"""The stages that time single queries, one after the other, all rows in turn."""

import functools
import math
import time
from collections.abc import Callable, Mapping

from tfship.benchmarks.harness import timer
from tfship.benchmarks.harness.mlperf_loadgen import IMAGES_PER_QUERY
from tfship.benchmarks.harness.timer import Call, Schedule, Timing, window_for
from tfship.benchmarks.suite import latency_breakdown, system_under_test
from tfship.benchmarks.suite.measured_model import Bench
from tfship.benchmarks.suite.modes import Mode
from tfship.benchmarks.suite.stages import BATCHES, END_TO_END, in_all_rounds
from tfship.benchmarks.suite.system_under_test import OpenSubject, Subject
from tfship.export.conversion.formats import REFERENCE

__all__ = ["batches", "end_to_end", "first", "parts_of_requests", "query"]

_PARTS = 100
_DIFFERENT = 4

Targets = Mapping[str, OpenSubject]


def first(bench: Bench, targets: Targets) -> dict[str, float]:
    """Return the milliseconds of each served row's first request. Call it before any other stage."""
    queries = {
        row.name: targets[row.name].prepare(bench.pixels[:1]) for row in bench.measured("first request")
    }

    def time_request(row: Subject) -> float:
        start = time.perf_counter()
        targets[row.name].run(queries[row.name])
        return round((time.perf_counter() - start) * 1e3, 3)

    return bench.each("first request", time_request)


def query(bench: Bench, targets: Targets) -> dict[str, Timing]:
    """Time queries of one image: inference alone, or a request to a server."""
    return _queries(bench, targets, 1)


def batches(bench: Bench, targets: Targets) -> dict[int, dict[str, Timing]]:
    """Time queries of several images, and return the timings by number of images."""
    return {size: _queries(bench, targets, size) for size in BATCHES if size > 1}


def end_to_end(bench: Bench, targets: Targets) -> dict[str, Timing]:
    """Time the way from an encoded image to its label."""
    encoded = [system_under_test.png(each) for each in bench.pixels]

    def call(target: OpenSubject) -> Callable[[int], object]:
        return lambda number: target.label(encoded[number % len(encoded)])

    calls = {row.name: call(targets[row.name]) for row in bench.measured(END_TO_END)}
    return _in_turn(bench, END_TO_END, calls, dict.fromkeys(calls, bench.mode.window))


def parts_of_requests(bench: Bench) -> dict[str, dict[str, float] | None]:
    """Return the time of each part of a request, None for servers that don't report theirs."""
    encoded = [system_under_test.png(each) for each in bench.pixels]
    return bench.each(
        "parts of a request", lambda row: latency_breakdown.measure(row, bench.contract, encoded, _PARTS)
    )


def _queries(bench: Bench, targets: Targets, size: int) -> dict[str, Timing]:
    def call(target: OpenSubject) -> Call:
        # A few large queries are enough: their content doesn't change their duration.
        different = bench.queries(size, len(bench.pixels) if size == 1 else _DIFFERENT)
        return target.repeated([target.prepare(each) for each in different])

    rows = bench.measured(BATCHES[size])
    calls = {row.name: call(targets[row.name]) for row in rows}
    return _in_turn(bench, BATCHES[size], calls, {row.name: _window(bench.mode, row, size) for row in rows})


def _window(mode: Mode, row: Subject, size: int) -> int:
    """Return the minimum number of queries of `size` images in a window of a row."""
    # MultiStream needs the 99th percentile; for other batches the median is enough.
    return mode.window if size == 1 or (size == IMAGES_PER_QUERY and row.plain) else window_for("50")


def _longest(mode: Mode, row: Subject, stage: str) -> float:
    """Return the maximum seconds of a window, beyond which it has fewer samples."""
    if in_all_rounds(mode, row, stage) and mode.longest_compared is not None:
        return mode.longest_compared
    if stage in (BATCHES[1], END_TO_END):
        return mode.longest
    return mode.window_seconds if mode.longest < math.inf else math.inf


def _in_turn(
    bench: Bench, stage: str, calls: Mapping[str, Call], window: Mapping[str, int]
) -> dict[str, Timing]:
    rows = bench.measured(stage)
    servers = {row.name: bench.servers.get(row.server or "") for row in rows}

    def cpu_seconds(name: str) -> tuple[float, float]:
        server = servers[name]
        return time.process_time(), server.cpu() if server else 0.0

    schedule = Schedule(
        window=window,
        window_seconds=bench.mode.window_seconds,
        most=bench.mode.most,
        longest={row.name: _longest(bench.mode, row, stage) for row in rows},
        rounds=bench.mode.rounds,
        compared=[row.name for row in rows if in_all_rounds(bench.mode, row, stage)],
        reference=REFERENCE,
        patience=bench.mode.patience if stage == BATCHES[1] else 0.0,
    )
    report = functools.partial(bench.count, stage)
    return timer.in_turn(calls, schedule, cpu_seconds=cpu_seconds, kept=bench.kept(stage), report=report)
