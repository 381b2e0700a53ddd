"""Preparation of images of any kind for a model, by its input contract.

`export.preprocessing.input_contract` describes the steps and their reasons. `export.preprocessing.graph` does the same
in the graph of `serving_bytes`.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from tfship.client.images import decoding, segmentation
from tfship.client.images.decoding import DecodedImage
from tfship.client.images.segmentation import Grey, Written
from tfship.export.preprocessing import input_contract as rules
from tfship.export.preprocessing.input_contract import Contract
from tfship.train.common.errors import DataError

__all__ = [
    "SUFFIXES",
    "as_mnist",
    "from_bytes",
    "pixels",
    "prepared",
    "reduced",
    "reduction",
]

# Suffixes of the files that are read from a folder.
SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".avif", ".heic", ".heif", ".jp2"}
)

# For rounding. Exact halves here may differ by 1e-13 in the graph's arithmetic, so halves are shifted.
_NUDGE = 0.5 + 1e-6


def from_bytes(data: bytes, contract: Contract, name: str = "image") -> NDArray[np.float32]:
    """Return an encoded image (PNG, JPEG …, any size and mode) as a tensor float32 [height, width, channels].

    Its values are the contract's. Raises DataError, which begins with `name`, for an invalid image or an empty one.
    """
    tensor: NDArray[np.float32] = contract.scale(pixels(data, contract, name)[np.newaxis])[0]
    return tensor


def pixels(data: bytes, contract: Contract, name: str = "image") -> NDArray[np.uint8]:
    """Return an encoded image as prepared pixels uint8 [height, width, channels]. Raises what `from_bytes` does."""
    return prepared(decoding.decoded(data, name), contract, name)[0]


def prepared(
    decoded: AbstractContextManager[DecodedImage], contract: Contract, name: str = "image"
) -> tuple[NDArray[np.uint8], int]:
    """Return a decoded image as prepared pixels uint8 [height, width, channels], and its number of digits.

    The number is an estimate, used for a hint, and 1 for the method `resize`; `client.images.multi_digit` separates
    digits. The decoded image is freed as early as possible.
    """
    with decoded as image:
        if contract.preparation == "digit":
            grey = image.grey()
        else:
            return _resized(image, contract), 1
    pixels, number = _digit(grey, contract, name)
    return pixels[..., np.newaxis], number


def _resized(image: DecodedImage, contract: Contract) -> NDArray[np.uint8]:
    height, width = image.shape
    to_height, to_width = (
        (contract.width, contract.height) if image.turned else (contract.height, contract.width)
    )
    rows = _resampling(height, 0, height, to_height, _triangle)
    columns = _resampling(width, 0, width, to_width, _triangle)
    stretched = np.zeros((contract.channels, to_height, to_width))
    for part, strip in image.strips(contract.channels):
        # The rows of the result to which this strip contributes: few for a large image.
        reached = np.flatnonzero(rows[:, part].any(1))
        for channel in range(contract.channels):
            values = strip[..., channel].astype(np.float64)
            stretched[channel, reached] += rows[reached, part] @ values @ columns.T
    return _to_pixels(image.upright(np.moveaxis(stretched, 0, -1)))


def _digit(grey: NDArray[np.uint8], contract: Contract, name: str) -> tuple[Grey, int]:
    """Return the digit in MNIST's form, uint8 [height, width], and the number of digits."""
    if grey.shape == contract.shape[:2] and _is_prepared(grey, _box(contract)):
        return grey, 1  # already in MNIST's form
    factor = reduction(grey)
    digit = _located(reduced(grey, factor))
    if digit is None:
        raise DataError(f"{name}: nothing to see on the image; expected a digit in one ink on plain paper")
    number = 1 + digit.neighbours
    top, bottom, left, right = (side * factor for side in digit.found.box(digit.labels))
    margin = int(rules.MARGIN * max(bottom - top, right - left))
    near = grey[max(0, top - margin) : bottom + margin, max(0, left - margin) : right + margin]
    closer = reduction(near)
    if closer < factor:
        digit = _located(reduced(near, closer)) or digit
    return as_mnist(digit.strokes, contract), number


def _located(small: Grey) -> Written | None:
    """Return the dark or light digit on an image, None if there is none."""
    digits = [
        digit for found in segmentation.found(small, segmentation.cell_of(small)) if (digit := found.digit())
    ]
    # For ties, the first one: dark ink.
    return max(digits, key=lambda each: each.distinct, default=None)


def _box(contract: Contract) -> int:
    return contract.height * rules.BOX // rules.FIELD


def _is_prepared(grey: NDArray[np.uint8], box: int) -> bool:
    """Tell whether an image of the model's size has black paper and a digit of about the box's size."""
    paper = np.median(np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]]))
    if paper != 0 or not grey.any():
        return False
    top, bottom, left, right = _extent(grey > 0)
    return abs(max(bottom - top, right - left) - box) <= rules.SLACK


def reduction(grey: Grey, size: int = rules.WORKING) -> int:
    """Return the integer that divides an image's sides so that they have at most `size` pixels; at most `REDUCTION`."""
    longer: int = max(grey.shape)
    return min(-(-longer // size), rules.REDUCTION)


def reduced(grey: Grey, factor: int) -> Grey:
    """Return the means of blocks of an image [h, w]; for factor 1, a large image is median-filtered."""
    height, width = (side // factor for side in grey.shape)
    blocks = grey[: height * factor, : width * factor].reshape(height, factor, width, factor)
    sums, area = blocks.sum((1, 3), dtype=np.int64), factor * factor
    small: Grey = ((2 * sums + area) // (2 * area)).astype(np.uint8)
    if factor == 1 and min(small.shape) >= rules.SPECKLED:
        return np.asarray(Image.fromarray(small).filter(ImageFilter.MedianFilter(3)))
    return small


def as_mnist(strokes: Grey, contract: Contract) -> Grey:
    """Return strokes [h, w] of 0…255 in the form of MNIST's digits, [height, width] of the contract."""
    top, bottom, left, right = _extent(strokes > 0)
    growth = _stroke_growth(strokes > 127, max(bottom - top, right - left))
    return _centred(segmentation.window(np.pad(strokes, growth // 2), growth, np.maximum), contract)


def _stroke_growth(written: NDArray[np.bool_], longer: int) -> int:
    """Return the size (odd) of the window that widens strokes to the pen's width in MNIST.

    A pen's width is the area divided by half the outline's length. Steps along rows and columns are on average 4 / π
    times as long as the outline, so the width is about 5/2 of the area divided by the number of steps.
    """
    padded = np.pad(written, 1)
    outline = sum(int(np.sum(padded[1:] != padded[:-1])) for padded in (padded, padded.T))
    lacking = rules.STROKE * longer - 2.5 * int(written.sum()) / max(outline, 1)
    return 2 * max(int(lacking / 2), 0) + 1


def _centred(strokes: Grey, contract: Contract) -> Grey:
    """Return strokes as a digit of the box's size, with its centre of mass at the centre of the field."""
    box = _box(contract)
    top, bottom, left, right = _extent(strokes > 0)
    longer = max(bottom - top, right - left)
    # Integer division that rounds halves up.
    height, width = (
        max(1, (2 * side * box + longer) // (2 * longer)) for side in (bottom - top, right - left)
    )
    rows = _resampling(bottom - top, 0, bottom - top, height, _lanczos)
    columns = _resampling(right - left, 0, right - left, width, _lanczos)
    small = _to_pixels(rows @ strokes[top:bottom, left:right].astype(np.float64) @ columns.T)
    weights = small.astype(np.float64)
    total = weights.sum()
    top = _place(weights.sum(1), total, contract.height)
    left = _place(weights.sum(0), total, contract.width)
    field = np.zeros(contract.shape[:2], np.uint8)
    field[top : top + height, left : left + width] = small
    return field


def _place(profile: NDArray[np.float64], total: float, field: int) -> int:
    """Return where a digit with this profile begins, so that its centre of mass is at the centre of the field."""
    centre = float((profile * np.arange(len(profile))).sum() / total)
    # A very asymmetric digit is kept inside the field rather than centred.
    return int(np.clip(np.floor((field - 1) / 2 - centre + _NUDGE), 0, field - len(profile)))


def _extent(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """Return top, bottom, left and right (bottom and right exclusive) of the true values."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


def _resampling(
    length: int,
    start: int,
    stop: int,
    size: int,
    kernel: Callable[[NDArray[np.float64]], NDArray[np.float64]],
) -> NDArray[np.float64]:
    """Return the matrix [size, length] that resamples the pixels start…stop of `length` pixels to `size` pixels."""
    scale = (stop - start) / size
    centres = start + (np.arange(size) + 0.5) * scale
    places = np.arange(length) + 0.5
    weights = kernel((places - centres[:, np.newaxis]) / max(scale, 1.0))
    weights = np.where((places > start) & (places < stop), weights, 0.0)
    matrix: NDArray[np.float64] = weights / weights.sum(1, keepdims=True)
    return matrix


def _triangle(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.maximum(0.0, 1.0 - np.abs(x))


def _lanczos(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(np.abs(x) < 3.0, np.sinc(x) * np.sinc(x / 3.0), 0.0)


def _to_pixels(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    pixels: NDArray[np.uint8] = np.floor(values.clip(0.0, 255.0) + _NUDGE).astype(np.uint8)
    return pixels
