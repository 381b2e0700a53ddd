"""TensorFlow Serving's gRPC stubs, without TensorFlow: see `serving.protos`."""

from serving.protos import bare_tensorflow

with bare_tensorflow():
    from tensorflow_serving.apis.model_service_pb2_grpc import ModelServiceStub
    from tensorflow_serving.apis.prediction_service_pb2_grpc import PredictionServiceStub

__all__ = ["ModelServiceStub", "PredictionServiceStub"]
