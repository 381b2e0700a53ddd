"""HTTP/2 tools against the gRPC port: curl, nghttp and h2load, which know nothing of gRPC."""

import re
import socket
import ssl
import subprocess
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving_fixtures import eventually
from tfship.serving.server.model_server import Settings
from third_party_clients import environments
from third_party_clients.server import (
    GREETING,
    PREDICT_PATH,
    ROWS,
    Server,
    predict_request,
    predicted,
    started,
)
from tls_fixtures import Certificates

_HEADERS = ("content-type: application/grpc", "te: trailers")


@pytest.fixture(scope="module", params=["ngh2", "h2"])
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def server(engine: str, tmp_path: Path) -> Iterator[Server]:
    with started(tmp_path, Settings(http2_engine=engine)) as server:
        yield server


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


def _framed(content: bytes, *, gzip: bool = False) -> bytes:
    """Return a message as gRPC sends it."""
    if gzip:
        compressor = zlib.compressobj(wbits=31)
        content = compressor.compress(content) + compressor.flush()
    return bytes([gzip]) + len(content).to_bytes(4, "big") + content


def _run(name: str, *arguments: str | Path) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [environments.program(name), *arguments], capture_output=True, check=False, timeout=300
    )


class _Curl:
    """curl's exchange: its exit status, the response's headers and trailers, and its body."""

    def __init__(
        self, url: str, folder: Path, body: bytes, *arguments: str | Path, headers: Any = ()
    ) -> None:
        (folder / "body").write_bytes(body)
        names = [part for each in (*_HEADERS, *headers) for part in ("--header", each)]
        shown, received = folder / "shown", folder / "received"
        done = _run(
            "curl", "--silent", "--noproxy", "*", "--data-binary", f"@{folder / 'body'}",
            "--dump-header", shown, "--output", received, *names, *arguments, url,
        )  # fmt: skip
        self.status = done.returncode
        self.head = shown.read_text() if shown.exists() else ""
        self.body = received.read_bytes() if received.exists() else b""

    @property
    def grpc_status(self) -> int | None:
        found = re.search("^grpc-status: ([0-9]+)\r?$", self.head, re.MULTILINE)
        return int(found[1]) if found else None


def _prior_knowledge(server: Server, folder: Path, body: bytes, *headers: str) -> _Curl:
    url = f"http://127.0.0.1:{server.client.grpc_port}{PREDICT_PATH}"
    return _Curl(url, folder, body, "--http2-prior-knowledge", headers=headers)


def test_curl_with_prior_knowledge(server: Server, tmp_path: Path) -> None:
    found = _prior_knowledge(server, tmp_path, _framed(predict_request()))
    assert (found.status, found.grpc_status) == (0, 0)
    assert found.body[:5] == b"\0" + (len(found.body) - 5).to_bytes(4, "big")
    np.testing.assert_array_equal(predicted(found.body[5:]), 2 * ROWS)
    # The message is percent-encoded UTF-8.
    found = _prior_knowledge(server, tmp_path, _framed(predict_request(model="50% größe")))
    assert (found.status, found.grpc_status, found.body) == (0, 5, b"")
    assert "grpc-message: Servable not found for request: Latest(50%25 gr%C3%B6%C3%9Fe)" in found.head


def test_curl_with_gzip(server: Server, tmp_path: Path) -> None:
    rows = np.zeros((10_000, 2), np.float32)
    message = _framed(predict_request(rows), gzip=True)
    gzip = ("grpc-encoding: gzip", "grpc-accept-encoding: identity,gzip")
    found = _prior_knowledge(server, tmp_path, message, *gzip)
    assert (found.status, found.grpc_status, found.body[0]) == (0, 0, 1)
    assert "grpc-encoding: gzip" in found.head
    assert len(found.body) < 1000
    np.testing.assert_array_equal(predicted(zlib.decompress(found.body[5:], wbits=31)), rows)
    # A client that doesn't accept it.
    found = _prior_knowledge(server, tmp_path, message, gzip[0])
    assert (found.status, found.grpc_status, found.body[0]) == (0, 0, 0)
    np.testing.assert_array_equal(predicted(found.body[5:]), rows)
    # Without a body: curl 7.88 may hang if the server resets its upload after the response (RFC 9113, 8.1).
    found = _prior_knowledge(server, tmp_path, b"", "grpc-encoding: zstd")
    assert (found.status, found.grpc_status) == (0, 12)
    assert "grpc-accept-encoding: identity,gzip" in found.head


def test_the_server_itself_ends_a_call_at_its_deadline(server: Server, tmp_path: Path) -> None:
    found = _prior_knowledge(server, tmp_path, _framed(predict_request(model="held")), "grpc-timeout: 200m")
    assert (found.status, found.grpc_status) == (0, 4)
    assert (server.gate.runs, server.calls) == (1, 0)
    assert _prior_knowledge(server, tmp_path, _framed(predict_request())).grpc_status == 0


def test_curl_that_is_no_grpc_client(server: Server, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{server.client.grpc_port}/"
    get = _run("curl", "-s", "--noproxy", "*", "-i", "--http2-prior-knowledge", url)
    assert (get.returncode, get.stdout.split()[:2]) == (0, [b"HTTP/2", b"405"])
    plain = ("-s", "--noproxy", "*", "-i", "-d", "")
    post = _run("curl", *plain, "--http2-prior-knowledge", url)
    assert (post.returncode, post.stdout.split()[:2]) == (0, [b"HTTP/2", b"415"])
    # The port has no HTTP/1.1 and no upgrade from it: the connection is closed at once.
    for version in ("--http1.1", "--http2"):
        assert _run("curl", *plain, version, url).returncode != 0
    eventually(lambda: not server.connections)


@pytest.mark.parametrize("verified", [False, True])
def test_curl_over_tls(engine: str, certificates: Certificates, tmp_path: Path, verified: bool) -> None:
    folder = certificates.folder
    own = ("--cert", folder / "client.pem", "--key", folder / "client.key")
    settings = Settings(http2_engine=engine, tls=certificates.tls(verified=verified))
    with started(tmp_path, settings) as server:
        url = f"https://localhost:{server.client.grpc_port}{PREDICT_PATH}"
        trusts = ("--http2", "--cacert", folder / "ca.pem")
        found = _Curl(url, tmp_path, _framed(predict_request()), *trusts, *own)
        assert (found.status, found.grpc_status) == (0, 0)
        assert _run("curl", "-s", "--noproxy", "*", "--http2", url).returncode == 60  # an unknown authority
        (tmp_path / "received").unlink()
        found = _Curl(url, tmp_path, _framed(predict_request()), *trusts)
        if verified:
            assert found.status != 0
            assert found.body == b""
        else:
            assert (found.status, found.grpc_status) == (0, 0)


def test_an_idle_tls_client_does_not_delay_the_end(
    engine: str, certificates: Certificates, tmp_path: Path
) -> None:
    """It never closes its side; uvloop alone would wait for 30 s."""
    context = ssl.create_default_context(cafile=str(certificates.folder / "ca.pem"))
    context.set_alpn_protocols(["h2"])
    with (
        started(tmp_path, Settings(http2_engine=engine, tls=certificates.tls())) as server,
        socket.create_connection(("localhost", server.client.grpc_port)) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as client,
    ):
        client.sendall(GREETING)
        eventually(lambda: [each.engine.has_begun for each in server.connections] == [True])
        server.begin_stop()
        assert server.stopped
        server.stopped.result(25)


def test_nghttp(server: Server, tmp_path: Path) -> None:
    """Several requests on one connection, with padding, and with trailers and a window of 15 bytes."""
    (tmp_path / "body").write_bytes(_framed(predict_request()))
    url = f"http://127.0.0.1:{server.client.grpc_port}{PREDICT_PATH}"
    headers = [part for each in (*_HEADERS, ":method: POST") for part in ("--header", each)]
    for arguments in (("--multiply=20",), ("--padding=200",), ("--window-bits=4", "--trailer=a: b")):
        done = _run("nghttp", "-nv", "--data", tmp_path / "body", *headers, *arguments, url)
        assert done.returncode == 0
        # Trailers are responses' last headers.
        count = 20 if "multiply" in arguments[0] else 1
        assert len(re.findall(rb"grpc-status:.*? 0\s", done.stdout.replace(b"\x1b[0m", b""))) == count
    assert not server.calls


def test_h2load(server: Server, tmp_path: Path) -> None:
    (tmp_path / "body").write_bytes(_framed(predict_request()))
    url = f"http://127.0.0.1:{server.client.grpc_port}{PREDICT_PATH}"
    headers = [part for each in _HEADERS for part in ("--header", each)]
    load = ("--requests=2000", "--clients=20", "--max-concurrent-streams=20")
    done = _run("h2load", "--data", tmp_path / "body", *headers, *load, url)
    assert done.returncode == 0
    counts = b"2000 total, 2000 started, 2000 done, 2000 succeeded, 0 failed, 0 errored, 0 timeout"
    assert counts in done.stdout
    eventually(lambda: not server.connections)
