"""The studies of `tfship benchmark`, as rows of one table."""

import argparse
import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

from tfship.benchmarks.harness import result_files

__all__ = ["STUDIES", "Save", "Study", "StudyMeasurement", "StudyTable"]

# Writes intermediate results, for long studies.
Save = Callable[[dict[str, Any]], None]


class StudyMeasurement(Protocol):
    """A module that measures. `--help` shows its `DESCRIPTION`."""

    DESCRIPTION: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the study's own arguments, besides `--json`."""

    def measure(self, arguments: argparse.Namespace, flags: Sequence[str], save: Save) -> dict[str, Any]:
        """Measure and return the results. `flags`, given after `--`, are for the server. Raises TfshipError."""


class StudyTable(Protocol):
    """A module that renders results."""

    def render(self, results: dict[str, Any], layout: str) -> str:
        """Return the results as text; `layout` is tabulate's, `simple` for a terminal, `github` for Markdown."""

    def failures(self, results: dict[str, Any]) -> list[str]:
        """Return a phrase for each requirement that isn't met; if there are any, the exit code is 6."""


@dataclass(frozen=True)
class Study:
    """A study: its modules, which are imported when needed, and its options.

    `reads` names the options `--models` and `--data` that it has. With `flags`, it passes arguments after `--` to the
    server. `schema` is the number of its results' schema, increased when a field changes its meaning. With
    `committed`, its results are in benchmarks/results, and their tables in benchmarks/README.md.
    """

    measures: str
    shows: str
    reads: tuple[str, ...] = ("models", "data")
    flags: bool = False
    schema: int = 1
    committed: bool = True

    def measurement(self) -> StudyMeasurement:
        """Import the module that measures."""
        return cast(StudyMeasurement, importlib.import_module(f"tfship.benchmarks.studies.{self.measures}"))

    def table(self) -> StudyTable:
        """Import the module that renders the results."""
        return cast(StudyTable, importlib.import_module(f"tfship.benchmarks.studies.{self.shows}"))

    def read(self, path: Path) -> dict[str, Any]:
        """Read a result file. Raises ArtifactError if it is missing, damaged or of another schema."""
        return result_files.read(path, self.schema, f"tfship benchmark {path.stem}")


# By the name of the command, `tfship benchmark NAME`, of the committed results and of the block in README.md.
STUDIES = {
    "server": Study("server_load", "server_load_table", flags=True, schema=2),
    "soak": Study("soak", "soak_table", flags=True),
    "client": Study("client_startup", "client_startup_table", ("models",)),
    "pictures": Study("digits.photographs_study", "digits.photographs_study"),
    "digits": Study("digits.study", "digits.table", committed=False),
    "training": Study("training_time", "training_time", ("data",)),
    "rollout": Study("rollout.study", "rollout.table", ("models",)),
    "scoring": Study("scoring", "scoring_table"),
    "zoo": Study("zoo.study", "zoo.table", ("data",)),
}
