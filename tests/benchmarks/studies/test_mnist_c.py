"""MNIST-C's corruptions: what their definitions say of the corrupted images."""

import numpy as np
import pytest
from numpy.typing import NDArray

from tfship.benchmarks.studies.digits import mnist_c
from tfship.benchmarks.studies.digits.mnist_c import MNIST_C
from tfship.train.data.datasets import Digits


@pytest.fixture(scope="module")
def published(sample: Digits) -> dict[str, NDArray[np.uint8]]:
    return {name: mnist_c.corrupted(name, sample.x_test[:100]) for name in MNIST_C}


def test_corruptions_of_mnist_c(sample: Digits, published: dict[str, NDArray[np.uint8]]) -> None:
    images = sample.x_test[:100]
    for name, changed in published.items():
        assert changed.dtype == np.uint8, name
        assert changed.shape == images.shape, name
        assert (changed != images).any((1, 2)).all(), name
        np.testing.assert_array_equal(changed, mnist_c.corrupted(name, images), err_msg=name)
    assert list(published) == [
        "shot_noise", "impulse_noise", "glass_blur", "motion_blur", "shear", "scale", "rotate", "brightness",
        "translate", "stripe", "fog", "spatter", "dotted_line", "zigzag", "canny_edges",
    ]  # fmt: skip


def test_seeds_of_mnist_c(sample: Digits) -> None:
    images = sample.x_test[:5]
    without = {"scale", "brightness", "stripe", "canny_edges"}
    same = {
        name for name in MNIST_C
        if (mnist_c.corrupted(name, images, 1) == mnist_c.corrupted(name, images, 2)).all()
    }  # fmt: skip
    assert same == without


def test_noise_of_mnist_c(sample: Digits, published: dict[str, NDArray[np.uint8]]) -> None:
    images = sample.x_test[:100]
    assert set(np.unique(published["shot_noise"])) == {0, 85, 170, 255}
    impulses = published["impulse_noise"] != images
    # Half of the pixels that become paper were paper.
    assert impulses.mean() == pytest.approx(0.17 * 0.55, abs=0.02)
    assert set(np.unique(published["impulse_noise"][impulses])) == {0, 255}


def test_geometry_of_mnist_c(sample: Digits, published: dict[str, NDArray[np.uint8]]) -> None:
    images = sample.x_test[:100].astype(float)
    ink = {name: each.sum((1, 2)) / images.sum((1, 2)) for name, each in published.items()}
    assert np.median(ink["scale"]) == pytest.approx(0.7**2, abs=0.02)
    assert np.median(ink["shear"]) == pytest.approx(1 / np.cos(0.4), abs=0.02)
    assert np.median(ink["rotate"]) == pytest.approx(1, abs=0.02)
    assert np.median(ink["motion_blur"]) == pytest.approx(1, abs=0.05)
    moves = [
        np.argwhere(
            [(np.roll(image, (down, right), (0, 1)) == moved).all() for down in (3, -3) for right in (3, -3)]
        )
        for image, moved in zip(sample.x_test[:100], published["translate"], strict=True)
    ]
    # Some digits lose ink at the border.
    assert {int(each[0, 0]) for each in moves if len(each)} == {0, 1, 2, 3}


def test_light_of_mnist_c(sample: Digits, published: dict[str, NDArray[np.uint8]]) -> None:
    images = sample.x_test[:100]
    np.testing.assert_allclose(published["brightness"], (images + 127.5).clip(0, 255), atol=0.5)
    np.testing.assert_array_equal(published["stripe"][:, :, 7:21], images[:, :, 7:21])
    np.testing.assert_array_equal(published["stripe"][:, :, :7], 255 - images[:, :, :7])
    # A quarter of the contrast is left, and fog is different from image to image.
    ranges = np.ptp(published["fog"] - images / 4.0, axis=(1, 2))
    assert np.ptp(images[0]) / 4 > np.median(ranges) > 10
    assert published["fog"].mean((1, 2)).std() > 20


def test_lines_of_mnist_c(sample: Digits, published: dict[str, NDArray[np.uint8]]) -> None:
    images = sample.x_test[:100]
    for name in ("dotted_line", "zigzag"):
        assert (published[name] >= images).all(), name
    drawn = (published["dotted_line"] > images).any(1)
    assert drawn.any(0).tolist() == [column % 4 >= 2 and column < 27 for column in range(28)]
    columns = np.flatnonzero((published["zigzag"] > images).any((0, 1)))
    assert [columns.min(), columns.max()] == [2, 25]


def test_edges_of_a_square() -> None:
    """Its outline is grey, so that the step has its middle in a pixel."""
    image, outline = np.zeros((2, 1, 28, 28), np.uint8)
    image[:, 8:20, 8:20] = 128
    image[:, 9:19, 9:19] = 255
    outline[:, 8:20, 8:20] = 255
    outline[:, 9:19, 9:19] = 0
    edges = mnist_c.corrupted("canny_edges", image)
    straight = np.s_[:, 11:17]
    np.testing.assert_array_equal(edges[straight], outline[straight])
    np.testing.assert_array_equal(edges[:, :, 11:17], outline[:, :, 11:17])
    assert not edges[:, 11:17, 11:17].any()
