"""TensorFlow Serving's gRPC stubs, made of the services' descriptors: see `serving.protos.messages`."""

import functools
from types import SimpleNamespace
from typing import Any

import grpc
from google.protobuf import message_factory

from tfship.serving.protos.messages import model_service_pb2, prediction_service_pb2

__all__ = ["ModelServiceStub", "PredictionServiceStub"]


def _stub(service: Any, channel: grpc.Channel) -> Any:
    """Return what calls `service`, a ServiceDescriptor, at the other end of `channel`: its methods, by name."""
    stub = SimpleNamespace()
    for method in service.methods:
        request = message_factory.GetMessageClass(method.input_type)
        answer = message_factory.GetMessageClass(method.output_type)
        call = channel.unary_unary(
            f"/{service.full_name}/{method.name}",
            request_serializer=request.SerializeToString,
            response_deserializer=answer.FromString,
        )
        setattr(stub, method.name, call)
    return stub


# Of a channel each, as the generated classes are called.
ModelServiceStub = functools.partial(_stub, model_service_pb2.DESCRIPTOR.services_by_name["ModelService"])
PredictionServiceStub = functools.partial(
    _stub, prediction_service_pb2.DESCRIPTOR.services_by_name["PredictionService"]
)
