"""Methods of `inference.GRPCInferenceService`, with a parsed message each, independent of the transport.

Inputs are in `raw_input_contents`, as from NVIDIA's client (tritonclient), or in the typed fields of their `contents`.
Outputs are typed if the inputs are and all requested outputs have typed fields; otherwise they are raw. The request's
parameter `signature_name`, a string_param, selects a signature: by default serving_default, or else the only one.
"""

import time
from collections.abc import Mapping
from typing import Any

from tfship.serving.inference.predict import Predictor
from tfship.serving.inference.request_context import Call
from tfship.serving.models.registry import Servables
from tfship.serving.open_inference import binary_data, typed_contents
from tfship.serving.open_inference.messages import (
    SERVICE,
    ModelInferResponse,
    ModelMetadataResponse,
    ModelReadyResponse,
    ServerLiveResponse,
    ServerMetadataResponse,
    ServerReadyResponse,
)
from tfship.serving.open_inference.model_inference import (
    SERVER_EXTENSIONS,
    SERVER_NAME,
    SIGNATURE_PARAMETER,
    InferenceRequest,
    ModelInference,
    TensorInput,
    check_parameter,
    quoted,
    server_version,
)
from tfship.serving.protos.status import Code, StatusError, invalid
from tfship.serving.server.settings import Limits

__all__ = ["SERVICE", "OpenInferenceGrpc"]


class OpenInferenceGrpc:
    """Handler of gRPC requests by a process' servables. Thread-safe.

    Each method takes the request's message and the request's `Call`, and returns the response's message. Errors are
    StatusErrors. `SERVICE`, the ServiceDescriptor, lists the methods and their messages.
    """

    def __init__(self, predictor: Predictor, models: Servables, limits: Limits | None = None) -> None:
        self._inference = ModelInference(predictor, models, (limits or Limits()).tensor_elements)

    def ServerLive(self, _request: Any, _call: Call) -> Any:  # noqa: N802 - gRPC's names
        """Return that the server is live."""
        return ServerLiveResponse(live=True)

    def ServerReady(self, _request: Any, _call: Call) -> Any:  # noqa: N802
        """Return whether all models have an available version."""
        return ServerReadyResponse(ready=not self._inference.unavailable_models())

    def ModelReady(self, request: Any, _call: Call) -> Any:  # noqa: N802
        """Return whether a model can be used, false for an unknown one, as NVIDIA's server does."""
        try:
            self._inference.check_model_ready(request.name, request.version)
        except StatusError as error:
            if error.code not in (Code.NOT_FOUND, Code.UNAVAILABLE):
                raise
            return ModelReadyResponse(ready=False)
        return ModelReadyResponse(ready=True)

    def ServerMetadata(self, _request: Any, _call: Call) -> Any:  # noqa: N802
        """Return the server's name, version and extensions."""
        return ServerMetadataResponse(
            name=SERVER_NAME, version=server_version(), extensions=SERVER_EXTENSIONS
        )

    def ModelMetadata(self, request: Any, _call: Call) -> Any:  # noqa: N802
        """Return the metadata of a model's default signature."""
        found = self._inference.metadata(request.name, request.version)
        response = ModelMetadataResponse(name=found.name, versions=found.versions, platform=found.platform)
        for tensors, described in ((response.inputs, found.inputs), (response.outputs, found.outputs)):
            for each in described:
                tensors.add(name=each.name, datatype=each.datatype, shape=each.shape)
        return response

    def ModelInfer(self, request: Any, call: Call) -> Any:  # noqa: N802
        """Run a model."""
        inputs = _inputs(request)
        for each in request.outputs:
            _check_parameters(f"output {quoted(each.name)}", each.parameters)
        version, outputs = self._inference.infer(
            InferenceRequest(
                request.model_name,
                request.model_version,
                _signature_name(request.parameters),
                inputs,
                [each.name for each in request.outputs],
            ),
            call,
        )
        begin = time.monotonic()
        response = ModelInferResponse(
            model_name=request.model_name, model_version=str(version), id=request.id
        )
        is_typed = bool(inputs) and not request.raw_input_contents
        is_typed = is_typed and all(each.datatype.contents for each in outputs)
        for each in outputs:
            added = response.outputs.add(name=each.name, datatype=each.datatype.name, shape=each.array.shape)
            if is_typed:
                typed_contents.encode(each.array, each.datatype, added.contents)
            else:
                response.raw_output_contents.append(bytes(binary_data.encode(each.array)))
        call.encode = time.monotonic() - begin
        return response


def _inputs(request: Any) -> list[TensorInput]:
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise invalid(
            f"raw_input_contents has {len(raw)} elements; expected {len(request.inputs)}, one for each input"
        )
    inputs = []
    for index, each in enumerate(request.inputs):
        where = f"input {quoted(each.name)}"
        _check_parameters(where, each.parameters)
        if raw and each.HasField("contents"):
            raise invalid(f"{where} has contents, and the request raw_input_contents; expected one of them")
        decode = _raw_decoder(each.name, raw[index]) if raw else _typed_decoder(each.name, each.contents)
        inputs.append(TensorInput(each.name, each.datatype, tuple(each.shape), decode))
    return inputs


def _raw_decoder(name: str, data: bytes) -> Any:
    return lambda datatype, count: binary_data.decode(name, data, datatype, count)


def _typed_decoder(name: str, contents: Any) -> Any:
    return lambda datatype, count: typed_contents.decode(name, contents, datatype, count)


def _check_parameters(where: str, parameters: Mapping[str, Any]) -> None:
    for name in parameters:
        check_parameter(where, name)


def _signature_name(parameters: Mapping[str, Any]) -> str:
    _check_parameters("the request", parameters)
    if SIGNATURE_PARAMETER not in parameters:
        return ""
    parameter = parameters[SIGNATURE_PARAMETER]
    if parameter.WhichOneof("parameter_choice") != "string_param":
        raise invalid(f"the parameter {SIGNATURE_PARAMETER} isn't a string; expected a string_param")
    name: str = parameter.string_param
    return name
