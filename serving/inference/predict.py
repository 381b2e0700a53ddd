"""What Predict, GetModelMetadata, GetModelStatus and reloads mean, whether they come by REST or by gRPC.

Every error is a StatusError.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tfship.export.runtimes.protocol import DEFAULT_SIGNATURE, Signature
from tfship.serving.inference.execution import Tensors, check_inputs, find, names, run
from tfship.serving.inference.request_context import Call
from tfship.serving.models.config import check_request
from tfship.serving.models.registry import Servables
from tfship.serving.protos.messages import get_model_metadata_pb2, get_model_status_pb2
from tfship.serving.protos.status import Code, StatusError, invalid

__all__ = ["METADATA_FIELD", "PredictResult", "Predictor", "describe"]

METADATA_FIELD = "signature_def"


@dataclass(frozen=True)
class PredictResult:
    """The outputs asked for, and which model version and signature made them."""

    version: int
    signature_name: str
    outputs: Tensors


def _unknown(name: str) -> StatusError:
    return StatusError(Code.FAILED_PRECONDITION, f'Serving signature key "{name}" not found.')


class Predictor:
    """Answers requests from a process' servables. Its methods may be called from any thread.

    `reload` is called with the ModelServerConfig to be served from then on (`ModelManager.reload`).
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

        `inputs` is called with the signature that was found and returns the tensors: REST needs the
        signature to read its JSON. An empty `output_filter` asks for all outputs. `unknown` returns the error for
        the name of a signature that the model lacks.
        """
        with self._models.use(spec) as servable:
            call.model = servable.name
            name = spec.signature_name or DEFAULT_SIGNATURE
            signature = find(servable.loaded, name)
            if signature is None:
                raise unknown(name)
            begin = time.monotonic()
            tensors = inputs(signature)
            call.decode += time.monotonic() - begin
            check_inputs(servable.loaded, signature, tensors)
            wanted = _outputs(signature, output_filter)
            outputs = run(servable.loaded, name, tensors, call)
            return PredictResult(servable.version, name, {key: outputs[key] for key in wanted})

    def reload(self, config: Any) -> None:
        """Serve the models of `config`, a ModelServerConfig, from now on (`ModelManager.reload`)."""
        check_request(config, self._models.names)
        self._reload(config)

    def metadata(self, spec: Any) -> Any:
        """Return the GetModelMetadataResponse with the model's signatures."""
        with self._models.use(spec) as servable:
            signatures = get_model_metadata_pb2.SignatureDefMap()
            for name, signature in servable.loaded.runtime.signatures.items():
                describe(signature, signatures.signature_def[name])
            answer = get_model_metadata_pb2.GetModelMetadataResponse()
            answer.model_spec.name = servable.name
            answer.model_spec.version.value = servable.version
            answer.metadata[METADATA_FIELD].Pack(signatures)
            return answer

    def status(self, spec: Any) -> Any:
        """Return the GetModelStatusResponse for one version or, as TensorFlow Serving also for a label, all."""
        number = spec.version.value if spec.WhichOneof("version_choice") == "version" else None
        answer = get_model_status_pb2.GetModelStatusResponse()
        for each in self._models.status(spec.name, number):
            entry = answer.model_version_status.add(version=each.version, state=int(each.state))
            # Set even when it is the default: TensorFlow Serving always sends it.
            entry.status.SetInParent()
            entry.status.error_code = int(each.code)
            entry.status.error_message = each.message
        return answer


def _outputs(signature: Signature, output_filter: Sequence[str]) -> list[str]:
    wanted: list[str] = []
    for name in output_filter:
        if name not in signature.outputs:
            raise invalid(
                f"output tensor alias not found in signature: {name} Outputs expected to be in the set "
                f"{names(signature.outputs)}."
            )
        if name in wanted:
            raise invalid(f"duplicate output tensor alias: {name}")
        wanted.append(name)
    return wanted or list(signature.outputs)


def describe(signature: Signature, definition: Any) -> None:
    """Fill `definition`, a SignatureDef message."""
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
