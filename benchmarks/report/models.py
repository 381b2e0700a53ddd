"""One model's entry in a result file: its rows, in the report's groups, and the verdict on them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tfship.benchmarks.analysis.recommendation import ELSEWHERE, gain, judge

__all__ = ["Model", "Row", "missing_sentence", "models"]

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Model:
    """A model's name, its entry in the result file, and its entry in the verdict (`recommendation.judge`)."""

    name: str
    entry: Mapping[str, Any]
    verdict: Mapping[str, Any]

    @property
    def rows(self) -> list[Row]:
        """All rows, in the file's order."""
        return list(self.entry["rows"])

    @property
    def reference(self) -> Row:
        """The row that others are compared with."""
        return self.row(self.entry["reference"])

    def row(self, name: str) -> Row:
        """Return the row called `name`."""
        return next(row for row in self.rows if row["name"] == name)

    def accuracy(self, row: Row) -> float:
        """Return the row's accuracy on the scale of all images, though it may have been measured on fewer."""
        value: float = self.reference["accuracy"]["value"] + gain(row)
        return value

    @property
    def plain(self) -> list[Row]:
        """Rows in this process with the reference's number of threads and delegate."""
        return [row for row in self.rows if row["kind"] not in ELSEWHERE and self._plain(row)]

    @property
    def variants(self) -> list[Row]:
        """Rows in this process with more threads or another delegate."""
        return [row for row in self.rows if row["kind"] not in ELSEWHERE and not self._plain(row)]

    @property
    def in_browser(self) -> list[Row]:
        """Rows in a browser."""
        return [row for row in self.rows if row["kind"] == "browser"]

    @property
    def served(self) -> list[Row]:
        """Rows behind a server."""
        return [row for row in self.rows if row["kind"] == "served"]

    @property
    def front(self) -> list[str]:
        """Names of the rows on the Pareto front."""
        return list(self.verdict["front"])

    @property
    def sentences(self) -> list[str]:
        """The verdict's sentences, recommendations first."""
        items = [*self.verdict["recommendations"], *self.verdict["slower"]]
        return [each["sentence"] for each in items]

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
    """Return all models of a result file with the verdict `judged`, by default that for every objective."""
    verdicts = (judged or judge(results))["models"]
    return [Model(name, entry, verdicts[name]) for name, entry in results["models"].items()]


def missing_sentence(rows: Iterable[Row], figure: str) -> str:
    """Return a sentence with the reasons, if known, why none of the rows has the figure."""
    reasons = dict.fromkeys(row["empty"][figure] for row in rows if figure in row["empty"])
    return f"Not measured: {'; '.join(reasons)}." if reasons else "Not measured in this run."
