"""What the doctor's tests share: the doctor as a function, a small export, and servers that are none."""

import contextlib
import functools
import io
import json
import shutil
import socket
import tempfile
import threading
import time
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from serving_fixtures import (
    Client,
)
from tfship.client.doctor import command
from tfship.export.preprocessing import input_contract
from tfship.export.publishing import cards
from tfship.export.publishing.cards import ExportCard
from tfship.train.common import cli

_FOLDER = tempfile.TemporaryDirectory(prefix="tfship-doctor-")


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


def diagnose(*arguments: object, timeout: float = 2.0) -> Diagnosis:
    """Run the doctor, and see to it that its report has the form that is promised."""
    begin = time.monotonic()
    code, out, err = captured("--json", f"--timeout={timeout}", *arguments)
    assert time.monotonic() - begin < 4 * timeout + 60
    assert err == ""
    report = json.loads(out)
    found = Diagnosis(code, report["findings"])
    assert report["ok"] == (code == 0) == (not found.faults)
    for each in found.findings:
        assert each["level"] in ("ok", "warning", "fault")
        assert bool(each["remedy"]) == (each["level"] != "ok"), each
        assert all(value.isprintable() for value in each.values()), each
    return found


def captured(*arguments: object) -> tuple[int, str, str]:
    """Run the doctor and return its exit code, stdout and stderr."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.run(command.main, [str(each) for each in arguments])
    return code, out.getvalue(), err.getvalue()


@functools.cache
def exported() -> Path:
    """Return a version directory as `tfship export` writes it, of a network that is quickly made."""
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
    input_contract.digits("cnn").write(folder)
    card_of(folder).write(folder)
    return folder


def card_of(folder: Path) -> ExportCard:
    """Return a card that says nothing but which files there are."""
    empty: dict[str, Any] = {
        name: typing.get_origin(kind)() if typing.get_origin(kind) else kind()
        for name, kind in typing.get_type_hints(ExportCard).items()
    }
    return ExportCard(**{**empty, "files": cards.listing(folder)})


def folder_of_models(folder: Path) -> Path:
    """Return a folder of models within `folder`, which holds the version cnn/1."""
    shutil.copytree(exported(), folder / "models" / "cnn" / "1")
    return folder / "models"


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


def cut_graph(version: Path) -> None:
    """Make a version's saved_model.pb end too early."""
    graph = version / "saved_model.pb"
    graph.write_bytes(graph.read_bytes()[:-100])
