"""The library's `Client`, and what it has in common with `AsyncClient`."""

import asyncio
import dataclasses
import json
import pickle
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client_fixtures import (
    BOTH,
    DIGITS,
    INK,
    SAMPLES,
    SEVEN,
    address,
    counted,
    digits_served,
    send,
    seven,
    web,
)
from conftest import ROOT
from serving_fixtures import Client as Ports
from tfship import client as package
from tfship.client import (
    ArtifactError,
    AsyncClient,
    Client,
    Refused,
    TfshipError,
    Tls,
    Unreachable,
    UsageError,
)
from tfship.client.images import preprocessing
from tls_fixtures import Certificates


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ports]:
    with digits_served(tmp_path_factory.mktemp("digits")) as ports:
        yield ports


def test_what_a_prediction_is(digits: Ports) -> None:
    with Client(address("grpc", digits)) as over_grpc, Client(address("rest", digits)) as over_rest:
        one, other = over_grpc.predict(SEVEN), over_rest.predict(SEVEN)
    assert (one.label, one.version, other.version) == ("7", 1, None)
    assert one.probabilities == other.probabilities
    ranked = list(one.probabilities.values())
    assert ranked == sorted(ranked, reverse=True)
    assert (one.label, one.probability) == next(iter(one.probabilities.items()))
    assert sorted(one.probabilities) == list("0123456789")
    assert sum(ranked) == pytest.approx(1, abs=0.01)
    assert pickle.loads(pickle.dumps(one)) == one
    assert len({one, one, other}) == 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.label = "1"  # type: ignore[misc]


@BOTH
def test_threads_share_a_client(digits: Ports, kind: str) -> None:
    with Client(address(kind, digits)) as client, ThreadPoolExecutor(16) as threads:
        found = list(threads.map(lambda pair: client.predict(pair[0]).label, SAMPLES * 8))
    assert found == [label for _, label in SAMPLES] * 8


def test_threads_share_a_grpc_connection(digits: Ports) -> None:
    # Only one connection is let through.
    with (
        counted(digits.grpc_port) as (port, _),
        Client(f"127.0.0.1:{port}") as client,
        ThreadPoolExecutor(8) as threads,
    ):
        assert {each.label for each in threads.map(client.predict, [INK] * 50)} == {"7"}


def test_a_rest_connection_is_used_again(digits: Ports) -> None:
    with counted(digits.rest_port) as (port, _), Client(f"http://127.0.0.1:{port}") as client:
        assert {client.predict(INK).label for _ in range(10)} == {"7"}


def test_threads_that_decode_leave_the_warnings_as_they_were() -> None:
    damaged = seven(format="JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff")
    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda _: preprocessing.pixels(damaged, DIGITS), range(40)))
    assert list(warnings.filters) == before
    assert all(np.array_equal(each, found[0]) for each in found)


DESCRIBED = {
    "metadata": {
        "signature_def": {
            "signature_def": {
                "serving_default": {
                    "inputs": {
                        "image": {
                            "name": "image:0",
                            "dtype": "DT_FLOAT",
                            "tensor_shape": {"dim": [{"size": each} for each in ("-1", "28", "28", "1")]},
                        }
                    },
                    "outputs": {
                        "probabilities": {
                            "name": "probabilities:0",
                            "dtype": "DT_FLOAT",
                            "tensor_shape": {"dim": [{"size": "-1"}, {"size": "10"}]},
                        }
                    },
                    "method_name": "tensorflow/serving/predict",
                }
            }
        }
    }
}


def model_server(handler: BaseHTTPRequestHandler) -> None:
    """Answer as a model server does that is sure of a 3."""
    answer = DESCRIBED if handler.path.endswith("/metadata") else {"predictions": [[0, 0, 0, 1.0] + [0] * 6]}
    send(handler, 200, json.dumps(answer).encode(), Content_Type="application/json")


def test_headers_go_along_and_the_signature_is_asked_for_once() -> None:
    async def asked(url: str) -> None:
        async with AsyncClient(url, headers={"x-api-key": "secret"}, version=4) as client:
            assert "secret" not in repr(client)
            found = await asyncio.gather(*(client.predict(INK) for _ in range(10)))
            assert {each.label for each in found} == {"3"}

    with web(lambda handler, _: model_server(handler)) as server:
        asyncio.run(asked(server.url))
    assert [each.path for each in server.asked].count("/v1/models/cnn/versions/4/metadata") == 1
    assert {each.headers["x-api-key"] for each in server.asked} == {"secret"}
    assert len(server.asked) == 11


def test_a_client_that_failed_at_first_goes_on() -> None:
    def answer(handler: BaseHTTPRequestHandler, before: int) -> None:
        if before < 2:
            send(handler, 404, b'{"error": "not yet"}')
        else:
            model_server(handler)

    with web(answer) as server, Client(server.url, retries=0) as client:
        for _ in range(2):
            with pytest.raises(Refused, match="HTTP 404: not yet"):
                client.predict(INK)
        assert client.predict(INK).label == "3"


def test_a_gateway_that_lets_only_predictions_through() -> None:
    def answer(handler: BaseHTTPRequestHandler, _: int) -> None:
        if handler.path.endswith("/metadata"):
            send(handler, 403, b"no")
        else:
            model_server(handler)

    with web(answer) as server:
        with Client(server.url) as client, pytest.raises(Refused, match="HTTP 403"):
            client.predict(INK)
        with Client(server.url, contract=DIGITS) as client:
            assert client.predict(INK).label == "3"


@BOTH
def test_no_server_no_model_no_signature(digits: Ports, kind: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    nowhere = f"127.0.0.1:{port}" if kind == "grpc" else f"http://127.0.0.1:{port}"
    where = address(kind, digits)
    cases: list[tuple[str, dict[str, Any], type[TfshipError], str]] = [
        (nowhere, {"retries": 0}, Unreachable, "server responds there"),
        (where, {"model": "nope"}, Refused, "Servable not found for request"),
        (where, {"version": 9}, Refused, "Servable not found for request"),
        (where, {"signature": "nope"}, UsageError, "has no signature nope; there are serving_default"),
    ]

    async def asked(where: str, options: dict[str, Any]) -> None:
        async with AsyncClient(where, **options) as client:
            await client.predict(INK)

    for server, options, error, message in cases:
        with pytest.raises(error, match=message) as caught, Client(server, **options) as client:
            client.predict_many([INK, b"no picture"], errors="return")
        with pytest.raises(error, match=message) as other:
            asyncio.run(asked(server, options))
        assert str(other.value) == str(caught.value)


@pytest.mark.parametrize("made", [Client, AsyncClient])
def test_arguments_that_cannot_be(made: Callable[..., Any], tmp_path: Path) -> None:
    for where, options, error, message in (
        ("localhost", {}, UsageError, "expected host:port for gRPC"),
        ("", {}, UsageError, "expected host:port for gRPC"),
        ("ftp://localhost:1", {}, UsageError, "an address of ftp://"),
        ("http://localhost:1/path", {}, UsageError, "nothing after it"),
        ("http://localhost:1?a", {}, UsageError, "nothing after it"),
        ("https://", {}, UsageError, "nothing after it"),
        ("http://[::1:8501", {}, UsageError, "not a URL"),
        ("http://localhost:1", {"tls": True}, UsageError, "expected https://"),
        ("localhost:1", {"version": 1, "label": "a"}, UsageError, "expected one of them"),
        ("localhost:1", {"timeout": 0}, UsageError, "a timeout of 0"),
        ("localhost:1", {"retries": 9}, UsageError, "9 retries"),
        ("localhost:1", {"headers": {"a": "b\n"}}, UsageError, "header a"),
        ("localhost:1", {"contract": tmp_path}, ArtifactError, "no such file"),
        ("localhost:1", {"contract": SEVEN}, ArtifactError, "not JSON"),
        ("localhost:1", {"tls": Tls(SEVEN)}, UsageError, "holds no certificate"),
    ):
        with pytest.raises(error, match=message):
            made(where, **options)
    with pytest.raises(UsageError) as caught:
        made("https://me:secret@localhost:1")
    assert "secret" not in str(caught.value)


@BOTH
def test_a_client_that_is_closed(digits: Ports, kind: str) -> None:
    client = Client(address(kind, digits))
    client.predict(INK)
    client.close()
    client.close()
    with pytest.raises(UsageError, match="is closed; create another"):
        client.predict(INK)
    Client(address(kind, digits)).close()

    async def asked() -> None:
        other = AsyncClient(address(kind, digits))
        await other.predict(INK)
        target, _ = await other._opened()
        await other.close()
        await other.close()
        with pytest.raises(UsageError, match="is closed; create another"):
            await other.predict(INK)
        # Closed while a picture was being prepared.
        with pytest.raises(UsageError):
            await target.send(INK[np.newaxis])
        await AsyncClient(address(kind, digits)).close()

    asyncio.run(asked())


@BOTH
def test_a_client_closed_by_another_thread(digits: Ports, kind: str) -> None:
    client = Client(address(kind, digits))
    failures = []

    def ask() -> None:
        while True:
            try:
                client.predict(INK)
            except TfshipError as error:
                failures.append(error)
                return

    with ThreadPoolExecutor(4) as threads:
        running = [threads.submit(ask) for _ in range(4)]
        time.sleep(0.2)
        client.close()
        for each in running:
            each.result()
    assert len(failures) == 4


@BOTH
def test_encrypted(kind: str, tmp_path: Path) -> None:
    certificates = Certificates(tmp_path)
    tls = Tls(tmp_path / "ca.pem")
    assert Tls(str(tls.ca)) == tls  # type: ignore[arg-type]

    async def asked(where: str) -> str:
        async with AsyncClient(where, tls=tls) as client:
            return (await client.predict(INK)).label

    with digits_served(tmp_path, certificates.tls()) as ports:
        where = address(kind, ports).replace("http:", "https:")
        with Client(where, tls=tls) as client:
            assert client.predict(INK).label == "7"
        assert asyncio.run(asked(where)) == "7"
        with Client(where, tls=True) as client, pytest.raises(Unreachable, match="its certificate is signed"):
            client.predict(INK)


def test_what_the_package_offers_is_imported_when_it_is_asked_for() -> None:
    script = """
import sys, tfship.client as client
heavy = {"numpy", "PIL", "grpc", "requests", "asyncio", "tfship.client.api.client"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
client.Client("localhost:8500"), client.AsyncClient("localhost:8500")
assert not {"grpc", "requests", "tensorflow"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)
    assert {name for name in package.__all__ if not hasattr(package, name)} == set()
    assert not hasattr(package, "Clinet")


def test_nothing_is_left_open_or_said(digits: Ports) -> None:
    script = """
import asyncio, sys
from tfship.client import AsyncClient, Client

async def main(where):
    async with AsyncClient(where) as client:
        await asyncio.gather(*(client.predict(sys.argv[1]) for _ in range(5)))

for where in sys.argv[2:]:
    with Client(where) as client:
        client.predict_many([sys.argv[1]] * 3)
    asyncio.run(main(where))
"""
    command = [sys.executable, "-W", "error", "-c", script, str(SEVEN)]
    done = subprocess.run(
        [*command, address("grpc", digits), address("rest", digits)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
