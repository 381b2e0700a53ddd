"""Tensor data in JSON, the member `data` of an input or an output.

Values are flat or nested like the shape, in row-major order. Numbers may be NaN, Infinity and -Infinity, unquoted:
JSON has none, and NVIDIA's client (tritonclient) reads and writes these. BYTES are strings, encoded as UTF-8. FP16 are
numbers. BF16 has no form in JSON.
"""

import math
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from tfship.serving.http.json_numbers import Numbers
from tfship.serving.http.json_text import dump, excerpt, kind, shortest, to_bytes
from tfship.serving.open_inference.datatypes import DATATYPES, Datatype
from tfship.serving.protos.status import StatusError, invalid

__all__ = ["decode", "encode", "read_numbers"]

_FLOATS = {"FP16", "FP32", "FP64"}
# Type that the fast path reads for each datatype.
_READ_AS = {
    **dict.fromkeys(("INT8", "INT16", "UINT8", "UINT16", "UINT32", "INT64"), DATATYPES["INT64"].dtype),
    "INT32": DATATYPES["INT32"].dtype,
    "FP16": DATATYPES["FP64"].dtype,
    "FP32": DATATYPES["FP32"].dtype,
    "FP64": DATATYPES["FP64"].dtype,
}


def read_numbers(
    name: str, text: bytes, span: tuple[int, int], datatype: Datatype, shape: Sequence[int]
) -> NDArray[Any] | None:
    """Return the array of numbers `text[begin:end]` of the input `name`, with `shape`; `span` is (begin, end).

    Makes no Python object per number. Returns None if the text isn't a regular array of such numbers and `decode` must
    read it. Raises StatusError(INVALID_ARGUMENT) if it has another shape.
    """
    if datatype.name not in _READ_AS:
        return None
    numbers = Numbers(text, "", is_row=False, begin=span[0], end=span[1])
    array = numbers.tensor(_READ_AS[datatype.name])
    if array is None:
        return None
    dtype = datatype.dtype.numpy
    if dtype.kind in "iu" and array.dtype != dtype:
        limits = np.iinfo(dtype)
        if array.min() < limits.min or array.max() > limits.max:
            return None
    _check_sizes(name, array.shape, shape)
    with np.errstate(over="ignore"):  # beyond float16's range: infinity, as for float32
        return array.astype(dtype, copy=False).reshape(shape)


def decode(name: str, data: Any, datatype: Datatype, shape: Sequence[int]) -> NDArray[Any]:
    """Return the parsed `data` of the input `name` as an array of `shape`.

    Raises StatusError(INVALID_ARGUMENT) for values of another type or out of range, ragged lists, another shape than
    `shape` and than a flat list, and for BF16.
    """
    if datatype.name == "BF16":
        raise invalid(f"input {name} has datatype BF16, which has no form in JSON; expected binary data")
    if not isinstance(data, list):
        raise invalid(f"data of input {name} is {excerpt(data)}; expected an array")
    sizes, values = _flattened(name, data, len(shape))
    _check_sizes(name, sizes, shape)
    return _array(name, values, datatype).reshape(shape)


def encode(name: str, array: NDArray[Any]) -> bytes:
    """Return `array` as a flat JSON array.

    Numbers have digits that read back as the same number. Raises StatusError(INVALID_ARGUMENT) if the output `name` is
    BF16 or has BYTES that aren't UTF-8: binary data can represent these.
    """
    flat = np.ascontiguousarray(array).reshape(-1)
    if flat.dtype == np.object_:
        try:
            return dump([each.decode() for each in flat.tolist()])
        except UnicodeDecodeError:
            raise invalid(
                f"output {name} has BYTES that aren't UTF-8, which JSON can't represent; request binary_data"
            ) from None
    if flat.dtype.kind not in "biuf":
        raise invalid(f"output {name} is BF16, which has no form in JSON; request binary_data")
    if flat.dtype.kind == "f" and not np.isfinite(flat).all():
        return dump(shortest(flat))
    return orjson.dumps(flat, option=orjson.OPT_SERIALIZE_NUMPY)


def _check_sizes(name: str, sizes: Sequence[int], shape: Sequence[int]) -> None:
    """Raise StatusError unless data of the shape `sizes` is flat or nested like `shape`."""
    count = math.prod(shape)
    # Nested lists can't represent the dimensions after an empty one.
    nested = len(sizes) == len(shape) or not count
    if list(sizes) == [count] or (nested and list(sizes) == list(shape[: len(sizes)])):
        return
    raise invalid(f"data of input {name} has shape {list(sizes)}; expected {[count]} or {list(shape)}")


def _flattened(name: str, data: list[Any], rank: int) -> tuple[list[int], list[Any]]:
    """Return the sizes and the values of nested lists, with one pass (a loop in C) per dimension."""
    sizes, level = [len(data)], data
    while level and list in (kinds := set(map(type, level))):
        lengths = set(map(len, level)) if len(kinds) == 1 else set()
        if len(lengths) != 1:
            raise invalid(f"data of input {name} is ragged; expected arrays of equal length and depth")
        if len(sizes) >= max(1, rank):
            raise invalid(f"data of input {name} is nested deeper than its shape's {rank} dimensions")
        sizes.append(lengths.pop())
        level = list(chain.from_iterable(level))
    return sizes, level


def _array(name: str, values: list[Any], datatype: Datatype) -> NDArray[Any]:
    if datatype.dtype.is_string:
        strings = np.empty(len(values), np.object_)
        strings[:] = [_string(name, each) for each in values]
        return strings
    # Exact types: a bool is an int to Python, but not to JSON.
    allowed = {int, float} if datatype.name in _FLOATS else {bool if datatype.name == "BOOL" else int}
    if not set(map(type, values)) <= allowed:
        raise _wrong_value(name, next(each for each in values if type(each) not in allowed), datatype)
    try:
        with np.errstate(over="ignore"):
            return np.array(values, datatype.dtype.numpy)
    except OverflowError:
        raise _wrong_value(
            name, next(each for each in values if not _fits(each, datatype)), datatype
        ) from None


def _fits(value: float, datatype: Datatype) -> bool:
    try:
        with np.errstate(over="ignore"):
            np.array(value, datatype.dtype.numpy)
    except OverflowError:
        return False
    return True


def _string(name: str, value: Any) -> bytes:
    found = to_bytes(value) if isinstance(value, str) else None
    if found is None:
        raise _wrong_value(name, value, DATATYPES["BYTES"])
    return found


def _wrong_value(name: str, value: Any, datatype: Datatype) -> StatusError:
    if datatype.dtype.is_string:
        expected = "a string"
    elif datatype.name == "BOOL":
        expected = "true or false"
    elif datatype.name in _FLOATS:
        expected = "a number in the range of a double"
    else:
        limits = np.iinfo(datatype.dtype.numpy)
        expected = f"an integer from {limits.min} to {limits.max}"
    return invalid(
        f"data of input {name} has the value {excerpt(value)} ({kind(value)}); "
        f"expected {expected} for {datatype.name}"
    )
