"""One model's part of a result file: its rows in the groups that a report shows, and the verdict on them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tfship.benchmarks.analysis.recommendation import gain, judge

__all__ = ["Model", "Row", "models", "why"]

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Model:
    """A model's name, its entry in the result file, and its entry in what `recommendation.judge` returns."""

    name: str
    found: Mapping[str, Any]
    verdict: Mapping[str, Any]

    @property
    def rows(self) -> list[Row]:
        """All rows, in the file's order."""
        return list(self.found["rows"])

    @property
    def reference(self) -> Row:
        """The row that others are compared with."""
        return self.row(self.found["reference"])

    def row(self, name: str) -> Row:
        """Return the row of that name."""
        return next(row for row in self.rows if row["name"] == name)

    def accuracy(self, row: Row) -> float:
        """Return a row's accuracy as it stands beside the others', though it may have been asked fewer images."""
        value: float = self.reference["accuracy"]["value"] + gain(row)
        return value

    @property
    def plain(self) -> list[Row]:
        """In this process, threads and delegate as the reference has them: what can be compared at a glance."""
        return [row for row in self.rows if row["kind"] != "served" and self._plain(row)]

    @property
    def variants(self) -> list[Row]:
        """In this process, with more threads or another delegate."""
        return [row for row in self.rows if row["kind"] != "served" and not self._plain(row)]

    @property
    def served(self) -> list[Row]:
        """Behind a server."""
        return [row for row in self.rows if row["kind"] == "served"]

    @property
    def front(self) -> list[str]:
        """Names of the rows that no other one beats."""
        return list(self.verdict["front"])

    @property
    def sentences(self) -> list[str]:
        """What the verdict says, recommendations first."""
        said = [*self.verdict["recommendations"], *self.verdict["slower"]]
        return [each["sentence"] for each in said]

    def on_all_cores(self, row: Row) -> Row:
        """Return the row of the same format and delegate with the most threads."""
        same = [
            other
            for other in self.rows
            if all(other[key] == row[key] for key in ("kind", "format", "delegate", "server", "protocol"))
        ]
        return max(same, key=lambda other: other["threads"] or 0)

    def _plain(self, row: Row) -> bool:
        reference = self.reference
        threads = row["threads"] in (reference["threads"], None)
        return threads and (row["kind"] != reference["kind"] or row["delegate"] == reference["delegate"])


def models(results: Mapping[str, Any], judged: Mapping[str, Any] | None = None) -> list[Model]:
    """Return all models of a result file, judged: as `judged` says, or for every use."""
    verdicts = (judged or judge(results))["models"]
    return [Model(name, found, verdicts[name]) for name, found in results["models"].items()]


def why(rows: Iterable[Row], figure: str) -> str:
    """Return in a sentence why none of the rows has a figure, as far as they say."""
    reasons = dict.fromkeys(row["empty"][figure] for row in rows if figure in row["empty"])
    return f"Not measured: {'; '.join(reasons)}." if reasons else "Not measured in this run."
