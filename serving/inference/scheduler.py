"""Which requests run together, and when: by the rules of TensorFlow's `shared_batch_scheduler.h`.

Each kind of request, a signature of a model, has a queue of batches. A request joins the open batch of those that
it can be merged with; where that has no room for it, it is closed and the next one begun. A batch may run when it
is closed, full, or was begun as long ago as the timeout. The queues of all models share a few threads, which take
one batch of each in turn.

A batch that may run at once is run by the thread whose request completes it: to hand it over would take longer
than to run a small model.
"""

import threading
import time
from collections.abc import Callable, Hashable, Iterator, Sequence

from tfship.serving.inference.batching_config import BatchingParameters
from tfship.serving.inference.execution import Tensors, until
from tfship.serving.protos.status import Code, StatusError, invalid

__all__ = ["BatchQueue", "BatchScheduler", "Task"]


class Task:
    """A request, or a piece of one, that waits in a batch: `rows` rows of every tensor in `inputs`.

    Whoever runs it says how it ended, by `succeed` or `fail`.
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
        """Whether it has ended."""
        return self._done.is_set()

    def succeed(self, outputs: Tensors) -> None:
        """End it with its own rows of the outputs."""
        self._outputs = outputs
        self._done.set()

    def fail(self, error: BaseException) -> None:
        """End it with an error, which its caller gets raised."""
        self._error = error
        self._done.set()

    def expire(self) -> bool:
        """End it, if its caller has given up by now, and return whether that is so."""
        expired = self.deadline is not None and self.deadline <= time.monotonic()
        if expired:
            self.fail(_too_late())
        return expired

    def outcome(self) -> Tensors:
        """Wait until it has ended; return its outputs or raise its error, or one that its deadline has passed."""
        if not self._done.wait(until(self.deadline)):
            raise _too_late()
        if self._error is None:
            return self._outputs
        try:
            raise self._error
        finally:
            self._error = None  # it holds this frame by its traceback, and this frame would hold it


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

    Its threads, named after `name`, live while there are queues.
    """

    def __init__(self, name: str, threads: int) -> None:
        self.name = name
        self._most = threads
        # Guards everything that follows, and all of every queue.
        self._lock = threading.Lock()
        # For the threads: there may be a batch to run, or one to wait for.
        self._work = threading.Condition(self._lock)
        # For those who close a queue: one may be empty.
        self._idle = threading.Condition(self._lock)
        self._users = 0
        self._threads: list[threading.Thread] = []
        self._running = 0
        # Those that hold batches, in the order of their turns.
        self._waiting: dict[BatchQueue, None] = {}

    def _join(self) -> None:
        with self._lock:
            self._users += 1
            if self._users == 1:
                self._threads = [
                    threading.Thread(target=self._loop, name=f"{self.name}_{number}", daemon=True)
                    for number in range(self._most)
                ]
                for thread in self._threads:
                    thread.start()

    def _leave(self) -> None:
        with self._lock:
            self._users -= 1
            ended: list[threading.Thread] = []
            if not self._users:
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
            del batch  # or its tensors would live until the next

    def _next(self, now: float) -> "_Batch | None":
        """Return the batch whose turn it is, if one may run."""
        if self._running < self._most:
            for queue in self._waiting:
                if batch := queue._ready(now):
                    return batch
        return None

    def _until_due(self) -> float | None:
        if self._running >= self._most or not self._waiting:
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
        except BaseException as error:  # noqa: BLE001 - whatever it is, nobody must wait for ever
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
        """Have a thread look for work, if there is some and one more may run."""
        if self._waiting and self._running < self._most:
            self._work.notify()


class BatchQueue:
    """One kind of request: puts requests into batches, and waits for them.

    `process` is called with the tasks of a batch, from several threads at once, and ends each of them.
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
        # In the order in which they were begun, which is the order in which they are due.
        self._batches: list[_Batch] = []
        # Those that may still grow.
        self._open: dict[Hashable, _Batch] = {}
        self._running = 0
        self._closed = False
        scheduler._join()

    def run(self, key: Hashable, inputs: Tensors, rows: int, deadline: float | None = None) -> list[Tensors]:
        """Return the outputs of a request of `rows` rows, at least one, in the pieces that it was split into.

        Requests share a batch only if their keys are equal. `deadline` is when the caller gives up, in
        `time.monotonic()`'s seconds: what hasn't been begun by then is not run. Raises what `process` says, and
        StatusError for a request that is too large, or comes when the queue is full or closed.
        """
        tasks = self._submit(key, inputs, rows, deadline)
        try:
            return [task.outcome() for task in tasks]
        except BaseException:
            self._withdraw(tasks)
            raise

    def close(self) -> None:
        """Take no more requests, and return when all that were taken have ended."""
        scheduler = self._scheduler
        with scheduler._lock:
            if self._closed:
                return
            self._closed = True
            scheduler._wake()
            scheduler._idle.wait_for(lambda: not self._batches and not self._running)
        scheduler._leave()

    def _submit(self, key: Hashable, inputs: Tensors, rows: int, deadline: float | None) -> list[Task]:
        scheduler, most = self._scheduler, self._parameters.max_batch_size
        if rows > most:
            raise invalid(f"Task size {rows} is larger than maximum input batch size {most}")
        with scheduler._lock:
            self._check_room(key, rows)
            now = time.monotonic()
            begun = len(self._batches)
            tasks = []
            for batch, begin, end in self._places(key, rows, now):
                piece = {name: each[begin:end] for name, each in inputs.items()}
                tasks.append(Task(piece, end - begin, deadline))
                batch.add(tasks[-1])
            own = len(tasks) == 1 and scheduler._next(now) is batch
            if own:
                scheduler._take(batch)
            elif len(self._batches) > begun or batch.rows == self._parameters.rows_per_batch:
                scheduler._wake()
        if own:
            scheduler._run(batch)
        return tasks

    def _places(self, key: Hashable, rows: int, now: float) -> Iterator[tuple[_Batch, int, int]]:
        """Yield the batches that a request goes to, and which of its rows; whole, unless it may be split."""
        most = self._parameters.rows_per_batch
        least = 1 if self._parameters.enable_large_batch_splitting else rows
        begin = 0
        while begin < rows:
            batch = self._open.get(key)
            if batch is None or most - batch.rows < least:
                batch = _Batch(self, key, now + self._parameters.batch_timeout_micros / 1e6)
                self._batches.append(batch)
                self._open[key] = batch
                self._scheduler._waiting.setdefault(self)
            end = min(rows, begin + most - batch.rows)
            yield batch, begin, end
            begin = end

    def _check_room(self, key: Hashable, rows: int) -> None:
        if self._closed:
            raise StatusError(Code.UNAVAILABLE, "The model is being unloaded")
        parameters, count = self._parameters, len(self._batches)
        most, most_batches = parameters.rows_per_batch, parameters.max_enqueued_batches
        last = self._open.get(key)
        room = most - last.rows if last else 0
        if not parameters.enable_large_batch_splitting:
            if rows > room and count >= most_batches:
                raise StatusError(
                    Code.UNAVAILABLE,
                    f"{_FULL}; currently {count} batches enqueued and max_enqueued_batches is {most_batches}",
                )
        elif rows > (capacity := (most_batches - count) * most + room):
            raise StatusError(
                Code.UNAVAILABLE,
                f"{_FULL}; task size is {rows} but scheduling capacity is only {capacity} (num_enqueued_batches="
                f"{count}, max_enqueued_batches={most_batches}, open_batch_size={last.rows if last else 0}, "
                f"max_execution_batch_size={most})",
            )

    def _withdraw(self, tasks: Sequence[Task]) -> None:
        """Take out of their batches what hasn't been begun."""
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


def _too_late() -> StatusError:
    return StatusError(Code.DEADLINE_EXCEEDED, "The deadline passed before the request was answered")
