"""Label-preserving distortions and degradations of training images, drawn anew in every epoch. Loads TensorFlow.

All distortions of an image are one warp with one interpolation. Several interpolations would take longer and add a
blur that test images don't have. All random numbers are functions of the seed alone, so that a resumed run gets the
same images as an uninterrupted one.
"""

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tfship.train.recipe import Augmentation, Degradation

__all__ = ["degrade", "distort"]

# Control points per side at which elastic displacements are drawn; they are smoothed in between. Simard et al. (2003)
# draw them at every pixel and smooth with a Gaussian. This is the low-frequency part, without the filter.
_CONTROL_POINTS = 5


def distort(images: tf.Tensor, limits: Augmentation, seed: tf.Tensor) -> tf.Tensor:
    """Return `images` [N, H, W, C], float32 0.0 to 1.0, randomly distorted within `limits`.

    Pixels from outside the image are 0.0 (paper). `seed` holds two integers; the same seed gives the same distortions.
    """
    count, height, width, _ = images.shape
    seeds = tf.random.split(seed, 2)
    draw = tf.random.stateless_uniform([count, 6], seeds[0], -1.0, 1.0)[..., tf.newaxis, tf.newaxis]
    angle, stretch_x, stretch_y, shear, shift_x, shift_y = tf.unstack(draw, axis=1)
    angle = angle * np.deg2rad(limits.rotation)
    cosine, sine = tf.cos(angle), tf.sin(angle)
    # The source coordinates of each pixel of the result: the inverse of the visible distortion.
    y, x = _centred(height)[:, tf.newaxis], _centred(width)[tf.newaxis, :]
    from_x = (cosine * x - (sine - shear * limits.shear) * y) / (1 + stretch_x * limits.scale)
    from_y = (sine * x + cosine * y) / (1 + stretch_y * limits.scale)
    from_x += shift_x * limits.shift
    from_y += shift_y * limits.shift
    if limits.elastic:
        points = tf.random.stateless_normal([count, 2, _CONTROL_POINTS, _CONTROL_POINTS], seeds[1])
        field = limits.elastic * tf.einsum("nkij,yi,xj->nkyx", points, _smooth(height), _smooth(width))
        from_x += field[:, 0]
        from_y += field[:, 1]
    return _sample(images, from_y + (height - 1) / 2, from_x + (width - 1) / 2)


def degrade(images: tf.Tensor, limits: Degradation, seed: tf.Tensor) -> tf.Tensor:
    """Return `images` [N, H, W, 1], float32 0.0 to 1.0, randomly degraded within `limits`.

    `seed` holds two integers; the same seed gives the same degradations.
    """
    count, height, width, _ = images.shape
    seeds = tf.random.split(seed, 4)
    draw = tf.random.stateless_uniform([count, 5], seeds[0])
    chosen = tf.random.stateless_uniform([count, 6], seeds[1]) < limits.share
    degrees = tf.where(chosen[:, :5], draw, [0.5, 0.0, 0.0, 0.0, 0.0])
    pen, reduction, blur, fading, noise = tf.unstack(degrees[..., tf.newaxis], axis=1)
    pixels = _redrawn(images[..., 0], limits.thickness * (2 * pen[..., tf.newaxis] - 1))
    rows, columns = (
        _blurring(size, limits.blur * blur[..., tf.newaxis]) @ _resampling(size, limits.resolution, reduction)
        for size in (height, width)
    )
    pixels = rows @ pixels @ tf.transpose(columns, [0, 2, 1])
    pixels = tf.where(chosen[:, 5:, tf.newaxis], _erased(pixels, limits.erase, seeds[3]), pixels)
    pixels *= 1 - (1 - limits.contrast) * fading[..., tf.newaxis]
    grain = tf.random.stateless_normal([count, height, width], seeds[2])
    pixels += limits.noise * noise[..., tf.newaxis] * grain
    return tf.clip_by_value(pixels, 0.0, 1.0)[..., tf.newaxis]


def _redrawn(images: tf.Tensor, wider: tf.Tensor) -> tf.Tensor:
    """Return images [N, H, W] with strokes that are `wider` [N, 1, 1] on every side, in pixels -1 to 1."""
    # The minimum is the negative maximum of negative values. Max pooling of one channel takes twice as long.
    sign = tf.where(wider < 0, -1.0, 1.0)
    largest = sign * images
    height, width = images.shape[1:]
    for down, right in ((1, 0), (0, 1)):
        padded = tf.pad(largest, [[0, 0], [down, down], [right, right]], constant_values=-1.0)
        before, after = padded[:, :height, :width], padded[:, 2 * down :, 2 * right :]
        largest = tf.maximum(tf.maximum(before, largest), after)
    return images + tf.abs(wider) * (sign * largest - images)


def _blurring(size: int, deviation: tf.Tensor) -> tf.Tensor:
    """Return the matrices [N, size, size] of a Gaussian of a standard `deviation` [N, 1, 1] in pixels."""
    distances = _centred(size) - _centred(size)[:, tf.newaxis]
    # A narrower Gaussian changes nothing.
    kernel = tf.exp(-0.5 * (distances / tf.maximum(deviation, 0.1)) ** 2)
    return kernel / tf.reduce_sum(kernel, 2, keepdims=True)


def _resampling(size: int, least: int, reduction: tf.Tensor) -> tf.Tensor:
    """Return the matrices [N, size, size] that reduce `size` pixels, to `least` for a `reduction` [N, 1] of 1.

    The means of areas are enlarged again by linear interpolation.
    """
    places = np.arange(size) + 0.5
    table = []
    for fewer in range(size, least - 1, -1):
        ends = np.arange(fewer + 1) * (size / fewer)
        inside = np.minimum(places + 0.5, ends[1:, np.newaxis]) - np.maximum(
            places - 0.5, ends[:-1, np.newaxis]
        )
        areas = inside.clip(0) * (fewer / size)
        centres = np.arange(fewer) + 0.5
        linear = [np.interp(places * (fewer / size), centres, unit) for unit in np.eye(fewer)]
        table.append(np.transpose(linear) @ areas)
    index = tf.cast(tf.round(reduction[:, 0] * (size - least)), tf.int32)
    return tf.gather(tf.constant(np.array(table), tf.float32), index)


def _centred(size: int) -> tf.Tensor:
    return tf.range(size, dtype=tf.float32) - (size - 1) / 2


def _smooth(size: int) -> NDArray[np.float32]:
    """Return weights [size, control points]: the share of each control point in each pixel."""
    points = np.linspace(0, size - 1, _CONTROL_POINTS)
    spacing = points[1] - points[0]
    weights = np.exp(-0.5 * ((np.arange(size)[:, np.newaxis] - points) / (0.75 * spacing)) ** 2)
    shares: NDArray[np.float32] = (weights / weights.sum(1, keepdims=True)).astype(np.float32)
    return shares


def _sample(images: tf.Tensor, y: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
    """Return the images [N, H, W, C] sampled at pixel coordinates [N, H, W] by bilinear interpolation.

    `keras.ops.image.map_coordinates` does this for one volume, and takes twelve times as long here.
    """
    count, height, width, channels = images.shape
    # Coordinates outside are moved onto a border of paper, so that no index needs a check.
    padded = tf.pad(images, [[0, 0], [1, 2], [1, 2], [0, 0]])
    y = tf.clip_by_value(y + 1, 0.0, height + 1.0)
    x = tf.clip_by_value(x + 1, 0.0, width + 1.0)
    top, left = tf.floor(y), tf.floor(x)
    down, right = (y - top)[..., tf.newaxis], (x - left)[..., tf.newaxis]
    stride = width + 3
    start = tf.range(count)[:, tf.newaxis, tf.newaxis] * (height + 3) * stride
    index = start + tf.cast(top, tf.int32) * stride + tf.cast(left, tf.int32)
    pixels = tf.reshape(padded, [-1, channels])

    def at(offset: int) -> tf.Tensor:
        return tf.gather(pixels, index + offset)

    above = at(0) * (1 - right) + at(1) * right
    below = at(stride) * (1 - right) + at(stride + 1) * right
    return above * (1 - down) + below * down


def _erased(images: tf.Tensor, size: int, seed: tf.Tensor) -> tf.Tensor:
    """Return images [N, H, W] with a square of paper, `size` pixels a side (random erasing, Zhong et al. 2020)."""
    count, height, width = images.shape
    seeds = tf.random.split(seed, 2)

    def inside(length: int, seed: tf.Tensor) -> tf.Tensor:
        first = tf.random.stateless_uniform([count, 1], seed, 0, length - size + 1, tf.int32)
        return (tf.range(length) >= first) & (tf.range(length) < first + size)

    square = inside(height, seeds[0])[:, :, tf.newaxis] & inside(width, seeds[1])[:, tf.newaxis, :]
    return tf.where(square, 0.0, images)
