"""Compact text form of a row's correctly classified images, for comparing two runs image by image."""

import base64
import zlib

import numpy as np
from numpy.typing import NDArray

__all__ = ["pack", "unpack"]


def pack(hits: NDArray[np.bool_]) -> str:
    """Return `hits` [N], whether each image is right, as text: bits, compressed, base64. `unpack` is the inverse."""
    return base64.b64encode(zlib.compress(np.packbits(hits).tobytes(), 9)).decode()


def unpack(text: str, count: int) -> NDArray[np.bool_]:
    """Return whether each image is right, [count]. Raises ValueError if `text` isn't `pack`'s result for `count`."""
    try:
        packed = zlib.decompress(base64.b64decode(text, validate=True))
    except zlib.error as error:
        raise ValueError(str(error)) from error
    if len(packed) != -(-count // 8):
        raise ValueError(f"{len(packed)} bytes, expected {-(-count // 8)} for {count} images")
    return np.unpackbits(np.frombuffer(packed, np.uint8), count=count).astype(bool)
