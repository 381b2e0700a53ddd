"""Soft targets for distillation: distorted copies of the training images, labelled by the teachers.

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

__all__ = ["SoftTargets", "label"]

_BATCH = 500


@dataclass(frozen=True)
class SoftTargets:
    """Training data for students: `views` uint8 [V·N, H, W] of N images, and `probabilities` [V·N, classes].

    The first N views are the undistorted images. `teachers` holds the `weights_sha256` of each teacher.
    """

    views: NDArray[np.uint8]
    probabilities: NDArray[np.float16]
    teachers: list[str]


def label(
    teachers: dict[str, keras.Model], count: int, augmentation: Augmentation, images: NDArray[np.uint8]
) -> SoftTargets:
    """Return `count` views of each image uint8 [N, H, W] with the teachers' mean probabilities.

    All views are labelled before training, since running the teachers in every epoch would take longer than the
    training itself. `teachers` are keyed by their `weights_sha256`.
    """
    size, classes = len(images), next(iter(teachers.values())).output_shape[1]
    views = np.empty((count, *images.shape), np.uint8)
    probabilities = np.empty((count, size, classes), np.float16)

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
                probabilities[view, part] = np.mean(
                    [each.predict_on_batch(batch) for each in teachers.values()], axis=0
                )
                progress.advance(len(batch))
    return SoftTargets(
        views.reshape(-1, *images.shape[1:]), probabilities.reshape(-1, classes), list(teachers)
    )
