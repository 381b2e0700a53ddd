"""Batch scheduler: groups requests into batches by the rules of TensorFlow's `shared_batch_scheduler.h`.

Each signature of a model has a queue of batches. A request joins the open batch of requests that it can be merged
with. If that batch has no room, it is closed and a new one opened. A batch is ready when it is closed or full, or
when its timeout has passed. The queues of all models share a few threads, which take one batch of each in turn.

If a request makes its batch ready and a thread is allowed to run, the request's own thread runs the batch. A hand-off
to another thread would take longer than a small model. A batch in which another request has a later deadline runs in
one of the scheduler's threads: it may wait for the model longer than the request that completed it.
"""

import math
import threading
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence

from tfship.serving.inference.batching_config import BatchingParameters
from tfship.serving.inference.execution import Tensors, until
from tfship.serving.protos.status import Code, StatusError, invalid

__all__ = ["BatchQueue", "BatchScheduler", "Task", "latest_deadline"]


class Task:
    """A request, or a piece of one, that waits in a batch: `rows` rows of every tensor in `inputs`.

    The function that processes its batch calls `succeed` or `fail`.
    """

    __slots__ = ("_done", "_error", "_outputs", "batch", "deadline", "inputs", "queued_at", "rows")

    def __init__(self, inputs: Tensors, rows: int, deadline: float | None) -> None:
        self.inputs = inputs
        self.rows = rows
        self.deadline = deadline
        self.queued_at = time.monotonic()
        self.batch: _Batch | None = None
        self._done = threading.Event()
        self._outputs: Tensors = {}
        self._error: BaseException | None = None

    @property
    def done(self) -> bool:
        """Whether the task has ended."""
        return self._done.is_set()

    def succeed(self, outputs: Tensors) -> None:
        """End the task with its rows of the outputs."""
        self._outputs = outputs
        self._done.set()

    def fail(self, error: BaseException) -> None:
        """End the task with `error`, which `outcome` raises."""
        self._error = error
        self._done.set()

    def expire(self) -> bool:
        """Fail the task if its deadline has passed; return whether it has."""
        expired = self.deadline is not None and self.deadline <= time.monotonic()
        if expired:
            self.fail(_deadline_exceeded())
        return expired

    def outcome(self) -> Tensors:
        """Wait until the task has ended and return its outputs. Raises its error, or StatusError at the deadline."""
        if not self._done.wait(until(self.deadline)):
            raise _deadline_exceeded()
        if self._error is None:
            return self._outputs
        try:
            raise self._error
        finally:
            self._error = None  # breaks the reference cycle between the error's traceback and this frame


def latest_deadline(tasks: Iterable[Task]) -> float | None:
    """Return the latest deadline of `tasks`, or None if one of them has no deadline."""
    deadlines = [math.inf if task.deadline is None else task.deadline for task in tasks]
    latest = max(deadlines, default=math.inf)
    return None if latest == math.inf else latest


class _Batch:
    __slots__ = ("due", "key", "queue", "rows", "tasks")

    def __init__(self, queue: "BatchQueue", key: Hashable, due: float) -> None:
        self.queue = queue
        self.key = key
        self.due = due
        self.rows = 0
        self.tasks: list[Task] = []

    def add(self, task: Task) -> None:
        task.batch = self
        self.tasks.append(task)
        self.rows += task.rows

    def discard(self, task: Task) -> None:
        self.tasks.remove(task)
        self.rows -= task.rows


class BatchScheduler:
    """Runs the batches of all its queues, at most `threads` of them at a time.

    Its threads, named after `name`, exist while there are queues.
    """

    def __init__(self, name: str, threads: int) -> None:
        self.name = name
        self._max_running = threads
        # Guards all following attributes, and all attributes of the queues.
        self._lock = threading.Lock()
        # Notifies a thread: a batch may be ready, or a new one may become due.
        self._work = threading.Condition(self._lock)
        # Notifies `BatchQueue.close`: a queue may be empty.
        self._idle = threading.Condition(self._lock)
        self._queues = 0
        self._threads: list[threading.Thread] = []
        self._running = 0
        # Queues with batches, in the order of their turns.
        self._waiting: dict[BatchQueue, None] = {}

    def _register(self) -> None:
        with self._lock:
            self._queues += 1
            if self._queues == 1:
                self._threads = [
                    threading.Thread(target=self._loop, name=f"{self.name}_{number}", daemon=True)
                    for number in range(self._max_running)
                ]
                for thread in self._threads:
                    thread.start()

    def _unregister(self) -> None:
        with self._lock:
            self._queues -= 1
            ended: list[threading.Thread] = []
            if not self._queues:
                ended, self._threads = self._threads, []
                self._work.notify_all()
        for thread in ended:
            thread.join()

    def _loop(self) -> None:
        while True:
            with self._lock:
                while (batch := self._next(time.monotonic())) is None:
                    if threading.current_thread() not in self._threads:
                        return
                    self._work.wait(self._until_due())
                self._take(batch)
            self._run(batch)
            del batch  # otherwise its tensors would be kept until the next batch

    def _next(self, now: float) -> "_Batch | None":
        """Return the next ready batch, or None if there is none or no thread may run."""
        if self._running < self._max_running:
            for queue in self._waiting:
                if batch := queue._ready(now):
                    return batch
        return None

    def _until_due(self) -> float | None:
        if self._running >= self._max_running or not self._waiting:
            return None
        return until(min(queue._due() for queue in self._waiting))

    def _take(self, batch: "_Batch") -> None:
        queue = batch.queue
        for task in batch.tasks:
            task.batch = None
        queue._remove(batch)
        queue._running += 1
        self._running += 1
        del self._waiting[queue]
        if queue._batches:
            self._waiting[queue] = None
        self._wake()

    def _run(self, batch: "_Batch") -> None:
        queue = batch.queue
        try:
            queue._process(batch.tasks)
        except BaseException as error:  # noqa: BLE001 - otherwise the tasks would never end
            for task in batch.tasks:
                if not task.done:
                    task.fail(error)
        finally:
            with self._lock:
                queue._running -= 1
                self._running -= 1
                self._wake()
                self._idle.notify_all()

    def _wake(self) -> None:
        """Notify a thread if there are batches and another thread may run."""
        if self._waiting and self._running < self._max_running:
            self._work.notify()


class BatchQueue:
    """Queue of one signature's batches.

    `process` is called with the tasks of a batch, from several threads at once, and must end each of them.
    """

    def __init__(
        self,
        scheduler: BatchScheduler,
        parameters: BatchingParameters,
        process: Callable[[Sequence[Task]], None],
    ) -> None:
        self._scheduler = scheduler
        self._parameters = parameters
        self._process = process
        # Oldest first, which is also the order in which they become due.
        self._batches: list[_Batch] = []
        # Batches that accept more requests.
        self._open: dict[Hashable, _Batch] = {}
        self._running = 0
        self._closed = False
        scheduler._register()

    def run(self, key: Hashable, inputs: Tensors, rows: int, deadline: float | None = None) -> list[Tensors]:
        """Return the outputs of a request of `rows` rows (1 or more), one dictionary per piece it was split into.

        Requests share a batch only if their `key` is equal. After `deadline` (`time.monotonic()`), pieces that haven't
        begun don't run. Raises the error that `process` sets, and StatusError if the request is too large, its
        deadline passes, or the queue is full or closed.
        """
        tasks = self._submit(key, inputs, rows, deadline)
        try:
            return [task.outcome() for task in tasks]
        except BaseException:
            self._withdraw(tasks)
            raise

    def close(self) -> None:
        """Refuse new requests and wait until all accepted ones have ended."""
        scheduler = self._scheduler
        with scheduler._lock:
            if self._closed:
                return
            self._closed = True
            scheduler._wake()
            scheduler._idle.wait_for(lambda: not self._batches and not self._running)
        scheduler._unregister()

    def _submit(self, key: Hashable, inputs: Tensors, rows: int, deadline: float | None) -> list[Task]:
        scheduler, limit = self._scheduler, self._parameters.max_batch_size
        if rows > limit:
            raise invalid(f"Task size {rows} is larger than maximum input batch size {limit}")
        with scheduler._lock:
            self._check_room(key, rows)
            now = time.monotonic()
            batches_before = len(self._batches)
            tasks = []
            for batch, begin, end in self._assign(key, rows, now):
                piece = {name: each[begin:end] for name, each in inputs.items()}
                tasks.append(Task(piece, end - begin, deadline))
                batch.add(tasks[-1])
            is_ready = len(tasks) == 1 and scheduler._next(now) is batch
            run_here = is_ready and latest_deadline(batch.tasks) == deadline
            if run_here:
                scheduler._take(batch)
            elif (
                is_ready
                or len(self._batches) > batches_before
                or batch.rows == self._parameters.rows_per_batch
            ):
                scheduler._wake()
        if run_here:
            scheduler._run(batch)
        return tasks

    def _assign(self, key: Hashable, rows: int, now: float) -> Iterator[tuple[_Batch, int, int]]:
        """Yield a batch and the range of the request's rows in it; one batch only, unless splitting is enabled."""
        capacity = self._parameters.rows_per_batch
        min_room = 1 if self._parameters.enable_large_batch_splitting else rows
        begin = 0
        while begin < rows:
            batch = self._open.get(key)
            if batch is None or capacity - batch.rows < min_room:
                batch = _Batch(self, key, now + self._parameters.batch_timeout_micros / 1e6)
                self._batches.append(batch)
                self._open[key] = batch
                self._scheduler._waiting.setdefault(self)
            end = min(rows, begin + capacity - batch.rows)
            yield batch, begin, end
            begin = end

    def _check_room(self, key: Hashable, rows: int) -> None:
        if self._closed:
            raise StatusError(Code.UNAVAILABLE, "The model is being unloaded")
        parameters, count = self._parameters, len(self._batches)
        max_rows, max_batches = parameters.rows_per_batch, parameters.max_enqueued_batches
        last = self._open.get(key)
        room = max_rows - last.rows if last else 0
        if not parameters.enable_large_batch_splitting:
            if rows > room and count >= max_batches:
                raise StatusError(
                    Code.UNAVAILABLE,
                    f"{_FULL}; currently {count} batches enqueued and max_enqueued_batches is {max_batches}",
                )
        elif rows > (capacity := (max_batches - count) * max_rows + room):
            raise StatusError(
                Code.UNAVAILABLE,
                f"{_FULL}; task size is {rows} but scheduling capacity is only {capacity} (num_enqueued_batches="
                f"{count}, max_enqueued_batches={max_batches}, open_batch_size={last.rows if last else 0}, "
                f"max_execution_batch_size={max_rows})",
            )

    def _withdraw(self, tasks: Sequence[Task]) -> None:
        """Remove the tasks that haven't begun from their batches."""
        scheduler = self._scheduler
        with scheduler._lock:
            for task in tasks:
                if (batch := task.batch) is None:
                    continue
                task.batch = None
                batch.discard(task)
                if not batch.tasks:
                    self._remove(batch)
            if not self._batches:
                scheduler._waiting.pop(self, None)
                scheduler._idle.notify_all()

    def _ready(self, now: float) -> _Batch | None:
        for batch in self._batches:
            full = batch.rows >= self._parameters.rows_per_batch
            if full or batch.due <= now or self._closed or self._open.get(batch.key) is not batch:
                return batch
        return None

    def _due(self) -> float:
        return self._batches[0].due

    def _remove(self, batch: _Batch) -> None:
        self._batches.remove(batch)
        if self._open.get(batch.key) is batch:
            del self._open[batch.key]


_FULL = "The batch scheduling queue to which this task was submitted is full"


def _deadline_exceeded() -> StatusError:
    return StatusError(Code.DEADLINE_EXCEEDED, "The deadline passed before the response was ready")
