"""Tensor data in the typed fields of InferTensorContents, gRPC's alternative to binary data."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfship.serving.open_inference.datatypes import Datatype
from tfship.serving.protos.status import invalid

__all__ = ["decode", "encode"]

# Number of values that are Python objects at the same time.
_VALUES_AT_ONCE = 2**16


def decode(name: str, contents: Any, datatype: Datatype, count: int) -> NDArray[Any]:
    """Return the `count` elements of the input `name` in `contents`, an InferTensorContents, as an array [count].

    Raises StatusError(INVALID_ARGUMENT) for values in another field than the datatype's, another number of values, a
    value out of range, and for FP16 and BF16, which have no field.
    """
    if not datatype.contents:
        raise invalid(
            f"input {name} has datatype {datatype.name}, which has no field in contents; "
            "expected its data in raw_input_contents"
        )
    for field, _ in contents.ListFields():
        if field.name != datatype.contents:
            raise invalid(
                f"input {name} has datatype {datatype.name} and values in {field.name}; "
                f"expected values in {datatype.contents}"
            )
    values = getattr(contents, datatype.contents)
    if len(values) != count:
        raise invalid(
            f"input {name} has {len(values)} values in {datatype.contents}; expected {count}, as in its shape"
        )
    dtype = datatype.dtype.numpy
    if datatype.dtype.is_string:
        strings = np.empty(count, np.object_)
        strings[:] = values[:]
        return strings
    try:
        return np.array(values[:], dtype)
    except OverflowError:
        limits = np.iinfo(dtype)
        raise invalid(
            f"input {name} has a value outside the range of {datatype.name}; "
            f"expected {limits.min} to {limits.max}"
        ) from None


def encode(array: NDArray[Any], datatype: Datatype, contents: Any) -> None:
    """Add the elements of `array` to the field of `datatype`, which must have one, in an InferTensorContents."""
    field, flat = getattr(contents, datatype.contents), array.ravel()
    for start in range(0, len(flat), _VALUES_AT_ONCE):
        field.extend(flat[start : start + _VALUES_AT_ONCE].tolist())
