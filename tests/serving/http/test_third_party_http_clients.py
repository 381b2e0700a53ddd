"""HTTP/1.1 clients of other makers against the REST port: http.client, requests, curl and wrk."""

import gzip
import http.client
import json
import logging
import re
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from serving_fixtures import eventually
from tfship.serving.http import protocol
from tfship.serving.server import connections
from tfship.serving.server.model_server import Settings
from third_party_clients import environments
from third_party_clients.server import Server, started
from tls_fixtures import Certificates

PATH = "/v1/models/double:predict"
BODY = {"instances": [[1.0, 2.0], [3.0, 4.5]]}
ANSWER = {"predictions": [[2.0, 4.0], [6.0, 9.0]]}
LARGE_BYTES = 64 * 2**20


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    # Two for held requests, and one for others, which run there on a busy machine.
    with started(tmp_path, Settings(rest_threads=3)) as server:
        yield server


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def session() -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.trust_env = False  # no proxy
        yield session


def _url(server: Server, path: str = PATH, scheme: str = "http") -> str:
    return f"{scheme}://localhost:{server.client.rest_port}{path}"


def _curl(*arguments: str | Path) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [environments.program("curl"), "--silent", "--noproxy", "*", *arguments],
        capture_output=True, check=False, timeout=300,
    )  # fmt: skip


def test_requests_in_one_session(server: Server, session: requests.Session) -> None:
    for _ in range(20):
        assert session.post(_url(server), json=BODY).json() == ANSWER
    answer = session.post(_url(server, "/v1/models/gr%C3%B6%C3%9Fe:predict"), json=BODY)
    assert (answer.status_code, answer.json()) == (
        404, {"error": "Servable not found for request: Latest(größe)"},
    )  # fmt: skip
    # All by one connection, after a response of each kind.
    assert session.get(_url(server, "/v1/models/double")).status_code == 200
    assert session.head(_url(server, "/v1/models/double")).content == b""
    assert session.get(_url(server, "/")).status_code == 404
    assert session.post(_url(server), json=BODY).json() == ANSWER
    adapter: Any = session.get_adapter("http://")
    (pool,) = (adapter.poolmanager.pools.get(key) for key in adapter.poolmanager.pools.keys())  # noqa: SIM118
    assert pool.num_connections == 1


def test_requests_with_chunks_and_gzip(server: Server, session: requests.Session) -> None:
    body = json.dumps(BODY).encode()
    pieces = (body[begin : begin + 7] for begin in range(0, len(body), 7))
    assert session.post(_url(server), data=pieces).json() == ANSWER
    rows = {"instances": [[1.5, 2.5]] * 10_000}
    compressed = gzip.compress(json.dumps(rows).encode())
    answer = session.post(_url(server), data=compressed, headers={"Content-Encoding": "gzip"})
    assert answer.headers["Content-Encoding"] == "gzip"
    assert int(answer.headers["Content-Length"]) < 5000
    assert answer.json() == {"predictions": [[3.0, 5.0]] * 10_000}


def test_http_client_with_large_bodies(server: Server) -> None:
    """64 MiB in both directions: as numbers with many digits, since JSON's rows are slow."""
    row = b"[" + b"1." + b"0" * 64 + b", 2.5]"
    body = b'{"instances": [' + b",".join([row] * 10) + b'], "signature_name": "serving_default"'
    body += b" " * (LARGE_BYTES - len(body)) + b"}"
    connection = http.client.HTTPConnection("localhost", server.client.rest_port, timeout=300)
    connection.request("POST", PATH, body)
    assert json.loads(connection.getresponse().read()) == {"predictions": [[2.0, 5.0]] * 10}
    count = 2**23
    # The Open Inference Protocol has binary tensors.
    head = json.dumps(
        {
            "inputs": [
                {
                    "name": "x", "datatype": "FP32", "shape": [count, 2],
                    "parameters": {"binary_data_size": 8 * count},
                }
            ],
            "outputs": [{"name": "y", "parameters": {"binary_data": True}}],
        }
    ).encode()  # fmt: skip
    headers = {"Inference-Header-Content-Length": str(len(head))}
    connection.request("POST", "/v2/models/double/infer", head + bytes(8 * count), headers)
    response = connection.getresponse()
    length = int(response.headers["Inference-Header-Content-Length"])
    content = response.read()
    connection.close()
    assert json.loads(content[:length])["outputs"][0]["shape"] == [count, 2]
    assert len(content) - length == LARGE_BYTES
    assert not content[length:].strip(b"\0")


@pytest.mark.parametrize("version", ["--http1.0", "--http1.1", "--http2"])
def test_curl(server: Server, tmp_path: Path, version: str) -> None:
    """With `--http2`, curl wishes for an upgrade, which the server doesn't grant."""
    shown = ("--write-out", "%{stderr}%{http_version} %{http_code} %{num_connects}\n")
    urls = [_url(server), _url(server), _url(server, "/v1/models/gr%C3%B6%C3%9Fe:predict"), _url(server)]
    once = [part for url in urls for part in ("--output", "-", url)]
    done = _curl(version, *shown, "--data", json.dumps(BODY), *once)
    assert done.returncode == 0
    lines = [line.split() for line in done.stderr.decode().splitlines()]
    assert [line[1] for line in lines] == ["200", "200", "404", "200"]
    # curl keeps no connection of HTTP/1.0.
    assert sum(int(line[2]) for line in lines) == (4 if version == "--http1.0" else 1)
    assert {line[0] for line in lines} == {"1.1"}
    assert done.stdout.count(b"predictions") == 3
    assert json.loads(done.stdout[done.stdout.index(b'{"error"') :].split(b"}")[0] + b"}") == {
        "error": "Servable not found for request: Latest(größe)"
    }


def test_curl_that_expects_100_continue(server: Server, tmp_path: Path) -> None:
    body = tmp_path / "body"
    body.write_text(json.dumps({"instances": [[1.0, 2.0]] * 50_000}))
    done = _curl(
        "--http1.1", "--verbose", "--header", "Expect: 100-continue", "--data-binary", f"@{body}",
        "--compressed", _url(server),
    )  # fmt: skip
    assert done.returncode == 0
    assert b"< HTTP/1.1 100 Continue" in done.stderr
    assert len(json.loads(done.stdout)["predictions"]) == 50_000


def test_curl_with_prior_knowledge_is_refused(server: Server) -> None:
    done = _curl("--http2-prior-knowledge", "--max-time", "100", _url(server))
    assert done.returncode != 28, "it hung"
    assert done.returncode != 0
    assert _curl(_url(server, "/v1/models/double")).returncode == 0


def test_wrk(server: Server, tmp_path: Path) -> None:
    script = tmp_path / "predict.lua"
    script.write_text(f"wrk.method = 'POST'\nwrk.body = '{json.dumps(BODY)}'\n")
    wrk = environments.program("wrk")
    done = subprocess.run(
        [wrk, "--threads=1", "--connections=30", "--duration=1s", "--script", script, _url(server)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = re.search("([0-9]+) requests in", done.stdout)
    assert found
    assert int(found[1]) > 0
    assert "Non-2xx" not in done.stdout
    assert "Socket errors" not in done.stdout


def test_a_client_that_goes_away(server: Server, session: requests.Session) -> None:
    with pytest.raises(requests.ReadTimeout):
        session.post(_url(server, "/v1/models/held:predict"), json=BODY, timeout=(100, 0.5))
    server.gate.has_begun(1)
    assert session.post(_url(server), json=BODY).json() == ANSWER


@pytest.mark.parametrize("verified", [False, True])
def test_tls(certificates: Certificates, session: requests.Session, tmp_path: Path, verified: bool) -> None:
    folder = certificates.folder
    own = (str(folder / "client.pem"), str(folder / "client.key"))
    with started(tmp_path, Settings(tls=certificates.tls(verified=verified))) as server:
        url = _url(server, scheme="https")
        session.verify = str(folder / "ca.pem")
        large = {"instances": [[1.0, 2.0]] * 50_000}
        for _ in range(3):
            assert session.post(url, json=BODY, cert=own).json() == ANSWER
            assert len(session.post(url, json=large, cert=own).json()["predictions"]) == 50_000
        trusts = ("--cacert", folder / "ca.pem", "--data", json.dumps(BODY))
        for version in ("--http1.1", "--http2"):
            done = _curl(version, *trusts, "--cert", own[0], "--key", own[1], url)
            assert json.loads(done.stdout) == ANSWER
        without = _curl(*trusts, url)
        with requests.Session() as other:
            other.trust_env, other.verify = False, str(folder / "ca.pem")
            if verified:
                assert (without.returncode != 0, without.stdout) == (True, b"")
                with pytest.raises(requests.ConnectionError):
                    other.post(url, json=BODY)
            else:
                assert json.loads(without.stdout) == other.post(url, json=BODY).json() == ANSWER


def test_an_idle_tls_client_does_not_delay_the_end(
    certificates: Certificates, session: requests.Session, tmp_path: Path
) -> None:
    """It keeps its connection, and doesn't read the end of the TLS session until its next request."""
    session.verify = str(certificates.folder / "ca.pem")
    with started(tmp_path, Settings(tls=certificates.tls())) as server:
        assert session.post(_url(server, scheme="https"), json=BODY).json() == ANSWER
        server.begin_stop()
        assert server.stopped
        server.stopped.result(300)  # its grace period is twice as long
        with pytest.raises(requests.ConnectionError):
            session.post(_url(server, scheme="https"), json=BODY)


def test_a_tls_client_that_leaves_before_its_error_is_written(
    certificates: Certificates,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The server closes such a connection after a while; it has ended by then, and its descriptor may be another's."""
    monkeypatch.setattr(protocol, "_LINGER_SECONDS", 0.2)
    monkeypatch.setattr(connections, "_TLS_CLOSE_SECONDS", 0.2)
    context = ssl.create_default_context(cafile=str(certificates.folder / "ca.pem"))
    with started(tmp_path, Settings(tls=certificates.tls())) as server:
        for _ in range(3):
            with (
                socket.create_connection(("localhost", server.client.rest_port)) as plain,
                context.wrap_socket(plain, server_hostname="localhost") as client,
            ):
                client.sendall(b"no request\r\n\r\n")
                assert client.recv(12) == b"HTTP/1.1 501"
        time.sleep(1)  # both timers
    assert not [each for each in caplog.records if each.levelno > logging.INFO]


def test_graceful_end(server: Server, session: requests.Session) -> None:
    answers: list[Any] = []
    url = _url(server, "/v1/models/held:predict")
    held = [
        threading.Thread(
            target=lambda: answers.append(json.loads(_curl("-d", json.dumps(BODY), url).stdout))
        ),
        threading.Thread(target=lambda: answers.append(requests.post(url, json=BODY).json())),
    ]
    assert session.post(_url(server), json=BODY).json() == ANSWER
    for thread in held:
        thread.start()
    server.gate.has_begun(2)
    server.begin_stop()

    def is_refused() -> bool:
        try:
            with requests.Session() as other:
                assert other.post(_url(server), json=BODY).json() == ANSWER
        except requests.ConnectionError:
            return True
        return False

    eventually(is_refused)
    assert answers == []
    server.gate.open()
    for thread in held:
        thread.join()
    assert answers == [ANSWER, ANSWER]
    assert server.stopped
    server.stopped.result()
    with pytest.raises(requests.ConnectionError):
        session.post(_url(server), json=BODY)
