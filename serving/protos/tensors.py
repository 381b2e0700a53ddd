"""TensorProto to numpy and back without TensorFlow, by the rules of its `Tensor::FromProto`.

Strings are arrays of dtype object that contain bytes. Numbers are little-endian, as on every machine that
TensorFlow supports.
"""

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfship.serving.protos.messages import tensor_pb2, types_pb2

try:
    import ml_dtypes
except ImportError:  # optional for clients
    ml_dtypes = None

__all__ = ["DTYPES", "MAX_RANK", "MAX_REPEATED_BYTES", "DType", "dtype_of", "fill", "from_proto", "to_proto"]

# Maximum size of a protobuf message. A larger tensor could only come from repeating a value to fill its shape.
MAX_BYTES = 2**31
# Maximum size of the values that a client doesn't send but has repeated. It allows a batch of 100 photographs, and
# keeps a small message from taking all memory. A string counts as 24 bytes, its size in TensorFlow.
MAX_REPEATED_BYTES = 2**26
_STRING_BYTES = 24
# Number of values that are Python objects at the same time.
_VALUES_AT_ONCE = 2**16
# numpy's limit; TensorFlow's is 254.
MAX_RANK = 64
# TensorFlow reads strings by old numpy iterators, which have this limit, and crashes if it doesn't get one.
_MAX_STRING_RANK = 32


@dataclass(frozen=True, eq=False)
class DType:
    """One of TensorFlow's element types.

    `name` is its name in TensorFlow's messages, `number` its DataType, `numpy` the array's dtype, `field` the
    TensorProto field for single values.
    """

    name: str
    number: int
    numpy: np.dtype[Any]
    field: str

    @property
    def is_string(self) -> bool:
        """Whether elements are bytes."""
        return self.field == "string_val"

    @property
    def max_rank(self) -> int:
        """Maximum number of dimensions of a tensor."""
        return _MAX_STRING_RANK if self.is_string else MAX_RANK


# All types that a request to TensorFlow Serving may contain, by DataType number. bfloat16 needs ml_dtypes.
DTYPES = {
    number: DType(name, number, np.dtype(numpy), field)
    for name, number, numpy, field in (
        ("float", types_pb2.DT_FLOAT, np.float32, "float_val"),
        ("double", types_pb2.DT_DOUBLE, np.float64, "double_val"),
        ("half", types_pb2.DT_HALF, np.float16, "half_val"),
        ("int8", types_pb2.DT_INT8, np.int8, "int_val"),
        ("int16", types_pb2.DT_INT16, np.int16, "int_val"),
        ("int32", types_pb2.DT_INT32, np.int32, "int_val"),
        ("int64", types_pb2.DT_INT64, np.int64, "int64_val"),
        ("uint8", types_pb2.DT_UINT8, np.uint8, "int_val"),
        ("uint16", types_pb2.DT_UINT16, np.uint16, "int_val"),
        ("uint32", types_pb2.DT_UINT32, np.uint32, "uint32_val"),
        ("uint64", types_pb2.DT_UINT64, np.uint64, "uint64_val"),
        ("bool", types_pb2.DT_BOOL, np.bool_, "bool_val"),
        ("complex64", types_pb2.DT_COMPLEX64, np.complex64, "scomplex_val"),
        ("complex128", types_pb2.DT_COMPLEX128, np.complex128, "dcomplex_val"),
        ("string", types_pb2.DT_STRING, np.object_, "string_val"),
        *([("bfloat16", types_pb2.DT_BFLOAT16, ml_dtypes.bfloat16, "half_val")] if ml_dtypes else []),
    )
}
# In TensorFlow 1 graphs, the DataType of a variable's output is a reference type: its type's number plus this.
_REFERENCE = 100
_BY_NUMPY = {each.numpy: each for each in DTYPES.values()}


def dtype_of(number: int) -> DType | None:
    """Return the type for a signature's DataType `number`, or None if its values can't be sent."""
    return DTYPES.get(number) or DTYPES.get(number - _REFERENCE)


def from_proto(proto: Any, max_elements: int | None = None) -> NDArray[Any]:
    """Return the tensor of `proto`, a TensorProto.

    Values are in `tensor_content` or in the type's own field. In the latter, as in TensorFlow, surplus values are
    dropped, the last value is repeated for missing ones, and an empty field means zeros.

    Raises ValueError for a type that isn't in `DTYPES`, an impossible shape, content of another size, or an integer
    out of the type's range. It also raises it for more than `max_elements`, or more than MAX_REPEATED_BYTES of
    repeated values.
    """
    dtype = DTYPES.get(proto.dtype)
    if dtype is None:
        raise ValueError(f"a tensor of dtype {_dtype_name(proto.dtype)} can't be sent")
    shape_proto = proto.tensor_shape
    shape = tuple([dim.size for dim in shape_proto.dim])
    count = _count(shape, dtype, unknown_rank=shape_proto.unknown_rank)
    if max_elements is not None and count > max_elements:
        raise ValueError(f"shape {list(shape)} has {count} elements; expected at most {max_elements}")
    content = proto.tensor_content
    if content and count:
        flat = _from_content(content, dtype, count)
    else:
        flat = _from_values(getattr(proto, dtype.field), dtype, count)
    return flat.reshape(shape)


def to_proto(array: NDArray[Any], *, packed: bool = True) -> Any:
    """Return `array` as a TensorProto.

    Numbers go into `tensor_content` if `packed`, which is smaller and much faster, else into the type's own field.
    Raises ValueError for a dtype that isn't in `DTYPES`, TypeError for strings that aren't bytes.
    """
    proto = tensor_pb2.TensorProto()
    fill(proto, array, packed=packed)
    return proto


def fill(proto: Any, array: NDArray[Any], *, packed: bool = True) -> None:
    """Make `proto`, an empty TensorProto, the tensor `array`; see `to_proto`."""
    dtype = _BY_NUMPY.get(array.dtype)
    if dtype is None:
        raise ValueError(f"arrays of dtype {array.dtype} can't be sent")
    proto.CopyFrom(_without_values(dtype.number, array.shape))
    if dtype.is_string:
        proto.string_val.extend(array.ravel().tolist())
    elif packed:
        proto.tensor_content = array.tobytes()
    else:
        values, field = _values(array.ravel(), dtype), getattr(proto, dtype.field)
        for start in range(0, len(values), _VALUES_AT_ONCE):
            field.extend(values[start : start + _VALUES_AT_ONCE].tolist())


def _dtype_name(number: int) -> str:
    known = number in types_pb2.DataType.values()
    return str(types_pb2.DataType.Name(number)) if known else str(number)


@functools.lru_cache(1024)
def _count(shape: tuple[int, ...], dtype: DType, *, unknown_rank: bool) -> int:
    """Return the number of elements of a shape. Raises ValueError for impossible shapes."""
    if unknown_rank and shape:
        raise ValueError("a shape of unknown rank has sizes")
    if len(shape) > dtype.max_rank:
        raise ValueError(f"a {dtype.name} tensor of rank {len(shape)}; at most {dtype.max_rank} is supported")
    if any(size < 0 for size in shape):
        raise ValueError(f"shape {list(shape)} has a negative size")
    # Leaves out zeros: numpy multiplies the other sizes even if one is zero.
    if math.prod(size for size in shape if size) * dtype.numpy.itemsize > MAX_BYTES:
        raise ValueError(f"shape {list(shape)} is larger than {MAX_BYTES} bytes")
    return math.prod(shape)


@functools.lru_cache(1024)
def _without_values(dtype: int, shape: tuple[int, ...]) -> Any:
    proto = tensor_pb2.TensorProto(dtype=dtype)
    proto.tensor_shape.SetInParent()  # the shape of a scalar is set, too, without sizes
    for size in shape:
        proto.tensor_shape.dim.add(size=size)
    return proto


def _from_content(content: bytes, dtype: DType, count: int) -> NDArray[Any]:
    if dtype.is_string:
        return _from_string_list(content, count)
    expected = count * dtype.numpy.itemsize
    if len(content) != expected:
        raise ValueError(f"tensor_content has {len(content)} bytes; its shape and dtype need {expected}")
    if dtype.name == "bool":
        # numpy and TensorFlow accept bytes other than 0 and 1 as bools, and then misbehave.
        return np.frombuffer(content, np.uint8).astype(np.bool_)
    return np.frombuffer(content, dtype.numpy)


def _from_string_list(content: bytes, count: int) -> NDArray[Any]:
    """Decode TensorFlow's string list: all lengths as varints, then all bytes."""
    lengths, position = [], 0
    for _ in range(count):
        length, shift = 0, 0
        while True:
            if position == len(content) or shift > 28:
                raise ValueError(f"tensor_content doesn't hold the lengths of {count} strings")
            byte = content[position]
            position += 1
            length |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        lengths.append(length)
    if position + sum(lengths) != len(content):
        raise ValueError(
            f"tensor_content has {len(content)} bytes; its strings need {position + sum(lengths)}"
        )
    strings = np.empty(count, np.object_)
    for index, length in enumerate(lengths):
        strings[index] = content[position : position + length]
        position += length
    return strings


def _from_values(field: Any, dtype: DType, count: int) -> NDArray[Any]:
    parts = 2 if dtype.field in ("scomplex_val", "dcomplex_val") else 1
    given = min(len(field) // parts, count)
    repeated = (count - given) * (_STRING_BYTES if dtype.is_string else dtype.numpy.itemsize)
    if repeated > MAX_REPEATED_BYTES:
        raise ValueError(
            f"its shape has {count} elements and {dtype.field} {given}; repeating a value to fill more than "
            f"{MAX_REPEATED_BYTES} bytes is refused"
        )
    values = field[: given * parts]
    if dtype.is_string:
        flat: NDArray[Any] = np.empty(count, np.object_)
        flat[:given] = values
        flat[given:] = values[-1] if values else b""
        return flat
    flat = np.empty(count, dtype.numpy)
    flat[:given] = _decode(values, dtype)
    flat[given:] = flat[given - 1] if given else 0
    return flat


def _decode(values: list[Any], dtype: DType) -> NDArray[Any]:
    try:
        if dtype.field == "half_val":
            return np.array(values, np.uint16).view(dtype.numpy)
        if dtype.field == "scomplex_val":
            return np.array(values, np.float32).view(np.complex64)
        if dtype.field == "dcomplex_val":
            return np.array(values, np.float64).view(np.complex128)
        # numpy refuses Python integers out of range; TensorFlow would silently wrap them.
        return np.array(values, dtype.numpy)
    except OverflowError:
        raise ValueError(f"{dtype.field} holds a value that {dtype.name} can't represent") from None


def _values(flat: NDArray[Any], dtype: DType) -> NDArray[Any]:
    if dtype.field == "half_val":
        return flat.view(np.uint16)
    if dtype.field == "scomplex_val":
        return flat.view(np.float32)
    if dtype.field == "dcomplex_val":
        return flat.view(np.float64)
    return flat
