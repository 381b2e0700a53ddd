"""gRPC clients of several makers behind one interface: grpcio's in this process, the others in a driver's."""

import contextlib
import itertools
import json
import os
import subprocess
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import grpc

from third_party_clients.environments import DRIVERS
from third_party_clients.server import PREDICT_PATH

OK, CANCELLED, DEADLINE_EXCEEDED, NOT_FOUND, UNAVAILABLE = 0, 1, 4, 5, 14
# Longer than any call takes; a call that hangs fails its test.
_SECONDS = 300.0


@dataclass(frozen=True)
class Outcome:
    """The end of a call. `content` is the response of a call that has succeeded."""

    code: int
    message: str = ""
    content: bytes = b""


class CallInProgress(Protocol):
    """A call that was begun."""

    def result(self) -> Outcome:
        """Wait for the end of the call."""

    def cancel(self) -> None:
        """Cancel the call."""


class ClientChannel(Protocol):
    """A connection to a server, as a client manages it."""

    def begin(self, request: bytes, timeout: float | None = None) -> CallInProgress:
        """Begin a call of Predict."""

    def call(self, request: bytes, timeout: float | None = None) -> Outcome:
        """Return the end of a call of Predict."""


@dataclass(frozen=True)
class ChannelOptions:
    """How a client connects; `certificate` and `key` are those of a client that has some."""

    port: int
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    keepalive_ms: int = 0
    gzip: bool = False


class GrpcClient(Protocol):
    """A client of one maker."""

    def connect(self, options: ChannelOptions) -> ClientChannel:
        """Return a new channel."""


class _SyncCall:
    def __init__(self, future: Any) -> None:
        self._future = future

    def result(self) -> Outcome:
        code = self._future.code().value[0]
        if code:
            return Outcome(code, self._future.details() or "")
        return Outcome(code, content=self._future.result())

    def cancel(self) -> None:
        self._future.cancel()


class _SyncChannel:
    def __init__(self, channel: grpc.Channel) -> None:
        self._predict = channel.unary_unary(PREDICT_PATH, None, None)

    def begin(self, request: bytes, timeout: float | None = None) -> _SyncCall:
        return _SyncCall(self._predict.future(request, timeout=timeout or _SECONDS))

    def call(self, request: bytes, timeout: float | None = None) -> Outcome:
        return self.begin(request, timeout).result()


class SyncGrpcio:
    """grpcio's client for threads."""

    def __init__(self) -> None:
        self._channels = contextlib.ExitStack()

    def connect(self, options: ChannelOptions) -> _SyncChannel:
        target = f"localhost:{options.port}"
        arguments: list[tuple[str, Any]] = [("grpc.max_receive_message_length", -1)]
        if options.keepalive_ms:
            arguments += [
                ("grpc.keepalive_time_ms", options.keepalive_ms),
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.http2.max_pings_without_data", 0),
            ]
        compression = grpc.Compression.Gzip if options.gzip else None
        if options.ca:
            own = [each.read_bytes() if each else None for each in (options.key, options.certificate)]
            credentials = grpc.ssl_channel_credentials(options.ca.read_bytes(), *own)
            channel = grpc.secure_channel(target, credentials, arguments, compression)
        else:
            channel = grpc.insecure_channel(target, arguments, compression)
        return _SyncChannel(self._channels.enter_context(channel))

    def close(self) -> None:
        self._channels.close()


class _DrivenCall:
    def __init__(self, driver: "DrivenClient", number: int, ends: Future[Outcome], response: Path) -> None:
        self._driver, self._number, self._ends, self._response = driver, number, ends, response

    def result(self) -> Outcome:
        outcome = self._ends.result(_SECONDS)
        if outcome.code:
            return outcome
        content = self._response.read_bytes()
        self._response.unlink()
        return Outcome(outcome.code, outcome.message, content)

    def cancel(self) -> None:
        self._driver.say("cancel", call=self._number)[1].result(_SECONDS)


class _DrivenChannel:
    def __init__(self, driver: "DrivenClient", number: int) -> None:
        self._driver, self._number = driver, number

    def begin(self, request: bytes, timeout: float | None = None) -> _DrivenCall:
        driver = self._driver
        sent, received = driver.new_file(), driver.new_file()
        sent.write_bytes(request)
        number, ends = driver.say(
            "call", channel=self._number, path=PREDICT_PATH, request=str(sent), response=str(received),
            timeout=timeout,
        )  # fmt: skip
        ends.add_done_callback(lambda _: sent.unlink())
        return _DrivenCall(driver, number, ends, received)

    def call(self, request: bytes, timeout: float | None = None) -> Outcome:
        return self.begin(request, timeout).result()


class DrivenClient:
    """A client in another process, which is controlled as `drivers/line_protocol.py` says."""

    def __init__(self, process: subprocess.Popen[str], folder: Path) -> None:
        self._process, self._folder = process, folder
        self._numbers = itertools.count(1)
        self._waiting: dict[int, Future[Outcome]] = {}
        self._lock = threading.Lock()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def connect(self, options: ChannelOptions) -> _DrivenChannel:
        fields = {name: str(value) for name, value in vars(options).items() if isinstance(value, Path)}
        number, ends = self.say("connect", **{**vars(options), **fields})
        ends.result(_SECONDS)
        return _DrivenChannel(self, number)

    def new_file(self) -> Path:
        return self._folder / str(next(self._numbers))

    def say(self, do: str, **fields: Any) -> tuple[int, Future[Outcome]]:
        """Send a command; return its number and its end."""
        number, ends = next(self._numbers), Future[Outcome]()
        line = json.dumps({"id": number, "do": do, **fields})
        with self._lock:
            self._waiting[number] = ends
            assert self._process.stdin
            self._process.stdin.write(f"{line}\n")
            self._process.stdin.flush()
        return number, ends

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            end = json.loads(line)
            with self._lock:
                waiting = self._waiting.pop(end["id"])
            waiting.set_result(Outcome(end["code"], end["message"]))
        for each in self._waiting.values():
            each.set_exception(RuntimeError("the driver has ended"))

    def close(self) -> None:
        """End the process, and wait for the thread that reads from it."""
        assert self._process.stdin
        self._process.stdin.close()
        try:
            self._process.wait(60)
        finally:
            self._process.kill()
            self._reader.join()


@contextlib.contextmanager
def driven(
    folder: Path, *command: str | Path, environment: Mapping[str, str] | None = None
) -> Iterator[DrivenClient]:
    """Run a driver; `command` is its interpreter and its file in `drivers`."""
    interpreter, file = command
    with subprocess.Popen(
        [interpreter, DRIVERS / file], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, **(environment or {})},
    ) as process, contextlib.closing(DrivenClient(process, folder)) as client:  # fmt: skip
        yield client


@contextlib.contextmanager
def sync_grpcio() -> Iterator[SyncGrpcio]:
    with contextlib.closing(SyncGrpcio()) as client:
        yield client
