"""Regular arrays of numbers from and to JSON, without a Python object per number: what nearly every request is.

`read` and `write` return None for anything that isn't the plain case, and `serving.json_tensors` goes its own,
slow way: this module knows no error, and makes no difference but in time.
"""

import functools
import threading
from typing import Any

import numpy as np
import orjson
import simdjson
from numpy.typing import NDArray

from serving.tensors import MAX_RANK, DType

__all__ = ["Numbers", "read", "write"]

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
# A parser keeps the room that it once needed.
_KEPT_BYTES = 16 * 2**20

_local = threading.local()


class Numbers:
    """A `:predict` body whose values, `instances` or `inputs`, begin as an array; for the thread that read it."""

    def __init__(self, body: bytes, signature_name: str, is_row: bool, array: Any) -> None:
        self.body = body
        self.signature_name = signature_name
        self.is_row = is_row
        self._array = array

    def tensor(self, dtype: DType) -> NDArray[Any] | None:
        """Return the values as a tensor; None if they aren't a regular array of numbers of that type.

        To be called once: what was read is given up then.
        """
        array, self._array = self._array, None
        if dtype.name not in _KINDS:
            return None
        kind, given = _KINDS[dtype.name]
        try:
            shape = self._shape(array)
            values = np.frombuffer(array.as_buffer(of_type=kind), given)
        except (TypeError, ValueError, IndexError):
            return None
        if shape is None or values.size != np.prod(shape) or not values.size:
            return None
        if dtype.name == "int32" and not (_INT32.min <= values.min() and values.max() <= _INT32.max):
            return None
        with np.errstate(
            over="ignore"
        ):  # a number beyond float32 is infinity, as it is in TensorFlow Serving
            return values.astype(dtype.numpy).reshape(shape)

    def _shape(self, array: Any) -> tuple[int, ...] | None:
        """Return the shape if the array is regular."""
        shape, first = [len(array)], array[0]
        while isinstance(first, simdjson.Array):
            shape.append(len(first))
            first = first[0]
            if len(shape) > MAX_RANK:
                return None
        if len(shape) <= 2:
            # With no more brackets in the body than these, there is none deeper in the array.
            rows = array if len(shape) == 2 else ()
            regular = self.body.count(b"[") == 1 + len(rows) and all(len(row) == shape[1] for row in rows)
        else:
            # Only the brackets and commas of a regular array of this shape are like this; and if all brackets
            # of the body are among them, they are those of this array.
            structure = self.body.translate(None, _NUMBER_AND_SPACE)
            before, found, after = structure.partition(_brackets(tuple(shape)))
            regular = bool(found) and b"[" not in before and b"[" not in after
        return tuple(shape) if regular else None


def read(body: bytes) -> Numbers | None:
    """Return a `:predict` body's numbers, undecoded, or None if it isn't the plain case."""
    try:
        document = _parser(len(body)).parse(body)
        if not isinstance(document, simdjson.Object):
            return None
        # Of a name that stands twice the first counts, here as everywhere.
        names = set(document.keys())
        if (
            not names <= {"instances", "inputs", "signature_name"}
            or len(names & {"instances", "inputs"}) != 1
        ):
            return None
        is_row = "instances" in names
        signature_name = document["signature_name"] if "signature_name" in names else ""
        array = document["instances" if is_row else "inputs"]
    except (ValueError, RuntimeError, KeyError):
        return None
    if not isinstance(signature_name, str) or not isinstance(array, simdjson.Array):
        return None
    return Numbers(body, signature_name, is_row, array)


def write(array: NDArray[Any]) -> bytes | None:
    """Return a tensor of numbers as JSON, each with the fewest digits that read back, or None."""
    # JSON has no NaN; TensorFlow Serving writes one all the same, and so does the slow way.
    plain = np.isfinite(array).all() if array.dtype == np.float32 else array.dtype in (np.int32, np.int64)
    if not plain or not array.ndim or not array.flags.c_contiguous:
        return None
    return orjson.dumps(array, option=orjson.OPT_SERIALIZE_NUMPY)


@functools.lru_cache(maxsize=64)
def _brackets(shape: tuple[int, ...]) -> bytes:
    if not shape:
        return b""
    inner = _brackets(shape[1:])
    return b"[" + (inner + b",") * (shape[0] - 1) + inner + b"]"


def _parser(size: int) -> Any:
    if size > _KEPT_BYTES:
        return simdjson.Parser()
    parser = getattr(_local, "parser", None)
    if parser is None:
        parser = _local.parser = simdjson.Parser()
    return parser
