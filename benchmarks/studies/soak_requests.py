"""What is asked in a soak: everything that is right, and everything that clients do wrong."""

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

__all__ = ["BATCHES", "Mistake", "Mixture", "prepare"]

BATCHES = (1, 64)
_MISTAKE_SECONDS = 1
_CONNECTIONS = 2
_ANSWER_SECONDS = 60.0

# Asks wrongly for a second; returns how many answers came, and what is wrong with them, if anything.
Mistake = Callable[[], tuple[int, str]]


@dataclass(frozen=True)
class Mixture:
    """The right requests by protocol, and mistakes: those of a pair are made at the same time."""

    right: Mapping[str, list[Case]]
    mistakes: list[tuple[Mistake, Mistake]]

    def pairs(self) -> Iterator[tuple[Case, Case]]:
        """Return what is asked at the same time: each request once, REST and gRPC not for the same."""
        yield from zip(self.right["rest"], reversed(self.right["grpc"]), strict=True)


def prepare(
    server: Addresses, served: Mapping[str, tuple[Path, str]], images: NDArray[np.float64], folder: Path
) -> Mixture:
    """Write the requests into `folder`; `served` are an exported version and a format by the names that are served.

    `images` are float64 [64, 28, 28, 1].
    """
    right = {
        protocol: [
            cases.prepare(LoadCell(name, batch, protocol), version, each, server, images, folder)
            for name, (version, each) in served.items()
            for batch in BATCHES
        ]
        for protocol in PROTOCOLS
    }
    rest, rpc = (right[protocol][0] for protocol in PROTOCOLS)
    good = rest.file.read_bytes()
    bodies = {
        "not JSON": good[:-2],
        "of a wrong size": b'{"instances": [[1.0]]}',
        "no such signature": b'{"signature_name": "none", ' + good[1:],
    }
    by_rest = [_refused_by_rest(rest, what, folder, body) for what, body in bodies.items()]
    unknown = replace(rest, url=rest.url.replace(rest.cell.model, "none"))
    by_rest += [_refused_by_rest(unknown, "no such model", folder, good), lambda: _strangers(server)]
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
    return Mixture(right, list(zip(by_rest, itertools.cycle(by_grpc), strict=False)))


def _refused_by_rest(case: Case, what: str, folder: Path, body: bytes) -> Mistake:
    file = folder / f"rest, {what}"
    file.write_bytes(body)

    def mistake() -> tuple[int, str]:
        done = load_generators.wrk(case.url, file, _CONNECTIONS, _MISTAKE_SECONDS)
        return done.requests, "" if load_generators.all_refused(done) else _unexpected(file, done)

    return mistake


def _refused_by_grpc(case: Case, what: str, folder: Path, message: bytes) -> Mistake:
    file = folder / f"grpc, {what}"
    file.write_bytes(cases.framed(message))

    def mistake() -> tuple[int, str]:
        done = load_generators.h2load(case.url, file, _CONNECTIONS, _MISTAKE_SECONDS, 0)
        return done.requests, _unexpected(file, done) if done.problem else ""

    return mistake


def _unexpected(file: Path, done: load_generators.Run) -> str:
    return f"{file.name}: expected nothing but refusals; {done.problem or 'all was answered'}"


def _strangers(server: Addresses) -> tuple[int, str]:
    """Ask for models that nobody has asked for before, and hang up: before the answer's end, and the request's."""
    host, _, port = server.rest.rpartition(":")
    end = time.monotonic() + _MISTAKE_SECONDS
    answered = 0
    while time.monotonic() < end:
        connection = http.client.HTTPConnection(host, int(port), timeout=_ANSWER_SECONDS)
        with contextlib.closing(connection):
            connection.request("POST", f"/v1/models/{secrets.token_hex(8)}:predict", b'{"instances": [1]}')
            status = connection.getresponse().status
        if status != HTTPStatus.NOT_FOUND:
            return answered, f"rest, a model that doesn't exist: expected 404; the server answered {status}"
        answered += 1
        with socket.create_connection((host, int(port)), _ANSWER_SECONDS) as half:
            half.sendall(b"POST /v1/models/none:predict HTTP/1.1\r\nContent-Length: 9999\r\n\r\n{")
    return answered, ""
