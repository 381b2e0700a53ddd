from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tfship.export.preprocessing import outputs, range_detection
from tfship.export.preprocessing.input_contract import Scaling
from tfship.export.preprocessing.range_detection import RangeCandidate, candidates, detect, normalized, sample

COUNT, CLASSES = 200, 4


def images(channels: int, seed: int = 0) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images whose class is told by their mean colour: [N, 4, 4, channels]."""
    generator = np.random.default_rng(seed)
    truth = generator.integers(0, CLASSES, COUNT)
    colours = np.random.default_rng(7).integers(30, 226, (CLASSES, channels))
    noise = generator.normal(0, 15, (COUNT, 4, 4, channels))
    return np.clip(np.rint(colours[truth][:, None, None] + noise), 0, 255).astype(np.uint8), truth


def classifier(scaling: Scaling, channels: int) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """A network as it would be trained on these values: distances to the classes' colours, so scaled."""
    colours = scaling.apply(
        np.random.default_rng(7).integers(30, 226, (CLASSES, channels)).astype(np.float32)
    )
    width = float(np.mean(np.abs(scaling.scale))) * 25

    def logits(values: NDArray[np.float32]) -> NDArray[np.float32]:
        distances = np.square((values.mean((1, 2))[:, None] - colours) / width).sum(-1)
        return np.asarray(-np.minimum(distances, 1e4), np.float32)

    return logits


def found(channels: int, true: Scaling, named: RangeCandidate | None = None) -> range_detection.Detection:
    pixels, truth = images(channels)
    model = classifier(true, channels)
    tried = candidates(channels)
    return detect(
        lambda scaling: model(scaling.apply(pixels.astype(np.float32))),
        truth,
        tried,
        outputs.kind_of,
        named=named,
    )


def test_a_model_that_is_unsure_isnt_made_surer_by_larger_values() -> None:
    """This one has a smaller loss on values twice as large, but is wrong more often."""
    detection = found(3, candidates(3)[0].scaling)
    assert detection.measurements[0].candidate.name == "ImageNet mean and deviation"
    assert (detection.chosen.candidate.name, detection.by) == ("0…1", "accuracy")


@pytest.mark.parametrize("channels", [1, 3])
def test_each_candidate_is_found_where_it_is_the_true_one(channels: int) -> None:
    assert [each.name for each in candidates(channels)][:3] == ["0…1", "0…255", "-1…1"]
    assert len(candidates(channels)) == (3 if channels == 1 else 5)
    for each in candidates(channels):
        detection = found(channels, each.scaling)
        assert detection.chosen.candidate == each
        assert (detection.by, detection.kind) in (("log loss", "logits"), ("accuracy", "logits"))
        assert not detection.guesses
        assert detection.better is None
        described = detection.describe()
        assert described["values"] == each.name
        assert len(described["candidates"]) == len(candidates(channels))


def test_what_is_named_is_obeyed_and_a_better_one_told() -> None:
    true, named = candidates(3)[0], RangeCandidate("mine", Scaling.of_range(0, 2, 3))
    detection = found(3, true.scaling, named=named)
    assert detection.chosen.candidate == named
    assert detection.by == "named"
    assert detection.better is not None
    assert detection.better.candidate == true
    assert found(3, true.scaling, named=true).better is None


def test_layers_decide_between_equals_only() -> None:
    pixels, truth = images(1)
    model = classifier(Scaling.of_range(0, 1, 1), 1)

    def indifferent(scaling: Scaling) -> NDArray[np.float32]:
        """Normalises each image by itself, so that 0…1 and 0…255 are the same to it, and -1…1 isn't."""
        values = scaling.apply(pixels.astype(np.float32))
        return model(
            values / values.max((1, 2, 3), keepdims=True) * (pixels.max((1, 2, 3), keepdims=True) / 255)
        )

    for suggested, chosen, by in (
        (None, "0…1", "log loss"),
        ((0.0, 255.0), "0…255", "layers"),
        ((-1.0, 1.0), "0…1", "log loss"),
    ):
        detection = detect(indifferent, truth, candidates(1), outputs.kind_of, suggested=suggested)
        assert (detection.chosen.candidate.name, detection.by) == (chosen, by)


def test_a_model_that_guesses_is_told_whatever_it_is_given() -> None:
    _, truth = images(3)
    generator = np.random.default_rng(3)
    detection = detect(
        lambda scaling: generator.dirichlet(np.ones(CLASSES), COUNT).astype(np.float32),
        truth, candidates(3), outputs.kind_of,
    )  # fmt: skip
    assert detection.guesses
    constant = np.tile(np.array([0.7, 0.1, 0.1, 0.1], np.float32), (COUNT, 1))
    assert detect(lambda scaling: constant, truth, candidates(3), outputs.kind_of).guesses


def test_labels_are_judged_one_by_one() -> None:
    pixels, _ = images(3)
    truth = (pixels.mean((1, 2)) > 128).astype(np.int64)
    tried = candidates(3)

    def predict(scaling: Scaling) -> NDArray[np.float32]:
        means = scaling.apply(pixels.astype(np.float32)).mean((1, 2))
        return np.asarray(1 / (1 + np.exp(-np.clip((means - 0.5) * 30, -50, 50))), np.float32)

    detection = detect(predict, truth, tried, lambda scores: outputs.kind_of(scores, several=True))
    assert (detection.kind, detection.chosen.candidate.name) == ("independent", "0…1")
    assert detection.chosen.correct.shape == (COUNT * 3,)
    assert detection.chosen.accuracy > 0.95


def test_answers_that_are_no_numbers_are_left_out() -> None:
    pixels, truth = images(1)
    model = classifier(Scaling.of_range(0, 1, 1), 1)

    def overflows(scaling: Scaling) -> NDArray[np.float32]:
        values = scaling.apply(pixels.astype(np.float32))
        return np.asarray(model(values) * (np.nan if values.max() > 1 else 1), np.float32)

    detection = detect(overflows, truth, candidates(1), outputs.kind_of)
    assert detection.chosen.candidate.name == "0…1"
    assert [each.candidate.name for each in detection.measurements] == ["0…1", "-1…1"]
    with pytest.raises(ValueError, match="aren't finite"):
        detect(lambda scaling: np.full((COUNT, 4), np.nan, np.float32), truth, candidates(1), outputs.kind_of)


def test_the_order_of_channels_can_be_kept() -> None:
    assert [each.scaling.bgr for each in candidates(3)] == [False] * 4 + [True]
    for bgr in (True, False):
        assert {each.scaling.bgr for each in candidates(3, bgr=bgr)} == {bgr}
    assert [each.name for each in candidates(3, integer=True)] == ["0…255"]


def test_normalized_is_what_torchvision_and_keras_do() -> None:
    mean, deviation = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    pixels = np.array([[12, 130, 255]], np.float32)
    np.testing.assert_allclose(
        normalized((0, 1), mean, deviation).apply(pixels),
        (pixels / 255 - mean) / np.array(deviation),
        rtol=1e-5,
    )


@settings(max_examples=50)
@given(st.integers(1, 600), st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_samples_are_drawn_from_all_classes_alike(count: int, classes: int, seed: int) -> None:
    truth = np.random.default_rng(seed).integers(0, classes, count)
    chosen = sample(truth)
    assert len(chosen) == min(count, 200)
    assert (np.diff(chosen) > 0).all()
    available, taken = np.bincount(truth, minlength=classes), np.bincount(truth[chosen], minlength=classes)
    short = taken < available
    # Where a class isn't exhausted, no other has more than one image above it.
    assert not short.any() or taken.max() <= taken[short].min() + 1
    np.testing.assert_array_equal(chosen, sample(truth))
