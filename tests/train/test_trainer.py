"""Training by a recipe: the weights and their card, runs that fail, and a student that learns from teachers."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from conftest import ROOT
from tfship.train import cards
from tfship.train.common.errors import ArtifactError, ResultError
from tfship.train.data import datasets
from tfship.train.data.datasets import Digits
from tfship.train.recipe import RECIPES, Augmentation, Teachers
from training_fixtures import FAST, files, first_of, old_weights


@pytest.fixture
def few(sample: Digits) -> Digits:
    """Enough to train on where what counts is how, not how well: nine batches an epoch."""
    return first_of(sample, 1280)


def test_the_same_seed_gives_the_same_weights(tmp_path: Path, few: Digits) -> None:
    import keras

    from tfship.train.trainer import fit

    recipe = replace(FAST["cnn"], epochs=1, min_steps=0)
    few = replace(few, x_train=few.x_train[:384], y_train=few.y_train[:384])
    weights = []
    for name in ("first", "second"):
        fit("cnn", recipe, few, 7, tmp_path / name)
        weights.append(keras.models.load_model(tmp_path / name / "cnn.keras").get_weights())
    for first, second in zip(*weights, strict=True):
        np.testing.assert_array_equal(first, second)


def test_card_tells_what_the_weights_were_made_of(models: Path, sample: Digits) -> None:
    card = cards.read(models, "nn")
    assert card.data["label"] == datasets.SAMPLE
    assert card.data["sha256"] == sample.sha256
    assert (card.data["train"], card.data["test"]) == (4000, 1000)
    assert (card.parameters, card.seed, card.epochs, card.steps) == (91_860, 1, 12, 12 * 28)
    assert card.recipe["peak_learning_rate"] == FAST["nn"].peak_learning_rate
    assert card.environment["packages"]["tensorflow"]
    low, high = card.accuracy["interval95"]
    assert 0.85 < low < card.accuracy["value"] < high < 1
    assert card.accuracy["value"] == card.accuracy["correct"] / 1000


def test_other_seed_recipe_or_data_is_not_up_to_date(models: Path, sample: Digits) -> None:
    recipe = replace(FAST["nn"], epochs=12, min_steps=0)
    assert cards.up_to_date(models, "nn", sample, recipe, 1)
    assert not cards.up_to_date(models, "nn", sample, recipe, 2)
    assert not cards.up_to_date(models, "nn", sample, replace(recipe, epochs=13), 1)
    assert not cards.up_to_date(models, "nn", replace(sample, y_test=sample.y_test[::-1]), recipe, 1)
    assert not cards.up_to_date(models, "nn", sample, recipe, 1, teachers=[cards.read(models, "cnn")])


def test_weights_that_the_card_does_not_name_are_refused(tmp_path: Path, models: Path) -> None:
    (tmp_path / "nn.card.json").write_bytes((models / "nn.card.json").read_bytes())
    with pytest.raises(ArtifactError, match=r"nn\.keras: no such file; run `tfship train`"):
        cards.read(tmp_path, "nn")
    (tmp_path / "nn.keras").write_bytes((models / "nn.keras").read_bytes()[:-1])
    with pytest.raises(ArtifactError, match="doesn't match the hash in nn.card.json"):
        cards.read(tmp_path, "nn")
    (tmp_path / "nn.card.json").write_text('{"model": "nn"}')
    with pytest.raises(ArtifactError, match="not a training card"):
        cards.read(tmp_path, "nn")


def test_a_loss_that_is_no_number_is_an_error_and_leaves_the_old_weights(
    tmp_path: Path, sample: Digits
) -> None:
    from tfship.train.trainer import fit

    before = old_weights(tmp_path)
    wild = replace(FAST["nn"], epochs=3, min_steps=0, peak_learning_rate=float("inf"))
    with pytest.raises(ResultError, match="nn: the loss became .* lower the recipe's peak_learning_rate"):
        fit("nn", wild, sample, 1, tmp_path)
    assert files(tmp_path) == before


def test_a_diverged_run_is_an_error_and_leaves_the_old_weights(tmp_path: Path, few: Digits) -> None:
    from tfship.train.trainer import fit

    before = old_weights(tmp_path)
    wild = replace(FAST["cnn"], epochs=2, min_steps=0, peak_learning_rate=30.0)
    with pytest.raises(ResultError, match="cnn: diverged: accuracy .* lower the recipe's peak_learning_rate"):
        fit("cnn", wild, few, 1, tmp_path)
    assert files(tmp_path) == before


def test_a_student_learns_from_its_teachers(tmp_path: Path, few: Digits, models: Path) -> None:
    from tfship.train.trainer import fit, prepare

    few = replace(few, x_train=few.x_train[:1000], y_train=few.y_train[:1000])
    recipe = replace(
        RECIPES["best"]["nn"],
        epochs=12,
        min_steps=0,
        batch_size=64,
        augmentation=Augmentation(shift=1),
        plain=0.25,
        teachers=Teachers("cnn", count=2, views=2, weight=0.9),
    )
    # The network is its own colleague: what counts here is that answers are averaged.
    card = cards.read(models, "cnn")
    shutil.copy(models / "cnn.keras", tmp_path)
    soft_targets = prepare(recipe, few, {models: card, tmp_path: replace(card, weights_sha256="other")})
    assert soft_targets is not None
    assert soft_targets.teachers == [card.weights_sha256, "other"]
    assert soft_targets.views.shape == (2 * 900, 28, 28)
    np.testing.assert_array_equal(soft_targets.views[:900], few.x_train[:900])
    assert not np.array_equal(soft_targets.views[900:], few.x_train[:900])
    np.testing.assert_allclose(soft_targets.probabilities.sum(1), 1, atol=0.01)
    assert np.mean(soft_targets.probabilities.argmax(1) == np.tile(few.y_train[:900], 2)) > 0.8

    trained = fit("nn", recipe, few, 3, tmp_path / "student", soft_targets=soft_targets)
    assert trained.teachers == soft_targets.teachers
    assert trained.steps == 12 * (900 // 64)
    assert trained.accuracy["value"] > 0.7


@pytest.mark.parametrize(("name", "floor"), [("cnn", 0.9922), ("nn", 0.9696)])
def test_full_mnist_reaches_the_accuracy_that_was_asked_for(name: str, floor: float) -> None:
    """Looks at what `tfship train` left in models/, if that was trained on all of MNIST by the recipe."""
    try:
        card = cards.read(ROOT / "models", name)
    except ArtifactError:
        pytest.skip("models/ holds no trained network")
    if card.data["label"] != "MNIST" or "min_steps" not in card.recipe:
        pytest.skip(f"models/{name}.keras was trained on {card.data['label']}")
    assert card.data["test"] == 10_000
    assert card.accuracy["value"] >= floor
