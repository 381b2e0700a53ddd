"""Requests to a server as bytes, over a separate connection, as a load generator sends them.

The client library's own time in Python would count as the server's. So under load, and when a request is timed by part,
requests are encoded before the clock starts, sent with little overhead, and responses decoded after it has stopped.
The client library does the encoding and decoding.
"""

import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import grpc
import numpy as np
from numpy.typing import NDArray

from tfship.client.targets.binding import Binding
from tfship.client.targets.connection import Connection, Servable
from tfship.client.targets.grpc import Messages
from tfship.client.targets.rest import Rest
from tfship.serving.protos.messages import predict_pb2
from tfship.train.common.errors import Refused, Unreachable

__all__ = ["METHOD", "Address", "GrpcSender", "Reply", "RestSender", "Sender"]

# The gRPC method for predictions.
METHOD = "/tensorflow.serving.PredictionService/Predict"
_TIMING = "server-timing"


class Reply(NamedTuple):
    """A response's bytes, and the server's timings in seconds, by part."""

    content: bytes
    timing: Mapping[str, float]


@dataclass(frozen=True)
class Address:
    """A servable at a server, with the binding of its tensors."""

    connection: Connection
    servable: Servable
    binding: Binding


class Sender(Protocol):
    """One connection to a servable."""

    def encode(self, images: NDArray[Any]) -> bytes:
        """Return the request for images, by the servable's binding."""

    def send(self, request: bytes) -> Reply:
        """Send a request and return the response. Raises Unreachable without a response, Refused for an error."""

    def decode(self, content: bytes, count: int) -> NDArray[np.float32]:
        """Return the scores [count, classes] in a response."""

    def close(self) -> None:
        """Close the connection."""


class RestSender:
    """A persistent HTTP/1.1 connection."""

    def __init__(self, address: Address) -> None:
        self._rest = Rest(address.connection, address.servable, address.binding)
        self._path = f"{address.servable.path}:predict"
        self._where = f"{address.connection.url}{self._path}"
        self._connection = http.client.HTTPConnection(
            address.connection.server, timeout=address.connection.timeout
        )

    def encode(self, images: NDArray[Any]) -> bytes:
        """See `Sender.encode`."""
        return self._rest.encoded(images)

    def send(self, request: bytes) -> Reply:
        """See `Sender.send`."""
        try:
            self._connection.request("POST", self._path, request, {"Content-Type": "application/json"})
            response = self._connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            reason = str(error) or type(error).__name__
            raise Unreachable(f"{self._where}: the server no longer responds ({reason})") from error
        if response.status != http.client.OK:
            raise Refused(f"{self._where}: HTTP {response.status}: {content[:200].decode(errors='replace')}")
        return Reply(content, _parts(response.headers.get(_TIMING, "")))

    def decode(self, content: bytes, count: int) -> NDArray[np.float32]:
        """See `Sender.decode`."""
        return self._rest.understood(json.loads(content), count).scores

    def close(self) -> None:
        """See `Sender.close`."""
        self._connection.close()
        self._rest.close()


class GrpcSender:
    """A gRPC channel over HTTP/2, with one stream at a time."""

    def __init__(self, address: Address) -> None:
        self._messages = Messages(address.connection, address.servable, address.binding)
        self._where = f"{address.connection.server}, model {address.servable.name}"
        self._timeout = address.connection.timeout
        # Otherwise, channels to one address share a connection.
        self._channel = grpc.insecure_channel(
            address.connection.server,
            [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)],
        )
        self._predict = self._channel.unary_unary(METHOD, None, None)

    def encode(self, images: NDArray[Any]) -> bytes:
        """See `Sender.encode`."""
        request: bytes = self._messages.request(images).SerializeToString()
        return request

    def send(self, request: bytes) -> Reply:
        """See `Sender.send`."""
        try:
            content, call = self._predict.with_call(request, timeout=self._timeout)
        except grpc.RpcError as error:
            what = f"{self._where}: {error.code().name}: {error.details()}"
            unreachable = error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
            raise (Unreachable if unreachable else Refused)(what) from error
        timing = next((value for key, value in call.trailing_metadata() if key == _TIMING), "")
        return Reply(content, _parts(str(timing)))

    def decode(self, content: bytes, count: int) -> NDArray[np.float32]:
        """See `Sender.decode`."""
        return self._messages.understood(predict_pb2.PredictResponse.FromString(content), count).scores

    def close(self) -> None:
        """See `Sender.close`."""
        self._channel.close()


def _parts(header: str) -> dict[str, float]:
    """Return the seconds in a Server-Timing header (https://www.w3.org/TR/server-timing/), by part."""
    found = {}
    for entry in filter(None, header.split(",")):
        name, *parameters = (part.strip() for part in entry.split(";"))
        for each in parameters:
            key, _, value = each.partition("=")
            if key == "dur":
                found[name] = float(value) / 1e3
    return found
