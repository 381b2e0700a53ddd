import base64
import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from tfship.benchmarks.analysis import correct_images, correctness
from tfship.export.sources.evaluation_data import Images


def certain(classes: list[int], confidence: float, among: int = 4) -> np.ndarray:
    """Probabilities that say `classes`, each with this confidence."""
    rest = (1 - confidence) / (among - 1)
    table = np.full((len(classes), among), rest, np.float32)
    table[np.arange(len(classes)), classes] = confidence
    return table


def test_calibration_error_is_what_guo_defines() -> None:
    truth = np.array([0] * 10)
    # Eight of ten right at a confidence of 0.8: calibrated. All right: 0.2 too timid. None: 0.8 too sure.
    assert correctness.calibration_error(certain([0] * 8 + [1] * 2, 0.8), truth) == pytest.approx(0, abs=1e-6)
    assert correctness.calibration_error(certain([0] * 10, 0.8), truth) == pytest.approx(0.2, abs=1e-6)
    assert correctness.calibration_error(certain([1] * 10, 0.8), truth) == pytest.approx(0.8, abs=1e-6)
    # Two bins that miss in opposite directions don't make up for each other.
    both = np.concatenate([certain([0] * 5, 0.6), certain([1] * 5, 0.9)])
    assert correctness.calibration_error(both, truth) == pytest.approx((0.4 + 0.9) / 2, abs=1e-6)


@given(arrays.arrays(np.float32, (20, 3), elements=st.floats(0.015625, 1, width=32)))
def test_calibration_error_is_a_share(scores: np.ndarray) -> None:
    probabilities = (scores / scores.sum(1, keepdims=True)).astype(np.float32)
    assert 0 <= correctness.calibration_error(probabilities, np.zeros(20, np.int64)) <= 1


@given(arrays.arrays(np.bool_, st.integers(1, 300)))
def test_which_images_are_right_comes_back(right: np.ndarray) -> None:
    assert np.array_equal(correct_images.unpack(correct_images.pack(right), len(right)), right)


@pytest.mark.parametrize("text", ["", "AAAA", "not base64!", base64.b64encode(b"xyz").decode()])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - of base64 or zlib
        correct_images.unpack(text, 8)


def test_changed_images_come_by_margin_with_both_guesses() -> None:
    pixels = np.arange(5 * 6 * 6, dtype=np.uint8).reshape(5, 6, 6, 1)
    images = Images({}, pixels, np.array([0, 1, 2, 3, 0]))
    reference = certain([0, 1, 2, 3, 0], 0.7)
    here = reference.copy()
    here[1] = [0.0, 0.4, 0.6, 0.0]
    here[4] = [0.1, 0.9, 0.0, 0.0]
    found = correctness.changed(here, reference, images)
    assert found["count"] == 2
    first, second = found["shown"]
    assert (first["image"], second["image"]) == (4, 1)
    assert first["here"] == {"class": 1, "probability": 0.9}
    assert first["reference"] == {"class": 0, "probability": pytest.approx(0.7)}
    assert (first["margin"], second["margin"]) == (pytest.approx(0.8), pytest.approx(0.2))
    assert first["label"] == 0
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(second["png"]))))
    assert np.array_equal(shown, pixels[1, ..., 0])


def test_more_changes_than_a_sheet_shows_are_counted() -> None:
    images = Images({}, np.zeros((60, 2, 2, 3), np.uint8), np.zeros(60, np.int64))
    found = correctness.changed(certain([1] * 60, 0.9), certain([0] * 60, 0.9), images)
    assert found["count"] == 60
    assert 0 < len(found["shown"]) < 60


def test_a_row_is_compared_with_the_reference() -> None:
    truth = np.array([0, 1, 2, 3])
    found = correctness.describe(certain([0, 1, 0, 0], 0.9), certain([0, 1, 2, 0], 0.9), truth)
    assert found["accuracy"]["correct"] == 2
    assert found["against_float32"]["losses"] == 1
    assert correct_images.unpack(found["right"], 4).tolist() == [True, True, False, False]
