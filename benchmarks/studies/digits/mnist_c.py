"""The fifteen corruptions of MNIST-C, written anew, for any images of MNIST's form.

Mu and Gilmer, "MNIST-C: A Robustness Benchmark for Computer Vision" (2019), published their corruptions in the
repository google-research/mnist-c. Definitions and parameters here are those of that code, at the severities of the
published test set. They include what its libraries did then. A shear by 0.4 also stretched an image upright, by 9 %.
The blur of `glass_blur`, which takes columns for channels, is vertical only. ImageMagick's motion blur is one-sided.

None of the fifteen is left out. The images differ from the published files in their random numbers, and by rounding.
"""

import itertools
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

__all__ = ["MNIST_C", "corrupted"]

Values = NDArray[np.float64]  # [N, 28, 28], 0.0 (paper) to 1.0 (ink)
Dice = np.random.Generator

_SIDE = 28
# Limits memory: ten arrays of 1,000 images take 60 MB, and so does the fog of 50 images.
_AT_ONCE, _FOGS_AT_ONCE = 1000, 50


def corrupted(name: str, images: NDArray[np.uint8], seed: int = 0) -> NDArray[np.uint8]:
    """Return corrupted copies of images uint8 [N, 28, 28], 0 (paper) to 255 (ink); `name` is a key of `MNIST_C`."""
    function, _ = MNIST_C[name]
    dice = np.random.default_rng(seed)
    changed = [function(images[start : start + _AT_ONCE] / 255, dice) for start in _starts(images, _AT_ONCE)]
    pixels: NDArray[np.uint8] = np.rint(np.concatenate(changed).clip(0, 1) * 255).astype(np.uint8)
    return pixels


def _starts(images: NDArray[np.generic], step: int) -> range:
    return range(0, len(images), step)


def _shot_noise(images: Values, dice: Dice) -> Values:
    return np.asarray(dice.poisson(images * 3) / 3)


def _impulse_noise(images: Values, dice: Dice) -> Values:
    noise = dice.random(images.shape)
    return np.where(noise < 0.17, noise < 0.17 / 2, images)


def _smooth(images: Values, rows: float, columns: float, mode: str = "nearest") -> Values:
    from scipy.ndimage import gaussian_filter

    smoothed: Values = gaussian_filter(images, (0, rows, columns), mode=mode)
    return smoothed


def _glass_blur(images: Values, dice: Dice) -> Values:
    shuffled = np.floor(_smooth(images, 0.7, 0) * 255) / 255
    every = np.arange(len(images))
    for _ in range(2):
        for row in range(_SIDE - 1, 1, -1):
            for column in range(_SIDE - 1, 1, -1):
                # Half of the pixels change places with one of the square whose lower right corner they are.
                moves = dice.random(len(images)) < 0.5
                up, left = dice.integers(0, 2, (2, len(images))) * moves
                other = shuffled[every, row - up, column - left]
                shuffled[every, row - up, column - left] = shuffled[:, row, column]
                shuffled[:, row, column] = other
    return _smooth(shuffled, 0.7, 0)


def _motion_blur(images: Values, dice: Dice) -> Values:
    """Blur along half a Gaussian of 3 pixels, 21 pixels long, at an angle between -45 and 45 degrees."""
    weights = np.exp(-(np.arange(21) ** 2) / (2 * 3**2))
    angles = np.deg2rad(dice.uniform(-45, 45, (len(images), 1, 1)))
    every, rows, columns = np.ogrid[: len(images), :_SIDE, :_SIDE]
    blurred = np.zeros(images.shape)
    for step, weight in enumerate(weights / weights.sum()):
        row = rows + np.ceil(step * np.sin(angles) - 0.5).astype(int)
        column = columns + np.ceil(step * np.cos(angles) - 0.5).astype(int)
        blurred += weight * images[every, row.clip(0, _SIDE - 1), column.clip(0, _SIDE - 1)]
    return blurred


def _mapped(images: Values, matrices: NDArray[np.float64]) -> Values:
    """Return images whose pixel at (row, column) comes from matrix × (row, column), relative to the centre.

    `matrices` are [N, 2, 2].
    """
    from scipy.ndimage import affine_transform

    centre = np.full(2, (_SIDE - 1) / 2)
    return np.stack(
        [
            affine_transform(image, matrix, centre - matrix @ centre, order=1, mode="grid-constant")
            for image, matrix in zip(images, matrices, strict=True)
        ]
    )


def _shear(images: Values, dice: Dice) -> Values:
    angles = 0.4 * dice.choice([-1, 1], len(images))
    zeros = np.zeros(len(images))
    return _mapped(
        images, np.array([[np.cos(angles), zeros], [-np.sin(angles), zeros + 1]]).transpose(2, 0, 1)
    )


def _scale(images: Values, _: Dice) -> Values:
    return _mapped(images, np.tile(np.eye(2) / 0.7, (len(images), 1, 1)))


def _rotate(images: Values, dice: Dice) -> Values:
    angles = 0.4 * dice.choice([-1, 1], len(images))
    cosine, sine = np.cos(angles), np.sin(angles)
    return _mapped(images, np.array([[cosine, sine], [-sine, cosine]]).transpose(2, 0, 1))


def _brightness(images: Values, _: Dice) -> Values:
    return images + 0.5


def _translate(images: Values, dice: Dice) -> Values:
    padded = np.pad(images, ((0, 0), (3, 3), (3, 3)))
    every, rows, columns = np.ogrid[: len(images), :_SIDE, :_SIDE]
    down, right = 6 * dice.integers(0, 2, (2, len(images), 1, 1))
    moved: Values = padded[every, rows + down, columns + right]
    return moved


def _stripe(images: Values, _: Dice) -> Values:
    columns = np.arange(_SIDE)
    return np.where((columns < 7) | (columns >= 21), 1 - images, images)


def _fog(images: Values, dice: Dice) -> Values:
    starts = _starts(images, _FOGS_AT_ONCE)
    fog = [_plasma(len(images[start : start + _FOGS_AT_ONCE]), dice)[:, :_SIDE, :_SIDE] for start in starts]
    most = images.max((1, 2), keepdims=True)
    return np.asarray((images + 3 * np.concatenate(fog)) * most / (most + 3))


def _plasma(count: int, dice: Dice) -> Values:
    """Return fields [count, 256, 256] of 0…1 by the diamond-square algorithm, whose opposite edges are neighbours.

    Fournier, Fussell and Carpenter, "Computer Rendering of Stochastic Models" (1982). The noise is uniform; its range
    is the square of a number that begins at 100 and is divided by 1.4 at each step.
    """
    field, spread = np.zeros((count, 1, 1)), 100.0
    while (side := field.shape[1]) < 256:
        noise = dice.uniform(-(spread**2), spread**2, (3, count, side, side))
        below = np.roll(field, -1, 1)
        right = np.roll(field, -1, 2)
        centre = (field + below + right + np.roll(below, -1, 2)) / 4 + noise[0]
        finer = np.empty((count, 2 * side, 2 * side))
        finer[:, ::2, ::2] = field
        finer[:, 1::2, 1::2] = centre
        finer[:, ::2, 1::2] = (field + right + centre + np.roll(centre, 1, 1)) / 4 + noise[1]
        finer[:, 1::2, ::2] = (field + below + centre + np.roll(centre, 1, 2)) / 4 + noise[2]
        field, spread = finer, spread / 1.4
    field -= field.min((1, 2), keepdims=True)
    return np.asarray(field / field.max((1, 2), keepdims=True))


def _spatter(images: Values, dice: Dice) -> Values:
    liquid = _smooth(dice.normal(0.65, 0.3, images.shape), 1, 1)
    drops = _smooth((liquid > 0.65).astype(np.float64), 1.5, 1.5)
    drops[drops < 0.8] = 0
    return images * (1 - drops) + drops * 63 / 255


def _line(starts: NDArray[np.float64], ends: NDArray[np.float64]) -> Values:
    """Return lines [N, 28, 28] from `starts` to `ends`, [2, N]: column and row. The ink fades by a logarithm."""
    (left, top), (right, bottom) = (each[..., np.newaxis, np.newaxis] for each in (starts, ends))
    rows, columns = np.ogrid[:_SIDE, :_SIDE]
    distance = np.abs(rows - (top + (bottom - top) / (right - left) * (columns - left)))
    ink = np.log(1 - distance.clip(max=2.3 - 1e-10) / 2.3) + 1
    return np.where((columns >= np.floor(left)) & (columns < np.ceil(right)), ink.clip(min=0), 0)


def _dotted_line(images: Values, dice: Dice) -> Values:
    top, bottom = dice.integers(0, 27, (2, len(images)))
    edges = np.zeros(len(images)), np.full(len(images), 27)
    line = _line(np.stack([edges[0], top]), np.stack([edges[1], bottom]))
    # Two columns with ink follow two without.
    return images + line * (np.arange(_SIDE) % 4 >= 2)


def _zigzag(images: Values, dice: Dice) -> Values:
    """Draw teeth of two pixels along a line from column 2 to column 25, which is almost level."""
    row, rise = dice.integers(0, 27, len(images)), dice.integers(-5, 5, len(images))
    angle, length = np.arctan(rise / 23), np.hypot(rise, 23)
    teeth = [(0, 0), *((4 * tooth + 2, 2 * (-1) ** tooth) for tooth in range(6))]
    corners = [np.full((len(images), 2), tooth, np.float64) for tooth in teeth]
    corners.append(np.stack([length, -1 / (length - 20)], 1))
    along, across = np.array(corners).transpose(2, 0, 1)
    columns = np.cos(angle) * along - np.sin(angle) * across + 2
    rows = np.sin(angle) * along + np.cos(angle) * across + row
    for ends in itertools.pairwise(np.stack([columns, rows], 1)):
        images = images + _line(*ends)
    return images


def _canny_edges(images: Values, _: Dice) -> Values:
    """Return the edges by Canny, "A Computational Approach to Edge Detection" (1986); they are 1, the rest is 0.

    As in scikit-image: smoothed by 1 pixel, Sobel's gradient, thresholds of 0.1 and 0.2, no edges at the border.
    """
    from scipy.ndimage import correlate1d, label

    inside = _smooth(np.ones((1, _SIDE, _SIDE)), 1, 1, "constant")
    smoothed = _smooth(images, 1, 1, "constant") / (inside + np.finfo(float).eps)
    # Sobel's operator for each image: the difference along one axis, smoothed along the other.
    down, right = (
        correlate1d(correlate1d(smoothed, [-1, 0, 1], axis), [1, 2, 1], 3 - axis) for axis in (1, 2)
    )
    steep, slope = np.abs(down) >= np.abs(right), np.hypot(down, right)
    with np.errstate(invalid="ignore"):  # 0 / 0 where there is no slope
        oblique = np.minimum(np.abs(down), np.abs(right)) / np.maximum(np.abs(down), np.abs(right))
    every, rows, columns = np.ogrid[: len(images), :_SIDE, :_SIDE]

    def slope_at(row: NDArray[np.integer], column: NDArray[np.integer]) -> Values:
        near: Values = slope[every, (rows + row).clip(0, _SIDE - 1), (columns + column).clip(0, _SIDE - 1)]
        return near

    # An edge's slope is at least that of both neighbours in its direction, interpolated between two pixels.
    ridge = (slope > 0) & (rows % (_SIDE - 1) > 0) & (columns % (_SIDE - 1) > 0)
    for sign in (1, -1):
        row, column = (sign * np.sign(each).astype(int) for each in (down, right))
        straight, diagonal = slope_at(row * steep, column * ~steep), slope_at(row, column)
        ridge &= oblique * diagonal + (1 - oblique) * straight <= slope
    # Of connected edges above the lower threshold, those that reach the higher one.
    edges, count = label(ridge & (slope >= 0.1), np.ones((3, 3, 3)) * [[[0]], [[1]], [[0]]])
    strong = np.zeros(count + 1, bool)
    strong[edges[ridge & (slope >= 0.2)]] = True
    return np.where(strong[edges], 1.0, 0.0)


# By MNIST-C's name, in its order: the function and its description.
MNIST_C: dict[str, tuple[Callable[[Values, Dice], Values], str]] = {
    "shot_noise": (_shot_noise, "Poisson, three photons for full ink"),
    "impulse_noise": (_impulse_noise, "17 % of the pixels black or white"),
    "glass_blur": (_glass_blur, "pixels exchanged with neighbours, vertical blur of 0.7 px"),
    "motion_blur": (_motion_blur, "half a Gaussian of 3 px, at up to 45 degrees"),
    "shear": (_shear, "by 0.4 radians"),
    "scale": (_scale, "to 0.7 times the size"),
    "rotate": (_rotate, "by 0.4 radians"),
    "brightness": (_brightness, "half of the range added"),
    "translate": (_translate, "by 3 px along both axes"),
    "stripe": (_stripe, "ink and paper exchanged in the outer 14 columns"),
    "fog": (_fog, "a random field of three times the ink's range"),
    "spatter": (_spatter, "dark grey drops"),
    "dotted_line": (_dotted_line, "across the image"),
    "zigzag": (_zigzag, "across the image, 4 px high"),
    "canny_edges": (_canny_edges, "the outline instead of the digit"),
}
