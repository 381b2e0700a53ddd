"""Binary tensor data: the REST extension `binary_tensor_data` and gRPC's `raw_input_contents`.

Numbers are little-endian and row-major, a BOOL is a byte of 0 or 1, and each element of BYTES follows its length, a
uint32. Source: https://kserve.github.io/website/latest/modelserving/data_plane/binary_tensor_data_extension
"""

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfship.serving.open_inference.datatypes import Datatype
from tfship.serving.protos.status import invalid

__all__ = ["decode", "encode"]

_LENGTH = struct.Struct("<I")


def decode(name: str, data: bytes | memoryview, datatype: Datatype, count: int) -> NDArray[Any]:
    """Return the `count` elements of the input `name` in `data` as an array [count].

    Numbers are not copied: the array is read-only, and may not be aligned. BYTES are copied to an array of dtype
    object. Raises StatusError(INVALID_ARGUMENT) for another size, or a BOOL that isn't 0 or 1.
    """
    if datatype.dtype.is_string:
        return _decode_strings(name, data, count)
    dtype = datatype.dtype.numpy
    if len(data) != count * dtype.itemsize:
        raise invalid(
            f"input {name} has {len(data)} bytes of binary data; "
            f"expected {count * dtype.itemsize} for {count} elements of {datatype.name}"
        )
    if not count:
        return np.empty(0, dtype)
    if dtype == np.bool_:
        numbers = np.frombuffer(data, np.uint8)
        # numpy and TensorFlow accept other bytes as bools, and then misbehave.
        if numbers.max() > 1:
            raise invalid(f"input {name} has the byte {numbers.max()} in its BOOL data; expected 0 or 1")
        return numbers.view(np.bool_)
    return np.frombuffer(data, dtype)


def encode(array: NDArray[Any]) -> bytes | memoryview:
    """Return the binary data of `array`, which may be a view of it."""
    if array.dtype == np.object_:
        pieces: list[bytes] = []
        for each in array.ravel().tolist():
            pieces += (_LENGTH.pack(len(each)), each)
        return b"".join(pieces)
    # Viewed as uint8: bfloat16 has no buffer format.
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _decode_strings(name: str, data: bytes | memoryview, count: int) -> NDArray[Any]:
    if len(data) < count * _LENGTH.size:
        raise invalid(
            f"input {name} has {len(data)} bytes of binary data; "
            f"expected at least {count * _LENGTH.size} for the lengths of {count} elements of BYTES"
        )
    strings = np.empty(count, np.object_)
    position = 0
    for index in range(count):
        begin = position + _LENGTH.size
        position = begin + _LENGTH.unpack_from(data, position)[0] if begin <= len(data) else begin
        if position > len(data):
            raise invalid(
                f"input {name} has {len(data)} bytes of binary data; expected more: element {index} of {count} "
                f"ends at byte {position}"
            )
        strings[index] = bytes(data[begin:position])
    if position != len(data):
        raise invalid(
            f"input {name} has {len(data)} bytes of binary data; expected {position}, the end of element {count}"
        )
    return strings
