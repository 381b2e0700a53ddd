"""Label-preserving distortions of training images, drawn anew in every epoch. Loads TensorFlow.

All of a picture's distortions are one warp with one interpolation: several in a row, each blurring a
little, would cost more and teach the network a blur that test images don't have. Every draw is stateless,
a function of its seed alone, so that an interrupted run goes on with the very pictures it would have had.
"""

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tfship.train.recipe import Augmentation

__all__ = ["distort"]

# Elastic displacements are drawn at this many control points a side and smoothed in between. Simard et al.
# (2003) smooth a field drawn at every pixel by a Gaussian; this is its low-frequency part, without the filter.
_CONTROL_POINTS = 5


def distort(images: tf.Tensor, how: Augmentation, seed: tf.Tensor) -> tf.Tensor:
    """Return the images [N, H, W, C], float32 0.0 to 1.0, distorted at random; outside them is 0.0 (paper).

    `seed` is an integer [2]; the same seed distorts the same images in the same way.
    """
    count, height, width, _ = images.shape
    seeds = tf.random.split(seed, 3)
    draw = tf.random.stateless_uniform([count, 6], seeds[0], -1.0, 1.0)[..., tf.newaxis, tf.newaxis]
    angle, stretch_x, stretch_y, shear, shift_x, shift_y = tf.unstack(draw, axis=1)
    angle = angle * np.deg2rad(how.rotation)
    cosine, sine = tf.cos(angle), tf.sin(angle)
    # For each pixel of the result, where in the source it comes from: the inverse of what a viewer sees.
    y, x = _centred(height)[:, tf.newaxis], _centred(width)[tf.newaxis, :]
    from_x = (cosine * x - (sine - shear * how.shear) * y) / (1 + stretch_x * how.scale)
    from_y = (sine * x + cosine * y) / (1 + stretch_y * how.scale)
    from_x += shift_x * how.shift
    from_y += shift_y * how.shift
    if how.elastic:
        points = tf.random.stateless_normal([count, 2, _CONTROL_POINTS, _CONTROL_POINTS], seeds[1])
        field = how.elastic * tf.einsum("nkij,yi,xj->nkyx", points, _smooth(height), _smooth(width))
        from_x += field[:, 0]
        from_y += field[:, 1]
    warped = _sample(images, from_y + (height - 1) / 2, from_x + (width - 1) / 2)
    return _erase(warped, how.erase, seeds[2]) if how.erase else warped


def _centred(size: int) -> tf.Tensor:
    return tf.range(size, dtype=tf.float32) - (size - 1) / 2


def _smooth(size: int) -> NDArray[np.float32]:
    """Return weights [size, control points]: each pixel's share of the control points near it."""
    points = np.linspace(0, size - 1, _CONTROL_POINTS)
    spacing = points[1] - points[0]
    weights = np.exp(-0.5 * ((np.arange(size)[:, np.newaxis] - points) / (0.75 * spacing)) ** 2)
    shares: NDArray[np.float32] = (weights / weights.sum(1, keepdims=True)).astype(np.float32)
    return shares


def _sample(images: tf.Tensor, y: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
    """Read the images [N, H, W, C] at pixel coordinates [N, H, W] by bilinear interpolation.

    `keras.ops.image.map_coordinates` does the same for one volume, here twelve times as slowly.
    """
    count, height, width, channels = images.shape
    # A border of paper, and everything outside of it moved onto it: no index needs a check.
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


def _erase(images: tf.Tensor, size: int, seed: tf.Tensor) -> tf.Tensor:
    """Turn a square of `size` pixels to paper in every second image (Zhong et al. 2020, "random erasing")."""
    count, height, width, _ = images.shape
    seeds = tf.random.split(seed, 3)

    def inside(length: int, seed: tf.Tensor) -> tf.Tensor:
        first = tf.random.stateless_uniform([count, 1], seed, 0, length - size + 1, tf.int32)
        return (tf.range(length) >= first) & (tf.range(length) < first + size)

    chosen = tf.random.stateless_uniform([count, 1, 1], seeds[2]) < 0.5
    square = inside(height, seeds[0])[:, :, tf.newaxis] & inside(width, seeds[1])[:, tf.newaxis, :]
    return tf.where((chosen & square)[..., tf.newaxis], 0.0, images)
