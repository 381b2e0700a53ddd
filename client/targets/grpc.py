"""Transport over TensorFlow Serving's gRPC API; `client.targets.async_grpc` is the same for asyncio."""

import json
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray

from tfship.client.targets.binding import EXPORTED, Binding, RawScores, checked
from tfship.client.targets.connection import COMPRESSED_FROM, GRPC_PORT, MOST_RESPONSE, Connection, Servable
from tfship.client.targets.model_info import SIGNATURES, signatures_in_proto
from tfship.client.targets.registry import Choice, Opened, served
from tfship.export.runtimes.protocol import Signature
from tfship.serving.protos import tensors
from tfship.serving.protos.messages import get_model_metadata_pb2, model_pb2, predict_pb2
from tfship.serving.protos.stubs import PredictionServiceStub
from tfship.train.common.errors import Refused, Unreachable, UsageError

__all__ = ["Grpc", "Messages", "channel", "metadata_request", "model_spec", "open_target"]

_NO_RESPONSE = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}


def channel(connection: Connection, kind: Any = grpc) -> Any:
    """Return a channel with the encryption and retries of `connection`; its timeout and metadata belong to each call.

    `kind` is the module that creates it: grpc, or grpc.aio. Raises UsageError for invalid keys and certificates.
    """
    options: list[tuple[str, object]] = [
        # gRPC's default is 4 MiB. The server has its own limit for requests.
        ("grpc.max_receive_message_length", MOST_RESPONSE),
        ("grpc.max_send_message_length", -1),
        # The default delays reconnecting to a server that has just started by 1 s.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.enable_http_proxy", int(not connection.is_local)),
        ("grpc.enable_retries", int(connection.retries > 0)),
    ]
    if connection.retries:
        options.append(("grpc.service_config", json.dumps(_retrying(connection.retries))))
    if connection.tls is None:
        return kind.insecure_channel(connection.server, options)
    from tfship.client.targets import tls

    tls.context(connection.tls)
    trusted = tls.authorities(connection.tls)
    ca, key, certificate = (
        each.read_bytes() if each is not None else None
        for each in (trusted, connection.tls.key, connection.tls.certificate)
    )
    return kind.secure_channel(connection.server, grpc.ssl_channel_credentials(ca, key, certificate), options)


def _retrying(retries: int) -> dict[str, object]:
    """Return a service config (gRFC A6)."""
    policy = {
        "maxAttempts": 1 + retries,
        "initialBackoff": "0.2s",
        "maxBackoff": "2s",
        "backoffMultiplier": 2,
        "retryableStatusCodes": ["UNAVAILABLE"],
    }
    return {"methodConfig": [{"name": [{}], "retryPolicy": policy}]}


def model_spec(servable: Servable) -> Any:
    """Return the ModelSpec of a servable."""
    spec = model_pb2.ModelSpec(name=servable.name, signature_name=servable.signature)
    if servable.version is not None:
        spec.version.value = servable.version
    elif servable.label is not None:
        spec.version_label = servable.label
    return spec


def metadata_request(servable: Servable) -> Any:
    """Return a GetModelMetadataRequest for a servable's signatures."""
    spec = model_spec(servable)
    spec.ClearField("signature_name")
    return get_model_metadata_pb2.GetModelMetadataRequest(model_spec=spec, metadata_field=[SIGNATURES])


def open_target(choice: Choice) -> Opened:
    """Open the server's model that was chosen."""
    return served(choice, Grpc, GRPC_PORT)


class Messages:
    """Requests for a servable and parsers of its responses, independent of the channel.

    `binding` names the tensors of the servable's signature.
    """

    def __init__(self, connection: Connection, servable: Servable, binding: Binding = EXPORTED) -> None:
        self._connection, self._servable = connection, servable
        self.binding = binding
        self._where = f"{connection.server}, model {servable.name}"

    def request(self, images: NDArray[Any]) -> Any:
        """Return a PredictRequest for images in the binding's form, encoded ones as dtype object [N]."""
        request = predict_pb2.PredictRequest(model_spec=model_spec(self._servable))
        request.inputs[self.binding.input].CopyFrom(tensors.to_proto(images))
        return request

    def understood(self, response: Any, count: int) -> RawScores:
        """Return the scores of `count` images in a PredictResponse, and the version that it reports."""
        output = self.binding.output
        if output not in response.outputs:
            raise Refused(
                f"{self._where}: returned {', '.join(sorted(response.outputs)) or 'nothing'}; expected {output}, "
                "the name that `tfship export` gives it"
            )
        try:
            scores = tensors.from_proto(response.outputs[output])
        except ValueError as error:
            raise Refused(f"{self._where}: returned an invalid tensor {output} ({error})") from None
        spec = response.model_spec
        version = spec.version.value if spec.HasField("version") else None
        return RawScores(checked(scores, count, self._where), version)

    def _signatures(self, response: Any) -> dict[str, Signature]:
        """Return the signatures in a GetModelMetadataResponse."""
        try:
            return signatures_in_proto(response)
        except ValueError:
            raise Refused(
                f"{self._where}: returned no signatures; expected TensorFlow Serving's metadata"
            ) from None

    def _call_options(self, request: Any) -> dict[str, Any]:
        """Return the keyword arguments of a call."""
        compressed = self._connection.compresses and request.ByteSize() >= COMPRESSED_FROM
        return {
            "timeout": self._connection.timeout,
            "metadata": self._connection.metadata,
            "compression": grpc.Compression.Gzip if compressed else None,
        }

    def _failure(self, error: Any, request: Any) -> Refused | Unreachable:
        """Return the error for a grpc.RpcError. May try a TLS handshake with the server, to name the cause."""
        code, details = error.code(), error.details() or ""
        if code in _NO_RESPONSE:
            from tfship.client.targets import tls

            if remedy := tls.explain(self._connection):
                return Unreachable(f"{self._where}: {remedy}")
            if code is grpc.StatusCode.DEADLINE_EXCEEDED:
                what = f"no response within {self._connection.timeout:g} s; see --timeout"
            else:
                what = f"no gRPC server responds there ({details})"
            return Unreachable(
                f"{self._where}: {what}; is `tfship serve` running, and is this its gRPC port (8500, not REST's 8501)?"
            )
        hint = ""
        if code is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger" in details:
            hint = (
                f": the server refuses a request of {request.ByteSize() / 2**20:.1f} MiB; raise its limit, or send "
                "encoded images by --signature serving_bytes"
            )
        elif code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
            hint = "; give the credentials that the server or its proxy expects by --header"
        return Refused(f"{self._where}: {code.name}: {details}{hint}")


class Grpc(Messages):
    """`PredictionService.Predict`, over one persistent channel.

    A `Transport`, and a `Target` by `predict`. Raises Unreachable if no server responds in time, and Refused, with the
    server's message, for an error response.
    """

    def __init__(self, connection: Connection, servable: Servable, binding: Binding = EXPORTED) -> None:
        super().__init__(connection, servable, binding)
        self._channel = channel(connection)
        self._stub = PredictionServiceStub(self._channel)

    def predict(self, images: NDArray[Any]) -> NDArray[np.float32]:
        """Return the scores that `send` does."""
        return self.send(images).scores

    def send(self, images: NDArray[Any]) -> RawScores:
        """See `Transport.send`."""
        return self.understood(self._call(self._stub.Predict, self.request(images)), len(images))

    def signatures(self) -> dict[str, Signature]:
        """See `Transport.signatures`."""
        return self._signatures(self._call(self._stub.GetModelMetadata, metadata_request(self._servable)))

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()

    def _call(self, method: Any, request: Any) -> Any:
        try:
            return method(request, **self._call_options(request))
        except ValueError as error:
            raise UsageError(f"{self._where}: {error}") from None  # the channel is closed
        except grpc.RpcError as error:
            raise self._failure(error, request) from error
