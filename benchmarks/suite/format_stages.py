"""The stages that look into a format: a process that does nothing else, its operators, its layers' noise."""

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
    """Return load, first inference and memory of what runs in this process, each in one of its own."""

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

    return bench.each("own process", [row for row in bench.rows if row.server is None], run)


def times(bench: Bench) -> dict[str, Any]:
    """Return where an inference's time goes, operator by operator, of each format."""
    image, known = bench.contract.scale(bench.pixels[:1]), _layer_names(bench)

    def run(row: Subject) -> list[dict[str, Any]]:
        _, path = _loaded(row)
        return [each.describe() for each in operator_profile.profile(path, image, known=known)]

    return bench.each("operators", [row for row in bench.rows if row.kind == "tflite" and row.plain], run)


def noise(bench: Bench) -> dict[str, Any]:
    """Return how much noise quantization makes in each layer, of each format that has any."""
    pixels = bench.images.pixels[:_LAYER_IMAGES]
    reference, known = bench.version / FORMATS[REFERENCE].file, _layer_names(bench)

    def run(row: Subject) -> list[dict[str, Any]]:
        _, path = _loaded(row)
        compared = layer_divergence.compare(reference, path, pixels, bench.contract, known)
        return [{"name": each.name, "operator": each.operator, "snr_db": each.snr_db} for each in compared]

    quantized = [
        row
        for row in bench.rows
        if row.kind == "tflite" and row.plain and FORMATS[row.format].weights != "float32"
    ]
    return bench.each("layers", quantized, run)


def _loaded(row: Subject) -> tuple[model_probe.Kind, Path]:
    """Return what kind of file or folder a row in this process loads, and where it is."""
    if row.kind == "served" or row.path is None:
        raise ResultError(f"{row.name}: a server loads it, not this process")
    return row.kind, row.path


def _layer_names(bench: Bench) -> list[str]:
    """Return the layers' names in Keras, where the .keras file is there: a ZIP archive with its configuration."""
    if bench.keras is None:
        return []
    with zipfile.ZipFile(bench.keras) as archive:
        config = json.loads(archive.read("config.json"))
    return [each["config"]["name"] for each in config["config"].get("layers", ()) if "name" in each["config"]]
