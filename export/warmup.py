"""Warm-up requests: what a server runs before it calls a version available, so that no user pays for the first call.

TensorFlow Serving replays `assets.extra/tf_serving_warmup_requests`, a TFRecord file of PredictionLog messages
(its guide "SavedModel Warmup"). Loads TensorFlow.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tensorflow_serving.apis import prediction_log_pb2

from export.contract import CLASSIFY, EXAMPLE_FEATURE, WARMUP
from export.runtime import Runtime

__all__ = ["example", "replay", "write"]


def write(version: Path, model: str, requests: Mapping[str, Mapping[str, NDArray[Any]]]) -> None:
    """Write one request for each signature: its inputs by name, strings as arrays of dtype object."""
    path = version / WARMUP
    path.parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as records:
        for signature, inputs in requests.items():
            records.write(_log(model, signature, inputs).SerializeToString(deterministic=True))


def replay(version: Path, runtime: Runtime) -> list[str]:
    """Run every request in the file as a server does and return the signatures that were called.

    Raises ValueError, with the runtime's words, for a request that the model refuses.
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
    return called


def example(picture: bytes) -> bytes:
    """Return a serialised tf.Example with the encoded picture, as the `classify` signature takes it."""
    feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[picture]))
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
