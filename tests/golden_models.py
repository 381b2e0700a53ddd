"""Models that stand in for those of the recordings: the same names, signatures and tensors, made here.

`half_plus_two` has the graph of a TensorFlow 1 model, as the original's, because answers name its tensors.
"""

import functools
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.tools import flatbuffer_utils

from serving_fixtures import config_of, to_tflite
from tfship.export.conversion import signature_metadata

__all__ = ["golden_config", "tflite_config"]

# Deleted when the interpreter ends.
_FOLDER = tempfile.TemporaryDirectory(prefix="tfship-golden-")
_METHODS = "tensorflow/serving/"


def golden_config(*names: str) -> Any:
    """Return the ModelServerConfig of these models, or of all: what the recordings' golden.config says of them."""
    folder = _models()
    config = config_of(
        **{name: folder / name for name in names or sorted(each.name for each in folder.iterdir())}
    )
    for each in config.model_config_list.config:
        if each.name == "hp2v":
            each.model_version_policy.all.SetInParent()
            each.version_labels.update(stable=123, canary=124)
    return config


def tflite_config() -> Any:
    """Return the ModelServerConfig of TFLite files like those that the recordings' tflite.config names."""
    folder = _tflite_models()
    return config_of(**{each.name: folder / each.name for each in folder.iterdir()})


@functools.cache
def _tflite_models() -> Path:
    folder = Path(_FOLDER.name, "tflite")
    plain = _to_tflite("t", "output_0", batch=1)
    nosig, u8 = (
        flatbuffer_utils.read_model_from_bytearray(bytearray(each))
        for each in (plain, _to_tflite("pic", "output_0", uint8=True))
    )
    nosig.signatureDefs = None
    (output,) = u8.subgraphs[0].outputs
    u8.subgraphs[0].tensors[output].name = "StatefulPartitionedCall_1:0"
    for name, data in {
        "batch1": plain,
        "nosig": bytes(flatbuffer_utils.convert_object_to_bytearray(nosig)),
        "u8": bytes(flatbuffer_utils.convert_object_to_bytearray(u8)),
        "sigdef": signature_metadata.add(_to_tflite("image", "probabilities")),
    }.items():
        (folder / name / "1").mkdir(parents=True)
        (folder / name / "1" / "model.tflite").write_bytes(data)
    return folder


def _to_tflite(source: str, target: str, *, batch: int | None = None, uint8: bool = False) -> bytes:
    """Return what TensorFlow's converter writes for a layer from [batch, 28, 28, 1] to [batch, 10]."""
    import tensorflow as tf

    module = tf.Module()
    random = np.random.default_rng(0)
    module.kernel = tf.Variable(random.normal(0, 0.1, (784, 10)).astype(np.float32))

    def call(image: Any) -> dict[str, Any]:
        return {target: tf.nn.softmax(tf.reshape(image, [-1, 784]) @ module.kernel)}

    spec = tf.TensorSpec([batch, 28, 28, 1], tf.float32, source)
    module.call = tf.function(call, input_signature=[spec])
    with tempfile.TemporaryDirectory(prefix="tfship-") as folder:
        tf.saved_model.save(module, folder, signatures=module.call)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        if uint8:

            def images() -> Iterator[list[Any]]:
                for _ in range(10):
                    yield [random.random((1, 28, 28, 1), np.float32)]

            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.representative_dataset = images
            converter.inference_input_type = converter.inference_output_type = tf.uint8
        data: bytes = converter.convert()
    return data


@functools.cache
def _models() -> Path:
    """Return a folder of SavedModels, by name and version."""
    folder = Path(_FOLDER.name, "saved")
    _save_half_plus_two(folder / "hp2" / "123")
    # For servers that prefer it.
    lite = to_tflite(lambda x: {"y": 0.5 * x + 2.0}, x=[None, 1])
    (folder / "hp2" / "123" / "model.tflite").write_bytes(lite)
    for version in ("123", "124"):
        _save_half_plus_two(folder / "hp2v" / version, classifies_x2=True)
    for name, signatures in _signatures().items():
        _save(folder / name / "1", signatures)
    return folder


def _save_half_plus_two(folder: Path, *, classifies_x2: bool = False) -> None:
    import tensorflow as tf

    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        examples = v1.placeholder(tf.string, name="tf_example")
        # By the name and the version of the operator that are in errors about examples.
        (features,) = tf.raw_ops.ParseExample(
            serialized=examples,
            names=[],
            sparse_keys=[],
            dense_keys=["x", "x2"],
            dense_defaults=[tf.constant([], tf.float32), tf.constant([0.0])],
            sparse_types=[],
            dense_shapes=[[1], [1]],
            name="ParseExample/ParseExample",
        )[3:]
        x, x2 = (tf.identity(each, name) for each, name in zip(features, ("x", "x2"), strict=True))
        y = tf.add(0.5 * x, 2.0, name="y")
        y2 = tf.add(0.5 * x, 3.0, name="y2")
        y3 = tf.add(0.5 * x2, 3.0, name="y3")

        def signature(method: str, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> Any:
            info = [
                {name: v1.saved_model.build_tensor_info(each) for name, each in side.items()}
                for side in (inputs, outputs)
            ]
            return v1.saved_model.build_signature_def(*info, _METHODS + method)

        signatures = {
            "serving_default": signature("predict", {"x": x}, {"y": y}),
            "regress_x_to_y": signature("regress", {"inputs": examples}, {"outputs": y}),
            "regress_x_to_y2": signature("regress", {"inputs": examples}, {"outputs": y2}),
            "regress_x2_to_y3": signature("regress", {"inputs": x2}, {"outputs": y3}),
            "classify_x_to_y": signature("classify", {"inputs": examples}, {"scores": y}),
        }
        if classifies_x2:
            signatures["classify_x2_to_y3"] = signature("classify", {"inputs": x2}, {"scores": y3})
        builder = v1.saved_model.Builder(str(folder))
        builder.add_meta_graph_and_variables(session, ["serve"], signatures)
        builder.save()


def _save(folder: Path, signatures: Mapping[str, Any]) -> None:
    import tensorflow as tf

    module = tf.Module()
    module.functions = dict(signatures)
    tf.saved_model.save(module, str(folder), signatures=dict(signatures))


def _signatures() -> dict[str, dict[str, Any]]:
    """Return the signatures of the models that TensorFlow 2 made."""
    import tensorflow as tf

    def signature(function: Callable[..., Any], **inputs: tuple[Sequence[int | None] | None, Any]) -> Any:
        specs = [tf.TensorSpec(shape, dtype, name) for name, (shape, dtype) in inputs.items()]
        return tf.function(function, input_signature=specs)

    floats, texts = ([None], tf.float32), ([None], tf.string)
    same = {
        dtype.name: signature(lambda x: {"y": tf.identity(x)}, x=([None], dtype))
        for dtype in (
            *(tf.int8, tf.int16, tf.int32, tf.int64, tf.uint8, tf.uint16, tf.uint32, tf.uint64),
            *(tf.float16, tf.float32, tf.float64, tf.bfloat16, tf.bool),
        )
    }
    return {
        "multi": {
            "serving_default": signature(
                lambda a, b: {"scaled": 2.0 * a, "sum": tf.reduce_sum(a, 1) + tf.cast(b, tf.float32)},
                a=([None, 2], tf.float32),
                b=([None], tf.int32),
            ),
            "other": signature(lambda a: {"neg": -a}, a=([None, 2], tf.float32)),
        },
        "div": {
            "serving_default": signature(lambda x, y: {"q": x / y}, x=floats, y=floats),
            "div64": signature(lambda x, y: {"q": x / y}, x=([None], tf.float64), y=([None], tf.float64)),
        },
        "types": {
            **same,
            "serving_default": signature(lambda x: {"y": 2 * x}, x=([None], tf.int64)),
            "complex64": signature(lambda x: {"y": tf.complex(x, x)}, x=floats),
        },
        "strings": {
            "serving_default": signature(
                lambda s: {"upper": tf.strings.upper(s), "copy_bytes": tf.identity(s)}, s=texts
            ),
            "single": signature(lambda s: {"upper": tf.strings.upper(s)}, s=texts),
            "single_bytes": signature(lambda s: {"copy_bytes": tf.identity(s)}, s=texts),
            "bytes_in": signature(lambda img_bytes: {"len": tf.strings.length(img_bytes)}, img_bytes=texts),
        },
        "shapes": {
            "serving_default": signature(lambda x: {"y": tf.reduce_sum(x)}, x=floats),
            "scalar_in": signature(lambda x: {"y": 2.0 * x}, x=([], tf.float32)),
            "anyrank": signature(lambda x: {"y": x + 1.0}, x=(None, tf.float32)),
            "mat": signature(lambda x: {"y": x + 1.0}, x=([None, 2, 3], tf.float32)),
            "mixed": signature(lambda x: {"s": tf.reduce_sum(x), "y": x + 1.0}, x=floats),
            "different_batch": signature(lambda x: {"y": x + 1.0, "z": tf.concat([x, x], 0)}, x=floats),
            "empty_out": signature(lambda x: {"y": x[:, :0]}, x=([None, 2], tf.float32)),
        },
        "nodefault": {"mysig": signature(lambda x: {"y": x + 1.0}, x=floats)},
    }
