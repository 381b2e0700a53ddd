"""One benchmark run: every format and every way of serving, on the same images, in one process."""

import contextlib
import io
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks import measure
from benchmarks.server import Server, embedded
from client import image
from client.connection import Connection, Servable
from client.grpc import Grpc
from client.rest import Rest
from export import cards, contract, formats, store, verify
from export.runtime import Classifier, Target
from train import backend, environment, stats
from train.data import Digits, to_input
from train.errors import DataError
from train.progress import Progress

__all__ = ["SCHEMA", "run"]

Timer = Callable[..., dict[str, measure.Timing]]

# Counted up when a field of the result file changes its meaning.
SCHEMA = 1

_THREADS = 1
# What LiteRT's interpreter uses unless it is told otherwise; it says so when it starts.
_DELEGATE = "XNNPACK"
# One thread for each inference, as for the files that run in this process; requests still run in parallel.
_SERVER_FLAGS = (f"--tensorflow_session_parallelism={_THREADS}",)
# How many different images both clocks go through, over and over.
_PICTURES = measure.WINDOW


@dataclass(frozen=True)
class Row:
    """One thing that is measured: a format in this process, or a way of being served."""

    name: str
    kind: str  # "tflite", "savedmodel", "rest" or "grpc"
    bytes: int
    open: Callable[[], Target]


def run(models: Path, names: list[str], digits: Digits, timer: Timer = measure.in_turn) -> dict[str, Any]:
    """Measure the latest version of each model and return the result file's contents.

    `timer` is `measure.in_turn`, or that with other settings.

    Raises ArtifactError if a model isn't exported, DataError if the data isn't what it was trained on,
    TargetError if the server can't be started or dies, with what was found.
    """
    versions = {name: store.latest(models / name) for name in names}
    exported = {name: cards.read(version) for name, version in versions.items()}
    for name, card in exported.items():
        if card.data["sha256"] != digits.sha256:
            raise DataError(
                f"{versions[name]} was made with {card.data['label']} (sha256 {card.data['sha256'][:12]}…), but "
                f"the data found is {digits.source.label} ({digits.sha256[:12]}…); pass the same --data "
                "or MNIST_NPZ: other images may be among those it was trained on"
            )
    backend.tensorflow()  # now, so that no row's load time holds it
    results: dict[str, Any] = {}
    with embedded(models, names, *_SERVER_FLAGS) as server:
        for name in names:
            rows = _rows(name, versions[name], exported[name], server)
            results[name] = {
                "version": int(versions[name].name),
                "keras_sha256": exported[name].keras_sha256,
                "rows": _measure(name, contract.read(versions[name]), rows, digits, timer),
            }
    return {
        "schema": SCHEMA,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "environment": environment.describe(),
        "threads": _THREADS,
        "delegate": _DELEGATE,
        "data": digits.describe(),
        "models": results,
    }


def _rows(name: str, version: Path, card: cards.ExportCard, server: Server) -> list[Row]:
    sizes = {each["format"]: each["bytes"] for each in card.artefacts}

    def tflite(row: formats.Format) -> Callable[[], Target]:
        return lambda: verify.open_tflite(version, row, _THREADS)

    found = [
        Row(row.name, "tflite", sizes[row.name], tflite(row))
        for row in formats.FORMATS.values()
        if row.name in sizes
    ]
    size = sizes[cards.SAVED_MODEL]
    number = int(version.name)
    return [
        *found,
        Row("savedmodel", "savedmodel", size, lambda: verify.open_saved_model(version, _THREADS)),
        Row("rest", "rest", size, lambda: Rest(Connection(server.rest, timeout=60), Servable(name, number))),
        Row("grpc", "grpc", size, lambda: Grpc(Connection(server.grpc, timeout=60), Servable(name, number))),
    ]


def _measure(
    name: str, rules: contract.Contract, rows: list[Row], digits: Digits, timer: Timer
) -> list[dict[str, Any]]:
    images = to_input(digits.x_test)
    with contextlib.ExitStack() as stack:
        targets, measured = {}, {}
        for row in rows:
            start = time.perf_counter()
            target = row.open()
            stack.callback(target.close)
            loaded = time.perf_counter()
            target.predict(images[:1])
            first = time.perf_counter()
            targets[row.name] = target
            measured[row.name] = {
                "name": row.name,
                "kind": row.kind,
                "bytes": row.bytes,
                "load_ms": round((loaded - start) * 1e3, 2) if row.kind in ("tflite", "savedmodel") else None,
                "first_ms": round((first - loaded) * 1e3, 2),
            }
        for row_name, timing in _model_only(name, targets, images, timer).items():
            measured[row_name]["model_only"] = timing
        for row_name, timing in _end_to_end(name, rules, targets, digits, timer).items():
            measured[row_name]["end_to_end"] = timing
        classes = {
            row_name: verify.predict_all([target], images, f"{name} {row_name}: accuracy").argmax(1)
            for row_name, target in targets.items()
        }
    for row_name, predicted in classes.items():
        measured[row_name]["accuracy"] = stats.accuracy(predicted, digits.y_test)
        measured[row_name]["against_float32"] = stats.paired(
            predicted, classes[formats.REFERENCE], digits.y_test
        )
    return list(measured.values())


def _model_only(
    name: str, targets: dict[str, Target], images: NDArray[np.float32], timer: Timer
) -> dict[str, dict[str, object] | None]:
    """Time the model alone on one prepared image after the other; None where it runs behind a server."""

    def call(target: Classifier) -> Callable[[int], object]:
        tensors = [
            target.prepare(images[number : number + 1]) for number in range(min(_PICTURES, len(images)))
        ]
        return lambda number: target.infer(tensors[number % len(tensors)])

    calls = {key: call(target) for key, target in targets.items() if isinstance(target, Classifier)}
    timings = _timed(f"{name}: model only", calls, timer)
    return {key: timings.get(key) for key in targets}


def _end_to_end(
    name: str, rules: contract.Contract, targets: dict[str, Target], digits: Digits, timer: Timer
) -> dict[str, dict[str, object]]:
    """Time from an encoded picture to its label, preparation and transport included."""
    pictures = [_png(each) for each in digits.x_test[:_PICTURES]]

    def call(target: Target) -> Callable[[int], object]:
        return lambda number: target.predict(
            image.from_bytes(pictures[number % len(pictures)], rules)[np.newaxis]
        ).argmax()

    return _timed(f"{name}: end to end", {key: call(target) for key, target in targets.items()}, timer)


def _timed(
    label: str, calls: dict[str, Callable[[int], object]], timer: Timer
) -> dict[str, dict[str, object]]:
    # Three windows each, if all settle at once; more are counted as they come.
    with Progress(label, 3 * len(calls), "windows") as progress:
        timings = timer(calls, report=lambda which: progress.advance(note=which))
    return {key: timing.describe() for key, timing in timings.items()}


def _png(pixels: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
