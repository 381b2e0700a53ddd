"""The stages of a benchmark: which rows each stage measures, and how many measurements that makes."""

from collections.abc import Callable

from tfship.benchmarks.harness.mlperf_loadgen import IMAGES_PER_QUERY
from tfship.benchmarks.harness.timer import AGREEING, MOST
from tfship.benchmarks.suite.modes import Mode
from tfship.benchmarks.suite.system_under_test import Subject
from tfship.export.conversion.formats import FORMATS, REFERENCE

__all__ = ["BATCHES", "END_TO_END", "ROWS", "TIMED", "in_all_rounds", "measurements"]

# The stages that time queries, by images per query.
BATCHES = {1: "one image", IMAGES_PER_QUERY: f"{IMAGES_PER_QUERY} images", 64: "64 images"}
END_TO_END = "end to end"
# The stages measured in windows, all rows in turn.
TIMED = {*BATCHES.values(), END_TO_END}


def _every(_: Subject) -> bool:
    return True


def _outside_browsers(row: Subject) -> bool:
    return row.kind != "browser"


def _plain(row: Subject) -> bool:
    return row.plain


def _served(row: Subject) -> bool:
    return row.server is not None


def _tflite_file(row: Subject) -> bool:
    return row.kind == "tflite" and row.plain


# Whether a stage measures a row.
ROWS: dict[str, Callable[[Subject], bool]] = {
    "first request": _served,
    "accuracy": _every,
    # A file for browsers takes one image.
    **{stage: _every if images == 1 else _outside_browsers for images, stage in BATCHES.items()},
    END_TO_END: _plain,  # variants differ in the model alone
    "parts of a request": _served,
    "offline": _plain,
    "connections": _served,
    "server": lambda row: _served(row) or row.name == REFERENCE,
    "LoadGen": _plain,
    "peak": _served,
    "own process": lambda row: row.server is None and row.kind != "browser",
    "operators": _tflite_file,
    "layers": lambda row: _tflite_file(row) and FORMATS[row.format].weights != "float32",
}


def in_all_rounds(mode: Mode, row: Subject, stage: str) -> bool:
    """Return whether a row is measured in all `MOST` rounds: the formats, where their ranking depends on it."""
    return stage == BATCHES[1] and row.is_format and mode.longest_compared is not None


def measurements(mode: Mode, row: Subject, *, loadgen: bool = False) -> dict[str, int]:
    """Return the expected number of measurements of a row, by stage.

    A window is a measurement, and so is the result of another stage. Timings that don't settle at once take more
    windows. `loadgen` includes the stage `LoadGen`.
    """
    return {
        stage: MOST if in_all_rounds(mode, row, stage) else AGREEING if stage in TIMED else 1
        for stage, measures in ROWS.items()
        if measures(row) and (loadgen or stage != "LoadGen")
    }
