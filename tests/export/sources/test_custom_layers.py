"""Keras files whose layers are a user's own Python code: imported on demand, never run from the file."""

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loading_fixtures import CASES, agrees, cases, refused, saved, sequential, tail
from tfship.export.sources.keras_files import silent
from tfship.export.sources.model_loading import load
from tfship.train.common.errors import UsageError
from tfship.train.common.tensorflow_loader import tensorflow

tensorflow()
import keras  # noqa: E402 - after TensorFlow is loaded quietly

LAYERS = """
import keras

@keras.saving.register_keras_serializable("mine")
class Twice(keras.layers.Layer):
    def call(self, x):
        return 2 * x

@keras.saving.register_keras_serializable("mine")
class Subclassed(keras.Model):
    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.flat, self.dense = keras.layers.Flatten(), keras.layers.Dense(3)

    def call(self, x):
        return self.dense(self.flat(x))

def squared(x):
    return x * x
"""


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """The same weights in every run: rounding depends on them."""
    keras.utils.set_random_seed(3)


def test_custom_layers_need_their_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text(LAYERS)
    registered = keras.saving.get_custom_objects()
    before = dict(registered)
    with monkeypatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        mine: Any = importlib.import_module("mine")
        start = [keras.Input((8, 8, 1)), mine.Twice(), keras.layers.Flatten()]
        keras.Sequential([*start, keras.layers.Dense(3)]).save(tmp_path / "layer.keras")
        keras.Sequential([*start, keras.layers.Dense(3, mine.squared)]).save(tmp_path / "function.keras")
        model = mine.Subclassed()
        model(np.zeros((1, 8, 8, 1)))
        model.save(tmp_path / "subclassed.keras")
    # As in a process that never imported it.
    del sys.modules["mine"]
    registered.clear()
    registered.update(before)
    for name, held in (("layer", "Twice"), ("subclassed", "Subclassed")):
        message = refused(tmp_path / f"{name}.keras")
        assert f"doesn't know {held} (Could not locate class '{held}'." in message
        assert "config=" not in message
        assert f"--import my_layers.py, the file that registers {held}, or" in message
        assert 'call model.export("folder"), then export that folder' in message
    for name, activation in (("layer", "linear"), ("function", "squared"), ("subclassed", None)):
        loaded = load(tmp_path / f"{name}.keras", None, [tmp_path / "mine.py"])
        assert loaded.activation == activation
        assert agrees(loaded)


@cases
def test_custom_layer_of_another() -> None:
    message = refused(CASES / "custom_layer.keras")
    assert "Scale" in message
    assert "--import" in message
    assert "model.export" in message
    assert len(message) < 700


def test_imports_that_fail(tmp_path: Path) -> None:
    model = saved(sequential(*tail()), tmp_path / "model.keras")
    for name, text, expected in (
        ("syntax.py", "x = 1\nx = = 2\n", "line 2: SyntaxError"),
        ("missing.py", "import nothing_of_this_name\n", "line 1: ModuleNotFoundError"),
        ("ends.py", "import sys\n\nsys.exit(3)\n", "line 3: SystemExit"),
    ):
        (tmp_path / name).write_text(text)
        assert expected in refused(model, None, [tmp_path / name], error=UsageError)
    assert "no such file" in refused(model, None, [tmp_path / "none.py"], error=UsageError)


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    with silent():
        import tf_keras

        for library, ending in ((keras, "keras"), (tf_keras, "h5")):
            scale = library.layers.Lambda(lambda x: x / 255, name="scale")
            library.Sequential([library.Input((8, 8, 1)), scale]).save(tmp_path / f"lambda.{ending}")
    for ending in ("keras", "h5"):
        assert "the Lambda layer scale, Python code" in refused(tmp_path / f"lambda.{ending}")
