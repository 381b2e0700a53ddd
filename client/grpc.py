"""A model behind TensorFlow Serving's gRPC API, as a `Target`."""

import json
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray

from client.connection import Connection, Servable
from export.runtime import IMAGE, PROBABILITIES
from serving import tensors
from serving.protos import model_pb2, predict_pb2
from serving.stubs import PredictionServiceStub
from train.errors import Refused, Unreachable

__all__ = ["Grpc", "channel", "model_spec"]

_NO_ANSWER = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}


def channel(connection: Connection) -> grpc.Channel:
    """Return a channel with the connection's encryption and retries; timeout and metadata go with each call."""
    options: list[tuple[str, object]] = [
        # 4 MiB is gRPC's default, some 1,300 digits; the server sets its own limit.
        ("grpc.max_receive_message_length", -1),
        ("grpc.max_send_message_length", -1),
        # Or a server that has just come is found a second later.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.enable_retries", int(connection.retries > 0)),
    ]
    if connection.retries:
        options.append(("grpc.service_config", json.dumps(_retrying(connection.retries))))
    tls = connection.tls
    if tls is None:
        return grpc.insecure_channel(connection.server, options)
    ca, key, certificate = (
        each.read_bytes() if each is not None else None for each in (tls.ca, tls.key, tls.certificate)
    )
    return grpc.secure_channel(connection.server, grpc.ssl_channel_credentials(ca, key, certificate), options)


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
    """Return how requests name a servable, a ModelSpec."""
    spec = model_pb2.ModelSpec(name=servable.name, signature_name=servable.signature)
    if servable.version is not None:
        spec.version.value = servable.version
    elif servable.label is not None:
        spec.version_label = servable.label
    return spec


class Grpc:
    """`PredictionService.Predict`, over one kept channel.

    `predict` raises Unreachable where nothing answers in time and Refused with the server's own words where it
    says no.
    """

    def __init__(self, connection: Connection, servable: Servable) -> None:
        self._connection, self._servable = connection, servable
        self._channel = channel(connection)
        self._metadata = tuple((name.lower(), value) for name, value in connection.headers.items())
        self._stub = PredictionServiceStub(self._channel)

    def predict(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """See `export.runtime.Target.predict`."""
        request = predict_pb2.PredictRequest(model_spec=model_spec(self._servable))
        request.inputs[IMAGE].CopyFrom(tensors.to_proto(images))
        where = f"{self._connection.server}, model {self._servable.name}"
        try:
            answer = self._stub.Predict(request, timeout=self._connection.timeout, metadata=self._metadata)
        except grpc.RpcError as error:
            if error.code() in _NO_ANSWER:
                raise Unreachable(
                    f"{where}: nothing answers with gRPC there ({error.details()}); is `make serve` running, "
                    "and is this its gRPC port (8500, not REST's 8501)?"
                ) from error
            raise Refused(f"{where}: {error.code().name}: {error.details()}") from error
        if PROBABILITIES not in answer.outputs:
            raise Refused(
                f"{where}: answered with {sorted(answer.outputs)}; "
                f"expected {PROBABILITIES}, as `make export` names it"
            )
        return tensors.from_proto(answer.outputs[PROBABILITIES]).astype(np.float32, copy=False)

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()
