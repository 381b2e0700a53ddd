"""Training batches. Loads TensorFlow.

The images of a step's batch, their order and their distortions depend only on the seed and the step's number.
Therefore training can resume at any step, and each of several workers can make its part of the same batch.
"""

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tfship.train.data.augmentation import degrade, distort
from tfship.train.recipe import Augmentation, Degradation

__all__ = ["batches"]

_NOT_DEGRADED = Degradation()


def batches(
    images: NDArray[np.uint8],
    targets: NDArray[np.floating],
    size: int,
    seed: int,
    augmentation: Augmentation,
    steps: range,
    part: tuple[int, int] = (0, 1),
    plain: range = range(0),
    originals: int = 0,
    degradation: Degradation = _NOT_DEGRADED,
) -> tf.data.Dataset:
    """Return the batches of `steps`: images float32 [n, H, W, 1], 0.0 to 1.0, and targets float32 [n, classes].

    They are made from `images` uint8 [N, H, W] and `targets` [N, classes]. Each pass of N // `size` steps has a new
    order, without the remainder at its end. `part` (index, count) selects every `count`-th image of each batch, the
    share of one worker. The steps in `plain` contain images as they are. If `images` are `originals` images followed by
    distorted copies of all of them, in the same order, these steps use the originals.
    """
    per_pass = len(images) // size
    index, count = part
    pixels, labels = tf.constant(images), tf.constant(targets)
    last = len(images) - 1

    def augment(batch_images: tf.Tensor, draw: tf.Tensor) -> tf.Tensor:
        if augmentation != Augmentation():
            batch_images = distort(batch_images, augmentation, draw)
        if degradation != _NOT_DEGRADED:
            batch_images = degrade(batch_images, degradation, tf.random.fold_in(draw, 1))
        return batch_images

    def batch(step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        number, position = step // per_pass, step % per_pass
        places = position * size + tf.range(index, size, count, tf.int64)
        chosen = tf.random.experimental.index_shuffle(places, tf.stack([seed, number]), last)
        as_they_are = (step >= plain.start) & (step < plain.stop)
        if originals:
            chosen = tf.where(as_they_are, chosen % originals, chosen)
        batch_images = tf.cast(tf.gather(pixels, chosen), tf.float32)[..., tf.newaxis] / 255.0
        # Different for each worker: the same draws would give fewer distortions in all.
        draw = tf.random.fold_in(tf.stack([tf.constant(seed, tf.int64), step]), index)
        augmented = tf.cond(as_they_are, lambda: batch_images, lambda: augment(batch_images, draw))
        return augmented, tf.cast(tf.gather(labels, chosen), tf.float32)

    # Two, not AUTOTUNE: one batch is prepared during a step, and the memory stays bounded.
    return tf.data.Dataset.range(steps.start, steps.stop).map(batch).prefetch(2)
