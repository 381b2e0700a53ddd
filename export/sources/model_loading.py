"""Loading of Keras files and SavedModels as one kind of function. Loads TensorFlow on first use."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tfship.export.preprocessing import layouts
from tfship.export.preprocessing.layouts import Layout
from tfship.export.runtimes import signatures
from tfship.export.sources import architecture, keras_files
from tfship.export.sources.keras_files import silent
from tfship.train.common.errors import ArtifactError, UsageError
from tfship.train.common.tensorflow_loader import tensorflow

__all__ = ["LoadedModel", "load"]

# Largest difference between the scores of two equivalent forms of a model, in float32.
_TOLERANCE = 1e-3


@dataclass(frozen=True)
class LoadedModel:
    """A model with one image input and one output of scores.

    `function` maps images to the model's raw scores, float32 [N, outputs]. The images are a tensor float32 [N, height,
    width, channels] with the values that the model was trained on. `function` casts them and changes their layout to
    that of the model's input. `exported` is the form for conversion: the same function in float32, rescaled to lose
    less accuracy in int8 (`export.conversion.equalization`). `tracked` holds its variables. `layers` are the names of
    its layers, `equalized` those of the rescaled ones; both are empty for a SavedModel.

    `shape` is (height, width, channels) of an image. `batch` is the fixed number of images per call, None for any
    number. `integer` is true if the input is integers, which means unscaled pixels. `activation` is the name of the
    last activation ("softmax", "sigmoid", "linear" …), None if unknown. `value_range` holds the values of pixels 0 and
    255 that the first layers suggest, None without scaling. `precision` is the lowest precision in which `function`
    computes: "float32", "float16", "bfloat16", or "int8" for a model quantized by Keras. `outputs` is the number of
    scores per image.
    """

    function: Callable[[Any], Any]
    exported: Callable[[Any], Any]
    tracked: Any
    layers: tuple[str, ...]
    equalized: list[str]
    shape: tuple[int, int, int]
    batch: int | None = None
    integer: bool = False
    activation: str | None = None
    value_range: tuple[float, float] | None = None
    precision: str = "float32"
    outputs: int = 0


def load(path: Path, size: tuple[int, int] | None = None, imports: Sequence[Path] = ()) -> LoadedModel:
    """Load a Keras file (`.keras`, `.h5`) or a SavedModel's folder.

    `size` is height and width for a model whose input has free sizes or is a flat row. `imports` are Python files that
    register the custom layers and functions of a Keras file. Raises ArtifactError, with the loader's reason and a
    remedy, if the model can't be loaded or doesn't have one image input and one output. Raises UsageError for a `size`
    that doesn't fit, a file of `imports` that fails, or a KERAS_BACKEND other than TensorFlow.
    """
    if (path / "saved_model.pb").is_file():
        return _saved_model(path, size)
    _check_backend()
    return _keras(path, size, imports)


def _check_backend() -> None:
    backend = os.environ.get("KERAS_BACKEND") or "tensorflow"
    if backend != "tensorflow":
        raise UsageError(f"KERAS_BACKEND is {backend}; expected tensorflow or unset; unset it")


def _keras(path: Path, size: tuple[int, int] | None, imports: Sequence[Path]) -> LoadedModel:
    file = keras_files.inspect(path)
    custom = keras_files.run_imports(imports)
    model = file.load(custom)
    shape, dtype = _input(path, model)
    layout = layouts.of(path, shape[1:], size)
    if architecture.is_stateful(model):
        raise ArtifactError(
            f"{path}: has a stateful layer, whose outputs depend on earlier images; rebuild the model with "
            "stateful=False, load the weights, and save it again"
        )
    function = _scores(lambda images: model(images, training=False), layout, dtype)
    scores = _try(path, function, layout, shape[0])
    copy = _in_float32(file, custom)
    exported = _scores(lambda images: copy(images, training=False), layout, "float32")
    integer = bool(tensorflow().as_dtype(dtype).is_integer)
    if integer and not _agree(function, exported, layout, shape[0]):
        # With integers, layers may compute differently, for example by integer division or overflow.
        copy, exported = model, function
    return LoadedModel(
        function,
        exported,
        # TensorFlow's variables, since it doesn't save Keras' wrappers.
        [each if isinstance(each, tensorflow().Variable) else each.value for each in copy.variables],
        architecture.layer_names(model),
        [] if copy is model else _equalize(copy),
        layout.shape,
        _batch(function, layout, shape[0], scores),
        integer,
        architecture.activation(model),
        architecture.value_range(model),
        architecture.precision(model),
        scores.shape[1],
    )


def _saved_model(path: Path, size: tuple[int, int] | None) -> LoadedModel:
    signature = signatures.open_signature(path)
    shape, dtype = signature.shape, signature.dtype
    if np.dtype(tensorflow().as_dtype(dtype).as_numpy_dtype).kind not in "iufV":
        raise ArtifactError(
            f"{path}: its input is {dtype}; expected images as numbers; save it with a signature with an input "
            "[None, height, width, 1 or 3]"
        )
    layout = layouts.of(path, shape[1:], size)
    function = exported = _scores(signature.call, layout, dtype)
    tracked = signature.tracked
    scores = _try(path, function, layout, shape[0])
    integer = bool(tensorflow().as_dtype(dtype).is_integer)
    if dtype != "float32" or signature.precision != "float32":
        call = _frozen(signature)
        single = function if call is None else _scores(call, layout, "float32")
        # Half precision may differ by more, which the export's checks judge later.
        if _agree(
            function, single, layout, shape[0], _TOLERANCE if signature.precision == "float32" else np.inf
        ):
            exported, tracked = single, [] if call is not None else tracked
    return LoadedModel(
        function,
        exported,
        tracked,
        (),
        [],
        layout.shape,
        shape[0],
        integer,
        precision=signature.precision,
        outputs=scores.shape[1],
    )


def _frozen(signature: signatures.SignatureFunction) -> Callable[[Any], Any] | None:
    """Return the signature in float32; None if that fails, and each format then reports the converter's reason."""
    try:
        with silent():
            return signatures.in_float32(signature.call, signature.shape, signature.dtype)
    except Exception:  # noqa: BLE001 - the caller uses the unchanged function
        return None


def _input(path: Path, model: Any) -> tuple[tuple[int | None, ...], str]:
    """Return shape and dtype of the only input of `model`."""
    inputs, outputs = (getattr(model, name, None) or [] for name in ("inputs", "outputs"))
    if len(inputs) > 1 or len(outputs) > 1:
        raise ArtifactError(
            f"{path}: has {len(inputs)} inputs and {len(outputs)} outputs; expected one input for images and one "
            "output of class scores; make a keras.Model of that part, and save it"
        )
    if inputs:
        dtype = inputs[0].dtype
        return tuple(inputs[0].shape), dtype if isinstance(dtype, str) else dtype.name
    # A subclassed model has no graph of layers, but the file contains its build configuration.
    shape = (model.get_build_config() or {}).get("input_shape")
    if (
        not model.built
        or not isinstance(shape, (list, tuple))
        or not all(each is None or isinstance(each, int) for each in shape)
    ):
        raise ArtifactError(f"{path}: a subclassed model without an input shape; {keras_files.WAY_OUT}")
    return (None, *shape[1:]), "float32"


def _scores(function: Callable[[Any], Any], layout: Layout, dtype: str) -> Callable[[Any], Any]:
    """Wrap a model's `function` as one from images float32 [N, H, W, C] to scores float32 [N, outputs]."""

    def call(images: Any) -> Any:
        tf = tensorflow()
        arranged = tf.cast(layout.arrange(tf.convert_to_tensor(images, "float32")), dtype)
        (scores,) = tf.nest.flatten(function(arranged))
        if scores.shape.rank == 1:
            scores = scores[:, tf.newaxis]
        elif scores.shape.rank is not None and all(each == 1 for each in scores.shape[1:-1]):
            scores = tf.reshape(scores, (-1, scores.shape[-1])) if scores.shape.rank > 2 else scores
        return tf.cast(scores, "float32")

    return call


def _try(path: Path, function: Callable[[Any], Any], layout: Layout, batch: int | None) -> Any:
    """Return scores for images of random pixels; ArtifactError if the model returns none."""
    with silent():
        failure = None
        try:
            scores = np.asarray(function(_images(layout, batch or 2)))
        except Exception as error:  # noqa: BLE001 - a model raises whatever its layers raise
            failure = error
    if failure is not None:
        raise ArtifactError(
            f"{path}: fails on images {list(layout.shape)} ({keras_files.reason(failure)}); expected one output "
            "with the scores of each image"
        ) from failure
    if scores.ndim != 2 or len(scores) != (batch or 2):
        raise ArtifactError(
            f"{path}: returns {list(scores.shape)} for {batch or 2} images; expected scores [N, classes]; let the "
            "last layer return one score for each class"
        )
    return scores


def _images(layout: Layout, count: int) -> Any:
    return np.random.default_rng(0).integers(0, 256, (count, *layout.shape)).astype(np.float32)


def _batch(function: Callable[[Any], Any], layout: Layout, batch: int | None, scores: Any) -> int | None:
    """Return a Keras model's fixed batch size, or None if other sizes work too, whatever the input's shape says."""
    if batch is None:
        return None
    images = _images(layout, batch)
    try:
        with silent():
            twice = np.asarray(function(np.concatenate([images, images[::-1]])))
    except Exception:  # noqa: BLE001 - the batch size is really fixed
        return batch
    expected = np.concatenate([scores, scores[::-1]])
    return None if twice.shape == expected.shape and np.allclose(twice, expected, atol=_TOLERANCE) else batch


def _in_float32(file: keras_files.KerasFile, custom: dict[str, Any]) -> Any:
    """Load another copy of a Keras file's model, with the float32 policy if its layers allow that."""
    try:
        return file.load(custom, edit=keras_files.in_float32)
    except ArtifactError:
        return file.load(custom)


def _agree(
    one: Callable[[Any], Any],
    other: Callable[[Any], Any],
    layout: Layout,
    batch: int | None,
    tolerance: float = _TOLERANCE,
) -> bool:
    """Return whether two forms of a model return the same scores; false if `other` fails."""
    images = _images(layout, batch or 4)
    try:
        with silent():
            return np.allclose(one(images), other(images), atol=tolerance)
    except Exception:  # noqa: BLE001 - the other fails
        return False


def _equalize(model: Any) -> list[str]:
    import keras

    if not isinstance(model, keras.Model):
        return []
    from tfship.export.conversion.equalization import equalize

    return equalize(model)
