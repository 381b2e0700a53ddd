"""Speed of this machine: LiteRT's inference of one image, without a server or a client.

Only `invoke` is timed. Copying tensors in `export.runtimes.litert` takes 3 µs more, a third of the small network's
time. With it, the machine would seem slower, and every server on it faster, than it is.
"""

import statistics
import time
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray

from tfship.train.common.tensorflow_loader import quiet

__all__ = ["microseconds"]

_SECONDS = 0.5
# Long enough to make reading the clock negligible, short enough for a disturbance to affect few samples.
_SAMPLE_SECONDS = 0.002


def microseconds(file: Path, image: NDArray[np.float32], seconds: float = _SECONDS) -> float:
    """Return the median time of an inference of `image`, float32 [1, H, W, C], with one thread.

    The model in `file` has one input, of float32.
    """
    with quiet():  # LiteRT logs its delegate
        interpreter = Interpreter(model_content=file.read_bytes(), num_threads=1)
        interpreter.allocate_tensors()
    (details,) = interpreter.get_input_details()
    interpreter.set_tensor(details["index"], image)
    calls = 1
    while (elapsed := _time(interpreter, calls)) < _SAMPLE_SECONDS:  # also the warm-up
        calls *= 2
    samples = [_time(interpreter, calls) for _ in range(max(3, round(seconds / elapsed)))]
    return statistics.median(samples) / calls * 1e6


def _time(interpreter: Interpreter, calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        interpreter.invoke()
    return time.perf_counter() - start
