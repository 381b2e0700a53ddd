"""Time from the command to a TFLite-only server's first valid response.

The command is a user's, with the exported models and their warm-up requests. The clock stops when a response equals
that of the file in this process. The first start caches the files and isn't counted. REST and gRPC take turns.
"""

import contextlib
import socket
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfship.benchmarks.harness import process_info
from tfship.benchmarks.harness.server_process import PROTOCOLS, Addresses, check_alive, free_ports, launched
from tfship.benchmarks.studies import cases
from tfship.benchmarks.studies.reference import LoadCell
from tfship.export.conversion import formats
from tfship.serving.models import served_file
from tfship.train.common import interruption
from tfship.train.common.errors import ArtifactError, TargetError
from tfship.train.common.files import sha256
from tfship.train.common.progress import Progress
from tfship.train.data.datasets import Digits

__all__ = ["FLAGS", "measure"]

FLAGS = ("--prefer_tflite_model",)
# Short enough for the precision, long enough to leave the processor to the server.
_POLL_SECONDS = 0.002
_TIMEOUT_SECONDS = 120.0


@dataclass(frozen=True)
class _Start:
    """Seconds from the command to the first response: until workers began, then until a port was open, then the rest.

    `work` is the processor time until then of the server, of the process that forks its workers, and of its busiest
    worker: the duration of a start on an idle machine.
    """

    before_workers: float
    until_open: float
    answer: float
    work: float

    @property
    def total(self) -> float:
        return self.before_workers + self.until_open + self.answer


def measure(
    models: Path, found: dict[str, Path], digits: Digits, repeats: int, flags: Sequence[str]
) -> dict[str, Any]:
    """Start the server `repeats` times for each protocol, with one request to the first of the models `found`.

    Returns, by protocol, the seconds of each start, their median, and the medians of their parts and of `work` (see
    `_Start`). Raises ArtifactError if the served file doesn't take float32, TargetError if a server doesn't respond,
    ResultError for a wrong response.
    """
    name, version = next(iter(found.items()))
    served = _served_format(version)
    images = cases.images(digits, 1)
    starts: dict[str, list[_Start]] = {protocol: [] for protocol in PROTOCOLS}
    with Progress("start", len(PROTOCOLS) * repeats, "starts") as progress:
        for repeat in range(repeats + 1):
            for protocol in PROTOCOLS:
                with tempfile.TemporaryDirectory(prefix="tfship-") as folder:
                    addresses = Addresses(*(f"127.0.0.1:{port}" for port in free_ports(2)))
                    cell = LoadCell(name, 1, protocol)
                    case = cases.prepare(cell, version, served, addresses, images, Path(folder))
                    start = _start(models, list(found), case, addresses, flags, Path(folder, "log"))
                if repeat:  # the first start caches the files
                    starts[protocol].append(start)
                    progress.advance(note=f"{protocol}: {start.total:.2f} s")
    return {protocol: _described(each) for protocol, each in starts.items()}


def _start(
    models: Path,
    names: Sequence[str],
    case: cases.Case,
    addresses: Addresses,
    flags: Sequence[str],
    log: Path,
) -> _Start:
    ports = {protocol: int(getattr(addresses, protocol).rpartition(":")[2]) for protocol in PROTOCOLS}
    begin = time.monotonic()
    with launched(
        models, names, log, f"--port={ports['grpc']}", f"--rest_api_port={ports['rest']}", *FLAGS, *flags
    ) as process:
        while not _is_open(ports[case.cell.protocol]):
            check_alive(process, log)
            if time.monotonic() - begin > _TIMEOUT_SECONDS:
                raise TargetError(f"the model server has opened no port after {_TIMEOUT_SECONDS:.0f} s")
            interruption.check()
            time.sleep(_POLL_SECONDS)
        opened = time.monotonic()
        case.verify()
        responded = time.monotonic()
        workers = process_info.children(process.pid)
        ages = [process_info.age(worker) for worker in workers]
        now = time.monotonic()
        work = process_info.cpu(process.pid) + max(map(process_info.cpu, workers), default=0.0)
    # Without workers, the server itself opens the port.
    began = max((now - age for age in ages if age is not None), default=begin)
    return _Start(began - begin, opened - began, responded - opened, work)


def _described(starts: Sequence[_Start]) -> dict[str, Any]:
    def median(what: str) -> float:
        return round(float(statistics.median(getattr(each, what) for each in starts)), 3)

    return {
        "seconds": [round(each.total, 3) for each in starts],
        "median": median("total"),
        "parts": {part: median(part) for part in ("before_workers", "until_open", "answer")},
        "work": median("work"),
    }


def _served_format(version: Path) -> str:
    file = served_file.find(version)
    if file is None:
        raise ArtifactError(
            f"{version}: has no TFLite file for a server; run `tfship export`, which writes one"
        )
    digest = sha256(file)
    for name, row in formats.FORMATS.items():
        if row.edge == "float32" and (version / row.file).is_file() and sha256(version / row.file) == digest:
            return name
    raise ArtifactError(
        f"{file}: is none of the version's formats that take float32; run `tfship export --serve float32`"
    )


def _is_open(port: int) -> bool:
    with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port), 5):
        return True
    return False
