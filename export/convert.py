"""Write a Keras model as a SavedModel, and a SavedModel as TFLite files. Loads TensorFlow."""

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from export.formats import Format
from export.runtime import DEFAULT_SIGNATURE, IMAGE, PROBABILITIES
from train import backend
from train.errors import ConversionError

__all__ = ["to_saved_model", "to_tflite"]

_OPERATORS = {
    "float32": tf.lite.OpsSet.TFLITE_BUILTINS,
    "int8": tf.lite.OpsSet.TFLITE_BUILTINS_INT8,
    "int16": tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8,
}


def to_saved_model(model: keras.Model, folder: Path) -> None:
    """Write `folder/saved_model.pb` and its variables, with one signature: image → probabilities.

    The names are ours, because Keras' automatic ones change from run to run and would break clients. The
    batch dimension is free.
    """
    shape = (None, *model.input_shape[1:])

    @tf.function(input_signature=[tf.TensorSpec(shape, tf.float32, name=IMAGE)])  # type: ignore[untyped-decorator]
    def serve(image: tf.Tensor) -> dict[str, tf.Tensor]:
        return {PROBABILITIES: model(image, training=False)}

    # Not keras.export.ExportArchive: it writes every variable twice, which doubles what is deployed.
    module = tf.Module()
    module.model_variables = [variable.value for variable in model.variables]
    tf.saved_model.save(module, str(folder), signatures={DEFAULT_SIGNATURE: serve})


def to_tflite(saved_model: Path, row: Format, calibration: NDArray[np.float32]) -> bytes:
    """Return the SavedModel as a TFLite file in the format of `row`, with the same signature.

    `calibration` are images as the model takes them, float32 [N, H, W, C]; used only where the format asks
    for them. Raises ConversionError with the converter's reason.
    """
    converter = tf.lite.TFLiteConverter.from_saved_model(str(saved_model), signature_keys=[DEFAULT_SIGNATURE])
    if row.weights != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if row.weights == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if row.calibrated:
        converter.representative_dataset = _one_by_one(calibration)
        # Only integer operators: a layer that has none must be an error here, not a silent float island.
        converter.target_spec.supported_ops = [_OPERATORS[row.activations]]
    converter.inference_input_type = converter.inference_output_type = tf.as_dtype(row.edge)
    try:
        with backend.quiet(), warnings.catch_warnings():
            # The converter's own calibrator uses the interpreter whose deprecation it announces.
            warnings.filterwarnings("ignore", message=r"\s*Warning: tf.lite.Interpreter is deprecated")
            data: bytes = converter.convert()
    except Exception as error:  # the converter raises its own and many built-in kinds
        reason = str(error).strip().splitlines()
        raise ConversionError(f"{row.name}: {reason[0] if reason else type(error).__name__}") from error
    return data


def _one_by_one(images: NDArray[np.float32]) -> Callable[[], Iterator[dict[str, Any]]]:
    def dataset() -> Iterator[dict[str, Any]]:
        for image in images:
            yield {IMAGE: image[np.newaxis]}

    return dataset
