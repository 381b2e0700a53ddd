"""Images as other programs have them, in the form that a signature takes: paths, bytes, Pillow's pictures, arrays."""

import os
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tfship.client.images import decoding, preprocessing, preview
from tfship.client.images.decoding import DecodedPicture
from tfship.client.images.sources import MOST_BYTES, read_file
from tfship.client.targets.binding import ENCODED, PIXELS, images_of
from tfship.export.preprocessing.input_contract import Contract, Scaling
from tfship.train.common.errors import DataError

__all__ = ["ImageLike", "encoded", "name_of", "row"]

ImageLike = (
    str | os.PathLike[str] | bytes | bytearray | memoryview | Image.Image | NDArray[np.uint8] | NDArray[np.floating]
)  # fmt: skip

# How the formats begin that a graph decodes: PNG and JPEG.
_TAKEN = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")
# Of the range that a contract gives: what arithmetic in half precision may miss.
_SLACK = 1e-3


def name_of(given: object, otherwise: str) -> str:
    """Return what messages call an image: its path, or else `otherwise`."""
    return os.fsdecode(given) if isinstance(given, str | os.PathLike) else otherwise


def row(given: Any, contract: Contract, dtype: str, name: str) -> Any:
    """Return one image as a signature takes it: bytes for `ENCODED`, else an array [height, width, channels].

    `dtype` is one of `client.targets.binding.DTYPES`' names. Raises DataError, which begins with `name`, for what is
    no image.
    """
    if isinstance(given, np.ndarray) and np.issubdtype(given.dtype, np.floating):
        return _values(given, contract, dtype, name)
    if isinstance(given, np.ndarray):
        given = _picture(given, contract, name)
    if isinstance(given, Image.Image):
        if dtype == ENCODED:
            return _png(decoding.taken(given, name), contract)
        pixels = preprocessing.prepared(decoding.taken(given, name), contract, name)
    else:
        data = _bytes(given, contract, name)
        if dtype == ENCODED:
            return encoded(data, contract, name)
        pixels = preprocessing.pixels(data, contract, name)
    return images_of(pixels[np.newaxis], contract, dtype)[0]


def encoded(data: bytes, contract: Contract, name: str) -> bytes:
    """Return an encoded image as `serving_bytes` takes it: PNG and JPEG unchanged, other formats as PNG.

    Raises DataError, which begins with `name`, for what is no image.
    """
    if data.startswith(_TAKEN):
        return data
    return _png(decoding.opened(data, name), contract)


def _bytes(given: Any, contract: Contract, name: str) -> bytes:
    if isinstance(given, str | os.PathLike):
        try:
            data = read_file(Path(os.fsdecode(given)))
        except ValueError as error:  # a path with a NUL in it
            raise DataError(f"{name!r}: not a path ({error})") from None
    elif isinstance(given, bytes | bytearray | memoryview):
        data = bytes(given)
    else:
        raise DataError(f"{name}: {_kind(given)}; expected {_expected(contract)}")
    if not data:
        raise DataError(f"{name}: empty; expected PNG, JPEG or the like")
    if len(data) > MOST_BYTES:
        raise DataError(f"{name}: more than {MOST_BYTES >> 20} MiB; expected a picture")
    return data


def _values(given: NDArray[Any], contract: Contract, dtype: str, name: str) -> NDArray[Any]:
    """Return an array of the model's values, which nothing is done to, in the signature's dtype."""
    if given.shape != contract.shape and (given.shape != contract.shape[:2] or contract.channels != 1):
        raise DataError(f"{name}: {_kind(given)}; expected {_expected(contract)}")
    if dtype in (ENCODED, PIXELS):
        takes = "pixels" if dtype == PIXELS else "encoded pictures"
        raise DataError(f"{name}: {_kind(given)}, but the signature takes {takes}; expected uint8 pixels")
    values = given.reshape(contract.shape)
    for channel, (low, high) in enumerate(_ranges(contract.scaling)):
        least, most = float(values[..., channel].min()), float(values[..., channel].max())
        slack = _SLACK * (high - low)
        # Not so for what isn't a number, too.
        if not (low - slack <= least and most <= high + slack):
            of = f" in channel {channel}" if contract.channels > 1 else ""
            raise DataError(
                f"{name}: values of {least:g} to {most:g}{of}; expected the model's, {low:g} to {high:g}, or pixels as "
                "uint8"
            )
    return values.astype(dtype, copy=False)


def _ranges(scaling: Scaling) -> list[tuple[float, float]]:
    """Return the lowest and the highest value of each channel."""
    channels = (
        Scaling((scale,), (offset,)) for scale, offset in zip(scaling.scale, scaling.offset, strict=True)
    )
    return [each.ends for each in channels]


def _picture(given: NDArray[Any], contract: Contract, name: str) -> Image.Image:
    if given.dtype != np.uint8 or not given.size or not (given.ndim == 2 or given.shape[2:] in ((1,), (3,))):
        raise DataError(f"{name}: {_kind(given)}; expected {_expected(contract)}")
    return Image.fromarray(np.ascontiguousarray(given[..., 0] if given.shape[2:] == (1,) else given))


def _png(decoded: AbstractContextManager[DecodedPicture], contract: Contract) -> bytes:
    """Return an image as PNG: upright, and on paper where it is transparent."""
    with decoded as picture:
        pixels = np.ascontiguousarray(picture.pixels(contract.channels))
    return preview.png(pixels)


def _expected(contract: Contract) -> str:
    return (
        "a path, encoded bytes, a PIL image, uint8 pixels [height, width] or [height, width, 1 or 3], or the model's "
        f"values, floats {list(contract.shape)}"
    )


def _kind(given: object) -> str:
    if isinstance(given, np.ndarray):
        return f"an array {given.dtype} {list(given.shape)}"
    if isinstance(given, list | tuple):
        return f"a {type(given).__name__} (predict_many takes several images)"
    return f"of type {type(given).__name__}"
