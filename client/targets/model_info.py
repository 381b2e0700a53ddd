"""Parsers for what model servers report: model versions with their states, and signatures.

REST metadata and gRPC metadata each have one parser, used for predictions and by the doctor. Responses may come from
any server, so no field is taken for granted: a response of another form than TensorFlow Serving's raises ValueError.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tfship.client.targets.binding import DTYPES
from tfship.export.runtimes.protocol import Signature, TensorSpec

__all__ = [
    "AVAILABLE", "SIGNATURES", "Served", "Version",
    "dtype_name", "dtype_number", "json_object", "parsed", "served_in_json", "served_in_proto", "signature_text",
    "signatures_in_json", "signatures_in_proto", "signatures_of", "tensor_text", "versions_in_json",
    "versions_in_proto", "with_method",
]  # fmt: skip

AVAILABLE = "AVAILABLE"
# The metadata field that holds the signatures, in both protocols.
SIGNATURES = "signature_def"
_STATES = {0: "UNKNOWN", 10: "START", 20: "LOADING", 30: AVAILABLE, 40: "UNLOADING", 50: "END"}
# TensorFlow's DataType names, by number from 0 (tensorflow/core/framework/types.proto).
_NAMES = (
    "invalid", "float", "double", "int32", "uint8", "int16", "int8", "string", "complex64", "int64", "bool", "qint8",
    "quint8", "qint32", "bfloat16", "qint16", "quint16", "uint16", "complex128", "half", "resource", "variant",
    "uint32", "uint64", "float8_e5m2", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e4m3b11fnuz", "float8_e5m2fnuz",
    "int4", "uint4", "int2", "uint2", "float4_e2m1fn",
)  # fmt: skip
# A reference type, of a TensorFlow 1 variable, has its type's number plus 100.
_DATA_TYPES = dict(enumerate(_NAMES)) | {100 + number: f"{name}_ref" for number, name in enumerate(_NAMES)}
_NUMBERS = {name: number for number, name in _DATA_TYPES.items()} | {
    n: number for number, n in DTYPES.items()
}


@dataclass(frozen=True)
class Version:
    """A model version on a server: TensorFlow Serving's state name, and why it isn't served (`code`, `message`)."""

    number: int
    state: str
    code: str = "OK"
    message: str = ""

    def __str__(self) -> str:
        return f"{self.number} ({self.state})"


@dataclass(frozen=True)
class Served:
    """The version that serves a servable, and its signatures by name, without those that can't be called."""

    version: int
    signatures: Mapping[str, Signature]


def dtype_name(number: int) -> str:
    """Return the name of a DataType number: numpy's where the client can send that dtype, else TensorFlow's."""
    return DTYPES.get(number) or _DATA_TYPES.get(number, str(number))


def dtype_number(name: str) -> int:
    """Return the DataType number of a name, TensorFlow's or numpy's; 0 (DT_INVALID) for an unknown name."""
    return _NUMBERS.get(name, 0)


def tensor_text(spec: TensorSpec) -> str:
    """Return dtype and sizes for a message: `float32 [N, 28, 28, 1]`, with N for a free size."""
    shape = spec.shape
    sizes = "any shape" if shape is None else ", ".join("N" if size < 0 else str(size) for size in shape)
    return f"{dtype_name(spec.dtype)} [{sizes}]"


def signature_text(signature: Signature) -> str:
    """Return inputs and outputs for a message: `image float32 [N, 28, 28, 1] → probabilities float32 [N, 10]`."""
    sides = (signature.inputs, signature.outputs)
    return " → ".join(
        ", ".join(f"{name} {tensor_text(each)}" for name, each in side.items()) for side in sides
    )


def json_object(body: bytes) -> dict[str, Any]:
    """Return the JSON object in `body`. Raises ValueError if `body` is anything else."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        raise ValueError("a response that isn't JSON") from None
    if not isinstance(value, dict):
        raise ValueError("JSON, but no object")
    return value


def versions_in_json(body: bytes) -> list[Version]:
    """Return the versions in REST's response to a GET of a model, newest first. Raises ValueError."""
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


def signatures_in_json(response: Mapping[str, Any]) -> dict[str, Signature]:
    """Return all signatures in REST's response to a GET of metadata. Raises ValueError."""

    def spec(info: Mapping[str, Any]) -> TensorSpec:
        shape = info["tensor_shape"]
        sizes = (
            None if shape.get("unknown_rank") else tuple(int(each["size"]) for each in shape.get("dim", ()))
        )
        return TensorSpec(
            info.get("name", ""), dtype_number(info["dtype"].removeprefix("DT_").lower()), sizes
        )

    try:
        return {
            name: _signature(each["inputs"], each["outputs"], each.get("method_name", ""), spec)
            for name, each in response["metadata"][SIGNATURES][SIGNATURES].items()
        }
    except (KeyError, TypeError, AttributeError, OverflowError):
        raise ValueError("JSON, but no metadata as TensorFlow Serving writes it") from None


def served_in_json(body: bytes) -> Served:
    """Return the version and the signatures in REST's response to a GET of metadata. Raises ValueError."""
    response = json_object(body)
    try:
        version = int(response["model_spec"]["version"])
    except (KeyError, TypeError, OverflowError):
        raise ValueError("JSON, but no metadata as TensorFlow Serving writes it") from None
    return Served(version, with_method(signatures_in_json(response)))


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


def signatures_in_proto(response: Any) -> dict[str, Signature]:
    """Return all signatures in a GetModelMetadataResponse. Raises ValueError."""
    from tfship.serving.protos.messages import get_model_metadata_pb2

    if SIGNATURES not in response.metadata:
        raise ValueError("metadata without signatures")
    data = response.metadata[SIGNATURES].value
    return signatures_of(parsed(get_model_metadata_pb2.SignatureDefMap, data).signature_def)


def served_in_proto(data: bytes) -> Served:
    """Return the version and the signatures in a serialised GetModelMetadataResponse. Raises ValueError."""
    from tfship.serving.protos.messages import get_model_metadata_pb2

    response = parsed(get_model_metadata_pb2.GetModelMetadataResponse, data)
    return Served(response.model_spec.version.value, with_method(signatures_in_proto(response)))


def signatures_of(definitions: Mapping[str, Any]) -> dict[str, Signature]:
    """Return SignatureDef messages as signatures."""

    def spec(info: Any) -> TensorSpec:
        shape = info.tensor_shape
        sizes = None if shape.unknown_rank else tuple(each.size for each in shape.dim)
        return TensorSpec(info.name, info.dtype, sizes)

    return {
        name: _signature(each.inputs, each.outputs, each.method_name, spec)
        for name, each in definitions.items()
    }


def _signature(inputs: Any, outputs: Any, method_name: str, spec: Callable[[Any], TensorSpec]) -> Signature:
    ins, outs = ({name: spec(each) for name, each in side.items()} for side in (inputs, outputs))
    return Signature(ins, outs, method_name)


def with_method(signatures: Mapping[str, Signature]) -> dict[str, Signature]:
    """Return the signatures that can be called: TensorFlow's loader adds `__saved_model_init_op`, without a method."""
    return {name: each for name, each in signatures.items() if each.method_name}


def parsed(kind: Any, data: bytes) -> Any:
    """Return the message of class `kind` that `data` serialises. Raises ValueError."""
    from google.protobuf.message import DecodeError

    try:
        return kind.FromString(data)
    except DecodeError:
        raise ValueError(f"bytes that are no {kind.DESCRIPTOR.name}") from None
