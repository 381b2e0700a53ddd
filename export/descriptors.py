"""Descriptors of TensorFlow's and TensorFlow Serving's protocol messages, without their packages.

`descriptors.binpb` is a FileDescriptorSet, written by `python -m tfship.export.derive_descriptors`. The message classes
have a separate pool, so that TensorFlow's classes may be loaded as well. Both kinds serialize to the same bytes, but
can't be combined: `CopyFrom` and similar methods raise TypeError.
"""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper

__all__ = ["POOL", "VERSION", "messages"]

# Version of the package tensorflow-serving-api that the descriptors were derived from.
VERSION = "2.21.0"


def _pool() -> Any:
    """Return a pool of the files in the set, in which imported files come first."""
    files = descriptor_pb2.FileDescriptorSet()
    files.ParseFromString(Path(__file__).with_name("descriptors.binpb").read_bytes())
    pool = descriptor_pool.DescriptorPool()
    for file in files.file:
        pool.AddSerializedFile(file.SerializeToString())
    return pool


# Also the `descriptor_pool` for Any messages of text_format and json_format.
POOL = _pool()


def messages(name: str) -> Any:
    """Return the equivalent of the generated module for the file `name`: messages, enums, enum values, DESCRIPTOR."""
    file = POOL.FindFileByName(name)
    module = SimpleNamespace(DESCRIPTOR=file)
    for name, message in file.message_types_by_name.items():
        setattr(module, name, message_factory.GetMessageClass(message))
    for name, enum in file.enum_types_by_name.items():
        setattr(module, name, EnumTypeWrapper(enum))
        vars(module).update({value.name: value.number for value in enum.values})
    return module
