"""The servers that are measured, each serving one model: the embedded one by its two back ends, and the official one.

The official image, `tensorflow/serving`, is measured where a Docker engine runs and has it; nothing is pulled.
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
from tfship.benchmarks.harness.server_process import Addresses, check_alive, embedded, free_ports
from tfship.export.publishing import cards
from tfship.train.common import interruption
from tfship.train.common.errors import TargetError, TfshipError

__all__ = ["EMBEDDED_TFLITE", "IMAGE", "OFFICIAL", "SERVERS", "Backend", "Running", "unavailable"]

# The one that serving/docker/compose.yaml names.
IMAGE = "tensorflow/serving:2.19.1"
# One thread for each inference, as for the files that run in this process; requests still run in parallel.
_THREADS = "--tensorflow_session_parallelism=1"
_START_SECONDS = 120.0


@dataclass(frozen=True)
class Running:
    """A server that runs: `pids` are its processes, `check` raises TargetError, with its last words, if it died."""

    addresses: Addresses
    ready_ms: float
    pids: tuple[int, ...]
    check: Callable[[], None]

    def cpu(self) -> float:
        """Return the seconds of processor time that it has had."""
        return sum(map(process_info.cpu, self.pids))

    def peak(self) -> int | None:
        """Return the largest memory that its processes had, together, in bytes; None where that can't be told."""
        with contextlib.suppress(TfshipError):
            return sum(map(process_info.peak, self.pids))
        return None


@dataclass(frozen=True)
class Backend:
    """A kind of server. `start` runs it on a model in a folder of models, and raises TargetError if it can't.

    `tensorflow` says that it serves the SavedModel, not the version's `model.tflite`.
    """

    name: str
    tensorflow: bool
    start: Callable[[Path, str], contextlib.AbstractContextManager[Running]]

    def format(self, card: cards.ExportCard) -> str:
        """Return which of an exported version's artefacts it serves."""
        return cards.SAVED_MODEL if self.tensorflow else card.serves


@contextlib.contextmanager
def _embedded(models: Path, name: str, *flags: str) -> Iterator[Running]:
    with embedded(models, [name], _THREADS, "--enable_server_timing", *flags) as server:
        pids = (server.process.pid, *process_info.children(server.process.pid))
        yield Running(server, server.ready_ms, pids, lambda: check_alive(server.process, server.log))


def unavailable() -> str | None:
    """Return why the official server can't be measured here, None if it can."""
    if shutil.which("docker") is None:
        return "no Docker here"
    found = _docker("image", "inspect", "--format", "{{.Id}}", IMAGE)
    if found.returncode == 0:
        return None
    said = (found.stderr.strip().splitlines() or [""])[-1]
    if "No such image" in said:
        return f"the image isn't here: docker pull {IMAGE}"
    return f"no Docker engine answers ({said})"


@contextlib.contextmanager
def _official(models: Path, name: str) -> Iterator[Running]:
    """Run the image on the SavedModel, in the host's network."""
    rest, grpc = free_ports(2)
    command = (
        "run", "--detach", "--rm", "--network=host", "--volume", f"{(models / name).resolve()}:/models/{name}:ro",
        IMAGE, f"--model_name={name}", f"--model_base_path=/models/{name}", f"--port={grpc}", f"--rest_api_port={rest}",
        _THREADS,
    )  # fmt: skip
    start = time.perf_counter()
    begun = _docker(*command)
    if begun.returncode:
        raise TargetError(f"docker run {IMAGE} failed: {begun.stderr.strip()}")
    container = begun.stdout.strip()
    remove = functools.partial(_docker, "rm", "--force", container)
    try:
        addresses = Addresses(f"127.0.0.1:{rest}", f"127.0.0.1:{grpc}")
        _wait(container, addresses.rest, name)
        ready_ms = (time.perf_counter() - start) * 1e3
        pid = int(_docker("inspect", "--format", "{{.State.Pid}}", container).stdout)
        pids = (pid, *process_info.children(pid))
        with interruption.cleanup(remove):
            yield Running(addresses, ready_ms, pids, lambda: _alive(container))
    finally:
        remove()


OFFICIAL = Backend("tensorflow/serving", True, _official)
EMBEDDED_TFLITE = Backend(
    "embedded TFLite", False, lambda models, name: _embedded(models, name, "--prefer_tflite_model")
)
SERVERS = (EMBEDDED_TFLITE, Backend("embedded SavedModel", True, _embedded), OFFICIAL)


def _docker(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)  # noqa: S607


def _wait(container: str, address: str, name: str) -> None:
    """Return when the model is available."""
    end = time.monotonic() + _START_SECONDS
    while time.monotonic() < end:
        _alive(container)
        interruption.check()
        with contextlib.suppress(requests.RequestException, ValueError, LookupError):
            answer = requests.get(f"http://{address}/v1/models/{name}", timeout=1)
            if json.loads(answer.content)["model_version_status"][0]["state"] == "AVAILABLE":
                return
        time.sleep(0.05)
    raise TargetError(f"{IMAGE} was not ready after {_START_SECONDS:.0f} s: {_last_words(container)}")


def _alive(container: str) -> None:
    """Raise TargetError, with the server's last words, if the container has ended."""
    if _docker("inspect", "--format", "{{.State.Running}}", container).stdout.strip() != "true":
        raise TargetError(f"the container of {IMAGE} has ended: {_last_words(container)}")


def _last_words(container: str) -> str:
    said = _docker("logs", "--tail", "3", container)
    return " | ".join((said.stdout + said.stderr).strip().splitlines()) or "it said nothing"
