"""Which images are chosen to calibrate with, and that no others are read."""

import hashlib
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tfship.export.conversion import calibration
from tfship.export.preprocessing.input_contract import Contract, Scaling
from tfship.train.common.errors import DataError
from tfship.train.data.datasets import Digits

RULES = Contract("m", (), 6, 5, 3, Scaling.of_range(0, 1, 3), "resize")


def test_the_digit_networks_list_stays_as_published(sample: Digits) -> None:
    chosen = calibration.choose(sample.y_train)
    # By the rule as it was before there was a cap; the networks' cards hold such lists.
    generator = np.random.default_rng(0)
    expected = [generator.permutation(np.flatnonzero(sample.y_train == digit))[:30] for digit in range(10)]
    np.testing.assert_array_equal(chosen, np.sort(np.concatenate(expected)))
    record = calibration.record(chosen)
    assert record["training_indices"] == chosen.tolist()
    assert (record["seed"], record["per_class"], record["most"]) == (0, 30, 500)
    assert record["sha256"] == hashlib.sha256(chosen.astype("<i8").tobytes()).hexdigest()


@settings(deadline=None)
@given(st.lists(st.integers(0, 60), min_size=1, max_size=60), st.integers(1, 500), st.randoms())
def test_the_choice_is_balanced_and_capped(counts: list[int], most: int, random: object) -> None:
    counts[0] += 1
    labels = np.repeat(np.arange(len(counts)), counts)
    random.shuffle(labels)  # type: ignore[attr-defined]
    chosen = calibration.choose(labels, most)
    np.testing.assert_array_equal(chosen, calibration.choose(labels, most))
    assert len(chosen) == min(most, sum(min(count, 30) for count in counts))
    assert (np.diff(chosen) > 0).all()
    taken = np.bincount(labels[chosen], minlength=len(counts))
    assert taken.max() <= 30
    unused = [number for number, count in zip(taken, counts, strict=True) if number < min(count, 30)]
    if unused:
        assert taken.max() - min(unused) <= 1


def test_a_cap_below_the_classes_does_not_prefer_the_first_ones() -> None:
    labels = np.repeat(np.arange(1000), 40)
    classes = labels[calibration.choose(labels)]
    assert len(set(classes.tolist())) == len(classes) == 500
    assert 400 < np.median(classes) < 600


def test_rows_of_several_labels_are_balanced_by_their_combinations() -> None:
    rows = np.repeat([[1, 1, 0], [0, 0, 1], [0, 0, 0]], [50, 200, 10], axis=0)
    chosen = rows[calibration.choose(rows)]
    assert [int((chosen == row).all(1).sum()) for row in ([1, 1, 0], [0, 0, 1], [0, 0, 0])] == [30, 30, 10]


def test_an_archive_needs_no_labels_and_only_its_chosen_rows_are_kept(tmp_path: Path) -> None:
    rules = Contract("m", (), 32, 32, 3, Scaling.of_range(0, 1, 3), "resize")
    x = np.random.default_rng(0).integers(0, 256, (8000, 32, 32, 3), np.uint8)
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "c.npz", x=x if save is np.savez else x[:600])
        tracemalloc.start()
        pixels, record = calibration.read(tmp_path / "c.npz", rules)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < x.nbytes * 1.6 < 40e6 or save is not np.savez
        assert len(pixels) == 500
        np.testing.assert_array_equal(pixels, x[record["indices"]])
        assert record["sha256"] == hashlib.sha256(pixels.tobytes()).hexdigest()
        assert (record["file"], record["array"], record["per_class"]) == ("c.npz", "x", None)


def test_training_images_are_preferred(tmp_path: Path) -> None:
    x, y = np.random.default_rng(0).integers(2, 256, (40, 6, 5, 3), np.uint8), np.arange(40) % 2
    np.savez(tmp_path / "both.npz", x_test=x[:9], y_test=y[:9], x_train=x[9:] / 255, y_train=np.eye(2)[y[9:]])
    pixels, record = calibration.read(tmp_path / "both.npz", RULES)
    assert record["array"] == "x_train"
    np.testing.assert_array_equal(pixels, x[9:][record["indices"]])
    assert calibration.shared(pixels, x[:9]) == 0
    assert calibration.shared(pixels, x[:12]) == 3


def test_rows_of_0_and_1_calibrate_too(tmp_path: Path) -> None:
    x = np.full((50, 6, 5, 3), 9, np.uint8)
    np.savez(tmp_path / "c.npz", x=x, y=np.repeat([[1, 1], [0, 1]], [40, 10], axis=0))
    pixels, _ = calibration.read(tmp_path / "c.npz", RULES)
    assert len(pixels) == 40


def test_only_the_chosen_images_of_a_folder_are_decoded(tmp_path: Path) -> None:
    for number in range(45):
        path = tmp_path / "b" / f"{number:02}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((6, 5, 3), number, np.uint8)).save(path)
    pixels, record = calibration.read(tmp_path, RULES)
    # Without folders that tell classes apart, any.
    assert (len(pixels), record["per_class"]) == (45, None)
    (tmp_path / "a").mkdir()
    (tmp_path / "b" / "00.png").rename(tmp_path / "a" / "00.png")
    pixels, record = calibration.read(tmp_path, RULES)
    assert (len(pixels), record["per_class"]) == (31, 30)
    assert record["pictures"][0] == "a/00.png"
    assert pixels[:, 0, 0, 0].tolist() == [int(Path(each).stem) for each in record["pictures"]]
    left = {f"b/{number:02}.png" for number in range(1, 45)} - set(record["pictures"])
    for name in left:
        (tmp_path / name).write_bytes(b"damaged")
    np.testing.assert_array_equal(calibration.read(tmp_path, RULES)[0], pixels)
    (tmp_path / record["pictures"][3]).write_bytes(b"damaged")
    with pytest.raises(DataError, match=record["pictures"][3]):
        calibration.read(tmp_path, RULES)
