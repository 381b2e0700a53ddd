"""PredictionService and ModelService over gRPC."""

import time
from collections.abc import Hashable
from typing import Any

from google.protobuf import message_factory

from tfship.serving.grpc.methods import Method, Unary
from tfship.serving.grpc.predict_codec import PredictCodec, PredictInput
from tfship.serving.inference.examples import Inference
from tfship.serving.inference.predict import METADATA_FIELD, Predictor
from tfship.serving.inference.request_context import Call
from tfship.serving.open_inference.grpc_service import SERVICE, OpenInferenceGrpc
from tfship.serving.protos.messages import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    model_service_pb2,
    prediction_service_pb2,
    regression_pb2,
)
from tfship.serving.protos.status import Code, StatusError
from tfship.serving.server.settings import Settings

__all__ = ["SERVICES", "methods", "open_inference_methods"]

# Service names for health checks, besides "" for the whole server; TensorFlow Serving's names.
SERVICES = ("PredictionService", "ModelService")


def methods(predictor: Predictor, inference: Inference, settings: Settings) -> dict[bytes, Method]:
    """Return the methods of both services by path."""
    prediction, models = _PredictionService(predictor, inference, settings), _ModelService(predictor)
    return {
        **_of(prediction_service_pb2, "PredictionService", {
            "Predict": Unary("Predict", prediction.codec.read, prediction.predict, kind=_kind),
            "Classify": Unary.of(
                "Classify", classification_pb2.ClassificationRequest, prediction.classify, kind=_model
            ),
            "Regress": Unary.of("Regress", regression_pb2.RegressionRequest, prediction.regress, kind=_model),
            "MultiInference": Unary.of(
                "MultiInference", inference_pb2.MultiInferenceRequest, prediction.multi, kind=_models
            ),
            "GetModelMetadata": Unary.of(
                "GetModelMetadata", get_model_metadata_pb2.GetModelMetadataRequest, prediction.metadata, kind=_model
            ),
        }),
        **_of(model_service_pb2, "ModelService", {
            "GetModelStatus": Unary.of("GetModelStatus", get_model_status_pb2.GetModelStatusRequest, models.status),
            # May load models, whatever the last one did.
            "HandleReloadConfigRequest": Unary.of(
                "ReloadConfig", model_management_pb2.ReloadConfigRequest, models.reload, place="threads"
            ),
        }),
    }  # fmt: skip


def open_inference_methods(service: OpenInferenceGrpc) -> dict[bytes, Method]:
    """Return the methods of the Open Inference Protocol by path."""
    found: dict[bytes, Method] = {}
    for each in SERVICE.methods:
        infers = each.name == "ModelInfer"
        found[f"/{SERVICE.full_name}/{each.name}".encode()] = Unary.of(
            each.name,
            message_factory.GetMessageClass(each.input_type),
            getattr(service, each.name),
            place="either" if infers else "loop",
            kind=_open_inference_model if infers else _nothing,
        )
    return found


def _open_inference_model(request: Any) -> Hashable:
    return request.model_name, request.model_version


def _nothing(_request: Any) -> Hashable:
    return None


def _of(file: Any, service: str, found: dict[str, Unary]) -> dict[bytes, Method]:
    described = file.DESCRIPTOR.services_by_name[service]
    return {f"/{described.full_name}/{each.name}".encode(): found[each.name] for each in described.methods}


def _model(request: Any) -> Hashable:
    spec = request.model_spec
    return spec.name, spec.version_label, spec.version.value, spec.signature_name


def _kind(request: PredictInput) -> Hashable:
    return request.kind


def _models(request: Any) -> Hashable:
    return tuple(map(_model, request.tasks))


class _PredictionService:
    def __init__(self, predictor: Predictor, inference: Inference, settings: Settings) -> None:
        self._predictor = predictor
        self._inference = inference
        self.codec = PredictCodec(settings.limits.tensor_elements, packed=settings.packed_answers)

    def predict(self, request: PredictInput, call: Call) -> bytes:
        spec = request.spec
        if spec is None:
            raise _missing_spec()
        result = self._predictor.predict(spec, request.tensors, call, request.output_filter)
        begin = time.monotonic()
        content = self.codec.write(spec.name, result)
        call.encode = time.monotonic() - begin
        return content

    def metadata(self, request: Any, _call: Call) -> Any:
        _require_spec(request)
        if not request.metadata_field:
            raise StatusError(
                Code.INVALID_ARGUMENT, "GetModelMetadataRequest must specify at least one metadata_field"
            )
        for name in request.metadata_field:
            if name != METADATA_FIELD:
                raise StatusError(Code.INVALID_ARGUMENT, f"Metadata field {name} is not supported")
        return self._predictor.metadata(request.model_spec)

    def classify(self, request: Any, call: Call) -> Any:
        _require_spec(request)
        return self._inference.classify(request.model_spec, request.input, call)

    def regress(self, request: Any, call: Call) -> Any:
        _require_spec(request)
        return self._inference.regress(request.model_spec, request.input, call)

    def multi(self, request: Any, call: Call) -> Any:
        return self._inference.multi(request, call)


class _ModelService:
    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor

    def status(self, request: Any, _call: Call) -> Any:
        _require_spec(request)
        return self._predictor.status(request.model_spec)

    def reload(self, request: Any, _call: Call) -> Any:
        self._predictor.reload(request.config)
        response = model_management_pb2.ReloadConfigResponse()
        # TensorFlow Serving always sends the status, even if it is OK.
        response.status.SetInParent()
        for name in sorted(set(request.metric_names)):
            response.metric.add(name=name, int64_value_increase=0)
        return response


def _require_spec(request: Any) -> None:
    if not request.HasField("model_spec"):
        raise _missing_spec()


def _missing_spec() -> StatusError:
    return StatusError(Code.INVALID_ARGUMENT, "Missing ModelSpec")
