"""Write a model as a SavedModel and as TFLite files. Loads TensorFlow."""

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from ai_edge_litert.schema_py_generated import TensorType
from ai_edge_litert.tools import flatbuffer_utils
from numpy.typing import NDArray

from export import signature_metadata
from export.contract import CLASSIFY, EXAMPLE_FEATURE, SERVING_BYTES, SERVING_UINT8, Contract
from export.formats import Format
from export.prepare import preparation
from export.runtime import DEFAULT_SIGNATURE, IMAGE, PROBABILITIES
from train import backend
from train.errors import ConversionError

__all__ = ["LABELS", "to_saved_model", "to_tflite"]

# The asset with the classes' names, a line each.
LABELS = "labels.txt"

_OPERATORS = {
    "float32": tf.lite.OpsSet.TFLITE_BUILTINS,
    "int8": tf.lite.OpsSet.TFLITE_BUILTINS_INT8,
    "int16": tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8,
}


def to_saved_model(
    function: Callable[[tf.Tensor], tf.Tensor], tracked: Any, contract: Contract, folder: Path
) -> None:
    """Write a SavedModel with the contract's four signatures into `folder`.

    `function` takes images as the contract says and returns probabilities [N, classes]; `tracked` is what holds
    its variables. The names are ours, because Keras' automatic ones change from run to run and would break
    clients. The batch dimension is free.
    """
    prepare = preparation(contract)
    labels = tf.constant(contract.labels)

    def of_pixels(pixels: tf.Tensor) -> tf.Tensor:
        return function(contract.scaling.apply(tf.cast(pixels, tf.float32)))

    # A function of its own, so that the graph holds the preparation once for both signatures.
    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string)])  # type: ignore[untyped-decorator]
    def of_pictures(pictures: tf.Tensor) -> tf.Tensor:
        return of_pixels(tf.map_fn(prepare, pictures, fn_output_signature=tf.uint8))

    def texts(name: str) -> tf.TensorSpec:
        return tf.TensorSpec((None,), tf.string, name=name)

    @tf.function(input_signature=[_images(contract, tf.uint8)])  # type: ignore[untyped-decorator]
    def serve_uint8(image: tf.Tensor) -> dict[str, tf.Tensor]:
        return {PROBABILITIES: of_pixels(image)}

    @tf.function(input_signature=[texts("image_bytes")])  # type: ignore[untyped-decorator]
    def serve_bytes(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        probabilities = of_pictures(image_bytes)
        label = tf.gather(labels, tf.argmax(probabilities, 1))
        return {PROBABILITIES: probabilities, "label": label, "score": tf.reduce_max(probabilities, 1)}

    @tf.function(input_signature=[texts("inputs")])  # type: ignore[untyped-decorator]
    def classify(inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        features = tf.io.parse_example(inputs, {EXAMPLE_FEATURE: tf.io.FixedLenFeature([], tf.string)})
        scores = of_pictures(features[EXAMPLE_FEATURE])
        return {"classes": tf.tile(labels[tf.newaxis], [tf.shape(scores)[0], 1]), "scores": scores}

    # Not keras.export.ExportArchive: it writes every variable twice, which doubles what is deployed.
    module = tf.Module()
    module.tracked = tracked
    folder.mkdir(exist_ok=True)
    asset = folder / LABELS
    asset.write_text("".join(f"{label}\n" for label in contract.labels), encoding="utf-8")
    module.labels = tf.saved_model.Asset(str(asset))
    signatures = {
        DEFAULT_SIGNATURE: _serve(function, contract),
        SERVING_UINT8: serve_uint8,
        SERVING_BYTES: serve_bytes,
        CLASSIFY: classify,
    }
    tf.saved_model.save(module, str(folder), signatures=signatures)
    asset.unlink()  # saved_model.save has copied it to assets/
    _name_methods(folder)


def to_tflite(
    function: Callable[[tf.Tensor], tf.Tensor],
    tracked: Any,
    contract: Contract,
    row: Format,
    calibration: NDArray[np.float32] | None,
) -> bytes:
    """Return the model as a TFLite file in the format of `row`, with the signature `serving_default`.

    `function` and `tracked` are as in `to_saved_model`. `calibration` are images as the model takes them, float32
    [N, H, W, C]; needed only where the format asks for them. Raises ConversionError with the converter's reason.
    """
    module = tf.Module()
    module.tracked = tracked
    # Not from the SavedModel: the converter would read all of it, twice, and nearly all of it prepares pictures.
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [_serve(function, contract).get_concrete_function()], module
    )
    if row.weights != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if row.weights == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if row.calibrated:
        if calibration is None:
            raise ConversionError(
                f"{row.name}: needs images to find the activations' ranges; give --calibration"
            )
        converter.representative_dataset = _one_by_one(calibration)
        converter.target_spec.supported_ops = [_OPERATORS[row.activations]]
    if row.activations == "int16":
        # With biases of 64 bits, the default, every convolution runs on LiteRT's reference kernel.
        converter._experimental_full_integer_quantization_bias_type = tf.int32
    converter.inference_input_type = converter.inference_output_type = tf.as_dtype(row.edge)
    try:
        with backend.quiet(), warnings.catch_warnings():
            # The converter's own calibrator uses the interpreter whose deprecation it announces.
            warnings.filterwarnings("ignore", message=r"\s*Warning: tf.lite.Interpreter is deprecated")
            data: bytes = converter.convert()
    except Exception as error:  # the converter raises its own and many built-in kinds
        reason = str(error).strip().splitlines()
        raise ConversionError(f"{row.name}: {reason[0] if reason else type(error).__name__}") from error
    if row.calibrated and (floats := _computed_in_float(data)):
        # The converter says nothing of it, whatever operators it was told to use.
        raise ConversionError(
            f"{row.name}: {', '.join(floats)} would be computed in float32, for want of an integer kernel; the format "
            "selective may keep layers in float32"
        )
    return signature_metadata.add(data)


def _images(contract: Contract, dtype: tf.DType) -> tf.TensorSpec:
    return tf.TensorSpec((None, *contract.shape), dtype, name=IMAGE)


def _serve(function: Callable[[tf.Tensor], tf.Tensor], contract: Contract) -> Any:
    """Return the signature `serving_default`."""

    @tf.function(input_signature=[_images(contract, tf.float32)])  # type: ignore[untyped-decorator]
    def serve(image: tf.Tensor) -> dict[str, tf.Tensor]:
        return {PROBABILITIES: function(image)}

    return serve


def _computed_in_float(data: bytes) -> list[str]:
    """Return the operators of a TFLite file that answer in float32, but for those that change types."""
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(data))
    return sorted(
        {
            flatbuffer_utils.opcode_to_name(model, operator.opcodeIndex)
            for graph in model.subgraphs
            for operator in graph.operators
            if any(graph.tensors[index].type == TensorType.FLOAT32 for index in operator.outputs)
        }
        - {"DEQUANTIZE"}
    )


def _one_by_one(images: NDArray[np.float32]) -> Callable[[], Iterator[dict[str, Any]]]:
    def dataset() -> Iterator[dict[str, Any]]:
        for image in images:
            yield {IMAGE: image[np.newaxis]}

    return dataset


def _name_methods(folder: Path) -> None:
    """Give the `classify` signature the method name that TensorFlow Serving's Classify looks for.

    TensorFlow 2 writes every signature as one for Predict; this is its own tool for changing that.
    """
    updater = tf.compat.v1.saved_model.signature_def_utils.MethodNameUpdater(str(folder))
    updater.replace_method_name(
        signature_key=CLASSIFY, method_name=tf.compat.v1.saved_model.signature_constants.CLASSIFY_METHOD_NAME
    )
    updater.save()
