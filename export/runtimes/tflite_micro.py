"""TFLite files for microcontrollers: inference in TensorFlow Lite Micro's interpreter, and C source.

Neither needs TensorFlow. The interpreter is the package `tflite-micro`, available for Linux on x86-64. It aborts the
process on values that its kernels don't expect, so `predict` and `arena` must run in a child process
(`export.runtimes.isolation`).
"""

import importlib.util
import math
import re
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfship.train.common.errors import ArtifactError
from tfship.train.common.tensorflow_loader import quiet

__all__ = ["AVAILABLE", "NAME", "arena", "c_source", "predict"]

# Whether TensorFlow Lite Micro's interpreter is installed.
AVAILABLE = importlib.util.find_spec("tflite_micro") is not None
NAME = "TensorFlow Lite Micro"

_ARENA = re.compile(r"Arena allocation total (\d+) bytes")
_COLUMNS = 12
# TFLite's int8 softmax asserts that the sum of exponentials, relative to the largest, is at most 2^9.
_MOST_CLASSES = 512


def predict(path: Path, tensors: NDArray[Any], seconds: float = math.inf) -> NDArray[Any]:
    """Run the TFLite file `path` on `tensors` [N, …] of its input's dtype, one by one; return its outputs [N, …].

    After `seconds` it returns the outputs so far, at least one. Raises ArtifactError if the interpreter lacks an
    operator of the file. The process aborts, without a message from the interpreter, if the exponentials of a softmax,
    relative to the largest, sum to more than 512.
    """
    interpreter = _interpreter(path)
    if wide := _wide_softmax(path):
        # `export.runtimes.isolation` reads the reason of an abort from stderr.
        print(f"error: softmax over {wide} classes", file=sys.stderr, flush=True)  # noqa: T201
    outputs, end = [], time.monotonic() + seconds
    for tensor in tensors:
        interpreter.set_input(tensor[np.newaxis], 0)
        interpreter.invoke()
        outputs.append(interpreter.get_output(0)[0])
        if time.monotonic() > end:
            break
    return np.stack(outputs)


def arena(path: Path) -> int:
    """Return the size in bytes of the tensor arena that the file `path` needs on this machine, with 8-byte pointers.

    TensorFlow Lite Micro's recording allocator reports it after an inference. Raises ArtifactError if it doesn't.
    """
    interpreter = _interpreter(path)
    details = interpreter.get_input_details(0)
    interpreter.set_input(np.zeros(details["shape"], details["dtype"]), 0)
    interpreter.invoke()
    with quiet() as printed:
        interpreter.print_allocations()
        report = printed()
    match = _ARENA.search(report)
    if match is None:
        raise ArtifactError(f"{path}: TensorFlow Lite Micro reported no arena size; found {report[:200]!r}")
    return int(match[1])


def c_source(data: bytes, name: str) -> tuple[str, str]:
    """Return the TFLite file `data` as C header and source, which define `<name>_tflite` and `<name>_tflite_len`.

    The array is aligned to 16 bytes, because TensorFlow Lite Micro reads it in place. Characters of `name` that are
    invalid in a C identifier are replaced by `_`.
    """
    symbol = re.sub(r"\W", "_", name, flags=re.ASCII) + "_tflite"
    if symbol[0].isdigit():
        symbol = f"_{symbol}"
    guard = f"{symbol.upper()}_H_"
    header = (
        f'#ifndef {guard}\n#define {guard}\n\n#ifdef __cplusplus\nextern "C" {{\n#endif\n\n'
        f"extern const unsigned char {symbol}[];\nextern const unsigned int {symbol}_len;\n\n"
        f"#ifdef __cplusplus\n}}\n#endif\n\n#endif  /* {guard} */\n"
    )
    rows = (data[start : start + _COLUMNS] for start in range(0, len(data), _COLUMNS))
    body = ",\n".join("    " + ", ".join(f"0x{byte:02x}" for byte in row) for row in rows)
    source = (
        f'#include "{name}.h"\n\n'
        "#if defined(__GNUC__)\n#define ALIGNED __attribute__((aligned(16)))\n"
        "#elif defined(_MSC_VER)\n#define ALIGNED __declspec(align(16))\n"
        "#else\n#define ALIGNED\n#endif\n\n"
        f"const unsigned char {symbol}[] ALIGNED = {{\n{body},\n}};\n"
        f"const unsigned int {symbol}_len = {len(data)};\n"
    )
    return header, source


def _wide_softmax(path: Path) -> int:
    """Return the largest number of classes of a softmax in the file if it exceeds the int8 kernel's limit, or 0."""
    from ai_edge_litert.tools import flatbuffer_utils

    model = flatbuffer_utils.read_model(str(path))
    sizes = [
        int(graph.tensors[operator.inputs[0]].shape[-1])
        for graph in model.subgraphs
        for operator in graph.operators
        if flatbuffer_utils.opcode_to_name(model, operator.opcodeIndex) == "SOFTMAX"
    ]
    return max((size for size in sizes if size > _MOST_CLASSES), default=0)


def _interpreter(path: Path) -> Any:
    from tflite_micro.python.tflite_micro import runtime

    with quiet() as printed:
        try:
            return runtime.Interpreter.from_bytes(path.read_bytes())
        except (RuntimeError, ValueError) as error:
            reason = (printed().strip() or str(error)).splitlines()[0]
    raise ArtifactError(f"{path}: TensorFlow Lite Micro can't run it ({reason})")
