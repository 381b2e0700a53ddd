"""Time of each operator in a TFLite file, run by LiteRT with XNNPACK.

LiteRT's Python package has no profiler, and XNNPACK fuses operators. So the file is cut after each operator and the
cuts are timed. The difference between consecutive cuts is the time of the operators between them.

All cuts run in turn, several times each, until the time is over. The shortest time of each counts: other work on the
machine can only add to it, and a difference of medians would contain that work. A cut that seems to take longer than a
cut that contains it gets the latter's time, for the same reason. So no difference is below 0, and they add up to the
time of the whole inference.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from ai_edge_litert.tools import flatbuffer_utils
from numpy.typing import NDArray

from tfship.export.conversion import layer_divergence
from tfship.export.runtimes.litert import LiteRT
from tfship.train.common.errors import ArtifactError
from tfship.train.common.tensorflow_loader import quiet

__all__ = ["Operator", "profile"]

# Number of runs in a turn: before the first one, the other cuts have evicted its weights from the caches.
_RUNS = 5
# Minimum number of rounds, even for slow models.
_LEAST_ROUNDS = 3


@dataclass(frozen=True)
class Operator:
    """One operator: its TFLite name, the `name` of its layer, its microseconds, and whether XNNPACK runs it.

    Operators that XNNPACK fuses into others take 0.
    """

    operator: str
    name: str
    us: float
    delegated: bool

    def describe(self) -> dict[str, Any]:
        """Return its fields for a result file."""
        return {**asdict(self), "us": round(self.us, 2)}


@dataclass(frozen=True)
class _Cut:
    """A file up to and including an operator, loaded, with its input set."""

    operator: str
    tensor: str
    delegated: bool
    interpreter: Interpreter


def profile(
    path: Path,
    image: NDArray[np.float32],
    threads: int = 1,
    known: Sequence[str] = (),
    *,
    seconds: float = 0.4,
) -> list[Operator]:
    """Return a file's operators in order of execution, measured for about `seconds` on one image.

    `image` is the model's input, float32 [1, H, W, C]; `known` has the names of the layers in Keras. Operators that
    depend only on constants are left out, as they run when the file is loaded. The first operator includes the call
    itself, about a microsecond. Raises ArtifactError if the file is missing, is no TFLite model or doesn't take the
    image.
    """
    with quiet():  # LiteRT logs its delegate
        LiteRT(path).close()  # reports damaged files
        try:
            cuts = list(_cuts(path.read_bytes(), image, threads))
        except (ValueError, RuntimeError) as error:
            raise ArtifactError(
                f"{path}: LiteRT can't run it up to each of its operators with an image {list(image.shape)} ({error})"
            ) from error
    times = _shortest([each.interpreter for each in cuts], seconds)
    until = np.minimum.accumulate(times[::-1])[::-1]
    return [
        Operator(cut.operator, layer_divergence.name(cut.tensor, known), float(us), cut.delegated)
        for cut, us in zip(cuts, np.diff(until, prepend=0.0) * 1e6, strict=True)
    ]


def _cuts(data: bytes, image: NDArray[np.float32], threads: int) -> Iterator[_Cut]:
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(data))
    graph = model.subgraphs[0]
    model.signatureDefs = []  # they name the outputs of the whole file
    operators, outputs = graph.operators, set(graph.outputs)
    depending = _depending(operators, graph.inputs)
    for count, last in enumerate(depending, 1):
        made = {tensor for each in depending[:count] for tensor in each.outputs}
        wanted = outputs.union(*(each.inputs for each in depending[count:]))
        graph.outputs = sorted(made & wanted | set(last.outputs))
        graph.operators = _needed(operators, graph.outputs)
        interpreter = Interpreter(
            model_content=bytes(flatbuffer_utils.convert_object_to_bytearray(model)), num_threads=threads
        )
        layer_divergence.feed(interpreter, image)
        delegates = [each for each in interpreter._get_ops_details() if each["op_name"] == "DELEGATE"]
        yield _Cut(
            flatbuffer_utils.opcode_to_name(model, last.opcodeIndex),
            graph.tensors[last.outputs[0]].name.decode(),
            any(last.outputs[0] in each["outputs"] for each in delegates),
            interpreter,
        )


def _depending(operators: Sequence[Any], inputs: Sequence[int]) -> list[Any]:
    """Return the operators that depend on the input, in order."""
    found, tensors = [], set(inputs)
    for each in operators:
        if tensors.intersection(each.inputs):
            found.append(each)
            tensors.update(each.outputs)
    return found


def _needed(operators: Sequence[Any], outputs: Sequence[int]) -> list[Any]:
    """Return the operators that the outputs depend on, in order."""
    found, tensors = [], set(outputs)
    for each in reversed(operators):
        if tensors.intersection(each.outputs):
            found.append(each)
            tensors.update(each.inputs)
    return found[::-1]


def _shortest(interpreters: Sequence[Interpreter], seconds: float) -> NDArray[np.float64]:
    """Return the shortest time of each interpreter in seconds."""
    shortest = np.full(len(interpreters), np.inf)
    rounds, end = 0, time.perf_counter() + seconds
    while rounds < _LEAST_ROUNDS or time.perf_counter() < end:
        for number, interpreter in enumerate(interpreters):
            for _ in range(_RUNS):
                start = time.perf_counter()
                interpreter.invoke()
                shortest[number] = min(shortest[number], time.perf_counter() - start)
        rounds += 1
    return shortest
