"""Morphology in a TensorFlow graph: extremes and medians in windows, of values 0…255. Loads TensorFlow."""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

__all__ = ["SlidingWindow", "highest", "median"]


class SlidingWindow:
    """A square window of `size` (odd, at most `most`) for the extremes of values [n, h, w], the `shape`."""

    def __init__(self, size: tf.Tensor | int, most: int, shape: tf.Tensor) -> None:
        self._border = size // 2
        # Two windows of one length make a window of up to twice that length.
        reach = np.array([1 << power for power in range((most - 1).bit_length())], np.int32)
        shifts = tf.clip_by_value(size - reach, 0, reach)
        beyond = self._border * 2 - tf.cumsum(shifts)
        self._slices = []
        for axis in range(1, 3):
            this = tf.one_hot(axis, 3, dtype=tf.int32)
            begins = tf.unstack(shifts[:, tf.newaxis] * this, len(reach))
            sizes = tf.unstack(shape + beyond[:, tf.newaxis] * this, len(reach))
            self._slices.append(list(zip(begins, sizes, strict=True)))

    def highest(self, values: tf.Tensor) -> tf.Tensor:
        """Return the maximum in the window around each value; values are 0 or more."""
        return self._along(2, self._along(1, values, tf.maximum, 0.0), tf.maximum, 0.0)

    def lowest(self, values: tf.Tensor) -> tf.Tensor:
        """Return the minimum in the window around each value; values are 255 or less."""
        return self._along(2, self._along(1, values, tf.minimum, 255.0), tf.minimum, 255.0)

    def _along(
        self, axis: int, values: tf.Tensor, extreme: Callable[..., tf.Tensor], outside: float
    ) -> tf.Tensor:
        padding = [[0, 0]] * axis + [[self._border, self._border]] + [[0, 0]] * (2 - axis)
        values = tf.pad(values, padding, constant_values=outside)
        for begin, size in self._slices[axis - 1]:
            values = extreme(tf.slice(values, [0, 0, 0], size), tf.slice(values, begin, size))
        return values


def highest(values: tf.Tensor, size: tf.Tensor | int, most: int) -> tf.Tensor:
    """Return the maximum of the square of `size` (odd, at most `most`) around each value [h, w], 0 or more."""
    values = values[tf.newaxis]
    return SlidingWindow(size, most, tf.shape(values)).highest(values)[0]


def median(grey: tf.Tensor) -> tf.Tensor:
    """Return the 3×3 median with repeated borders, by a sorting network on nine shifted copies."""
    wide = tf.concat([grey[:1], grey, grey[-1:]], 0)
    wide = tf.concat([wide[:, :1], wide, wide[:, -1:]], 1)
    height, width = tf.shape(grey)[0], tf.shape(grey)[1]
    p = [wide[row : row + height, column : column + width] for row in range(3) for column in range(3)]
    # Smith's network of 19 exchanges for the median of nine, without a full sort.
    for a, b in ((1, 2), (4, 5), (7, 8), (0, 1), (3, 4), (6, 7), (1, 2), (4, 5), (7, 8), (0, 3), (5, 8), (4, 7),
                 (3, 6), (1, 4), (2, 5), (4, 7), (4, 2), (6, 4), (4, 2)):  # fmt: skip
        p[a], p[b] = tf.minimum(p[a], p[b]), tf.maximum(p[a], p[b])
    return p[4]
