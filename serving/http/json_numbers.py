"""Fast path for regular arrays of numbers from and to JSON, without a Python object per number.

Nearly every request takes it. `read` and `write` return None for everything else, and `serving.http.json_tensors`
then takes its slow path. This module raises no errors; results are the same on both paths.
"""

import math
import re
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
import simdjson
from numpy.typing import NDArray

from tfship.serving.protos.tensors import MAX_RANK, DType

__all__ = ["Numbers", "read", "write"]

# `{"instances": [` or `{"inputs": [`, and the members allowed around the array. Names with escapes take the slow path.
_NAME = rb'"signature_name"\s*:\s*"([^"\\\x00-\x1f\x80-\xff]*)"'
_HEAD = re.compile(rb'\s*\{\s*(?:%b\s*,\s*)?"(instances|inputs)"\s*:\s*(?=\[)' % _NAME)
_TAIL = re.compile(rb"\s*(?:,\s*%b\s*)?\}\s*" % _NAME)

# simdjson's name for each type, and the dtype it returns. Floats accept integers, as in TensorFlow Serving.
_SIMDJSON_TYPES: dict[str, tuple[str, Any]] = {
    "float": ("d", np.float64),
    "double": ("d", np.float64),
    "int32": ("i", np.int64),
    "int64": ("i", np.int64),
}
_INT32 = np.iinfo(np.int32)
_WRITABLE = frozenset(map(np.dtype, (np.float32, np.int32, np.int64)))
# Bytes of numbers, of NaN and Infinity, and of the whitespace around them. All other bytes are structure.
_NUMBER_AND_SPACE = b"0123456789+-.eE NaInfity\t\r\n"
# Names of numbers that simdjson doesn't read, and what may surround them.
_CONSTANT = re.compile(rb"NaN|Inf(?:inity)?")
_SEPARATORS = b" \t\r\n,[]"
# Largest body for the reused parser, which never releases its buffer.
_REUSED_PARSER_BYTES = 16 * 2**20
# Limits of the cache of structures: number of entries, and bytes of each.
_CACHED_STRUCTURES = 64
_CACHED_STRUCTURE_BYTES = 256 * 1024

_local = threading.local()
# Shape and structure (brackets and commas) of recent arrays, by the structure's length. Most requests repeat one.
_structure_cache: dict[int, tuple[tuple[int, ...], bytes]] = {}


@dataclass(frozen=True)
class Numbers:
    """A `:predict` body whose `instances` or `inputs`, `body[begin:end]`, look like an array of numbers."""

    body: bytes
    signature_name: str
    is_row: bool
    begin: int
    end: int

    def tensor(self, dtype: DType) -> NDArray[Any] | None:
        """Return the values as a tensor of `dtype`; None if they aren't a regular array of such numbers."""
        if dtype.name not in _SIMDJSON_TYPES:
            return None
        simdjson_type, parsed_dtype = _SIMDJSON_TYPES[dtype.name]
        text = self.body[self.begin : self.end]
        shape = _shape(text.translate(None, _NUMBER_AND_SPACE))
        if shape is None:
            return None
        constants: dict[int, float] = {}
        if b"N" in text or b"I" in text:
            text, constants = _without_constants(text)
            if constants and simdjson_type != "d":
                return None
        try:
            array = _parser(len(text)).parse(text)
            values = np.frombuffer(array.as_buffer(of_type=simdjson_type), parsed_dtype)
        except (TypeError, ValueError, RuntimeError):
            return None
        if len(values) != math.prod(shape):
            return None
        if dtype.name == "int32" and not (_INT32.min <= values.min() and values.max() <= _INT32.max):
            return None
        with np.errstate(over="ignore"):  # beyond float32's range: infinity, as in TensorFlow Serving
            tensor = values.astype(dtype.numpy)
        if constants:
            tensor[list(constants)] = list(constants.values())
        return tensor.reshape(shape)


def read(body: bytes) -> Numbers | None:
    """Return the undecoded numbers of a `:predict` body; None if the body needs the slow path."""
    head = _HEAD.match(body)
    if not head:
        return None
    end = body.rfind(b"]") + 1
    tail = _TAIL.fullmatch(body, end)
    if not tail or (head[1] is not None and tail[1] is not None):
        return None
    name = head[1] or tail[1] or b""
    return Numbers(body, name.decode(), head[2] == b"instances", head.end(), end)


def write(array: NDArray[Any]) -> bytes | None:
    """Return `array` as JSON, with the fewest digits that read back; None if it needs the slow path."""
    if array.dtype not in _WRITABLE or not array.ndim or not array.flags.c_contiguous:
        return None
    content = orjson.dumps(array, option=orjson.OPT_SERIALIZE_NUMPY)
    # orjson writes NaN and infinities as null. The slow path writes them as TensorFlow Serving does.
    return None if b"n" in content else content


def _shape(structure: bytes) -> tuple[int, ...] | None:
    """Return the shape of an array from its brackets and commas, `structure`; None if it isn't regular."""
    cached = _structure_cache.get(len(structure))
    if cached and cached[1] == structure:
        return cached[0]
    rank = len(structure) - len(structure.lstrip(b"["))
    if not 0 < rank <= MAX_RANK:
        return None
    sizes: list[int] = []
    # Length of one element of the current dimension, and the end of the dimension's first array.
    inner = end = 0
    for depth in range(1, rank + 1):
        # The first array of this dimension ends at the first run of `depth` closing brackets.
        start = structure.find(b"]" * depth, max(0, end - depth))
        if start < 0:
            return None
        end = start + depth
        length = end - (rank - depth)
        sizes.append((length - 1) // (inner + 1))
        inner = length
    shape = tuple(reversed(sizes))
    if not all(size > 0 for size in shape):
        return None
    brackets = _brackets(shape)
    if structure != brackets:
        return None
    if len(structure) <= _CACHED_STRUCTURE_BYTES:
        if len(_structure_cache) >= _CACHED_STRUCTURES:
            _structure_cache.clear()
        _structure_cache[len(structure)] = shape, brackets
    return shape


def _brackets(shape: tuple[int, ...]) -> bytes:
    if not shape:
        return b""
    inner = _brackets(shape[1:])
    return b"[" + (inner + b",") * (shape[0] - 1) + inner + b"]"


def _without_constants(array: bytes) -> tuple[bytes, dict[int, float]]:
    """Return a regular array's text with zeros instead of NaN and infinities, and these by their index."""
    text = bytearray(array)
    constants: dict[int, float] = {}
    index = last = 0
    for found in _CONSTANT.finditer(array):
        start, end = found.span()
        negative = array[start - 1] == ord("-")
        start -= negative
        if array[start - 1] not in _SEPARATORS or array[end] not in _SEPARATORS:
            break  # not a name: simdjson refuses the text
        index += array.count(b",", last, start)
        last = start
        infinity = -math.inf if negative else math.inf
        constants[index] = math.nan if found[0] == b"NaN" else infinity
        text[start:end] = b"0".ljust(end - start)
    return bytes(text), constants


def _parser(size: int) -> Any:
    if size > _REUSED_PARSER_BYTES:
        return simdjson.Parser()
    parser = getattr(_local, "parser", None)
    if parser is None:
        parser = _local.parser = simdjson.Parser()
    return parser
