"""TensorFlow Serving's protocol messages, without TensorFlow.

The generated modules live in packages whose parent is `tensorflow`, and importing that runs for seconds and
takes hundreds of megabytes. Here a bare package stands in for it while they are imported. The submodules stay
loaded, so that TensorFlow, imported before or after, shares these classes. The services' own descriptions are
among them for gRPC reflection, which looks them up in protobuf's default pool.
"""

import contextlib
import importlib.util
import sys
import types
from collections.abc import Iterator

from train.errors import ArtifactError

__all__ = [
    "bare_tensorflow",
    "classification_pb2",
    "config_pb2",
    "example_pb2",
    "feature_pb2",
    "get_model_metadata_pb2",
    "get_model_status_pb2",
    "inference_pb2",
    "input_pb2",
    "meta_graph_pb2",
    "model_management_pb2",
    "model_pb2",
    "model_server_config_pb2",
    "model_service_pb2",
    "predict_pb2",
    "prediction_log_pb2",
    "prediction_service_pb2",
    "regression_pb2",
    "saved_model_pb2",
    "tensor_pb2",
    "tensor_shape_pb2",
    "types_pb2",
]


@contextlib.contextmanager
def bare_tensorflow() -> Iterator[None]:
    """Let modules below `tensorflow` be imported without it, for as long as the context lasts."""
    if "tensorflow" in sys.modules:
        yield
        return
    spec = importlib.util.find_spec("tensorflow")
    if spec is None or spec.submodule_search_locations is None:
        raise ArtifactError("the package tensorflow, which holds the protocol messages, isn't installed")
    stand_in = types.ModuleType("tensorflow")
    stand_in.__path__ = list(spec.submodule_search_locations)
    sys.modules["tensorflow"] = stand_in
    try:
        yield
    finally:
        del sys.modules["tensorflow"]


with bare_tensorflow():
    from tensorflow.core.example import example_pb2, feature_pb2
    from tensorflow.core.framework import tensor_pb2, tensor_shape_pb2, types_pb2
    from tensorflow.core.protobuf import config_pb2, meta_graph_pb2, saved_model_pb2
    from tensorflow_serving.apis import (
        classification_pb2,
        get_model_metadata_pb2,
        get_model_status_pb2,
        inference_pb2,
        input_pb2,
        model_management_pb2,
        model_pb2,
        model_service_pb2,
        predict_pb2,
        prediction_log_pb2,
        prediction_service_pb2,
        regression_pb2,
    )
    from tensorflow_serving.config import model_server_config_pb2
