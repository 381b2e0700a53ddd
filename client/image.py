"""From a picture as a person has it to the tensor that the model takes.

MNIST's own images were made by scaling the digit, keeping its proportions, into a box of 20×20 pixels and
placing that in a field of 28×28 so that its centre of mass is in the middle (LeCun et al., "The MNIST
database of handwritten digits"); bright ink on black paper. Pictures are brought into the same form.
"""

import io
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter, ImageOps, UnidentifiedImageError

from train.data import to_input
from train.errors import DataError

__all__ = ["SUFFIXES", "from_bytes", "from_file"]

# What a folder is searched for.
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"})

_FIELD, _BOX = 28, 20
# Ink is what stands out from the paper by this share of the strongest difference: above the noise of
# scanners and JPEG, below the grey of an anti-aliased edge.
_INK = 0.25
# From this size on, single pixels are no strokes but dirt or dithering, and would be taken for the digit's ends.
_SPECKLED = 64
# Differences below this (of 255) are an empty page.
_FAINTEST = 32


def from_file(path: Path) -> NDArray[np.float32]:
    """Read a picture file into a tensor float32 [28, 28, 1], 0.0 (paper) to 1.0 (ink).

    Raises DataError, naming the file, if it isn't there, is no picture or shows nothing.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error.strerror})") from error
    return from_bytes(data, str(path))


def from_bytes(data: bytes, name: str = "picture") -> NDArray[np.float32]:
    """Decode an encoded picture (PNG, JPEG …, any size and mode) into a tensor as `from_file` does."""
    tensor: NDArray[np.float32] = to_input(_normalised(_grey(data, name), name)[np.newaxis])[0]
    return tensor


def _grey(data: bytes, name: str) -> NDArray[np.uint8]:
    """Return the upright picture in grey, uint8 [height, width], transparent parts as white paper."""
    try:
        with warnings.catch_warnings():
            # Pillow only warns of a picture that unpacks to more memory than any digit needs.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data)) as opened:
                picture = ImageOps.exif_transpose(opened)
                if picture.has_transparency_data:
                    picture = picture.convert("RGBA")
                    paper = Image.new("RGBA", picture.size, "white")
                    picture = Image.alpha_composite(paper, picture)
                if picture.mode.startswith(("I", "F")):
                    picture = _to_8_bits(picture)
                picture = picture.convert("L")
                if min(picture.size) >= _SPECKLED:
                    picture = picture.filter(ImageFilter.MedianFilter(3))
                return np.asarray(picture)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        limit = Image.MAX_IMAGE_PIXELS or 0
        raise DataError(f"{name}: more than {limit:,} pixels; expected the picture of one digit") from None
    # Pillow's decoders raise these for damaged files, struct.error and SyntaxError among them.
    except Exception as error:
        if not data:
            what = "an empty file"
        elif isinstance(error, UnidentifiedImageError):
            what = "not a picture"
        else:
            what = f"a damaged picture ({error})"
        raise DataError(f"{name}: {what}; expected PNG, JPEG or the like") from error


def _to_8_bits(picture: Image.Image) -> Image.Image:
    """Return a picture of 16 or 32 bits a pixel, which Pillow would clip at 255, scaled to 8."""
    values = np.asarray(picture, np.float64)
    # 16 bits have a known range; for 32 and for floats, the picture's own is all there is.
    low, high = (0, 65535) if picture.mode.startswith("I;16") else (values.min(), values.max())
    scaled = (values - low) / max(high - low, 1e-9) * 255
    return Image.fromarray(np.rint(np.nan_to_num(scaled)).clip(0, 255).astype(np.uint8))


def _normalised(grey: NDArray[np.uint8], name: str) -> NDArray[np.uint8]:
    """Return the digit as MNIST shows it, uint8 [28, 28], from a grey picture of any size."""
    border = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    paper = float(np.median(border))
    if grey.shape == (_FIELD, _FIELD) and paper == 0 and _fits_box(grey):
        return grey  # an MNIST image: any change could only do harm
    # Whatever differs from the paper is ink, be it darker or lighter.
    ink = np.abs(grey.astype(np.float32) - paper)
    strongest = float(ink.max())
    if strongest < _FAINTEST:
        raise DataError(f"{name}: nothing to see on it; expected a digit in one ink on plain paper")
    ink = np.where(ink < _INK * strongest, 0, ink / strongest * 255).astype(np.uint8)
    rows, columns = np.flatnonzero(ink.any(1)), np.flatnonzero(ink.any(0))
    digit = Image.fromarray(ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
    scale = _BOX / max(digit.size)
    size = (max(1, round(digit.width * scale)), max(1, round(digit.height * scale)))
    small = np.asarray(digit.resize(size, Image.Resampling.LANCZOS), np.uint8)
    return _centred(small)


def _fits_box(grey: NDArray[np.uint8]) -> bool:
    """Tell whether the ink's extent is that of an MNIST image: its longer side 20 pixels, or nearly."""
    rows, columns = np.flatnonzero(grey.any(1)), np.flatnonzero(grey.any(0))
    if not len(rows):
        return False
    extent = max(int(np.ptp(rows)), int(np.ptp(columns))) + 1
    return _BOX - 2 <= extent <= _BOX + 2


def _centred(digit: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Place a digit of at most 20×20 in a 28×28 field with its centre of mass in the middle."""
    height, width = digit.shape
    weights = digit.astype(np.float64)
    total = weights.sum()
    row = (weights.sum(1) @ np.arange(height)) / total
    column = (weights.sum(0) @ np.arange(width)) / total
    middle = (_FIELD - 1) / 2
    # A very lopsided digit stays inside the field rather than in the exact middle.
    top = int(np.clip(round(middle - row), 0, _FIELD - height))
    left = int(np.clip(round(middle - column), 0, _FIELD - width))
    field = np.zeros((_FIELD, _FIELD), np.uint8)
    field[top : top + height, left : left + width] = digit
    return field
