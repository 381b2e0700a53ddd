"""Which requests run together, and when."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from serving_fixtures import eventually
from tfship.serving.inference.batching_config import BatchingParameters
from tfship.serving.inference.execution import Tensors
from tfship.serving.inference.scheduler import BatchQueue, BatchScheduler, Task
from tfship.serving.protos.status import Code, StatusError

NEVER = 10**15  # microseconds: a batch runs when it is full


class Batches:
    """Answers each task with its own inputs, notes what ran together, and can be made to wait."""

    def __init__(self) -> None:
        self.ran: list[list[int]] = []
        self.begun = 0
        self.most_at_once = 0
        self._now = 0
        self._lock = threading.Lock()
        self.open = threading.Event()
        self.open.set()

    def __call__(self, tasks: Sequence[Task]) -> None:
        with self._lock:
            self._now += 1
            self.begun += 1
            self.most_at_once = max(self.most_at_once, self._now)
        self.open.wait()
        for task in tasks:
            if not task.expire():
                task.succeed(task.inputs)
        with self._lock:
            self._now -= 1
            self.ran.append([task.rows for task in tasks])


class Bench:
    """A scheduler with one queue, and callers to use it."""

    def __init__(self, parameters: BatchingParameters) -> None:
        self.rows_per_batch = parameters.rows_per_batch
        self.batches = Batches()
        self.scheduler = BatchScheduler("bench", parameters.num_batch_threads)
        self.queue = BatchQueue(self.scheduler, parameters, self.batches)
        self._callers = ThreadPoolExecutor(32, thread_name_prefix="caller")

    def send(self, rows: int = 1, key: str = "", deadline: float | None = None) -> "Future[list[Tensors]]":
        """Send a request, and return when it is queued or running."""
        waiting = self.waiting() + self.batches.begun
        inputs = {"x": np.arange(rows) + 100 * rows}
        future = self._callers.submit(self.queue.run, key, inputs, rows, deadline)
        eventually(lambda: future.done() or self.waiting() + self.batches.begun > waiting)
        return future

    def waiting(self) -> int:
        with self.scheduler._lock:
            return sum(len(batch.tasks) for batch in self.queue._batches)

    def close(self) -> None:
        self.batches.open.set()
        self.queue.close()
        self._callers.shutdown()


@contextlib.contextmanager
def bench(**parameters: Any) -> Iterator[Bench]:
    made = Bench(replace(BatchingParameters(num_batch_threads=1, thread_pool_name="bench"), **parameters))
    try:
        yield made
    finally:
        made.close()
        assert not [each for each in threading.enumerate() if each.name.startswith("bench_")]


@contextlib.contextmanager
def busy(made: Bench) -> Iterator[None]:
    """Have the only thread of a bench run a full batch for as long as the block lasts."""
    made.batches.open.clear()
    begun = made.batches.begun
    made.send(made.rows_per_batch, key="busy")
    eventually(lambda: made.batches.begun == begun + 1)
    yield
    made.batches.open.set()


def refusal(call: Callable[[], Any]) -> tuple[Code, str]:
    with pytest.raises(StatusError) as refused:
        call()
    return refused.value.code, refused.value.message


def values(future: "Future[list[Tensors]]") -> list[int]:
    return [int(value) for piece in future.result(30) for value in piece["x"]]


def test_a_batch_runs_when_it_is_full() -> None:
    with bench(max_batch_size=4, batch_timeout_micros=NEVER) as made:
        futures = [made.send(), made.send(2)]
        assert not wait(futures, 0.05).done
        futures.append(made.send())
        assert [values(each) for each in futures] == [[100], [200, 201], [100]]
        assert made.batches.ran == [[1, 2, 1]]


def test_a_batch_runs_when_its_first_request_has_waited_for_the_timeout() -> None:
    with bench(batch_timeout_micros=20_000) as made:
        begin = time.monotonic()
        futures = [made.send(), made.send()]
        wait(futures)
        assert time.monotonic() - begin >= 0.02
        assert made.batches.ran in ([[1, 1]], [[1], [1]])  # the second may have been late


def test_a_batch_without_a_timeout_runs_as_soon_as_a_thread_is_free() -> None:
    with bench() as made:
        assert values(made.send()) == [100]
        with busy(made):
            futures = [made.send(), made.send(2), made.send(3)]
        wait(futures)
        assert made.batches.ran == [[1], [1000], [1, 2, 3]]


def test_the_thread_that_completes_a_batch_runs_it() -> None:
    names = []

    def process(tasks: Sequence[Task]) -> None:
        names.append(threading.current_thread().name)
        for task in tasks:
            task.succeed(task.inputs)

    queue = BatchQueue(BatchScheduler("pool", 1), BatchingParameters(), process)
    queue.run("", {}, 1)
    assert names == [threading.current_thread().name]
    queue.close()
    queue = BatchQueue(BatchScheduler("pool", 1), BatchingParameters(batch_timeout_micros=1000), process)
    queue.run("", {}, 1)
    assert names[1:] == ["pool_0"]
    queue.close()


def test_requests_of_different_keys_do_not_share_a_batch() -> None:
    with bench(max_batch_size=2, batch_timeout_micros=NEVER) as made:
        futures = [made.send(key="a"), made.send(key="b")]
        assert not wait(futures, 0.05).done
        futures += [made.send(key="b"), made.send(key="a")]
        wait(futures)
        assert made.batches.ran == [[1, 1], [1, 1]]


def test_a_request_that_does_not_fit_begins_the_next_batch() -> None:
    with bench(max_batch_size=4, batch_timeout_micros=NEVER) as made:
        first = made.send(3)
        second = made.send(2)
        assert values(first) == [300, 301, 302]
        assert not wait([second], 0.05).done
        third = made.send(2)
        wait([second, third])
        assert made.batches.ran == [[3], [2, 2]]


def test_a_request_larger_than_a_batch_is_refused() -> None:
    with bench(max_batch_size=4) as made:
        assert refusal(lambda: made.queue.run("", {}, 5)) == (
            Code.INVALID_ARGUMENT,
            "Task size 5 is larger than maximum input batch size 4",
        )


def test_past_the_most_batches_requests_are_refused() -> None:
    with bench(max_batch_size=2, max_enqueued_batches=2) as made:
        with busy(made):
            futures = [made.send(2), made.send(1)]
            assert refusal(lambda: made.queue.run("", {}, 2)) == (
                Code.UNAVAILABLE,
                "The batch scheduling queue to which this task was submitted is full; currently 2 batches enqueued "
                "and max_enqueued_batches is 2",
            )
            futures.append(made.send(1))  # there is room for that
            refusal(lambda: made.queue.run("other", {}, 1))
        wait(futures)
        assert made.batches.ran == [[2], [2], [1, 1]]


def test_large_requests_are_split_where_that_is_asked_for() -> None:
    sizes = {"max_batch_size": 10, "max_execution_batch_size": 4, "max_enqueued_batches": 3}
    with bench(**sizes, enable_large_batch_splitting=True, batch_timeout_micros=NEVER) as made:
        small, large = made.send(1), made.send(9)
        assert values(small) == [100]
        last = made.send(2)
        assert values(large) == list(range(900, 909))
        wait([last])
        assert sorted(made.batches.ran) == [[1, 3], [2, 2], [4]]
        with busy(made):
            open_batch = made.send(3)
            assert refusal(lambda: made.queue.run("", {}, 10)) == (
                Code.UNAVAILABLE,
                "The batch scheduling queue to which this task was submitted is full; task size is 10 but scheduling "
                "capacity is only 9 (num_enqueued_batches=1, max_enqueued_batches=3, open_batch_size=3, "
                "max_execution_batch_size=4)",
            )
            futures = [made.send(9), open_batch]
        assert [len(values(each)) for each in futures] == [9, 3]


def test_no_more_batches_run_at_once_than_there_are_threads() -> None:
    with bench(max_batch_size=1, max_enqueued_batches=100, num_batch_threads=3) as made:
        made.batches.open.clear()
        futures = [made.send() for _ in range(12)]
        eventually(lambda: made.batches.begun == 3)
        made.batches.open.set()
        wait(futures)
        assert made.batches.most_at_once == 3


def test_queues_take_turns() -> None:
    parameters = BatchingParameters(max_batch_size=1, num_batch_threads=1)
    with bench(max_batch_size=1) as made:
        ran = []

        def process(tasks: Sequence[Task]) -> None:
            ran.append(list(made.batches.ran))
            tasks[0].succeed({})

        other = BatchQueue(made.scheduler, parameters, process)
        with busy(made), ThreadPoolExecutor() as callers:
            futures = [made.send(), made.send(), made.send()]
            behind = callers.submit(other.run, "", {}, 1)
            eventually(lambda: bool(other._batches))
            made.batches.open.set()
            wait([*futures, behind])
        # After the one that was running, and one of those that had come before.
        assert len(ran[0]) == 2
        other.close()


def test_a_request_whose_caller_has_given_up_is_not_run() -> None:
    with bench() as made:
        with busy(made):
            now = time.monotonic()
            late, patient = made.send(2, deadline=now + 0.05), made.send(3, deadline=now + 60)
            lonely = made.send(4, key="lonely", deadline=now + 0.05)
            for each in (late, lonely):
                assert refusal(lambda each=each: each.result(30)) == (  # type: ignore[misc]
                    Code.DEADLINE_EXCEEDED,
                    "The deadline passed before the response was ready",
                )
            assert made.waiting() == 1
        assert values(patient) == [300, 301, 302]
        assert made.batches.ran == [[1000], [3]]
        assert refusal(lambda: made.queue.run("", {}, 1, time.monotonic()))[0] is Code.DEADLINE_EXCEEDED


def test_a_caller_that_gives_up_does_not_wait_for_a_batch_that_runs() -> None:
    with bench(batch_timeout_micros=1000) as made:
        made.batches.open.clear()
        future = made.send(deadline=time.monotonic() + 0.1)
        eventually(lambda: made.batches.begun == 1)
        assert refusal(lambda: future.result(30))[0] is Code.DEADLINE_EXCEEDED
        assert made.batches.ran == []
        made.batches.open.set()
        assert values(made.send(2)) == [200, 201]


def test_closing_runs_what_is_queued() -> None:
    with bench(max_batch_size=4, batch_timeout_micros=NEVER) as made:
        futures = [made.send(), made.send(key="a"), made.send(2)]
        made.queue.close()
        assert all(each.done() for each in futures) or len(wait(futures, 30).done) == 3
        assert sorted(made.batches.ran) == [[1], [1, 2]]
        assert refusal(lambda: made.queue.run("", {}, 1)) == (Code.UNAVAILABLE, "The model is being unloaded")
        made.queue.close()


def test_closing_waits_for_what_runs() -> None:
    with bench() as made:
        with busy(made), ThreadPoolExecutor() as closers:
            behind = made.send()
            closing = closers.submit(made.queue.close)
            assert not wait([closing], 0.05).done
            made.batches.open.set()
            closing.result(30)
        assert values(behind) == [100]


def test_threads_live_as_long_as_there_are_queues() -> None:
    def alive() -> int:
        return sum(each.name.startswith("shared_") for each in threading.enumerate())

    scheduler = BatchScheduler("shared", 2)
    assert alive() == 0
    for _ in range(3):
        first = BatchQueue(scheduler, BatchingParameters(), Batches())
        second = BatchQueue(scheduler, BatchingParameters(batch_timeout_micros=100), Batches())
        assert alive() == 2
        first.close()
        assert alive() == 2
        second.run("", {}, 1)
        second.close()
        assert alive() == 0


def test_whatever_goes_wrong_nobody_waits_for_ever() -> None:
    def process(tasks: Sequence[Task]) -> None:
        tasks[0].succeed({})
        raise MemoryError("too little")

    queue = BatchQueue(
        BatchScheduler("wrong", 1), BatchingParameters(max_batch_size=2, batch_timeout_micros=NEVER), process
    )
    with ThreadPoolExecutor() as callers:
        futures = [callers.submit(queue.run, "", {}, 1) for _ in range(2)]
        errors = [each.exception(30) for each in futures]
    assert sorted(map(repr, errors)) == ["MemoryError('too little')", "None"]
    queue.close()
