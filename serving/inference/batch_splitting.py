"""Large batches run in parts, which fit into the processor's cache and can use several cores.

A batch's tensors take memory in proportion to its rows. Beyond the cache's size, each layer waits for memory: the
MNIST CNN takes 249 µs an image in a batch of 64, and 225 µs in parts of 13. An interpreter of TFLite also never
releases the memory of its largest batch.
"""

import contextlib
import contextvars
import functools
import itertools
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfship.export.runtimes.protocol import Runtime, Signature, TensorSpec
from tfship.serving.inference.concurrency_limit import on_event_loop, slot
from tfship.serving.protos.tensors import dtype_of

__all__ = ["SplitRuntime"]

# Number of random rows that are run together and in parts, to compare the outputs.
_PROBE_ROWS = 3
_PROBE_PARTS = (slice(0, 1), slice(1, None))
# Relative to the largest value: more than sums in another order differ, less than dependence on other rows causes.
_TOLERANCE = 1e-4
# Where the rows of a part aren't given: the duration of a part, and the rows of the batches that are run to measure it,
# of which the fastest counts. A part is then much longer than the work of splitting.
_PART_SECONDS = 0.004
_MEASURED_ROWS = 16
_MEASUREMENTS = 3


class SplitRuntime:
    """A `Runtime` that runs batches of more than `rows` rows in parts by `runtime`, which it owns.

    If `rows` is None, a part has as many rows as take some 4 ms, and batches of up to 16 rows aren't split.

    At most `at_once` such batches run at a time: more would evict each other from the caches. They share `threads`
    threads, which run their parts.

    A signature's batches are split if all inputs and outputs have a free first dimension. Random rows must also give
    the same outputs together and in parts, which is tested at the first large batch.
    """

    def __init__(self, runtime: Runtime, rows: int | None, at_once: int = 1, threads: int = 1) -> None:
        self._runtime = runtime
        self._rows, self._threads = rows, threads
        # The rows of a part by signature, 0 if its batches can't be split.
        self._part_rows: dict[str, int] = {}
        self._lock = threading.Lock()
        self._slots = threading.Semaphore(at_once)
        self._large_batches = 0  # running or waiting for a slot
        self._helpers = ThreadPoolExecutor(threads - 1, "parts") if threads > 1 else None

    @property
    def signatures(self) -> Mapping[str, Signature]:
        """The signatures of `runtime`."""
        return self._runtime.signatures

    def run(self, signature: str, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """See `Runtime.run`. Raises StatusError, too, if the deadline passes while a large batch waits for a slot."""
        rows = min([len(tensor) for tensor in inputs.values() if tensor.ndim], default=0)
        part_rows = self._rows_of_parts(signature, inputs) if rows > (self._rows or _MEASURED_ROWS) else 0
        if not 0 < part_rows < rows:
            return self._runtime.run(signature, inputs)
        # The event loop must not wait for a slot; what it runs is short.
        with contextlib.nullcontext(0) if on_event_loop() else self._slot() as helpers:
            parts = self._run_parts(signature, inputs, rows, part_rows, helpers)
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    @contextlib.contextmanager
    def _slot(self) -> Iterator[int]:
        """Wait for a slot, at most until `execution.DEADLINE`; yield the number of helper threads to use."""
        with self._lock:
            self._large_batches += 1
        try:
            with slot(self._slots):
                yield max(0, self._threads // self._large_batches - 1)
        finally:
            with self._lock:
                self._large_batches -= 1

    def _run_parts(
        self, signature: str, inputs: Mapping[str, NDArray[Any]], rows: int, part_rows: int, helpers: int
    ) -> list[dict[str, NDArray[Any]]]:
        count = -(-rows // part_rows)
        count += -count % (helpers + 1)  # the same number for each thread
        ends = [rows * index // count for index in range(count + 1)]
        outputs: list[dict[str, NDArray[Any]]] = [{}] * count
        # Shared by the threads; each takes the next part.
        parts = iter(list(enumerate(itertools.pairwise(ends))))

        def work() -> None:
            for index, (begin, end) in parts:
                part = {name: tensor[begin:end] for name, tensor in inputs.items()}
                outputs[index] = self._runtime.run(signature, part)

        # Each thread gets a copy of the context, which holds `execution.DEADLINE`.
        submit = self._helpers.submit if self._helpers else None
        tasks = [submit(contextvars.copy_context().run, work) for _ in range(helpers)] if submit else []
        try:
            work()
        finally:
            # All parts are taken, so a task that hasn't begun has nothing to do.
            errors = [task.exception() for task in tasks if not task.cancel()]
        for error in filter(None, errors):
            raise error
        return outputs

    def close(self) -> None:
        """Free the model's memory after the running batches have ended."""
        self._runtime.close()
        if self._helpers:
            self._helpers.shutdown(wait=False)

    def _rows_of_parts(self, signature: str, inputs: Mapping[str, NDArray[Any]]) -> int:
        """Return the rows of a part, 0 if the batch can't be split."""
        if len({tensor.shape[:1] for tensor in inputs.values()}) > 1:
            return 0
        known = self._part_rows.get(signature)
        if known is None:
            # Two threads may test at the same time, which is harmless.
            splits = _has_free_rows(self.signatures[signature]) and self._is_row_wise(signature, inputs)
            known = (self._rows or self._measured_rows(signature, inputs)) if splits else 0
            self._part_rows[signature] = known
        return known

    def _measured_rows(self, signature: str, inputs: Mapping[str, NDArray[Any]]) -> int:
        """Return how many rows run in `_PART_SECONDS`, at least 1."""
        batch = {name: tensor[:_MEASURED_ROWS] for name, tensor in inputs.items()}

        def seconds() -> float:
            begin = time.perf_counter()
            self._runtime.run(signature, batch)
            return time.perf_counter() - begin

        return max(1, int(_PART_SECONDS * _MEASURED_ROWS / min(seconds() for _ in range(_MEASUREMENTS))))

    def _is_row_wise(self, signature: str, inputs: Mapping[str, NDArray[Any]]) -> bool:
        """Return whether random rows, with the shape of `inputs`, give the same outputs together and in parts."""
        random = np.random.default_rng(0)
        probe = {
            name: _random(random, (_PROBE_ROWS, *tensor.shape[1:]), tensor.dtype)
            for name, tensor in inputs.items()
        }
        run = functools.partial(self._runtime.run, signature)
        try:
            together = run(probe)
            parts = [run({name: rows[part] for name, rows in probe.items()}) for part in _PROBE_PARTS]
        except ValueError:
            return False
        return all(_same(whole, [each[name] for each in parts]) for name, whole in together.items())


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
    # Larger integers are usually indices, and a table may have only two entries.
    return random.integers(0, 2, shape).astype(dtype)


def _same(whole: NDArray[Any], parts: list[NDArray[Any]]) -> bool:
    joined = np.concatenate(parts) if all(part.ndim for part in parts) else np.empty(0)
    if whole.shape != joined.shape:
        return False
    if whole.dtype.kind != "f":
        return bool(np.array_equal(whole, joined))
    largest = float(np.abs(whole).max(initial=0.0))
    return bool(np.allclose(whole, joined, rtol=0.0, atol=_TOLERANCE * largest, equal_nan=True))
