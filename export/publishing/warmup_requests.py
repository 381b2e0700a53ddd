"""Warm-up requests, which a server runs before a version is available, so that the first client needn't wait.

TensorFlow Serving replays `assets.extra/tf_serving_warmup_requests`, a TFRecord file of PredictionLog messages
(its guide "SavedModel Warmup"). Loads TensorFlow.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tensorflow_serving.apis import prediction_log_pb2

from tfship.export.preprocessing.input_contract import BOX, CLASSIFY, EXAMPLE_FEATURE, FIELD, WARMUP, Contract
from tfship.export.runtimes.protocol import Runtime

__all__ = ["example", "images", "replay", "write"]

# Sides of images, in pixels, that cover all paths of the preparation: unchanged, reduced, and read again in detail.
_SMALL, _LARGE = 300, 1200


def write(version: Path, model: str, requests: Iterable[tuple[str, Mapping[str, NDArray[Any]]]]) -> None:
    """Write the warm-up file of the directory `version` of `model`.

    Each of `requests` is a signature and its inputs by name, strings as arrays of dtype object. A signature may have
    several requests, one for each code path of real requests.
    """
    path = version / WARMUP
    path.parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as records:
        for signature, inputs in requests:
            records.write(_log(model, signature, inputs).SerializeToString(deterministic=True))


def replay(version: Path, runtime: Runtime) -> list[str]:
    """Run all warm-up requests of `version` with `runtime`, as a server does; return the distinct signatures called.

    Raises ValueError with the runtime's message if the model refuses a request.
    """
    called = []
    for record in tf.data.TFRecordDataset(str(version / WARMUP)).as_numpy_iterator():
        log = prediction_log_pb2.PredictionLog.FromString(record)
        if log.WhichOneof("log_type") == "classify_log":
            request = log.classify_log.request
            examples = [each.SerializeToString() for each in request.input.example_list.examples]
            inputs = {"inputs": np.array(examples, object)}
        else:
            request = log.predict_log.request
            inputs = {name: tf.make_ndarray(each) for name, each in request.inputs.items()}
        runtime.run(request.model_spec.signature_name, inputs)
        called.append(request.model_spec.signature_name)
    return list(dict.fromkeys(called))


def images(contract: Contract) -> list[bytes]:
    """Return encoded images that together cover the code paths of the preparation.

    They are grey and RGB PNG and JPEG images in three sizes: the contract's, small, and large with little ink.
    """
    found = []
    for height, width, ink in (
        (contract.height, contract.width, contract.height * BOX // FIELD),
        (_SMALL, _SMALL, _SMALL // 2),
        (_LARGE, _LARGE * 3 // 4, _LARGE // 40),
    ):
        # Bright ink on black, in an L shape, so that it isn't a line.
        pixels = np.zeros((height, width, 3), np.uint8)
        top, left = (height - ink) // 2, (width - ink) // 2
        pixels[top : top + ink, left : left + max(1, ink // 5)] = 255
        pixels[top + ink - max(1, ink // 5) : top + ink, left : left + ink] = 255
        found.append(tf.io.encode_png(pixels[..., :1]).numpy())
        found.append(tf.io.encode_png(pixels).numpy())
        found.append(tf.io.encode_jpeg(pixels, quality=90).numpy())
    return found


def example(image: bytes) -> bytes:
    """Return a serialized tf.Example with the encoded `image`, an input of the `classify` signature."""
    feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[image]))
    serialized: bytes = tf.train.Example(
        features=tf.train.Features(feature={EXAMPLE_FEATURE: feature})
    ).SerializeToString(deterministic=True)
    return serialized


def _log(model: str, signature: str, inputs: Mapping[str, NDArray[Any]]) -> Any:
    log = prediction_log_pb2.PredictionLog()
    if signature == CLASSIFY:
        request = log.classify_log.request
        for each in inputs["inputs"]:
            request.input.example_list.examples.add().ParseFromString(each)
    else:
        request = log.predict_log.request
        for name, value in inputs.items():
            request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    request.model_spec.name = model
    request.model_spec.signature_name = signature
    return log
