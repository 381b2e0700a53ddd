"""LiteRT (XNNPACK) runtime for TFLite files. TensorFlow is not needed and never loaded."""

import contextlib
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from numpy.typing import NDArray

from tfship.export.conversion import signature_metadata
from tfship.export.runtimes.protocol import DEFAULT_SIGNATURE, PREDICT, Quantization, Signature, TensorSpec
from tfship.train.common.errors import ArtifactError

__all__ = ["LiteRT"]

# LiteRT's numpy dtypes as TensorFlow's DataType numbers (tensorflow/core/framework/types.proto).
_DATA_TYPES = {
    np.float32: 1, np.float64: 2, np.int32: 3, np.uint8: 4, np.int16: 5, np.int8: 6, np.bytes_: 7,
    np.complex64: 8, np.int64: 9, np.bool_: 10, np.uint16: 17, np.float16: 19, np.uint32: 22, np.uint64: 23,
}  # fmt: skip

# LiteRT's description of a tensor.
_Details = Mapping[str, Any]


class LiteRT:
    """A loaded TFLite file; a `Runtime`.

    Its signatures are the same as in TensorFlow Serving (`tflite_session.cc`): those in the file's entry
    `signature_defs_metadata` (`export.conversion.signature_metadata`), or else `serving_default`, with the names
    of the tensors without `:0`. TFLite's signatures aren't read. Batches may have any size: if the file has a fixed
    batch of 1, the rows are run one by one.

    `threads` is the number of threads per inference, `at_once` the number of concurrent inferences. Without `xnnpack`,
    all operators run on TFLite's builtin kernels. Raises ArtifactError if the file is missing or isn't a TFLite model,
    if its tensors have no distinct names, or if LiteRT lacks an operator.
    """

    def __init__(self, path: Path, threads: int = 1, at_once: int = 1, *, xnnpack: bool = True) -> None:
        if not path.is_file():
            raise ArtifactError(f"{path}: no such TFLite file; `tfship export` writes them")
        # Bytes, not the path: truncating a memory-mapped file would kill the process.
        self._content = path.read_bytes()
        self._threads = threads
        self._resolver = OpResolverType.AUTO if xnnpack else OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        # An interpreter has one set of tensors, so each concurrent inference needs another; they are made on demand.
        self._at_once = at_once
        self._made, self._waiting = 1, 0
        self._returned = threading.Condition()  # notified when an interpreter is returned and a thread waits
        try:
            first = self._allocated()
            self._calls = _calls(first, signature_metadata.read(self._content))
        except (ValueError, RuntimeError) as error:
            raise ArtifactError(f"{path}: LiteRT can't load it ({error})") from error
        self._signatures = {name: call.signature for name, call in self._calls.items()}
        self._idle = [_Interpreter(first)]
        self._row_bytes = max(map(_row_bytes, first.get_tensor_details()), default=0)

    @property
    def row_bytes(self) -> int:
        """Bytes per row of the largest tensor with a free batch dimension, 0 if there is none."""
        return self._row_bytes

    @property
    def signatures(self) -> Mapping[str, Signature]:
        """The file's signature definitions."""
        return self._signatures

    def run(self, signature: str, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """See `Runtime.run`."""
        call = self._calls[signature]
        tensors = [inputs[name] for name in call.inputs]
        try:
            if call.single_row and any(len(tensor) != 1 for tensor in tensors):
                return self._run_rows(call, tensors)
            return self._run(call, tensors)
        except RuntimeError as error:
            raise ValueError(str(error)) from error

    def _run_rows(self, call: "_Call", tensors: list[NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run the rows one by one."""
        counts = {len(tensor) for tensor in tensors}
        if len(counts) > 1 or not all(counts):
            raise ValueError(
                f"expected inputs with the same number of rows, at least 1; found {sorted(counts)}"
            )
        rows = [self._run(call, [tensor[row : row + 1] for tensor in tensors]) for row in range(counts.pop())]
        return {name: np.concatenate([row[name] for row in rows]) for name in call.outputs}

    def _run(self, call: "_Call", tensors: list[NDArray[Any]]) -> dict[str, NDArray[Any]]:
        interpreter = self._take(tuple(tensor.shape for tensor in tensors))
        try:
            return interpreter.run(call, tensors)
        finally:
            self._give_back(interpreter)

    def close(self) -> None:
        """Wait for running inferences and free the model's memory."""
        with self._returned:
            self._at_once = 0
            self._waiting += 1
            self._returned.wait_for(lambda: len(self._idle) == self._made)
        self._idle.clear()
        self._content = b""

    def _take(self, shapes: tuple[Any, ...]) -> "_Interpreter":
        """Return an idle interpreter, preferably one already resized to `shapes`, because resizing takes time."""
        # List operations are atomic: an interpreter that another thread has taken raises an error and is skipped.
        try:
            interpreter = self._idle.pop()
        except IndexError:
            pass
        else:
            if interpreter.shapes == shapes:
                return interpreter  # the usual case
            self._idle.append(interpreter)
        for interpreter in reversed(self._idle.copy()):
            if interpreter.shapes == shapes:
                with contextlib.suppress(ValueError):
                    self._idle.remove(interpreter)
                    return interpreter
        with contextlib.suppress(IndexError):
            return self._idle.pop()
        with self._returned:
            if self._made < self._at_once:
                interpreter = _Interpreter(self._allocated())
                self._made += 1
                return interpreter
            # Counted before the list is read again: threads that return an interpreter from here on notify.
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
        # So that errors of the model are raised here and not by the first inference.
        interpreter.allocate_tensors()
        return interpreter


@dataclass(frozen=True)
class _Call:
    """A signature with its tensors' indices by public name; the inputs are ordered by index."""

    signature: Signature
    inputs: Mapping[str, int]
    outputs: Mapping[str, int]
    single_row: bool


@dataclass(eq=False)
class _Interpreter:
    """LiteRT's interpreter; `shapes` are the current shapes of its inputs, ordered by index, () if unknown."""

    interpreter: Interpreter
    shapes: tuple[Any, ...] = ()

    def run(self, call: _Call, tensors: Sequence[NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run one inference. Raises RuntimeError or ValueError with LiteRT's message."""
        shapes = tuple(tensor.shape for tensor in tensors)
        if shapes != self.shapes:
            self.shapes = ()
            for index, shape in zip(call.inputs.values(), shapes, strict=True):
                self.interpreter.resize_tensor_input(index, shape)
            self.interpreter.allocate_tensors()
            self.shapes = shapes
        for index, tensor in zip(call.inputs.values(), tensors, strict=True):
            self.interpreter.set_tensor(index, tensor)
        # Fused recurrent operators would otherwise start with the state of the last inference.
        self.interpreter.reset_all_variables()
        self.interpreter.invoke()
        return {name: self.interpreter.get_tensor(index) for name, index in call.outputs.items()}


def _calls(interpreter: Interpreter, described: Mapping[str, Signature]) -> dict[str, _Call]:
    """Return the calls of the `described` signatures. Raises ValueError if the tensors' names aren't distinct."""
    inputs = _by_name("input", interpreter.get_input_details())
    outputs = _by_name("output", interpreter.get_output_details())
    if not described:

        def named(tensors: Mapping[str, _Details]) -> dict[str, TensorSpec]:
            return {
                name.removesuffix(":0"): _spec(tensor, tensor["shape"]) for name, tensor in tensors.items()
            }

        described = {DEFAULT_SIGNATURE: Signature(named(inputs), named(outputs), PREDICT)}
    return {name: _call(name, each, inputs, outputs) for name, each in described.items()}


def _by_name(kind: str, tensors: Iterable[_Details]) -> dict[str, _Details]:
    found: dict[str, _Details] = {}
    for each in tensors:
        name = each["name"]
        if not name:
            raise ValueError(f"one of its {kind} tensors has no name, which requests need")
        if found.setdefault(name, each)["index"] != each["index"]:
            raise ValueError(f"two of its {kind} tensors have the same name {name}")
    return found


def _call(
    name: str, described: Signature, inputs: Mapping[str, _Details], outputs: Mapping[str, _Details]
) -> _Call:
    fed, fetched = _resolve(name, described.inputs, inputs), _resolve(name, described.outputs, outputs)
    if len({tensor["index"] for tensor in fed.values()}) != len(inputs):
        raise ValueError(f"its signature {name} has inputs {[*fed]}; expected one for each of {[*inputs]}")
    single_row = bool(fed) and {_rows(tensor) for tensor in fed.values()} == {1}
    single_row &= all(_rows(tensor) in (1, -1) for tensor in fetched.values())

    def specs(side: Mapping[str, _Details], reported: Mapping[str, TensorSpec]) -> dict[str, TensorSpec]:
        found = {}
        for key, tensor in side.items():
            spec = _spec(tensor, tensor["shape_signature"])
            if single_row and spec.shape:
                spec = replace(spec, shape=(-1, *spec.shape[1:]))
            found[key] = replace(spec, name=reported[key].name, reported_shape=reported[key].shape)
        return found

    signature = Signature(
        specs(fed, described.inputs), specs(fetched, described.outputs), described.method_name
    )
    ordered = sorted(fed, key=lambda key: int(fed[key]["index"]))
    return _Call(
        signature,
        {key: int(fed[key]["index"]) for key in ordered},
        {key: int(tensor["index"]) for key, tensor in fetched.items()},
        single_row,
    )


def _resolve(
    name: str, specs: Mapping[str, TensorSpec], tensors: Mapping[str, _Details]
) -> dict[str, _Details]:
    """Return the tensors of a signature's `specs`; old converters omit `:0` in the file."""
    found = {
        key: tensors.get(spec.name, tensors.get(spec.name.removesuffix(":0"))) for key, spec in specs.items()
    }
    if missing := [specs[key].name for key, tensor in found.items() if tensor is None]:
        raise ValueError(f"its signature {name} names tensors {missing}; expected some of {[*tensors]}")
    return {key: tensor for key, tensor in found.items() if tensor is not None}


def _rows(details: _Details) -> int | None:
    """Return the size of the first dimension, -1 if it is free, None for a scalar."""
    return next(iter(details["shape_signature"]), None)


def _row_bytes(details: _Details) -> int:
    if _rows(details) != -1:
        return 0
    elements = int(np.prod(details["shape"][1:], dtype=np.int64))
    return elements * int(np.dtype(details["dtype"]).itemsize)


def _spec(details: _Details, shape: Iterable[int]) -> TensorSpec:
    scale, zero_point = details["quantization"]
    dtype = _DATA_TYPES.get(details["dtype"])
    if dtype is None:
        raise ValueError(
            f"its tensor {details['name']} has the type {details['dtype']}, which can't be served"
        )
    return TensorSpec(
        details["name"],
        dtype,
        tuple(int(size) for size in shape),
        Quantization(float(scale), int(zero_point)) if scale else None,
    )
