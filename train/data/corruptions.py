"""Corrupted test images, to measure accuracy on images that are less clean than MNIST's.

Similar to MNIST-C (Mu and Gilmer 2019), but made from any test set. Each of the nine kinds has one strength, at which
digits are still easy to read for a person. Random numbers come from a fixed seed, so that the same test set always
gives the same corrupted images.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["CORRUPTIONS", "corrupted"]

Images = NDArray[np.uint8]  # [N, H, W], 0 (paper) to 255 (ink)
Pixels = NDArray[Any]  # images before rounding and clipping

_SEED = 0


def _in_halves(
    images: Images, first: Callable[[Images], Pixels], second: Callable[[Images], Pixels]
) -> Pixels:
    """Apply one function to a random half of the images and another to the rest."""
    half = np.random.default_rng(_SEED).permutation(len(images)) < len(images) // 2
    result = np.empty(images.shape, np.float64)
    result[half], result[~half] = first(images[half]), second(images[~half])
    return result


def _shift(images: Images) -> Pixels:
    from scipy.ndimage import shift

    return _in_halves(
        images, lambda half: shift(half, (0, 3, 3), order=0), lambda half: shift(half, (0, -3, -3), order=0)
    )


def _rotation(images: Images) -> Pixels:
    from scipy.ndimage import rotate

    def by(degrees: float) -> Callable[[Images], Pixels]:
        return lambda half: rotate(half.astype(np.float64), degrees, axes=(2, 1), reshape=False, order=1)

    return _in_halves(images, by(25), by(-25))


def _scale(images: Images) -> Pixels:
    from scipy.ndimage import affine_transform

    def by(factor: float) -> Callable[[Images], Pixels]:
        centre = (np.array(images.shape[1:]) - 1) / 2
        offset = (0, *(centre - centre / factor))
        return lambda half: affine_transform(
            half.astype(np.float64), (1, 1 / factor, 1 / factor), offset, order=1
        )

    return _in_halves(images, by(0.7), by(1.3))


def _thick(images: Images) -> Pixels:
    from scipy.ndimage import generate_binary_structure, grey_dilation

    changed: Pixels = grey_dilation(images, footprint=generate_binary_structure(2, 1)[np.newaxis])
    return changed


def _thin(images: Images) -> Pixels:
    from scipy.ndimage import grey_erosion

    changed: Pixels = grey_erosion(images, size=(1, 2, 2))
    return changed


def _blur(images: Images) -> Pixels:
    from scipy.ndimage import gaussian_filter

    changed: Pixels = gaussian_filter(images.astype(np.float64), (0, 1.2, 1.2))
    return changed


def _noise(images: Images) -> Pixels:
    return images + np.random.default_rng(_SEED).normal(0, 0.25 * 255, images.shape)


def _inverted(images: Images) -> Pixels:
    return 255 - images


def _low_contrast(images: Images) -> Pixels:
    return images * 0.3


# By name: the function and its description.
CORRUPTIONS: dict[str, tuple[Callable[[Images], Pixels], str]] = {
    "shift": (_shift, "by three pixels along both axes"),
    "rotation": (_rotation, "by 25 degrees in either direction"),
    "scale": (_scale, "to 0.7 or 1.3 times the size"),
    "thick": (_thick, "strokes a pixel wider on every side"),
    "thin": (_thin, "strokes a pixel narrower"),
    "blur": (_blur, "Gaussian, 1.2 pixels"),
    "noise": (_noise, "Gaussian, a quarter of the range"),
    "inverted": (_inverted, "ink and paper exchanged; not undone here, unlike in the client's preparation"),
    "low_contrast": (_low_contrast, "ink at 30 %"),
}


def corrupted(images: Images) -> Iterator[tuple[str, Images]]:
    """Yield (name, corrupted images) for each kind; `images` are uint8 [N, H, W], 0 (paper) to 255 (ink)."""
    for name, (function, _) in CORRUPTIONS.items():
        yield name, np.clip(np.rint(function(images)), 0, 255).astype(np.uint8)
