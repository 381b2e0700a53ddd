"""Run TFLite files with LiteRT (XNNPACK). TensorFlow is not needed and never loaded."""

import contextlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from numpy.typing import NDArray

from export.runtime import Quantization, Signature, TensorSpec
from train.errors import ArtifactError

__all__ = ["LiteRT"]

# LiteRT's numpy dtypes as TensorFlow's DataType numbers (tensorflow/core/framework/types.proto).
_DATA_TYPES = {
    np.float32: 1, np.float64: 2, np.int32: 3, np.uint8: 4, np.int16: 5, np.int8: 6, np.bytes_: 7,
    np.complex64: 8, np.int64: 9, np.bool_: 10, np.uint16: 17, np.float16: 19, np.uint32: 22, np.uint64: 23,
}  # fmt: skip


class LiteRT:
    """A TFLite file, loaded; a `Runtime` whose batch dimension follows its input.

    `threads` is the number that an inference may use, `at_once` how many inferences may run at a time, and without
    `xnnpack` all operators run on TFLite's own kernels. Raises ArtifactError if the file is missing, is no TFLite
    model, has no signature or needs an operator that this runtime lacks.
    """

    def __init__(self, path: Path, threads: int = 1, at_once: int = 1, *, xnnpack: bool = True) -> None:
        if not path.is_file():
            raise ArtifactError(f"{path}: no such TFLite file; `make export` writes them")
        # Bytes and not the path: a file replaced or truncated under a memory map would kill the process.
        self._content = path.read_bytes()
        self._threads = threads
        self._resolver = OpResolverType.AUTO if xnnpack else OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        # One interpreter has one set of tensors: a second call at a time needs a second one, made when it comes.
        self._at_once = at_once
        self._made, self._waiting = 1, 0
        self._returned = threading.Condition()  # notified when one is given back that somebody waits for
        try:
            allocated = self._allocated()
            first = _with_runners(allocated)
        except (ValueError, RuntimeError) as error:
            raise ArtifactError(f"{path}: LiteRT can't load it ({error})") from error
        if not first.runners:
            raise ArtifactError(f"{path}: has no signature, so its tensors have no names; export it again")
        self._idle = [first]
        self._signatures = {
            name: Signature(
                {key: _spec(each) for key, each in runner.get_input_details().items()},
                {key: _spec(each) for key, each in runner.get_output_details().items()},
                "tensorflow/serving/predict",
            )
            for name, runner in first.runners.items()
        }
        self._row_bytes = max(map(_row_bytes, allocated.get_tensor_details()), default=0)

    @property
    def row_bytes(self) -> int:
        """The bytes that one row takes of the largest tensor that has a row for each of the batch's."""
        return self._row_bytes

    @property
    def signatures(self) -> Mapping[str, Signature]:
        """The file's signature definitions."""
        return self._signatures

    def run(self, signature: str, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """See `Runtime.run`."""
        shapes = (signature, *(array.shape for array in inputs.values()))
        interpreter = self._take(shapes)
        try:
            outputs: dict[str, NDArray[Any]] = interpreter.runners[signature](**inputs)
        except RuntimeError as error:
            raise ValueError(str(error)) from error
        finally:
            interpreter.shapes = shapes
            self._give_back(interpreter)
        return outputs

    def close(self) -> None:
        """Free the model's memory, when what runs has ended."""
        with self._returned:
            self._at_once = 0
            self._waiting += 1
            self._returned.wait_for(lambda: len(self._idle) == self._made)
        self._idle.clear()
        self._content = b""

    def _take(self, shapes: tuple[Any, ...]) -> "_Interpreter":
        """Return an idle interpreter, if possible one whose tensors have these sizes already: new ones take time."""
        # A list's own operations are atomic; what another thread took meanwhile is just not there any more.
        for interpreter in reversed(self._idle.copy()):
            if interpreter.shapes == shapes:
                with contextlib.suppress(ValueError):
                    self._idle.remove(interpreter)
                    return interpreter
        with contextlib.suppress(IndexError):
            return self._idle.pop()
        with self._returned:
            if self._made < self._at_once:
                interpreter = _with_runners(self._allocated())
                self._made += 1
                return interpreter
            # Counted before the list is looked at again: whoever gives one back from now on will say so.
            self._waiting += 1
            try:
                while True:
                    with contextlib.suppress(IndexError):
                        return self._idle.pop()
                    self._returned.wait()
            finally:
                self._waiting -= 1

    def _give_back(self, interpreter: "_Interpreter") -> None:
        self._idle.append(interpreter)
        if self._waiting:
            with self._returned:
                self._returned.notify(1 if self._at_once else self._waiting)

    def _allocated(self) -> Interpreter:
        interpreter = Interpreter(
            model_content=self._content,
            num_threads=self._threads,
            experimental_op_resolver_type=self._resolver,
        )
        # Before the runners exist: it finds out now what the first inference would stumble over.
        interpreter.allocate_tensors()
        return interpreter


@dataclass(eq=False)
class _Interpreter:
    """LiteRT's interpreter, as its signatures' runners, which hold it; `shapes` are those of its last inputs."""

    runners: dict[str, Any]
    shapes: tuple[Any, ...] = ()


def _with_runners(interpreter: Interpreter) -> _Interpreter:
    names = interpreter.get_signature_list()
    return _Interpreter({name: interpreter.get_signature_runner(name) for name in names})


def _row_bytes(details: Mapping[str, Any]) -> int:
    if tuple(details["shape_signature"][:1]) != (-1,):
        return 0
    elements = int(np.prod(details["shape"][1:], dtype=np.int64))
    return elements * int(np.dtype(details["dtype"]).itemsize)


def _spec(details: Mapping[str, Any]) -> TensorSpec:
    scale, zero_point = details["quantization"]
    return TensorSpec(
        details["name"],
        _DATA_TYPES[details["dtype"]],
        tuple(int(size) for size in details.get("shape_signature", details["shape"])),
        Quantization(float(scale), int(zero_point)) if scale else None,
    )
