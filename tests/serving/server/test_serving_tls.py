"""TLS on both ports, by `--ssl_config_file`."""

import contextlib
import http.client
import json
import socket
import ssl
from pathlib import Path

import grpc
import numpy as np
import pytest

from serving_fixtures import (
    ROW,
    TFLITE,
    Client,
    client_of,
    config_of,
    eventually,
    process,
    publish,
    serving,
)
from tfship.serving.server import tls
from tfship.serving.server.model_server import Settings
from tfship.train.common.errors import UsageError
from tls_fixtures import Certificates


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def base_path(tmp_path: Path) -> Path:
    publish(tmp_path / "m", 1)
    return tmp_path / "m"


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_both_ports_speak_tls(certificates: Certificates, base_path: Path, host: str) -> None:
    with serving(config_of(m=base_path), Settings(loader=TFLITE, tls=certificates.tls())) as client:
        assert certificates.rest(client, host) == 200
        assert certificates.grpc(client, host) == ROW.tolist()
        # As in TensorFlow Serving: who isn't asked for a certificate may have any.
        assert certificates.rest(client, host, "stranger") == 200


def test_clients_without_the_right_certificate_are_refused(
    certificates: Certificates, base_path: Path
) -> None:
    settings = Settings(loader=TFLITE, tls=certificates.tls(verified=True))
    with serving(config_of(m=base_path), settings) as client:
        assert certificates.rest(client, "localhost", "client") == 200
        assert certificates.grpc(client, "localhost", "client") == ROW.tolist()
        for name in ("", "stranger"):
            with pytest.raises((ssl.SSLError, ConnectionError)):
                certificates.rest(client, "localhost", name)
            with pytest.raises(grpc.RpcError) as refused:
                certificates.grpc(client, "localhost", name)
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


def test_what_is_not_tls_fails_at_the_client_and_leaves_the_log_clean(
    certificates: Certificates, base_path: Path, tmp_path: Path
) -> None:
    config, ready = certificates.config(tmp_path / "tls.config"), tmp_path / "ready.json"
    arguments = (f"--ssl_config_file={config}", "--model_name=m", "--prefer_tflite_model", "--workers=2")
    with process(
        f"--model_base_path={base_path}", "--port=-1", "--rest_api_port=-1", *arguments, ready=ready
    ) as server:
        client = client_of(server, ready)
        # Nobody else may be able to read the key: it was written to no file.
        assert sorted(each.name for each in tmp_path.iterdir()) == ["m", "ready.json", "tls.config"]
        with pytest.raises(ConnectionError):
            client.rest("/v1/models/m")
        with pytest.raises(grpc.RpcError) as refused:
            client.predict("m", x=ROW)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        for port in (client.grpc_port, client.rest_port):
            for nonsense in (b"", b"\x16\x03\x01", bytes(100)):
                with socket.create_connection(("127.0.0.1", port)) as connection:
                    connection.sendall(nonsense)
        # Over and over, so that both workers have answered.
        for _ in range(8):
            assert certificates.rest(client, "localhost") == 200
            assert certificates.grpc(client, "localhost") == ROW.tolist()
        server.terminate()
        out, err = server.communicate()
    assert server.returncode == 0
    assert "Traceback" not in out + err
    assert "PRIVATE KEY" not in out + err
    assert f"gRPC: 127.0.0.1:{client.grpc_port}, TLS" in out
    assert f"  try: curl https://127.0.0.1:{client.rest_port}/v1/models/m" in out


def test_the_file_holds_the_texts(certificates: Certificates, tmp_path: Path) -> None:
    read = tls.read(certificates.config(tmp_path / "config", custom_ca="not looked at"))
    assert (read.key, read.certificate, read.client_ca) == (
        certificates.read("server.key"),
        certificates.read("server.pem"),
        None,
    )
    assert tls.read(certificates.config(tmp_path / "config", verified=True)).client_ca == certificates.read(
        "ca.pem"
    )
    assert "PRIVATE KEY" not in repr(read)
    # In several strings, one for each line, as a text protobuf may be written.
    key, certificate = ("\n".join(map(json.dumps, (f"{line}\n" for line in text.decode().splitlines())))
                        for text in (read.key, read.certificate))  # fmt: skip
    (tmp_path / "lines").write_text(f"server_key: {key} server_cert: {certificate}")
    assert tls.read(tmp_path / "lines").key == read.key


@pytest.mark.parametrize(
    ("fields", "verified", "message"),
    [
        ({"server_key": ""}, False, "server_key holds no PRIVATE KEY; .*contents"),
        ({"server_cert": "/etc/ssl/server.pem"}, False, "server_cert holds no CERTIFICATE; .*not its name"),
        ({"server_key": "ca.key"}, False, "server_cert and server_key can't be used .key values mismatch"),
        (
            {"server_key": "encrypted.key"},
            False,
            "server_cert and server_key can't be used .*unencrypted key",
        ),
        ({"server_cert": "cut.pem"}, False, "server_cert and server_key can't be used"),
        ({"custom_ca": ""}, True, "client_verify is set without custom_ca"),
        ({"custom_ca": "nonsense"}, True, "custom_ca can't be used"),
        ({"custom_ca": "ca.key"}, True, "custom_ca can't be used"),
    ],
)
def test_keys_of_no_use_are_found_at_the_start(
    certificates: Certificates, tmp_path: Path, fields: dict[str, str], verified: bool, message: str
) -> None:
    certificates.openssl("ec", "-in", "server.key", "-aes256", "-passout", "pass:x", "-out", "encrypted.key")
    (certificates.folder / "cut.pem").write_bytes(certificates.read("server.pem")[:200])
    texts = {
        name: certificates.read(text).decode() if (certificates.folder / text).is_file() else text
        for name, text in fields.items()
    }
    path = certificates.config(tmp_path / "config", verified=verified, **texts)
    with pytest.raises(UsageError, match=f"^--ssl_config_file: {path}: {message}") as refused:
        tls.read(path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "message"), [("server_key: 1", ":1:13: not a SSLConfig"), (None, "No such file")]
)
def test_a_file_of_no_use_ends_the_start(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "config").write_text(text)
    with process(
        f"--ssl_config_file={tmp_path}/config", f"--model_base_path={tmp_path}", "--port=-1"
    ) as server:
        out, err = server.communicate()
    assert (server.returncode, out) == (2, "")
    assert err.startswith(f"error: --ssl_config_file: {tmp_path}/config")
    assert message in err
    assert len(err.splitlines()) == 1


def test_what_is_served_is_the_same(certificates: Certificates, base_path: Path) -> None:
    """A body beyond a TLS record, both ways."""
    rows = np.arange(40_000, dtype=np.float32).reshape(-1, 2)
    with serving(config_of(m=base_path), Settings(loader=TFLITE, tls=certificates.tls())) as client:
        context = ssl.create_default_context(cadata=certificates.read("ca.pem").decode())
        connection = http.client.HTTPSConnection("localhost", client.rest_port, context=context, timeout=100)
        with contextlib.closing(connection):
            connection.request("POST", "/v1/models/m:predict", json.dumps({"instances": rows.tolist()}))
            assert json.loads(connection.getresponse().read()) == {"predictions": rows.tolist()}


def test_changed_certificates_are_used_for_new_connections(
    certificates: Certificates, base_path: Path, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    others = Certificates(tmp_path_factory.mktemp("others"))
    config = certificates.config(tmp_path / "tls.config", verified=True)
    settings = Settings(loader=TFLITE, tls=certificates.tls(verified=True), tls_file=config)
    with serving(config_of(m=base_path), settings) as client:
        assert certificates.rest(client, "localhost", "client") == 200
        # A file that is no config changes nothing.
        config.write_text("server_key: 'half of")
        assert certificates.rest(client, "localhost", "client") == 200
        others.config(tmp_path / "new.config", verified=True)
        (tmp_path / "new.config").replace(config)
        eventually(lambda: _accepted(others, client))
        assert others.grpc(client, "localhost", "client") == ROW.tolist()
        # Neither does the server have the old certificate, nor is a client's of the old authority enough.
        with pytest.raises((ssl.SSLError, ConnectionError)):
            certificates.rest(client, "localhost", "client")
        context = ssl.create_default_context(cadata=others.read("ca.pem").decode())
        context.load_cert_chain(certificates.folder / "client.pem", certificates.folder / "client.key")
        connection = http.client.HTTPSConnection("localhost", client.rest_port, context=context, timeout=100)
        with (  # noqa: PT012 - the refusal may come with either
            contextlib.closing(connection),
            pytest.raises((ssl.SSLError, ConnectionError)),
        ):
            connection.request("GET", "/v1/models/m")
            connection.getresponse()


def _accepted(certificates: Certificates, client: Client) -> bool:
    with contextlib.suppress(ssl.SSLError, ConnectionError):
        return certificates.rest(client, "localhost", "client") == 200
    return False
