"""What the tests of loading models share: small Keras models, their scores, and their conversion to int8."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from conftest import ROOT
from tfship.export.sources.model_loading import LoadedModel, load
from tfship.train.common.errors import ArtifactError, TfshipError
from tfship.train.common.tensorflow_loader import tensorflow

tf = tensorflow()
import keras  # noqa: E402 - after TensorFlow is loaded quietly
from keras import layers  # noqa: E402

CASES = ROOT.parent / "shared" / "cases"
cases = pytest.mark.skipif(not CASES.is_dir(), reason="the cases of other people's kind aren't there")


def images(loaded: LoadedModel, count: int = 8) -> NDArray[np.float32]:
    """Return random images of the size that the model takes, with values of 0 to 255."""
    return np.random.default_rng(1).integers(0, 256, (count, *loaded.shape)).astype(np.float32)


def scores(function: Callable[[Any], Any], x: NDArray[Any]) -> NDArray[np.float32]:
    """Return what one of the functions of a loaded model answers."""
    return np.asarray(function(tf.constant(x, tf.float32)))


def agrees(loaded: LoadedModel, tolerance: float = 1e-5) -> bool:
    """Say whether what is exported answers as the model itself does."""
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


def refused(path: Path, *arguments: Any, error: type[TfshipError] = ArtifactError) -> str:
    """Return the one line with which loading is refused."""
    with pytest.raises(error) as caught:
        load(path, *arguments)
    message = str(caught.value)
    assert "\n" not in message
    return message
