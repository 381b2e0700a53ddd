"""Loading models of other people's kind: Keras files of both generations, SavedModels, and what is neither."""

import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from conftest import ROOT
from tfship.export.preprocessing import layouts
from tfship.export.sources.keras_files import silent
from tfship.export.sources.model_loading import LoadedModel, load
from tfship.train.common.errors import ArtifactError, TfshipError, UsageError
from tfship.train.common.tensorflow_loader import tensorflow

tf = tensorflow()
import keras  # noqa: E402 - after TensorFlow is loaded quietly
from keras import layers  # noqa: E402

CASES = ROOT.parent / "shared" / "cases"
cases = pytest.mark.skipif(not CASES.is_dir(), reason="the cases of other people's kind aren't there")


def images(loaded: LoadedModel, count: int = 8) -> NDArray[np.float32]:
    return np.random.default_rng(1).integers(0, 256, (count, *loaded.shape)).astype(np.float32)


def scores(function: Callable[[Any], Any], x: NDArray[Any]) -> NDArray[np.float32]:
    return np.asarray(function(tf.constant(x, tf.float32)))


def agrees(loaded: LoadedModel, tolerance: float = 1e-5) -> bool:
    x = images(loaded)
    return bool(np.allclose(scores(loaded.function, x), scores(loaded.exported, x), atol=tolerance))


def sequential(*stack: Any, shape: tuple[int | None, ...] = (8, 8, 1), dtype: str | None = None) -> Any:
    return keras.Sequential([keras.Input(shape, dtype=dtype), *stack])


def functional(
    build: Callable[[Any], Any], shape: tuple[int, ...] = (8, 8, 3), dtype: str | None = None
) -> Any:
    image = keras.Input(shape, dtype=dtype)
    return keras.Model(image, build(image))


def head(tensor: Any, activation: str | None = "softmax") -> Any:
    return layers.Dense(3, activation)(layers.Flatten()(tensor))


def tail() -> list[Any]:
    """Return the end of a network, with a batch normalization that can be equalized."""
    return [
        layers.Conv2D(4, 3, activation="relu"),
        layers.BatchNormalization(),
        layers.Flatten(),
        layers.Dense(3, "softmax"),
    ]


def saved(model: Any, path: Path) -> Path:
    """Save a model with statistics as training leaves them."""
    generator = np.random.default_rng(0)
    for variable in model.weights:
        if variable.path.endswith("moving_variance"):
            variable.assign(generator.uniform(0.01, 9, variable.shape))
        elif variable.path.endswith("moving_mean"):
            variable.assign(generator.normal(size=variable.shape))
    model.save(path)
    return path


def converted(loaded: LoadedModel) -> tuple[NDArray[np.float32], set[str]]:
    """Return the scores of the model in int8, and the types of the file's tensors but for input and output."""
    from ai_edge_litert.interpreter import Interpreter

    x = images(loaded)
    serve = tf.function(loaded.exported, input_signature=[tf.TensorSpec((None, *loaded.shape))])
    module = tf.Module()
    module.tracked = loaded.tracked
    converter = tf.lite.TFLiteConverter.from_concrete_functions([serve.get_concrete_function()], module)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.representative_dataset = lambda: ([each[np.newaxis]] for each in x)
    interpreter = Interpreter(model_content=converter.convert())
    (source,), (target,) = interpreter.get_input_details(), interpreter.get_output_details()
    interpreter.resize_tensor_input(source["index"], x.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(source["index"], x)
    interpreter.invoke()
    edges = (source["index"], target["index"])
    types = {
        np.dtype(each["dtype"]).name
        for each in interpreter.get_tensor_details()
        if each["index"] not in edges
    }
    return interpreter.get_tensor(target["index"]), types


def resaved(loaded: LoadedModel, folder: Path) -> NDArray[np.float32]:
    """Save what is exported as a SavedModel, load that, and return its scores."""
    module = tf.Module()
    module.tracked = loaded.tracked
    serve = tf.function(loaded.exported, input_signature=[tf.TensorSpec((None, *loaded.shape))])
    tf.saved_model.save(module, str(folder), signatures=serve)
    (answer,) = (
        tf.saved_model.load(str(folder)).signatures["serving_default"](tf.constant(images(loaded))).values()
    )
    return np.asarray(answer)


def refused(path: Path, *arguments: Any, error: type[TfshipError] = ArtifactError) -> str:
    with pytest.raises(error) as caught:
        load(path, *arguments)
    message = str(caught.value)
    assert "\n" not in message
    return message


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


@pytest.mark.parametrize(
    ("shape", "size", "expected"),
    [
        ((49, 10, 1), None, (49, 10, 1)),
        ((49, 10), None, (49, 10, 1)),
        ((32, 1, 40), None, (32, 40, 1)),
        ((1, 32, 40), None, (32, 40, 1)),
        ((3, 8, 10), None, (8, 10, 3)),
        ((784,), (28, 28), (28, 28, 1)),
        ((300,), (5, 20), (5, 20, 3)),
        ((None, None, 3), (8, 10), (8, 10, 3)),
        ((3, None, None), (8, 10), (8, 10, 3)),
        ((None, None), (8, 10), (8, 10, 1)),
        ((8, 10, 3), (8, 10), (8, 10, 3)),
    ],
)
def test_layouts(
    shape: tuple[int | None, ...], size: tuple[int, int] | None, expected: tuple[int, int, int]
) -> None:
    layout = layouts.of(Path("model"), shape, size)
    assert layout.shape == expected
    x = np.random.default_rng(0).random((2, *expected), np.float32)
    arranged = np.asarray(layout.arrange(tf.constant(x)))
    if shape[0] == 3:
        assert np.array_equal(arranged, x.transpose(0, 3, 1, 2))
    else:
        assert np.array_equal(arranged.ravel(), x.ravel())
    assert all(one in (other, None) for one, other in zip(shape, arranged.shape[1:], strict=True))


@pytest.mark.parametrize(
    ("shape", "size", "remedy"),
    [
        ((784,), None, "--size 28,28"),
        ((3072,), None, "--size 32,32"),
        ((120,), None, "--size H,W"),
        ((784,), (32, 32), "--size"),
        ((None, None, 3), None, "--size 224,224"),
        ((None,), (8, 8), "save it with an input"),
        ((8, 8, None), (8, 8), "expected [None, height, width, 1 or 3]"),
        ((8, 10, 3), (10, 8), "leave --size out"),
        ((None, 10, 3), (8, 8), "leave --size out"),
        ((8, 8, 4), None, "keras.layers.Reshape"),
        ((4, 8, 8, 3), None, "keras.layers.Reshape"),
        ((), None, "keras.layers.Reshape"),
    ],
)
def test_what_is_no_image(shape: tuple[int | None, ...], size: tuple[int, int] | None, remedy: str) -> None:
    with pytest.raises(TfshipError) as caught:
        layouts.of(Path("model"), shape, size)
    assert remedy in str(caught.value)


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


def run_elsewhere(code: str, folder: Path) -> None:
    """Run Python in a process whose registered layers and imported packages this one doesn't have."""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_custom_layers_need_their_file(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(LAYERS)
    run_elsewhere(
        "import keras, mine, numpy as np\n"
        "start = [keras.Input((8, 8, 1)), mine.Twice(), keras.layers.Flatten()]\n"
        "keras.Sequential([*start, keras.layers.Dense(3)]).save('layer.keras')\n"
        "keras.Sequential([*start, keras.layers.Dense(3, activation=mine.squared)]).save('function.keras')\n"
        "model = mine.Subclassed()\n"
        "model(np.zeros((1, 8, 8, 1)))\n"
        "model.save('subclassed.keras')\n",
        tmp_path,
    )
    for name, held in (("layer", "Twice"), ("subclassed", "Subclassed")):
        message = refused(tmp_path / f"{name}.keras")
        assert f"doesn't know {held} (Could not locate class '{held}'." in message
        assert "config=" not in message
        assert f"--import my_layers.py, the file that registers {held}, or" in message
        assert 'call model.export("folder") and export that folder' in message
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
        "model.weights.h5": "holds weights only, not the layers; call model.load_weights",
        "cut.keras": "damaged",
        "damaged.keras": "",
        "cut.h5": "damaged",
        "text.h5": "no Keras file",
        "empty.keras": "an empty file",
        "model.tflite": "give the Keras file or the SavedModel that it was made from",
        "torch.keras": "a zip without config.json",
        "packed.zip": "unzip it",
        "folder": "a folder without saved_model.pb",
        "base": f"give the folder of one, as {tmp_path / 'base' / '1'}",
        "base/1/saved_model.pb": f"give its folder, {tmp_path / 'base' / '1'}",
        "broken": "TensorFlow can't load it",
    }.items():
        assert expected in refused(tmp_path / name), name


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    with silent():
        import tf_keras

        for library, ending in ((keras, "keras"), (tf_keras, "h5")):
            scale = library.layers.Lambda(lambda x: x / 255, name="scale")
            library.Sequential([library.Input((8, 8, 1)), scale]).save(tmp_path / f"lambda.{ending}")
    for ending in ("keras", "h5"):
        assert "the Lambda layer scale, Python code" in refused(tmp_path / f"lambda.{ending}")


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


def block(x: Any, layer: Any) -> Any:
    from tf_keras import layers as old

    return old.Activation("relu")(old.BatchNormalization()(layer(x)))


def classifier(image: Any, x: Any, classes: int) -> Any:
    import tf_keras
    from tf_keras import layers as old

    return tf_keras.Model(image, old.Dense(classes, "softmax")(old.Flatten()(x)))


def resnet() -> Any:
    from tf_keras import layers as old

    image = old.Input((32, 32, 3))
    x = block(image, old.Conv2D(8, 3, strides=2, padding="same", kernel_regularizer="l2"))
    y = old.BatchNormalization()(old.Conv2D(8, 3, padding="same")(x))
    return classifier(image, old.AveragePooling2D(8)(old.Activation("relu")(old.add([x, y]))), 10)


def ds_cnn() -> Any:
    from tf_keras import layers as old

    image = old.Input((49, 10, 1))
    x = block(image, old.Conv2D(8, (10, 4), (2, 2), padding="same"))
    x = block(old.Dropout(0.2)(x), old.DepthwiseConv2D(3, padding="same"))
    return classifier(image, old.AveragePooling2D((25, 5))(block(x, old.Conv2D(8, 1))), 12)


def mobile() -> Any:
    import tf_keras

    return tf_keras.applications.MobileNet((32, 32, 3), alpha=0.25, weights=None, classes=2)


def autoencoder() -> Any:
    import tf_keras
    from tf_keras import layers as old

    return tf_keras.Sequential([old.Input((640,)), old.Dense(8, "relu"), old.Dense(640)])


def streaming() -> Any:
    from tf_keras import layers as old

    image = old.Input((32, 1, 40))
    return classifier(image, block(old.DepthwiseConv2D((3, 1))(image), old.Conv2D(16, 1)), 3)


def operators() -> Any:
    from tf_keras import layers as old

    image = old.Input((32, 32, 3))
    return classifier(image, old.LSTM(4, recurrent_activation="hard_sigmoid")(image[:, 0] / 127.5 - 1), 3)


def half() -> Any:
    import tf_keras
    from tf_keras import layers as old

    tf_keras.mixed_precision.set_global_policy("mixed_float16")
    image = old.Input((16, 16, 1), dtype="uint8")
    model = classifier(image, old.Conv2D(4, 3)(old.Rescaling(1 / 255)(image)), 3)
    tf_keras.mixed_precision.set_global_policy("float32")
    return model


@pytest.fixture(scope="module")
def keras_2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models as MLPerf Tiny's five are, and two more, made by Keras 2: `.h5`, some `.keras`, some SavedModels."""
    folder = tmp_path_factory.mktemp("keras_2")
    with silent():
        import tf_keras

        tf_keras.utils.set_random_seed(1)
        for build in (resnet, ds_cnn, mobile, autoencoder, streaming, operators, half):
            model, name = build(), build.__name__
            x = np.random.default_rng(0).integers(0, 256, (4, *model.input_shape[1:])).astype(np.float32)
            model.compile("adam", "mse", metrics=["accuracy"])
            if name in ("autoencoder", "streaming"):
                model.train_on_batch(x, np.zeros((4, *model.output_shape[1:])))
                model.save(folder / name, save_format="tf")
            if name in ("ds_cnn", "half"):
                model.save(folder / f"{name}.keras")
            model.save(folder / f"{name}.h5")
            np.savez(folder / f"{name}.npz", x=x, y=np.asarray(model(x, training=False), np.float32))
    return folder


SHAPES = {
    "resnet": (32, 32, 3),
    "ds_cnn": (49, 10, 1),
    "mobile": (32, 32, 3),
    "autoencoder": (16, 40, 1),
    "streaming": (32, 40, 1),
    "operators": (32, 32, 3),
    "half": (16, 16, 1),
}


@pytest.mark.parametrize("installed", [True, False])
def test_files_of_keras_2(keras_2: Path, installed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not installed:
        monkeypatch.setitem(sys.modules, "tf_keras", None)
    for path in sorted(each for each in keras_2.iterdir() if each.suffix != ".npz"):
        name, size = path.stem, (16, 40) if path.stem == "autoencoder" else None
        if not installed and (name == "operators" or path.name in ("ds_cnn.keras", "half.keras")):
            message = refused(path)
            assert "pip install 'tf-keras==" in message
            assert "model.export" in message
            continue
        loaded = load(path, size)
        with np.load(path.with_suffix(".npz")) as arrays:
            x, expected = arrays["x"].reshape(-1, *loaded.shape), arrays["y"]
        assert loaded.shape == SHAPES[name]
        assert scores(loaded.function, x) == pytest.approx(expected, abs=1e-2 if name == "half" else 1e-4), (
            path
        )
        assert scores(loaded.exported, x) == pytest.approx(expected, abs=1e-2 if name == "half" else 1e-4), (
            path
        )
        if path.is_file():
            assert loaded.activation == ("linear" if name == "autoencoder" else "softmax")
            assert loaded.precision == ("float16" if name == "half" else "float32")
            assert loaded.integer == (name == "half")
            assert loaded.value_range == ((0, 255) if name in ("operators", "half") else None)


def test_files_of_keras_2_convert(keras_2: Path) -> None:
    for name in ("ds_cnn.h5", "half.h5", "streaming"):
        loaded = load(keras_2 / name)
        answers, types = converted(loaded)
        assert not types & {"float16", "float32"}
        assert answers == pytest.approx(scores(loaded.function, images(loaded)), abs=0.05)


class Weights(tf.Module):  # type: ignore[misc, name-defined]
    """Weights of a classifier of 8 × 8 images, and what training leaves beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = tf.Variable(tf.random.stateless_normal((64, 3), [1, 2]))

    def scores(self, image: Any) -> dict[str, Any]:
        return {"scores": tf.nn.softmax(tf.reshape(image, (-1, 64)) @ self.kernel)}


def signed(folder: Path, function: Callable[[Any], Any], shape: Any, dtype: Any, *names: str) -> Path:
    """Write a SavedModel of the weights behind `function`, with signatures of these names."""
    module = Weights()
    call = tf.function(
        lambda image: module.scores(function(image)), input_signature=[tf.TensorSpec(shape, dtype)]
    )
    tf.saved_model.save(module, str(folder), signatures=dict.fromkeys(names or ["serving_default"], call))
    return folder


def test_types_of_signatures(tmp_path: Path) -> None:
    def scaled(image: Any) -> Any:
        return tf.cast(image, tf.float32) / 255

    shape = (None, 8, 8, 1)
    for name, dtype, call, integer, precision in (
        ("bytes", tf.uint8, scaled, True, "float32"),
        ("integers", tf.int32, lambda image: scaled(tf.transpose(image, (0, 2, 1, 3))), True, "float32"),
        ("half", tf.float16, lambda image: scaled(image / 2), False, "float16"),
        ("double", tf.float64, lambda image: tf.cast(image / 255, tf.float32), False, "float32"),
    ):
        loaded = load(signed(tmp_path / name, call, shape, dtype))
        assert (loaded.integer, loaded.precision, loaded.activation) == (integer, precision, None)
        assert agrees(loaded, 1e-5 if precision == "float32" else 0.02)
        expected = scores(loaded.exported, images(loaded))
        assert resaved(loaded, tmp_path / f"{name} again") == pytest.approx(expected, abs=1e-5)
        answers, types = converted(loaded)
        assert not types & {"float16", "float32", "float64", "uint8"}
        assert answers == pytest.approx(expected, abs=0.05)
    # Bytes that are halved lose a bit, which float32 keeps: the cast stays.
    loaded = load(signed(tmp_path / "halved", lambda image: scaled(image // 2), shape, tf.uint8))
    assert loaded.integer
    assert agrees(loaded)


def test_signatures_by_other_names(tmp_path: Path) -> None:
    def call(image: Any) -> Any:
        return image / 255

    assert load(signed(tmp_path / "one", call, (None, 8, 8), tf.float32, "predict")).shape == (8, 8, 1)
    assert load(signed(tmp_path / "batch", call, (1, 8, 8), tf.float32)).batch == 1
    assert load(signed(tmp_path / "serve", call, (None, 8, 8), tf.float32, "serve", "other")).batch is None
    several = signed(tmp_path / "several", call, (None, 8, 8), tf.float32, "a", "b")
    assert "has no signature serving_default; there are a, b" in refused(several)
    assert "any shape" in refused(signed(tmp_path / "rank", call, None, tf.float32))
    strings = signed(tmp_path / "strings", lambda x: tf.io.decode_raw(x, tf.float32), (None,), tf.string)
    assert "takes string" in refused(strings)


def test_savedmodels_with_training_state(tmp_path: Path) -> None:
    module = Weights()
    module.optimizer = tf.compat.v1.train.AdamOptimizer()
    call = tf.function(module.scores, input_signature=[tf.TensorSpec((None, 8, 8, 1), tf.float32)])
    module.optimizer.minimize(
        lambda: tf.reduce_sum(call(tf.ones((2, 8, 8, 1)))["scores"][:, 0]), var_list=[module.kernel]
    )
    tf.saved_model.save(module, str(tmp_path / "trained"), signatures=call)
    with pytest.raises(AttributeError, match="add_slot"):
        tf.saved_model.load(str(tmp_path / "trained"))
    loaded = load(tmp_path / "trained")
    expected = np.asarray(module.scores(images(loaded))["scores"])
    assert scores(loaded.function, images(loaded)) == pytest.approx(expected, abs=1e-6)
    assert resaved(loaded, tmp_path / "again") == pytest.approx(expected, abs=1e-6)
    answers, types = converted(loaded)
    assert "float32" not in types
    assert answers == pytest.approx(expected, abs=0.05)


def test_a_savedmodel_of_tensorflow_1(tmp_path: Path) -> None:
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        image = v1.placeholder(tf.float32, (None, 8, 8, 1))
        kernel = v1.get_variable("kernel", (64, 3), use_resource=False)
        answers = tf.nn.softmax(tf.reshape(image, (-1, 64)) @ kernel)
        session.run(v1.global_variables_initializer())
        v1.saved_model.simple_save(session, str(tmp_path / "old"), {"image": image}, {"scores": answers})
    loaded = load(tmp_path / "old")
    assert agrees(loaded)
    expected = scores(loaded.function, images(loaded))
    assert resaved(loaded, tmp_path / "again") == pytest.approx(expected, abs=1e-6)


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
