"""Configuration files of TensorFlow Serving in protobuf's text format, and the messages for them.

`serving.protos.messages` has ModelServerConfig and ConfigProto only, like TensorFlow's packages. The other messages
are described here, with the names and types of TensorFlow Serving's `session_bundle_config.proto`,
`ssl_config.proto` and `monitoring_config.proto`.
"""

from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format, wrappers_pb2

from tfship.train.common.errors import UsageError

__all__ = ["BatchingParameters", "MonitoringConfig", "SSLConfig", "parse", "read", "read_text"]

_MESSAGES = {
    "BatchingParameters": {
        "max_batch_size": "Int64Value",
        "batch_timeout_micros": "Int64Value",
        "max_enqueued_batches": "Int64Value",
        "num_batch_threads": "Int64Value",
        "thread_pool_name": "StringValue",
        "allowed_batch_sizes": "repeated int64",
        "pad_variable_length_inputs": "bool",
        "enable_large_batch_splitting": "BoolValue",
        "max_execution_batch_size": "Int64Value",
    },
    "SSLConfig": {
        "server_key": "string",
        "server_cert": "string",
        "custom_ca": "string",
        "client_verify": "bool",
    },
    "PrometheusConfig": {"enable": "bool", "path": "string"},
    "MonitoringConfig": {"prometheus_config": "PrometheusConfig"},
}
_PACKAGE = "tensorflow.serving"
_Field = descriptor_pb2.FieldDescriptorProto
_SCALARS = {"bool": _Field.TYPE_BOOL, "int64": _Field.TYPE_INT64, "string": _Field.TYPE_STRING}


def _described() -> Any:
    """Return a descriptor pool with the messages above.

    It isn't protobuf's default pool, where other packages in this process may describe the same names.
    """
    wrappers = wrappers_pb2.DESCRIPTOR
    file = descriptor_pb2.FileDescriptorProto(
        name="serving/server_protos", package=_PACKAGE, syntax="proto3", dependency=[wrappers.name]
    )
    for message, fields in _MESSAGES.items():
        described = file.message_type.add(name=message)
        # Any field numbers will do: the text format doesn't contain them.
        for number, (name, kind) in enumerate(fields.items(), 1):
            label = _Field.LABEL_REPEATED if kind.startswith("repeated ") else _Field.LABEL_OPTIONAL
            field = described.field.add(name=name, number=number, label=label)
            kind = kind.removeprefix("repeated ")
            if kind in _SCALARS:
                field.type = _SCALARS[kind]
            else:
                package = _PACKAGE if kind in _MESSAGES else wrappers.package
                field.type, field.type_name = _Field.TYPE_MESSAGE, f".{package}.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers.serialized_pb)
    pool.AddSerializedFile(file.SerializeToString())
    return pool


_pool = _described()


def _message(name: str) -> Any:
    return message_factory.GetMessageClass(_pool.FindMessageTypeByName(f"{_PACKAGE}.{name}"))


BatchingParameters = _message("BatchingParameters")
MonitoringConfig = _message("MonitoringConfig")
SSLConfig = _message("SSLConfig")


def read(path: Path, kind: Any, flag: str) -> Any:
    """Return the message of class `kind` in the text file `path`, the value of the flag `flag`.

    Raises UsageError, which names the flag, the file and, for a syntax error, the line.
    """
    return parse(read_text(path, flag), kind, f"{flag}: {path}")


def read_text(path: Path, flag: str) -> str:
    """Return the content of the text file `path`. Raises UsageError, which names `flag` and the file."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{flag}: {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{flag}: {path}: not a text file") from None


def parse(text: str, kind: Any, source: str, expected: str = "") -> Any:
    """Return the message of class `kind` in `text`. Raises UsageError, which names `source`, line and column.

    `expected` describes a correct text; by default, the error lists the fields of `kind`.
    """
    try:
        return text_format.Parse(text, kind(), descriptor_pool=kind.DESCRIPTOR.file.pool)
    except text_format.ParseError as error:
        descriptor, line, column = kind.DESCRIPTOR, error.GetLine(), error.GetColumn()
        # The error's text begins with "line:column : ".
        reason = str(error).removeprefix(f"{line}:{column} : ").rstrip(".")
        expected = expected or ", ".join(_form(field) for field in descriptor.fields)
        raise UsageError(
            f"{source}:{line}:{column}: not a {descriptor.name} in protobuf text format ({reason}); expected {expected}"
        ) from None


def _form(field: Any) -> str:
    """Return the syntax of a field, such as `max_batch_size { value: int64 }`."""
    if field.message_type is None:
        return f"{field.name}: {next(kind for kind, number in _SCALARS.items() if number == field.type)}"
    inner = field.message_type.fields
    wrapped = field.message_type.file.name == wrappers_pb2.DESCRIPTOR.name
    return f"{field.name} {{ {_form(inner[0]) if wrapped else '…'} }}"
