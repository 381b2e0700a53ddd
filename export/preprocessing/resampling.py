"""Resampling in a TensorFlow graph; `client.images.preprocessing` does the same with NumPy. Loads TensorFlow."""

from collections.abc import Callable

import tensorflow as tf

__all__ = ["NUDGE", "lanczos", "resampling", "to_pixels", "triangle"]

# Slightly more than a half, since a half in one implementation may differ by 1e-13 in the other.
NUDGE = 0.5 + 1e-6


def resampling(
    length: tf.Tensor,
    start: tf.Tensor,
    stop: tf.Tensor,
    size: tf.Tensor,
    kernel: Callable[[tf.Tensor], tf.Tensor],
) -> tf.Tensor:
    """Return the matrix float64 [size, length] that resamples pixels `start`…`stop` of `length` to `size` pixels."""
    length, start, stop, size = (tf.cast(each, tf.float64) for each in (length, start, stop, size))
    scale = (stop - start) / size
    centres = start + (tf.range(size, dtype=tf.float64) + 0.5) * scale
    pixels = tf.range(length, dtype=tf.float64) + 0.5
    weights = kernel((pixels[tf.newaxis] - centres[:, tf.newaxis]) / tf.maximum(scale, 1.0))
    weights = tf.where((pixels > start) & (pixels < stop), weights, 0.0)
    return weights / tf.reduce_sum(weights, 1, keepdims=True)


def triangle(x: tf.Tensor) -> tf.Tensor:
    """Return the kernel of linear interpolation at `x`."""
    return tf.nn.relu(1.0 - tf.abs(x))


def lanczos(x: tf.Tensor) -> tf.Tensor:
    """Return Lanczos' kernel of three lobes at `x`."""
    return tf.where(tf.abs(x) < 3.0, _sinc(x) * _sinc(x / 3.0), 0.0)


def _sinc(x: tf.Tensor) -> tf.Tensor:
    turns = tf.where(x == 0.0, tf.ones_like(x), x) * 3.141592653589793
    return tf.where(x == 0.0, tf.ones_like(x), tf.sin(turns) / turns)


def to_pixels(values: tf.Tensor) -> tf.Tensor:
    """Return values rounded to pixels uint8."""
    return tf.cast(tf.floor(tf.clip_by_value(values, 0.0, 255.0) + NUDGE), tf.uint8)
