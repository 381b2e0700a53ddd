"""The requests of a soak: valid requests of every kind, and typical mistakes of clients."""

import contextlib
import http.client
import itertools
import secrets
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from http import HTTPStatus
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tfship.benchmarks.harness import load_generators
from tfship.benchmarks.harness.server_process import PROTOCOLS, Addresses
from tfship.benchmarks.studies import cases
from tfship.benchmarks.studies.cases import Case
from tfship.benchmarks.studies.reference import LoadCell
from tfship.serving.protos.messages import predict_pb2

__all__ = ["BATCHES", "Invalid", "SoakRequests", "prepare"]

BATCHES = (1, 64)
_INVALID_SECONDS = 1
_CONNECTIONS = 2
_TIMEOUT_SECONDS = 60.0

# Sends invalid requests for a second. Returns the number of responses, and a problem or an empty string.
Invalid = Callable[[], tuple[int, str]]


@dataclass(frozen=True)
class SoakRequests:
    """The `valid` requests by protocol, and pairs of `invalid` ones, which are sent at the same time."""

    valid: Mapping[str, list[Case]]
    invalid: list[tuple[Invalid, Invalid]]

    def pairs(self) -> Iterator[tuple[Case, Case]]:
        """Yield pairs of different valid requests to send at the same time, one by REST and one by gRPC; each once."""
        yield from zip(self.valid["rest"], reversed(self.valid["grpc"]), strict=True)


def prepare(
    server: Addresses, served: Mapping[str, tuple[Path, str]], images: NDArray[np.float64], folder: Path
) -> SoakRequests:
    """Write the requests into `folder`. `served` has an exported version and a format by the served name.

    `images` are float64 [64, 28, 28, 1].
    """
    valid = {
        protocol: [
            cases.prepare(LoadCell(name, batch, protocol), version, each, server, images, folder)
            for name, (version, each) in served.items()
            for batch in BATCHES
        ]
        for protocol in PROTOCOLS
    }
    rest, rpc = (valid[protocol][0] for protocol in PROTOCOLS)
    body = rest.file.read_bytes()
    bodies = {
        "not JSON": body[:-2],
        "of a wrong size": b'{"instances": [[1.0]]}',
        "no such signature": b'{"signature_name": "none", ' + body[1:],
    }
    by_rest = [_refused_by_rest(rest, what, folder, each) for what, each in bodies.items()]
    unknown = replace(rest, url=rest.url.replace(rest.cell.model, "none"))
    by_rest += [_refused_by_rest(unknown, "no such model", folder, body), lambda: _disconnecting(server)]
    messages = [predict_pb2.PredictRequest.FromString(cases.message(rpc.file.read_bytes())) for _ in range(2)]
    messages[0].model_spec.name = "none"
    messages[1].inputs.clear()
    frames = {
        "no message": bytes(9),
        **{
            what: each.SerializeToString()
            for what, each in zip(("no such model", "no input"), messages, strict=True)
        },
    }
    by_grpc = [_refused_by_grpc(rpc, what, folder, frame) for what, frame in frames.items()]
    return SoakRequests(valid, list(zip(by_rest, itertools.cycle(by_grpc), strict=False)))


def _refused_by_rest(case: Case, what: str, folder: Path, body: bytes) -> Invalid:
    file = folder / f"rest, {what}"
    file.write_bytes(body)

    def send() -> tuple[int, str]:
        done = load_generators.wrk(case.url, file, _CONNECTIONS, _INVALID_SECONDS)
        return done.requests, "" if load_generators.all_refused(done) else _unexpected(file, done)

    return send


def _refused_by_grpc(case: Case, what: str, folder: Path, message: bytes) -> Invalid:
    file = folder / f"grpc, {what}"
    file.write_bytes(cases.framed(message))

    def send() -> tuple[int, str]:
        done = load_generators.h2load(case.url, file, _CONNECTIONS, _INVALID_SECONDS, 0)
        return done.requests, _unexpected(file, done) if done.problem else ""

    return send


def _unexpected(file: Path, done: load_generators.Run) -> str:
    return f"{file.name}: expected errors only; {done.problem or 'every request succeeded'}"


def _disconnecting(server: Addresses) -> tuple[int, str]:
    """Request models with new random names, and disconnect in the middle of a response and of a request."""
    host, _, port = server.rest.rpartition(":")
    end = time.monotonic() + _INVALID_SECONDS
    responses = 0
    while time.monotonic() < end:
        connection = http.client.HTTPConnection(host, int(port), timeout=_TIMEOUT_SECONDS)
        with contextlib.closing(connection):
            connection.request("POST", f"/v1/models/{secrets.token_hex(8)}:predict", b'{"instances": [1]}')
            status = connection.getresponse().status
        if status != HTTPStatus.NOT_FOUND:
            return responses, f"rest, a model that doesn't exist: expected 404; the server returned {status}"
        responses += 1
        with socket.create_connection((host, int(port)), _TIMEOUT_SECONDS) as incomplete:
            incomplete.sendall(b"POST /v1/models/none:predict HTTP/1.1\r\nContent-Length: 9999\r\n\r\n{")
    return responses, ""
