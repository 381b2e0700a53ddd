"""Conversion of encoded images to a model's pixels in a TensorFlow graph, by the input contract. Loads TensorFlow.

`client.images.preprocessing` does the same with Pillow and NumPy. Both compute in integers or float64, and round halves
with the same small offset (`NUDGE`), so that they give the same pixels.
"""

import functools
from collections.abc import Callable, Iterable

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tfship.export.preprocessing import digit
from tfship.export.preprocessing.decoding import decoded
from tfship.export.preprocessing.input_contract import Contract
from tfship.export.preprocessing.resampling import resampling, to_pixels, triangle

__all__ = ["png", "preparation", "prepared"]


@functools.cache
def preparation(contract: Contract) -> Callable[[tf.Tensor], tf.Tensor]:
    """Return a function from one encoded PNG or JPEG (a string) to pixels uint8 [height, width, channels].

    It raises InvalidArgumentError for other formats, damaged or too large images and, with the method `digit`, for
    images without a digit.
    """
    method = {"digit": digit.prepared, "resize": _resized}[contract.preparation]

    def prepare(data: tf.Tensor) -> tf.Tensor:
        return tf.ensure_shape(method(decoded(data, contract.channels), contract), contract.shape)

    # A concrete function, since TensorFlow would trace it again for a SavedModel, which takes seconds.
    function: Callable[[tf.Tensor], tf.Tensor] = tf.function(prepare, autograph=False).get_concrete_function(
        tf.TensorSpec((), tf.string)
    )
    return function


def prepared(contract: Contract, images: Iterable[bytes]) -> NDArray[np.uint8]:
    """Return encoded `images` as pixels uint8 [N, height, width, channels]; raises as `preparation`'s function."""
    function = preparation(contract)
    return np.stack([function(tf.constant(image)).numpy() for image in images])


def png(pixels: NDArray[np.uint8]) -> bytes:
    """Encode pixels uint8 [H, W, C] as PNG."""
    encoded: bytes = tf.io.encode_png(pixels).numpy()
    return encoded


def _resized(pixels: tf.Tensor, contract: Contract) -> tf.Tensor:
    height, width = tf.shape(pixels)[0], tf.shape(pixels)[1]
    rows = resampling(height, 0, height, contract.height, triangle)
    columns = resampling(width, 0, width, contract.width, triangle)
    return to_pixels(tf.einsum("ih,hwc,jw->ijc", rows, tf.cast(pixels, tf.float64), columns))
