"""Large batches, run in parts: what a part needs stays in a processor's cache, and several cores share the work.

A batch's tensors take memory in proportion to its rows. Past the cache, each layer waits for memory (the MNIST CNN
takes 249 µs an image in a batch of 64 and 225 in parts of 13), and an interpreter keeps what its largest batch took.
"""

import contextlib
import functools
import itertools
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfship.export.runtimes.protocol import Runtime, Signature, TensorSpec
from tfship.serving.inference.execution import DEADLINE, until
from tfship.serving.protos.status import Code, StatusError
from tfship.serving.protos.tensors import dtype_of

__all__ = ["SplitRuntime"]

# Random rows that are run together and apart, to see whether that makes a difference.
_PROBE_ROWS = 3
_APART = (slice(0, 1), slice(1, None))
# Between the same sum taken in another order and a row that depends on its neighbours, relative to the largest value.
_TOLERANCE = 1e-4


class SplitRuntime:
    """A `Runtime` that runs batches of more than `rows` rows in parts, by another, which it owns.

    `at_once` such batches run at a time: more would only push each other out of the caches. Where there are fewer, up
    to `threads` run the parts. A signature's batches are split if all inputs and outputs have a free first dimension,
    and if random rows have the same outputs together and apart; that is tried when the first large batch comes.
    """

    def __init__(self, runtime: Runtime, rows: int, at_once: int = 1, threads: int = 1) -> None:
        self._runtime = runtime
        self._rows, self._threads = rows, threads
        self._splits: dict[str, bool] = {}
        self._lock = threading.Lock()
        self._turns = threading.Semaphore(at_once)
        self._asked = 0  # large batches that run or wait for their turn
        self._helpers = ThreadPoolExecutor(threads - 1, "parts") if threads > 1 else None

    @property
    def signatures(self) -> Mapping[str, Signature]:
        """The other runtime's."""
        return self._runtime.signatures

    def run(self, signature: str, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """See `Runtime.run`; raises StatusError, too, if the deadline passes before a large batch's turn."""
        rows = min((len(tensor) for tensor in inputs.values() if tensor.ndim), default=0)
        if rows <= self._rows or not self._can_split(signature, inputs):
            return self._runtime.run(signature, inputs)
        with self._turn() as helpers:
            parts = self._run_parts(signature, inputs, rows, helpers)
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    @contextlib.contextmanager
    def _turn(self) -> Iterator[int]:
        """Wait for one's turn, at most until `execution.DEADLINE`; gives the number of threads that may help."""
        with self._lock:
            self._asked += 1
        try:
            if not self._turns.acquire(timeout=until(DEADLINE.get())):
                raise StatusError(Code.DEADLINE_EXCEEDED, "Deadline exceeded before the model was run")
            try:
                yield max(0, self._threads // self._asked - 1)
            finally:
                self._turns.release()
        finally:
            with self._lock:
                self._asked -= 1

    def _run_parts(
        self, signature: str, inputs: Mapping[str, NDArray[Any]], rows: int, helpers: int
    ) -> list[dict[str, NDArray[Any]]]:
        count = -(-rows // self._rows)
        count += -count % (helpers + 1)  # as many for each thread
        ends = [rows * index // count for index in range(count + 1)]
        outputs: list[dict[str, NDArray[Any]]] = [{}] * count
        # Shared by the threads: each takes the next part that nobody has taken.
        parts = iter(list(enumerate(itertools.pairwise(ends))))

        def work() -> None:
            for index, (begin, end) in parts:
                part = {name: tensor[begin:end] for name, tensor in inputs.items()}
                outputs[index] = self._runtime.run(signature, part)

        tasks = [self._helpers.submit(work) for _ in range(helpers)] if self._helpers else []
        try:
            work()
        finally:
            # One that hasn't begun has nothing left to do.
            errors = [task.exception() for task in tasks if not task.cancel()]
        for error in filter(None, errors):
            raise error
        return outputs

    def close(self) -> None:
        """Free the model's memory, when what runs has ended."""
        self._runtime.close()
        if self._helpers:
            self._helpers.shutdown(wait=False)

    def _can_split(self, signature: str, inputs: Mapping[str, NDArray[Any]]) -> bool:
        if len({tensor.shape[:1] for tensor in inputs.values()}) > 1:
            return False
        known = self._splits.get(signature)
        if known is None:
            # Found out twice if two come at the same time, which does no harm.
            known = _has_free_rows(self.signatures[signature]) and self._is_row_wise(signature, inputs)
            self._splits[signature] = known
        return known

    def _is_row_wise(self, signature: str, inputs: Mapping[str, NDArray[Any]]) -> bool:
        """Tell whether random rows, of the shape of the inputs', have the same outputs together and apart."""
        random = np.random.default_rng(0)
        probe = {
            name: _random(random, (_PROBE_ROWS, *tensor.shape[1:]), tensor.dtype)
            for name, tensor in inputs.items()
        }
        run = functools.partial(self._runtime.run, signature)
        try:
            together = run(probe)
            apart = [run({name: rows[part] for name, rows in probe.items()}) for part in _APART]
        except ValueError:
            return False
        return all(_same(whole, [each[name] for each in apart]) for name, whole in together.items())


def _has_free_rows(signature: Signature) -> bool:
    def is_free(spec: TensorSpec) -> bool:
        dtype = dtype_of(spec.dtype)
        is_number = dtype is not None and dtype.numpy.kind in "fiub"
        return is_number and spec.shape is not None and spec.shape[:1] == (-1,)

    return all(map(is_free, (*signature.inputs.values(), *signature.outputs.values())))


def _random(random: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    if dtype.kind == "f":
        return random.random(shape).astype(dtype)
    if dtype.itemsize == 1 and dtype.kind != "b":  # quantized numbers
        limits = np.iinfo(dtype)
        return random.integers(limits.min, limits.max, shape, endpoint=True).astype(dtype)
    # Larger ones are mostly places in something, which may have no more than two.
    return random.integers(0, 2, shape).astype(dtype)


def _same(whole: NDArray[Any], parts: list[NDArray[Any]]) -> bool:
    apart = np.concatenate(parts) if all(part.ndim for part in parts) else np.empty(0)
    if whole.shape != apart.shape:
        return False
    if whole.dtype.kind != "f":
        return bool(np.array_equal(whole, apart))
    largest = float(np.abs(whole).max(initial=0.0))
    return bool(np.allclose(whole, apart, rtol=0.0, atol=_TOLERANCE * largest, equal_nan=True))
