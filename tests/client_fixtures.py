"""What the client's tests share: digits, the released network behind our server, and a web server to misbehave."""

import contextlib
import io
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, Route

from conftest import ROOT
from serving_fixtures import TFLITE, Client, config_of, publish, serving
from tfship.client import predict
from tfship.client.images import preprocessing
from tfship.client.images.draw_samples import FOLDER
from tfship.export.preprocessing import input_contract
from tfship.serving.server.model_server import Settings
from tfship.serving.server.tls import ServerTls
from tfship.train.cards import RELEASED
from tfship.train.common import cli

SEVEN = FOLDER / "seven.png"
WEB_SOURCES = ROOT / "client" / "web" / "src"
RELEASED_MODELS = ROOT / "models" / RELEASED
DIGITS = input_contract.digits("cnn")
# Prepared already: they take no time.
INK = preprocessing.from_bytes(SEVEN.read_bytes(), DIGITS)
SAMPLES = [(path, label) for name, label in (("five", "5"), ("seven", "7"), ("three", "3"), ("two", "2"))
           for path in FOLDER.glob(f"{name}.*")]  # fmt: skip
BOTH = pytest.mark.parametrize("kind", ["rest", "grpc"])


def run(*arguments: object) -> int:
    return cli.run(predict.main, [str(each) for each in arguments])


@contextlib.contextmanager
def digits_served(folder: Path, tls: ServerTls | None = None) -> Iterator[Client]:
    """Serve the released int8 file as cnn from below `folder`, both protocols, on free ports."""
    base = folder / "cnn"
    publish(base, 1, (RELEASED_MODELS / "cnn.int8.tflite").read_bytes())
    with serving(config_of(cnn=base), Settings(loader=TFLITE, tls=tls)) as client:
        yield client


def address(kind: str, ports: Client) -> str:
    return f"localhost:{ports.grpc_port}" if kind == "grpc" else f"http://localhost:{ports.rest_port}"


def seven(**how: Any) -> bytes:
    buffer = io.BytesIO()
    with Image.open(SEVEN) as picture:
        picture.convert("RGB").save(buffer, **how)
    return buffer.getvalue()


@dataclass(frozen=True)
class Asked:
    """A request as it arrived, its body as it was sent."""

    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Web:
    """A web server that answers as `answer` does, and remembers what it was asked."""

    address: str
    asked: list[Asked] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://{self.address}"


@contextlib.contextmanager
def web(answer: Callable[[BaseHTTPRequestHandler, int], None]) -> Iterator[Web]:
    """Run a web server; `answer` gets the handler and how many requests there were before."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            found.asked.append(Asked(self.path, headers, body))
            with contextlib.suppress(ConnectionError):  # the client has hung up
                answer(self, len(found.asked) - 1)

        do_GET = do_POST  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        found = Web(f"127.0.0.1:{running.server_port}")
        thread = threading.Thread(target=running.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield found
        finally:
            running.shutdown()
            thread.join()


def send(handler: BaseHTTPRequestHandler, status: int, body: bytes = b"", **headers: str) -> None:
    """Send a whole answer."""
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


@contextlib.contextmanager
def counted(port: int) -> Iterator[tuple[int, list[int]]]:
    """Pass connections on to `port` of this machine; yield the port to use, and a list that holds the bytes sent."""
    count = [0]
    listening = socket.create_server(("127.0.0.1", 0))

    def pass_on(source: socket.socket, sink: socket.socket, counting: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                count[0] += len(data) if counting else 0
                sink.sendall(data)
        for each in (source, sink):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def accept() -> None:
        with (
            contextlib.suppress(OSError),
            listening.accept()[0] as near,
            socket.create_connection(("127.0.0.1", port)) as far,
        ):
            back = threading.Thread(target=pass_on, args=(far, near, False))
            back.start()
            pass_on(near, far, True)
            back.join()

    thread = threading.Thread(target=accept)
    thread.start()
    try:
        yield listening.getsockname()[1], count
    finally:
        listening.close()
        thread.join()


def module_page(chrome: Browser, html: str) -> Page:
    """Return a page with this content at an origin whose other files are the web page's modules."""
    origin = "https://modules.test"

    def serve(route: Route) -> None:
        path = route.request.url.removeprefix(f"{origin}/")
        body = (WEB_SOURCES / path).read_text() if path else html
        route.fulfill(body=body, content_type="text/javascript" if path else "text/html")

    page = chrome.new_page()
    page.route(f"{origin}/**", serve)
    page.goto(f"{origin}/")
    return page
