"""What a model server tells about its models: versions and their states, signatures, health; over REST or gRPC.

Answers come from whoever answers at an address: nothing in them is taken for granted, neither size nor form.
"""

import os
import re
from typing import Protocol

from tfship.client.targets.connection import Connection, Servable
from tfship.client.targets.model_info import (
    Served,
    Version,
    json_object,
    signatures_in_json,
    signatures_in_proto,
    versions_in_json,
    versions_in_proto,
)
from tfship.train.common.errors import Refused, Unreachable

__all__ = ["GrpcInspector", "Inspector", "RestInspector"]

# Room for the signatures of any model, and for no flood.
_MOST_BYTES = 16 * 2**20


class Inspector(Protocol):
    """A server that can be asked.

    Each method raises Unreachable where nothing answers in time, Refused with the server's own words where it says
    no, and ValueError where what it says isn't what model servers say.
    """

    def versions(self, model: str) -> list[Version]:
        """Return the versions that the server knows of a model, newest first; none of an unknown model."""

    def served(self, servable: Servable) -> Served:
        """Return which version answers for a servable, and how it is called."""

    def healthy(self) -> bool | None:
        """Return whether the server says that it is ready, None if it says nothing of the kind."""

    def models(self) -> list[str]:
        """Return the names of models that the server mentions of its own; servers needn't."""

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
        return signatures_in_json(body)

    def healthy(self) -> bool | None:
        """See `Inspector.healthy`."""
        return None

    def models(self) -> list[str]:
        """See `Inspector.models`: those on the metrics page, if the server has one where it is by default."""
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
            ) as answer:
                body = b""
                for part in answer.iter_content(2**16):
                    body += part
                    if len(body) > _MOST_BYTES:
                        raise ValueError(f"an answer of more than {_MOST_BYTES} bytes")
                return answer.status_code, body
        except requests.exceptions.ProxyError as error:
            raise Unreachable(f"the proxy {_proxy(self._connection.url)} doesn't let it through") from error
        except requests.Timeout:
            raise Unreachable(f"no answer within {timeout:g} s") from None
        except requests.RequestException as error:
            raise Unreachable(_cause(error)) from error


def _refusal(status: int, body: bytes) -> Refused | Unreachable:
    """Return what an answer other than 200 means. Raises ValueError where it is no model server's."""
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
        # gRPC's own lines on stderr say less than the findings do; read when it is imported.
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
        from tfship.client.targets.grpc import channel

        self._connection, self._channel = connection, channel(connection)
        self._metadata = tuple((name.lower(), value) for name, value in connection.headers.items())

    def versions(self, model: str) -> list[Version]:
        """See `Inspector.versions`."""
        from tfship.client.targets.grpc import model_spec
        from tfship.serving.protos.messages import get_model_status_pb2 as messages

        request = messages.GetModelStatusRequest(model_spec=model_spec(Servable(model)))
        try:
            answer = self._call("tensorflow.serving.ModelService/GetModelStatus", request.SerializeToString())
        except Refused as error:
            if "NOT_FOUND" in str(error):
                return []
            if "UNIMPLEMENTED" in str(error):
                raise ValueError("that it has no ModelService") from None
            raise
        return versions_in_proto(answer)

    def served(self, servable: Servable) -> Served:
        """See `Inspector.served`."""
        from tfship.client.targets.grpc import model_spec
        from tfship.serving.protos.messages import get_model_metadata_pb2 as messages

        spec = model_spec(servable)
        spec.ClearField("signature_name")
        request = messages.GetModelMetadataRequest(model_spec=spec, metadata_field=["signature_def"])
        answer = self._call(
            "tensorflow.serving.PredictionService/GetModelMetadata", request.SerializeToString()
        )
        return signatures_in_proto(answer)

    def healthy(self) -> bool | None:
        """See `Inspector.healthy`: the health service of gRPC, whose messages are small enough to be written here."""
        try:
            answer = self._call("grpc.health.v1.Health/Check", b"")
        except Refused:
            return None
        # HealthCheckResponse: field 1, a varint; 1 is SERVING, 2 NOT_SERVING.
        return {b"\x08\x01": True, b"\x08\x02": False}.get(answer)

    def models(self) -> list[str]:
        """See `Inspector.models`: there is no call for it."""
        return []

    def close(self) -> None:
        """See `Inspector.close`."""
        self._channel.close()

    def _call(self, method: str, request: bytes) -> bytes:
        """Return the bytes of the answer: grpcio would log a traceback of those that it can't parse."""
        import grpc

        call = self._channel.unary_unary(f"/{method}")
        try:
            answer: bytes = call(request, timeout=self._connection.timeout, metadata=self._metadata)
        except grpc.RpcError as error:
            code, details = error.code(), error.details() or ""
            if code is grpc.StatusCode.DEADLINE_EXCEEDED:
                raise Unreachable(f"no answer within {self._connection.timeout:g} s") from None
            if code is grpc.StatusCode.UNAVAILABLE:
                raise Unreachable(details) from None
            raise Refused(f"{code.name}: {details}") from None
        return answer


def _cause(error: BaseException) -> str:
    """Return the innermost cause, which says it shortest."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _proxy(url: str) -> str:
    import requests

    return ", ".join(requests.utils.get_environ_proxies(url).values())
