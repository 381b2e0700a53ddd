"""A real S3 server in a process of its own, and a proxy in front of it that puts faults in."""

import contextlib
import http.client
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

# What is done to a response with this path: `(status, body) -> (status, body, sent)`, where `sent` is the number of the
# body's bytes that are sent before the connection is closed; None: all of them.
Fault = Callable[[str, int, bytes], tuple[int, bytes, int | None]]


def none(path: str, status: int, body: bytes) -> tuple[int, bytes, int | None]:
    """No fault."""
    return status, body, None


class S3:
    """An S3 server, reached through the proxy. `fault` is applied to each response; `paths` are those requested."""

    def __init__(self, port: int) -> None:
        self.fault: Fault = none
        self.seconds_per_block = 0.0
        self.paths: list[str] = []
        self._proxy = ThreadingHTTPServer(("127.0.0.1", 0), self._handler(port))
        self._proxy.daemon_threads = True
        self._thread = threading.Thread(target=self._proxy.serve_forever, args=(0.05,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._proxy.server_port}"

    def close(self) -> None:
        self._proxy.shutdown()
        self._proxy.server_close()
        self._thread.join()

    def _handler(self, port: int) -> type[BaseHTTPRequestHandler]:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _forward(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                connection = http.client.HTTPConnection("127.0.0.1", port)
                with contextlib.closing(connection):
                    connection.request(self.command, self.path, body, dict(self.headers))
                    response = connection.getresponse()
                    content = response.read()
                proxy.paths.append(f"{self.command} {self.path}")
                status, changed, sent = proxy.fault(self.path, response.status, content)
                # A storage that holds wrong bytes sends their checksum.
                left_out = "x-amz-checksum" if changed != content else "content-length"
                content = changed
                self.send_response_only(status)
                for name, value in response.getheaders():
                    omitted = ("content-length", "connection", "transfer-encoding", left_out)
                    if not name.lower().startswith(omitted):
                        self.send_header(name, value)
                length = response.getheader("Content-Length") if self.command == "HEAD" else len(content)
                self.send_header("Content-Length", str(length))
                self.end_headers()
                if self.command != "HEAD":
                    self._send(content if sent is None else content[:sent])
                if sent is not None:
                    self.close_connection = True

            def _send(self, content: bytes) -> None:
                with contextlib.suppress(ConnectionError):
                    for begin in range(0, len(content), 1024):
                        self.wfile.write(content[begin : begin + 1024])
                        if proxy.seconds_per_block:
                            time.sleep(proxy.seconds_per_block)

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _forward  # noqa: N815 - http.server's names

            def log_message(self, format: str, *args: object) -> None:
                """Write nothing."""

        return Handler


@contextlib.contextmanager
def moto() -> Iterator[int]:
    """Run an S3 server and yield its port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-W", "ignore", "-m", "moto.server", "-p", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as started:
        try:
            while True:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                    break
                assert started.poll() is None
                time.sleep(0.05)
            yield port
        finally:
            started.kill()


@contextlib.contextmanager
def s3_bucket(port: int, bucket: str) -> Iterator[S3]:
    """Yield the server at `port` with an empty bucket, to which this process has credentials."""
    import s3fs

    proxy = S3(port)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", proxy.url)
        patch.setenv("AWS_ACCESS_KEY_ID", "tfship")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "tfship")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        # The drivers keep their connections, also to the server of another test.
        s3fs.S3FileSystem.clear_instance_cache()
        s3fs.S3FileSystem().mkdir(bucket)
        try:
            yield proxy
        finally:
            s3fs.S3FileSystem.clear_instance_cache()
            proxy.close()
