"""Throughput of `tfship score` by engine and number of workers, what limits it, and the cost of a million images.

Two kinds of images are scored by the float32 file of the cnn: MNIST's test images as PNG, 28 × 28 pixels, and JPEGs of
photographs' size, which are decoded and reduced. Engines and numbers of workers take turns. The engine's start isn't
part of the rate: it is a column of its own.
"""

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from tfship.benchmarks.studies.registry import Save
from tfship.client.score.inputs import BATCH
from tfship.client.score.job import LOCAL, RAY
from tfship.client.score.scorer import Seconds
from tfship.export.preprocessing import input_contract
from tfship.train.common import cli
from tfship.train.common.errors import ResultError
from tfship.train.common.files import write_json
from tfship.train.common.progress import Progress
from tfship.train.data import datasets

__all__ = ["DESCRIPTION", "NODES", "add_arguments", "costs", "measure"]

DESCRIPTION = "Measure the throughput of tfship score by engine and workers, and calculate the cost."

# The numbers of machines whose cost is calculated.
NODES = (1, 10, 100)
# A machine with two cores, on demand (AWS c7i.large in us-east-1).
_PRICE = 0.0893
_MODEL = "cnn"
_PHOTOGRAPH = (1600, 1200)
# Images that a worker takes at a time: enough results for a rate without the engine's start.
_BATCHES = {"png": 100, "jpeg": 10}
_MILLION = 1_000_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See `StudyMeasurement.add_arguments`."""
    parser.add_argument("--repeats", type=cli.count, default=3, metavar="N", help="runs of each row")
    parser.add_argument("--pngs", type=cli.count, default=10_000, metavar="N", help="images of MNIST")
    parser.add_argument(
        "--jpegs", type=cli.count, default=400, metavar="N", help="JPEGs of 1600 × 1200 pixels"
    )
    parser.add_argument(
        "--workers", type=cli.count, nargs="+", default=[1, 2, 4], metavar="N", help="numbers of workers"
    )
    parser.add_argument(
        "--node-price", type=float, default=_PRICE, metavar="USD",
        help="price of a machine like this one per hour; the default is that of two cores, on demand",
    )  # fmt: skip


def measure(arguments: argparse.Namespace, _flags: Sequence[str], save: Save) -> dict[str, Any]:
    """See `StudyMeasurement.measure`."""
    if importlib.util.find_spec("ray") is None:
        raise cli.missing("tfship benchmark scoring", "ray", "ray")
    cases = [
        (kind, engine, workers)
        for kind in _BATCHES
        for engine in (LOCAL, RAY)
        for workers in arguments.workers
    ]
    runs: dict[tuple[str, str, int], list[dict[str, Any]]] = {case: [] for case in cases}
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        files = _images(folder, arguments)
        with Progress("scoring", len(cases) * arguments.repeats, "runs") as progress:
            for _ in range(arguments.repeats):
                for kind, engine, workers in cases:
                    summary = _score(folder, kind, engine, workers, arguments.models)
                    runs[kind, engine, workers].append(_described(summary, _BATCHES[kind]))
                    results = _results(runs, files, arguments.node_price)
                    save(results)
                    progress.advance(note=f"{kind}, {engine}, {workers} workers")
    return results


def costs(rows: Sequence[dict[str, Any]], price: float) -> list[dict[str, Any]]:
    """Return the time and the cost of a million images on 1, 10 and 100 machines at `price` per hour, on paper.

    A machine's rate is the best one measured with Ray. The machines share the driver, which takes a measured time of
    its processor for each chunk; the total rate can't exceed what it handles, with the default size of chunks. Each
    machine is paid from the start on.
    """
    found = []
    for kind in dict.fromkeys(row["images"] for row in rows):
        with_ray = [row for row in rows if row["images"] == kind and row["engine"] == RAY]
        best = max(with_ray, key=lambda row: float(row["rate"]))
        limit = BATCH / best["driver"] if best["driver"] else float("inf")
        for nodes in NODES:
            rate = min(nodes * best["rate"], limit)
            hours = (best["start"] + _MILLION / rate) / 3600
            found.append(
                {
                    "images": kind,
                    "nodes": nodes,
                    "rate": rate,
                    "minutes": hours * 60,
                    "usd": nodes * hours * price,
                    "efficiency": (_MILLION / best["rate"] / 3600) / (nodes * hours),
                    "limited_by": "driver" if limit < nodes * best["rate"] else "workers",
                }
            )
    return found


def _score(folder: Path, kind: str, engine: str, workers: int, models: Path) -> dict[str, Any]:
    """Run `tfship score` in a process of its own, and return its summary and, as `process`, its duration."""
    contract: list[str | Path] = ["--contract", folder / "contract.json"] if kind == "jpeg" else []
    begin = time.perf_counter()
    done = subprocess.run(
        [
            sys.executable, "-m", "tfship.train.common.entry_point", "score", folder / kind, "--json",
            "--model", _MODEL, "--models", models, *contract, "--out", folder / "scores.parquet",
            "--batch", str(_BATCHES[kind]), "--part-rows", "1000", "--engine", engine, "--workers", str(workers),
        ],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise ResultError(
            f"tfship score failed with exit code {done.returncode}: {cli.one_line(done.stderr)}"
        )
    summary: dict[str, Any] = json.loads(done.stdout)
    return {**summary, "process": time.perf_counter() - begin}


def _described(summary: dict[str, Any], batch: int) -> dict[str, Any]:
    steady, phases = summary["steady"], summary["seconds_by_phase"]
    return {
        "rate": steady["images"] / steady["seconds"],
        "start": summary["process"] - steady["seconds"],
        "driver": batch * steady["processor"] / steady["images"],
        "phases": {name: phases[name] / summary["images"] for name in Seconds._fields},
    }


def _results(
    runs: dict[tuple[str, str, int], list[dict[str, Any]]], files: dict[str, Any], price: float
) -> dict[str, Any]:
    rows = []
    for (kind, engine, workers), found in runs.items():
        if not found:
            continue
        rates = [each["rate"] for each in found]
        phases = {name: statistics.median(each["phases"][name] for each in found) for name in Seconds._fields}
        rows.append(
            {
                "images": kind,
                "engine": engine,
                "workers": workers,
                "rate": statistics.median(rates),
                "rates": rates,
                **{name: statistics.median(each[name] for each in found) for name in ("start", "driver")},
                "phases": phases,
            }
        )
    complete = any(row["engine"] == RAY for row in rows if row["images"] == list(_BATCHES)[-1])
    return {"files": files, "price": price, "rows": rows, "costs": costs(rows, price) if complete else []}


def _images(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Write the images, and the contract for JPEGs, which aren't digits. Return what they are, by kind."""
    digits = datasets.load(datasets.find(arguments.data, say=cli.say))
    pixels = np.concatenate([digits.x_test, digits.x_train])[: arguments.pngs]
    write_json(
        folder / "contract.json", {**input_contract.digits(_MODEL).describe(), "preparation": "resize"}
    )
    described = {}
    for kind, images in (
        ("png", (Image.fromarray(each) for each in pixels)),
        ("jpeg", _photographs(arguments.jpegs)),
    ):
        (folder / kind).mkdir()
        count = size = 0
        for count, image in enumerate(images, 1):
            path = folder / kind / f"{count:06}.{kind}"
            image.save(path, quality=85)
            size += path.stat().st_size
        described[kind] = {"count": count, "bytes": size // count, "pixels": list(image.size)}
    return described


def _photographs(count: int) -> Iterator[Image.Image]:
    """Yield images with the detail of photographs: noise of several scales."""
    random = np.random.default_rng(0)
    width, height = _PHOTOGRAPH
    scales = []
    for factor in (64, 16, 4):
        noise = random.integers(0, 256, (height // factor, width // factor, 3), np.uint8)
        scales.append(np.asarray(Image.fromarray(noise).resize(_PHOTOGRAPH, Image.Resampling.BICUBIC)))
    base = Image.fromarray(np.mean(scales, 0).astype(np.uint8)).filter(ImageFilter.BoxBlur(1))
    ways = (Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.FLIP_TOP_BOTTOM, Image.Transpose.ROTATE_180)
    for number in range(count):
        yield base.transpose(ways[number % len(ways)])
