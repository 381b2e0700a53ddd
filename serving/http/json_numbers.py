"""Regular arrays of numbers from and to JSON, without a Python object per number: what nearly every request is.

`read` and `write` return None for anything that isn't the plain case, and `serving.http.json_tensors` goes its own,
slow way: this module knows no error, and makes no difference but in time.
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

# `{"instances": [`, or `inputs`, and what may stand around the array. Names with escapes aren't plain.
_NAME = rb'"signature_name"\s*:\s*"([^"\\\x00-\x1f\x80-\xff]*)"'
_HEAD = re.compile(rb'\s*\{\s*(?:%b\s*,\s*)?"(instances|inputs)"\s*:\s*(?=\[)' % _NAME)
_TAIL = re.compile(rb"\s*(?:,\s*%b\s*)?\}\s*" % _NAME)

# What simdjson calls the types, and what it gives: floats take integers, too, as they do in TensorFlow Serving.
_KINDS: dict[str, tuple[str, Any]] = {
    "float": ("d", np.float64),
    "double": ("d", np.float64),
    "int32": ("i", np.int64),
    "int64": ("i", np.int64),
}
_INT32 = np.iinfo(np.int32)
# What a number and the space around it are made of. All else is structure.
_NUMBER_AND_SPACE = b"0123456789+-.eE \t\r\n"
# `[` and `]`, 0x5b and 0x5d, with these bits set are this; and so are `Y` and `_`, which no number has.
_BRACKET_BITS, _BRACKET = np.uint8(0x06), np.uint8(0x5F)
_SPACE = np.uint8(0x20)
# A parser keeps the room that it once needed.
_KEPT_BYTES = 16 * 2**20
# So many structures of regular arrays are kept, none longer than this.
_MOST_KEPT = 64
_KEPT_STRUCTURE = 256 * 1024

_local = threading.local()
# Shapes, and all of an array but its numbers, by the length of that: most requests' are those of requests before.
_kept: dict[int, tuple[tuple[int, ...], bytes]] = {}


@dataclass(frozen=True)
class Numbers:
    """A `:predict` body whose values, `instances` or `inputs`, look like an array, from `begin` to `end`."""

    body: bytes
    signature_name: str
    is_row: bool
    begin: int
    end: int

    def tensor(self, dtype: DType) -> NDArray[Any] | None:
        """Return the values as a tensor; None if they aren't a regular array of numbers of that type."""
        if dtype.name not in _KINDS:
            return None
        kind, given = _KINDS[dtype.name]
        shape = _shape(self.body[self.begin : self.end].translate(None, _NUMBER_AND_SPACE))
        if shape is None:
            return None
        flat = _flat(np.frombuffer(self.body, np.uint8, self.end - self.begin, self.begin))
        try:
            values = np.frombuffer(_parser(len(flat)).parse(flat).as_buffer(of_type=kind), given)
        except (TypeError, ValueError, RuntimeError):
            return None
        if len(values) != math.prod(shape):
            return None
        if dtype.name == "int32" and not (_INT32.min <= values.min() and values.max() <= _INT32.max):
            return None
        with np.errstate(
            over="ignore"
        ):  # a number beyond float32 is infinity, as it is in TensorFlow Serving
            return values.astype(dtype.numpy).reshape(shape)


def read(body: bytes) -> Numbers | None:
    """Return a `:predict` body's numbers, undecoded, or None if it isn't the plain case."""
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
    """Return a tensor of numbers as JSON, each with the fewest digits that read back, or None."""
    # JSON has no NaN; TensorFlow Serving writes one all the same, and so does the slow way.
    plain = np.isfinite(array).all() if array.dtype == np.float32 else array.dtype in (np.int32, np.int64)
    if not plain or not array.ndim or not array.flags.c_contiguous:
        return None
    return orjson.dumps(array, option=orjson.OPT_SERIALIZE_NUMPY)


def _shape(structure: bytes) -> tuple[int, ...] | None:
    """Return the sizes of an array of which only brackets and commas are left; None if it isn't regular."""
    kept = _kept.get(len(structure))
    if kept and kept[1] == structure:
        return kept[0]
    rank = len(structure) - len(structure.lstrip(b"["))
    if not 0 < rank <= MAX_RANK:
        return None
    sizes: list[int] = []
    # The length of one of the elements of the dimension that is looked at, and where that dimension ends.
    inner = end = 0
    for depth in range(1, rank + 1):
        # The first array of this dimension begins with the brackets of all inside it, and ends where they all end.
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
    if len(structure) <= _KEPT_STRUCTURE:
        if len(_kept) >= _MOST_KEPT:
            _kept.clear()
        _kept[len(structure)] = shape, brackets
    return shape


def _brackets(shape: tuple[int, ...]) -> bytes:
    if not shape:
        return b""
    inner = _brackets(shape[1:])
    return b"[" + (inner + b",") * (shape[0] - 1) + inner + b"]"


def _flat(array: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return an array's text, of whose structure all is known, as that of one without arrays in it.

    Its brackets become spaces, and aren't left out: `1[2]` must not become 12.
    """
    flat = np.empty(len(array) + 2, np.uint8)
    flat[0], flat[-1] = b"[]"
    inside = flat[1:-1]
    np.bitwise_or(array, _BRACKET_BITS, out=inside)
    np.multiply(array, inside != _BRACKET, out=inside)
    # What is less than a space, zeros among it, is a space.
    np.maximum(inside, _SPACE, out=inside)
    return flat


def _parser(size: int) -> Any:
    if size > _KEPT_BYTES:
        return simdjson.Parser()
    parser = getattr(_local, "parser", None)
    if parser is None:
        parser = _local.parser = simdjson.Parser()
    return parser
