"""SavedModels loaded: the types and names of their signatures, training state, and one of TensorFlow 1."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from loading_fixtures import agrees, converted, images, refused, scores
from tfship.export.sources.model_loading import LoadedModel, load
from tfship.train.common.tensorflow_loader import tensorflow

tf = tensorflow()


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
    assert "shape is unknown" in refused(signed(tmp_path / "rank", call, None, tf.float32))
    strings = signed(tmp_path / "strings", lambda x: tf.io.decode_raw(x, tf.float32), (None,), tf.string)
    assert "its input is string" in refused(strings)


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
