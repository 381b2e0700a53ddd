"""Files that Keras 2 wrote: loaded with tf-keras and without it, and converted."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loading_fixtures import converted, images, refused, scores
from tfship.export.sources.keras_files import silent
from tfship.export.sources.model_loading import load


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
    """The first and the last layers of MobileNet, which has 80 more of the same kinds."""
    import tf_keras
    from tf_keras import layers as old

    image = old.Input((32, 32, 3))
    x = old.Conv2D(8, 3, strides=(2, 2), padding="same", use_bias=False)(image)
    x = old.ReLU(6.0)(old.BatchNormalization()(x))
    x = old.DepthwiseConv2D(3, strides=(2, 2), use_bias=False)(old.ZeroPadding2D(((0, 1), (0, 1)))(x))
    x = old.ReLU(6.0)(old.BatchNormalization()(x))
    x = old.Dropout(0.001)(old.GlobalAveragePooling2D(keepdims=True)(x))
    x = old.Reshape((2,))(old.Conv2D(2, 1, padding="same")(x))
    return tf_keras.Model(image, old.Activation("softmax")(x))


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

        for build in (resnet, ds_cnn, mobile, autoencoder, streaming, operators, half):
            tf_keras.utils.set_random_seed(1)
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
