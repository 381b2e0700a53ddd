from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from tfship.train.common.tensorflow_loader import tensorflow
from tfship.train.data.datasets import Digits, to_input
from tfship.train.recipe import Augmentation, Degradation

tf = tensorflow()

from tfship.train.data.augmentation import (  # noqa: E402
    _blurring,
    _redrawn,
    _resampling,
    _sample,
    degrade,
    distort,
)

EVERYTHING = Augmentation(rotation=15, scale=0.2, shear=0.2, shift=3, elastic=1.5)


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


def check_form(images: np.ndarray, found: np.ndarray) -> None:
    """Check that images changed by augmentation are still images."""
    assert found.dtype == np.float32
    assert found.shape == images.shape
    assert found.min() >= 0
    assert found.max() <= 1 + 1e-6


def test_no_distortion_changes_nothing(sample: Digits) -> None:
    images, found = apply(sample, Augmentation())
    np.testing.assert_allclose(found, images, atol=1e-6)


@pytest.mark.parametrize("what", ["rotation", "scale", "shear", "shift", "elastic"])
def test_each_distortion_does_something_and_stays_in_range(sample: Digits, what: str) -> None:
    how = Augmentation(**{what: getattr(EVERYTHING, what)})
    images, found = apply(sample, how)
    check_form(images, found)
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


WORST = Degradation(share=1, thickness=1, resolution=8, blur=1.5, erase=6, contrast=0.3, noise=0.3)


def degraded(sample: Digits, how: Degradation, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    images = to_input(sample.x_train[:50])
    return images, degrade(tf.constant(images), how, tf.constant([seed, 0], tf.int64)).numpy()


def test_no_degradation_changes_nothing(sample: Digits) -> None:
    for how in (Degradation(share=1), replace(WORST, share=0)):
        images, found = degraded(sample, how)
        np.testing.assert_allclose(found, images, atol=1e-6)


@pytest.mark.parametrize("what", ["thickness", "resolution", "blur", "erase", "contrast", "noise"])
def test_each_degradation_does_something_and_stays_in_range(sample: Digits, what: str) -> None:
    images, found = degraded(sample, Degradation(share=1, **{what: getattr(WORST, what)}))
    check_form(images, found)
    assert np.abs(found - images).max(axis=(1, 2, 3)).mean() > 0.1


def test_the_share_of_images_is_degraded(sample: Digits) -> None:
    images, found = degraded(sample, Degradation(share=0.3, contrast=0.1))
    assert 5 <= np.any(np.abs(found - images) > 1e-6, axis=(1, 2, 3)).sum() <= 25


def test_erasing_leaves_a_square_of_paper() -> None:
    ink = tf.ones((400, 28, 28, 1))
    found = degrade(ink, Degradation(share=0.5, erase=5), tf.constant([3, 0], tf.int64)).numpy()[..., 0]
    gone = (found == 0).sum(axis=(1, 2))
    assert set(gone) == {0, 25}
    assert 0.4 < (gone == 25).mean() < 0.6
    assert len({image.tobytes() for image in found}) > 100


def test_the_seed_alone_decides_on_degradations(sample: Digits) -> None:
    _, first = degraded(sample, WORST)
    _, again = degraded(sample, WORST)
    _, other = degraded(sample, WORST, seed=2)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_strokes_become_a_pixel_wider_or_narrower(sample: Digits) -> None:
    images = to_input(sample.x_train[:3])[..., 0]
    for wider, expected in (
        (1.0, ndimage.maximum_filter(images, (1, 3, 3), mode="constant")),
        (0.0, images),
        (-1.0, ndimage.minimum_filter(images, (1, 3, 3), mode="constant")),
    ):
        found = _redrawn(tf.constant(images), tf.fill([3, 1, 1], wider)).numpy()
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_blurring_is_a_gaussian() -> None:
    pixels = np.zeros(28, np.float32)
    pixels[10:14] = 1
    found = (_blurring(28, tf.constant([[[1.3]]])) @ pixels[np.newaxis, :, np.newaxis]).numpy()[0, :, 0]
    np.testing.assert_allclose(found, ndimage.gaussian_filter1d(pixels, 1.3, truncate=8), atol=1e-5)


def test_resampling_enlarges_the_means_of_areas() -> None:
    half = _resampling(8, 4, tf.constant([[1.0]])).numpy()[0]
    pixels = np.array([1, 3, 5, 5, 0, 2, 8, 6], np.float32)
    expected = np.interp(np.arange(8) / 2 - 0.25, np.arange(4), [2, 5, 1, 7])
    np.testing.assert_allclose(half @ pixels, expected, atol=1e-5)
    table = _resampling(28, 9, tf.constant(np.linspace(0, 1, 20, dtype=np.float32)[:, np.newaxis])).numpy()
    np.testing.assert_allclose(table.sum(2), 1, atol=1e-5)
    np.testing.assert_allclose(table[0], np.eye(28), atol=1e-6)
