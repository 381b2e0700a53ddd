"""Training on several hosts: synchronous data parallelism with TensorFlow's collectives.

The hosts are named in `TF_CONFIG`, TensorFlow's convention. Keras 3's `fit` can't run under
`MultiWorkerMirroredStrategy` (keras-team/keras#20585), so that strategy only connects the workers. This module
averages the gradients before each step. After each epoch it averages the variables that the steps don't keep equal,
such as batch normalization's statistics.

Loads TensorFlow only if there are other workers.
"""

import json
import math
import os
import re
import socket
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfship.train.common import interruption, tensorflow_loader
from tfship.train.common.errors import Unreachable, UsageError

__all__ = ["ALONE", "Workers", "connect"]

_SECONDS_BETWEEN_LINES = 10
_ADDRESS = re.compile(r".+:[0-9]{1,5}")


@dataclass(frozen=True)
class Workers:
    """The group of workers: `index` of this process, from 0, and their `count`. Worker 0, the chief, writes files."""

    index: int
    count: int

    @property
    def chief(self) -> bool:
        """Whether this is the worker that writes and reports."""
        return self.index == 0

    def mean(self, values: Sequence[Any]) -> list[Any]:
        """Return float32 tensors averaged over all workers. Every worker must call this, with the same shapes."""
        return list(values) if self.count == 1 else self._reduce(values, "float32", "Div")

    def from_chief(self, arrays: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """Return the chief's arrays, exactly, on every worker. Every worker must call this, with the same shapes."""
        if self.count == 1:
            return list(arrays)
        # A sum with zeros from the other workers. float64 represents every float32 and 32-bit integer exactly.
        terms = arrays if self.chief else [np.zeros_like(each) for each in arrays]
        sums = self._reduce([np.asarray(each) for each in terms], "float64", "Id")
        return [each.numpy().astype(array.dtype) for each, array in zip(sums, arrays, strict=True)]

    def text_from_chief(self, text: str) -> str:
        """Return the chief's text on every worker."""
        mine = np.frombuffer(text.encode(), np.uint8)
        (size,) = self.from_chief([np.array(len(mine))])
        (encoded,) = self.from_chief([mine if self.chief else np.zeros(size, np.uint8)])
        return encoded.tobytes().decode()

    def _reduce(self, values: Sequence[Any], dtype: str, final: str) -> list[Any]:
        import tensorflow as tf

        tensors = [tf.convert_to_tensor(value) for value in values]
        # One vector for all tensors, since each message has a fixed cost.
        vector = tf.raw_ops.CollectiveReduceV2(
            input=tf.concat([tf.reshape(tf.cast(each, dtype), [-1]) for each in tensors], 0),
            group_size=self.count,
            group_key=1,
            # One key for each kind of message, since an instance keeps its shape and dtype.
            instance_key=zlib.crc32(f"{dtype} {final} {[each.shape for each in tensors]}".encode()) >> 1,
            ordering_token=[],
            merge_op="Add",
            final_op=final,
        )
        parts = tf.split(vector, [each.shape.num_elements() for each in tensors])
        return [tf.reshape(part, each.shape) for part, each in zip(parts, tensors, strict=True)]

    def average(self, variables: Sequence[Any]) -> None:
        """Set each floating-point variable to its mean over all workers."""
        if self.count == 1:
            return
        floats = [variable for variable in variables if "float" in str(variable.dtype)]
        for variable, value in zip(floats, self.mean([each.value for each in floats]), strict=True):
            variable.assign(value)


ALONE = Workers(0, 1)


def connect(say: Callable[[str], None], seconds: float = 600) -> Workers:
    """Connect to the workers in `TF_CONFIG` and return the group; ALONE if the variable isn't set.

    Must be called before TensorFlow runs any operation. Waits up to `seconds` for the other workers, and reports
    the wait with `say`. Raises UsageError if `TF_CONFIG` isn't what TensorFlow expects, Unreachable if a worker is
    missing.
    """
    text = os.environ.get("TF_CONFIG")
    if not text:
        return ALONE
    workers, addresses = _parse(text)
    if workers.count == 1:
        return ALONE
    _await_others(workers, addresses, say, seconds)
    tf = tensorflow_loader.tensorflow()
    try:
        tf.distribute.MultiWorkerMirroredStrategy()
    except (tf.errors.OpError, RuntimeError) as error:
        raise Unreachable(
            f"TF_CONFIG: the workers can't connect ({error}); start this command again on all of them"
        ) from error
    return workers


def _await_others(workers: Workers, addresses: list[str], say: Callable[[str], None], seconds: float) -> None:
    """Wait until every worker listens; meanwhile listen on this worker's port, until TensorFlow does.

    TensorFlow's own call would wait an hour, and neither Ctrl-C nor another thread can end it.
    """
    missing = [each for index, each in enumerate(addresses) if index != workers.index]
    begun, reported = time.monotonic(), -math.inf
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("", int(addresses[workers.index].rpartition(":")[2])))
        except OSError as error:
            raise Unreachable(
                f"TF_CONFIG: can't listen at {addresses[workers.index]} ({error.strerror}); choose a free port"
            ) from error
        listener.listen()
        while missing := [each for each in missing if not _listens(each)]:
            if (now := time.monotonic()) > begun + seconds:
                raise Unreachable(
                    f"TF_CONFIG: no worker at {', '.join(missing)} after {seconds:.0f} s; start this command on every "
                    "worker, each with its own index"
                )
            if now > reported + _SECONDS_BETWEEN_LINES:
                reported = now
                say(f"worker {workers.index} of {workers.count}: waiting for {', '.join(missing)}")
            interruption.check()
            time.sleep(0.2)


def _listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=2).close()
    except OSError:
        return False
    return True


def _parse(text: str) -> tuple[Workers, list[str]]:
    expected = '{"cluster": {"worker": ["host:port", …]}, "task": {"type": "worker", "index": N}}'
    try:
        config = json.loads(text)
        addresses, task = config["cluster"]["worker"], config["task"]
        index = task["index"]
        valid = (
            set(config["cluster"]) == {"worker"}
            and task["type"] == "worker"
            and isinstance(addresses, list)
            and all(isinstance(each, str) and _ADDRESS.fullmatch(each) for each in addresses)
            and all(int(each.rpartition(":")[2]) < 2**16 for each in addresses)
            and type(index) is int
            and 0 <= index < len(addresses)
        )
    except (ValueError, KeyError, TypeError):
        valid = False
    if not valid:
        raise UsageError(f"TF_CONFIG is {text!r}; expected {expected}, where N is an index into that list")
    return Workers(index, len(addresses)), addresses
