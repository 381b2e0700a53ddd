"""Messages and service of the Open Inference Protocol's gRPC API, package `inference`.

Names, numbers and types are those of `open_inference_grpc.proto` (https://github.com/kserve/open-inference-protocol).
NVIDIA's and OpenVINO's servers and clients use the same. `InferParameter` also has their two newer choices,
`double_param` and `uint64_param`.

The messages have a separate descriptor pool, so that a client package that describes the same names can be loaded in
the same process.
"""

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

__all__ = [
    "POOL",
    "SERVICE",
    "InferParameter",
    "InferTensorContents",
    "ModelInferRequest",
    "ModelInferResponse",
    "ModelMetadataRequest",
    "ModelMetadataResponse",
    "ModelReadyRequest",
    "ModelReadyResponse",
    "ServerLiveRequest",
    "ServerLiveResponse",
    "ServerMetadataRequest",
    "ServerMetadataResponse",
    "ServerReadyRequest",
    "ServerReadyResponse",
]

_PACKAGE = "inference"
_SERVICE = "GRPCInferenceService"
_PARAMETERS = "map<string, InferParameter>"
# Messages, with dots for nested ones: the type of each field, by its number.
_MESSAGES: dict[str, dict[int, tuple[str, str]]] = {
    "ServerLiveRequest": {},
    "ServerLiveResponse": {1: ("live", "bool")},
    "ServerReadyRequest": {},
    "ServerReadyResponse": {1: ("ready", "bool")},
    "ModelReadyRequest": {1: ("name", "string"), 2: ("version", "string")},
    "ModelReadyResponse": {1: ("ready", "bool")},
    "ServerMetadataRequest": {},
    "ServerMetadataResponse": {
        1: ("name", "string"),
        2: ("version", "string"),
        3: ("extensions", "repeated string"),
    },
    "ModelMetadataRequest": {1: ("name", "string"), 2: ("version", "string")},
    "ModelMetadataResponse": {
        1: ("name", "string"),
        2: ("versions", "repeated string"),
        3: ("platform", "string"),
        4: ("inputs", "repeated ModelMetadataResponse.TensorMetadata"),
        5: ("outputs", "repeated ModelMetadataResponse.TensorMetadata"),
    },
    "ModelMetadataResponse.TensorMetadata": {
        1: ("name", "string"),
        2: ("datatype", "string"),
        3: ("shape", "repeated int64"),
    },
    "InferParameter": {
        1: ("bool_param", "bool"),
        2: ("int64_param", "int64"),
        3: ("string_param", "string"),
        4: ("double_param", "double"),
        5: ("uint64_param", "uint64"),
    },
    "InferTensorContents": {
        1: ("bool_contents", "repeated bool"),
        2: ("int_contents", "repeated int32"),
        3: ("int64_contents", "repeated int64"),
        4: ("uint_contents", "repeated uint32"),
        5: ("uint64_contents", "repeated uint64"),
        6: ("fp32_contents", "repeated float"),
        7: ("fp64_contents", "repeated double"),
        8: ("bytes_contents", "repeated bytes"),
    },
    "ModelInferRequest": {
        1: ("model_name", "string"),
        2: ("model_version", "string"),
        3: ("id", "string"),
        4: ("parameters", _PARAMETERS),
        5: ("inputs", "repeated ModelInferRequest.InferInputTensor"),
        6: ("outputs", "repeated ModelInferRequest.InferRequestedOutputTensor"),
        7: ("raw_input_contents", "repeated bytes"),
    },
    "ModelInferRequest.InferInputTensor": {
        1: ("name", "string"),
        2: ("datatype", "string"),
        3: ("shape", "repeated int64"),
        4: ("parameters", _PARAMETERS),
        5: ("contents", "InferTensorContents"),
    },
    "ModelInferRequest.InferRequestedOutputTensor": {1: ("name", "string"), 2: ("parameters", _PARAMETERS)},
    "ModelInferResponse": {
        1: ("model_name", "string"),
        2: ("model_version", "string"),
        3: ("id", "string"),
        4: ("parameters", _PARAMETERS),
        5: ("outputs", "repeated ModelInferResponse.InferOutputTensor"),
        6: ("raw_output_contents", "repeated bytes"),
    },
    "ModelInferResponse.InferOutputTensor": {
        1: ("name", "string"),
        2: ("datatype", "string"),
        3: ("shape", "repeated int64"),
        4: ("parameters", _PARAMETERS),
        5: ("contents", "InferTensorContents"),
    },
}
# Messages whose fields are the choices of a oneof.
_ONEOFS = {"InferParameter": "parameter_choice"}
# Each takes the message `…Request` and returns `…Response`.
_METHODS = ("ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelInfer")

_Field = descriptor_pb2.FieldDescriptorProto
_SCALARS = {
    "bool": _Field.TYPE_BOOL,
    "bytes": _Field.TYPE_BYTES,
    "double": _Field.TYPE_DOUBLE,
    "float": _Field.TYPE_FLOAT,
    "int32": _Field.TYPE_INT32,
    "int64": _Field.TYPE_INT64,
    "string": _Field.TYPE_STRING,
    "uint32": _Field.TYPE_UINT32,
    "uint64": _Field.TYPE_UINT64,
}


def _file() -> Any:
    """Return the messages and the service as a FileDescriptorProto."""
    file = descriptor_pb2.FileDescriptorProto(
        name="tfship/open_inference.proto", package=_PACKAGE, syntax="proto3"
    )
    messages: dict[str, Any] = {}
    for name, fields in _MESSAGES.items():
        parent, _, short = name.rpartition(".")
        message = (messages[parent].nested_type if parent else file.message_type).add(name=short)
        messages[name] = message
        if name in _ONEOFS:
            message.oneof_decl.add(name=_ONEOFS[name])
        for number, (field, kind) in fields.items():
            added = _add_field(message, name, number, field, kind)
            if name in _ONEOFS:
                added.oneof_index = 0
    service = file.service.add(name=_SERVICE)
    for method in _METHODS:
        service.method.add(
            name=method,
            input_type=f".{_PACKAGE}.{method}Request",
            output_type=f".{_PACKAGE}.{method}Response",
        )
    return file


def _add_field(message: Any, parent: str, number: int, name: str, kind: str) -> Any:
    if kind == _PARAMETERS:
        # A map is a repeated message with this name (protobuf's encoding guide, "Maps").
        entry = message.nested_type.add(name="ParametersEntry")
        entry.options.map_entry = True
        _add_field(entry, parent, 1, "key", "string")
        _add_field(entry, parent, 2, "value", "InferParameter")
        kind = f"repeated {parent}.ParametersEntry"
    repeated = kind.startswith("repeated ")
    kind = kind.removeprefix("repeated ")
    label = _Field.LABEL_REPEATED if repeated else _Field.LABEL_OPTIONAL
    field = message.field.add(name=name, number=number, label=label)
    if kind in _SCALARS:
        field.type = _SCALARS[kind]
    else:
        field.type, field.type_name = _Field.TYPE_MESSAGE, f".{_PACKAGE}.{kind}"
    return field


POOL = descriptor_pool.DescriptorPool()
POOL.AddSerializedFile(_file().SerializeToString())
# The ServiceDescriptor, with the message types of each method.
SERVICE = POOL.FindServiceByName(f"{_PACKAGE}.{_SERVICE}")


def _message(name: str) -> Any:
    return message_factory.GetMessageClass(POOL.FindMessageTypeByName(f"{_PACKAGE}.{name}"))


InferParameter = _message("InferParameter")
InferTensorContents = _message("InferTensorContents")
ModelInferRequest = _message("ModelInferRequest")
ModelInferResponse = _message("ModelInferResponse")
ModelMetadataRequest = _message("ModelMetadataRequest")
ModelMetadataResponse = _message("ModelMetadataResponse")
ModelReadyRequest = _message("ModelReadyRequest")
ModelReadyResponse = _message("ModelReadyResponse")
ServerLiveRequest = _message("ServerLiveRequest")
ServerLiveResponse = _message("ServerLiveResponse")
ServerMetadataRequest = _message("ServerMetadataRequest")
ServerMetadataResponse = _message("ServerMetadataResponse")
ServerReadyRequest = _message("ServerReadyRequest")
ServerReadyResponse = _message("ServerReadyResponse")
