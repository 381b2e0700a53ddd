"""What model servers answer about models, as values: versions and their states, signatures.

Answers come from whoever answers at an address: nothing in them is taken for granted. What isn't of the form that
TensorFlow Serving writes is a ValueError.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = [
    "AVAILABLE", "Served", "ServedSignature", "Tensor", "Version",
    "json_object", "parsed", "signatures_in_json", "signatures_in_proto", "signatures_of", "versions_in_json",
    "versions_in_proto",
]  # fmt: skip

AVAILABLE = "AVAILABLE"
_STATES = {0: "UNKNOWN", 10: "START", 20: "LOADING", 30: AVAILABLE, 40: "UNLOADING", 50: "END"}

# TensorFlow's names where they aren't numpy's.
_DTYPES = {"float": "float32", "double": "float64", "half": "float16"}
_FIELD = "signature_def"


@dataclass(frozen=True)
class Version:
    """One version on a server: its state by TensorFlow Serving's name, and why it isn't served (`code`, `message`)."""

    number: int
    state: str
    code: str = "OK"
    message: str = ""

    def __str__(self) -> str:
        return f"{self.number} ({self.state})"


@dataclass(frozen=True)
class Tensor:
    """A named input or output: dtype by numpy's name, or "string"; sizes, -1 for a free one, None for a free rank."""

    dtype: str
    shape: tuple[int, ...] | None

    def __str__(self) -> str:
        sizes = "any shape" if self.shape is None else ", ".join("N" if n < 0 else str(n) for n in self.shape)
        return f"{self.dtype} [{sizes}]"


@dataclass(frozen=True)
class ServedSignature:
    """The inputs and outputs of one way to call a model."""

    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]

    def __str__(self) -> str:
        sides = (
            ", ".join(f"{name} {each}" for name, each in side.items()) for side in (self.inputs, self.outputs)
        )
        return " → ".join(sides)


@dataclass(frozen=True)
class Served:
    """What answers for a servable: the version's number and its signatures by name."""

    version: int
    signatures: Mapping[str, ServedSignature]


def versions_in_json(body: bytes) -> list[Version]:
    """Return the versions in REST's answer to a GET of a model, newest first. Raises ValueError."""
    try:
        return [
            Version(
                int(each["version"]), str(each["state"]), str(each["status"]["error_code"]),
                str(each["status"]["error_message"]),
            )
            for each in json_object(body)["model_version_status"]
        ]  # fmt: skip
    except (KeyError, TypeError, OverflowError):
        raise ValueError("JSON, but no model_version_status as TensorFlow Serving writes it") from None


def signatures_in_json(body: bytes) -> Served:
    """Return the version and the signatures in REST's answer to a GET of metadata. Raises ValueError."""

    def side(tensors: Any) -> dict[str, Tensor]:
        return {
            name: Tensor(_dtype(info["dtype"]), _shape(info["tensor_shape"]))
            for name, info in tensors.items()
        }

    try:
        answer = json_object(body)
        definitions = answer["metadata"][_FIELD][_FIELD]
        signatures = {
            name: ServedSignature(side(each["inputs"]), side(each["outputs"]))
            for name, each in definitions.items()
            if each["method_name"]
        }
        return Served(int(answer["model_spec"]["version"]), signatures)
    except (KeyError, TypeError, AttributeError, OverflowError):
        raise ValueError("JSON, but no metadata as TensorFlow Serving writes it") from None


def signatures_of(definitions: Any) -> dict[str, ServedSignature]:
    """Return the signatures of a map of SignatureDef messages, but of those that can't be called."""
    from tfship.serving.protos.messages import types_pb2

    def side(tensors: Any) -> dict[str, Tensor]:
        return {name: Tensor(dtype(info.dtype), shape(info.tensor_shape)) for name, info in tensors.items()}

    def dtype(number: int) -> str:
        known = types_pb2.DataType.DESCRIPTOR.values_by_number.get(number)
        return _dtype(known.name if known else str(number))

    def shape(proto: Any) -> tuple[int, ...] | None:
        return None if proto.unknown_rank else tuple(each.size for each in proto.dim)

    # The loader's pseudo-signature, __saved_model_init_op, has no method.
    return {
        name: ServedSignature(side(each.inputs), side(each.outputs))
        for name, each in definitions.items()
        if each.method_name
    }


def _shape(value: Any) -> tuple[int, ...] | None:
    return None if value.get("unknown_rank") else tuple(int(each["size"]) for each in value["dim"])


def _dtype(name: Any) -> str:
    plain = str(name).removeprefix("DT_").lower()
    return _DTYPES.get(plain, plain)


def json_object(body: bytes) -> dict[str, Any]:
    """Return the JSON object that is all of `body`. Raises ValueError."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        raise ValueError("an answer that isn't JSON") from None
    if not isinstance(value, dict):
        raise ValueError("JSON, but no object")
    return value


def versions_in_proto(data: bytes) -> list[Version]:
    """Return the versions in a serialised GetModelStatusResponse, newest first. Raises ValueError."""
    from tfship.serving.protos.messages import get_model_status_pb2
    from tfship.serving.protos.status import Code

    def code(number: int) -> str:
        return Code(number).name if number in Code._value2member_map_ else str(number)

    return [
        Version(
            each.version,
            _STATES.get(each.state, str(each.state)),
            code(each.status.error_code),
            each.status.error_message,
        )
        for each in parsed(get_model_status_pb2.GetModelStatusResponse, data).model_version_status
    ]


def signatures_in_proto(data: bytes) -> Served:
    """Return the version and the signatures in a serialised GetModelMetadataResponse. Raises ValueError."""
    from tfship.serving.protos.messages import get_model_metadata_pb2 as messages

    response = parsed(messages.GetModelMetadataResponse, data)
    if _FIELD not in response.metadata:
        raise ValueError("metadata without signatures")
    definitions = parsed(messages.SignatureDefMap, response.metadata[_FIELD].value)
    return Served(response.model_spec.version.value, signatures_of(definitions.signature_def))


def parsed(kind: Any, data: bytes) -> Any:
    """Return the message of the class `kind` in `data`. Raises ValueError."""
    from google.protobuf.message import DecodeError

    try:
        return kind.FromString(data)
    except DecodeError:
        raise ValueError(f"bytes that are no {kind.DESCRIPTOR.name}") from None
