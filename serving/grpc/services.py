"""PredictionService and ModelService over gRPC."""

import functools
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import grpc
from google.protobuf.message import DecodeError

from tfship.serving.inference.examples import Inference
from tfship.serving.inference.execution import Tensors
from tfship.serving.inference.predict import METADATA_FIELD, Predictor
from tfship.serving.inference.request_context import Call, Observer
from tfship.serving.protos.messages import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    model_service_pb2,
    predict_pb2,
    prediction_service_pb2,
    regression_pb2,
)
from tfship.serving.protos.status import Code, StatusError, invalid
from tfship.serving.protos.tensors import from_proto, to_proto
from tfship.serving.server.settings import Settings

__all__ = ["SERVICES", "Services"]

log = logging.getLogger(__name__)

# Service names for health checks, besides "" for the whole server; TensorFlow Serving's names.
SERVICES = ("PredictionService", "ModelService")

_MESSAGE_BYTES = 6000
# Names in the metrics, if different from the method's.
_APIS = {"HandleReloadConfigRequest": "ReloadConfig"}


class _Observed(Protocol):
    observer: Observer
    tells_timing: bool


_S = TypeVar("_S", bound=_Observed)
_Method = Callable[[_S, Any, Call], Any]


@dataclass(frozen=True)
class Services:
    """Handlers of gRPC requests in one process."""

    predictor: Predictor
    inference: Inference
    observer: Observer
    settings: Settings

    def add_to(self, server: grpc.Server) -> None:
        """Register PredictionService, ModelService and a handler that refuses all other methods."""
        for file, service in (
            (prediction_service_pb2, _PredictionService(self)),
            (model_service_pb2, _ModelService(self)),
        ):
            for described in file.DESCRIPTOR.services_by_name.values():
                methods = {
                    each.name: grpc.unary_unary_rpc_method_handler(getattr(service, each.name))
                    for each in described.methods
                }
                handler = grpc.method_handlers_generic_handler(described.full_name, methods)
                server.add_generic_rpc_handlers((handler,))
        server.add_generic_rpc_handlers((_Unknown(),))


class _Unknown(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # generic for type checkers only
    """Handler that refuses every other method with an empty message, as TensorFlow Serving does."""

    def service(self, _details: Any) -> Any:
        def refuse(_request: bytes, context: grpc.ServicerContext) -> bytes:
            return context.abort(grpc.StatusCode.UNIMPLEMENTED, "")

        return grpc.unary_unary_rpc_method_handler(refuse)


def _rpc(kind: Any) -> Callable[[_Method[_S]], Callable[[_S, bytes, grpc.ServicerContext], bytes]]:
    """Wrap a method with a request, a `kind` message, and a Call as a gRPC handler of bytes; map errors to statuses.

    If grpcio parsed requests, invalid bytes would cause an INTERNAL error, a traceback in the log and a memory leak:
    see `serving.grpc.bundled_services`.
    """

    def decorate(method: _Method[_S]) -> Callable[[_S, bytes, grpc.ServicerContext], bytes]:
        api = _APIS.get(method.__name__, method.__name__)

        @functools.wraps(method)
        def handler(service: _S, data: bytes, context: grpc.ServicerContext) -> bytes:
            call = Call(api, "GRPC", received=len(data))
            if (left := context.time_remaining()) is not None:
                call.deadline = call.begin + left
            try:
                with service.observer.observing(call):
                    content: bytes = method(service, _parsed(kind, data), call).SerializeToString()
                    call.sent = len(content)
                if service.tells_timing:
                    context.set_trailing_metadata((("server-timing", call.timing()),))
                return content
            except StatusError as error:
                code, message = grpc.StatusCode[error.code.name], error.message
            except Exception:
                log.exception("unexpected error in %s", method.__name__)
                code, message = grpc.StatusCode.INTERNAL, "Internal error; the server's log has the details"
            return context.abort(code, _short(message))

        return handler

    return decorate


def _parsed(kind: Any, data: bytes) -> Any:
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise invalid(str(error)) from None


def _short(message: str) -> str:
    """Return `message` cut to 6,000 bytes: it is sent as a header, and gRPC's clients accept 8 KiB of headers."""
    left = _MESSAGE_BYTES
    for at, letter in enumerate(message):
        # Messages are percent-encoded byte by byte.
        left -= 1 if " " <= letter <= "~" and letter != "%" else 3 * len(letter.encode())
        if left < 0:
            return f"{message[:at]}…"
    return message


class _PredictionService:
    def __init__(self, services: Services) -> None:
        self.observer, self.tells_timing = services.observer, services.settings.tells_timing
        self._predictor = services.predictor
        self._inference = services.inference
        self._packed = services.settings.packed_answers
        self._max_elements = services.settings.limits.tensor_elements

    @_rpc(predict_pb2.PredictRequest)
    def Predict(self, request: Any, call: Call) -> Any:  # noqa: N802 - gRPC's name
        _require_spec(request)
        prediction = self._predictor.predict(
            request.model_spec, lambda _: self._tensors(request.inputs), call, request.output_filter
        )
        begin = time.monotonic()
        response = predict_pb2.PredictResponse()
        response.model_spec.name = request.model_spec.name
        response.model_spec.version.value = prediction.version
        response.model_spec.signature_name = prediction.signature_name
        for name, array in prediction.outputs.items():
            response.outputs[name].CopyFrom(to_proto(array, packed=self._packed))
        call.encode = time.monotonic() - begin
        return response

    @_rpc(get_model_metadata_pb2.GetModelMetadataRequest)
    def GetModelMetadata(self, request: Any, _call: Call) -> Any:  # noqa: N802
        _require_spec(request)
        if not request.metadata_field:
            raise StatusError(
                Code.INVALID_ARGUMENT, "GetModelMetadataRequest must specify at least one metadata_field"
            )
        for name in request.metadata_field:
            if name != METADATA_FIELD:
                raise StatusError(Code.INVALID_ARGUMENT, f"Metadata field {name} is not supported")
        return self._predictor.metadata(request.model_spec)

    @_rpc(classification_pb2.ClassificationRequest)
    def Classify(self, request: Any, call: Call) -> Any:  # noqa: N802
        _require_spec(request)
        return self._inference.classify(request.model_spec, request.input, call)

    @_rpc(regression_pb2.RegressionRequest)
    def Regress(self, request: Any, call: Call) -> Any:  # noqa: N802
        _require_spec(request)
        return self._inference.regress(request.model_spec, request.input, call)

    @_rpc(inference_pb2.MultiInferenceRequest)
    def MultiInference(self, request: Any, call: Call) -> Any:  # noqa: N802
        return self._inference.multi(request, call)

    def _tensors(self, inputs: Any) -> Tensors:
        tensors: Tensors = {}
        for name, proto in inputs.items():
            try:
                tensors[name] = from_proto(proto, self._max_elements)
            except ValueError as error:
                raise StatusError(Code.INVALID_ARGUMENT, f"tensor parsing error: {name} ({error})") from None
        return tensors


class _ModelService:
    def __init__(self, services: Services) -> None:
        self.observer, self.tells_timing = services.observer, services.settings.tells_timing
        self._predictor = services.predictor

    @_rpc(get_model_status_pb2.GetModelStatusRequest)
    def GetModelStatus(self, request: Any, _call: Call) -> Any:  # noqa: N802
        _require_spec(request)
        return self._predictor.status(request.model_spec)

    @_rpc(model_management_pb2.ReloadConfigRequest)
    def HandleReloadConfigRequest(self, request: Any, _call: Call) -> Any:  # noqa: N802
        self._predictor.reload(request.config)
        response = model_management_pb2.ReloadConfigResponse()
        # TensorFlow Serving always sends the status, even if it is OK.
        response.status.SetInParent()
        for name in sorted(set(request.metric_names)):
            response.metric.add(name=name, int64_value_increase=0)
        return response


def _require_spec(request: Any) -> None:
    if not request.HasField("model_spec"):
        raise StatusError(Code.INVALID_ARGUMENT, "Missing ModelSpec")
