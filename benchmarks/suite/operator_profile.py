"""Where an inference's time goes: a TFLite file's operators, as LiteRT runs them with XNNPACK.

LiteRT's Python package has no profiler, and XNNPACK runs several operators as one. So the file is cut after each
operator, and what it takes until then is timed; the difference between two cuts is what lies between them.

All cuts are run in turn, several times each, for as long as there is time, and of each the shortest time counts: what
else a machine does can only add to it, and in a difference of two medians, what it did meanwhile would be left. For
the same reason no cut takes longer than one that contains it: where it seemed to, the longer cut's time is the nearer
to the truth. So no difference is below 0, and their sum is the whole inference's time.
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

# Each time it's a cut's turn it runs this often: the first time, its weights have left the caches.
_RUNS = 5
# However slow they are.
_LEAST_ROUNDS = 3


@dataclass(frozen=True)
class Operator:
    """One operator: TFLite's name for it, its layer's `name`, microseconds, and whether XNNPACK runs it.

    Operators that XNNPACK runs as a part of others take 0.
    """

    operator: str
    name: str
    us: float
    delegated: bool

    def describe(self) -> dict[str, Any]:
        """Return it as a result file records it."""
        return {**asdict(self), "us": round(self.us, 2)}


@dataclass(frozen=True)
class _Cut:
    """A file up to and with an operator, loaded, its input set."""

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

    `image` is float32 [1, H, W, C] as the model takes it; `known` are the layers' names in Keras. Operators that work
    on constants alone aren't there: they are done when the file is loaded. The first has the call itself in it, about
    a microsecond. Raises ArtifactError if the file is missing, is no TFLite model or doesn't take such an image.
    """
    with quiet():  # LiteRT announces its delegate
        LiteRT(path).close()  # which says what is wrong with a file
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
    # Their outputs are others now.
    model.signatureDefs = []
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
    """Return the shortest time of each in seconds."""
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
