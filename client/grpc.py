"""A model behind TensorFlow Serving's gRPC API, as a `Target`."""

import grpc
import numpy as np
from numpy.typing import NDArray

from export.runtime import DEFAULT_SIGNATURE, IMAGE, PROBABILITIES
from serving import tensors
from serving.protos import predict_pb2
from serving.stubs import PredictionServiceStub
from train.errors import Refused, Unreachable

__all__ = ["Grpc"]

# 4 MiB is gRPC's default, some 1,300 digits; the server sets its own limit.
_OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
_NO_ANSWER = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}


class Grpc:
    """`PredictionService.Predict` on `server` (host:port), over one kept channel.

    `timeout` is in seconds for a whole request. `predict` raises Unreachable where nothing answers in time
    and Refused with the server's own words where it says no.
    """

    def __init__(self, server: str, model: str, version: int | None = None, timeout: float = 10.0) -> None:
        self._server, self._timeout = server, timeout
        self._model, self._version = model, version
        self._channel = grpc.insecure_channel(server, options=_OPTIONS)
        self._stub = PredictionServiceStub(self._channel)

    def predict(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """See `export.runtime.Target.predict`."""
        request = predict_pb2.PredictRequest()
        request.model_spec.name = self._model
        request.model_spec.signature_name = DEFAULT_SIGNATURE
        if self._version is not None:
            request.model_spec.version.value = self._version
        request.inputs[IMAGE].CopyFrom(tensors.to_proto(images))
        try:
            answer = self._stub.Predict(request, timeout=self._timeout)
        except grpc.RpcError as error:
            where = f"{self._server}, model {self._model}"
            if error.code() in _NO_ANSWER:
                raise Unreachable(
                    f"{where}: nothing answers with gRPC there ({error.details()}); is `make serve` running, "
                    "and is this its gRPC port (8500, not REST's 8501)?"
                ) from error
            raise Refused(f"{where}: {error.code().name}: {error.details()}") from error
        if PROBABILITIES not in answer.outputs:
            raise Refused(
                f"{self._server}, model {self._model}: answered with {sorted(answer.outputs)}; "
                f"expected {PROBABILITIES}, as `make export` names it"
            )
        return tensors.from_proto(answer.outputs[PROBABILITIES]).astype(np.float32, copy=False)

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()
