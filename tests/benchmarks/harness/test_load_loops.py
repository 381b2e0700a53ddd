import contextlib
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from tfship.benchmarks.harness import load_loops, timer
from tfship.benchmarks.harness.load_loops import Connect


class Stalling:
    """A target that answers in a millisecond, one query at a time, and once, in its `stalls`-th, takes a second."""

    def __init__(self, stalls: int) -> None:
        self._lock = threading.Lock()
        self._stalls = stalls
        self.asked = 0

    @contextlib.contextmanager
    def connect(self) -> Iterator[Callable[[int], int]]:
        yield self.answer

    def answer(self, number: int) -> int:
        with self._lock:
            self.asked += 1
            time.sleep(1.0 if self.asked == self._stalls else 0.0002)
        return number


def instant(answers: list[int] | None = None) -> Connect:
    def call(number: int) -> int:
        if answers is not None:
            answers.append(number)
        return number * 10

    return lambda: contextlib.nullcontext(call)


def test_an_open_loop_shows_a_stall_of_a_second_and_a_closed_one_hides_it() -> None:
    due = load_loops.poisson(1_000, 7_000, np.random.default_rng(1))
    stalling = Stalling(stalls=2_000)
    load = load_loops.open_loop(stalling.connect, 8, due, 10)
    assert len(load.latencies) == 7_000
    figures = timer.percentiles(load.latencies)
    assert figures["99.9"] is not None
    # Whatever fell due within that second has waited for the rest of it: a seventh of all.
    assert figures["99.9"] > 0.9
    assert np.mean(load.latencies > 0.1) > 0.1

    # The same stall, and each caller waits for its answer before it asks again: one sample of each, of thousands.
    closed = load_loops.closed_loop(Stalling(stalls=200).connect, 4, 4.0, 10)
    assert np.max(closed.latencies) > 0.9
    assert np.mean(closed.latencies > 0.9) < 0.01


def test_poisson_arrivals_have_their_rate_and_their_spread() -> None:
    due = load_loops.poisson(200, 20_000, np.random.default_rng(2))
    gaps = np.diff(due)
    assert (gaps > 0).all()
    assert gaps.mean() == pytest.approx(1 / 200, rel=0.03)
    assert gaps.std() == pytest.approx(1 / 200, rel=0.05)  # of an exponential distribution the same


def test_queries_are_not_sent_before_they_are_due() -> None:
    sent: list[float] = []
    start = time.perf_counter()

    def call(_: int) -> None:
        sent.append(time.perf_counter() - start)

    due = np.array([0.4, 0.6, 0.8])
    load = load_loops.open_loop(lambda: contextlib.nullcontext(call), 2, due, 1)
    times = sorted(sent)[2:]  # without each caller's first, before the start
    assert (times >= due).all()
    assert load.seconds >= 0.8
    # Counted from when they were due; a busy machine may delay some.
    assert load.latencies.min() < 0.4


def test_a_closed_loop_asks_every_query_and_keeps_the_answers() -> None:
    load = load_loops.closed_loop(instant(), 3, 0.1, 7)
    assert load.responses == {number: number * 10 for number in range(7)}
    assert load.rate == pytest.approx(len(load.latencies) / load.seconds)
    assert load.seconds >= 0.1


def test_each_query_of_an_open_loop_is_asked_once() -> None:
    asked: list[int] = []
    load = load_loops.open_loop(instant(asked), 4, np.zeros(100), 100)
    assert sorted(asked) == sorted([*range(100), *[0] * 4])  # each caller's first, to connect
    assert len(load.latencies) == 100


def test_a_closed_loop_that_begins_late_asks_once() -> None:
    load = load_loops.closed_loop(instant(), 3, 0.0, 7)
    assert len(load.latencies) == 3
    assert load.rate > 0


@pytest.mark.parametrize("open_", [True, False])
@pytest.mark.parametrize("fails", ["connect", "first", "later"])
def test_what_a_caller_meets_is_raised_and_the_others_stop(open_: bool, fails: str) -> None:
    made = 0

    @contextlib.contextmanager
    def connect() -> Iterator[Callable[[int], int]]:
        nonlocal made
        made += 1
        mine = made
        if fails == "connect" and mine == 2:
            raise ConnectionError("no one there")
        calls = 0

        def call(number: int) -> int:
            nonlocal calls
            calls += 1
            if mine == 2 and calls == {"first": 1, "later": 3}.get(fails, 0):
                raise ConnectionError("gone")
            time.sleep(0.001)
            return number

        yield call

    begin = time.perf_counter()
    due = np.linspace(0, 30, 30_000)
    with pytest.raises(ConnectionError):
        load_loops.open_loop(connect, 3, due, 5) if open_ else load_loops.closed_loop(connect, 3, 30.0, 5)
    assert time.perf_counter() - begin < 30
