"""The servers that are measured, each with one model: the embedded server with two backends, and the official one.

The official image, `tensorflow/serving`, is measured if a Docker engine is running and has it. Nothing is pulled.
"""

import contextlib
import functools
import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import requests

from tfship.benchmarks.harness import process_info
from tfship.benchmarks.harness.captured_process import last_lines
from tfship.benchmarks.harness.server_process import Addresses, check_alive, embedded, free_ports
from tfship.export.publishing import cards
from tfship.train.common import interruption
from tfship.train.common.errors import TargetError, TfshipError

__all__ = ["EMBEDDED_TFLITE", "IMAGE", "OFFICIAL", "SERVERS", "Backend", "Running", "unavailable"]

# The same as in serving/docker/compose.yaml.
IMAGE = "tensorflow/serving:2.19.1"
# One thread for each inference, like the formats in this process; requests still run in parallel.
_THREADS = "--tensorflow_session_parallelism=1"
_START_SECONDS = 120.0


@dataclass(frozen=True)
class Running:
    """A running server. `pids` are its processes; `check` raises TargetError, with its last output, if it died."""

    addresses: Addresses
    ready_ms: float
    pids: tuple[int, ...]
    check: Callable[[], None]

    def cpu(self) -> float:
        """Return the processor time that it has used, in seconds."""
        return sum(map(process_info.cpu, self.pids))

    def peak(self) -> int | None:
        """Return the peak memory of its processes together, in bytes; None if the system doesn't report it."""
        with contextlib.suppress(TfshipError):
            return sum(map(process_info.peak, self.pids))
        return None


@dataclass(frozen=True)
class Backend:
    """A kind of server. `start` runs it for a model in a folder of models; it raises TargetError if it can't.

    With `tensorflow` it serves the SavedModel, otherwise the version's `model.tflite`.
    """

    name: str
    tensorflow: bool
    start: Callable[[Path, str], contextlib.AbstractContextManager[Running]]

    def format(self, card: cards.ExportCard) -> str:
        """Return the name of the artefact in an exported version that it serves."""
        return cards.SAVED_MODEL if self.tensorflow else card.serves


@contextlib.contextmanager
def _embedded(models: Path, name: str, *flags: str) -> Iterator[Running]:
    with embedded(models, [name], _THREADS, "--enable_server_timing", *flags) as server:
        pids = (server.process.pid, *process_info.children(server.process.pid))
        yield Running(server, server.ready_ms, pids, lambda: check_alive(server.process, server.log))


def unavailable() -> str | None:
    """Return why the official server can't be measured here, None if it can."""
    if shutil.which("docker") is None:
        return "docker isn't installed"
    found = _docker("image", "inspect", "--format", "{{.Id}}", IMAGE)
    if found.returncode == 0:
        return None
    reason = last_lines(found.stderr, 1)
    if "No such image" in reason:
        return f"the image is missing: run `docker pull {IMAGE}`"
    return f"no Docker engine is running ({reason})"


@contextlib.contextmanager
def _official(models: Path, name: str) -> Iterator[Running]:
    """Run the image with the SavedModel, in the host's network."""
    rest, grpc = free_ports(2)
    command = (
        "run", "--detach", "--rm", "--network=host", "--volume", f"{(models / name).resolve()}:/models/{name}:ro",
        IMAGE, f"--model_name={name}", f"--model_base_path=/models/{name}", f"--port={grpc}", f"--rest_api_port={rest}",
        _THREADS,
    )  # fmt: skip
    start = time.perf_counter()
    started = _docker(*command)
    if started.returncode:
        raise TargetError(f"docker run {IMAGE} failed: {started.stderr.strip()}")
    container = started.stdout.strip()
    remove = functools.partial(_docker, "rm", "--force", container)
    try:
        addresses = Addresses(f"127.0.0.1:{rest}", f"127.0.0.1:{grpc}")
        _wait_until_available(container, addresses.rest, name)
        ready_ms = (time.perf_counter() - start) * 1e3
        pid = int(_docker("inspect", "--format", "{{.State.Pid}}", container).stdout)
        pids = (pid, *process_info.children(pid))
        with interruption.cleanup(remove):
            yield Running(addresses, ready_ms, pids, lambda: _check_alive(container))
    finally:
        remove()


OFFICIAL = Backend("tensorflow/serving", True, _official)
EMBEDDED_TFLITE = Backend(
    "embedded TFLite", False, lambda models, name: _embedded(models, name, "--prefer_tflite_model")
)
_EMBEDDED_SAVED_MODEL = Backend(
    "embedded SavedModel", True, lambda models, name: _embedded(models, name, "--runtime=savedmodel")
)
SERVERS = (EMBEDDED_TFLITE, _EMBEDDED_SAVED_MODEL, OFFICIAL)


def _docker(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)  # noqa: S607


def _wait_until_available(container: str, address: str, name: str) -> None:
    end = time.monotonic() + _START_SECONDS
    while time.monotonic() < end:
        _check_alive(container)
        interruption.check()
        with contextlib.suppress(requests.RequestException, ValueError, LookupError):
            response = requests.get(f"http://{address}/v1/models/{name}", timeout=1)
            if json.loads(response.content)["model_version_status"][0]["state"] == "AVAILABLE":
                return
        time.sleep(0.05)
    raise TargetError(f"{IMAGE} was not ready after {_START_SECONDS:.0f} s: {_last_output(container)}")


def _check_alive(container: str) -> None:
    """Raise TargetError, with the last output, if the container has stopped."""
    if _docker("inspect", "--format", "{{.State.Running}}", container).stdout.strip() != "true":
        raise TargetError(f"the container of {IMAGE} has stopped: {_last_output(container)}")


def _last_output(container: str) -> str:
    logs = _docker("logs", "--tail", "3", container)
    return last_lines(logs.stdout + logs.stderr, 6)
