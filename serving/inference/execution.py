"""Input checks and execution of a loaded model for untrusted requests.

Inputs are checked first, because TensorFlow aborts the whole process on some. Every error is a StatusError.
"""

import threading
import time
from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfship.export.runtimes.protocol import Runtime, Signature, TensorSpec
from tfship.serving.inference.request_context import Call
from tfship.serving.protos.status import Code, StatusError, invalid
from tfship.serving.protos.tensors import DTYPES, MAX_REPEATED_BYTES, DType, dtype_of

__all__ = ["DEADLINE", "Loaded", "Tensors", "check_inputs", "find", "names", "run", "serialized", "until"]

Tensors = dict[str, NDArray[Any]]

# Deadline of the current request (`time.monotonic()`).
DEADLINE: ContextVar[float | None] = ContextVar("deadline", default=None)


@dataclass(frozen=True)
class Loaded:
    """A model that is ready to run.

    `any_shape`: the runtime handles shapes other than its signatures' safely. `kind` is TF1, the name in TensorFlow
    Serving's metrics, or TFLite. `notes` are lines of information for the operator.
    """

    runtime: Runtime
    any_shape: bool
    kind: str = "TF1"
    notes: tuple[str, ...] = ()


def find(loaded: Loaded, name: str) -> Signature | None:
    """Return the signature `name`, or None. Raises StatusError(UNIMPLEMENTED) if its tensors can't be sent."""
    signature = loaded.runtime.signatures.get(name)
    # The loader's pseudo-signature has no method name and can't be run.
    if signature is None or not signature.method_name:
        return None
    for key, spec in (*signature.inputs.items(), *signature.outputs.items()):
        if dtype_of(spec.dtype) is None:
            raise StatusError(
                Code.UNIMPLEMENTED, f"{name}: {key} has dtype {spec.dtype}, which can't be sent"
            )
    return signature


def run(loaded: Loaded, name: str, tensors: Tensors, call: Call | None = None) -> Tensors:
    """Run the signature `name` on checked `tensors` and return all its outputs.

    Raises StatusError with the runtime's message, or if the deadline of `call` has passed; the model doesn't run then.
    """
    signature = loaded.runtime.signatures[name]
    if call:
        call.check_deadline()
        DEADLINE.set(call.deadline)
    begin = time.monotonic()
    try:
        outputs = loaded.runtime.run(name, tensors)
    except ValueError as error:
        raise StatusError(Code.of(error, Code.INVALID_ARGUMENT), str(error)) from error
    if call:
        call.inference += time.monotonic() - begin
        call.runtime = loaded.kind
    return {key: _array(value, signature.outputs[key]) for key, value in outputs.items()}


def check_inputs(loaded: Loaded, signature: Signature, tensors: Tensors) -> None:
    """Raise StatusError(INVALID_ARGUMENT) if `tensors` don't match the inputs of `signature`."""
    specs = signature.inputs
    if len(tensors) != len(specs):
        extra, missing = tensors.keys() - specs.keys(), specs.keys() - tensors.keys()
        raise invalid(
            f"input size does not match signature: {len(tensors)}!={len(specs)} len({names(tensors)}) != "
            f"len({names(specs)}). Sent extra: {names(extra)}. Missing but required: {names(missing)}."
        )
    for index, name in enumerate(sorted(specs)):
        spec = specs[name]
        if name not in tensors:
            raise invalid(
                f"Signature input alias: {name}(feed name: {spec.name}) not found in request and no default value "
                f"provided. Inputs expected to be in the request {names(tensors)}, or default input alias set: "
            )
        tensor, expected = tensors[name], _dtype(spec)
        if tensor.dtype != expected.numpy:
            raise invalid(f"Expects arg[{index}] to be {expected.name} but {_dtype_name(tensor)} is provided")
        if not loaded.any_shape and not _fits(tensor.shape, spec.shape):
            raise invalid(
                f"input {name} has shape {list(tensor.shape)}; its signature expects {list(spec.shape or ())}"
                " (-1: any size)"
            )


def _fits(shape: tuple[int, ...], expected: tuple[int, ...] | None) -> bool:
    if expected is None:
        return True
    return len(shape) == len(expected) and all(
        expected_size in (-1, size) for size, expected_size in zip(shape, expected, strict=True)
    )


def _array(output: Any, spec: TensorSpec) -> NDArray[Any]:
    # TensorFlow returns a scalar as a Python value. Without the dtype, numpy would strip trailing NULs from a string.
    return np.asarray(output, _dtype(spec).numpy)


def _dtype(spec: TensorSpec) -> DType:
    dtype = dtype_of(spec.dtype)
    assert dtype is not None, "checked by _signature"  # noqa: S101
    return dtype


def _dtype_name(tensor: NDArray[Any]) -> str:
    return next(each.name for each in DTYPES.values() if each.numpy == tensor.dtype)


def serialized(examples: Any) -> NDArray[Any]:
    """Return the examples of an Input as serialised tf.Examples [N], each merged with the context."""
    kind, context = examples.WhichOneof("kind"), b""
    if kind == "example_list_with_context":
        context = examples.example_list_with_context.context.SerializeToString()
    found = getattr(examples, kind).examples if kind else ()
    if not found:
        raise invalid("Input is empty.")
    if len(context) * len(found) > MAX_REPEATED_BYTES:
        raise invalid(
            f"a context of {len(context)} bytes for each of {len(found)} examples makes more than "
            f"{MAX_REPEATED_BYTES} bytes"
        )
    rows = np.empty(len(found), np.object_)
    # Concatenated messages parse as one merged message, in which the later features win.
    rows[:] = [context + each.SerializeToString() for each in found]
    return rows


def names(found: Iterable[str]) -> str:
    """Return the names `found` in the format of TensorFlow Serving's messages."""
    return f"{{{','.join(sorted(found))}}}"


def until(moment: float | None) -> float | None:
    """Return the timeout (s) for a lock until `moment` (`time.monotonic()`), at most TIMEOUT_MAX; None for None."""
    return None if moment is None else min(max(0.0, moment - time.monotonic()), threading.TIMEOUT_MAX)
