"""Inference, metadata and readiness of models by the Open Inference Protocol, common to REST and gRPC.

Every error is a StatusError.
"""

import functools
import importlib.metadata
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from tfship.export.runtimes.protocol import DEFAULT_SIGNATURE, Signature
from tfship.serving.inference.execution import Loaded, Tensors, find
from tfship.serving.inference.predict import Predictor
from tfship.serving.inference.request_context import Call
from tfship.serving.models.registry import Servables
from tfship.serving.models.snapshot import State
from tfship.serving.models.version_policy import parse_version
from tfship.serving.open_inference.datatypes import Datatype, check_datatype, check_shape, datatype_of
from tfship.serving.protos.messages import model_pb2
from tfship.serving.protos.status import Code, StatusError, invalid

__all__ = [
    "SERVER_EXTENSIONS",
    "SERVER_NAME",
    "SIGNATURE_PARAMETER",
    "InferenceRequest",
    "ModelDescription",
    "ModelInference",
    "NamedTensor",
    "TensorDescription",
    "TensorInput",
    "check_parameter",
    "quoted",
    "server_version",
]

SERVER_NAME = "tfship"
SERVER_EXTENSIONS = ("binary_tensor_data",)
# Parameter of an inference request that selects a signature; tfship's extension.
SIGNATURE_PARAMETER = "signature_name"

# Platforms by `Loaded.kind`. The specification defines the first only.
_PLATFORMS = {"TF1": "tensorflow_savedmodel", "TFLite": "tflite"}
_NAME_CHARACTERS = 200
_VERSION = re.compile(r"[0-9]+")
# Parameters of extensions that change where data is or what it means. Ignoring them would give wrong results.
_UNSUPPORTED = {
    "classification": "the classification extension isn't supported; remove the parameter",
    "shared_memory_region": "shared memory isn't supported; send the data in the request",
}


@dataclass(frozen=True)
class TensorInput:
    """An input in a request. `decode` returns its data as an array, once the datatype and the shape are checked.

    The array's size is `count`; `ModelInference` gives it `shape`.
    """

    name: str
    datatype: str
    shape: Sequence[int]
    decode: Callable[[Datatype, int], NDArray[Any]]


@dataclass(frozen=True)
class InferenceRequest:
    """A request for inference. Empty strings and `outputs` select the defaults.

    `outputs` are the names of the requested outputs in the response's order.
    """

    model: str
    version: str
    signature: str
    inputs: Sequence[TensorInput]
    outputs: Sequence[str]


@dataclass(frozen=True)
class NamedTensor:
    """An output."""

    name: str
    datatype: Datatype
    array: NDArray[Any]


@dataclass(frozen=True)
class TensorDescription:
    """An input or output in a model's metadata; -1 in `shape` is any size. A free rank is reported as [-1]."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class ModelDescription:
    """Metadata of a model; `versions` are the available ones, ascending."""

    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[TensorDescription, ...]
    outputs: tuple[TensorDescription, ...]


@functools.cache
def server_version() -> str:
    """Return the installed version of tfship, "" if it isn't installed as a package."""
    try:
        return importlib.metadata.version("tfship")
    except importlib.metadata.PackageNotFoundError:
        return ""


def quoted(name: str) -> str:
    """Return `name`, which a client chose, for an error message: in quotes, and at most 200 characters of it."""
    return f'"{name}"' if len(name) <= _NAME_CHARACTERS else f'"{name[:_NAME_CHARACTERS]}…"'


def check_parameter(where: str, name: str) -> None:
    """Raise StatusError(UNIMPLEMENTED) if the parameter `name` belongs to an extension that must not be ignored.

    All other unknown parameters are ignored. `where` names the input or output.
    """
    if name in _UNSUPPORTED:
        raise StatusError(Code.UNIMPLEMENTED, f"{where} has the parameter {name}: {_UNSUPPORTED[name]}")


class ModelInference:
    """The protocol's methods for the models of one process. Thread-safe.

    `max_elements` limits the elements of each input.
    """

    def __init__(self, predictor: Predictor, models: Servables, max_elements: int) -> None:
        self._predictor = predictor
        self._models = models
        self._max_elements = max_elements

    def infer(self, request: InferenceRequest, call: Call) -> tuple[int, list[NamedTensor]]:
        """Run a model and return its version and the requested outputs, by default the signature's.

        Raises StatusError with INVALID_ARGUMENT for an unknown signature and for inputs or outputs that are unknown,
        missing, given twice or don't match the signature, and NOT_FOUND for an unknown model. No tensor is allocated
        before all names, datatypes and shapes are checked.
        """
        with self._models.use(_spec(request.model, request.version)) as servable:
            name, signature = _signature(servable.name, servable.loaded, request.signature)
            for output in _requested(name, signature, request.outputs):
                datatype_of(f"output {output}", signature.outputs[output])
            # The version in use: another one may become the latest in the meantime.
            spec = model_pb2.ModelSpec(name=servable.name, signature_name=name)
            spec.version.value = servable.version
            result = self._predictor.predict(
                spec,
                lambda signature: self._tensors(name, signature, request.inputs),
                call,
                request.outputs,
            )
            return result.version, [
                NamedTensor(key, datatype_of(f"output {key}", signature.outputs[key]), array)
                for key, array in result.outputs.items()
            ]

    def metadata(self, model: str, version: str = "") -> ModelDescription:
        """Return the description of the default signature: serving_default, or else the only one.

        Raises StatusError with NOT_FOUND if the model isn't available, FAILED_PRECONDITION if it has several other
        signatures, and UNIMPLEMENTED if the protocol has no datatype for a tensor.
        """
        with self._models.use(_spec(model, version)) as servable:
            _, signature = _signature(model, servable.loaded, "")
            inputs, outputs = (
                tuple(
                    TensorDescription(
                        name,
                        datatype_of(f"{kind} {name}", spec).name,
                        (-1,) if spec.shape is None else spec.shape,
                    )
                    for name, spec in specs.items()
                )
                for kind, specs in (("input", signature.inputs), ("output", signature.outputs))
            )
            available = sorted(
                each.version for each in self._models.status(model) if each.state is State.AVAILABLE
            )
            return ModelDescription(
                model, tuple(map(str, available)), _PLATFORMS[servable.loaded.kind], inputs, outputs
            )

    def check_model_ready(self, model: str, version: str = "") -> None:
        """Return if the version, by default the latest, can be used.

        Raises StatusError with NOT_FOUND for an unknown model or version, and UNAVAILABLE for one that isn't available.
        """
        spec = _spec(model, version)
        number = spec.version.value if version else None
        statuses = self._models.status(model, number)
        if not any(each.state is State.AVAILABLE for each in statuses):
            newest = statuses[0]
            reason = f" ({newest.message})" if newest.message else ""
            raise StatusError(
                Code.UNAVAILABLE,
                f"model {model} version {newest.version} is in state {newest.state.name}{reason}; expected AVAILABLE",
            )
        with self._models.use(spec):
            pass

    def unavailable_models(self) -> list[str]:
        """Return the names of models in the config without an available version; the server is ready if none."""
        return self._models.unavailable_models()

    def _tensors(self, name: str, signature: Signature, inputs: Sequence[TensorInput]) -> Tensors:
        checked: dict[str, tuple[TensorInput, Datatype, int]] = {}
        for each in inputs:
            spec = signature.inputs.get(each.name)
            if spec is None:
                raise invalid(
                    f"unknown input {quoted(each.name)}; signature {name} expects {_listed(signature.inputs)}"
                )
            if each.name in checked:
                raise invalid(f"input {each.name} is given twice; expected once")
            datatype = datatype_of(f"input {each.name}", spec)
            check_datatype(each.name, each.datatype, datatype)
            count = check_shape(each.name, each.shape, spec, datatype, self._max_elements)
            checked[each.name] = each, datatype, count
        if missing := signature.inputs.keys() - checked.keys():
            raise invalid(
                f"missing {_listed(sorted(missing))}; signature {name} expects inputs {_listed(signature.inputs)}"
            )
        return {
            key: each.decode(datatype, count).reshape(each.shape)
            for key, (each, datatype, count) in checked.items()
        }


def _spec(model: str, version: str) -> Any:
    if not model:
        raise invalid("the request names no model")
    spec = model_pb2.ModelSpec(name=model)
    if version:
        number = parse_version(version) if _VERSION.fullmatch(version) else None
        if number is None:
            raise invalid(f"model {quoted(model)}: version {quoted(version)}; expected a number below 2**63")
        spec.version.value = number
    return spec


def _signature(model: str, loaded: Loaded, requested: str) -> tuple[str, Signature]:
    # The loader's pseudo-signature has no method name and can't be run.
    known = [name for name, each in loaded.runtime.signatures.items() if each.method_name]
    name = requested or (known[0] if len(known) == 1 else DEFAULT_SIGNATURE)
    signature = find(loaded, name) if name in known else None
    if signature is not None:
        return name, signature
    if requested:
        raise invalid(f"unknown signature {quoted(requested)}; model {model} has {_listed(known)}")
    raise StatusError(
        Code.FAILED_PRECONDITION,
        f"model {model} has no signature {DEFAULT_SIGNATURE}, but {_listed(known)}; "
        f"select one by the parameter {SIGNATURE_PARAMETER} of an inference request",
    )


def _requested(name: str, signature: Signature, outputs: Sequence[str]) -> Sequence[str]:
    """Return the names of the requested outputs. Raises StatusError if one is unknown or requested twice."""
    seen: set[str] = set()
    for each in outputs:
        if each not in signature.outputs:
            raise invalid(
                f"unknown output {quoted(each)}; signature {name} returns {_listed(signature.outputs)}"
            )
        if each in seen:
            raise invalid(f"output {each} is requested twice; expected once")
        seen.add(each)
    return outputs or list(signature.outputs)


def _listed(names: Any) -> str:
    return ", ".join(names) or "none"
