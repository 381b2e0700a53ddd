"""MLPerf Inference's own load generator, LoadGen, on anything that answers: its figures, beside ours.

LoadGen decides which samples are asked for and when, takes the time from there to the answer, and judges. What it
asks is answered in its own thread, where one query is at work at a time; in the Server scenario, where queries come
whether the last one is answered or not, other threads answer.

It is the package `mlcommons-loadgen`, which isn't needed for anything else. It has one state for a whole process: one
run at a time.
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

from tfship.train.common.errors import ResultError, UsageError
from tfship.train.common.files import write_bytes

__all__ = ["AVAILABLE", "IMAGES_PER_QUERY", "Scenario", "Summary", "drive", "parse"]

Scenario = Literal["SingleStream", "MultiStream", "Server", "Offline"]

# Whether LoadGen is installed.
AVAILABLE = importlib.util.find_spec("mlperf_loadgen") is not None
# In the MultiStream scenario.
IMAGES_PER_QUERY = 8

# LoadGen makes its queries before it starts, for the rate that it is told to expect, and a run that uses them up in
# less than its time is invalid: so it is told more.
_SLACK = 1.5
# A Server run ends early when so many times more queries wait than could be answered within the bound, and these.
_TIMES_WAITING, _WAITING = 10, 100


@dataclass(frozen=True)
class Summary:
    """What LoadGen says of a run.

    The percentiles are nanoseconds: of queries in MultiStream, else of samples, which in Offline come as one query.
    `rate` is samples per second, in MultiStream by the mean latency. `early_stopping` says whether there were enough
    queries for LoadGen's 99 % confidence, and `estimates` has the percentiles, by number, that it vouches for then.
    `valid` is its verdict: long enough, enough queries, in Server within the bound. `text` is all that it said.
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
    """Have LoadGen ask `call` for some of `count` samples, by their numbers from 0, and return its summary.

    `call` gets the numbers of one query's samples (of Offline: of all) and returns when they are answered; in Server
    `threads` threads call it. `rate` is samples per second: those that come in Server, else those to be expected. A
    run lasts `seconds` or longer and has `min_queries` or more; `bound_ms` is the latency that Server's 99th percentile
    must keep, and a run that is far beyond it ends early. LoadGen's logs go to `folder`.

    Raises UsageError if LoadGen isn't installed or can't write there, ResultError if what it writes isn't understood,
    and what `call` raises: it isn't called again, and LoadGen is answered at once until its schedule is over, which
    in Server takes up to `seconds`.
    """
    try:
        import mlperf_loadgen
    except ImportError:
        raise UsageError(
            "LoadGen isn't installed; `pip install mlcommons-loadgen`, or leave it out"
        ) from None
    said = folder / "mlperf_log_summary.txt"
    try:
        # Where LoadGen can't write, it ends the process; and another run's summary must not be taken for this one's.
        write_bytes(said, b"")
    except OSError as error:
        raise UsageError(
            f"{said}: LoadGen can't write there ({error.strerror}); choose another folder"
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
    with target.answering(threads if scenario == "Server" else 0) as issue:
        system = mlperf_loadgen.ConstructSUT(issue, lambda: None)
        samples = mlperf_loadgen.ConstructQSL(count, count, lambda _: None, lambda _: None)
        try:
            # Settings of its own that it finds in the working directory would override these.
            mlperf_loadgen.StartTestWithLogSettings(
                system, samples, settings, log, str(folder / "audit.config")
            )
        finally:
            mlperf_loadgen.DestroyQSL(samples)
            mlperf_loadgen.DestroySUT(system)
    if target.error is not None:
        raise target.error
    return parse(said.read_text())


class _Target:
    """Answers LoadGen's queries with a call; `error` is what that raised first."""

    def __init__(self, loadgen: Any, call: Callable[[Sequence[int]], object]) -> None:
        self._loadgen, self._call = loadgen, call
        self.error: BaseException | None = None

    @contextmanager
    def answering(self, threads: int) -> Iterator[Callable[[Sequence[Any]], None]]:
        """Yield what takes a query: it answers, or leaves that to `threads` threads, which end with the body."""
        if not threads:
            yield self._answer
            return
        waiting: queue.SimpleQueue[Sequence[Any] | None] = queue.SimpleQueue()

        def work() -> None:
            while (samples := waiting.get()) is not None:
                self._answer(samples)

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

    def _answer(self, samples: Sequence[Any]) -> None:
        # What is raised here would go through LoadGen's C++, which doesn't expect it, Ctrl-C included.
        try:
            if self.error is None:
                self._call([sample.index for sample in samples])
        except BaseException as error:  # noqa: BLE001 - raised when LoadGen has ended
            self.error = self.error or error
        # What the answers are is of no interest to LoadGen where it measures time.
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
    """Return what LoadGen's mlperf_log_summary.txt says. Raises ResultError if it isn't all there."""
    scenario = _found("Scenario", r"\w+", text)

    def percentile(which: int) -> int:
        return int(_found(f"{which}.00 percentile latency (ns)", r"\d+", text))

    if scenario == "MultiStream":
        images, mean = _found("samples_per_query", r"\d+", text), _found("Mean latency (ns)", r"\d+", text)
        rate = int(images) * 1e9 / int(mean)
    elif scenario in _RATES:
        rate = float(_found(_RATES[scenario], _NUMBER, text))
    else:
        raise _not_understood(f"the scenario {scenario}", text)
    return Summary(
        scenario,
        _found("Result is", "VALID|INVALID", text) == "VALID",
        percentile(50),
        percentile(90),
        percentile(99),
        rate,
        _found("Early stopping satisfied", "Yes|NO", text) == "Yes",
        {
            int(which): int(value)
            for which, value in re.findall(r"Early stopping (\d+)(?:\.0)?th percentile estimate: (\d+)", text)
        },
        text,
    )


def _found(name: str, pattern: str, text: str) -> str:
    match = re.search(rf"^ *{re.escape(name)} *: *({pattern})$", text, re.MULTILINE)
    if match is None:
        raise _not_understood(f"no {name!r}", text)
    return match[1]


def _not_understood(what: str, text: str) -> ResultError:
    return ResultError(
        f"LoadGen: {what} in its summary; expected that of mlcommons-loadgen 5 or 6. It said: {text[:500]!r}"
    )
