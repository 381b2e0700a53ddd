"""MLPerf Inference's load generator, LoadGen, driving any function, so that its figures can be compared with ours.

LoadGen chooses the samples and the times of queries, measures the latency and judges the result. Queries run in
LoadGen's own thread, one at a time. In the Server scenario, where queries arrive independently of responses, they run
in other threads.

The package `mlcommons-loadgen` is needed for this alone. Its state is global, so a process has one run at a time.
"""

import importlib.util
import queue
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tfship.train.common import cli
from tfship.train.common.errors import ResultError, UsageError
from tfship.train.common.files import write_bytes

__all__ = ["AVAILABLE", "IMAGES_PER_QUERY", "Scenario", "Summary", "drive", "parse"]

Scenario = Literal["SingleStream", "MultiStream", "Server", "Offline"]

# Whether LoadGen is installed.
AVAILABLE = importlib.util.find_spec("mlperf_loadgen") is not None
# Images per query in the MultiStream scenario.
IMAGES_PER_QUERY = 8

# LoadGen creates its queries in advance, for an expected rate. A run that uses them up too early is invalid, so the
# expected rate is increased by this factor.
_SLACK = 1.5
# A Server run ends early when `_WAITING` + `_TIMES_WAITING` × (queries due within the bound) are waiting.
_TIMES_WAITING, _WAITING = 10, 100


@dataclass(frozen=True)
class Summary:
    """LoadGen's summary of a run.

    The percentiles are in nanoseconds: of queries in MultiStream, otherwise of samples, which are one query in Offline.
    `rate` is samples per second, computed from the mean latency in MultiStream. `early_stopping` is true if there were
    enough queries for LoadGen's 99 % confidence; `estimates` then has its percentile estimates by number. `valid` is
    LoadGen's verdict: long enough, enough queries, and in Server within the bound. `text` is the whole summary.
    """

    scenario: str
    valid: bool
    p50_ns: int
    p90_ns: int
    p99_ns: int
    rate: float
    early_stopping: bool
    estimates: dict[int, int]
    text: str


def drive(
    scenario: Scenario,
    call: Callable[[Sequence[int]], object],
    count: int,
    folder: Path,
    *,
    rate: float,
    seconds: float,
    min_queries: int = 1,
    bound_ms: float = 100.0,
    threads: int = 1,
) -> Summary:
    """Run LoadGen on `call` with `count` samples, numbered from 0, and return its summary.

    `call` receives the numbers of a query's samples (in Offline: of all samples) and returns when they are done. In
    Server, `threads` threads call it. `rate` is samples per second: the arrivals in Server, otherwise the expected
    rate. A run lasts at least `seconds` and has at least `min_queries`. `bound_ms` is the bound for the 99th percentile
    in Server; a run that misses it by far ends early. LoadGen's logs go to `folder`.

    Raises UsageError if LoadGen isn't installed or can't write to `folder`, ResultError for an unexpected summary.
    Raises what `call` raises, after LoadGen's schedule, which takes up to `seconds` in Server; `call` isn't called
    again.
    """
    try:
        import mlperf_loadgen
    except ImportError:
        raise cli.missing("--loadgen", "mlcommons-loadgen", "benchmark") from None
    summary = folder / "mlperf_log_summary.txt"
    try:
        # LoadGen ends the process if it can't write. Also removes the summary of an earlier run.
        write_bytes(summary, b"")
    except OSError as error:
        raise UsageError(
            f"{summary}: LoadGen can't write there ({error.strerror}); choose another folder"
        ) from error
    settings = mlperf_loadgen.TestSettings()
    settings.scenario = getattr(mlperf_loadgen.TestScenario, scenario)
    settings.mode = mlperf_loadgen.TestMode.PerformanceOnly
    settings.min_duration_ms = round(seconds * 1e3)
    settings.min_query_count = min_queries
    settings.single_stream_expected_latency_ns = round(1e9 / (rate * _SLACK))
    settings.multi_stream_expected_latency_ns = round(IMAGES_PER_QUERY * 1e9 / (rate * _SLACK))
    settings.multi_stream_samples_per_query = IMAGES_PER_QUERY
    settings.offline_expected_qps = rate * _SLACK
    settings.server_target_qps = rate
    settings.server_target_latency_ns = round(bound_ms * 1e6)
    settings.server_max_async_queries = _WAITING + round(_TIMES_WAITING * rate * bound_ms / 1e3)
    log = mlperf_loadgen.LogSettings()
    log.enable_trace = False
    log.log_output.outdir = str(folder)
    target = _Target(mlperf_loadgen, call)
    with target.running(threads if scenario == "Server" else 0) as issue:
        system = mlperf_loadgen.ConstructSUT(issue, lambda: None)
        samples = mlperf_loadgen.ConstructQSL(count, count, lambda _: None, lambda _: None)
        try:
            # By default, LoadGen overrides these settings by those that it finds in the working directory.
            mlperf_loadgen.StartTestWithLogSettings(
                system, samples, settings, log, str(folder / "audit.config")
            )
        finally:
            mlperf_loadgen.DestroyQSL(samples)
            mlperf_loadgen.DestroySUT(system)
    if target.error is not None:
        raise target.error
    return parse(summary.read_text())


class _Target:
    """Runs LoadGen's queries by `call`. `error` is the first exception that it raised."""

    def __init__(self, loadgen: Any, call: Callable[[Sequence[int]], object]) -> None:
        self._loadgen, self._call = loadgen, call
        self.error: BaseException | None = None

    @contextmanager
    def running(self, threads: int) -> Iterator[Callable[[Sequence[Any]], None]]:
        """Yield a function that runs a query, in one of `threads` threads, or in the caller's if that is 0."""
        if not threads:
            yield self._run
            return
        waiting: queue.SimpleQueue[Sequence[Any] | None] = queue.SimpleQueue()

        def work() -> None:
            while (samples := waiting.get()) is not None:
                self._run(samples)

        workers = [threading.Thread(target=work, name="loadgen", daemon=True) for _ in range(threads)]
        for each in workers:
            each.start()
        try:
            yield waiting.put
        finally:
            for _ in workers:
                waiting.put(None)
            for each in workers:
                each.join()

    def _run(self, samples: Sequence[Any]) -> None:
        # LoadGen's C++ doesn't handle exceptions, Ctrl-C included.
        try:
            if self.error is None:
                self._call([sample.index for sample in samples])
        except BaseException as error:  # noqa: BLE001 - raised when LoadGen has ended
            self.error = self.error or error
        # When measuring time, LoadGen ignores the content of responses.
        self._loadgen.QuerySamplesComplete(
            [self._loadgen.QuerySampleResponse(sample.id, 0, 0) for sample in samples]
        )


_RATES = {
    "SingleStream": "QPS w/ loadgen overhead",
    "Server": "Completed samples per second",
    "Offline": "Samples per second",
}
_NUMBER = r"\d+(?:\.\d+)?(?:e[+-]\d+)?"


def parse(text: str) -> Summary:
    """Parse LoadGen's mlperf_log_summary.txt. Raises ResultError if it is incomplete."""
    scenario = _value("Scenario", r"\w+", text)

    def percentile(which: int) -> int:
        return int(_value(f"{which}.00 percentile latency (ns)", r"\d+", text))

    if scenario == "MultiStream":
        images, mean = _value("samples_per_query", r"\d+", text), _value("Mean latency (ns)", r"\d+", text)
        rate = int(images) * 1e9 / int(mean)
    elif scenario in _RATES:
        rate = float(_value(_RATES[scenario], _NUMBER, text))
    else:
        raise _unexpected(f"the scenario {scenario}", text)
    return Summary(
        scenario,
        _value("Result is", "VALID|INVALID", text) == "VALID",
        percentile(50),
        percentile(90),
        percentile(99),
        rate,
        _value("Early stopping satisfied", "Yes|NO", text) == "Yes",
        {
            int(which): int(value)
            for which, value in re.findall(r"Early stopping (\d+)(?:\.0)?th percentile estimate: (\d+)", text)
        },
        text,
    )


def _value(name: str, pattern: str, text: str) -> str:
    match = re.search(rf"^ *{re.escape(name)} *: *({pattern})$", text, re.MULTILINE)
    if match is None:
        raise _unexpected(f"no {name!r}", text)
    return match[1]


def _unexpected(what: str, text: str) -> ResultError:
    return ResultError(
        f"LoadGen: {what} in its summary; expected one of mlcommons-loadgen 5 or 6. It printed: {text[:500]!r}"
    )
