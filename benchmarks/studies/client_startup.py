"""Duration of `tfship predict image.png`, compared with a client that uses TensorFlow.

The whole process is timed, including Python's start and all imports, with a warm embedded server on this machine. All
clients run in turn, in a random order in each round. The first round caches the files and isn't counted. Each client
must predict the digit in the image.
"""

import argparse
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from tfship import client
from tfship.benchmarks.harness import captured_process
from tfship.benchmarks.harness.captured_process import last_lines
from tfship.benchmarks.harness.server_process import Server, embedded
from tfship.benchmarks.studies.registry import Save
from tfship.export.publishing import store
from tfship.train.common import cli, statistics
from tfship.train.common.errors import ResultError, TargetError
from tfship.train.common.progress import Progress

__all__ = ["BARS", "DESCRIPTION", "ROWS", "Bars", "add_arguments", "described", "measure", "run"]

DESCRIPTION = (
    "Time whole processes that predict one image: the client over REST, over gRPC and without a server, and a script "
    "that uses TensorFlow and tensorflow-serving-api in the usual way (benchmarks/studies/usual_client.py)."
)
MODEL = "cnn"

_IMAGE, _DIGIT = Path(client.__file__).parent / "samples" / "seven.png", "7"
_TIMEOUT_SECONDS = 120.0
_SEED = 1


@dataclass(frozen=True)
class Row:
    """One client. `command` has the arguments of `python -m`, with placeholders for image, addresses and models."""

    name: str
    what: str
    command: str


ROWS = (
    Row("rest", "the client over REST", "tfship.client.predict {image} --server {rest}"),
    Row("grpc", "the client over gRPC", "tfship.client.predict {image} --target grpc --server {grpc}"),
    Row("tflite", "the client, no server", "tfship.client.predict {image} --target tflite --models {models}"),
    Row("usual", "TensorFlow and its stub", "tfship.benchmarks.studies.usual_client {grpc} {image}"),
)  # fmt: skip


@dataclass(frozen=True)
class Bars:
    """Requirements for the client over REST: its `seconds`, and how many `times` as fast as the usual client it is."""

    seconds: float = 0.40
    times: float = 10.0


BARS = Bars()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See `StudyMeasurement.add_arguments`."""
    parser.add_argument("--pairs", type=cli.count, default=10, metavar="N", help="runs of each client")


def measure(arguments: argparse.Namespace, _flags: Sequence[str], _save: Save) -> dict[str, Any]:
    """See `StudyMeasurement.measure`."""
    return run(arguments.models, arguments.pairs)


def run(models: Path, pairs: int) -> dict[str, Any]:
    """Run all clients `pairs` times, with the latest version in `models`, and return the results.

    Raises ArtifactError if the model isn't exported, TargetError if a server or a client fails, ResultError for a wrong
    prediction.
    """
    store.latest(models / MODEL)
    seconds: dict[str, list[float]] = {row.name: [] for row in ROWS}
    order, shuffled = list(ROWS), random.Random(_SEED)  # noqa: S311 - no secret
    with embedded(models, [MODEL]) as server, Progress("client", pairs * len(ROWS), "processes") as progress:
        for number in range(pairs + 1):
            shuffled.shuffle(order)
            for row in order:
                took = _timed(row, server, models)
                if number:
                    seconds[row.name].append(took)
                    progress.advance(note=f"{row.name}: {took:.2f} s")
    return {"picture": _IMAGE.name, **described(seconds)}


def described(seconds: dict[str, list[float]]) -> dict[str, Any]:
    """Return the rows' medians with 95 % intervals, the usual client's time as a multiple of each, and the verdicts.

    `seconds` has the times of each row in the order of the rounds, so that multiples are of the same round.
    """
    rows: list[dict[str, Any]] = [
        {
            "name": row.name,
            "what": row.what,
            "seconds": [round(each, 4) for each in seconds[row.name]],
            "median": _median(seconds[row.name]),
            "times": _median(
                [theirs / ours for ours, theirs in zip(seconds[row.name], seconds["usual"], strict=True)]
            ),
        }
        for row in ROWS
    ]
    ours = rows[0]
    took, times = ours["median"]["value"], ours["times"]["value"]
    verdicts = [
        {
            "asked": f"over REST within {BARS.seconds:.2f} s",
            "found": f"{took:.2f} s",
            "met": took <= BARS.seconds,
        },
        {
            "asked": f"at least {BARS.times:.0f} times as fast as the usual client",
            "found": f"{times:.1f} times",
            "met": times >= BARS.times,
        },
    ]
    return {"rows": rows, "verdicts": verdicts}


def _timed(row: Row, server: Server, models: Path) -> float:
    places = {
        "rest": server.rest,
        "grpc": server.grpc,
        "models": str(models.resolve()),
        "image": str(_IMAGE),
    }
    # Split before the placeholders are filled, as a folder's name may contain spaces.
    command = [sys.executable, "-m", *(part.format(**places) for part in row.command.split())]
    begin = time.perf_counter()
    try:
        done = captured_process.run(command, _TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired:
        raise TargetError(f"{row.what}: still running after {_TIMEOUT_SECONDS:.0f} s") from None
    took = time.perf_counter() - begin
    if done.returncode:
        raise TargetError(f"{row.what}: exit code {done.returncode}: {last_lines(done.stderr, 2)}")
    prediction = done.stdout.strip().removeprefix(f"{_IMAGE}: ")
    if not prediction.startswith(f"{_DIGIT} ("):
        raise ResultError(f"{row.what}: predicted {prediction!r}; expected {_DIGIT} for {_IMAGE}")
    return took


def _median(values: Sequence[float]) -> dict[str, Any]:
    """Return the median and its 95 % interval, bounded by two of the values; None for too few values."""
    rank = statistics.median_rank(len(values))
    inside = sorted(values)[rank - 1 : len(values) - rank + 1] if rank else []
    return {
        "value": round(median(values), 4),
        "interval95": [round(inside[0], 4), round(inside[-1], 4)] if inside else None,
    }
