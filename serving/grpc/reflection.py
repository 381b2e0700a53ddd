"""gRPC's server reflection, v1 and v1alpha: clients such as grpcurl list and call services without proto files.

Both versions have the same messages; only the package differs (grpc/reflection/v1/reflection.proto).
"""

import re
from collections.abc import Iterable
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, text_format
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha import reflection_pb2

from tfship.serving.grpc.methods import Method, ServerStream, parsed
from tfship.serving.protos.status import Code

__all__ = ["Reflection"]

_SERVICES = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")
_Response = reflection_pb2.ServerReflectionResponse


class Reflection:
    """Reflection of `services` (full names), described in `pools` or in protobuf's default pool; and of itself."""

    def __init__(self, services: Iterable[str], pools: Iterable[DescriptorPool]) -> None:
        self._services = sorted({*services, *_SERVICES})
        self._pools = (*pools, descriptor_pool.Default(), _pool_of_v1())

    @property
    def methods(self) -> dict[bytes, Method]:
        """The services' methods by path."""
        return {
            f"/{service}/ServerReflectionInfo".encode(): lambda stream: _Questions(self, stream)
            for service in _SERVICES
        }

    def respond(self, request: Any) -> Any:
        """Return the response to one request."""
        kind = request.WhichOneof("message_request")
        response = _Response(valid_host=request.host, original_request=request)
        if kind == "list_services":
            for name in self._services:
                response.list_services_response.service.add(name=name)
            return response
        for pool in self._pools:
            try:
                if kind == "file_by_filename":
                    self._add_file(response, pool.FindFileByName(request.file_by_filename))
                elif kind == "file_containing_symbol":
                    file = pool.FindFileContainingSymbol(request.file_containing_symbol)
                    self._add_file(response, file)
                elif kind == "file_containing_extension":
                    wanted = request.file_containing_extension
                    message = pool.FindMessageTypeByName(wanted.containing_type)
                    extension = pool.FindExtensionByNumber(message, wanted.extension_number)
                    self._add_file(response, pool.FindFileContainingSymbol(extension.full_name))
                elif kind == "all_extension_numbers_of_type":
                    message = pool.FindMessageTypeByName(request.all_extension_numbers_of_type)
                    found = response.all_extension_numbers_response
                    found.base_type_name = message.full_name
                    found.extension_number.extend(
                        sorted(each.number for each in pool.FindAllExtensions(message))
                    )
                else:
                    response.error_response.error_code = Code.INVALID_ARGUMENT
                    response.error_response.error_message = "the request names nothing"
                return response
            except KeyError:
                continue
        response.error_response.error_code = Code.NOT_FOUND
        response.error_response.error_message = f"{kind}: not found"
        return response

    @staticmethod
    def _add_file(response: Any, file: FileDescriptor) -> None:
        """Add a file and those that it imports, which clients need, too."""
        seen: set[str] = set()
        waiting = [file]
        while waiting:
            each = waiting.pop()
            if each.name not in seen:
                seen.add(each.name)
                response.file_descriptor_response.file_descriptor_proto.append(each.serialized_pb)
                waiting += each.dependencies


def _pool_of_v1() -> DescriptorPool:
    """Return a pool with the descriptor of v1, made from v1alpha's."""
    file = descriptor_pb2.FileDescriptorProto()
    reflection_pb2.DESCRIPTOR.CopyToProto(file)
    text = re.sub("(reflection[./])v1alpha", r"\1v1", text_format.MessageToString(file))
    pool = DescriptorPool()
    pool.Add(text_format.Parse(text, descriptor_pb2.FileDescriptorProto()))
    return pool


class _Questions:
    """A call of ServerReflectionInfo, a `Streaming` method: a response to each request."""

    def __init__(self, reflection: Reflection, stream: ServerStream) -> None:
        self._reflection, self._stream = reflection, stream

    def on_message(self, data: bytes) -> None:
        request = parsed(reflection_pb2.ServerReflectionRequest, data)
        self._stream.send(self._reflection.respond(request).SerializeToString())

    def on_end(self) -> None:
        self._stream.finish(Code.OK)

    def on_closed(self) -> None:
        """Nothing is kept of a call."""
