"""Skews between targets, made for real: each is called by its name."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from compare_fixtures import CONTRACT, Values, compared, over, right_models, run, save, served, weights
from conftest import made_once
from tfship.client.compare import divergence_causes
from tfship.export.preprocessing import input_contract as contracts


@pytest.fixture(scope="module")
def right(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models with cnn/1, and the retired version 0 of other weights. Nothing may be changed in it."""
    return made_once(tmp_path_factory, "right", right_models)


SKEWS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "rescaled": (
        lambda image: image / 255,
        "divides its input by 255 (the wrong scale: it takes values of 0 to 255)",
    ),
    "not rescaled": (lambda image: image * 255, "multiplies its input by 255 (the wrong scale"),
    "to -1…1": (lambda image: image * 2 - 1, "maps 0…1 to -1…1 (the wrong scale"),
    "from -1…1": (
        lambda image: (image + 1) / 2,
        "maps -1…1 to 0…1 (the wrong scale: it takes values of -1 to 1)",
    ),
    "inverted": (lambda image: 1 - image, "inverts its input (dark and light are swapped)"),
    "transposed": (
        lambda image: _tf().transpose(image, [0, 2, 1, 3]),
        "swaps rows and columns (another layout)",
    ),
    "mirrored": (lambda image: _tf().reverse(image, [2]), "swaps left and right (another layout)"),
}


def _tf() -> Any:
    import tensorflow as tf

    return tf


@pytest.mark.parametrize("name", SKEWS)
def test_a_skew_is_called_by_its_name(right: Path, tmp_path: Path, name: str) -> None:
    before, expected = SKEWS[name]
    save(tmp_path / "1", weights(1), before)
    with served(tmp_path) as client:
        code, targets, verdict = compared(right, over(client))
    assert code == 6
    # One reason, told once for both ports.
    (line,) = verdict.splitlines()
    assert line.startswith(
        f"skew: rest@127.0.0.1:{client.rest_port}, grpc@127.0.0.1:{client.grpc_port}: {expected}"
    )
    assert ", or " not in line
    assert not targets["tflite:dynamic"]["skew"]


def test_a_stale_version(right: Path, tmp_path: Path) -> None:
    models = tmp_path / "models"
    shutil.copytree(right / "cnn" / "retired-0", models / "cnn" / "1")
    with served(models / "cnn") as client:
        shutil.copytree(right / "cnn" / "1", models / "cnn" / "2")
        code, _, verdict = compared(models, over(client))
        assert code == 6
        assert ": returns the scores of version 1; differs from tflite:float32 by " in verdict
        assert "the server reports version 1; the newest on this disk is 2" in verdict
        # Gone from the disk, nothing but the server's word is left.
        shutil.rmtree(models / "cnn" / "1")
        code, _, verdict = compared(models, over(client))
        assert code == 6
        assert "no other scale, layout, preparation or version on this disk gives these scores" in verdict
        assert "the server reports version 1" in verdict


def test_an_older_version_that_was_retired(right: Path, tmp_path: Path) -> None:
    shutil.copytree(right / "cnn" / "retired-0", tmp_path / "1")
    with served(tmp_path) as client:
        assert ": returns the scores of version 0; " in compared(right, over(client))[2]


def test_a_picture_that_is_merely_resized(right: Path, tmp_path: Path) -> None:
    save(tmp_path / "1", weights(1), bytes_by=replace(CONTRACT, preparation="resize"))
    with served(tmp_path) as client:
        code, targets, verdict = compared(right, over(client))
    assert code == 6
    assert [name.partition(" ")[2] for name, each in targets.items() if each["skew"]] == ["serving_bytes"] * 2
    assert "gets the image resized, but not converted to the form of MNIST's digits; " in verdict


CAFFE = contracts.Scaling((1.0, 1.0, 1.0), (-103.939, -116.779, -123.68), bgr=True)


@pytest.mark.parametrize(
    ("scaling", "does"),
    [
        (
            replace(CAFFE, bgr=False),
            "leaves the channels in RGB order before it scales them (the contract has another order",
        ),
        (
            replace(CAFFE, offset=(0.0,) * 3),
            "doesn't subtract the mean (its scaling lacks the contract's offset)",
        ),
        (contracts.Scaling.of_range(0, 1, 3), "scales pixels to 0…1 (it lacks the contract's scaling)"),
    ],
)
def test_another_scaling_of_the_channels_is_called_by_its_name(
    tmp_path: Path, scaling: contracts.Scaling, does: str
) -> None:
    import tensorflow as tf

    rules = contracts.Contract("cnn", tuple("abcd"), 8, 8, 3, CAFFE, "resize")
    module = tf.Module()
    module.matrix = tf.Variable(np.random.default_rng(0).normal(0, 0.002, (192, 4)).astype(np.float32))

    def scores(values: Any) -> Any:
        return {"probabilities": tf.nn.softmax(tf.reshape(values, [-1, 192]) @ module.matrix)}

    module.f = tf.function(scores, [tf.TensorSpec([None, 8, 8, 3], tf.float32, "image")])
    module.g = tf.function(
        lambda image: scores(scaling.apply(tf.cast(image, tf.float32))),
        [tf.TensorSpec([None, 8, 8, 3], tf.uint8, "image")],
    )
    version = tmp_path / "cnn" / "1"
    tf.saved_model.save(module, str(version), {"serving_default": module.f, "serving_uint8": module.g})
    rules.write(version)
    picture = tmp_path / "colours.png"
    Image.fromarray(np.random.default_rng(1).integers(0, 255, (8, 8, 3), np.uint8)).save(picture)
    code, out, _ = run(picture, f"--compare=savedmodel,savedmodel:{version}", "--models", tmp_path)
    assert code == 0, out
    with served(tmp_path / "cnn") as client:
        code, out, _ = run(
            picture, f"--compare=rest@127.0.0.1:{client.rest_port},savedmodel", "--models", tmp_path
        )
    assert code == 6
    assert f"rest@127.0.0.1:{client.rest_port} serving_uint8: {does}" in out
    assert ", or " not in out.splitlines()[-1]


def test_what_no_change_explains(right: Path, tmp_path: Path) -> None:
    save(tmp_path / "unlike" / "1", weights(7))
    save(tmp_path / "fewer" / "1", weights(7, 7))
    with served(tmp_path / "unlike") as client:
        code, targets, verdict = compared(right, over(client))
    assert code == 6
    assert "no other scale, layout, preparation or version on this disk gives these scores" in verdict
    rest = next(each for name, each in targets.items() if name.startswith("rest"))
    assert rest["explanations"] == []
    with served(tmp_path / "fewer") as client:
        code, targets, verdict = compared(right, over(client))
    assert code == 6
    assert "another model: it returns 7 classes, tflite:float32 10" in verdict
    rest = next(each for name, each in targets.items() if name.startswith("rest"))
    assert rest["difference"] is None


def _net(matrix: Values) -> divergence_causes.Predict:
    def ask(values: Values) -> Values:
        logits = values.reshape(len(values), -1).astype(np.float64) @ matrix
        powers = np.exp(logits - logits.max(1, keepdims=True))
        scores: Values = (powers / powers.sum(1, keepdims=True)).astype(np.float32)
        return scores

    return ask


SCALINGS = (
    contracts.Scaling.of_range(0, 1, 1), contracts.Scaling.of_range(0, 1, 3), contracts.Scaling.of_range(0, 255, 3),
    contracts.Scaling.of_range(-1, 1, 3), contracts.Scaling((0.0171, 0.0175, 0.0174), (-2.118, -2.036, -1.804)), CAFFE,
)  # fmt: skip


@given(seed=st.integers(0, 2**32 - 1), place=st.integers(0, 19), scaling=st.sampled_from(SCALINGS))
def test_every_change_is_found(seed: int, place: int, scaling: contracts.Scaling) -> None:
    generator, channels = np.random.default_rng(seed), len(scaling.scale)
    values = scaling.apply(generator.integers(0, 256, (3, 6, 6, channels)).astype(np.float32))
    spread = max(map(abs, scaling.ends))
    reference = _net(generator.normal(0, 0.3 / spread, (36 * channels, 4)).astype(np.float32))
    tried = divergence_causes.changes(scaling)
    assert len({each.does for each in tried}) == len(tried) >= 8
    change = tried[place % len(tried)]
    for each in tried:
        np.testing.assert_allclose(each.undo(each.apply(values)), values, atol=1e-4 * spread)

    def target(given: Values) -> Values:
        return reference(change.apply(given))

    found = divergence_causes.explain(target(values), values, reference, tried, {}, 1e-3, target)
    assert change.does in [each.what for each in found]
    assert found == sorted(found, key=lambda each: each.difference)
    # Of other weights, nothing of it holds both ways.
    other = _net(generator.normal(0, 0.3 / spread, (36 * channels, 4)).astype(np.float32))
    if divergence_causes.differences(other(values), reference(values)) > 0.05:
        assert divergence_causes.explain(other(values), values, reference, tried, {}, 1e-5, other) == []
