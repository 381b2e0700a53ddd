"""Every fault that the doctor explains, made for real: servers, ports, certificates, files, answers."""

import contextlib
import functools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client import answers, doctor, reasons
from client.agreement import Told, judge
from client.connection import Servable
from client.directory import Local
from client.findings import clean
from conftest import ROOT
from export import cards, contract
from export.cards import ExportCard
from serving.models import LoadPolicy
from serving.server import Settings
from serving.settings import Limits
from serving_fixtures import (
    Client,
    client_of,
    config_of,
    eventually,
    process,
    publish,
    serving,
    slow_steps,
    tiny_models,
)
from test_serving_tls import Certificates
from train import cli

_FOLDER = tempfile.TemporaryDirectory(prefix="tfship-doctor-")
ENDED = LoadPolicy(poll_seconds=0.05, retries=0)


@dataclass(frozen=True)
class Diagnosis:
    code: int
    findings: list[dict[str, str]]

    def level(self, level: str) -> list[str]:
        return [f"{each['found']} | {each['remedy']}" for each in self.findings if each["level"] == level]

    @property
    def faults(self) -> list[str]:
        return self.level("fault")

    @property
    def only(self) -> str:
        """The one fault that there is."""
        assert len(self.faults) == 1, self.faults
        return self.faults[0]


Doctor = Callable[..., Diagnosis]


@pytest.fixture
def diagnose(capsys: pytest.CaptureFixture[str]) -> Doctor:
    def run(*arguments: object, timeout: float = 2.0) -> Diagnosis:
        begin = time.monotonic()
        code = cli.run(doctor.main, ["--json", f"--timeout={timeout}", *(str(each) for each in arguments)])
        assert time.monotonic() - begin < 4 * timeout + 2
        captured = capsys.readouterr()
        assert captured.err == ""
        report = json.loads(captured.out)
        found = Diagnosis(code, report["findings"])
        assert report["ok"] == (code == 0) == (not found.faults)
        for each in found.findings:
            assert each["level"] in ("ok", "warning", "fault")
            assert bool(each["remedy"]) == (each["level"] != "ok"), each
            assert all(value.isprintable() for value in each.values()), each
        return found

    return run


@functools.cache
def exported() -> Path:
    """Return a version directory as `make export` writes it, of a network that is quickly made."""
    import tensorflow as tf

    folder = Path(_FOLDER.name, "exported")
    weights = tf.Variable(tf.zeros([784, 10]))
    module = tf.Module()
    module.weights = weights

    def probabilities(image: Any) -> dict[str, Any]:
        return {"probabilities": tf.nn.softmax(tf.reshape(image, [-1, 784]) @ weights)}

    module.f = tf.function(
        probabilities, input_signature=[tf.TensorSpec([None, 28, 28, 1], tf.float32, "image")]
    )
    tf.saved_model.save(module, str(folder), signatures={"serving_default": module.f})
    contract.digits("cnn").write(folder)
    _card(folder).write(folder)
    return folder


def _card(folder: Path) -> ExportCard:
    """Return a card that says nothing but which files there are."""
    empty: dict[str, Any] = {
        name: typing.get_origin(kind)() if typing.get_origin(kind) else kind()
        for name, kind in typing.get_type_hints(ExportCard).items()
    }
    return ExportCard(**{**empty, "files": cards.listing(folder)})


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A folder of models with the version cnn/1."""
    shutil.copytree(exported(), tmp_path / "models" / "cnn" / "1")
    return tmp_path / "models"


def at(client: Client) -> list[str]:
    return [f"--rest=127.0.0.1:{client.rest_port}", f"--grpc=127.0.0.1:{client.grpc_port}"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def answering(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """Listen on a port and have `answer` do what it likes with each connection."""
    listener = socket.create_server(("127.0.0.1", 0))
    kept = []

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                kept.append(connection)
                threading.Thread(target=guarded, args=(connection,), daemon=True).start()

    def guarded(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            answer(connection)

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()
        for each in kept:
            each.close()


class _HttpServer(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: the doctor hangs up on whom it has recognised."""


@contextlib.contextmanager
def http_server(answer: Callable[[str], tuple[int, bytes]]) -> Iterator[str]:
    """Answer each GET with a status and a body."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answer(self.path)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with _HttpServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def test_all_is_well(models: Path, diagnose: Doctor, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(config_of(cnn=models / "cnn"), Settings(health=True)) as client:
        (models / "cnn" / "1" / "contract.json").unlink()
        found = diagnose(*at(client), "--models", models)
        assert found.code == 6
        contract.digits("cnn").write(models / "cnn" / "1")
        found = diagnose(*at(client), "--models", models)
        assert found.code == 0
        # Its SavedModel has fewer signatures than the contract.
        assert "lacks signatures of the contract: serving_uint8" in found.level("warning")[0]
        assert cli.run(doctor.main, [*at(client), f"--models={models / 'cnn'}", "--version=1"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert [each.split()[0] for each in lines] == ["ok", "ok", "warning", "ok", "ok"]
        assert "a model server answers over REST" in lines[0]
        assert "serving_default: image float32 [N, 28, 28, 1] → probabilities float32 [N, 10]" in lines[3]
        assert "input contract and hashes agree" in lines[4]
        # Either port by itself, whichever it is.
        for port in (client.rest_port, client.grpc_port):
            assert diagnose(f"--server=127.0.0.1:{port}", "--models", models).code == 0


def test_usage(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (
        ["--server=a", "--rest=b:1"], ["--rest=nonsense"], ["--grpc=h:99999"], ["--header=no colon"],
        ["--header=bad name: x"], ["--timeout=0"], ["--cert=nope.pem"], ["--ca=nope.pem"], ["--log=nope"],
        ["--model_config_file=nope"], ["--rest=user@h:80"], ["--rest=h:80/path"],
    ):  # fmt: skip
        assert cli.run(doctor.main, arguments) == 2, arguments
        assert len(capsys.readouterr().err.splitlines()) == 1, arguments
    with pytest.raises(SystemExit):
        doctor.main(["--version=0"])


def test_it_is_a_command_of_the_client(models: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "client", "doctor", f"--rest=127.0.0.1:{free_port()}", f"--models={models}"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (6, "")
    assert done.stdout.splitlines()[0].startswith("fault    REST 127.0.0.1:")


# Ports.


def test_nothing_listens(models: Path, diagnose: Doctor) -> None:
    found = diagnose(f"--rest=127.0.0.1:{free_port()}", f"--grpc=localhost:{free_port()}", "--models", models)
    assert len(found.faults) == 2  # and nothing about models that nobody was asked about
    for flag, each in zip(("--rest_api_port=", "--port="), found.faults, strict=True):
        assert "nothing listens there (connection refused)" in each
        assert flag in each


@pytest.mark.parametrize("name", ["no-such-host.invalid", "a" * 80])
def test_an_unknown_host(models: Path, name: str, diagnose: Doctor) -> None:
    assert "no such host" in diagnose(f"--rest={name}:8501", "--models", models).only


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (lambda connection: None, "takes connections and never answers"),
        (lambda connection: connection.close(), "takes connections and closes them at once"),
        (
            lambda connection: connection.sendall(b"SSH-2.0-x\x1b[31m\r\n"),
            "something else answers there ('SSH-2.0",
        ),
        (lambda connection: connection.sendall(os.urandom(64)), "something else answers there"),
    ],
)
@pytest.mark.parametrize("port", ["rest", "grpc"])
@pytest.mark.parametrize("tls", [[], ["--tls"]])
def test_who_is_no_server_at_all(
    models: Path,
    answer: Callable[[socket.socket], None],
    expected: str,
    port: str,
    tls: list[str],
    diagnose: Doctor,
) -> None:
    with answering(answer) as server:
        only = diagnose(f"--{port}={server}", "--models", models, *tls, timeout=0.5).only
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
def test_a_web_server(models: Path, answer: tuple[int, bytes], diagnose: Doctor) -> None:
    with http_server(lambda path: answer) as server:
        assert "but isn't a model server" in diagnose(f"--rest={server}", "--models", models).only


def test_ports_taken_for_each_other(models: Path, diagnose: Doctor) -> None:
    with serving(config_of(cnn=models / "cnn")) as client:
        swapped = [f"--grpc=127.0.0.1:{client.rest_port}", f"--rest=127.0.0.1:{client.grpc_port}"]
        rest, grpc = diagnose(*swapped, "--models", models).faults
        assert "speaks HTTP/2 (as gRPC), so it is no port for REST | give this address by --grpc" in rest
        assert "speaks HTTP/1.1 (as REST), so it is no port for gRPC | give this address by --rest" in grpc


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


def test_encryption(
    models: Path, certificates: Certificates, diagnose: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    file = certificates.folder.joinpath
    trust, own = f"--ca={file('ca.pem')}", [f"--cert={file('client.pem')}", f"--key={file('client.key')}"]
    config = config_of(cnn=models / "cnn")
    with serving(config) as client:
        for each in diagnose(*at(client), "--models", models, "--tls").faults:
            assert "speaks plain text, and was spoken to in TLS | leave --tls" in each
    with serving(config, Settings(tls=certificates.tls())) as client:
        found = diagnose(*at(client), "--models", models)
        assert ["expects TLS, and was spoken to in plain text" in each for each in found.faults] == [
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
            assert ["where a client's certificate is due" in each for each in found.faults] == [True, True]
        assert diagnose(*at(client), "--models", models, trust, *own).code == 0


def test_a_proxy_in_the_way(models: Path, diagnose: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(config_of(cnn=models / "cnn")) as client:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
        for each in diagnose(*at(client), "--models", models).faults:
            assert (
                "answers directly, but not through the proxy that the environment sets (http_proxy=" in each
            )
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        assert diagnose(*at(client), "--models", models).code == 0


def test_a_server_that_is_full(models: Path, diagnose: Doctor) -> None:
    settings = Settings(limits=Limits(connections=1))
    with (
        serving(config_of(cnn=models / "cnn"), settings) as client,
        socket.create_connection(("127.0.0.1", client.rest_port)) as other,
    ):
        other.sendall(b"GET / HTTP/1.1\r\n")
        assert "HTTP 503" in diagnose(f"--rest=127.0.0.1:{client.rest_port}", "--models", models).only


def test_a_tarpit_is_left_behind(models: Path, diagnose: Doctor) -> None:
    def drip(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        while True:
            connection.sendall(b" ")
            time.sleep(0.05)

    with answering(drip) as server:
        only = diagnose(f"--rest={server}", "--models", models, timeout=0.4).only
        assert "looking at it wasn't done after 1.4 s" in only


# The directory of models.


def _rename(old: str, new: str) -> Callable[[Path], None]:
    def change(cnn: Path) -> None:
        (cnn / new).parent.mkdir(parents=True, exist_ok=True)
        (cnn / old).rename(cnn / new)

    return change


def _remove(pattern: str) -> Callable[[Path], None]:
    def change(cnn: Path) -> None:
        for each in list(cnn.glob(pattern)):
            shutil.rmtree(each) if each.is_dir() else each.unlink()

    return change


def _write(name: str, content: bytes) -> Callable[[Path], None]:
    def change(cnn: Path) -> None:
        (cnn / name).parent.mkdir(parents=True, exist_ok=True)
        (cnn / name).write_bytes(content)

    return change


def _into_base(cnn: Path) -> None:
    for each in list((cnn / "1").iterdir()):
        each.rename(cnn / each.name)
    (cnn / "1").rmdir()


def _one_too_deep(cnn: Path) -> None:
    cnn.rename(cnn.parent / "deep")
    cnn.mkdir()
    (cnn.parent / "deep").rename(cnn / "digits")


def _model_in_version(cnn: Path) -> None:
    (cnn / "1").rename(cnn / "old")
    (cnn / "1").mkdir()
    (cnn / "old").rename(cnn / "1" / "cnn")


def _cut_graph(version: Path) -> None:
    graph = version / "saved_model.pb"
    graph.write_bytes(graph.read_bytes()[:-100])


def _shards(cnn: Path) -> None:
    old = cnn / "1" / "variables" / "variables.data-00000-of-00001"
    old.rename(old.with_name("variables.data-00000-of-00003"))


LAYOUTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "v1": (
        _rename("1", "v1"),
        "models lie in v1, which no server takes for versions | rename it to a whole number",
    ),
    "v7": (_rename("1", "version_7"), "/version_7 "),
    "decimal": (_rename("1", "1.0"), "models lie in 1.0"),
    "in the base path": (_into_base, "the SavedModel lies in the base path itself | move it into "),
    "deeper": (_one_too_deep, "the versions lie one level deeper, in digits | give the server"),
    "in the version": (_model_in_version, "the SavedModel lies too deep in it, as cnn/saved_model.pb"),
    "empty version": (_remove("1/*"), "an empty version folder"),
    "nothing": (_remove("1"), 'so a server says "No versions of servable found"'),
    "a file": (lambda cnn: (_remove("1")(cnn), _write("1", b"x")(cnn), None)[-1], "1 is no folder"),
    "no graph": (_remove("1/saved_model.pb"), "no saved_model.pb in it"),
    "no variables": (
        _remove("1/variables"),
        "half copied: saved_model.pb names variables, and there is no variables/",
    ),
    "index alone": (_remove("1/variables/*.data-*"), "variables.index without variables.data"),
    "data alone": (_remove("1/variables/*.index"), "variables.data without variables/variables.index"),
    "a part": (_shards, "only variables.data-00000-of-00003 are there"),
    "temporary": (
        _write("1/variables/variables.index.tmp", b"x"),
        "variables.index.tmp has a temporary name",
    ),
    "empty graph": (_write("1/saved_model.pb", b""), "saved_model.pb is empty (0 bytes)"),
    "empty data": (
        _write("1/variables/variables.index", b""),
        "variables/variables.index is empty (0 bytes)",
    ),
    "cut graph": (lambda cnn: _cut_graph(cnn / "1"), "damaged or cut off (bytes that are no SavedModel)"),
    "contract": (_write("1/contract.json", b"{"), "not JSON ("),
    "other contract": (_write("1/contract.json", b'{"schema": 1}'), "not an input contract of this version"),
    "deep contract": (_write("1/contract.json", b"[" * 100_000), "recursion depth"),
    "card": (_write("1/export.json", b"{}"), "not as it was published: export.json: not an export card"),
    "added": (_write("1/more", b"x"), "not as it was published: more was added"),
    "flipped": (_write("1/fingerprint.pb", b"x"), "not as it was published: fingerprint.pb was changed"),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_directory(models: Path, name: str, diagnose: Doctor) -> None:
    change, expected = LAYOUTS[name]
    change(models / "cnn")
    found = diagnose(f"--rest=127.0.0.1:{free_port()}", "--models", models)
    assert any(expected in each for each in found.faults[1:]), found.faults
    # Named by itself, the model's own directory gives the same.
    own = diagnose(f"--rest=127.0.0.1:{free_port()}", "--models", models / "cnn")
    assert own.faults[1:] == found.faults[1:]


def test_directories_that_are_not_there_or_not_the_right_ones(
    models: Path, tmp_path: Path, diagnose: Doctor
) -> None:
    rest = f"--rest=127.0.0.1:{free_port()}"
    assert "doesn't exist" in diagnose(rest, "--models", tmp_path / "nope").faults[1]
    assert "holds no model nn; found cnn" in diagnose(rest, "--models", models, "--model=nn").faults[1]
    too_deep = diagnose(rest, "--models", models / "cnn" / "1").faults[1]
    assert (
        f"is a version itself, so as a base path it is one level too deep | give the server {models / 'cnn'}"
        in too_deep
    )
    assert "no version 3; found 1" in diagnose(rest, "--models", models, "--version=3").faults[1]


def test_the_usual_directory_need_not_be_there(
    models: Path, diagnose: Doctor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with serving(config_of(cnn=models / "cnn")) as client:
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        found = diagnose(*at(client))
        assert found.code == 0
        assert "doesn't exist, so nothing on disk was looked at" in found.level("warning")[0]


def test_warnings_about_the_directory(models: Path, diagnose: Doctor) -> None:
    cnn = models / "cnn"
    with serving(config_of(cnn=cnn)) as client:
        assert diagnose(*at(client), "--models", models).code == 0
        (cnn / "1" / "saved_model.pb").chmod(0o600)
        (cnn / "2.partial").mkdir()
        (cnn / "1" / "contract.json").unlink()
        (cnn / "1" / "export.json").unlink()
        found = diagnose(*at(client), "--models", models)
        assert found.code == 0
        texts = found.level("warning")
        assert any("only its owner can read 1/saved_model.pb" in each for each in texts)
        assert any("being copied or was left half-way" in each for each in texts)
        assert any("no contract.json" in each for each in texts)


# What is served.


def test_wrong_names(models: Path, diagnose: Doctor) -> None:
    publish(models / "other", 4)
    config = config_of(cnn=models / "cnn", hidden=models / "cnn")
    config.model_config_list.config[0].version_labels["stable"] = 1
    with serving(config) as client:
        here = [*at(client), "--models", models]
        unknown = diagnose(*here, "--model=cmn").faults
        assert "doesn't know a model cmn; of the names that were tried, it knows cnn" in unknown[0]
        assert "has no version 4 of cnn; there are 1 (AVAILABLE)" in diagnose(*here, "--version=4").faults[0]
        assert "it knows stable (version 1)" in diagnose(*here, "--label=stabel").only
        assert diagnose(*here, "--label=stable").code == 0
        signature = diagnose(*here, "--signature=predict").only
        assert "no signature 'predict'; there are serving_default: image float32 [N, 28, 28, 1]" in signature
    with serving(
        config_of(secret=models / "cnn"), Settings(metrics_path="/monitoring/prometheus/metrics")
    ) as client:
        rest = f"--rest=127.0.0.1:{client.rest_port}"
        assert "it knows secret" in diagnose(rest, "--models", models).only  # by its metrics page
        grpc = f"--grpc=127.0.0.1:{client.grpc_port}"
        only = diagnose(grpc, "--models", models).only
        assert "servers don't list their models | it is on this disk" in only


def test_a_config_file(models: Path, diagnose: Doctor, tmp_path: Path) -> None:
    shutil.copytree(models / "cnn" / "1", models / "cnn" / "2")
    file = tmp_path / "models.config"
    rest = [f"--rest=127.0.0.1:{free_port()}", "--models", models, "--model_config_file", file]

    def write(more: str) -> None:
        base = models / "cnn"
        file.write_text(
            f'model_config_list {{ config {{ name: "cnn" base_path: "{base}" model_platform: "tensorflow" {more} }} }}'
        )

    write('version_labels { key: "stable" value: 1 }')
    assert (
        "gives cnn no label 'canary', but stable (version 1)" in diagnose(*rest, "--label=canary").faults[0]
    )
    assert "lists no model nn, but cnn" in diagnose(*rest, "--model=nn").faults[0]
    write("model_version_policy { specific { versions: 1 } }")
    assert "takes 1 of the versions on disk, not 2" in diagnose(*rest).faults[-1]
    file.write_text("model_config_list { config { name: ")
    assert "not a ModelServerConfig in protobuf text format" in diagnose(*rest).faults[0]
    # A server that is started with it and has another name for the model: the file's names are tried.
    write("")
    with serving(config_of(cnn=models / "cnn")) as client:
        found = diagnose(*at(client), "--model=digits", "--models", tmp_path, "--model_config_file", file)
        assert "it knows cnn" in found.faults[1]


def test_another_contract(models: Path, diagnose: Doctor) -> None:
    version = models / "cnn" / "1"
    with serving(config_of(cnn=models / "cnn")) as client:
        here = [*at(client), "--models", models]
        digits = contract.digits("cnn")
        replace(digits, labels=digits.labels[:9]).write(version)
        _card(version).write(version)
        assert "probabilities is float32 [N, 10], expected float32 [N, 9]" in (only := diagnose(*here).only)
        assert "the contract names 9 labels" in only
        replace(digits, height=32, width=32).write(version)
        _card(version).write(version)
        assert "image is float32 [N, 28, 28, 1], expected float32 [N, 32, 32, 1]" in diagnose(*here).only


def test_another_model_of_the_same_number(models: Path, diagnose: Doctor) -> None:
    with serving(config_of(cnn=tiny_models() / "double")) as client:
        only = diagnose(*at(client), "--models", models).only
        assert "no input image, but x float32 [N, 2]" in only
        (models / "cnn" / "1" / "contract.json").unlink()
        (models / "cnn" / "1" / "export.json").unlink()
        only = diagnose(*at(client), "--models", models).only
        assert "cnn version 1 isn't the version 1 on this disk" in only


def test_the_newest_is_not_served(models: Path, diagnose: Doctor) -> None:
    cnn = models / "cnn"
    with serving(config_of(cnn=cnn), loading=LoadPolicy(poll_seconds=0)) as client:
        here = [*at(client), "--models", models]
        shutil.copytree(cnn / "1", cnn / "2")
        assert (
            "serves cnn version 1, and the newest on disk is 2, which the server doesn't know"
            in diagnose(*here).only
        )
        assert diagnose(*here, "--version=1").code == 0
        (cnn / "2").rename(cnn / "retired-2")
        assert diagnose(*here).code == 0
        shutil.copytree(cnn / "1", cnn / "0")
        (cnn / "1").rename(cnn / "retired-1")
        found = diagnose(*here)
        assert found.code == 0
        assert "the newest on disk is 0: 1 is retired here" in found.level("warning")[0]


def _without_operator(version: Path) -> None:
    from serving.protos import saved_model_pb2

    graph = version / "saved_model.pb"
    model = saved_model_pb2.SavedModel.FromString(graph.read_bytes())
    model.meta_graphs[0].graph_def.node.add(name="mine", op="MyOwnOp")
    graph.write_bytes(model.SerializeToString())


def _bad_warmup(version: Path) -> None:
    (version / "assets.extra").mkdir()
    (version / "assets.extra" / "tf_serving_warmup_requests").write_bytes(b"no record at all")


def _damaged_variables(version: Path) -> None:
    index = version / "variables" / "variables.index"
    index.write_bytes(index.read_bytes()[: index.stat().st_size // 2])


@pytest.mark.parametrize(
    ("damage", "meaning", "remedy"),
    [
        (_cut_graph, "saved_model.pb is damaged or was cut off", "copy or export the version again"),
        (_without_operator, "needs the operator MyOwnOp", "isn't older than the TensorFlow of the export"),
        (_bad_warmup, "a warm-up request fails", "--enable_model_warmup=false"),
        (_damaged_variables, "the variables are damaged or were cut off", "copy or export the version again"),
        (lambda version: (version / "saved_model.pb").unlink(), "holds no saved_model.pb", "copy or export"),
        (
            lambda version: shutil.rmtree(version / "variables"),
            "variables' files are missing",
            "copy or export",
        ),
    ],
)
def test_a_version_that_failed(
    models: Path, damage: Callable[[Path], None], meaning: str, remedy: str, diagnose: Doctor
) -> None:
    cnn = models / "cnn"
    with serving(config_of(cnn=cnn), loading=ENDED) as client:
        stage = cnn / ".stage-2"
        shutil.copytree(cnn / "1", stage)
        damage(stage)
        stage.rename(cnn / "2")
        eventually(lambda: client.states("cnn").get("2") == "END", 60)
        faults = diagnose(*at(client), "--models", models).faults
        assert "cnn version 2 couldn't be loaded: " in faults[0]
        assert meaning in faults[0]
        assert remedy in faults[0]
        # Told once: that 1 is served and not 2 follows from it.
        assert not any("newest on disk" in each for each in faults)


def test_a_load_that_is_tried_again(models: Path, diagnose: Doctor) -> None:
    cnn = models / "cnn"
    policy = LoadPolicy(poll_seconds=0.05, retries=5, retry_seconds=60)
    with serving(config_of(cnn=cnn), loading=policy) as client:
        (cnn / "2").mkdir()
        eventually(lambda: client.states("cnn").get("2") == "LOADING")
        time.sleep(0.2)
        only = diagnose(f"--grpc=127.0.0.1:{client.grpc_port}", "--models", models).faults[0]
        assert (
            "version 2 couldn't be loaded and is tried again: the version directory holds no saved_model.pb"
            in only
        )


def test_a_version_that_was_withdrawn(models: Path, diagnose: Doctor) -> None:
    cnn = models / "cnn"
    with serving(config_of(cnn=cnn)) as client:
        shutil.copytree(cnn / "1", models / "stage")
        (models / "stage").rename(cnn / "2")
        eventually(lambda: client.states("cnn") == {"1": "END", "2": "AVAILABLE"}, 60)
        faults = diagnose(*at(client), "--models", models, "--version=1").faults
        assert "cnn version 1 is END: it was taken out of service" in faults[0]
        shutil.rmtree(cnn / "1")
        (cnn / "2").rename(cnn / "2.tmp")
        eventually(lambda: "AVAILABLE" not in client.states("cnn").values(), 60)
        faults = diagnose(*at(client), "--models", models).faults
        assert "serves no version of cnn any more" in faults[0]


def test_a_server_that_shuts_down(tmp_path: Path, diagnose: Doctor) -> None:
    ready = tmp_path / "ready.json"
    flags = [
        "--port=-1",
        "--rest_api_port=-1",
        "--model_name=m",
        "--workers=0",
        "--shutdown_grace_seconds=20",
    ]
    base = f"--model_base_path={tiny_models() / 'slow'}"
    with process(base, *flags, "--enable_grpc_healthcheck_service", ready=ready) as server:
        client = client_of(server, ready)
        steps = slow_steps(client, 15)

        def ask() -> None:
            with contextlib.suppress(Exception):
                client.predict("m", n=np.array([steps], np.int32))

        thread = threading.Thread(target=ask)
        thread.start()
        time.sleep(0.3)
        server.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        faults = diagnose(
            f"--grpc=127.0.0.1:{client.grpc_port}", "--model=m", "--models", tiny_models() / "slow"
        ).faults
        server.kill()
        thread.join()
    assert any(
        "NOT_SERVING" in each or "shuts down" in each or "nothing listens" in each for each in faults
    ), faults


# What a real TensorFlow Serving said.

LOADING = b"""{ "model_version_status": [
 {"version": "3", "state": "LOADING", "status": {"error_code": "OK", "error_message": ""}},
 {"version": "2", "state": "END", "status": {"error_code": "OK", "error_message": ""}} ] }"""


def test_a_server_that_is_not_ready() -> None:
    told = Told("REST a:1", versions=answers.versions_in_json(LOADING))
    (finding,) = judge(told, Servable("m"), Local())
    assert (finding.level, finding.found) == ("fault", "isn't ready yet: m version 3 is LOADING")
    told.healthy = False
    assert "NOT_SERVING" in next(judge(told, Servable("m"), Local())).found


LOGS = {
    "E file_system_storage_path_source.cc:416] FileSystemStoragePathSource encountered a filesystem access error: "
    "Could not find base path /models/cnn for servable cnn with error NOT_FOUND: /models/cnn not found": (
        "the base path /models/cnn doesn't exist where the server runs",
        "-v /path/on/this/machine:/models/cnn:ro",
    ),
    "W file_system_storage_path_source.cc:268] No versions of servable cnn found under base path /models/cnn. Did you "
    "forget to name your leaf directory as a number (eg. '/1/')?": (
        "the base path /models/cnn holds no folder named by a whole number",
        "/models/cnn/1",
    ),
    "Failed to start server. Error: UNKNOWN: 1 servable(s) did not become available: {{{name: default version: 1} due "
    "to error: OUT_OF_RANGE: Read less bytes than requested}, }": (
        "saved_model.pb is damaged",
        "copy or export",
    ),
    "Failed to start server. Error: INVALID_ARGUMENT: Expected model default to have an absolute path or URI; got "
    "base_path()=models/div": ("the base path 'models/div' is relative", "from the root on"),
    "Failed to start server. Error: FAILED_PRECONDITION: Request to assign label to version 124 of model hp2v, which "
    "is not currently available for inference": (
        "a label of model hp2v names version 124",
        "--allow_version_labels_for_unavailable_models",
    ),
    "Failed to start server. Error: INVALID_ARGUMENT: Model a requests unsupported platform foo": (
        "the config asks for the platform 'foo'",
        'model_platform: "tensorflow"',
    ),
}


@pytest.mark.parametrize("words", LOGS)
def test_the_servers_log(words: str, models: Path, diagnose: Doctor, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(f"I cc:1] Running initialization op on SavedModel\n{words}\n{words}\n")
    meaning, remedy = LOGS[words]
    last = diagnose(f"--rest=127.0.0.1:{free_port()}", "--models", models, "--log", log).faults[-1]
    assert meaning in last
    assert remedy in last


def test_a_log_of_our_own_server(models: Path, diagnose: Doctor, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with process("--model_name=cnn", f"--model_base_path={models / 'none'}", "--port=-1") as server:
        log.write_text(server.communicate(timeout=60)[1])
    last = diagnose(f"--rest=127.0.0.1:{free_port()}", "--models", models, "--log", log).faults[-1]
    assert f"the base path {models / 'none'} doesn't exist" in last


# Hostile answers.

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)
_STATUS = st.fixed_dictionaries(
    {
        "model_version_status": st.lists(
            st.fixed_dictionaries(
                {
                    "version": st.integers().map(str) | _JSON,
                    "state": st.sampled_from(["AVAILABLE", "LOADING", "END"]) | _JSON,
                    "status": st.fixed_dictionaries({"error_code": _JSON, "error_message": st.text()})
                    | _JSON,
                }
            ),
            max_size=3,
        )
        | _JSON
    }
)
_TENSOR = st.fixed_dictionaries(
    {
        "dtype": st.just("DT_FLOAT") | _JSON,
        "tensor_shape": st.fixed_dictionaries(
            {
                "dim": st.lists(st.fixed_dictionaries({"size": st.integers().map(str) | _JSON}), max_size=3)
                | _JSON,
                "unknown_rank": st.booleans() | _JSON,
            }
        )
        | _JSON,
    }
)
_TENSORS = st.dictionaries(st.text(max_size=10), _TENSOR | _JSON, max_size=2) | _JSON
_SIGNATURE = st.fixed_dictionaries(
    {"inputs": _TENSORS, "outputs": _TENSORS, "method_name": st.text() | _JSON}
)
_METADATA = st.builds(
    lambda version, signatures: {
        "model_spec": {"version": version},
        "metadata": {"signature_def": {"signature_def": signatures}},
    },
    st.integers().map(str) | _JSON,
    st.dictionaries(st.just("serving_default") | st.text(max_size=5), _SIGNATURE | _JSON, max_size=2) | _JSON,
)
_BODIES = (_STATUS | _METADATA | _JSON).map(lambda value: json.dumps(value).encode()) | st.binary(
    max_size=200
)


@given(body=_BODIES)
def test_what_is_no_answer_is_a_value_error(body: bytes) -> None:
    for parse in (
        answers.versions_in_json,
        answers.signatures_in_json,
        answers.versions_in_proto,
        answers.signatures_in_proto,
    ):
        with contextlib.suppress(ValueError):
            parse(body)


@pytest.fixture(scope="module")
def hostile() -> Iterator[tuple[str, dict[str, tuple[int, bytes]]]]:
    """A server that answers questions about versions and about metadata with what stands in a table."""
    table = {"versions": (200, b""), "metadata": (200, b"")}
    with http_server(lambda path: table["metadata" if path.endswith("metadata") else "versions"]) as server:
        yield server, table


@given(
    versions=st.tuples(
        st.sampled_from([200, 200, 404, 503, 400]),
        _STATUS.map(lambda each: json.dumps(each).encode()) | _BODIES,
    ),
    metadata=st.tuples(
        st.sampled_from([200, 200, 404, 400]), _METADATA.map(lambda each: json.dumps(each).encode()) | _BODIES
    ),
)
def test_no_answer_makes_it_stumble(
    hostile: tuple[str, dict[str, tuple[int, bytes]]],
    versions: tuple[int, bytes],
    metadata: tuple[int, bytes],
) -> None:
    server, table = hostile
    table["versions"], table["metadata"] = versions, metadata
    out, err = _captured(["--rest", server, "--models", str(exported()), "--timeout=5"])
    assert err == ""
    for line in out.splitlines():
        assert line.split(" ")[0] in ("ok", "warning", "fault")
        assert line.isprintable()


def _captured(arguments: list[str]) -> tuple[str, str]:
    import io

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        assert cli.run(doctor.main, arguments) in (0, 6)
    return out.getvalue(), err.getvalue()


@given(text=st.text())
def test_text_from_anywhere_is_one_line(text: str) -> None:
    line = clean(text, 50)
    assert line.isprintable()
    assert len(line) <= 50
    assert clean(line, 50) == line


@given(text=st.text())
def test_any_words_have_an_explanation(text: str) -> None:
    for line in (text, f"error: {text}", f"Could not find base path {text} for servable {{0}}"):
        assert reasons.explain(line).remedy
    assert all(reason.meaning for _, reason in reasons.in_log(text))
