"""Preparation of images, given as paths, bytes, Pillow images or arrays, in the form that a signature takes."""

import os
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tfship.client.images import decoding, preprocessing, preview
from tfship.client.images.decoding import DecodedImage
from tfship.client.images.sources import MOST_BYTES, read_file
from tfship.client.targets.binding import ENCODED, PIXELS, images_of
from tfship.export.preprocessing.input_contract import Contract, Scaling
from tfship.train.common.errors import DataError, TfshipError

__all__ = ["ImageLike", "Query", "name_of", "prepared"]

ImageLike = (
    str | os.PathLike[str] | bytes | bytearray | memoryview | Image.Image | NDArray[np.uint8] | NDArray[np.floating]
)  # fmt: skip

# First bytes of the formats that a graph decodes: PNG and JPEG.
_DECODED_BY_GRAPHS = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")
# Share of the contract's range that values may exceed, for rounding in half precision.
_SLACK = 1e-3


def name_of(given: object, otherwise: str) -> str:
    """Return an image's name in messages: its path, or else `otherwise`."""
    return os.fsdecode(given) if isinstance(given, str | os.PathLike) else otherwise


@dataclass(slots=True)
class Query:
    """One image and the state of its prediction: prepared as `row`, then with raw `scores` float32 [K] or an `error`.

    `row` is bytes for an input that takes encoded images, else an array [height, width, channels]; None after it was
    sent. `version` is the model's version, None if the protocol doesn't report it. `pixels` are the prepared pixels
    uint8 [height, width, channels], if they were requested, and `digits` is an estimate of the image's digits.
    """

    name: str
    row: Any = None
    scores: NDArray[np.float32] | None = None
    version: int | None = None
    error: TfshipError | None = None
    pixels: NDArray[np.uint8] | None = None
    digits: int = 1


def prepared(given: Any, contract: Contract, dtype: str, name: str, *, pixels: bool = False) -> Query:
    """Return an image prepared for an input of `dtype`, with its pixels if `pixels` is true.

    `dtype` is one of `client.targets.binding.DTYPES`' names. An input for encoded images gets PNG and JPEG unchanged,
    and other images as PNG. Raises DataError, which begins with `name`, for an invalid image.
    """
    query = Query(name)
    if isinstance(given, np.ndarray) and np.issubdtype(given.dtype, np.floating):
        query.row = _values(given, contract, dtype, name)
        return query
    image = _image(given, contract, name)
    if pixels or dtype != ENCODED:
        found, query.digits = preprocessing.prepared(_decoded(image, name), contract, name)
        query.pixels = found if pixels else None
        query.row = None if dtype == ENCODED else images_of(found[np.newaxis], contract, dtype)[0]
    if dtype == ENCODED:
        query.row = (
            image
            if isinstance(image, bytes) and image.startswith(_DECODED_BY_GRAPHS)
            else _png(image, contract, name)
        )
    return query


def _image(given: Any, contract: Contract, name: str) -> Image.Image | bytes:
    """Return an image other than the model's values, as Pillow's or encoded."""
    if isinstance(given, np.ndarray):
        return _of_pixels(given, contract, name)
    return given if isinstance(given, Image.Image) else _bytes(given, contract, name)


def _decoded(image: Image.Image | bytes, name: str) -> AbstractContextManager[DecodedImage]:
    return decoding.decoded(image, name) if isinstance(image, bytes) else decoding.from_pillow(image, name)


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
        raise DataError(f"{name}: empty; expected PNG, JPEG or another image format")
    if len(data) > MOST_BYTES:
        raise DataError(f"{name}: more than {MOST_BYTES >> 20} MiB; expected an image")
    return data


def _values(given: NDArray[Any], contract: Contract, dtype: str, name: str) -> NDArray[Any]:
    """Return an array of the model's values, unchanged, in the signature's dtype."""
    if given.shape != contract.shape and (given.shape != contract.shape[:2] or contract.channels != 1):
        raise DataError(f"{name}: {_kind(given)}; expected {_expected(contract)}")
    if dtype in (ENCODED, PIXELS):
        takes = "pixels" if dtype == PIXELS else "encoded images"
        raise DataError(f"{name}: {_kind(given)}, but the signature takes {takes}; expected uint8 pixels")
    values = given.reshape(contract.shape)
    for channel, (low, high) in enumerate(_ranges(contract.scaling)):
        least, most = float(values[..., channel].min()), float(values[..., channel].max())
        slack = _SLACK * (high - low)
        # Negated, so that NaN fails, too.
        if not (low - slack <= least and most <= high + slack):
            where = f" in channel {channel}" if contract.channels > 1 else ""
            raise DataError(
                f"{name}: values of {least:g} to {most:g}{where}; expected the model's, {low:g} to {high:g}, or pixels "
                "as uint8"
            )
    return values.astype(dtype, copy=False)


def _ranges(scaling: Scaling) -> list[tuple[float, float]]:
    """Return the lowest and the highest value of each channel."""
    channels = (
        Scaling((scale,), (offset,)) for scale, offset in zip(scaling.scale, scaling.offset, strict=True)
    )
    return [each.ends for each in channels]


def _of_pixels(given: NDArray[Any], contract: Contract, name: str) -> Image.Image:
    if given.dtype != np.uint8 or not given.size or not (given.ndim == 2 or given.shape[2:] in ((1,), (3,))):
        raise DataError(f"{name}: {_kind(given)}; expected {_expected(contract)}")
    return Image.fromarray(np.ascontiguousarray(given[..., 0] if given.shape[2:] == (1,) else given))


def _png(image: Image.Image | bytes, contract: Contract, name: str) -> bytes:
    """Return an image as PNG: upright, and opaque."""
    with _decoded(image, name) as decoded:
        pixels = np.ascontiguousarray(decoded.pixels(contract.channels))
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
