"""MLPerf's LoadGen on targets whose times are known."""

import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import numpy as np
import pytest

from conftest import ROOT
from tfship.benchmarks.harness import mlperf_loadgen
from tfship.export.runtimes.litert import LiteRT
from tfship.export.runtimes.protocol import Classifier
from tfship.train.common.errors import ResultError, UsageError

pytestmark = pytest.mark.skipif(not mlperf_loadgen.AVAILABLE, reason="needs mlcommons-loadgen")

SECONDS = 0.005
SUMMARY = """\
================================================
MLPerf Results Summary
================================================
SUT name : PySUT
Scenario : SingleStream
Mode     : PerformanceOnly
90.0th percentile latency (ns) : 12023144
Result is : VALID
  Min duration satisfied : Yes
  Min queries satisfied : Yes
  Early stopping satisfied: Yes
Early Stopping Result:
 * Processed at least 64 queries (109).
 * Would discard 2 highest latency queries.
 * Early stopping 90.0th percentile estimate: 15943027
 * Not enough queries processed for 99.0th percentile
 early stopping estimate (would need to process at
 least 662 total queries).

================================================
Additional Stats
================================================
QPS w/ loadgen overhead         : 107.69
QPS w/o loadgen overhead        : 107.65

Min latency (ns)                : 5146304
Max latency (ns)                : 17784621
Mean latency (ns)               : 9289715
50.00 percentile latency (ns)   : 9627610
90.00 percentile latency (ns)   : 12023144
95.00 percentile latency (ns)   : 12366478
97.00 percentile latency (ns)   : 14401716
99.00 percentile latency (ns)   : 15999763
99.90 percentile latency (ns)   : 17784621
"""


class Sleeper:
    """Sleeps for each query, and notes what it was asked and how long it took: on a busy machine, longer."""

    def __init__(self, seconds: float = SECONDS) -> None:
        self.seconds = seconds
        self.asked: list[Sequence[int]] = []
        self.took: list[float] = []
        self.threads: set[int] = set()

    def __call__(self, indices: Sequence[int]) -> None:
        start = time.perf_counter()
        time.sleep(self.seconds)
        self.took.append(time.perf_counter() - start)
        self.asked.append(indices)
        self.threads.add(threading.get_ident())


def measured_as_slept(summary: mlperf_loadgen.Summary, target: Sleeper, images: int) -> None:
    """LoadGen's clock starts before the call and stops after it; how much later, a busy machine decides."""
    assert summary.p50_ns >= sorted(target.took)[(len(target.took) - 1) // 2] * 1e9
    assert 0 < summary.rate <= images / np.mean(target.took) * 1.001  # is told in hundredths


def test_single_stream_measures_what_each_query_takes(tmp_path: Path) -> None:
    target = Sleeper()
    summary = mlperf_loadgen.drive(
        "SingleStream", target, 10, tmp_path / "new", rate=200, seconds=0.6, min_queries=64
    )
    assert summary.scenario == "SingleStream"
    assert summary.valid
    assert summary.early_stopping
    assert all(len(indices) == 1 for indices in target.asked)
    assert {index for (index,) in target.asked} == set(range(10))
    measured_as_slept(summary, target, images=1)
    # As LoadGen has it: no mean of two.
    assert summary.p90_ns >= sorted(target.took)[int(0.9 * len(target.took))] * 1e9
    assert list(summary.estimates) == [90]
    assert summary.estimates[90] >= summary.p90_ns
    assert summary.text == (tmp_path / "new" / "mlperf_log_summary.txt").read_text()


def test_multi_stream_asks_for_eight_at_a_time(tmp_path: Path) -> None:
    target = Sleeper()
    summary = mlperf_loadgen.drive(
        "MultiStream", target, 100, tmp_path, rate=1600, seconds=0.3, min_queries=20
    )
    assert {len(indices) for indices in target.asked} == {8}
    measured_as_slept(summary, target, images=8)
    # The 99th percentile needs 662 queries.
    assert not summary.valid
    assert not summary.early_stopping
    assert summary.estimates == {}


def test_offline_asks_for_all_at_once(tmp_path: Path) -> None:
    target = Sleeper(0.2)
    summary = mlperf_loadgen.drive("Offline", target, 50, tmp_path, rate=500, seconds=0.1, min_queries=200)
    ((asked,),) = [target.asked]
    assert len(asked) == 200
    assert np.bincount(asked).tolist() == [4] * 50
    assert 0 < summary.rate <= 200 / target.took[0] * 1.001
    assert summary.valid


def test_server_s_queries_come_at_their_rate_whoever_answers(tmp_path: Path) -> None:
    target = Sleeper()
    summary = mlperf_loadgen.drive(
        "Server", target, 50, tmp_path, rate=100, seconds=0.8, threads=4, bound_ms=500
    )
    assert summary.scenario == "Server"
    assert len(target.threads) > 1
    assert threading.get_ident() not in target.threads
    assert all(len(indices) == 1 for indices in target.asked)
    # Poisson arrivals, always the same ones; what is left of them at the end isn't answered in the time.
    assert 0 < summary.rate < 130
    assert summary.p50_ns >= SECONDS * 1e9
    assert not [each for each in threading.enumerate() if each.name == "loadgen"]


def test_a_server_run_far_beyond_its_bound_ends_early(tmp_path: Path) -> None:
    start = time.monotonic()
    summary = mlperf_loadgen.drive("Server", Sleeper(), 50, tmp_path, rate=1000, seconds=30, bound_ms=1)
    assert time.monotonic() - start < 30
    assert not summary.valid
    assert summary.p99_ns > 1e6


@pytest.mark.parametrize("scenario", ["SingleStream", "MultiStream", "Server", "Offline"])
@pytest.mark.parametrize("raised", [ValueError, KeyboardInterrupt])
def test_what_the_call_raises_ends_the_run(
    scenario: mlperf_loadgen.Scenario, raised: type[BaseException], tmp_path: Path
) -> None:
    calls = []

    def call(indices: Sequence[int]) -> None:
        calls.append(indices)
        if len(calls) == (1 if scenario == "Offline" else 3):
            raise raised("no answer")

    with pytest.raises(raised, match="no answer"):
        mlperf_loadgen.drive(scenario, call, 10, tmp_path, rate=1000, seconds=0.5, min_queries=10)
    assert len(calls) == (1 if scenario == "Offline" else 3)
    # And LoadGen can be used again.
    assert mlperf_loadgen.drive(
        "Offline", Sleeper(), 10, tmp_path, rate=1, seconds=0.001, min_queries=10
    ).valid


def test_it_measures_what_the_calls_take(tmp_path: Path) -> None:
    file = ROOT / "models" / "released" / "cnn.int8.tflite"
    target = Classifier(LiteRT(file), str(file))
    images = np.random.default_rng(0).random((20, 1, 28, 28, 1), np.float32)
    took: list[float] = []

    def call(indices: Sequence[int]) -> None:
        start = time.perf_counter()
        for index in indices:
            target.predict(images[index])
        took.append(time.perf_counter() - start)

    for number in range(20):
        call([number])
    # At least three times the queries that the time needs, however busy the machine was: a run that ends early isn't
    # valid.
    rate = 3 / min(took)
    took.clear()
    begin = time.perf_counter()
    summary = mlperf_loadgen.drive("SingleStream", call, 20, tmp_path, rate=rate, seconds=0.4)
    whole = time.perf_counter() - begin
    assert summary.valid
    # LoadGen's clock starts before the call and stops after it. A median is at most twice the mean (Markov).
    assert median(took) * 1e9 <= summary.p50_ns * 1.01
    assert summary.p50_ns <= 2 * whole / len(took) * 1e9


def test_without_loadgen_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "mlperf_loadgen", None)
    with pytest.raises(UsageError, match=r"pip install 'tfship\[benchmark\]'"):
        mlperf_loadgen.drive("Offline", Sleeper(), 1, tmp_path, rate=1, seconds=1)


def test_logs_need_a_place(tmp_path: Path) -> None:
    (tmp_path / "mlperf_log_summary.txt").mkdir()
    with pytest.raises(UsageError, match="mlperf_log_summary.txt: LoadGen can't write there"):
        mlperf_loadgen.drive("Offline", Sleeper(), 1, tmp_path, rate=1, seconds=1)


def test_summary_is_read() -> None:
    summary = mlperf_loadgen.parse(SUMMARY)
    assert (summary.p50_ns, summary.p90_ns, summary.p99_ns) == (9627610, 12023144, 15999763)
    assert (summary.rate, summary.valid, summary.estimates) == (107.69, True, {90: 15943027})
    assert not mlperf_loadgen.parse(SUMMARY.replace(": VALID", ": INVALID")).valid
    offline = SUMMARY.replace("SingleStream", "Offline") + "Samples per second: 1.23e+06\n"
    assert mlperf_loadgen.parse(offline).rate == 1.23e6


@pytest.mark.parametrize(
    ("before", "after", "missing"),
    [
        ("Scenario : SingleStream", "", "no 'Scenario'"),
        ("SingleStream", "MultiStreamFree", "the scenario MultiStreamFree"),
        ("SingleStream", "MultiStream", "no 'samples_per_query'"),
        ("Result is : VALID", "Result is : MAYBE", "no 'Result is'"),
        ("Early stopping satisfied: Yes", "", "no 'Early stopping satisfied'"),
        ("107.69", "nan", r"no 'QPS w/ loadgen overhead'"),
        ("99.00 percentile latency (ns)   : 15999763", "", r"no '99.00 percentile latency \(ns\)'"),
        (SUMMARY, "", "no 'Scenario'"),
    ],
)
def test_what_loadgen_never_said_is_refused(before: str, after: str, missing: str) -> None:
    with pytest.raises(ResultError, match=f"LoadGen: {missing} in its summary; expected"):
        mlperf_loadgen.parse(SUMMARY.replace(before, after))
