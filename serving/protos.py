"""TensorFlow Serving's protocol messages, without TensorFlow's packages.

`protos.binpb` is a FileDescriptorSet of their descriptors, which `python -m serving.derive_protos` writes. The
classes made of it here are called as protobuf's generated modules call them, and live in a pool of their own, so
that TensorFlow's may be loaded beside them. The two kinds read each other's bytes; a message of one can't be put
into a message of the other (TypeError of CopyFrom and the like).
"""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper

__all__ = [
    "POOL",
    "VERSION",
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

# Of the package tensorflow-serving-api that the descriptors were derived from.
VERSION = "2.21.0"


def _pool() -> Any:
    """Return a pool of every file in the set, which has each after those that it imports."""
    files = descriptor_pb2.FileDescriptorSet()
    files.ParseFromString(Path(__file__).with_name("protos.binpb").read_bytes())
    pool = descriptor_pool.DescriptorPool()
    for file in files.file:
        pool.AddSerializedFile(file.SerializeToString())
    return pool


# Also what resolves the Any messages in texts (`descriptor_pool` of text_format and json_format).
POOL = _pool()


def _module(name: str) -> Any:
    """Return what the generated module of the file `name` has: its messages, enums, their values, DESCRIPTOR."""
    file = POOL.FindFileByName(name)
    module = SimpleNamespace(DESCRIPTOR=file)
    for name, message in file.message_types_by_name.items():
        setattr(module, name, message_factory.GetMessageClass(message))
    for name, enum in file.enum_types_by_name.items():
        setattr(module, name, EnumTypeWrapper(enum))
        vars(module).update({value.name: value.number for value in enum.values})
    return module


example_pb2 = _module("tensorflow/core/example/example.proto")
feature_pb2 = _module("tensorflow/core/example/feature.proto")
tensor_pb2 = _module("tensorflow/core/framework/tensor.proto")
tensor_shape_pb2 = _module("tensorflow/core/framework/tensor_shape.proto")
types_pb2 = _module("tensorflow/core/framework/types.proto")
config_pb2 = _module("tensorflow/core/protobuf/config.proto")
meta_graph_pb2 = _module("tensorflow/core/protobuf/meta_graph.proto")
saved_model_pb2 = _module("tensorflow/core/protobuf/saved_model.proto")
classification_pb2 = _module("tensorflow_serving/apis/classification.proto")
get_model_metadata_pb2 = _module("tensorflow_serving/apis/get_model_metadata.proto")
get_model_status_pb2 = _module("tensorflow_serving/apis/get_model_status.proto")
inference_pb2 = _module("tensorflow_serving/apis/inference.proto")
input_pb2 = _module("tensorflow_serving/apis/input.proto")
model_management_pb2 = _module("tensorflow_serving/apis/model_management.proto")
model_pb2 = _module("tensorflow_serving/apis/model.proto")
model_service_pb2 = _module("tensorflow_serving/apis/model_service.proto")
predict_pb2 = _module("tensorflow_serving/apis/predict.proto")
prediction_log_pb2 = _module("tensorflow_serving/apis/prediction_log.proto")
prediction_service_pb2 = _module("tensorflow_serving/apis/prediction_service.proto")
regression_pb2 = _module("tensorflow_serving/apis/regression.proto")
model_server_config_pb2 = _module("tensorflow_serving/config/model_server_config.proto")
