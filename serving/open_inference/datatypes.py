"""Datatypes of the Open Inference Protocol, and checks of the shapes in requests."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tfship.export.runtimes.protocol import TensorSpec
from tfship.serving.http.json_text import excerpt
from tfship.serving.protos.messages import types_pb2
from tfship.serving.protos.status import Code, StatusError, invalid
from tfship.serving.protos.tensors import DTYPES, DType, dtype_of

__all__ = ["DATATYPES", "Datatype", "check_datatype", "check_shape", "datatype_of"]

_INT64 = range(2**63)


@dataclass(frozen=True)
class Datatype:
    """One of the protocol's element types.

    `name` is its name in requests, `dtype` the TensorFlow type, `contents` its field in InferTensorContents, "" if it
    has none.
    """

    name: str
    dtype: DType
    contents: str


# The table "Tensor Data Types" of the specification, and BF16, an addition of NVIDIA's server for binary data.
# bfloat16 needs ml_dtypes.
DATATYPES = {
    name: Datatype(name, DTYPES[number], contents)
    for name, number, contents in (
        ("BOOL", types_pb2.DT_BOOL, "bool_contents"),
        ("UINT8", types_pb2.DT_UINT8, "uint_contents"),
        ("UINT16", types_pb2.DT_UINT16, "uint_contents"),
        ("UINT32", types_pb2.DT_UINT32, "uint_contents"),
        ("UINT64", types_pb2.DT_UINT64, "uint64_contents"),
        ("INT8", types_pb2.DT_INT8, "int_contents"),
        ("INT16", types_pb2.DT_INT16, "int_contents"),
        ("INT32", types_pb2.DT_INT32, "int_contents"),
        ("INT64", types_pb2.DT_INT64, "int64_contents"),
        ("FP16", types_pb2.DT_HALF, ""),
        ("BF16", types_pb2.DT_BFLOAT16, ""),
        ("FP32", types_pb2.DT_FLOAT, "fp32_contents"),
        ("FP64", types_pb2.DT_DOUBLE, "fp64_contents"),
        ("BYTES", types_pb2.DT_STRING, "bytes_contents"),
    )
    if number in DTYPES
}
_BY_DTYPE = {each.dtype.number: each for each in DATATYPES.values()}


def datatype_of(name: str, spec: TensorSpec) -> Datatype:
    """Return the datatype of the input or output `name`. Raises StatusError(UNIMPLEMENTED) if the protocol has none."""
    dtype = dtype_of(spec.dtype)
    datatype = _BY_DTYPE.get(dtype.number) if dtype else None
    if datatype is None:
        found = dtype.name if dtype else f"number {spec.dtype}"
        raise StatusError(
            Code.UNIMPLEMENTED,
            f"{name} has TensorFlow's type {found}, which the Open Inference Protocol can't represent",
        )
    return datatype


def check_datatype(name: str, found: str, expected: Datatype) -> None:
    """Raise StatusError(INVALID_ARGUMENT) if the datatype `found` of the input `name` isn't `expected`."""
    if found == expected.name:
        return
    known = "" if found in DATATYPES else f", which isn't one of {', '.join(DATATYPES)}"
    raise invalid(f"input {name} has datatype {excerpt(found)}{known}; expected {expected.name}")


def check_shape(
    name: str, shape: Sequence[int], spec: TensorSpec, datatype: Datatype, max_elements: int
) -> int:
    """Return the number of elements of the input `name`, whose request has `shape`.

    Raises StatusError(INVALID_ARGUMENT) for too many dimensions, a size that isn't from 0 to 2**63 - 1, more than
    `max_elements`, or a shape that doesn't match `spec`. Unlike TensorFlow Serving's API, shapes must match for all
    models: clients know them from the metadata.
    """
    if len(shape) > datatype.dtype.max_rank:
        raise invalid(
            f"the shape of input {name} has {len(shape)} dimensions; expected at most {datatype.dtype.max_rank}"
        )
    for size in shape:
        if size not in _INT64:
            raise invalid(
                f"the shape of input {name} has the size {excerpt(size)}; expected 0 to {2**63 - 1}"
            )
    # Leaves out zeros: numpy multiplies the other sizes even if one is zero.
    if (elements := math.prod(size for size in shape if size)) > max_elements:
        raise invalid(
            f"input {name} has shape {list(shape)}, {elements} elements; expected at most {max_elements}"
        )
    if not _matches(shape, spec.shape):
        raise invalid(
            f"input {name} has shape {list(shape)}; expected {list(spec.shape or ())} (-1: any size)"
        )
    return math.prod(shape)


def _matches(shape: Sequence[int], expected: tuple[int, ...] | None) -> bool:
    if expected is None:
        return True
    return len(shape) == len(expected) and all(
        size in (-1, found) for found, size in zip(shape, expected, strict=True)
    )
