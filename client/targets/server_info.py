"""Inspectors of model servers over REST and gRPC: versions and their states, signatures, health.

Responses may come from any server, so neither their size nor their form is taken for granted.
"""

import os
import re
from typing import Protocol

from tfship.client.targets.connection import Connection, Servable, bounded, root_cause
from tfship.client.targets.model_info import (
    Served,
    Version,
    json_object,
    served_in_json,
    served_in_proto,
    versions_in_json,
    versions_in_proto,
)
from tfship.train.common.errors import Refused, Unreachable

__all__ = ["GrpcInspector", "Inspector", "RestInspector"]

# In bytes; enough for the signatures of any model.
_MOST_BYTES = 16 * 2**20


class Inspector(Protocol):
    """A connection to a server whose models are inspected.

    Each method raises Unreachable if the server doesn't respond in time, Refused, with the server's message, for an
    error response, and ValueError for a response that isn't a model server's.
    """

    def versions(self, model: str) -> list[Version]:
        """Return the versions of a model, newest first; an empty list for an unknown model."""

    def served(self, servable: Servable) -> Served:
        """Return the version that serves a servable, and its signatures."""

    def healthy(self) -> bool | None:
        """Return whether the server reports to be ready, None if it doesn't report it."""

    def models(self) -> list[str]:
        """Return the names of models that the server lists, empty if it lists none."""

    def close(self) -> None:
        """Close the connection."""


class RestInspector:
    """An `Inspector` over REST."""

    def __init__(self, connection: Connection) -> None:
        from tfship.client.targets.rest import session

        self._connection, self._session = connection, session(connection)

    def versions(self, model: str) -> list[Version]:
        """See `Inspector.versions`."""
        status, body = self._get(Servable(model).path)
        if status == 404 and "error" in json_object(body):
            return []
        if status != 200:
            raise _refusal(status, body)
        return versions_in_json(body)

    def served(self, servable: Servable) -> Served:
        """See `Inspector.served`."""
        status, body = self._get(f"{servable.path}/metadata")
        if status != 200:
            raise _refusal(status, body)
        return served_in_json(body)

    def healthy(self) -> bool | None:
        """See `Inspector.healthy`."""
        return None

    def models(self) -> list[str]:
        """See `Inspector.models`: the models on the metrics page, if the server has one at the default path."""
        try:
            status, body = self._get("/monitoring/prometheus/metrics")
        except (Unreachable, ValueError):
            return []
        names = re.findall(rb'[{,]model_name="([^"\\]{1,200})"', body) if status == 200 else []
        return sorted({name.decode(errors="replace") for name in names})

    def close(self) -> None:
        """See `Inspector.close`."""
        self._session.close()

    def _get(self, path: str) -> tuple[int, bytes]:
        import requests

        timeout = self._connection.timeout
        try:
            with self._session.get(
                f"{self._connection.url}{path}", timeout=timeout, stream=True, allow_redirects=False
            ) as response:
                large = ValueError(f"a response of more than {_MOST_BYTES} bytes")
                return response.status_code, bounded(response, _MOST_BYTES, large)
        except requests.exceptions.ProxyError as error:
            raise Unreachable(
                f"the proxy {_proxy(self._connection.url)} doesn't forward the request"
            ) from error
        except requests.Timeout:
            raise Unreachable(f"no response within {timeout:g} s") from None
        except requests.RequestException as error:
            raise Unreachable(root_cause(error)) from error


def _refusal(status: int, body: bytes) -> Refused | Unreachable:
    """Return the error for a status other than 200. Raises ValueError if the response isn't a model server's."""
    try:
        reason = json_object(body)["error"]
    except (ValueError, KeyError):
        if status != 503:
            raise ValueError(f"HTTP {status} without TensorFlow Serving's JSON") from None
        reason = "no reason given"
    return (Unreachable if status == 503 else Refused)(f"HTTP {status}: {reason}")


class GrpcInspector:
    """An `Inspector` over gRPC."""

    def __init__(self, connection: Connection) -> None:
        # gRPC logs less than the findings say. It reads the variable when it is imported.
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
        from tfship.client.targets.grpc import channel

        self._connection, self._channel = connection, channel(connection)

    def versions(self, model: str) -> list[Version]:
        """See `Inspector.versions`."""
        from tfship.client.targets.grpc import model_spec
        from tfship.serving.protos.messages import get_model_status_pb2 as messages

        request = messages.GetModelStatusRequest(model_spec=model_spec(Servable(model)))
        try:
            response = self._call(
                "tensorflow.serving.ModelService/GetModelStatus", request.SerializeToString()
            )
        except Refused as error:
            if "NOT_FOUND" in str(error):
                return []
            if "UNIMPLEMENTED" in str(error):
                raise ValueError("no ModelService") from None
            raise
        return versions_in_proto(response)

    def served(self, servable: Servable) -> Served:
        """See `Inspector.served`."""
        from tfship.client.targets.grpc import metadata_request

        request = metadata_request(servable).SerializeToString()
        response = self._call("tensorflow.serving.PredictionService/GetModelMetadata", request)
        return served_in_proto(response)

    def healthy(self) -> bool | None:
        """See `Inspector.healthy`: gRPC's health service. Its messages are encoded here, without generated code."""
        try:
            response = self._call("grpc.health.v1.Health/Check", b"")
        except Refused:
            return None
        # HealthCheckResponse: field 1, a varint; 1 is SERVING, 2 NOT_SERVING.
        return {b"\x08\x01": True, b"\x08\x02": False}.get(response)

    def models(self) -> list[str]:
        """See `Inspector.models`: gRPC has no method for it."""
        return []

    def close(self) -> None:
        """See `Inspector.close`."""
        self._channel.close()

    def _call(self, method: str, request: bytes) -> bytes:
        """Return the response as bytes: grpcio would log a traceback if it couldn't parse them."""
        import grpc

        call = self._channel.unary_unary(f"/{method}")
        try:
            response: bytes = call(
                request, timeout=self._connection.timeout, metadata=self._connection.metadata
            )
        except grpc.RpcError as error:
            code, details = error.code(), error.details() or ""
            if code is grpc.StatusCode.DEADLINE_EXCEEDED:
                raise Unreachable(f"no response within {self._connection.timeout:g} s") from None
            if code is grpc.StatusCode.UNAVAILABLE:
                raise Unreachable(details) from None
            raise Refused(f"{code.name}: {details}") from None
        return response


def _proxy(url: str) -> str:
    import requests

    return ", ".join(requests.utils.get_environ_proxies(url).values())
