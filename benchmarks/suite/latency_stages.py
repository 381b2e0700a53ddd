"""The stages that time one query after the other, all rows in turn."""

import functools
import math
import time
from collections.abc import Callable, Collection, Mapping

from tfship.benchmarks.harness import timer
from tfship.benchmarks.harness.mlperf_loadgen import IMAGES_PER_QUERY
from tfship.benchmarks.harness.timer import Timing, window_for
from tfship.benchmarks.suite import latency_breakdown, system_under_test
from tfship.benchmarks.suite.measured_model import Bench
from tfship.benchmarks.suite.modes import Mode
from tfship.benchmarks.suite.system_under_test import OpenSubject, Subject
from tfship.export.conversion.formats import REFERENCE

__all__ = [
    "END_TO_END", "STAGES", "batches", "end_to_end", "first", "in_all_rounds", "least", "longest",
    "parts_of_requests", "query",
]  # fmt: skip

# The stages' names, by images in a query.
STAGES = {1: "one image", IMAGES_PER_QUERY: f"{IMAGES_PER_QUERY} images", 64: "64 images"}
END_TO_END = "end to end"
_PARTS = 100
_DIFFERENT = 4


def first(bench: Bench, asked: Mapping[str, OpenSubject]) -> dict[str, float]:
    """Return the milliseconds of each served row's first request: before anything else is asked."""
    served = [row for row in bench.rows if row.server]
    queries = {row.name: asked[row.name].prepared(bench.pixels[:1]) for row in served}

    def ask(name: str) -> float:
        start = time.perf_counter()
        asked[name].ask(queries[name])
        return round((time.perf_counter() - start) * 1e3, 3)

    return bench.each("first request", served, lambda row: ask(row.name))


def query(bench: Bench, asked: Mapping[str, OpenSubject]) -> dict[str, Timing]:
    """Time queries of one image: the model alone, or a request."""
    return _queries(bench, asked, 1)


def batches(bench: Bench, asked: Mapping[str, OpenSubject]) -> dict[int, dict[str, Timing]]:
    """Time queries of more images than one, by how many they are."""
    return {size: _queries(bench, asked, size) for size in STAGES if size > 1}


def least(mode: Mode, row: Subject, size: int) -> int:
    """Return how many queries of `size` images a window of a row has at least."""
    # MultiStream's figure is the 99th percentile; of other batches the median will do.
    return mode.window if size == 1 or (size == IMAGES_PER_QUERY and row.plain) else window_for("50")


def longest(mode: Mode, stage: str, compared: bool) -> float:
    """Return how many seconds a window's samples may take, if it needn't have fewer."""
    if compared and mode.longest_compared is not None:
        return mode.longest_compared
    if stage in (STAGES[1], END_TO_END):
        return mode.longest
    return mode.window_seconds if mode.longest < math.inf else math.inf


def in_all_rounds(mode: Mode, row: Subject, stage: str) -> bool:
    """Return whether a row is measured in every round that there may be: the formats where that ranks them."""
    return stage == STAGES[1] and row.is_format and mode.longest_compared is not None


def end_to_end(bench: Bench, asked: Mapping[str, OpenSubject]) -> dict[str, Timing]:
    """Time encoded pictures to labels, for all rows but variants, which differ in the model alone."""
    pictures = [system_under_test.png(each) for each in bench.pixels]

    def call(target: OpenSubject) -> Callable[[int], object]:
        return lambda number: target.label(pictures[number % len(pictures)])

    calls = {row.name: call(asked[row.name]) for row in bench.rows if row.plain}
    return _in_turn(bench, END_TO_END, calls, dict.fromkeys(calls, bench.mode.window))


def parts_of_requests(bench: Bench) -> dict[str, dict[str, float] | None]:
    """Take the time of requests apart, where there is a server that tells its own."""
    pictures = [system_under_test.png(each) for each in bench.pixels]
    return bench.each(
        "parts of a request",
        [row for row in bench.rows if row.server],
        lambda row: latency_breakdown.measure(row, bench.contract, pictures, _PARTS),
    )


def _queries(bench: Bench, asked: Mapping[str, OpenSubject], size: int) -> dict[str, Timing]:
    def call(target: OpenSubject) -> Callable[[int], object]:
        # Of large queries a few will do: what is in them doesn't change how long they take.
        different = bench.queries(size, len(bench.pixels) if size == 1 else _DIFFERENT)
        queries = [target.prepared(each) for each in different]
        return lambda number: target.ask(queries[number % len(queries)])

    calls = {row.name: call(asked[row.name]) for row in bench.rows}
    window = {row.name: least(bench.mode, row, size) for row in bench.rows}
    compared = [row.name for row in bench.rows if in_all_rounds(bench.mode, row, STAGES[size])]
    return _in_turn(bench, STAGES[size], calls, window, compared, bench.mode.patience if size == 1 else 0.0)


def _in_turn(
    bench: Bench,
    stage: str,
    calls: Mapping[str, Callable[[int], object]],
    window: Mapping[str, int],
    compared: Collection[str] = (),
    patience: float = 0.0,
) -> dict[str, Timing]:
    servers = {row.name: bench.servers.get(row.server or "") for row in bench.rows}

    def spent(name: str) -> tuple[float, float]:
        server = servers[name]
        return time.process_time(), server.cpu() if server else 0.0

    return timer.in_turn(
        calls,
        reference=REFERENCE,
        compared=compared,
        window=window,
        window_seconds=bench.mode.window_seconds,
        most=bench.mode.most,
        longest={name: longest(bench.mode, stage, name in compared) for name in calls},
        rounds=bench.mode.rounds,
        patience=patience,
        spent=spent,
        kept=bench.kept(stage),
        report=functools.partial(bench.told, stage),
    )
