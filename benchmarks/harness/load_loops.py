"""Load from several callers: a closed loop, and an open loop that includes waiting times in the latency.

In a closed loop each caller sends its next query when it has the response to the last one. It measures the throughput
for a number of connections. While a target stalls it receives fewer queries, so a stall counts once.

In the open loop queries are due at given times, whatever the target does (MLPerf's Server scenario: a Poisson
process). A query's latency counts from the time at which it was *due*, so it includes waiting for a free caller.
Otherwise a stall of a second would cost one sample instead of all the queries that fell due in that second
("coordinated omission"; Tene, "How NOT to measure latency").
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

__all__ = ["Connect", "Load", "closed_loop", "open_loop", "poisson"]

# Opens one caller's connection. The function that it yields runs the query of a number and returns the response.
Connect = Callable[[], AbstractContextManager[Callable[[int], Any]]]

_START_SECONDS = 0.05


@dataclass(frozen=True)
class Load:
    """The result of a loop: `latencies` in seconds, and the `seconds` from the start to the last response.

    `responses` has the last response to each query, by number.
    """

    latencies: NDArray[np.float64]
    seconds: float
    responses: Mapping[int, Any]

    @property
    def rate(self) -> float:
        """Completed queries per second."""
        return len(self.latencies) / self.seconds


def poisson(rate: float, count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return the seconds at which `count` queries are due: independent arrivals, `rate` a second on average."""
    due: NDArray[np.float64] = np.cumsum(rng.exponential(1 / rate, count))
    return due


def closed_loop(connect: Connect, callers: int, seconds: float, distinct: int) -> Load:
    """Run `callers` for `seconds`. Each sends one query after the other, with numbers below `distinct` in turn.

    Each sends at least one query, even if it starts late. Raises a caller's exception when all callers have stopped.
    """

    def work(call: Callable[[int], Any], caller: int, start: float, team: _Team) -> None:
        # Callers start at different queries.
        for number in itertools.count(caller * (distinct // callers or 1)):
            begin = time.perf_counter()
            team.record(number % distinct, call(number % distinct), begin)
            if time.perf_counter() - start >= seconds or team.failed:
                return

    return _Team(connect, callers).run(work)


def open_loop(
    connect: Connect,
    callers: int,
    due: NDArray[np.float64],
    distinct: int,
    *,
    bound: float = math.inf,
    most_late: int = 0,
) -> Load:
    """Run the queries that are `due` at these seconds from the start, at most `callers` at a time.

    Latency counts from when a query was due. The loop ends early when more than `most_late` queries have taken longer
    than `bound` seconds. Raises like `closed_loop`.
    """
    numbers = itertools.count()  # its next() is atomic

    def work(call: Callable[[int], Any], caller: int, start: float, team: _Team) -> None:  # noqa: ARG001
        while (number := next(numbers)) < len(due) and not team.failed and team.late <= most_late:
            scheduled = start + float(due[number])
            if (early := scheduled - time.perf_counter()) > 0:
                time.sleep(early)
            team.record(number % distinct, call(number % distinct), scheduled)

    return _Team(connect, callers, bound).run(work)


_Work = Callable[[Callable[[int], Any], int, float, "_Team"], None]


class _Team:
    """Callers that start together, each in a thread."""

    def __init__(self, connect: Connect, callers: int, bound: float = math.inf) -> None:
        self._connect, self._callers, self._bound = connect, callers, bound
        self._latencies: list[float] = []  # append is atomic
        self._responses: dict[int, Any] = {}
        self.late = 0  # number of latencies beyond the bound
        self._errors: list[BaseException] = []
        self._barrier = threading.Barrier(callers + 1)
        self._start = 0.0

    @property
    def failed(self) -> bool:
        """Whether a caller has raised an exception, so that the others should stop."""
        return bool(self._errors)

    def record(self, number: int, response: Any, since: float) -> None:
        """Record the response to a query that is timed from `since`."""
        latency = time.perf_counter() - since
        self._latencies.append(latency)
        if latency > self._bound:
            self.late += 1  # not atomic: a lost update only ends the loop one query later
        self._responses[number] = response

    def run(self, work: _Work) -> Load:
        threads = [
            threading.Thread(target=self._call, args=(work, caller), name=f"caller {caller}", daemon=True)
            for caller in range(self._callers)
        ]
        for thread in threads:
            thread.start()
        with interruption.waiting():
            self._barrier.wait()  # all are connected, and have had a response
            self._start = time.perf_counter() + _START_SECONDS
            self._barrier.wait()
            for thread in threads:
                thread.join()
        end = time.perf_counter()
        if self._errors:
            raise self._errors[0]
        return Load(np.array(self._latencies), end - self._start, self._responses)

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
            # The other callers must not wait for this one.
            for _ in range(waits):
                self._barrier.wait()
