"""Layouts of a model's input: which shapes are images, and which are refused with a remedy."""

from pathlib import Path

import numpy as np
import pytest

from tfship.export.preprocessing import layouts
from tfship.train.common.errors import TfshipError
from tfship.train.common.tensorflow_loader import tensorflow

tf = tensorflow()


@pytest.mark.parametrize(
    ("shape", "size", "expected"),
    [
        ((49, 10, 1), None, (49, 10, 1)),
        ((49, 10), None, (49, 10, 1)),
        ((32, 1, 40), None, (32, 40, 1)),
        ((1, 32, 40), None, (32, 40, 1)),
        ((3, 8, 10), None, (8, 10, 3)),
        ((784,), (28, 28), (28, 28, 1)),
        ((300,), (5, 20), (5, 20, 3)),
        ((None, None, 3), (8, 10), (8, 10, 3)),
        ((3, None, None), (8, 10), (8, 10, 3)),
        ((None, None), (8, 10), (8, 10, 1)),
        ((8, 10, 3), (8, 10), (8, 10, 3)),
    ],
)
def test_layouts(
    shape: tuple[int | None, ...], size: tuple[int, int] | None, expected: tuple[int, int, int]
) -> None:
    layout = layouts.of(Path("model"), shape, size)
    assert layout.shape == expected
    x = np.random.default_rng(0).random((2, *expected), np.float32)
    arranged = np.asarray(layout.arrange(tf.constant(x)))
    if shape[0] == 3:
        assert np.array_equal(arranged, x.transpose(0, 3, 1, 2))
    else:
        assert np.array_equal(arranged.ravel(), x.ravel())
    assert all(one in (other, None) for one, other in zip(shape, arranged.shape[1:], strict=True))


@pytest.mark.parametrize(
    ("shape", "size", "remedy"),
    [
        ((784,), None, "--size 28,28"),
        ((3072,), None, "--size 32,32"),
        ((120,), None, "--size H,W"),
        ((784,), (32, 32), "--size"),
        ((None, None, 3), None, "--size 224,224"),
        ((None,), (8, 8), "save it with an input"),
        ((8, 8, None), (8, 8), "expected [None, height, width, 1 or 3]"),
        ((8, 10, 3), (10, 8), "omit --size"),
        ((None, 10, 3), (8, 8), "omit --size"),
        ((8, 8, 4), None, "keras.layers.Reshape"),
        ((4, 8, 8, 3), None, "keras.layers.Reshape"),
        ((), None, "keras.layers.Reshape"),
    ],
)
def test_what_is_no_image(shape: tuple[int | None, ...], size: tuple[int, int] | None, remedy: str) -> None:
    with pytest.raises(TfshipError) as caught:
        layouts.of(Path("model"), shape, size)
    assert remedy in str(caught.value)
