"""Predict, GetModelMetadata, GetModelStatus and reloads, for both REST and gRPC.

Every error is a StatusError.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from tfship.export.runtimes.protocol import DEFAULT_SIGNATURE, Signature
from tfship.serving.inference.execution import Tensors, check_inputs, find, names, run
from tfship.serving.inference.request_context import Call
from tfship.serving.models.config import check_request
from tfship.serving.models.registry import Servables
from tfship.serving.protos.messages import get_model_metadata_pb2, get_model_status_pb2
from tfship.serving.protos.status import Code, StatusError, invalid

__all__ = ["METADATA_FIELD", "PredictResult", "Predictor", "describe"]

METADATA_FIELD = "signature_def"


class PredictResult(NamedTuple):
    """The requested outputs, and the model version and signature that computed them."""

    version: int
    signature_name: str
    outputs: Tensors


def _unknown(name: str) -> StatusError:
    return StatusError(Code.FAILED_PRECONDITION, f'Serving signature key "{name}" not found.')


class Predictor:
    """Handler of requests by a process' servables. Thread-safe.

    `reload` is called with the new ModelServerConfig (`ModelManager.reload`).
    """

    def __init__(self, models: Servables, reload: Callable[[Any], None]) -> None:
        self._models = models
        self._reload = reload

    def predict(
        self,
        spec: Any,
        inputs: Callable[[Signature], Tensors],
        call: Call,
        output_filter: Sequence[str] = (),
        unknown: Callable[[str], StatusError] = _unknown,
    ) -> PredictResult:
        """Run the model that `spec`, a ModelSpec, names.

        `inputs` is called with the signature and returns the tensors: REST needs the signature to read its JSON. An
        empty `output_filter` selects all outputs. `unknown` returns the error for an unknown signature name.
        """
        with self._models.use(spec) as servable:
            call.model, call.version = servable.name, servable.version
            name = spec.signature_name or DEFAULT_SIGNATURE
            signature = find(servable.loaded, name)
            if signature is None:
                raise unknown(name)
            begin = time.monotonic()
            tensors = inputs(signature)
            call.decode += time.monotonic() - begin
            check_inputs(servable.loaded, name, tensors)
            requested = _requested_outputs(signature, output_filter) if output_filter else None
            outputs = run(servable.loaded, name, tensors, call)
            if requested is not None:
                outputs = {key: outputs[key] for key in requested}
            return PredictResult(servable.version, name, outputs)

    def reload(self, config: Any) -> None:
        """Replace the served models by those of `config`, a ModelServerConfig (`ModelManager.reload`)."""
        check_request(config, self._models.names)
        self._reload(config)

    def metadata(self, spec: Any) -> Any:
        """Return the GetModelMetadataResponse with the model's signatures."""
        with self._models.use(spec) as servable:
            signatures = get_model_metadata_pb2.SignatureDefMap()
            for name, signature in servable.loaded.runtime.signatures.items():
                describe(signature, signatures.signature_def[name])
            response = get_model_metadata_pb2.GetModelMetadataResponse()
            response.model_spec.name = servable.name
            response.model_spec.version.value = servable.version
            response.metadata[METADATA_FIELD].Pack(signatures)
            return response

    def status(self, spec: Any) -> Any:
        """Return the GetModelStatusResponse for one version, or for all.

        A label selects all versions, too, as in TensorFlow Serving.
        """
        number = spec.version.value if spec.WhichOneof("version_choice") == "version" else None
        response = get_model_status_pb2.GetModelStatusResponse()
        for each in self._models.status(spec.name, number):
            entry = response.model_version_status.add(version=each.version, state=int(each.state))
            # TensorFlow Serving always sends the status, even if it has the default value.
            entry.status.SetInParent()
            entry.status.error_code = int(each.code)
            entry.status.error_message = each.message
        return response


def _requested_outputs(signature: Signature, output_filter: Sequence[str]) -> list[str]:
    requested: list[str] = []
    for name in output_filter:
        if name not in signature.outputs:
            raise invalid(
                f"output tensor alias not found in signature: {name} Outputs expected to be in the set "
                f"{names(signature.outputs)}."
            )
        if name in requested:
            raise invalid(f"duplicate output tensor alias: {name}")
        requested.append(name)
    return requested


def describe(signature: Signature, definition: Any) -> None:
    """Fill `definition`, a SignatureDef message, from `signature`."""
    definition.method_name = signature.method_name
    for specs, infos in ((signature.inputs, definition.inputs), (signature.outputs, definition.outputs)):
        for name, spec in specs.items():
            info = infos[name]
            info.name = spec.name
            info.dtype = spec.dtype
            info.tensor_shape.SetInParent()
            shape = spec.shape if spec.reported_shape is None else spec.reported_shape
            if shape is None:
                info.tensor_shape.unknown_rank = True
            for size in shape or ():
                info.tensor_shape.dim.add(size=size)
