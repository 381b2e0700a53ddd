"""Synthetic photographs of handwritten digits, made from MNIST's images.

The digit is drawn in coloured ink on textured paper, rotated by up to 10 degrees, anywhere on a page of 200 to 2,000
pixels a side. Shadow, sensor noise and blur are added, and the image is encoded as a JPEG of varying quality or as a
PNG. Some photographs have light ink on dark paper; some show the page's edges and a table below. A seed determines all
of it.
"""

import io
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

__all__ = ["Photograph", "photograph"]

_Field = NDArray[np.float64]

# Colours of pens and pencils, in RGB; the paper is at least twice as bright.
_INKS = ((15, 15, 20), (25, 35, 110), (40, 60, 150), (120, 25, 30), (20, 80, 45), (85, 85, 90), (60, 45, 35))
_TABLES = ((60, 42, 30), (95, 75, 58), (35, 35, 38), (120, 125, 130))


@dataclass(frozen=True)
class Photograph:
    """An encoded photograph (`data`) with its properties, so that accuracy can be reported by kind."""

    data: bytes
    size: tuple[int, int]
    kind: str
    inverted: bool
    shadow: float
    noise: float
    degrees: float
    share: float
    table: bool


def photograph(digit: NDArray[np.uint8], seed: int) -> Photograph:
    """Return a photograph of an MNIST image, uint8 [28, 28] with bright ink."""
    dice = np.random.default_rng(seed)
    width, height = (round(math.exp(dice.uniform(math.log(200), math.log(2000)))) for _ in range(2))
    # No camera has a larger aspect ratio than 3.
    width, height = max(width, height // 3), max(height, width // 3)
    table = bool(dice.random() < 0.2)
    degrees = dice.uniform(-10, 10)
    share = dice.uniform(0.25, 0.8) * (0.6 if table else 1.0)
    ink = _ink(digit, dice, (width, height), share, degrees, margin=0.15 if table else 0.02)
    paper = _paper(dice, (width, height))
    colour = np.array(_INKS[dice.integers(len(_INKS))], np.float64)
    # The paper's grain is slightly visible through the ink.
    inked = colour + 0.15 * (paper - paper.mean((0, 1)))
    page = paper + (inked - paper) * (ink * dice.uniform(0.8, 1.0))[..., np.newaxis]
    inverted = bool(dice.random() < 0.25)
    if inverted:
        page = 255 - page
    if table:
        page = _on_table(page, dice, degrees)
    shadow = dice.uniform(0.0, 0.55)
    page *= _shadow(dice, (width, height), shadow)[..., np.newaxis]
    noise = dice.uniform(0, 8)
    page += dice.normal(0, noise, page.shape)
    image = Image.fromarray(page.clip(0, 255).astype(np.uint8))
    image = image.filter(ImageFilter.GaussianBlur(dice.uniform(0, 0.002) * min(width, height)))
    data, kind = _encoded(image, dice)
    return Photograph(data, (width, height), kind, inverted, shadow, noise, degrees, share, table)


def _ink(
    digit: NDArray[np.uint8],
    dice: np.random.Generator,
    size: tuple[int, int],
    share: float,
    degrees: float,
    margin: float,
) -> _Field:
    """Return the ink's opacity, 0 to 1, [height, width]. The digit's size is `share` of the image's shorter side."""
    width, height = size
    rows, columns = np.flatnonzero(digit.any(1)), np.flatnonzero(digit.any(0))
    cropped = digit[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    # A margin of two pixels leaves room for smooth edges of strokes.
    small = Image.fromarray(np.pad(cropped, 2))
    scale = share * min(size) / max(cropped.shape)
    large = small.resize(
        tuple(max(4, round(side * scale)) for side in small.size), Image.Resampling.BICUBIC
    ).rotate(degrees, Image.Resampling.BICUBIC, expand=True)
    values = np.asarray(large, np.float64) / 255
    # A pen's edge is sharper than the edge in an enlarged image.
    values = 1 / (1 + np.exp(-(values - 0.45) * 14))
    values = (values - values.min()) / (values.max() - values.min())
    field = np.zeros((height, width))
    free = height - values.shape[0], width - values.shape[1]
    top, left = (round(max(0, room) * dice.uniform(margin, 1 - margin)) for room in free)
    values = values[:height, :width]
    field[top : top + values.shape[0], left : left + values.shape[1]] = values
    return field


def _paper(dice: np.random.Generator, size: tuple[int, int]) -> _Field:
    """Return paper in RGB, [height, width, 3], with blotches of several sizes and fibres."""
    width, height = size
    colour = dice.uniform(205, 252) - np.array([0, dice.uniform(0, 6), dice.uniform(0, 25)])
    texture = np.zeros((height, width))
    for cells in (4, 16, 64, 200):
        coarse = dice.normal(0, dice.uniform(0.5, 3), (cells, cells)).astype(np.float32)
        texture += np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC), np.float64)
    fibres = Image.fromarray(dice.normal(0, 1, (height, max(1, width // 12))).astype(np.float32))
    texture += dice.uniform(0, 2) * np.asarray(fibres.resize(size, Image.Resampling.BILINEAR), np.float64)
    return np.asarray((colour + texture[..., np.newaxis]).clip(0, 255))


def _on_table(page: _Field, dice: np.random.Generator, degrees: float) -> _Field:
    """Return the page rotated and smaller than the image, on a table, so that its edges and the table are visible."""
    height, width = page.shape[:2]
    table = np.array(_TABLES[dice.integers(len(_TABLES))], np.float64) + dice.normal(0, 4, (height, width, 1))
    sheet = Image.new("L", (width, height), 0)
    inset = dice.uniform(0.02, 0.07)
    left, top = round(width * inset), round(height * inset)
    sheet.paste(255, (left, top, width - left, height - top))
    mask = np.asarray(
        sheet.rotate(degrees / 4, Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(1)), np.float64
    )
    covered = (mask / 255)[..., np.newaxis]
    return page * covered + table * (1 - covered)


def _shadow(dice: np.random.Generator, size: tuple[int, int], depth: float) -> _Field:
    """Return the light on the page, 1 - `depth` to 1, [height, width]: a mixture of a gradient and an edge."""
    width, height = size
    angle = dice.uniform(0, 2 * math.pi)
    rows, columns = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    along = (columns * math.cos(angle) + rows * math.sin(angle)) / math.sqrt(2)
    gradient = (along + 1) / 2
    # The edge of the shadow of a hand or a phone, more or less soft.
    edge = 1 / (1 + np.exp(-(along - dice.uniform(-0.5, 0.5)) * dice.uniform(4, 25)))
    mixed = dice.uniform(0, 1)
    return np.asarray(1 - depth * (mixed * gradient + (1 - mixed) * edge))


def _encoded(image: Image.Image, dice: np.random.Generator) -> tuple[bytes, str]:
    buffer = io.BytesIO()
    if dice.random() < 0.75:
        image.save(buffer, "JPEG", quality=int(dice.integers(30, 96)), subsampling=int(dice.integers(0, 3)))
        return buffer.getvalue(), "JPEG"
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue(), "PNG"
