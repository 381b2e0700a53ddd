"""Batching: requests merged along the tensors' first dimension, and the outputs split among them.

The rules and error messages are those of TensorFlow Serving's `batching_session.cc`. There, requests that can't be
merged make each other fail; here, they run in separate batches.
"""

import functools
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfship.export.runtimes.protocol import Runtime, Signature, TensorSpec
from tfship.serving.inference.batching_config import BatchingParameters
from tfship.serving.inference.execution import DEADLINE, Tensors, deadline_of
from tfship.serving.inference.scheduler import BatchQueue, BatchScheduler, Task, latest_deadline
from tfship.serving.protos.status import Code, StatusError, invalid

__all__ = ["BatchRun", "BatchedRuntime", "Observer"]


@dataclass(frozen=True)
class BatchRun:
    """Report of one run of a model: queueing time of each request, and size of the batch.

    `queued_seconds` is empty for requests that run again, one by one, after their batch failed. The batch has `rows`
    rows of requests and `padding` more.
    """

    thread_pool_name: str
    queued_seconds: tuple[float, ...]
    rows: int
    padding: int


# Called by the threads that run batches, before the model runs; must not raise.
Observer = Callable[[BatchRun], None]


class BatchedRuntime:
    """A `Runtime` that merges requests to `runtime`, which it owns.

    Signatures are batched if all their inputs have a free first dimension. A request waits until its batch has run,
    or until `execution.DEADLINE`. A batch runs under the latest deadline of its requests, in whichever thread it runs.
    `run` raises StatusError besides the errors of `runtime`.
    """

    def __init__(
        self,
        runtime: Runtime,
        parameters: BatchingParameters,
        scheduler: BatchScheduler,
        observe: Observer | None = None,
    ) -> None:
        self._runtime = runtime
        self._parameters = parameters
        self._thread_pool_name = scheduler.name
        self._observe = observe
        self._queues = {
            name: BatchQueue(scheduler, parameters, functools.partial(self._process, name))
            for name, signature in runtime.signatures.items()
            if _can_be_batched(signature)
        }

    @property
    def signatures(self) -> Mapping[str, Signature]:
        """The signatures of `runtime`."""
        return self._runtime.signatures

    def run(self, signature: str, inputs: Mapping[str, NDArray[Any]]) -> Tensors:
        """See `Runtime.run`."""
        queue = self._queues.get(signature)
        rows = _rows(inputs) if queue else 0
        if not queue or not rows:
            return self._runtime.run(signature, inputs)
        pad, deadline = self._parameters.pad_variable_length_inputs, DEADLINE.get()
        pieces = queue.run(self._key(signature, inputs, pad=pad), dict(inputs), rows, deadline)
        if pad and len({tuple(each.shape[1:] for each in piece.values()) for piece in pieces}) > 1:
            # The pieces were in different batches and padded to different lengths. Without padding, the request is
            # merged only with requests of its own shape.
            pieces = queue.run(self._key(signature, inputs, pad=False), dict(inputs), rows, deadline)
        if len(pieces) == 1:
            return pieces[0]
        return {name: np.concatenate([each[name] for each in pieces]) for name in pieces[0]}

    def close(self) -> None:
        """Run the queued requests, then free the model's memory."""
        for queue in self._queues.values():
            queue.close()
        self._runtime.close()

    def _key(self, signature: str, inputs: Mapping[str, NDArray[Any]], *, pad: bool) -> Hashable:
        """Return the key that is equal for requests that can be merged."""
        specs = self._runtime.signatures[signature].inputs
        return tuple(
            (tensor.dtype, *(_fixed(tensor.shape, specs[name]) if pad and tensor.size else tensor.shape[1:]))
            for name, tensor in sorted(inputs.items())
        )

    def _process(self, signature: str, tasks: Sequence[Task]) -> None:
        now = time.monotonic()
        queued = tuple(now - task.queued_at for task in tasks)
        tasks = [task for task in tasks if not task.expire()]
        error = self._run(signature, tasks, queued) if tasks else None
        if error and len(tasks) == 1:
            tasks[0].fail(error)
        elif error:
            # One by one, so that only the requests at fault fail.
            for task in tasks:
                if not task.expire() and (error := self._run(signature, [task])):
                    task.fail(error)

    def _run(
        self, signature: str, tasks: Sequence[Task], queued_seconds: tuple[float, ...] = ()
    ) -> Exception | None:
        """Run `tasks` as one batch and end them, or return the error and leave them unchanged."""
        rows = sum(task.rows for task in tasks)
        padding = self._parameters.padding(rows)
        if self._observe:
            self._observe(BatchRun(self._thread_pool_name, queued_seconds, rows, padding))
        try:
            with deadline_of(latest_deadline(tasks)):
                outputs = self._runtime.run(signature, _merged([task.inputs for task in tasks], padding))
            _check_rows(self._runtime.signatures[signature], outputs, rows + padding)
        except Exception as error:  # noqa: BLE001 - raised in the request's thread
            return error
        begin = 0
        for task in tasks:
            end = begin + task.rows
            task.succeed({name: each[begin:end] for name, each in outputs.items()})
            begin = end
        return None


def _can_be_batched(signature: Signature) -> bool:
    shapes = [spec.shape for spec in signature.inputs.values()]
    return bool(shapes) and all(shape is None or shape[:1] == (-1,) for shape in shapes)


def _rows(inputs: Mapping[str, NDArray[Any]]) -> int:
    """Return the first dimension, which must be the same in all inputs."""
    if not all(tensor.ndim for tensor in inputs.values()):
        raise invalid("Batching Run() input tensors must have at least one dimension")
    rows, *others = {len(tensor) for tensor in inputs.values()}
    if others:
        raise invalid("Batching Run() input tensors must have equal 0th-dimension size")
    return rows


def _fixed(shape: tuple[int, ...], spec: TensorSpec) -> tuple[int | None, ...]:
    """Return the dimensions of `shape` after the first, with None for those that padding may change."""
    if spec.shape is None:
        return (None,) * (len(shape) - 1)
    if len(shape) != len(spec.shape):
        return shape[1:]
    return tuple(None if free == -1 else size for size, free in zip(shape[1:], spec.shape[1:], strict=True))


def _merged(requests: Sequence[Tensors], padding: int) -> Tensors:
    """Return the inputs of a batch, and `padding` more rows, which repeat the first row of the last request.

    If other dimensions differ, each request's tensor is padded to the largest size with its own first value.
    """
    if len(requests) == 1 and not padding:
        return requests[0]
    merged = {}
    for name in requests[0]:
        tensors = [request[name] for request in requests]
        sizes = tuple(map(max, zip(*(tensor.shape[1:] for tensor in tensors), strict=True)))
        rows = sum(map(len, tensors))
        whole = np.empty((rows + padding, *sizes), tensors[0].dtype)
        begin = 0
        for tensor in tensors:
            place = whole[begin : begin + len(tensor)]
            if tensor.shape != place.shape:
                place.fill(tensor.flat[0])
            place[tuple(map(slice, tensor.shape))] = tensor
            begin += len(tensor)
        # A slice, not a row: numpy would strip trailing zeros from a single string.
        first = rows - len(tensors[-1])
        whole[rows:] = whole[first : first + 1]
        merged[name] = whole
    return merged


def _check_rows(signature: Signature, outputs: Tensors, rows: int) -> None:
    for name in sorted(outputs, key=lambda name: signature.outputs[name].name):
        shape = np.shape(outputs[name])
        if not shape:
            raise StatusError(Code.FAILED_PRECONDITION, "Batched output tensor has 0 dimensions")
        if shape[0] != rows:
            raise StatusError(
                Code.FAILED_PRECONDITION,
                "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension sizes of the "
                "input tensors",
            )
