from itertools import chain

import numpy as np
import pytest

from tfship.train.common.tensorflow_loader import tensorflow
from tfship.train.recipe import Augmentation, Degradation

tensorflow()

from tfship.train.data.input_pipeline import batches  # noqa: E402

COUNT, SIZE = 50, 8
PER_EPOCH = COUNT // SIZE
# Image n is filled with the value n, and is of class n % 5.
IMAGES = np.arange(COUNT, dtype=np.uint8)[:, np.newaxis, np.newaxis].repeat(28, 1).repeat(28, 2)
TARGETS = np.eye(5, dtype=np.float32)[np.arange(COUNT) % 5]


def numbers(steps: range, seed: int = 1, part: tuple[int, int] = (0, 1)) -> list[list[int]]:
    found = []
    for images, targets in batches(
        IMAGES, TARGETS, SIZE, seed, Augmentation(), steps, part
    ).as_numpy_iterator():
        which = np.rint(images[:, 0, 0, 0] * 255).astype(int)
        np.testing.assert_array_equal(targets, TARGETS[which])
        assert images.dtype == targets.dtype == np.float32
        found.append(which.tolist())
    return found


def test_an_epoch_shows_each_image_at_most_once_in_an_order_of_its_own() -> None:
    first, second = numbers(range(PER_EPOCH)), numbers(range(PER_EPOCH, 2 * PER_EPOCH))
    for epoch in (first, second):
        flat = list(chain(*epoch))
        assert len(flat) == len(set(flat)) == PER_EPOCH * SIZE
        assert set(flat) <= set(range(COUNT))
    assert first != second
    assert sorted(chain(*first)) != sorted(chain(*second))  # others are left out
    assert numbers(range(PER_EPOCH), seed=2) != first


def test_beginning_later_gives_the_same_batches() -> None:
    assert numbers(range(7, 15)) == numbers(range(15))[7:]


def test_beginning_later_gives_the_same_distortions() -> None:
    how = Augmentation(rotation=10, shift=2, elastic=1)
    whole = [images for images, _ in batches(IMAGES, TARGETS, SIZE, 1, how, range(9)).as_numpy_iterator()]
    late = [images for images, _ in batches(IMAGES, TARGETS, SIZE, 1, how, range(5, 9)).as_numpy_iterator()]
    np.testing.assert_array_equal(whole[5:], late)


def test_steps_are_degraded_in_the_same_way_when_resumed_and_plain_ones_are_not() -> None:
    how = Degradation(share=1, contrast=0.5, noise=0.1)

    def made(steps: range, degradation: Degradation = how) -> list[np.ndarray]:
        found = batches(
            IMAGES, TARGETS, SIZE, 1, Augmentation(), steps, plain=range(6, 9), degradation=degradation
        ).as_numpy_iterator()
        return [images for images, _ in found]

    whole, clean = made(range(9)), made(range(9), Degradation())
    assert all(np.abs(images - before).max() > 0.01 for images, before in zip(whole[:6], clean, strict=False))
    np.testing.assert_array_equal(whole[6:], clean[6:])
    np.testing.assert_array_equal(whole[5:], made(range(5, 9)))


def test_plain_steps_see_the_originals() -> None:
    how = Augmentation(shift=3)
    ink = np.tile(np.arange(28, dtype=np.uint8), (20, 28, 1))
    ink[:, 0, 0] = np.arange(20)  # which image it is
    copies = np.concatenate([ink, np.flip(ink, 2)])
    targets = np.eye(20, dtype=np.float32)[np.tile(np.arange(20), 2)]
    steps = batches(copies, targets, 4, 1, how, range(6), plain=range(3, 6), originals=20).as_numpy_iterator()
    for step, (images, answers) in enumerate(steps):
        originals = ink[answers.argmax(1)][..., np.newaxis] / np.float32(255)
        assert np.array_equal(images, originals) == (step >= 3)


@pytest.mark.parametrize("workers", [2, 3])
def test_workers_share_each_batch(workers: int) -> None:
    parts = [numbers(range(PER_EPOCH), part=(index, workers)) for index in range(workers)]
    for whole, *shares in zip(numbers(range(PER_EPOCH)), *parts, strict=True):
        assert sorted(chain(*shares)) == sorted(whole)
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
