"""TensorFlow Serving's gRPC stubs and servicers, without TensorFlow: see `serving.protos`."""

from serving.protos import bare_tensorflow

with bare_tensorflow():
    from tensorflow_serving.apis.model_service_pb2_grpc import (
        ModelServiceServicer,
        ModelServiceStub,
        add_ModelServiceServicer_to_server,
    )
    from tensorflow_serving.apis.prediction_service_pb2_grpc import (
        PredictionServiceServicer,
        PredictionServiceStub,
        add_PredictionServiceServicer_to_server,
    )

__all__ = [
    "ModelServiceServicer",
    "ModelServiceStub",
    "PredictionServiceServicer",
    "PredictionServiceStub",
    "add_ModelServiceServicer_to_server",
    "add_PredictionServiceServicer_to_server",
]
