"""The studies of `tfship benchmark`, as rows of one table."""

import argparse
import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

from tfship.benchmarks.harness import result_files

__all__ = ["STUDIES", "Save", "Study", "StudyMeasurement", "StudyTable"]

# Writes unfinished results, for a study that takes long.
Save = Callable[[dict[str, Any]], None]


class StudyMeasurement(Protocol):
    """A module that measures. `DESCRIPTION` is shown by `--help`."""

    DESCRIPTION: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the study's own arguments; all have `--json`."""

    def measure(self, arguments: argparse.Namespace, flags: Sequence[str], save: Save) -> dict[str, Any]:
        """Measure and return the results. `flags` are the server's, given after `--`. Raises TfshipError."""


class StudyTable(Protocol):
    """A module that shows results."""

    def render(self, results: dict[str, Any], layout: str) -> str:
        """Return the results as text; `layout` is tabulate's, `simple` for a terminal, `github` for Markdown."""

    def failures(self, results: dict[str, Any]) -> list[str]:
        """Return what was expected and not met, a phrase for each; then the exit code is 6."""


@dataclass(frozen=True)
class Study:
    """A study: its modules, imported when they are needed, and what it takes.

    `reads` are those of `--models` and `--data` that it has; with `flags`, it passes what follows `--` to the server.
    `schema` is the number of its results' schema, increased when a field changes its meaning.
    """

    measures: str
    shows: str
    reads: tuple[str, ...] = ("models", "data")
    flags: bool = False
    schema: int = 1

    def measurement(self) -> StudyMeasurement:
        """Import what measures."""
        return cast(StudyMeasurement, importlib.import_module(f"tfship.benchmarks.studies.{self.measures}"))

    def table(self) -> StudyTable:
        """Import what shows the results."""
        return cast(StudyTable, importlib.import_module(f"tfship.benchmarks.studies.{self.shows}"))

    def read(self, path: Path) -> dict[str, Any]:
        """Read a result file; ArtifactError if it is missing, damaged or of another schema."""
        return result_files.read(path, self.schema, f"tfship benchmark {path.stem}")


# By the names of the commands, `tfship benchmark NAME`, of the committed results and of the blocks in README.md.
STUDIES = {
    "server": Study("server_load", "server_load_table", flags=True),
    "soak": Study("soak", "soak_table", flags=True),
    "client": Study("client_startup", "client_startup_table", ("models",)),
    "pictures": Study("photographs_study", "photographs_study"),
    "training": Study("training_time", "training_time", ("data",)),
    "zoo": Study("zoo.study", "zoo.table", ("data",)),
}
