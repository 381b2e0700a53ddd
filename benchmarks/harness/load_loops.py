"""Load from several callers at once: a closed loop, and an open one that hides no waiting.

In a closed loop each caller sends its next query when the last one is answered: how much gets through with so many
connections. A target that stalls is then asked less, and its stall counts once.

In the open loop queries are due at given times, whatever the target does (MLPerf's Server scenario: a Poisson
process), and a query's latency counts from the time at which it was *due*. One that had to wait for a caller has
waited: without that, a stall of a second would cost one sample instead of all that fell due meanwhile ("coordinated
omission"; Tene, "How NOT to measure latency").
"""

import itertools
import math
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfship.train.common import interruption

__all__ = ["Connect", "Load", "closed", "opened", "poisson"]

# Opens what one caller asks: called with a query's number, it answers that query.
Connect = Callable[[], AbstractContextManager[Callable[[int], Any]]]

_START_SECONDS = 0.05


@dataclass(frozen=True)
class Load:
    """What came of it: `latencies` in seconds, in `seconds` from the start to the last answer.

    `answers` are the last ones to a query of each number that was given, by the number.
    """

    latencies: NDArray[np.float64]
    seconds: float
    answers: Mapping[int, Any]

    @property
    def rate(self) -> float:
        """Queries answered per second."""
        return len(self.latencies) / self.seconds


def poisson(rate: float, count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return when `count` queries are due, in seconds, at `rate` a second on average, independently of each other."""
    due: NDArray[np.float64] = np.cumsum(rng.exponential(1 / rate, count))
    return due


def closed(connect: Connect, callers: int, seconds: float, distinct: int) -> Load:
    """Have `callers` ask for `seconds`, each one query after the other, of the numbers below `distinct` in turn.

    Each asks once at least, however late it begins. Raises what a caller raises, when all have stopped.
    """

    def work(call: Callable[[int], Any], caller: int, start: float, team: _Team) -> None:
        # Not all the same query at the same time.
        for number in itertools.count(caller * (distinct // callers or 1)):
            begin = time.perf_counter()
            team.answered(number % distinct, call(number % distinct), begin)
            if time.perf_counter() - start >= seconds or team.failed:
                return

    return _Team(connect, callers).run(work)


def opened(
    connect: Connect,
    callers: int,
    due: NDArray[np.float64],
    distinct: int,
    *,
    bound: float = math.inf,
    most_late: int = 0,
) -> Load:
    """Have queries answered that are `due` at these seconds from the start, by at most `callers` at a time.

    Latency counts from when a query was due. It ends early, with those that were answered, once more than `most_late`
    queries took longer than `bound` seconds. Raises as `closed`.
    """
    numbers = itertools.count()  # its next() is atomic

    def work(call: Callable[[int], Any], caller: int, start: float, team: _Team) -> None:  # noqa: ARG001
        while (number := next(numbers)) < len(due) and not team.failed and team.late <= most_late:
            scheduled = start + float(due[number])
            if (early := scheduled - time.perf_counter()) > 0:
                time.sleep(early)
            team.answered(number % distinct, call(number % distinct), scheduled)

    return _Team(connect, callers, bound).run(work)


_Work = Callable[[Callable[[int], Any], int, float, "_Team"], None]


class _Team:
    """Callers, a thread each, that begin together."""

    def __init__(self, connect: Connect, callers: int, bound: float = math.inf) -> None:
        self._connect, self._callers, self._bound = connect, callers, bound
        self._latencies: list[float] = []  # append is atomic
        self._answers: dict[int, Any] = {}
        self.late = 0  # how many latencies are beyond the bound
        self._errors: list[BaseException] = []
        self._barrier = threading.Barrier(callers + 1)
        self._start = 0.0

    @property
    def failed(self) -> bool:
        """Whether a caller has met an error: the others need not go on."""
        return bool(self._errors)

    def answered(self, number: int, answer: Any, since: float) -> None:
        """Count an answer to a query that is timed from `since`."""
        latency = time.perf_counter() - since
        self._latencies.append(latency)
        if latency > self._bound:
            self.late += 1  # two callers at a time may count one: it ends one query later
        self._answers[number] = answer

    def run(self, work: _Work) -> Load:
        threads = [
            threading.Thread(target=self._call, args=(work, caller), name=f"caller {caller}", daemon=True)
            for caller in range(self._callers)
        ]
        for thread in threads:
            thread.start()
        with interruption.waiting():
            self._barrier.wait()  # all are connected, and have had an answer
            self._start = time.perf_counter() + _START_SECONDS
            self._barrier.wait()
            for thread in threads:
                thread.join()
        end = time.perf_counter()
        if self._errors:
            raise self._errors[0]
        return Load(np.array(self._latencies), end - self._start, self._answers)

    def _call(self, work: _Work, caller: int) -> None:
        waits = 2
        try:
            with self._connect() as call:
                call(0)
                self._barrier.wait()
                self._barrier.wait()
                waits = 0
                time.sleep(max(0.0, self._start - time.perf_counter()))
                work(call, caller, self._start, self)
        except BaseException as error:  # noqa: BLE001 - raised again by the thread that waits for it
            self._errors.append(error)
            # Nobody waits for one who doesn't come.
            for _ in range(waits):
                self._barrier.wait()
