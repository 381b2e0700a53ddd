"""PredictionService and ModelService over gRPC."""

import functools
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import grpc

from serving.calls import Call, Observer
from serving.execution import Tensors
from serving.inference import Inference
from serving.predict import METADATA_FIELD, Predictor
from serving.protos import (
    ModelServiceServicer,
    PredictionServiceServicer,
    add_ModelServiceServicer_to_server,
    add_PredictionServiceServicer_to_server,
    model_management_pb2,
    predict_pb2,
)
from serving.settings import Settings
from serving.status import Code, StatusError
from serving.tensors import from_proto, to_proto

__all__ = ["SERVICES", "Services"]

log = logging.getLogger(__name__)

# What a health check may ask about, besides the server as a whole; TensorFlow Serving's names.
SERVICES = ("PredictionService", "ModelService")

# Where a method isn't called what its metrics are.
_APIS = {"HandleReloadConfigRequest": "ReloadConfig"}


class _Observed(Protocol):
    observer: Observer
    tells_timing: bool


_S = TypeVar("_S", bound=_Observed)
_Method = Callable[[_S, Any, Call], Any]


@dataclass(frozen=True)
class Services:
    """What answers gRPC requests, as one process has it."""

    predictor: Predictor
    inference: Inference
    observer: Observer
    settings: Settings

    def add_to(self, server: grpc.Server) -> None:
        """Register PredictionService and ModelService, and a refusal of all else."""
        add_PredictionServiceServicer_to_server(_PredictionService(self), server)
        add_ModelServiceServicer_to_server(_ModelService(self), server)
        server.add_generic_rpc_handlers((_Unknown(),))


class _Unknown(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Refuses every other method, with no words, as TensorFlow Serving does."""

    def service(self, _details: Any) -> Any:
        def refuse(_request: bytes, context: grpc.ServicerContext) -> bytes:
            return context.abort(grpc.StatusCode.UNIMPLEMENTED, "")  # type: ignore[no-any-return]

        return grpc.unary_unary_rpc_method_handler(refuse)


def _rpc(method: _Method[_S]) -> Callable[[_S, Any, grpc.ServicerContext], Any]:
    """Turn a method of a request and a Call into a gRPC handler, and its errors into statuses."""
    api = _APIS.get(method.__name__, method.__name__)

    @functools.wraps(method)
    def handler(service: _S, request: Any, context: grpc.ServicerContext) -> Any:
        call = Call(api, "GRPC", received=request.ByteSize())
        if (left := context.time_remaining()) is not None:
            call.deadline = call.begin + left
        try:
            with service.observer.observing(call):
                answer = method(service, request, call)
                call.sent = answer.ByteSize()
            if service.tells_timing:
                context.set_trailing_metadata((("server-timing", call.timing()),))
            return answer
        except StatusError as error:
            code, message = grpc.StatusCode[error.code.name], error.message
        except Exception:
            log.exception("unexpected error in %s", method.__name__)
            code, message = grpc.StatusCode.INTERNAL, "Internal error; the server's log has the details"
        return context.abort(code, message)

    return handler


class _PredictionService(PredictionServiceServicer):  # type: ignore[misc] # generated code has no types
    def __init__(self, services: Services) -> None:
        self.observer, self.tells_timing = services.observer, services.settings.tells_timing
        self._predictor = services.predictor
        self._inference = services.inference
        self._packed = services.settings.packed_answers
        self._most_elements = services.settings.limits.tensor_elements

    @_rpc
    def Predict(self, request: Any, call: Call) -> Any:  # noqa: N802 - gRPC's name
        _require_spec(request)
        prediction = self._predictor.predict(
            request.model_spec, lambda _: self._tensors(request.inputs), call, request.output_filter
        )
        begin = time.monotonic()
        answer = predict_pb2.PredictResponse()
        answer.model_spec.name = request.model_spec.name
        answer.model_spec.version.value = prediction.version
        answer.model_spec.signature_name = prediction.signature_name
        for name, array in prediction.outputs.items():
            answer.outputs[name].CopyFrom(to_proto(array, packed=self._packed))
        call.encode = time.monotonic() - begin
        return answer

    @_rpc
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

    @_rpc
    def Classify(self, request: Any, call: Call) -> Any:  # noqa: N802
        _require_spec(request)
        return self._inference.classify(request.model_spec, request.input, call)

    @_rpc
    def Regress(self, request: Any, call: Call) -> Any:  # noqa: N802
        _require_spec(request)
        return self._inference.regress(request.model_spec, request.input, call)

    @_rpc
    def MultiInference(self, request: Any, call: Call) -> Any:  # noqa: N802
        return self._inference.multi(request, call)

    def _tensors(self, inputs: Any) -> Tensors:
        tensors: Tensors = {}
        for name, proto in inputs.items():
            try:
                tensors[name] = from_proto(proto, self._most_elements)
            except ValueError as error:
                raise StatusError(Code.INVALID_ARGUMENT, f"tensor parsing error: {name} ({error})") from None
        return tensors


class _ModelService(ModelServiceServicer):  # type: ignore[misc]
    def __init__(self, services: Services) -> None:
        self.observer, self.tells_timing = services.observer, services.settings.tells_timing
        self._predictor = services.predictor

    @_rpc
    def GetModelStatus(self, request: Any, _call: Call) -> Any:  # noqa: N802
        _require_spec(request)
        return self._predictor.status(request.model_spec)

    @_rpc
    def HandleReloadConfigRequest(self, request: Any, _call: Call) -> Any:  # noqa: N802
        self._predictor.reload(request.config)
        answer = model_management_pb2.ReloadConfigResponse()
        # Set even when it says OK: TensorFlow Serving always sends it.
        answer.status.SetInParent()
        for name in sorted(set(request.metric_names)):
            answer.metric.add(name=name, int64_value_increase=0)
        return answer


def _require_spec(request: Any) -> None:
    if not request.HasField("model_spec"):
        raise StatusError(Code.INVALID_ARGUMENT, "Missing ModelSpec")
