"""Requests of several callers over REST and gRPC, with a count of those that fail."""

import contextlib
import http.client
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import grpc
import numpy as np
import orjson
from numpy.typing import NDArray

from tfship.benchmarks.harness.raw_requests import METHOD
from tfship.benchmarks.harness.server_process import Addresses
from tfship.serving.protos.messages import predict_pb2
from tfship.serving.protos.tensors import to_proto

__all__ = ["Payload", "Sent", "payload", "repeat", "sender", "traffic"]

_TIMEOUT_SECONDS = 60.0
# Sends one request and returns the reason why it failed, None if it didn't.
Send = Callable[[], str | None]


@dataclass(frozen=True)
class Payload:
    """A request for `model` in both protocols."""

    model: str
    rest: bytes
    grpc: bytes


@dataclass
class Sent:
    """The number of requests sent over a protocol, and of each one that failed the time and the reason."""

    requests: int = 0
    failures: list[tuple[float, str]] = field(default_factory=list)


def payload(model: str, name: str, rows: NDArray[np.float32]) -> Payload:
    """Return the request with the input `name`."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    request.inputs[name].CopyFrom(to_proto(rows))
    return Payload(model, orjson.dumps({"instances": rows.tolist()}), request.SerializeToString())


@contextlib.contextmanager
def sender(protocol: str, address: str, request: Payload, policy: str = "pick_first") -> Iterator[Send]:
    """Open one client's connection and yield what sends `request`; `policy` is that of gRPC for several addresses."""
    opened = _rest(address, request) if protocol == "rest" else _grpc(address, request, policy)
    with opened as send:
        yield send


@contextlib.contextmanager
def _rest(address: str, request: Payload) -> Iterator[Send]:
    connection = http.client.HTTPConnection(address, timeout=_TIMEOUT_SECONDS)

    def send() -> str | None:
        try:
            connection.request("POST", f"/v1/models/{request.model}:predict", request.rest)
            response = connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()  # opened again by the next request
            return f"{type(error).__name__}: {error}"
        if response.status == http.client.OK:
            return None
        return f"HTTP {response.status}: {content[:200].decode(errors='replace')}"

    with contextlib.closing(connection):
        yield send


@contextlib.contextmanager
def _grpc(address: str, request: Payload, policy: str) -> Iterator[Send]:
    options = [
        # Otherwise, channels to one address share a connection.
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.lb_policy_name", policy),
    ]
    # Without a retry policy, gRPC repeats only calls that the server has refused unread, as on a connection that ends.
    with grpc.insecure_channel(address, options) as channel:
        call = channel.unary_unary(METHOD, None, None)

        def send() -> str | None:
            try:
                call(request.grpc, timeout=_TIMEOUT_SECONDS)
            except grpc.RpcError as error:
                return f"{error.code().name}: {error.details()}"
            return None

        yield send


@contextlib.contextmanager
def traffic(
    addresses: Addresses, request: Payload, callers: int, pause: float
) -> Iterator[Mapping[str, Sent]]:
    """Send requests over both protocols until the end of the block; yield the counts by protocol.

    Each of the `callers` of a protocol waits `pause` seconds after each response.
    """
    counts = {"rest": Sent(), "grpc": Sent()}
    done, lock = threading.Event(), threading.Lock()

    def run(protocol: str, address: str) -> None:
        sent = counts[protocol]
        with sender(protocol, address, request) as send:
            while not done.is_set():
                reason = send()
                with lock:
                    sent.requests += 1
                    if reason is not None:
                        sent.failures.append((time.monotonic(), reason))
                done.wait(pause)

    threads = [
        threading.Thread(target=run, args=(protocol, getattr(addresses, protocol)))
        for protocol in counts
        for _ in range(callers)
    ]
    for thread in threads:
        thread.start()
    try:
        yield counts
    finally:
        done.set()
        for thread in threads:
            thread.join()


def repeat(sends: Sequence[Send], count: int) -> Sent:
    """Send `count` requests, in turn from each of the clients."""
    sent = Sent()
    for number in range(count):
        reason = sends[number % len(sends)]()
        sent.requests += 1
        if reason is not None:
            sent.failures.append((time.monotonic(), reason))
    return sent
