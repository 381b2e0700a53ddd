"""TensorFlow Serving's protocol messages without TensorFlow's packages, under the names of the generated modules.

See `export.descriptors` for their relation to TensorFlow's own messages.
"""

from tfship.export.descriptors import POOL, VERSION, messages

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

example_pb2 = messages("tensorflow/core/example/example.proto")
feature_pb2 = messages("tensorflow/core/example/feature.proto")
tensor_pb2 = messages("tensorflow/core/framework/tensor.proto")
tensor_shape_pb2 = messages("tensorflow/core/framework/tensor_shape.proto")
types_pb2 = messages("tensorflow/core/framework/types.proto")
config_pb2 = messages("tensorflow/core/protobuf/config.proto")
meta_graph_pb2 = messages("tensorflow/core/protobuf/meta_graph.proto")
saved_model_pb2 = messages("tensorflow/core/protobuf/saved_model.proto")
classification_pb2 = messages("tensorflow_serving/apis/classification.proto")
get_model_metadata_pb2 = messages("tensorflow_serving/apis/get_model_metadata.proto")
get_model_status_pb2 = messages("tensorflow_serving/apis/get_model_status.proto")
inference_pb2 = messages("tensorflow_serving/apis/inference.proto")
input_pb2 = messages("tensorflow_serving/apis/input.proto")
model_management_pb2 = messages("tensorflow_serving/apis/model_management.proto")
model_pb2 = messages("tensorflow_serving/apis/model.proto")
model_service_pb2 = messages("tensorflow_serving/apis/model_service.proto")
predict_pb2 = messages("tensorflow_serving/apis/predict.proto")
prediction_log_pb2 = messages("tensorflow_serving/apis/prediction_log.proto")
prediction_service_pb2 = messages("tensorflow_serving/apis/prediction_service.proto")
regression_pb2 = messages("tensorflow_serving/apis/regression.proto")
model_server_config_pb2 = messages("tensorflow_serving/config/model_server_config.proto")
