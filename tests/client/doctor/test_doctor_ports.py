"""What the doctor says of who answers at an address, each fault made for real."""

import os
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from doctor_fixtures import answering, at, diagnose, folder_of_models, free_port, http_server
from serving_fixtures import (
    config_of,
    serving,
)
from tfship.serving.server.model_server import Settings
from tfship.serving.server.settings import Limits
from tls_fixtures import Certificates


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A folder of models with the version cnn/1."""
    return folder_of_models(tmp_path)


def test_nothing_listens(models: Path) -> None:
    found = diagnose(f"--rest=127.0.0.1:{free_port()}", f"--grpc=localhost:{free_port()}", "--models", models)
    assert len(found.faults) == 2  # and nothing about models that nobody was asked about
    for flag, each in zip(("--rest_api_port=", "--port="), found.faults, strict=True):
        assert "no process listens there (connection refused)" in each
        assert flag in each


@pytest.mark.parametrize("name", ["no-such-host.invalid", "a" * 80])
def test_an_unknown_host(models: Path, name: str) -> None:
    assert "no such host" in diagnose(f"--rest={name}:8501", "--models", models).only


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (lambda connection: None, "accepts connections and never responds"),
        (lambda connection: connection.close(), "accepts connections and closes them at once"),
        (
            lambda connection: connection.sendall(b"SSH-2.0-x\x1b[31m\r\n"),
            "another service responds there ('SSH-2.0",
        ),
        (lambda connection: connection.sendall(os.urandom(64)), "another service responds there"),
    ],
)
@pytest.mark.parametrize("port", ["rest", "grpc"])
@pytest.mark.parametrize("tls", [[], ["--tls"]])
def test_who_is_no_server_at_all(
    models: Path, answer: Callable[[socket.socket], None], expected: str, port: str, tls: list[str]
) -> None:
    with answering(answer) as server:
        only = diagnose(f"--{port}={server}", "--models", models, *tls, timeout=1.5).only
        assert expected in only or (tls and "something else" in expected and "TLS can't be agreed on" in only)


@pytest.mark.parametrize(
    "answer",
    [
        (200, b"<html>hello</html>"),
        (404, b"not here"),
        (302, b""),
        (500, b"{}"),
        (200, b"{}"),
        (200, b"[" * 9999),
    ],
)
def test_a_web_server(models: Path, answer: tuple[int, bytes]) -> None:
    with http_server(lambda path: answer) as server:
        assert "but isn't a model server" in diagnose(f"--rest={server}", "--models", models).only


def test_ports_taken_for_each_other(models: Path) -> None:
    with serving(config_of(cnn=models / "cnn")) as client:
        swapped = [f"--grpc=127.0.0.1:{client.rest_port}", f"--rest=127.0.0.1:{client.grpc_port}"]
        rest, grpc = diagnose(*swapped, "--models", models).faults
        assert "speaks HTTP/2 (as gRPC), so it is no port for REST | give this address by --grpc" in rest
        assert "speaks HTTP/1.1 (as REST), so it is no port for gRPC | give this address by --rest" in grpc


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


def test_encryption(models: Path, certificates: Certificates, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    file = certificates.folder.joinpath
    trust, own = f"--ca={file('ca.pem')}", [f"--cert={file('client.pem')}", f"--key={file('client.key')}"]
    config = config_of(cnn=models / "cnn")
    with serving(config) as client:
        for each in diagnose(*at(client), "--models", models, "--tls").faults:
            assert "speaks plain text, and got TLS | omit --tls" in each
    with serving(config, Settings(tls=certificates.tls())) as client:
        found = diagnose(*at(client), "--models", models)
        assert ["expects TLS, and got plain text" in each for each in found.faults] == [
            True,
            True,
        ]
        found = diagnose(*at(client), "--models", models, "--tls")
        assert ["its certificate isn't trusted" in each for each in found.faults] == [True, True]
        assert diagnose(*at(client), "--models", models, trust).code == 0
        # As for plain text: the port for the other protocol is told.
        swapped = [f"--grpc=127.0.0.1:{client.rest_port}", f"--rest=127.0.0.1:{client.grpc_port}"]
        assert ["so it is no port for" in each for each in diagnose(*swapped, trust).faults][:2] == [
            True,
            True,
        ]
    with serving(config, Settings(tls=certificates.tls(verified=True))) as client:
        for mine in ([], [f"--cert={file('stranger.pem')}", f"--key={file('stranger.key')}"]):
            found = diagnose(*at(client), "--models", models, trust, *mine)
            assert ["where it expects a client certificate" in each for each in found.faults] == [True, True]
        assert diagnose(*at(client), "--models", models, trust, *own).code == 0


def test_a_proxy_in_the_way(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(config_of(cnn=models / "cnn")) as client:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
        # No proxy is asked for this machine, unless its name doesn't tell that it is this one.
        assert diagnose(*at(client), "--models", models).code == 0
        elsewhere = [each.replace("127.0.0.1", "0.0.0.0") for each in at(client)]
        faults = diagnose(*elsewhere, "--models", models).faults
        assert len(faults) == 2
        for each in faults:
            assert (
                "responds directly, but not through the proxy that the environment sets (http_proxy=" in each
            )
        monkeypatch.setenv("no_proxy", "0.0.0.0")
        assert diagnose(*elsewhere, "--models", models).code == 0


def test_a_server_that_is_full(models: Path) -> None:
    settings = Settings(limits=Limits(connections=1))
    with (
        serving(config_of(cnn=models / "cnn"), settings) as client,
        socket.create_connection(("127.0.0.1", client.rest_port)) as other,
    ):
        other.sendall(b"GET / HTTP/1.1\r\n")
        assert "HTTP 503" in diagnose(f"--rest=127.0.0.1:{client.rest_port}", "--models", models).only


def test_a_tarpit_is_left_behind(models: Path) -> None:
    def drip(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        while True:
            connection.sendall(b" ")
            time.sleep(0.05)

    with answering(drip) as server:
        only = diagnose(f"--rest={server}", "--models", models, timeout=0.4).only
        assert "the check didn't finish within 1.4 s" in only


class _Babbling(grpc.GenericRpcHandler):  # type: ignore[type-arg]
    """Answers every call with the same bytes."""

    def service(self, handler_call_details: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(lambda request, context: b"\xff\xff\xff")


@pytest.mark.parametrize("handlers", [[], [_Babbling()]])
def test_a_grpc_server_that_is_no_model_server(
    models: Path, handlers: "list[grpc.GenericRpcHandler[Any, Any]]"
) -> None:
    server = grpc.server(ThreadPoolExecutor(1), handlers)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        only = diagnose(f"--grpc=127.0.0.1:{port}", "--models", models).only
    finally:
        server.stop(None).wait()
    assert "speaks HTTP/2 (as gRPC), but isn't a model server" in only
