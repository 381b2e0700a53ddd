"""What the tests of the report do to made-up results: find a row, leave figures out, write a file."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def row(results: dict[str, Any], name: str, model: str = "nn") -> dict[str, Any]:
    (found,) = [each for each in results["models"][model]["rows"] if each["name"] == name]
    assert isinstance(found, dict)
    return found


def poorer(results: dict[str, Any]) -> dict[str, Any]:
    """What a quick run leaves out."""
    results["mode"] = "quick"
    for model in results["models"].values():
        model.update(operators={}, layers={})
        for each in model["rows"]:
            each.update(sweep=None, parts_us=None, loadgen=None, cpu_seconds_per_1000=None, peak_bytes=None)
            each["scenarios"] = dict.fromkeys(each["scenarios"])
            each["empty"] = {
                "sweep": "a quick run sweeps nothing",
                "server": "a quick run puts nothing under load",
            }
    return results


def bare(results: dict[str, Any]) -> dict[str, Any]:
    """As little as the schema allows."""
    for model in poorer(results)["models"].values():
        model["changed"] = {}
        model["rows"] = [each for each in model["rows"] if each["kind"] == "tflite"]
        for each in model["rows"]:
            each.update(
                query=None, end_to_end=None, batches={}, load_ms=None, first_ms=None, arena_bytes=None
            )
            each["empty"] = {"query": "nobody had the time"}
    return results


def written(folder: Path, results: Mapping[str, Any]) -> Path:
    file = folder / "results.json"
    file.write_text(json.dumps(results))
    return file
