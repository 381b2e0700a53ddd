"""A model behind TensorFlow Serving's gRPC API, as a `Target`; `client.targets.async_grpc` is the same for asyncio."""

import json
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray

from tfship.client.targets.binding import Answer, Binding, checked
from tfship.client.targets.connection import COMPRESSED_FROM, GRPC_PORT, MOST_ANSWER, Connection, Servable
from tfship.client.targets.registry import Choice, Opened, served
from tfship.export.runtimes.protocol import Signature, TensorSpec
from tfship.serving.protos import tensors
from tfship.serving.protos.messages import get_model_metadata_pb2, model_pb2, predict_pb2
from tfship.serving.protos.stubs import PredictionServiceStub
from tfship.train.common.errors import Refused, Unreachable, UsageError

__all__ = ["Grpc", "Messages", "channel", "model_spec", "open_target"]

_NO_ANSWER = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}
_METADATA = "signature_def"


def channel(connection: Connection, kind: Any = grpc) -> Any:
    """Return a channel with the connection's encryption and retries; timeout and metadata go with each call.

    `kind` is the module that makes it: grpc, or grpc.aio. Raises UsageError for keys and certificates that can't be
    used.
    """
    options: list[tuple[str, object]] = [
        # 4 MiB is gRPC's default, some 1,300 digits; the server sets its own limit.
        ("grpc.max_receive_message_length", MOST_ANSWER),
        ("grpc.max_send_message_length", -1),
        # Or a server that has just come is found a second later.
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
    """Return how requests name a servable, a ModelSpec."""
    spec = model_pb2.ModelSpec(name=servable.name, signature_name=servable.signature)
    if servable.version is not None:
        spec.version.value = servable.version
    elif servable.label is not None:
        spec.version_label = servable.label
    return spec


def open_target(choice: Choice) -> Opened:
    """Open the server's model that was chosen."""
    return served(choice, Grpc(choice.connection or Connection(f"localhost:{GRPC_PORT}"), choice.servable))


class Messages:
    """What is sent for a servable and how its answers are understood, whoever carries it.

    `binding` names the tensors of the servable's signature.
    """

    def __init__(
        self,
        connection: Connection,
        servable: Servable,
        binding: Binding = Binding(),  # noqa: B008 - frozen
    ) -> None:
        self._connection, self._servable = connection, servable
        self.binding = binding
        self._where = f"{connection.server}, model {servable.name}"
        self._metadata = tuple((name.lower(), value) for name, value in connection.headers.items())

    def request(self, images: NDArray[Any]) -> Any:
        """Return a PredictRequest for images as the binding says, encoded ones as dtype object [N]."""
        request = predict_pb2.PredictRequest(model_spec=model_spec(self._servable))
        request.inputs[self.binding.input].CopyFrom(tensors.to_proto(images))
        return request

    def understood(self, answer: Any, count: int) -> Answer:
        """Return a PredictResponse's scores of `count` images, and which version they are of."""
        output = self.binding.output
        if output not in answer.outputs:
            raise Refused(
                f"{self._where}: answered with {', '.join(sorted(answer.outputs)) or 'nothing'}; expected {output}, "
                "as `tfship export` names it"
            )
        try:
            scores = tensors.from_proto(answer.outputs[output])
        except ValueError as error:
            raise Refused(f"{self._where}: answered with a broken tensor {output} ({error})") from None
        spec = answer.model_spec
        version = spec.version.value if spec.HasField("version") else None
        return Answer(checked(scores, count, self._where), version)

    def _metadata_request(self) -> Any:
        spec = model_spec(self._servable)
        spec.ClearField("signature_name")
        return get_model_metadata_pb2.GetModelMetadataRequest(model_spec=spec, metadata_field=[_METADATA])

    def _described(self, answer: Any) -> dict[str, Signature]:
        """Return a GetModelMetadataResponse's signatures."""
        found = get_model_metadata_pb2.SignatureDefMap()
        if not answer.metadata[_METADATA].Unpack(found):
            raise Refused(f"{self._where}: answered with something else than a model's signatures")
        return {
            name: Signature(_specs(each.inputs), _specs(each.outputs), each.method_name)
            for name, each in found.signature_def.items()
        }

    def _terms(self, request: Any) -> dict[str, Any]:
        """Return what goes with a call, as its arguments by name."""
        compressed = self._connection.compresses and request.ByteSize() >= COMPRESSED_FROM
        return {
            "timeout": self._connection.timeout,
            "metadata": self._metadata,
            "compression": grpc.Compression.Gzip if compressed else None,
        }

    def _failure(self, error: Any, request: Any) -> Refused | Unreachable:
        """Return what a grpc.RpcError says; may try a handshake with the server first."""
        code, details = error.code(), error.details() or ""
        if code in _NO_ANSWER:
            from tfship.client.targets import tls

            if remedy := tls.explain(self._connection):
                return Unreachable(f"{self._where}: {remedy}")
            if code is grpc.StatusCode.DEADLINE_EXCEEDED:
                what = f"no answer within {self._connection.timeout:g} s; see --timeout"
            else:
                what = f"nothing answers with gRPC there ({details})"
            return Unreachable(
                f"{self._where}: {what}; is `tfship serve` running, and is this its gRPC port (8500, not REST's 8501)?"
            )
        hint = ""
        if code is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger" in details:
            hint = (
                f": a request of {request.ByteSize() / 2**20:.1f} MiB is more than it takes; raise its limit, or send "
                "smaller pictures by --signature serving_bytes"
            )
        elif code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
            hint = "; give what the server or its proxy asks for by --header"
        return Refused(f"{self._where}: {code.name}: {details}{hint}")


class Grpc(Messages):
    """`PredictionService.Predict`, over one kept channel.

    `predict` raises Unreachable where nothing answers in time and Refused with the server's own words where it
    says no.
    """

    def __init__(
        self,
        connection: Connection,
        servable: Servable,
        binding: Binding = Binding(),  # noqa: B008 - frozen
    ) -> None:
        super().__init__(connection, servable, binding)
        self._channel = channel(connection)
        self._stub = PredictionServiceStub(self._channel)

    def predict(self, images: NDArray[Any]) -> NDArray[np.float32]:
        """See `Target.predict`; images as the binding says, encoded ones as dtype object [N]."""
        return self.answer(images).scores

    def answer(self, images: NDArray[Any]) -> Answer:
        """Do as `predict`, and tell which version has answered."""
        return self.understood(self._ask(self._stub.Predict, self.request(images)), len(images))

    def signatures(self) -> dict[str, Signature]:
        """Return the signatures as the server describes them."""
        return self._described(self._ask(self._stub.GetModelMetadata, self._metadata_request()))

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()

    def _ask(self, call: Any, request: Any) -> Any:
        try:
            return call(request, **self._terms(request))
        except ValueError as error:
            raise UsageError(f"{self._where}: {error}") from None  # the channel is closed
        except grpc.RpcError as error:
            raise self._failure(error, request) from error


def _specs(tensor_infos: Any) -> dict[str, TensorSpec]:
    specs = {}
    for name, each in tensor_infos.items():
        shape = each.tensor_shape
        sizes = None if shape.unknown_rank else tuple(dim.size for dim in shape.dim)
        specs[name] = TensorSpec(each.name, each.dtype, sizes)
    return specs
