"""Writer of SavedModels with fixed signatures. Loads TensorFlow."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import tensorflow as tf

from tfship.export.preprocessing.graph import preparation
from tfship.export.preprocessing.input_contract import (
    CLASSIFY,
    EXAMPLE_FEATURE,
    SERVING_BYTES,
    SERVING_UINT8,
    Contract,
)
from tfship.export.runtimes.protocol import DEFAULT_SIGNATURE, IMAGE, PROBABILITIES

__all__ = ["LABELS", "serving_default", "to_saved_model"]

# The asset with the class names, one per line.
LABELS = "labels.txt"


def to_saved_model(
    function: Callable[[tf.Tensor], tf.Tensor], tracked: Any, contract: Contract, folder: Path
) -> None:
    """Write a SavedModel with the contract's four signatures into `folder`.

    `function` maps images float32 [N, H, W, C], scaled by the contract, to probabilities [N, classes]. `tracked`
    holds its variables. The names of signatures and tensors are fixed: Keras' automatic names change from run to run
    and would break clients. The batch dimension is free.
    """
    prepare = preparation(contract)
    labels = tf.constant(contract.labels)

    def of_pixels(pixels: tf.Tensor) -> tf.Tensor:
        return function(contract.scaling.apply(tf.cast(pixels, tf.float32)))

    # A separate tf.function, so that the graph contains the preparation once for both signatures.
    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string)])  # type: ignore[untyped-decorator]
    def of_encoded(images: tf.Tensor) -> tf.Tensor:
        return of_pixels(tf.map_fn(prepare, images, fn_output_signature=tf.uint8))

    def strings(name: str) -> tf.TensorSpec:
        return tf.TensorSpec((None,), tf.string, name=name)

    @tf.function(input_signature=[_images(contract, tf.uint8)])  # type: ignore[untyped-decorator]
    def serve_uint8(image: tf.Tensor) -> dict[str, tf.Tensor]:
        return {PROBABILITIES: of_pixels(image)}

    @tf.function(input_signature=[strings("image_bytes")])  # type: ignore[untyped-decorator]
    def serve_bytes(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        probabilities = of_encoded(image_bytes)
        label = tf.gather(labels, tf.argmax(probabilities, 1))
        return {PROBABILITIES: probabilities, "label": label, "score": tf.reduce_max(probabilities, 1)}

    @tf.function(input_signature=[strings("inputs")])  # type: ignore[untyped-decorator]
    def classify(inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        features = tf.io.parse_example(inputs, {EXAMPLE_FEATURE: tf.io.FixedLenFeature([], tf.string)})
        scores = of_encoded(features[EXAMPLE_FEATURE])
        return {"classes": tf.tile(labels[tf.newaxis], [tf.shape(scores)[0], 1]), "scores": scores}

    # Not keras.export.ExportArchive: it writes every variable twice, which doubles the size.
    module = tf.Module()
    module.tracked = tracked
    folder.mkdir(exist_ok=True)
    asset = folder / LABELS
    asset.write_text("".join(f"{label}\n" for label in contract.labels), encoding="utf-8")
    module.labels = tf.saved_model.Asset(str(asset))
    signatures = {
        DEFAULT_SIGNATURE: serving_default(function, contract),
        SERVING_UINT8: serve_uint8,
        SERVING_BYTES: serve_bytes,
        CLASSIFY: classify,
    }
    tf.saved_model.save(module, str(folder), signatures=signatures)
    asset.unlink()  # saved_model.save has copied it to assets/
    _name_methods(folder)


def serving_default(
    function: Callable[[tf.Tensor], tf.Tensor], contract: Contract, batch: int | None = None
) -> Any:
    """Return the signature `serving_default`: `function` on `batch` float32 images (None: any number)."""

    @tf.function(input_signature=[_images(contract, tf.float32, batch)])  # type: ignore[untyped-decorator]
    def serve(image: tf.Tensor) -> dict[str, tf.Tensor]:
        return {PROBABILITIES: function(image)}

    return serve


def _images(contract: Contract, dtype: tf.DType, batch: int | None = None) -> tf.TensorSpec:
    return tf.TensorSpec((batch, *contract.shape), dtype, name=IMAGE)


def _name_methods(folder: Path) -> None:
    """Set the method name of the `classify` signature to the one that TensorFlow Serving's Classify expects.

    TensorFlow 2 writes the Predict method for every signature; `MethodNameUpdater` is its tool for changing that.
    """
    updater = tf.compat.v1.saved_model.signature_def_utils.MethodNameUpdater(str(folder))
    updater.replace_method_name(
        signature_key=CLASSIFY, method_name=tf.compat.v1.saved_model.signature_constants.CLASSIFY_METHOD_NAME
    )
    updater.save()
