"""Input checks and execution of a loaded model for untrusted requests.

Inputs are checked first, because TensorFlow aborts the whole process on some. Every error is a StatusError.
"""

import contextlib
import functools
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfship.export.runtimes.protocol import Runtime, Signature, TensorSpec
from tfship.serving.inference.request_context import Call
from tfship.serving.protos.status import Code, StatusError, invalid
from tfship.serving.protos.tensors import DTYPES, MAX_REPEATED_BYTES, DType, dtype_of

__all__ = [
    "DEADLINE",
    "Loaded",
    "Tensors",
    "check_inputs",
    "deadline_of",
    "find",
    "fits",
    "names",
    "run",
    "serialized",
    "until",
]

Tensors = dict[str, NDArray[Any]]

# Deadline of the current request (`time.monotonic()`).
DEADLINE: ContextVar[float | None] = ContextVar("deadline", default=None)


@dataclass(frozen=True)
class Loaded:
    """A model that is ready to run.

    `any_shape`: the runtime handles shapes other than its signatures' safely. `kind` is TF1, the name in TensorFlow
    Serving's metrics, or TFLite. `kinds` contains the signatures that another kind of runtime answers. `notes` are
    lines of information for the operator.
    """

    runtime: Runtime
    any_shape: bool
    kind: str = "TF1"
    kinds: Mapping[str, str] = field(default_factory=dict, hash=False)
    notes: tuple[str, ...] = ()

    @functools.cached_property
    def prepared(self) -> Mapping[str, "_Prepared"]:
        """The signatures that can be run, by name. Two threads may compute it at once, to the same result."""
        return {
            name: _Prepared.of(signature)
            for name, signature in self.runtime.signatures.items()
            if signature.method_name  # the loader's pseudo-signature has none
        }


@dataclass(frozen=True)
class _Prepared:
    """A signature with its types; `inputs` in the order of their names. `refusal`: why its tensors can't be sent."""

    signature: Signature
    inputs: tuple[tuple[str, TensorSpec, DType], ...]
    outputs: Mapping[str, np.dtype[Any]]
    refusal: str = ""

    @classmethod
    def of(cls, signature: Signature) -> "_Prepared":
        for key, spec in (*signature.inputs.items(), *signature.outputs.items()):
            if dtype_of(spec.dtype) is None:
                return cls(signature, (), {}, f"{key} has dtype {spec.dtype}, which can't be sent")
        return cls(
            signature,
            tuple((name, spec, _dtype(spec)) for name, spec in sorted(signature.inputs.items())),
            {name: _dtype(spec).numpy for name, spec in signature.outputs.items()},
        )


def find(loaded: Loaded, name: str) -> Signature | None:
    """Return the signature `name`, or None. Raises StatusError(UNIMPLEMENTED) if its tensors can't be sent."""
    prepared = loaded.prepared.get(name)
    if prepared is None:
        return None
    if prepared.refusal:
        raise StatusError(Code.UNIMPLEMENTED, f"{name}: {prepared.refusal}")
    return prepared.signature


def run(loaded: Loaded, name: str, tensors: Tensors, call: Call | None = None) -> Tensors:
    """Run the signature `name` on checked `tensors` and return all its outputs.

    Raises StatusError with the runtime's message, or if the deadline of `call` has passed; the model doesn't run then.
    """
    if call:
        call.check_deadline()
    begin = time.monotonic()
    # Also without a call, for warm-up: the thread may have served a request before.
    token = DEADLINE.set(call.deadline if call else None)
    try:
        outputs = loaded.runtime.run(name, tensors)
    except ValueError as error:
        raise StatusError(Code.of(error, Code.INVALID_ARGUMENT), str(error)) from error
    finally:
        DEADLINE.reset(token)
    if call:
        call.inference += time.monotonic() - begin
        call.runtime = loaded.kinds.get(name, loaded.kind)
    dtypes = loaded.prepared[name].outputs
    # TensorFlow returns a scalar as a Python value. Without the dtype, numpy would strip trailing NULs from a string.
    return {key: np.asarray(value, dtypes[key]) for key, value in outputs.items()}


def check_inputs(loaded: Loaded, name: str, tensors: Tensors) -> None:
    """Raise StatusError(INVALID_ARGUMENT) if `tensors` don't match the inputs of the signature `name`."""
    specs = loaded.prepared[name].inputs
    if len(tensors) != len(specs):
        keys = {key for key, _, _ in specs}
        extra, missing = tensors.keys() - keys, keys - tensors.keys()
        raise invalid(
            f"input size does not match signature: {len(tensors)}!={len(specs)} len({names(tensors)}) != "
            f"len({names(keys)}). Sent extra: {names(extra)}. Missing but required: {names(missing)}."
        )
    for index, (key, spec, expected) in enumerate(specs):
        tensor = tensors.get(key)
        if tensor is None:
            raise invalid(
                f"Signature input alias: {key}(feed name: {spec.name}) not found in request and no default value "
                f"provided. Inputs expected to be in the request {names(tensors)}, or default input alias set: "
            )
        if tensor.dtype != expected.numpy:
            raise invalid(f"Expects arg[{index}] to be {expected.name} but {_dtype_name(tensor)} is provided")
        if not loaded.any_shape and not fits(tensor.shape, spec.shape):
            raise invalid(
                f"input {key} has shape {list(tensor.shape)}; its signature expects {list(spec.shape or ())}"
                " (-1: any size)"
            )


def fits(shape: tuple[int, ...], expected: tuple[int, ...] | None) -> bool:
    """Return whether a tensor of `shape` matches the shape `expected` of a signature (-1: any size; None: any rank)."""
    if expected is None:
        return True
    if len(shape) != len(expected):
        return False
    for size, wanted in zip(shape, expected, strict=True):  # noqa: SIM110 - a generator takes longer
        if wanted not in (-1, size):
            return False
    return True


def _dtype(spec: TensorSpec) -> DType:
    dtype = dtype_of(spec.dtype)
    assert dtype is not None, "checked before"  # noqa: S101
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


@contextlib.contextmanager
def deadline_of(moment: float | None) -> Iterator[None]:
    """Set DEADLINE to `moment` within the context."""
    token = DEADLINE.set(moment)
    try:
        yield
    finally:
        DEADLINE.reset(token)


def names(found: Iterable[str]) -> str:
    """Return the names `found` in the format of TensorFlow Serving's messages."""
    return f"{{{','.join(sorted(found))}}}"


def until(moment: float | None) -> float | None:
    """Return the timeout (s) for a lock until `moment` (`time.monotonic()`), at most TIMEOUT_MAX; None for None."""
    return None if moment is None else min(max(0.0, moment - time.monotonic()), threading.TIMEOUT_MAX)
