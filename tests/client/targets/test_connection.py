"""How the client reaches a server: encryption, headers, compression, patience, and what it says when it can't."""

import gzip
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import grpc
import numpy as np
import pytest

from client_fixtures import SEVEN, Web, counted, digits_served, run, send, web
from serving_fixtures import Client
from tfship.client.cli.arguments import headers
from tfship.client.targets import tls
from tfship.client.targets.connection import MOST_RESPONSE, Connection, Servable, Tls
from tfship.client.targets.grpc import Grpc
from tfship.client.targets.rest import Rest
from tfship.serving.protos.messages import predict_pb2
from tfship.serving.protos.tensors import to_proto
from tfship.serving.server.tls import ServerTls as ServerTls
from tfship.train.common.errors import Refused, Unreachable, UsageError
from tls_fixtures import Certificates

IMAGES = np.zeros((64, 28, 28, 1), np.float32)
ANSWER = json.dumps({"predictions": [[0.25, 0.75]] * 64}).encode()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    made = Certificates(tmp_path_factory.mktemp("certificates"))
    made._certificate(
        "other", "-x509", "-CA", "ca.pem", "-CAkey", "ca.key", "-addext", "subjectAltName=DNS:other.example"
    )
    made.openssl("ec", "-in", "client.key", "-aes256", "-passout", "pass:x", "-out", "encrypted.key")
    return made


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with digits_served(tmp_path_factory.mktemp("plain")) as client:
        yield client


@pytest.fixture(scope="module")
def encrypted(certificates: Certificates, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with digits_served(tmp_path_factory.mktemp("encrypted"), certificates.tls()) as client:
        yield client


@pytest.fixture(scope="module")
def strict(certificates: Certificates, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with digits_served(tmp_path_factory.mktemp("strict"), certificates.tls(verified=True)) as client:
        yield client


@pytest.fixture(scope="module")
def renamed(certificates: Certificates, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    identity = ServerTls(certificates.read("other.key"), certificates.read("other.pem"))
    with digits_served(tmp_path_factory.mktemp("renamed"), identity) as client:
        yield client


def way(kind: str, client: Client) -> list[str]:
    port = client.grpc_port if kind == "grpc" else client.rest_port
    return ["--target", kind, "--server", f"localhost:{port}", "--models", "/nowhere", "--timeout", "10"]


KINDS = pytest.mark.parametrize("kind", ["rest", "grpc"])


@KINDS
def test_tls_with_an_authority_of_ones_own(
    certificates: Certificates,
    encrypted: Client,
    strict: Client,
    renamed: Client,
    kind: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ca = ["--ca", str(certificates.folder / "ca.pem")]
    own = ["--cert", f"{certificates.folder}/client.pem", "--key", f"{certificates.folder}/client.key"]
    assert run(SEVEN, *way(kind, encrypted), *ca) == 0
    assert run(SEVEN, *way(kind, strict), *ca, *own) == 0
    assert [line.split(": ")[1][:3] for line in capsys.readouterr().out.splitlines()] == ["7 (", "7 ("]


@KINDS
def test_the_systems_authorities(
    certificates: Certificates,
    encrypted: Client,
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.folder / "ca.pem"))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificates.folder / "stranger.pem"))
    assert run(SEVEN, *way(kind, encrypted), "--tls") == 0
    assert ": 7 (" in capsys.readouterr().out


@KINDS
def test_what_is_wrong_with_the_encryption_is_said(
    certificates: Certificates,
    plain: Client,
    encrypted: Client,
    strict: Client,
    renamed: Client,
    kind: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = certificates.folder
    ca, stranger = ["--ca", str(folder / "ca.pem")], ["--ca", str(folder / "stranger.pem")]
    wrong = ["--cert", f"{folder}/stranger.pem", "--key", f"{folder}/stranger.key"]
    for arguments, message in (
        ([*way(kind, encrypted), *stranger], "its certificate is signed not by "),
        ([*way(kind, encrypted), "--tls"], "signed by no authority that this machine trusts"),
        ([*way(kind, renamed), *ca], "its certificate is for other names than localhost"),
        (way(kind, encrypted), "the server expects TLS; add --tls"),
        ([*way(kind, plain), *ca], "the server doesn't speak TLS there; omit --tls"),
        ([*way(kind, strict), *ca], "the server expects a client certificate"),
        ([*way(kind, strict), *ca, *wrong], "the server refuses this client certificate"),
    ):
        assert run(SEVEN, *arguments) == 5, message
        (line,) = [each for each in capsys.readouterr().err.splitlines() if each.startswith("error: ")]
        assert message in line


def test_keys_and_certificates_of_no_use(
    certificates: Certificates, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = certificates.folder
    pem, key = str(folder / "client.pem"), str(folder / "client.key")
    for arguments, message in (
        (["--ca", "nowhere.pem"], "nowhere.pem: no such file"),
        (["--ca", str(SEVEN)], "holds no certificate"),
        (["--cert", pem], "a client's certificate without its key"),
        (["--key", key], "a client's key without its certificate"),
        (["--cert", pem, "--key", str(folder / "stranger.key")], "can't be used"),
        # Nobody is asked for its password.
        (["--cert", pem, "--key", str(folder / "encrypted.key")], "unencrypted key"),
    ):
        for kind in ("rest", "grpc"):
            assert run(SEVEN, "--target", kind, "--models", "/nowhere", *arguments) == 2
            (line,) = capsys.readouterr().err.splitlines()
            assert message in line


def test_a_server_that_is_not_there_has_no_tls_trouble(certificates: Certificates) -> None:
    trusted = Tls(certificates.folder / "ca.pem")
    for server in ("127.0.0.1:1", "nonsense", "[::1]:x", "127.0.0.1:99999"):
        assert tls.explain(Connection(server, trusted)) is None
        assert tls.explain(Connection(server)) is None


def answering(handler: BaseHTTPRequestHandler, before: int) -> None:
    send(handler, 200, ANSWER)


def predict(server: Web, **settings: object) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    target = Rest(Connection(server.address, **settings), Servable("cnn"))  # type: ignore[arg-type]
    try:
        return target.predict(IMAGES)
    finally:
        target.close()


def test_headers_arrive_and_large_bodies_compressed() -> None:
    with web(answering) as server:
        predict(server, headers={"X-Api-Key": "secret"})
        predict(server, gzip=True)
        local, packed = server.asked
    assert local.headers["x-api-key"] == "secret"
    assert "content-encoding" not in local.headers
    assert packed.headers["content-encoding"] == "gzip"
    assert json.loads(gzip.decompress(packed.body)) == json.loads(local.body)
    assert json.loads(local.body)["signature_name"] == "serving_default"
    assert len(packed.body) < len(local.body) / 10


def test_proxies_are_for_other_machines(plain: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for kind in ("rest", "grpc"):
        assert run(SEVEN, *way(kind, plain)) == 0
    with pytest.raises(Unreachable, match="the proxy fails .Connection refused"):
        Rest(Connection("models.example:8501"), Servable("cnn")).predict(IMAGES)


def test_compression_is_for_other_machines() -> None:
    for here in ("localhost:8501", "127.0.0.1:1", "127.1.2.3:80", "[::1]:8500", "unix:/tmp/socket"):
        assert not Connection(here).compresses, here
    for there in ("models.example:8501", "10.0.0.1:8501", "localhost.example:1", "127.0.0.1.example:1"):
        assert Connection(there).compresses, there
    assert not Connection("models.example:8501", gzip=False).compresses


def test_grpc_compresses_too(plain: Client) -> None:
    sent = {}
    for packs in (True, False):
        with counted(plain.grpc_port) as (port, count):
            target = Grpc(Connection(f"127.0.0.1:{port}", gzip=packs), Servable("cnn"))
            assert target.predict(IMAGES).shape == (64, 10)
            target.close()
        sent[packs] = count[0]
    assert sent[False] > IMAGES.nbytes > 10 * sent[True]


def test_grpc_sends_headers_as_metadata_and_tries_again() -> None:
    """With a server that knows nothing but how to be asked twice."""
    seen: list[dict[str, str]] = []

    def handle(request: object, context: grpc.ServicerContext) -> object:
        seen.append({key: str(value) for key, value in context.invocation_metadata()})
        if len(seen) == 1:
            context.abort(grpc.StatusCode.UNAVAILABLE, "not yet")
        outputs = {"probabilities": to_proto(np.full((64, 2), 0.5, np.float32))}
        return predict_pb2.PredictResponse(outputs=outputs).SerializeToString()

    with ThreadPoolExecutor(1) as pool:
        server = grpc.server(pool)
        handler = grpc.unary_unary_rpc_method_handler(handle)
        service = grpc.method_handlers_generic_handler(
            "tensorflow.serving.PredictionService", {"Predict": handler}
        )
        server.add_generic_rpc_handlers((service,))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        target = Grpc(Connection(f"127.0.0.1:{port}", headers={"X-Api-Key": "secret"}), Servable("cnn"))
        assert target.predict(IMAGES).shape == (64, 2)
        target.close()
        server.stop(None).wait()
    assert [each["x-api-key"] for each in seen] == ["secret", "secret"]


def test_a_request_that_is_too_large_for_grpc_is_explained() -> None:
    with ThreadPoolExecutor(1) as pool:
        server = grpc.server(pool, options=[("grpc.max_receive_message_length", 1000)])
        handler = grpc.unary_unary_rpc_method_handler(lambda request, context: b"")
        service = grpc.method_handlers_generic_handler(
            "tensorflow.serving.PredictionService", {"Predict": handler}
        )
        server.add_generic_rpc_handlers((service,))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        target = Grpc(Connection(f"127.0.0.1:{port}"), Servable("cnn"))
        with pytest.raises(
            Refused, match=r"RESOURCE_EXHAUSTED.*the server refuses a request of 0\.2 MiB; raise"
        ):
            target.predict(IMAGES)
        target.close()
        server.stop(None).wait()


def test_rest_tries_again_when_a_server_is_not_ready() -> None:
    with web(lambda handler, before: send(handler, 503 if before < 2 else 200, ANSWER)) as server:
        assert predict(server).shape == (64, 2)
        assert len(server.asked) == 3
    unavailable = json.dumps({"error": "loading"}).encode()
    # However long it asks to be left alone.
    with web(lambda handler, before: send(handler, 503, unavailable, Retry_After="3600")) as server:
        with pytest.raises(Refused, match="HTTP 503: loading"):
            predict(server, retries=1)
        assert len(server.asked) == 2


@pytest.mark.parametrize("part", ["headers", "body"])
def test_a_server_that_drips_is_not_waited_for(part: str) -> None:
    def drip(handler: BaseHTTPRequestHandler, before: int) -> None:
        start = b"HTTP/1.1 200 OK\r\n"
        handler.wfile.write(start if part == "headers" else start + b"Content-Length: 100000\r\n\r\n")
        end = time.monotonic() + 60
        while time.monotonic() < end:
            handler.wfile.write(b"x")
            time.sleep(0.05)
        handler.close_connection = True

    with web(drip) as server:
        begin = time.monotonic()
        with pytest.raises(Unreachable, match=r"no response within 0\.5 s"):
            predict(server, timeout=0.5)
        assert time.monotonic() - begin < 60


@pytest.mark.parametrize(
    ("status", "body", "headers", "message"),
    [
        (
            413,
            b"<html>nginx</html>",
            {},
            r"HTTP 413: the server refuses a request of 0\.\d MiB; raise its limit",
        ),
        (413, b'{"error": "too large"}', {}, "too large: the server refuses a request of"),
        (302, b"", {"Location": "http://other/"}, "a redirect to http://other/; give that address"),
        (
            403,
            b"no",
            {},
            "HTTP 403, Forbidden; give the credentials that the server or its proxy expects by --header",
        ),
        (200, b"[1, 2]", {}, "without TensorFlow Serving's JSON"),
        (200, b'{"predictions": [[0.1, 0.9]]}', {}, r"returned \[1, 2\] for 64 images"),
        (200, b'{"predictions": [[1], [1, 2]]}', {}, r"returned \[0\] for 64 images"),
        (200, ANSWER.replace(b"0.25", b"NaN", 1), {}, "expected finite scores"),
        (200, b'{"predictions": [{"logits": [1, 2]}]}', {}, "returned logits; expected probabilities"),
        (200, b"x" * (MOST_RESPONSE + 1), {}, "a response of more than 64 MiB"),
    ],
)
def test_answers_of_no_use(status: int, body: bytes, headers: dict[str, str], message: str) -> None:
    with (
        web(lambda handler, before: send(handler, status, body, **headers)) as server,
        pytest.raises(Refused, match=message),
    ):
        predict(server)


def test_an_answer_with_several_outputs_is_rows_of_dicts() -> None:
    rows = [{"label": "x", "probabilities": [0.5, 0.5]}] * 64
    body = json.dumps({"predictions": rows}).encode()
    with web(lambda handler, before: send(handler, 200, body)) as server:
        assert predict(server).tolist() == [[0.5, 0.5]] * 64


def test_addresses_headers_and_numbers_that_cannot_be(tmp_path: Path) -> None:
    for settings, message in (
        ({"server": "http://localhost:8501"}, "expected host:port, without http://"),
        ({"timeout": 0.0}, "expected more than 0 seconds"),
        ({"timeout": float("nan")}, "expected more than 0 seconds"),
        ({"retries": 9}, "expected 0 to 4"),
        ({"headers": {"a b": "x"}}, "a header's name 'a b'"),
        ({"headers": {"key": "se\ncret"}}, "header key: expected a value of printable ASCII"),
        ({"headers": {"key-bin": "x"}}, "header key-bin: expected"),
    ):
        with pytest.raises(UsageError, match=message) as error:
            Connection(**{"server": "localhost:1", **settings})  # type: ignore[arg-type]
        assert "cret" not in str(error.value)
    assert "secret" not in repr(Connection("localhost:1", headers={"key": "secret"}))
    with pytest.raises(UsageError, match="expected a whole number"):
        Servable("cnn", -1)
    key = tmp_path / "key"
    key.write_text("Bearer secret\n")
    assert headers([f"Authorization: @{key}", "a:b:c"]) == {"Authorization": "Bearer secret", "a": "b:c"}
    for line, message in (
        ("no colon", "expected 'NAME: VALUE'"),
        ("a: @/nowhere", "--header a: /nowhere: No such"),
    ):
        with pytest.raises(UsageError, match=message):
            headers([line])
