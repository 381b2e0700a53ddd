"""How long a person waits for `tfship predict image.png`, and for a client made with TensorFlow.

The whole process is timed, from its start to its end, with Python's own start and its imports, against a warm embedded
server on this machine. All clients in turn, in an order that changes each time; a round before those that count has
the files cached. Each must answer what the picture shows.
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
from tfship.benchmarks.harness.server_process import Server, embedded
from tfship.benchmarks.studies.registry import Save
from tfship.export.publishing import store
from tfship.train.common import cli, interruption, statistics
from tfship.train.common.errors import ResultError, TargetError
from tfship.train.common.progress import Progress

__all__ = ["BARS", "DESCRIPTION", "ROWS", "Bars", "add_arguments", "described", "measure", "run"]

DESCRIPTION = (
    "Time whole processes that ask about one image: the client over REST, over gRPC and without a server, and a script "
    "that uses TensorFlow and tensorflow-serving-api in the usual way (benchmarks/studies/usual_client.py)."
)
MODEL = "cnn"

_PICTURE, _SHOWS = Path(client.__file__).parent / "samples" / "seven.png", "7"
_PATIENCE_SECONDS = 120.0
_SEED = 1


@dataclass(frozen=True)
class Row:
    """One client: the arguments of `python -m`, with the picture, the server's addresses and the models in braces."""

    name: str
    what: str
    command: str


ROWS = (
    Row("rest", "the client over REST", "tfship.client.predict {picture} --server {rest}"),
    Row("grpc", "the client over gRPC", "tfship.client.predict {picture} --target grpc --server {grpc}"),
    Row("tflite", "the client, no server", "tfship.client.predict {picture} --target tflite --models {models}"),
    Row("usual", "TensorFlow and its stub", "tfship.benchmarks.studies.usual_client {grpc} {picture}"),
)  # fmt: skip


@dataclass(frozen=True)
class Bars:
    """What was asked for: the client over REST in so many seconds, and so many times faster than the usual one."""

    seconds: float = 0.40
    times: float = 10.0


BARS = Bars()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See `StudyMeasurement.add_arguments`."""
    parser.add_argument("--pairs", type=cli.count, default=10, metavar="N", help="runs of each")


def measure(arguments: argparse.Namespace, _flags: Sequence[str], _save: Save) -> dict[str, Any]:
    """See `StudyMeasurement.measure`."""
    return run(arguments.models, arguments.pairs)


def run(models: Path, pairs: int) -> dict[str, Any]:
    """Run all clients `pairs` times, with the newest version in `models`; return the results.

    Raises ArtifactError if nothing is exported, TargetError if a server or a client fails, ResultError for a wrong
    answer.
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
    return {"picture": _PICTURE.name, **described(seconds)}


def described(seconds: dict[str, list[float]]) -> dict[str, Any]:
    """Return the rows' medians with their 95 % intervals, the usual client's time as multiples, and the verdicts.

    `seconds` has each row's, in the order of the rounds, so that those of a round can be compared.
    """
    rows: list[dict[str, Any]] = [
        {
            "name": row.name,
            "what": row.what,
            "seconds": [round(each, 4) for each in seconds[row.name]],
            "median": _middle(seconds[row.name]),
            "times": _middle(
                [theirs / ours for ours, theirs in zip(seconds[row.name], seconds["usual"], strict=True)]
            ),
        }
        for row in ROWS
    ]
    ours = rows[0]
    took, times = ours["median"]["value"], ours["times"]["value"]
    verdicts = [
        {
            "asked": f"over REST in {BARS.seconds:.2f} s at most",
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
        "picture": str(_PICTURE),
    }
    # Split before the braces are filled: a folder's name may have spaces.
    command = [sys.executable, "-m", *(part.format(**places) for part in row.command.split())]
    begin = time.perf_counter()
    try:
        with interruption.waiting():
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, timeout=_PATIENCE_SECONDS
            )
    except subprocess.TimeoutExpired:
        raise TargetError(f"{row.what}: no answer within {_PATIENCE_SECONDS:.0f} s") from None
    took = time.perf_counter() - begin
    if done.returncode:
        words = " | ".join(done.stderr.strip().splitlines()[-2:])
        raise TargetError(f"{row.what}: exit code {done.returncode}: {words or 'it said nothing'}")
    answer = done.stdout.strip().removeprefix(f"{_PICTURE}: ")
    if not answer.startswith(f"{_SHOWS} ("):
        raise ResultError(f"{row.what}: answered {answer!r}; expected {_SHOWS}, which {_PICTURE} shows")
    return took


def _middle(values: Sequence[float]) -> dict[str, Any]:
    """Return the median and its 95 % interval, which is of the values themselves, None where they are too few."""
    rank = statistics.median_rank(len(values))
    inside = sorted(values)[rank - 1 : len(values) - rank + 1] if rank else []
    return {
        "value": round(median(values), 4),
        "interval95": [round(inside[0], 4), round(inside[-1], 4)] if inside else None,
    }
