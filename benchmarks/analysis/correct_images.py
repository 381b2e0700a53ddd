"""Which of a data set's images a row has right, as a short text: so that two runs can be compared image by image."""

import base64
import zlib

import numpy as np
from numpy.typing import NDArray

__all__ = ["pack", "unpack"]


def pack(hits: NDArray[np.bool_]) -> str:
    """Return which of N images are right as a text: bits, compressed, base64. `unpack` is the inverse."""
    return base64.b64encode(zlib.compress(np.packbits(hits).tobytes(), 9)).decode()


def unpack(text: str, count: int) -> NDArray[np.bool_]:
    """Return which of `count` images are right. Raises ValueError for a text that `pack` didn't make of so many."""
    try:
        packed = zlib.decompress(base64.b64decode(text, validate=True))
    except zlib.error as error:
        raise ValueError(str(error)) from error
    if len(packed) != -(-count // 8):
        raise ValueError(f"{len(packed)} bytes for {count} images")
    return np.unpackbits(np.frombuffer(packed, np.uint8), count=count).astype(bool)
