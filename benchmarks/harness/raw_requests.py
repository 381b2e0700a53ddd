"""Requests to a server as bytes, over a connection of the caller's own: what a load generator sends.

The client library is made for convenience: what it costs in Python would be counted as the server's. So under load,
and where the time of one request is taken apart, requests are encoded before the clock starts, sent by the plainest
means, and the answers understood after it has stopped. Encoding and understanding are the client library's own.
"""

import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import grpc
import numpy as np
from numpy.typing import NDArray

from tfship.benchmarks.studies.cases import METHOD
from tfship.client.targets.binding import Binding
from tfship.client.targets.connection import Connection, Servable
from tfship.client.targets.grpc import Messages
from tfship.client.targets.rest import Rest
from tfship.serving.protos.messages import predict_pb2
from tfship.train.common.errors import Refused, Unreachable

__all__ = ["Address", "GrpcSender", "Reply", "RestSender", "Sender"]

_TIMING = "server-timing"


class Reply(NamedTuple):
    """An answer's bytes, and where the server says its time went: seconds by the name of a part."""

    content: bytes
    timing: Mapping[str, float]


@dataclass(frozen=True)
class Address:
    """What is asked, and where."""

    connection: Connection
    servable: Servable
    binding: Binding


class Sender(Protocol):
    """One connection to a servable."""

    def encoded(self, images: NDArray[Any]) -> bytes:
        """Return the request for images as the servable's binding says."""

    def send(self, request: bytes) -> Reply:
        """Have a request answered. Raises Unreachable if it isn't, Refused if the answer is an error."""

    def understood(self, content: bytes, count: int) -> NDArray[np.float32]:
        """Return the scores [count, classes] in an answer."""

    def close(self) -> None:
        """Close the connection."""


class RestSender:
    """HTTP/1.1, kept alive."""

    def __init__(self, address: Address) -> None:
        self._rest = Rest(address.connection, address.servable, address.binding)
        self._path = f"{address.servable.path}:predict"
        self._where = f"{address.connection.url}{self._path}"
        self._connection = http.client.HTTPConnection(
            address.connection.server, timeout=address.connection.timeout
        )

    def encoded(self, images: NDArray[Any]) -> bytes:
        """See `Sender.encoded`."""
        return self._rest.encoded(images)

    def send(self, request: bytes) -> Reply:
        """See `Sender.send`."""
        try:
            self._connection.request("POST", self._path, request, {"Content-Type": "application/json"})
            answer = self._connection.getresponse()
            content = answer.read()
        except (OSError, http.client.HTTPException) as error:
            reason = str(error) or type(error).__name__
            raise Unreachable(f"{self._where}: nothing answers there any more ({reason})") from error
        if answer.status != http.client.OK:
            raise Refused(f"{self._where}: HTTP {answer.status}: {content[:200].decode(errors='replace')}")
        return Reply(content, _parts(answer.headers.get(_TIMING, "")))

    def understood(self, content: bytes, count: int) -> NDArray[np.float32]:
        """See `Sender.understood`."""
        return self._rest.understood(json.loads(content), count).scores

    def close(self) -> None:
        """See `Sender.close`."""
        self._connection.close()
        self._rest.close()


class GrpcSender:
    """gRPC over HTTP/2, one stream at a time."""

    def __init__(self, address: Address) -> None:
        self._messages = Messages(address.connection, address.servable, address.binding)
        self._where = f"{address.connection.server}, model {address.servable.name}"
        self._timeout = address.connection.timeout
        # Channels to one address would share a connection.
        self._channel = grpc.insecure_channel(
            address.connection.server,
            [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)],
        )
        self._predict = self._channel.unary_unary(METHOD, None, None)

    def encoded(self, images: NDArray[Any]) -> bytes:
        """See `Sender.encoded`."""
        request: bytes = self._messages.request(images).SerializeToString()
        return request

    def send(self, request: bytes) -> Reply:
        """See `Sender.send`."""
        try:
            content, call = self._predict.with_call(request, timeout=self._timeout)
        except grpc.RpcError as error:
            what = f"{self._where}: {error.code().name}: {error.details()}"
            gone = error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
            raise (Unreachable if gone else Refused)(what) from error
        timing = next((value for key, value in call.trailing_metadata() if key == _TIMING), "")
        return Reply(content, _parts(str(timing)))

    def understood(self, content: bytes, count: int) -> NDArray[np.float32]:
        """See `Sender.understood`."""
        return self._messages.understood(predict_pb2.PredictResponse.FromString(content), count).scores

    def close(self) -> None:
        """See `Sender.close`."""
        self._channel.close()


def _parts(header: str) -> dict[str, float]:
    """Return the seconds of a Server-Timing header (https://www.w3.org/TR/server-timing/) by the parts' names."""
    found = {}
    for entry in filter(None, header.split(",")):
        name, *parameters = (part.strip() for part in entry.split(";"))
        for each in parameters:
            key, _, value = each.partition("=")
            if key == "dur":
                found[name] = float(value) / 1e3
    return found
