"""Keras models loaded: what they tell of themselves, types and batches, and files that are no model."""

import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loading_fixtures import (
    CASES,
    agrees,
    cases,
    converted,
    functional,
    head,
    images,
    refused,
    saved,
    scores,
    sequential,
    tail,
)
from tfship.export.sources.model_loading import load
from tfship.train.common.errors import UsageError
from tfship.train.common.tensorflow_loader import tensorflow

tf = tensorflow()
import keras  # noqa: E402 - after TensorFlow is loaded quietly
from keras import layers  # noqa: E402


def split(image: Any) -> Any:
    """A layer used twice before a shared normalization, whose scale is moved for both."""
    convolution, normalization = layers.Conv2D(4, 3, activation="relu"), layers.BatchNormalization()
    return head(layers.Add()([normalization(convolution(image)), normalization(convolution(image * 2.0))]))


def seen_elsewhere(image: Any) -> Any:
    """A nested model that shows what its normalization gets: nothing may be moved."""
    inner = keras.Input(image.shape[1:])
    convolution = layers.Conv2D(4, 3, activation="relu")(inner)
    shown = keras.Model(inner, [convolution, layers.BatchNormalization()(convolution)])
    return head(layers.Concatenate()(shown(image)))


def residual(image: Any) -> Any:
    convolution = layers.ReLU()(layers.Conv2D(3, 3, padding="same")(image))
    return head(layers.ReLU()(layers.Add()([layers.BatchNormalization()(convolution), image])))


NORMALIZATION_01 = {"mean": [0.4], "variance": [0.08]}
BUILDS: dict[str, tuple[Callable[[], Any], str | None, tuple[int, int] | None, int]] = {
    # model, last activation, range of values, number of layers equalized
    "plain": (lambda: sequential(*tail()), "softmax", None, 1),
    "rescaled": (lambda: sequential(layers.Rescaling(1 / 127.5, -1), *tail()), "softmax", (0, 255), 1),
    "zero to one": (lambda: sequential(layers.Rescaling(2, -1), *tail()), "softmax", (0, 1), 1),
    "around zero": (lambda: sequential(layers.Rescaling(127.5, 127.5), *tail()), "softmax", (-1, 1), 1),
    "normalized": (
        lambda: sequential(layers.Normalization(**NORMALIZATION_01), *tail()),
        "softmax",
        (0, 1),
        1,
    ),
    "normalized pixels": (
        lambda: sequential(layers.Normalization(mean=[33.0], variance=[6000.0]), *tail()),
        "softmax",
        (0, 255),
        1,
    ),
    "augmented": (
        lambda: sequential(
            sequential(layers.RandomFlip(), layers.RandomRotation(0.1)),
            layers.ZeroPadding2D(),
            sequential(layers.Resizing(9, 9), layers.Rescaling(1 / 255), shape=(10, 10, 1)),
            *tail(),
        ),
        "softmax",
        (0, 255),
        1,
    ),
    "nested": (
        lambda: sequential(
            sequential(layers.Conv2D(4, 3, activation="relu"), layers.BatchNormalization()),
            layers.Flatten(),
            sequential(layers.Dense(5, "relu"), layers.BatchNormalization(), layers.Dense(3), shape=(144,)),
            layers.Softmax(),
            layers.Dropout(0.1),
        ),
        "softmax",
        None,
        2,
    ),
    "operations": (
        lambda: functional(lambda x: keras.ops.softmax(head(x / 127.5 - 1.0, None))),
        "softmax",
        (0, 255),
        0,
    ),
    "caffe": (
        lambda: functional(lambda x: head(keras.applications.resnet.preprocess_input(x), "sigmoid")),
        "sigmoid",
        (0, 255),
        0,
    ),
    "torch": (
        lambda: functional(lambda x: head(keras.applications.densenet.preprocess_input(x), None)),
        "linear",
        (0, 255),
        0,
    ),
    "cast": (
        lambda: functional(lambda x: layers.Activation("linear", dtype="float32")(head(x, "tanh"))),
        "tanh",
        None,
        0,
    ),
    "shared": (lambda: functional(split), "softmax", None, 1),
    "seen elsewhere": (lambda: functional(seen_elsewhere), "softmax", None, 0),
    "residual": (lambda: functional(residual), "softmax", None, 1),
    "recurrent": (
        lambda: sequential(layers.GRU(4), layers.Dense(3, "softmax"), shape=(8, 8)),
        "softmax",
        None,
        0,
    ),
    "convolutional": (
        lambda: sequential(layers.Conv2D(4, 8, activation="relu"), layers.Conv2D(3, 1, activation="softmax")),
        "softmax",
        None,
        0,
    ),
    "one": (
        lambda: sequential(layers.Flatten(), layers.Dense(1, "sigmoid"), layers.Reshape(())),
        "sigmoid",
        None,
        0,
    ),
}


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """The same weights in every run: rounding depends on them."""
    keras.utils.set_random_seed(3)


@pytest.mark.parametrize("name", BUILDS)
def test_what_a_keras_model_tells(name: str, tmp_path: Path) -> None:
    build, activation, value_range, equalized = BUILDS[name]
    model = build()
    path = saved(model, tmp_path / "model.keras")
    loaded = load(path)
    assert (loaded.activation, loaded.value_range, len(loaded.equalized)) == (
        activation,
        value_range,
        equalized,
    )
    assert (loaded.precision, loaded.integer, loaded.batch) == ("float32", False, None)
    x = images(loaded)
    expected = np.asarray(model(x if len(model.inputs[0].shape) == 4 else x[..., 0], training=False))
    assert scores(loaded.function, x) == pytest.approx(expected.reshape(len(x), -1), abs=1e-6)
    assert agrees(loaded)
    assert {*loaded.equalized} <= {*loaded.layers}


def test_integer_inputs_convert_without_casts(tmp_path: Path) -> None:
    models = {
        "uint8": sequential(layers.Rescaling(1 / 255), *tail(), dtype="uint8"),
        "int32": functional(lambda x: head(keras.ops.cast(x, "float32") / 255.0), dtype="int32"),
    }
    for name, model in models.items():
        loaded = load(saved(model, tmp_path / f"{name}.keras"))
        assert loaded.integer
        assert loaded.value_range == (0.0, 255.0)
        assert agrees(loaded)
        answers, types = converted(loaded)
        assert "float32" not in types
        assert answers == pytest.approx(scores(loaded.function, images(loaded)), abs=0.05)
    # Integers overflow, which float32 doesn't.
    overflow = functional(lambda x: head(keras.ops.cast(x * 2, "float32") / 255.0), dtype="uint8")
    loaded = load(saved(overflow, tmp_path / "overflow.keras"))
    assert agrees(loaded)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float16"])
def test_half_precision_is_exported_in_float32(policy: str, tmp_path: Path) -> None:
    keras.config.set_dtype_policy(policy)
    try:
        model = sequential(layers.Rescaling(1 / 255), *tail())
    finally:
        keras.config.set_dtype_policy("float32")
    loaded = load(saved(model, tmp_path / "model.keras"))
    assert loaded.precision == policy.removeprefix("mixed_")
    assert agrees(loaded, 0.02)
    serve = tf.function(loaded.exported).get_concrete_function(tf.TensorSpec((None, 8, 8, 1)))
    types = {output.dtype for operation in serve.graph.get_operations() for output in operation.outputs}
    assert not types & {tf.float16, tf.bfloat16}
    assert "float16" not in converted(loaded)[1]


@cases
def test_half_precision_of_another_changes_no_prediction() -> None:
    loaded = load(CASES / "mixed16_out16.keras")
    assert loaded.precision == "float16"
    with np.load(CASES / "eval_grey.npz") as arrays:
        x = arrays["x"].reshape(-1, *loaded.shape).astype(np.float32) / 255
    classes = [scores(function, x).argmax(1) for function in (loaded.function, loaded.exported)]
    assert (classes[0] == classes[1]).sum() == len(x) == 200


def test_flat_and_transposed_models_are_loaded_and_converted(tmp_path: Path) -> None:
    flat = load(saved(sequential(layers.Dense(3, "softmax"), shape=(192,)), tmp_path / "flat.keras"), (8, 8))
    first = functional(lambda x: head(layers.Permute((2, 3, 1))(x)), (3, 8, 10))
    transposed = load(saved(first, tmp_path / "first.keras"))
    assert (flat.shape, transposed.shape) == ((8, 8, 3), (8, 10, 3))
    for loaded in (flat, transposed):
        answers, types = converted(loaded)
        assert "float32" not in types
        assert answers.argmax(1).tolist() == scores(loaded.function, images(loaded)).argmax(1).tolist()


def test_fixed_batches(tmp_path: Path) -> None:
    said = keras.Sequential([keras.Input((8, 8, 1), batch_size=2), *tail()])
    assert load(saved(said, tmp_path / "said.keras")).batch is None
    image = keras.Input((8, 8, 1), batch_size=1)
    meant = keras.Model(image, layers.Dense(3)(keras.ops.reshape(image, (1, 64))))
    assert load(saved(meant, tmp_path / "meant.keras")).batch == 1
    stateful = keras.Sequential([keras.Input((8, 8), batch_size=1), layers.LSTM(4, stateful=True)])
    assert "stateful=False" in refused(saved(stateful, tmp_path / "stateful.keras"))


def test_another_backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    model = saved(sequential(*tail()), tmp_path / "model.keras")
    assert "KERAS_BACKEND is jax" in refused(model, error=UsageError)


def test_what_is_no_model(tmp_path: Path) -> None:
    model = sequential(layers.Dense(3))
    whole = saved(model, tmp_path / "whole.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    model.export(tmp_path / "base" / "1", verbose=False)
    (tmp_path / "cut.keras").write_bytes(whole.read_bytes()[:2000])
    damaged = bytearray(whole.read_bytes())
    damaged[60:120] = bytes(60)
    (tmp_path / "damaged.keras").write_bytes(damaged)
    (tmp_path / "cut.h5").write_bytes((tmp_path / "model.weights.h5").read_bytes()[:100])
    (tmp_path / "text.h5").write_text("no model")
    (tmp_path / "empty.keras").touch()
    (tmp_path / "model.tflite").write_bytes(b"\x1c\x00\x00\x00TFL3" + bytes(20))
    with zipfile.ZipFile(tmp_path / "torch.keras", "w") as archive:
        archive.writestr("data.pkl", b"")
    with zipfile.ZipFile(tmp_path / "packed.zip", "w") as archive:
        archive.writestr("model/saved_model.pb", b"")
    (tmp_path / "folder").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "saved_model.pb").write_bytes(b"no protocol buffer")
    for name, expected in {
        "none.keras": "no such file or folder",
        "model.weights.h5": "contains weights only, no layers; call model.load_weights",
        "cut.keras": "damaged",
        "damaged.keras": "",
        "cut.h5": "damaged",
        "text.h5": "not a Keras file",
        "empty.keras": "an empty file",
        "model.tflite": "give the Keras file or the SavedModel that it was made from",
        "torch.keras": "a zip without config.json",
        "packed.zip": "unzip it",
        "folder": "a folder without saved_model.pb",
        "base": f"give the folder of one, such as {tmp_path / 'base' / '1'}",
        "base/1/saved_model.pb": f"give its folder, {tmp_path / 'base' / '1'}",
        "broken": "TensorFlow can't load it",
    }.items():
        assert expected in refused(tmp_path / name), name


def test_several_inputs_or_outputs(tmp_path: Path) -> None:
    one, two = keras.Input((8, 8, 1)), keras.Input((8, 8, 1))
    added = keras.Model([one, two], head(layers.Add()([one, two])))
    assert "has 2 inputs and 1 outputs" in refused(saved(added, tmp_path / "inputs.keras"))
    shown = keras.Model(one, [head(one), one])
    assert "has 1 inputs and 2 outputs" in refused(saved(shown, tmp_path / "outputs.keras"))
    shown.export(tmp_path / "outputs", verbose=False)
    assert "outputs output_0, output_1" in refused(tmp_path / "outputs")
    maps = sequential(layers.Conv2D(2, 3))
    assert "expected scores [N, classes]" in refused(saved(maps, tmp_path / "maps.keras"))


@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method")
def test_a_quantized_model(tmp_path: Path) -> None:
    model = sequential(layers.Flatten(), layers.Dense(8, "relu"), layers.Dense(3, "softmax"))
    model.quantize("int8")
    loaded = load(saved(model, tmp_path / "model.keras"))
    assert loaded.precision == "int8"
    assert agrees(loaded, 0.05)


def test_an_unzipped_file_and_one_of_another_name(tmp_path: Path) -> None:
    path = saved(sequential(*tail()), tmp_path / "model.keras")
    expected = load(path)
    with zipfile.ZipFile(path) as archive:
        archive.extractall(tmp_path / "unzipped")
    shutil.copy(path, tmp_path / "model.zip")
    for other in (load(tmp_path / "unzipped"), load(tmp_path / "model.zip")):
        x = images(other)
        assert np.array_equal(scores(other.function, x), scores(expected.function, x))
        assert agrees(other)
