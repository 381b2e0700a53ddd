"""What Predict, GetModelMetadata and GetModelStatus mean, whether they come by REST or by gRPC.

Requests are checked against the signature before they reach a runtime, because TensorFlow aborts the whole
process on some inputs. Every error is a StatusError.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.runtime import DEFAULT_SIGNATURE, Signature, TensorSpec
from serving.models import ModelManager, Servable
from serving.protos import get_model_metadata_pb2, get_model_status_pb2
from serving.status import Code, StatusError
from serving.tensors import DTYPES, DType, dtype_of

__all__ = ["METADATA_FIELD", "Prediction", "Predictor", "Tensors"]

Tensors = dict[str, NDArray[Any]]
METADATA_FIELD = "signature_def"


@dataclass(frozen=True)
class Prediction:
    """The outputs asked for, and which model version and signature made them."""

    version: int
    signature_name: str
    outputs: Tensors


class Predictor:
    """Answers requests from the models of a ModelManager. Its methods may be called from any thread."""

    def __init__(self, models: ModelManager) -> None:
        self._models = models

    def predict(
        self, spec: Any, inputs: Callable[[Signature], Tensors], output_filter: Sequence[str] = ()
    ) -> Prediction:
        """Run the model that `spec`, a ModelSpec, names.

        `inputs` is called with the signature that was found and returns the tensors: REST needs the
        signature to read its JSON. An empty `output_filter` asks for all outputs.
        """
        with self._models.use(spec) as servable:
            name = spec.signature_name or DEFAULT_SIGNATURE
            signature = _signature(servable, name)
            tensors = inputs(signature)
            _check_inputs(tensors, signature.inputs, any_shape=servable.loaded.any_shape)
            names = _outputs(signature, output_filter)
            try:
                outputs = servable.loaded.runtime.run(name, tensors)
            except ValueError as error:
                raise StatusError(Code.of(error, Code.INVALID_ARGUMENT), str(error)) from error
            return Prediction(
                servable.version, name, {key: _array(outputs[key], signature.outputs[key]) for key in names}
            )

    def metadata(self, spec: Any) -> Any:
        """Return the GetModelMetadataResponse with the model's signatures."""
        with self._models.use(spec) as servable:
            signatures = get_model_metadata_pb2.SignatureDefMap()
            for name, signature in servable.loaded.runtime.signatures.items():
                _describe(signature, signatures.signature_def[name])
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


def _signature(servable: Servable, name: str) -> Signature:
    signature = servable.loaded.runtime.signatures.get(name)
    # The loader's own pseudo-signature has no method, and nothing that could be run.
    if signature is None or not signature.method_name:
        raise StatusError(Code.FAILED_PRECONDITION, f'Serving signature key "{name}" not found.')
    for key, spec in (*signature.inputs.items(), *signature.outputs.items()):
        if dtype_of(spec.dtype) is None:
            raise StatusError(
                Code.UNIMPLEMENTED, f"{name}: {key} has dtype {spec.dtype}, which can't be sent"
            )
    return signature


def _check_inputs(tensors: Tensors, specs: Mapping[str, TensorSpec], *, any_shape: bool) -> None:
    if len(tensors) != len(specs):
        extra, missing = tensors.keys() - specs.keys(), specs.keys() - tensors.keys()
        raise _invalid(
            f"input size does not match signature: {len(tensors)}!={len(specs)} len({_set(tensors)}) != "
            f"len({_set(specs)}). Sent extra: {_set(extra)}. Missing but required: {_set(missing)}."
        )
    for index, name in enumerate(sorted(specs)):
        spec = specs[name]
        if name not in tensors:
            raise _invalid(
                f"Signature input alias: {name}(feed name: {spec.name}) not found in request and no default value "
                f"provided. Inputs expected to be in the request {_set(tensors)}, or default input alias set: "
            )
        tensor, expected = tensors[name], _dtype(spec)
        if tensor.dtype != expected.numpy:
            raise _invalid(
                f"Expects arg[{index}] to be {expected.name} but {_dtype_name(tensor)} is provided"
            )
        if not any_shape and not _fits(tensor.shape, spec.shape):
            raise _invalid(
                f"input {name} has shape {list(tensor.shape)}; its signature expects {list(spec.shape or ())}"
                " (-1: any size)"
            )


def _fits(shape: tuple[int, ...], expected: tuple[int, ...] | None) -> bool:
    if expected is None:
        return True
    return len(shape) == len(expected) and all(
        want in (-1, have) for have, want in zip(shape, expected, strict=True)
    )


def _outputs(signature: Signature, output_filter: Sequence[str]) -> list[str]:
    names: list[str] = []
    for name in output_filter:
        if name not in signature.outputs:
            raise _invalid(
                f"output tensor alias not found in signature: {name} Outputs expected to be in the set "
                f"{_set(signature.outputs)}."
            )
        if name in names:
            raise _invalid(f"duplicate output tensor alias: {name}")
        names.append(name)
    return names or list(signature.outputs)


def _array(output: Any, spec: TensorSpec) -> NDArray[Any]:
    # A scalar leaves TensorFlow as a bare value; without its dtype, numpy would cut a string at its last NUL.
    return np.asarray(output, _dtype(spec).numpy)


def _dtype(spec: TensorSpec) -> DType:
    dtype = dtype_of(spec.dtype)
    assert dtype is not None, "checked by _signature"  # noqa: S101
    return dtype


def _dtype_name(tensor: NDArray[Any]) -> str:
    return next(each.name for each in DTYPES.values() if each.numpy == tensor.dtype)


def _describe(signature: Signature, definition: Any) -> None:
    definition.method_name = signature.method_name
    for specs, infos in ((signature.inputs, definition.inputs), (signature.outputs, definition.outputs)):
        for name, spec in specs.items():
            info = infos[name]
            info.name = spec.name
            info.dtype = spec.dtype
            info.tensor_shape.SetInParent()
            if spec.shape is None:
                info.tensor_shape.unknown_rank = True
            for size in spec.shape or ():
                info.tensor_shape.dim.add(size=size)


def _set(names: Iterable[str]) -> str:
    return f"{{{','.join(sorted(names))}}}"


def _invalid(message: str) -> StatusError:
    return StatusError(Code.INVALID_ARGUMENT, message)
