import numpy as np
from scipy import ndimage

from tfship.train.data.corruptions import CORRUPTIONS, MEDIUM, corrupted
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


def test_strengths_grow(sample: Digits) -> None:
    """The corrupted images of cards are those at medium strength."""
    images = sample.x_test[:200]
    medium = dict(corrupted(images))
    for name, corruption in CORRUPTIONS.items():
        changed = {strength: corruption.apply(images, strength) for strength in corruption.strengths}
        np.testing.assert_array_equal(changed[MEDIUM], medium[name], err_msg=name)
        differences = [np.abs(each.astype(float) - images).mean() for each in changed.values()]
        assert differences == sorted(set(differences)), name
        assert len({corruption.describe(strength) for strength in changed}) == len(changed), name


def test_strengths_are_described() -> None:
    assert CORRUPTIONS["scale"].describe("weak") == "to 0.8 or 1.2 times the size"
    assert CORRUPTIONS["noise"].describe("strong") == "Gaussian, 35 % of the range"


def test_parts_of_a_pixel() -> None:
    """A stroke of four pixels, as a column: half of the change is grey."""
    images = np.zeros((1, 28, 28), np.uint8)
    images[0, :, 10:14] = 200
    rows = {
        (name, strength): CORRUPTIONS[name].apply(images, strength)[0, 14, 7:17].tolist()
        for name in ("thick", "thin")
        for strength in CORRUPTIONS[name].strengths
    }
    assert rows["thick", "weak"] == [0, 0, 100, 200, 200, 200, 200, 100, 0, 0]
    assert rows["thick", "strong"] == [0, 100, 200, 200, 200, 200, 200, 200, 100, 0]
    assert rows["thin", "weak"] == [0, 0, 0, 100, 200, 200, 200, 0, 0, 0]
    assert rows["thin", "strong"] == [0, 0, 0, 0, 200, 200, 150, 0, 0, 0]
