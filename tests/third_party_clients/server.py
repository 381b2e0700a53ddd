"""A server of models in NumPy: `double`, whose output y is twice its input x, and `held`, which waits for the test."""

import contextlib
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving_fixtures import Client, config_of, eventually
from tfship.export.runtimes.protocol import DEFAULT_SIGNATURE, PREDICT, Signature, TensorSpec
from tfship.serving.grpc.connection import GrpcConnection
from tfship.serving.inference.execution import Loaded
from tfship.serving.models.loader import Loader
from tfship.serving.models.manager import LoadPolicy
from tfship.serving.protos.messages import predict_pb2
from tfship.serving.protos.tensors import from_proto, to_proto
from tfship.serving.server.host import Host
from tfship.serving.server.model_server import ANY_PORT, ModelServer, Settings

PREDICT_PATH = "/tensorflow.serving.PredictionService/Predict"
# What an HTTP/2 client begins with: the preface and an empty SETTINGS frame.
GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
ROWS = np.array([[1.0, 2.0], [3.0, 4.5]], np.float32)
_FLOAT = 1  # DT_FLOAT
# Longer than any test, and shorter than pytest's own limit.
_GRACE_SECONDS = 600.0


class Gate:
    """Holds the runs of the model `held` until `open` is called, and counts those of both models."""

    def __init__(self) -> None:
        self.runs = self.double_runs = 0
        self._opened = threading.Event()

    def open(self) -> None:
        self._opened.set()

    def wait(self) -> None:
        self.runs += 1
        assert threading.current_thread().name != "loop", "would block the event loop"
        self._opened.wait(_GRACE_SECONDS)
        time.sleep(0.02)  # so that no estimate moves the next one to the event loop

    def has_begun(self, runs: int) -> None:
        """Wait until `runs` runs have begun."""
        eventually(lambda: self.runs >= runs)


class _Model:
    def __init__(self, gate: Gate, *, held: bool) -> None:
        tensors = {name: {name: TensorSpec(f"{name}:0", _FLOAT, (-1, 2))} for name in "xy"}
        self.signatures: Mapping[str, Signature] = {
            DEFAULT_SIGNATURE: Signature(tensors["x"], tensors["y"], PREDICT)
        }
        self._gate, self._held = gate, held

    def run(self, signature: str, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        if self._held:
            self._gate.wait()
        else:
            self._gate.double_runs += 1
        return {"y": inputs["x"] * np.float32(2)}

    def close(self) -> None:
        """Nothing is kept."""


@dataclass(frozen=True)
class _NumpyLoader(Loader):
    gate: Gate = field(default_factory=Gate)

    def load(self, path: Path) -> Loaded:
        return Loaded(_Model(self.gate, held=path.parent.name == "held"), any_shape=False)


@dataclass
class Server:
    """A running server. `stopped` is done when it has ended after `begin_stop`."""

    server: ModelServer
    client: Client
    gate: Gate
    stopped: Future[None] | None = None

    @property
    def connections(self) -> list[GrpcConnection]:
        """The open gRPC connections."""
        host = self.server._host
        assert isinstance(host, Host)
        assert host._grpc
        return [each for each in host._grpc.service.connections if isinstance(each, GrpcConnection)]

    @property
    def calls(self) -> int:
        """Number of gRPC calls that the server keeps."""
        return sum(len(each._calls) for each in self.connections)

    @property
    def queued_bytes(self) -> int:
        """Bytes of responses that the server keeps for its gRPC clients."""
        return sum(
            each.engine.queued_bytes + each._transport.get_write_buffer_size() for each in self.connections
        )

    def begin_stop(self) -> None:
        """Stop the server as SIGTERM does, with time for requests in flight."""
        stopped: Future[None] = Future()

        def stop() -> None:
            try:
                self.server.stop(_GRACE_SECONDS)
                stopped.set_result(None)
            except BaseException as error:  # noqa: BLE001 - raised again by `result`
                stopped.set_exception(error)

        self.stopped = stopped
        threading.Thread(target=stop).start()


@contextlib.contextmanager
def started(folder: Path, settings: Settings | None = None) -> Iterator[Server]:
    """Run a server on free ports; at the end, held requests go on."""
    for name in ("double", "held"):
        (folder / name / "1").mkdir(parents=True, exist_ok=True)
    gate = Gate()
    settings = replace(
        settings or Settings(),
        grpc_port=ANY_PORT,
        rest_port=ANY_PORT,
        loader=_NumpyLoader(gate=gate),
        loading=LoadPolicy(poll_seconds=0.0),
    )
    server = ModelServer(config_of(double=folder / "double", held=folder / "held"), settings)
    running = Server(server, Client(0, 0), gate)
    try:
        server.start()
        running.client = Client(server.grpc_port, server.rest_port)
        yield running
    finally:
        gate.open()
        if running.stopped:
            running.stopped.result()
        else:
            server.stop(5)


def predict_request(rows: NDArray[np.float32] = ROWS, model: str = "double") -> bytes:
    """Return a PredictRequest, in bytes."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    request.inputs["x"].CopyFrom(to_proto(rows))
    content: bytes = request.SerializeToString()
    return content


def predicted(response: bytes) -> NDArray[Any]:
    """Return the output of a PredictResponse in bytes."""
    return from_proto(predict_pb2.PredictResponse.FromString(response).outputs["y"])
