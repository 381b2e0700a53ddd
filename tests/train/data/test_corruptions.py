import numpy as np
from scipy import ndimage

from tfship.train.data.corruptions import CORRUPTIONS, corrupted
from tfship.train.data.datasets import Digits


def test_each_kind_changes_the_images_and_keeps_their_form(sample: Digits) -> None:
    images = sample.x_test[:200]
    before = images.copy()
    found = dict(corrupted(images))
    assert list(found) == list(CORRUPTIONS)
    for name, changed in found.items():
        assert changed.dtype == np.uint8, name
        assert changed.shape == images.shape, name
        assert (changed != images).any(axis=(1, 2)).mean() > 0.99, name
    np.testing.assert_array_equal(images, before)


def test_the_set_is_fixed(sample: Digits) -> None:
    first, second = dict(corrupted(sample.x_test[:50])), dict(corrupted(sample.x_test[:50]))
    for name, images in first.items():
        np.testing.assert_array_equal(images, second[name], err_msg=name)


def test_kinds_do_what_they_are_called(sample: Digits) -> None:
    images = sample.x_test[:200]
    found = dict(corrupted(images))
    ink = {name: each.astype(float).sum(axis=(1, 2)) for name, each in found.items()}
    plain = images.astype(float).sum(axis=(1, 2))
    assert (ink["thick"] > plain).all()
    assert (ink["thin"] < plain).all()
    np.testing.assert_array_equal(found["inverted"], 255 - images)
    np.testing.assert_allclose(found["low_contrast"], images * 0.3, atol=0.5)
    shift = [
        np.subtract(ndimage.center_of_mass(b), ndimage.center_of_mass(a))
        for a, b in zip(images, found["shift"], strict=True)
    ]
    moved = np.round(np.median(np.abs(shift), axis=0), 1)
    assert moved.tolist() == [3, 3]
    sizes = ink["scale"] / plain
    assert np.median(sizes[sizes < 1]) == np.clip(np.median(sizes[sizes < 1]), 0.4, 0.6)  # 0.7² of the area
    assert np.median(sizes[sizes > 1]) == np.clip(np.median(sizes[sizes > 1]), 1.5, 1.8)  # 1.3²
    assert (found["noise"] > 0)[:, 0, 0].mean() > 0.3  # also where there was paper
