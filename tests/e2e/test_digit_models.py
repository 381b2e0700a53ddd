"""A user's digit models: a layer that int8 ruins, operators that TFLite lacks, and no axis for channels."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export_fixtures import export
from tfship.export.conversion import formats
from tfship.export.preprocessing import input_contract
from tfship.export.publishing import cards, store
from tfship.train.data.datasets import Digits


def save(path: Path, build: Callable[[Any], Any]) -> Path:
    """Save a network 28 × 28 → 10 whose layers `build` makes from its input tensor."""
    import keras

    image = keras.Input((28, 28, 1))
    keras.Model(image, build(image)).save(path)
    return path


def own_labels(folder: Path, path: Path) -> None:
    """Label the evaluation images with what an untrained model says of them, so that it isn't a guess."""
    import keras

    with np.load(folder / "eval.npz") as arrays:
        x = arrays["x"]
    model = keras.models.load_model(path, compile=False)
    values = x.astype(np.float32).reshape(-1, *model.inputs[0].shape[1:]) / 255
    np.savez(folder / "eval.npz", x=x, y=model.predict(values, verbose=0).argmax(1))


@pytest.fixture
def digits(tmp_path: Path, sample: Digits) -> Path:
    np.savez(tmp_path / "eval.npz", x=sample.x_test[::3], y=sample.y_test[::3])
    np.savez(tmp_path / "calibration.npz", x=sample.x_train[::20], y=sample.y_train[::20])
    return tmp_path


def test_a_layer_that_int8_ruins_is_named_and_selective_keeps_it(
    digits: Path, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The trained nn with one unit of a layer made 3,000 times larger, and its weights in the next as much smaller."""
    import keras

    model = keras.models.load_model(models / "nn.keras", compile=False)
    first, second = [layer for layer in model.layers if isinstance(layer, keras.layers.Dense)][-2:]
    kernel, bias = first.get_weights()
    unit, factor = int(np.abs(kernel).sum(0).argmax()), 3000
    kernel[:, unit] *= factor
    bias[unit] *= factor
    first.set_weights([kernel, bias])
    kernel, bias = second.get_weights()
    kernel[unit] /= factor
    second.set_weights([kernel, bias])
    model.save(digits / "outlier.keras")

    calibration = ("--calibration", str(digits / "calibration.npz"))
    required = ("--formats", "float32,int8", "--require", "int8")
    assert export(digits, "outlier.keras", *calibration, *required, name="outlier") == 6
    error = capsys.readouterr().err.splitlines()[-1]
    assert "outlier: not blessed, so nothing was published: int8 is required but withheld: " in error
    assert store.versions(digits / "models" / "outlier") == {}
    record = json.loads((digits / "models" / "outlier.not-blessed.json").read_text())
    astray = next(each["name"] for each in record["layers"]["int8"] if each["diverges"])
    assert first.name in astray.split(" + ")
    assert f"{astray} is the first whose output diverges" in error

    # Without being required, it is withheld, and the others are published.
    chosen = ("--formats", "float32,int8,selective")
    assert export(digits, "outlier.keras", *calibration, *chosen, name="outlier") == 0
    version = store.latest(digits / "models" / "outlier")
    card = cards.read(version)
    assert card.blessing["blessed"]
    assert "accuracy relative to the model" in card.withheld["int8"]
    assert [each["format"] for each in card.artefacts] == ["savedmodel", "float32", "selective"]
    assert not (version / "tflite" / "int8.tflite").exists()
    assert next(each["name"] for each in card.layers["int8"] if each["diverges"]) == astray
    (artefact,) = [each for each in card.artefacts if each["format"] == "selective"]
    assert astray in artefact["float_layers"]
    assert len(artefact["float_layers"]) <= 3  # of the four that have weights
    assert artefact["accuracy"]["value"] >= card.keras_accuracy["value"] - 0.005


def test_what_cannot_be_converted_is_said_and_the_rest_comes_out(
    digits: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import keras

    keras.utils.set_random_seed(1)
    calibration = ("--calibration", str(digits / "calibration.npz"))
    # There is no TFLite operator for this one, and no int8 kernel of the other.
    for name, function, names, missing in (
        ("erfinv", keras.ops.erfinv, ["float32", "int8", "selective"], {"float32", "int8", "selective"}),
        (
            "angle",
            lambda x: keras.ops.arctan2(x, 0.5 * x + 1),
            list(formats.FORMATS),
            {"int8", "int8_uint8", "int16x8"},
        ),
    ):

        def build(image: Any, function: Any = function) -> Any:
            hidden = keras.layers.Dense(10)(keras.layers.Flatten()(image))
            return keras.layers.Softmax()(function(keras.ops.tanh(hidden) * 0.5))

        own_labels(digits, save(digits / f"{name}.keras", build))
        tried = ("--formats", ",".join(names))
        assert export(digits, f"{name}.keras", *calibration, *tried, name=name) == 0
        said, summary = reversed(capsys.readouterr())
        card = cards.read(store.latest(digits / "models" / name))
        assert set(card.unconverted) == missing
        assert card.serves == ("float32" if "float32" not in missing else "")
        for format_name, reason in card.unconverted.items():
            assert "\n" not in reason
            assert f"{name} {format_name}: left out: {reason}" in said
            assert summary.count(f": {reason}\n") == 1  # formats share it
        made = {each["format"] for each in card.artefacts}
        assert made | set(card.withheld) == {"savedmodel", *names} - missing
    asked = (*calibration, "--formats", "int8", "--serve", "int8", "--new")
    assert export(digits, "angle.keras", *asked, name="angle") == 4
    assert "angle: int8 is required but can't be made" in capsys.readouterr().err


def test_a_grey_model_without_an_axis_for_channels(digits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import keras

    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [keras.layers.Input((28, 28)), keras.layers.Flatten(), keras.layers.Dense(10, "softmax")]
    )
    model.save(digits / "flat.keras")
    own_labels(digits, digits / "flat.keras")
    assert export(digits, "flat.keras", "--formats", "float32", name="flat") == 0
    assert input_contract.read(store.latest(digits / "models" / "flat")).shape == (28, 28, 1)

    # Evaluated on an empty page too, which can't be prepared as a digit.
    with np.load(digits / "eval.npz") as arrays:
        x, y = arrays["x"].copy(), arrays["y"]
    x[3] = 0
    np.savez(digits / "eval.npz", x=x, y=y)
    arguments = ("--formats", "float32", "--preparation", "digit", "--new")
    assert export(digits, "flat.keras", *arguments, name="flat") == 6
    error = capsys.readouterr().err.splitlines()[-1]
    assert "a signature refuses evaluation images" in error
    assert "nothing to see on the image" in error
    assert list(store.versions(digits / "models" / "flat")) == [1]
