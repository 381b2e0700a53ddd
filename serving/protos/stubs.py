"""TensorFlow Serving's gRPC stubs, built from the services' descriptors: see `serving.protos.messages`."""

import functools
from types import SimpleNamespace
from typing import Any

import grpc
from google.protobuf import message_factory

from tfship.serving.protos.messages import model_service_pb2, prediction_service_pb2

__all__ = ["ModelServiceStub", "PredictionServiceStub"]


def _stub(service: Any, channel: grpc.Channel) -> Any:
    """Return the client of `service`, a ServiceDescriptor, on `channel`, with one attribute per method."""
    stub = SimpleNamespace()
    for method in service.methods:
        request = message_factory.GetMessageClass(method.input_type)
        response = message_factory.GetMessageClass(method.output_type)
        call = channel.unary_unary(
            f"/{service.full_name}/{method.name}",
            request_serializer=request.SerializeToString,
            response_deserializer=response.FromString,
        )
        setattr(stub, method.name, call)
    return stub


# Called with a channel, like the generated classes.
ModelServiceStub = functools.partial(_stub, model_service_pb2.DESCRIPTOR.services_by_name["ModelService"])
PredictionServiceStub = functools.partial(
    _stub, prediction_service_pb2.DESCRIPTOR.services_by_name["PredictionService"]
)
