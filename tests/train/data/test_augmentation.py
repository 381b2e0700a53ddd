import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from tfship.train.common.tensorflow_loader import tensorflow
from tfship.train.data.datasets import Digits, to_input
from tfship.train.recipe import Augmentation

tf = tensorflow()

from tfship.train.data.augmentation import _sample, distort  # noqa: E402

EVERYTHING = Augmentation(rotation=15, scale=0.2, shear=0.2, shift=3, elastic=1.5, erase=6)


def apply(sample: Digits, how: Augmentation, seed: int = 1, count: int = 50) -> tuple[np.ndarray, np.ndarray]:
    images = to_input(sample.x_train[:count])
    return images, distort(tf.constant(images), how, tf.constant([seed, 0], tf.int64)).numpy()


@given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.integers(2, 9), st.integers(2, 9), st.integers(1, 3))
@settings(max_examples=30)
def test_sampling_is_bilinear_with_paper_outside(
    seed: int, count: int, height: int, width: int, channels: int
) -> None:
    random = np.random.default_rng(seed)
    images = random.random((count, height, width, channels), np.float32)
    y = random.uniform(-3, height + 3, (count, height, width)).astype(np.float32)
    x = random.uniform(-3, width + 3, (count, height, width)).astype(np.float32)
    found = _sample(tf.constant(images), tf.constant(y), tf.constant(x)).numpy()
    for n in range(count):
        for c in range(channels):
            expected = ndimage.map_coordinates(images[n, ..., c], [y[n], x[n]], order=1, mode="grid-constant")
            np.testing.assert_allclose(found[n, ..., c], expected, atol=1e-5)


def test_no_distortion_changes_nothing(sample: Digits) -> None:
    images, found = apply(sample, Augmentation())
    np.testing.assert_allclose(found, images, atol=1e-6)


@pytest.mark.parametrize("what", ["rotation", "scale", "shear", "shift", "elastic", "erase"])
def test_each_distortion_does_something_and_stays_in_range(sample: Digits, what: str) -> None:
    how = Augmentation(**{what: getattr(EVERYTHING, what)})
    images, found = apply(sample, how)
    assert found.dtype == np.float32
    assert found.shape == images.shape
    assert found.min() >= 0
    assert found.max() <= 1 + 1e-6
    assert np.abs(found - images).max(axis=(1, 2, 3)).mean() > 0.2


def test_the_seed_alone_decides(sample: Digits) -> None:
    _, first = apply(sample, EVERYTHING)
    _, again = apply(sample, EVERYTHING)
    _, other = apply(sample, EVERYTHING, seed=2)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert len({image.tobytes() for image in first}) == len(first)


def test_a_shift_moves_the_centre_of_mass_by_up_to_its_pixels(sample: Digits) -> None:
    images, found = apply(sample, Augmentation(shift=2))
    moved = np.array(
        [
            np.subtract(ndimage.center_of_mass(b), ndimage.center_of_mass(a))
            for a, b in zip(images[..., 0], found[..., 0], strict=True)
        ]
    )
    assert 1.5 < np.abs(moved).max() < 2.1
    assert np.abs(moved.mean(0)).max() < 0.6


def test_a_rotation_turns_by_up_to_its_degrees() -> None:
    bar = np.zeros((200, 29, 29, 1), np.float32)
    bar[:, 4:25, 14] = 1
    found = distort(tf.constant(bar), Augmentation(rotation=20), tf.constant([1, 0], tf.int64)).numpy()[
        ..., 0
    ]
    top = found[:, 5].argmax(1) - 14  # how far the bar's upper end, nine pixels from the middle, went
    limit = 9 * np.tan(np.deg2rad(20))
    assert np.abs(top).max() == pytest.approx(limit, abs=1)
    assert top.min() < 0 < top.max()


def test_erasing_leaves_a_square_of_paper_in_every_second_image() -> None:
    ink = np.ones((400, 28, 28, 1), np.float32)
    found = distort(tf.constant(ink), Augmentation(erase=5), tf.constant([3, 0], tf.int64)).numpy()[..., 0]
    gone = (found == 0).sum(axis=(1, 2))
    assert set(gone) == {0, 25}
    assert 0.4 < (gone == 25).mean() < 0.6
