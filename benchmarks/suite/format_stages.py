"""The stages that inspect a format: load time and memory in a separate process, operator times, noise of layers."""

import json
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tfship.benchmarks.suite import model_probe, operator_profile
from tfship.benchmarks.suite.measured_model import Bench
from tfship.benchmarks.suite.system_under_test import Subject
from tfship.export.conversion import layer_divergence
from tfship.export.conversion.formats import FORMATS, REFERENCE
from tfship.train.common.errors import ResultError

__all__ = ["noise", "probes", "times"]

_LAYER_IMAGES = 64


def probes(bench: Bench) -> dict[str, Any]:
    """Return load time, first inference and memory of each row in this process, each measured in a new process."""

    def run(row: Subject) -> dict[str, Any]:
        kind, path = _loaded(row)
        figures = model_probe.probe(
            kind,
            path,
            bench.contract.shape,
            threads=row.threads,
            xnnpack=row.kind != "tflite" or row.delegate is not None,
        )
        return asdict(figures)

    return bench.each("own process", run)


def times(bench: Bench) -> dict[str, Any]:
    """Return the time of each operator, by TFLite format."""
    image, known = bench.contract.scale(bench.pixels[:1]), _layer_names(bench)

    def run(row: Subject) -> list[dict[str, Any]]:
        _, path = _loaded(row)
        return [each.describe() for each in operator_profile.profile(path, image, known=known)]

    return bench.each("operators", run)


def noise(bench: Bench) -> dict[str, Any]:
    """Return the signal-to-noise ratio of each layer, by quantized format."""
    pixels = bench.images.pixels[:_LAYER_IMAGES]
    reference, known = bench.version / FORMATS[REFERENCE].file, _layer_names(bench)

    def run(row: Subject) -> list[dict[str, Any]]:
        _, path = _loaded(row)
        compared = layer_divergence.compare(reference, path, pixels, bench.contract, known)
        return [{"name": each.name, "operator": each.operator, "snr_db": each.snr_db} for each in compared]

    return bench.each("layers", run)


def _loaded(row: Subject) -> tuple[model_probe.Kind, Path]:
    """Return the kind and the path of the file or folder that a row in this process loads."""
    if row.kind == "served" or row.kind == "browser" or row.path is None:
        raise ResultError(f"{row.name}: isn't loaded in this process")
    return row.kind, row.path


def _layer_names(bench: Bench) -> list[str]:
    """Return the names of the layers, from the configuration in the .keras file (a ZIP archive); empty without one."""
    if bench.keras is None:
        return []
    with zipfile.ZipFile(bench.keras) as archive:
        config = json.loads(archive.read("config.json"))
    return [each["config"]["name"] for each in config["config"].get("layers", ()) if "name" in each["config"]]
