"""The batches that a network is trained on. Loads TensorFlow.

Which images the batch of a step holds, in what order and how distorted, is a function of the seed and the
step's number and of nothing that went before, so that training can go on at any step, and several workers
can each make their own part of the same batch.
"""

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tfship.train.data.augmentation import distort
from tfship.train.recipe import Augmentation

__all__ = ["batches"]


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
) -> tf.data.Dataset:
    """Return the batches of `steps`: images float32 [n, H, W, 1], 0.0 to 1.0, and targets float32 [n, classes].

    They come from `images` uint8 [N, H, W] and `targets` [N, classes]. Each pass of N // `size` steps draws a
    new order and leaves the last few of it out. `part` (index, count) asks for every `count`-th image of each
    batch only: one worker's share of it. The steps `plain` see nothing distorted; where `images` are
    `originals` images followed by distorted copies of all of them, in order, they see the originals.
    """
    per_pass = len(images) // size
    index, count = part
    pixels, labels = tf.constant(images), tf.constant(targets)
    last = len(images) - 1

    def batch(step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        number, position = step // per_pass, step % per_pass
        places = position * size + tf.range(index, size, count, tf.int64)
        chosen = tf.random.experimental.index_shuffle(places, tf.stack([seed, number]), last)
        as_they_are = (step >= plain.start) & (step < plain.stop)
        if originals:
            chosen = tf.where(as_they_are, chosen % originals, chosen)
        batch_images = tf.cast(tf.gather(pixels, chosen), tf.float32)[..., tf.newaxis] / 255.0
        if augmentation != Augmentation():
            # A worker's own draws: two that distort alike would see fewer distortions between them.
            draw = tf.random.fold_in(tf.stack([tf.constant(seed, tf.int64), step]), index)
            batch_images = tf.cond(
                as_they_are, lambda: batch_images, lambda: distort(batch_images, augmentation, draw)
            )
        return batch_images, tf.cast(tf.gather(labels, chosen), tf.float32)

    # Two, not AUTOTUNE: one batch is being made while one is trained on, and memory stays what it is.
    return tf.data.Dataset.range(steps.start, steps.stop).map(batch).prefetch(2)
