"""From a picture as a person has it to the tensor that the model takes, by the model's input contract.

`export.contract` says what is done and why; `export.prepare` does the same in the graph of `serving_bytes`.
"""

import io
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter, ImageOps, UnidentifiedImageError

from export import contract as rules
from export.contract import Contract
from train.errors import DataError

__all__ = ["SUFFIXES", "from_bytes", "from_file", "pixels"]

# What a folder is searched for.
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"})

# Halves that come out exactly here may miss by 1e-13 in the graph's arithmetic: none is left exactly half.
_NUDGE = 0.5 + 1e-6


def from_file(path: Path, contract: Contract) -> NDArray[np.float32]:
    """Read a picture file into a tensor float32 [height, width, channels] of the contract's values.

    Raises DataError, naming the file, if it isn't there, is no picture or shows nothing.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error.strerror})") from error
    return from_bytes(data, contract, str(path))


def from_bytes(data: bytes, contract: Contract, name: str = "picture") -> NDArray[np.float32]:
    """Decode an encoded picture (PNG, JPEG …, any size and mode) into a tensor as `from_file` does."""
    tensor: NDArray[np.float32] = contract.scale(pixels(data, contract, name)[np.newaxis])[0]
    return tensor


def pixels(data: bytes, contract: Contract, name: str = "picture") -> NDArray[np.uint8]:
    """Decode and prepare an encoded picture as pixels uint8 [height, width, channels]."""
    picture = _decoded(data, name)
    if contract.preparation == "digit":
        return _digit(picture, contract, name)[..., np.newaxis]
    return _resized(picture, contract)


def _decoded(data: bytes, name: str) -> Image.Image:
    """Return the upright picture, in grey or RGB of 8 bits, transparent parts as white paper."""
    try:
        with warnings.catch_warnings():
            # Pillow only warns of a picture that unpacks to more memory than any digit needs.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data)) as opened:
                picture = ImageOps.exif_transpose(opened)
                if picture.has_transparency_data:
                    return _on_paper(picture.convert("RGBA"))
                if picture.mode.startswith(("I", "F")):
                    picture = _to_8_bits(picture)
                return picture.convert("L" if picture.mode in ("1", "L") else "RGB")
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise DataError(
            f"{name}: more than {rules.MOST_PIXELS:,} pixels; expected a picture of one thing"
        ) from None
    # Pillow's decoders raise these for damaged files, struct.error and SyntaxError among them.
    except Exception as error:
        if not data:
            what = "an empty file"
        elif isinstance(error, UnidentifiedImageError):
            what = "not a picture"
        else:
            what = f"a damaged picture ({error})"
        raise DataError(f"{name}: {what}; expected PNG, JPEG or the like") from error


def _on_paper(picture: Image.Image) -> Image.Image:
    """Lay an RGBA picture on white; not by Pillow's blending, whose rounding is nobody else's."""
    values = np.asarray(picture, np.int32)
    colour, opacity = values[..., :3], values[..., 3:]
    return Image.fromarray(((colour * opacity + 255 * (255 - opacity) + 127) // 255).astype(np.uint8))


def _to_8_bits(picture: Image.Image) -> Image.Image:
    """Return a picture of 16 or 32 bits a pixel, which Pillow would clip at 255, scaled to 8."""
    values = np.asarray(picture, np.float64)
    # 16 bits have a known range; for 32 and for floats, the picture's own is all there is.
    low, high = (0, 65535) if picture.mode.startswith("I;16") else (values.min(), values.max())
    scaled = (values - low) / max(high - low, 1e-9) * 255
    return Image.fromarray(np.rint(np.nan_to_num(scaled)).clip(0, 255).astype(np.uint8))


def _resized(picture: Image.Image, contract: Contract) -> NDArray[np.uint8]:
    values = np.asarray(picture.convert("L" if contract.channels == 1 else "RGB"), np.float64)
    values = values.reshape(*values.shape[:2], contract.channels)
    height, width = values.shape[:2]
    rows = _resampling(height, 0, height, contract.height, _triangle)
    columns = _resampling(width, 0, width, contract.width, _triangle)
    # Channel by channel: one product of three would take the slow way.
    stretched = [rows @ values[..., channel] @ columns.T for channel in range(contract.channels)]
    return _to_pixels(np.stack(stretched, -1))


def _digit(picture: Image.Image, contract: Contract, name: str) -> NDArray[np.uint8]:
    """Return the digit as MNIST shows it, uint8 [height, width]."""
    picture = picture.convert("L")
    if min(picture.size) >= rules.SPECKLED:
        picture = picture.filter(ImageFilter.MedianFilter(3))
    grey = np.asarray(picture)
    paper = float(np.median(np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])))
    box = contract.height * rules.BOX // rules.FIELD
    if grey.shape == contract.shape[:2] and paper == 0 and _fits(grey, box):
        return grey  # any change could only do harm
    # Whatever differs from the paper is ink, be it darker or lighter.
    ink = np.abs(grey - paper)
    strongest = float(ink.max())
    if strongest < rules.FAINTEST:
        raise DataError(f"{name}: nothing to see on it; expected a digit in one ink on plain paper")
    ink = np.where(ink < rules.INK * strongest, 0, ink / strongest * 255)
    top, bottom, left, right = _extent(ink > 0)
    longer = max(bottom - top, right - left)
    # Halves up, in integers.
    height, width = (
        max(1, (2 * side * box + longer) // (2 * longer)) for side in (bottom - top, right - left)
    )
    rows = _resampling(grey.shape[0], top, bottom, height, _lanczos)
    columns = _resampling(grey.shape[1], left, right, width, _lanczos)
    small = _to_pixels(rows @ ink @ columns.T)
    weights = small.astype(np.float64)
    total = weights.sum()
    if not total:
        raise DataError(f"{name}: only scattered dots on it; expected one digit on plain paper")
    top = _place(weights.sum(1), total, contract.height)
    left = _place(weights.sum(0), total, contract.width)
    field = np.zeros(contract.shape[:2], np.uint8)
    field[top : top + height, left : left + width] = small
    return field


def _fits(grey: NDArray[np.uint8], box: int) -> bool:
    """Tell whether the ink's extent is that of an MNIST image: its longer side the box's, or nearly."""
    if not grey.any():
        return False
    top, bottom, left, right = _extent(grey > 0)
    return abs(max(bottom - top, right - left) - box) <= rules.SLACK


def _place(profile: NDArray[np.float64], total: float, field: int) -> int:
    """Return where a digit with this profile begins, so that its centre of mass is in the middle of the field."""
    centre = float((profile * np.arange(len(profile))).sum() / total)
    # A very lopsided digit stays inside the field rather than in the exact middle.
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
    """Return the matrix [size, length] that resamples pixels start…stop of `length` to `size`."""
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
