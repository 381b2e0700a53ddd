"""Training targets from teachers: distorted copies of the training images, and what they make of them.

Loads TensorFlow.
"""

from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tfship.train.common.progress import Progress
from tfship.train.data.augmentation import distort
from tfship.train.data.datasets import to_input
from tfship.train.recipe import Augmentation

__all__ = ["Lesson", "label"]

_BATCH = 500


@dataclass(frozen=True)
class Lesson:
    """What students learn from: views uint8 [V·N, H, W] of N images, and probabilities [V·N, classes] for them.

    The first N are the images as they are. `teachers` are the `weights_sha256` of those who gave the answers.
    """

    views: NDArray[np.uint8]
    answers: NDArray[np.float16]
    teachers: list[str]


def label(
    teachers: dict[str, keras.Model], count: int, augmentation: Augmentation, images: NDArray[np.uint8]
) -> Lesson:
    """Return `count` views of each image uint8 [N, H, W] with the teachers' mean probabilities.

    All of it is made before training: asking the teachers again in every epoch would take longer than training.
    `teachers` are keyed by their `weights_sha256`.
    """
    size, classes = len(images), next(iter(teachers.values())).output_shape[1]
    views = np.empty((count, *images.shape), np.uint8)
    answers = np.empty((count, size, classes), np.float16)

    @tf.function  # type: ignore[untyped-decorator]
    def distorted(batch: tf.Tensor, draw: tf.Tensor) -> tf.Tensor:
        return tf.cast(tf.round(distort(batch, augmentation, draw) * 255.0), tf.uint8)

    with Progress(f"labels of {len(teachers)} teachers", count * size, "images") as progress:
        for view in range(count):
            for start in range(0, size, _BATCH):
                part = slice(start, start + _BATCH)
                batch = to_input(images[part])
                if view:
                    views[view, part] = distorted(batch, tf.constant([view, start], tf.int64)).numpy()[..., 0]
                    batch = to_input(views[view, part])
                else:
                    views[view, part] = images[part]
                answers[view, part] = np.mean(
                    [each.predict_on_batch(batch) for each in teachers.values()], axis=0
                )
                progress.advance(len(batch))
    return Lesson(views.reshape(-1, *images.shape[1:]), answers.reshape(-1, classes), list(teachers))
