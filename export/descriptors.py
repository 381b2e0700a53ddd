"""The descriptors of TensorFlow's and TensorFlow Serving's protocol messages, without their packages.

`descriptors.binpb` is a FileDescriptorSet, which `python -m tfship.export.derive_descriptors` writes. The message
classes made from it live in a pool of their own, so that TensorFlow's may be loaded beside them. The two kinds read
each other's bytes; a message of one can't be put into a message of the other (TypeError of CopyFrom and the like).
"""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper

__all__ = ["POOL", "VERSION", "messages"]

# Of the package tensorflow-serving-api that the descriptors were derived from.
VERSION = "2.21.0"


def _pool() -> Any:
    """Return a pool of every file in the set, which has each after those that it imports."""
    files = descriptor_pb2.FileDescriptorSet()
    files.ParseFromString(Path(__file__).with_name("descriptors.binpb").read_bytes())
    pool = descriptor_pool.DescriptorPool()
    for file in files.file:
        pool.AddSerializedFile(file.SerializeToString())
    return pool


# Also what resolves the Any messages in texts (`descriptor_pool` of text_format and json_format).
POOL = _pool()


def messages(name: str) -> Any:
    """Return the contents of the generated module for the file `name`: messages, enums, their values, DESCRIPTOR."""
    file = POOL.FindFileByName(name)
    module = SimpleNamespace(DESCRIPTOR=file)
    for name, message in file.message_types_by_name.items():
        setattr(module, name, message_factory.GetMessageClass(message))
    for name, enum in file.enum_types_by_name.items():
        setattr(module, name, EnumTypeWrapper(enum))
        vars(module).update({value.name: value.number for value in enum.values})
    return module
