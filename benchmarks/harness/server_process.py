"""The embedded model server in a separate process, started and stopped by context managers."""

import contextlib
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tfship.benchmarks.harness.captured_process import last_lines
from tfship.train.common import interruption
from tfship.train.common.errors import ArtifactError, TargetError
from tfship.train.common.files import read_json

__all__ = ["PROTOCOLS", "Addresses", "Server", "check_alive", "embedded", "free_ports", "launched"]

# Display names by field of `Addresses`.
PROTOCOLS = {"rest": "REST", "grpc": "gRPC"}

_START_SECONDS = 600.0
_STOP_SECONDS = 20.0


@dataclass(frozen=True)
class Addresses:
    """The addresses of a server, host:port."""

    rest: str
    grpc: str


@dataclass(frozen=True)
class Server(Addresses):
    """A running server, ready `ready_ms` after the command; its output goes to the file `log`."""

    process: subprocess.Popen[bytes]
    ready_ms: float
    log: Path


@contextlib.contextmanager
def embedded(models: Path, names: Sequence[str], *flags: str) -> Iterator[Server]:
    """Start `tfship serve` for `models/<name>` on free ports of this machine; stop it at the end.

    Raises TargetError, with the last lines of the server's log, if it doesn't become ready.
    """
    with tempfile.TemporaryDirectory(prefix="tfship-") as folder:
        ready, log = Path(folder, "ready.json"), Path(folder, "log")
        ports = ("--port=-1", "--rest_api_port=-1", f"--ready_file={ready}")
        with launched(models, names, log, *ports, *flags) as process:
            start = time.perf_counter()
            found = _wait(process, ready, log)
            ready_ms = (time.perf_counter() - start) * 1e3
            rest, grpc = (f"127.0.0.1:{found[each]}" for each in ("rest_port", "grpc_port"))
            yield Server(rest, grpc, process, ready_ms, log)


@contextlib.contextmanager
def launched(models: Path, names: Sequence[str], log: Path, *flags: str) -> Iterator[subprocess.Popen[bytes]]:
    """Start the server like `embedded`, without waiting until it is ready; its output goes to the file `log`."""
    with tempfile.TemporaryDirectory(prefix="tfship-") as folder:
        config = Path(folder, "models.config")
        config.write_text(_config(models.resolve(), names))
        command = [sys.executable, "-m", "tfship.serving.command", f"--model_config_file={config}", *flags]
        with log.open("wb") as output:
            process = subprocess.Popen(command, stdout=output, stderr=output)
        try:
            yield process
        finally:
            _stop(process)


def free_ports(count: int) -> list[int]:
    """Return different free ports of this machine, for a server that can't choose its ports itself."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _config(models: Path, names: Sequence[str]) -> str:
    rows = [
        f'  config {{ name: "{name}" base_path: "{models / name}" model_platform: "tensorflow" }}'
        for name in names
    ]
    return "\n".join(["model_config_list {", *rows, "}\n"])


def _wait(process: subprocess.Popen[bytes], ready: Path, log: Path) -> dict[str, int]:
    end = time.monotonic() + _START_SECONDS
    while time.monotonic() < end:
        with contextlib.suppress(ArtifactError):
            ports: dict[str, int] = read_json(ready)
            return ports
        check_alive(process, log)
        interruption.check()
        time.sleep(0.01)
    raise TargetError(f"the model server was not ready after {_START_SECONDS:.0f} s: {_last_lines(log)}")


def check_alive(process: subprocess.Popen[bytes], log: Path) -> None:
    """Raise TargetError, with the last lines of the log, if the server has ended."""
    if process.poll() is not None:
        raise TargetError(f"the model server ended with exit code {process.returncode}: {_last_lines(log)}")


def _last_lines(log: Path) -> str:
    return last_lines(log.read_text(errors="replace"))


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
    process.wait()
