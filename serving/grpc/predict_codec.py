"""PredictRequest and PredictResponse without a message object for each tensor.

Most clients send one request again and again, with other values. Protobuf puts the values of a tensor at its end
(`tensor_content`, and packed `float_val` and `double_val`), as they are in memory. So the bytes before the values, the
head, say all about them: what one head means is looked up, and the values are used where they are. Messages that
aren't of this form are read and written by protobuf.
"""

import functools
import threading
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tfship.export.runtimes.protocol import Signature
from tfship.serving.grpc.methods import parsed
from tfship.serving.inference.execution import Tensors
from tfship.serving.inference.predict import PredictResult
from tfship.serving.protos.messages import predict_pb2
from tfship.serving.protos.status import Code, StatusError
from tfship.serving.protos.tensors import fill, from_proto

__all__ = ["PredictCodec", "PredictInput"]

_Request = predict_pb2.PredictRequest
# Clients choose the heads. Beyond this number, all are forgotten.
_MOST_HEADS = 1024
# A head beyond this size isn't the usual request.
_MOST_HEAD_BYTES = 1024


class PredictInput(NamedTuple):
    """A PredictRequest: its ModelSpec (None if it is missing), `tensors`, and the names of the outputs.

    `tensors` is called with the signature, once the model is known. It raises StatusError for invalid tensors. `kind`
    determines, with the size, how long the request takes.
    """

    spec: Any
    tensors: Callable[[Signature], Tensors]
    output_filter: Sequence[str]
    kind: Hashable


class _Head(NamedTuple):
    """What the bytes before the values of a request's only tensor say."""

    spec: Any
    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    kind: Hashable


class PredictCodec:
    """Reads requests and writes responses. Thread-safe.

    Inputs have at most `max_elements` elements. With `packed`, responses have `tensor_content` instead of typed fields.
    """

    def __init__(self, max_elements: int, *, packed: bool) -> None:
        self._max_elements = max_elements
        self._packed = packed
        self._lock = threading.Lock()
        # By the size of the request, too: a head may be followed by more than its values.
        self._heads: dict[tuple[int, bytes], _Head] = {}
        # Sizes of heads by the sizes of requests.
        self._sizes: dict[int, int] = {}

    def read(self, data: bytes) -> PredictInput:
        """Return the request in `data`. Raises StatusError for bytes that aren't a PredictRequest."""
        size = self._sizes.get(len(data))
        if size is not None and (head := self._heads.get((len(data), data[:size]))) is not None:
            # A copy, since numbers in the middle of `data` aren't aligned.
            values = np.frombuffer(data[size:], head.dtype).reshape(head.shape)
            return PredictInput(head.spec, lambda _: {head.name: values}, (), head.kind)
        request = parsed(_Request, data)
        spec = request.model_spec if request.HasField("model_spec") else None
        own = request.model_spec
        kind = (own.name, own.version_label, own.version.value, own.signature_name)

        def tensors(_: Signature) -> Tensors:
            found = self._tensors(request.inputs)
            if len(found) == 1 and spec is not None and not request.output_filter:
                self._learn(data, spec, request.inputs, found, kind)
            return found

        return PredictInput(spec, tensors, request.output_filter, kind)

    def _tensors(self, inputs: Any) -> Tensors:
        tensors: Tensors = {}
        for name, proto in inputs.items():
            try:
                tensors[name] = from_proto(proto, self._max_elements)
            except ValueError as error:
                raise StatusError(Code.INVALID_ARGUMENT, f"tensor parsing error: {name} ({error})") from None
        return tensors

    def _learn(self, data: bytes, spec: Any, inputs: Any, tensors: Tensors, kind: Hashable) -> None:
        """Remember the head of a valid request with one tensor, if its values are the end of `data`."""
        ((name, array),) = tensors.items()
        content = inputs[name].tensor_content
        size = len(data) - len(content)
        # Bytes other than 0 and 1 aren't bools, and strings aren't in memory as they are sent. A shape without elements
        # has no values, whatever is sent.
        usual = array.dtype.kind in "fiuc" and len(content) == array.nbytes > 0
        if not usual or size > _MOST_HEAD_BYTES:
            return
        # Other values after the same head must be read as those values.
        head, others = data[:size], bytes(np.frombuffer(content, np.uint8) ^ 0xFF)
        if (
            not data.endswith(content)
            or parsed(_Request, head + others).inputs[name].tensor_content != others
        ):
            return
        with self._lock:
            if len(self._heads) >= _MOST_HEADS:
                self._heads.clear()
                self._sizes.clear()
            self._heads[len(data), head] = _Head(spec, name, array.dtype, array.shape, kind)
            self._sizes[len(data)] = size

    def write(self, name: str, result: PredictResult) -> bytes:
        """Return the PredictResponse of the model `name` in bytes."""
        parts = [_spec_bytes(name, result.version, result.signature_name)]
        for key, array in result.outputs.items():
            if array.dtype.kind != "f" or array.dtype.itemsize < 4 or not array.size:
                parts.append(_output_bytes(key, array, packed=self._packed))
            else:
                parts.append(_output_head(key, array.dtype, array.shape, packed=self._packed))
                parts.append(array.tobytes())
        return b"".join(parts)


@functools.lru_cache(1024)
def _spec_bytes(name: str, version: int, signature_name: str) -> bytes:
    response = predict_pb2.PredictResponse()
    response.model_spec.name = name
    response.model_spec.version.value = version
    response.model_spec.signature_name = signature_name
    content: bytes = response.SerializeToString()
    return content


@functools.lru_cache(1024)
def _output_head(key: str, dtype: np.dtype[Any], shape: tuple[int, ...], *, packed: bool) -> bytes:
    zeros = np.zeros(shape, dtype)
    return _output_bytes(key, zeros, packed=packed)[: -zeros.nbytes]


def _output_bytes(key: str, array: NDArray[Any], *, packed: bool) -> bytes:
    """Return one output as a PredictResponse of its own; protobuf merges messages that follow each other."""
    response = predict_pb2.PredictResponse()
    fill(response.outputs[key], array, packed=packed)
    content: bytes = response.SerializeToString()
    return content
