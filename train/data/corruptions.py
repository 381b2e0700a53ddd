"""Corrupted test images, to measure accuracy on images that are less clean than MNIST's.

Similar to MNIST-C (Mu and Gilmer 2019), but made from any test set. There are nine kinds, most of them in three
strengths. Even at the strongest, digits are easy to read for a person. Cards have the accuracy at medium strength.
Random numbers come from a fixed seed, so that the same test set always gives the same corrupted images.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["CORRUPTIONS", "MEDIUM", "Corruption", "corrupted"]

Images = NDArray[np.uint8]  # [N, H, W], 0 (paper) to 255 (ink)
Pixels = NDArray[Any]  # images before rounding and clipping

WEAK, MEDIUM, STRONG = "weak", "medium", "strong"
_SEED = 0


@dataclass(frozen=True)
class Corruption:
    """A kind of corruption: `function` of the images and a parameter, which `strengths` has by name.

    Every kind has the strength "medium". `description` is a format of the parameter.
    """

    function: Callable[[Images, Any], Pixels]
    description: str
    strengths: dict[str, Any]

    def describe(self, strength: str = MEDIUM) -> str:
        """Return what is done to the images at a strength."""
        return self.description.format(self.strengths[strength])

    def apply(self, images: Images, strength: str = MEDIUM) -> Images:
        """Return corrupted copies of images uint8 [N, H, W], 0 (paper) to 255 (ink)."""
        changed = self.function(images, self.strengths[strength])
        return np.clip(np.rint(changed), 0, 255).astype(np.uint8)


def _in_halves(
    images: Images, first: Callable[[Images], Pixels], second: Callable[[Images], Pixels]
) -> Pixels:
    """Apply one function to a random half of the images and another to the rest."""
    half = np.random.default_rng(_SEED).permutation(len(images)) < len(images) // 2
    result = np.empty(images.shape, np.float64)
    result[half], result[~half] = first(images[half]), second(images[~half])
    return result


def _partly(images: Images, amount: float, change: Callable[[Images, int], Pixels]) -> Pixels:
    """Apply `change` by a number of pixels that needn't be whole, as the mean of both neighbours, weighted."""
    whole, part = divmod(amount, 1)
    return (1 - part) * change(images, int(whole)) + part * change(images, int(whole) + 1)


def _shift(images: Images, pixels: int) -> Pixels:
    from scipy.ndimage import shift

    return _in_halves(
        images,
        lambda half: shift(half, (0, pixels, pixels), order=0),
        lambda half: shift(half, (0, -pixels, -pixels), order=0),
    )


def _rotation(images: Images, degrees: float) -> Pixels:
    from scipy.ndimage import rotate

    def by(degrees: float) -> Callable[[Images], Pixels]:
        return lambda half: rotate(half.astype(np.float64), degrees, axes=(2, 1), reshape=False, order=1)

    return _in_halves(images, by(degrees), by(-degrees))


def _scale(images: Images, factors: tuple[float, float]) -> Pixels:
    from scipy.ndimage import affine_transform

    def by(factor: float) -> Callable[[Images], Pixels]:
        centre = (np.array(images.shape[1:]) - 1) / 2
        offset = (0, *(centre - centre / factor))
        return lambda half: affine_transform(
            half.astype(np.float64), (1, 1 / factor, 1 / factor), offset, order=1
        )

    return _in_halves(images, *map(by, factors))


def _thick(images: Images, pixels: float) -> Pixels:
    from scipy.ndimage import generate_binary_structure, grey_dilation

    def by(images: Images, times: int) -> Pixels:
        for _ in range(times):
            images = grey_dilation(images, footprint=generate_binary_structure(2, 1)[np.newaxis])
        return images

    return _partly(images, pixels, by)


def _thin(images: Images, pixels: float) -> Pixels:
    from scipy.ndimage import grey_erosion

    return _partly(images, pixels, lambda images, whole: grey_erosion(images, size=(1, whole + 1, whole + 1)))


def _blur(images: Images, pixels: float) -> Pixels:
    from scipy.ndimage import gaussian_filter

    changed: Pixels = gaussian_filter(images.astype(np.float64), (0, pixels, pixels))
    return changed


def _noise(images: Images, percent: float) -> Pixels:
    return images + np.random.default_rng(_SEED).normal(0, percent / 100 * 255, images.shape)


def _inverted(images: Images, _: None) -> Pixels:
    return 255 - images


def _low_contrast(images: Images, percent: float) -> Pixels:
    return images * (percent / 100)


def _strengths(weak: Any, medium: Any, strong: Any) -> dict[str, Any]:
    return {WEAK: weak, MEDIUM: medium, STRONG: strong}


CORRUPTIONS = {
    "shift": Corruption(_shift, "by {} px along both axes", _strengths(2, 3, 4)),
    "rotation": Corruption(_rotation, "by {} degrees in either direction", _strengths(15, 25, 30)),
    "scale": Corruption(
        _scale, "to {0[0]} or {0[1]} times the size", _strengths((0.8, 1.2), (0.7, 1.3), (0.6, 1.4))
    ),
    "thick": Corruption(_thick, "strokes {} px wider on every side", _strengths(0.5, 1, 1.5)),
    "thin": Corruption(_thin, "strokes {} px narrower", _strengths(0.5, 1, 1.25)),
    "blur": Corruption(_blur, "Gaussian, {} px", _strengths(0.8, 1.2, 1.6)),
    "noise": Corruption(_noise, "Gaussian, {} % of the range", _strengths(15, 25, 35)),
    # Not undone here, unlike in the client's preparation.
    "inverted": Corruption(_inverted, "ink and paper exchanged", {MEDIUM: None}),
    "low_contrast": Corruption(_low_contrast, "ink at {} %", _strengths(50, 30, 20)),
}


def corrupted(images: Images) -> Iterator[tuple[str, Images]]:
    """Yield (name, corrupted images) for each kind at medium strength; `images` are as for `Corruption.apply`."""
    for name, corruption in CORRUPTIONS.items():
        yield name, corruption.apply(images)
