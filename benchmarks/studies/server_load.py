"""Speed of the embedded server by cell: requests per second and latency under load, with verified responses.

The method is that of the reference (`benchmarks.studies.reference`): real digits, decimal numbers in REST bodies,
tensor bytes in gRPC requests, generator and server on the same cores. The result is the median rate of several runs of
a few seconds, each after an uncounted warm-up. Every cell is run once before any cell is run again, so that changes of
the machine affect all cells alike.

Before and after every run, the generator's request is sent once, and its response must equal that of the model file in
this process. `benchmarks.harness.load_generators` detects errors during the run.

Machines are compared by a yardstick: LiteRT's time for one image, measured before, between and after the rounds. The
reference is the machine with the nearest yardstick. Its rate here is estimated as its rate times (its yardstick / the
median of ours).
"""

import argparse
import fnmatch
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfship.benchmarks.harness import load_generators, timer
from tfship.benchmarks.harness.process_info import Watch
from tfship.benchmarks.harness.server_process import embedded
from tfship.benchmarks.studies import cases, machine_speed, reference
from tfship.benchmarks.studies.reference import LoadCell, Machine
from tfship.benchmarks.studies.registry import Save
from tfship.export.conversion import formats
from tfship.export.publishing import store
from tfship.export.publishing.cards import SAVED_MODEL
from tfship.train.common import cli
from tfship.train.common.errors import UsageError
from tfship.train.common.files import sha256
from tfship.train.common.progress import Progress
from tfship.train.data import datasets
from tfship.train.data.datasets import Digits

__all__ = ["DESCRIPTION", "LoadPlan", "add_arguments", "measure", "run"]

DESCRIPTION = (
    f"Measure the embedded server against {reference.SERVER}. Needs wrk and h2load (Debian: wrk nghttp2-client). "
    "Flags after -- are the server's: -- --workers=2"
)
_WARM_UP_SECONDS = 1
_YARDSTICK_FORMATS = ("float32", "int8")


@dataclass(frozen=True)
class LoadPlan:
    """The measurements: each cell with each number of connections, `repeats` runs of `seconds`.

    `formats` are the formats of the served files, or `savedmodel`. `flags` are additional flags for the server.
    """

    cells: Sequence[LoadCell] = reference.CELLS
    connections: Sequence[int] = reference.CONNECTIONS
    seconds: int = 4
    repeats: int = 3
    formats: Sequence[str] = (reference.FORMAT,)
    flags: Sequence[str] = ()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See `StudyMeasurement.add_arguments`."""
    names = ", ".join(cell.name for cell in reference.CELLS)
    parser.add_argument("--only", metavar="A,B", help=f"only these cells, * matches any text: {names}")
    parser.add_argument(
        "--connections",
        type=_counts,
        default=reference.CONNECTIONS,
        metavar="A,B",
        help="numbers of connections",
    )
    parser.add_argument("--seconds", type=cli.count, default=4, metavar="S", help="duration of a run")
    parser.add_argument(
        "--repeats", type=cli.count, default=3, metavar="N", help="runs of each cell; the median counts"
    )
    parser.add_argument(
        "--format",
        default=reference.FORMAT,
        metavar="A,B",
        help="formats of the served files, or savedmodel, one after the other",
    )


def measure(arguments: argparse.Namespace, flags: Sequence[str], _save: Save) -> dict[str, Any]:
    """See `StudyMeasurement.measure`."""
    cells = _cells(arguments.only)
    requested = [each.strip() for each in arguments.format.split(",")]
    files = [each for each in requested if each != SAVED_MODEL]
    rows = formats.select(",".join(files)) if files else []
    if foreign := [row.name for row in rows if row.edge != "float32"]:
        raise UsageError(
            f"--format {','.join(foreign)}: takes other tensors than the reference; expected float32 tensors"
        )
    load_generators.require()
    names = [row.name for row in rows] + [SAVED_MODEL] * (SAVED_MODEL in requested)
    plan = LoadPlan(cells, arguments.connections, arguments.seconds, arguments.repeats, names, flags)
    return run(arguments.models, plan, datasets.load(datasets.find(arguments.data, say=cli.say)))


def _cells(only: str | None) -> list[LoadCell]:
    if only is None:
        return list(reference.CELLS)
    patterns = [part.strip() for part in only.split(",")]
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(cell.name, pattern) for cell in reference.CELLS):
            names = ", ".join(cell.name for cell in reference.CELLS)
            raise UsageError(f"--only: no cell is called {pattern!r}; there are {names}")
    return [
        cell
        for cell in reference.CELLS
        if any(fnmatch.fnmatchcase(cell.name, pattern) for pattern in patterns)
    ]


def _counts(value: str) -> list[int]:
    return [cli.count(each.strip()) for each in value.split(",")]


def run(models: Path, plan: LoadPlan, digits: Digits) -> dict[str, Any]:
    """Measure the plan on the latest versions in `models` and return the results.

    Raises TfshipError if a generator isn't installed, ArtifactError if a model or a format is missing, TargetError if
    the server can't be started, dies or hangs, ResultError for a wrong response between the runs.
    """
    load_generators.require()
    names = list(dict.fromkeys(cell.model for cell in plan.cells))
    found = {name: store.latest(models / name) for name in names}
    files = {
        name: {
            each: cases.tflite(found[name], each)
            for each in (*plan.formats, *_YARDSTICK_FORMATS)
            if each != SAVED_MODEL
        }
        for name in names
    }
    images = cases.images(digits, max(cell.batch for cell in plan.cells))
    sticks: list[dict[str, dict[str, float]]] = []
    tables: dict[str, list[dict[str, Any]]] = {}
    memory: dict[str, float] = {}

    def take_yardsticks() -> None:
        one = images[:1].astype(np.float32)
        sticks.append(
            {
                name: {
                    each: machine_speed.microseconds(files[name][each], one) for each in _YARDSTICK_FORMATS
                }
                for name in names
            }
        )

    take_yardsticks()
    total = len(plan.formats) * len(plan.cells) * len(plan.connections) * plan.repeats
    with Progress("server speed", total, "runs") as progress:
        for each in plan.formats:
            tables[each], memory[each] = _table(found, plan, each, images, take_yardsticks, progress)
    machine, yardsticks = _yardsticks(names, sticks)
    return {
        "generators": load_generators.versions(),
        "data": digits.describe(),
        "seconds": plan.seconds,
        "repeats": plan.repeats,
        "server_flags": list(plan.flags),
        "models": {
            name: {
                "version": int(found[name].name),
                "sha256": {each: sha256(path) for each, path in files[name].items() if each in plan.formats},
            }
            for name in names
        },
        "reference": machine.name,
        "yardsticks": yardsticks,
        "memory_mib": memory,
        "tables": {
            each: [_judged(row, each, machine, yardsticks) for row in rows] for each, rows in tables.items()
        },
    }


def _table(
    found: dict[str, Path],
    plan: LoadPlan,
    format_name: str,
    images: NDArray[np.float64],
    after_round: Callable[[], None],
    progress: Progress,
) -> tuple[list[dict[str, Any]], float]:
    """Serve one format, measure all cells, and return a row for each cell and number of connections.

    Also returns the memory of all the server's processes after the runs, in MiB.
    """
    runs: dict[tuple[LoadCell, int], list[load_generators.Run]] = {}
    with tempfile.TemporaryDirectory(prefix="tfship-") as folder:
        served = Path(folder) / "models"
        cases.stage(served, {name: (version, format_name) for name, version in found.items()})
        runtime = "--runtime=savedmodel" if format_name == SAVED_MODEL else "--prefer_tflite_model"
        expected = reference.FORMAT if format_name == SAVED_MODEL else format_name
        with embedded(served, list(found), runtime, *plan.flags) as server:
            prepared = [
                cases.prepare(cell, found[cell.model], expected, server, images, Path(folder))
                for cell in plan.cells
            ]
            for _ in range(plan.repeats):
                for case in prepared:
                    for connections in plan.connections:
                        size = case.verify()
                        case.load(connections, _WARM_UP_SECONDS, size)
                        done = case.load(connections, plan.seconds, size)
                        case.verify()
                        runs.setdefault((case.cell, connections), []).append(done)
                        progress.advance(note=f"{case.cell.name} × {connections}: {done.rate:,.0f}/s")
                after_round()
            processes = Watch(server.process.pid).footprints().values()
    memory = sum(each.proportional for each in processes) / 2**20
    return [_row(cell, connections, each) for (cell, connections), each in runs.items()], round(memory)


def _row(cell: LoadCell, connections: int, runs: Sequence[load_generators.Run]) -> dict[str, Any]:
    rates = [each.rate for each in runs]
    requests = sum(each.requests for each in runs)
    latencies = np.concatenate([each.latencies for each in runs])

    def percentile(which: int) -> float | None:
        # The floor applies to requests, as wrk adds latencies.
        if requests < timer.FLOORS[str(which)]:
            return None
        return round(float(np.percentile(latencies, which)) / 1e3, 3)

    return {
        "model": cell.model,
        "batch": cell.batch,
        "protocol": cell.protocol,
        "connections": connections,
        "rate": round(statistics.median(rates), 1),
        "rates": [round(rate, 1) for rate in rates],
        # Rates that differ by more indicate a busy machine.
        "stable": max(rates) <= timer.TOLERANCE * min(rates),
        "requests": requests,
        "p50_ms": percentile(50),
        "p99_ms": percentile(99),
        "problems": [each.problem for each in runs if each.problem],
    }


def _yardsticks(
    names: Sequence[str], sticks: Sequence[dict[str, dict[str, float]]]
) -> tuple[Machine, dict[str, Any]]:
    """Return the nearest reference machine, and the yardsticks by model and format.

    They are this machine's times, their median and drift, and the reference's time.
    """
    medians = {
        name: {each: statistics.median(stick[name][each] for stick in sticks) for each in _YARDSTICK_FORMATS}
        for name in names
    }
    machine = reference.nearest({name: by_format[reference.FORMAT] for name, by_format in medians.items()})
    result: dict[str, Any] = {}
    for name, by_format in medians.items():
        result[name] = {}
        for each, median in by_format.items():
            taken = [stick[name][each] for stick in sticks]
            its = machine.yardsticks[name][each]
            result[name][each] = {
                "us": round(median, 3),
                "taken_us": [round(value, 3) for value in taken],
                "drift": round(max(taken) / min(taken), 3),
                "reference_us": its,
                "scale": round(its / median, 4),
            }
    return machine, result


def _judged(
    row: dict[str, Any], format_name: str, machine: Machine, yardsticks: dict[str, Any]
) -> dict[str, Any]:
    """Return a row with the reference's figures, the ratios to them and, in the reference's format, the verdict.

    The reference's figures are for float32, so they are scaled by the yardstick for float32, whatever `format_name` is.
    """
    cell, connections = LoadCell(row["model"], row["batch"], row["protocol"]), row["connections"]
    its = machine.rates[cell].get(connections)
    if its is None:
        return {**row, "reference": None, "bar": None, "met": None}
    scale = yardsticks[cell.model][reference.FORMAT]["scale"]
    ratio = row["rate"] / (its.rate * scale)
    bar = reference.bar(cell, connections, format_name)
    return {
        **row,
        "reference": {"rate": its.rate, "p50_ms": its.p50, "p99_ms": its.p99},
        "rate_ratio": round(row["rate"] / its.rate, 3),
        "rate_ratio_scaled": round(ratio, 3),
        "bar": bar,
        "met": None if bar is None else not row["problems"] and ratio >= bar,
    }
