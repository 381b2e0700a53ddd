"""Output of predictions: a line of text, a JSON object or a CSV row per image.

Each form depends on the scores' meaning (`client.targets.interpretation`). Only probabilities are printed in % and
called "probability". Other scores are called "score", and their "probability" is null or empty.
"""

import csv
import json
import sys
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tfship.client.targets.interpretation import SCORES
from tfship.export.preprocessing.input_contract import INDEPENDENT, THRESHOLD
from tfship.train.common import cli

__all__ = ["KEYS", "Csv", "JsonLines", "Lines", "Ranked", "Writer", "named", "rank", "visible"]

# (label, score) of each class, best first.
Ranked = list[tuple[str, float]]

# The keys of a JSON line. A line for an invalid image has "image" and "error". Independent labels add "labels", and
# scores of unknown meaning "score" and "scores".
KEYS = ("image", "label", "probability", "runner_up", "top", "probabilities")


class Writer(Protocol):
    """One form of output, to stdout: a prediction or an error for each image."""

    def prediction(self, name: str, ranked: Ranked) -> None:
        """Write the prediction for an image."""

    def error(self, name: str, problem: str) -> None:
        """Write why an image has no prediction; `problem` begins with its name."""


def rank(row: NDArray[np.float32], labels: Sequence[str]) -> Ranked:
    """Return labels and scores [classes], best first; class numbers if the number of labels is another one."""
    names = labels if len(row) == len(labels) else tuple(map(str, range(len(row))))
    return [(names[index], float(row[index])) for index in np.argsort(-row, kind="stable")]


def named(ranked: Ranked) -> list[str]:
    """Return the labels with at least 50 %, given independent scores, best first."""
    return [label for label, score in ranked if score >= THRESHOLD]


def visible(name: str) -> str:
    """Return a name for a terminal, with unprintable characters escaped."""
    if name.isprintable():
        return name
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in name)


class Lines:
    """`<image>: <class> (<probability>), then …`, for the `top` classes; errors go to `say`, on stderr.

    For independent labels: `<image>: <label> (<probability>), …`, for the labels with at least 50 %.
    """

    def __init__(self, top: int, meaning: str, say: Callable[[str], None]) -> None:
        self._top, self._meaning, self._say = top, meaning, say

    def prediction(self, name: str, ranked: Ranked) -> None:
        """See `Writer`."""
        words = self._labels(ranked) if self._meaning == INDEPENDENT else self._best(ranked)
        _write(f"{visible(name)}: {visible(words)}")

    def _best(self, ranked: Ranked) -> str:
        first, *others = (self._with_score(*each) for each in ranked[: self._top])
        return f"{first}, then {', '.join(others)}" if others else first

    def _labels(self, ranked: Ranked) -> str:
        chosen = ranked[: len(named(ranked))]
        if chosen:
            return ", ".join(self._with_score(*each) for each in chosen)
        label, score = ranked[0]
        return f"no label reaches {THRESHOLD:.0%} (best: {label}, {score:.1%})"

    def _with_score(self, label: str, score: float) -> str:
        return f"{label} (score {score:.4g})" if self._meaning == SCORES else f"{label} ({score:.1%})"

    def error(self, name: str, problem: str) -> None:  # noqa: ARG002
        """See `Writer`."""
        self._say(f"error: {cli.one_line(problem)}")


class JsonLines:
    """One JSON object per line, with `KEYS`; "runner_up" is null if there is only one class."""

    def __init__(self, top: int, meaning: str) -> None:
        self._top, self._meaning = top, meaning

    def prediction(self, name: str, ranked: Ranked) -> None:
        """See `Writer`."""
        unknown = self._meaning == SCORES
        best = [
            {"label": label, "probability": None, "score": score}
            if unknown
            else {"label": label, "probability": score}
            for label, score in ranked[: max(self._top, 2)]
        ]
        scores = dict(sorted(ranked))
        label, score = ranked[0]
        values = (
            name,
            label,
            None if unknown else score,
            best[1] if best[1:] else None,
            best[: self._top],
            None if unknown else scores,
        )
        more: dict[str, object] = {"score": score, "scores": scores} if unknown else {}
        if self._meaning == INDEPENDENT:
            more = {"labels": named(ranked)}
        _write(json.dumps({**dict(zip(KEYS, values, strict=True)), **more}))

    def error(self, name: str, problem: str) -> None:
        """See `Writer`."""
        _write(json.dumps({"image": name, "error": cli.one_line(problem)}))


class Csv:
    """A header, and one row per image: image, label and probability of each of the `top` classes, error.

    Independent labels add a column `labels`, joined by ";". Scores of unknown meaning add a column `score` per class.
    """

    def __init__(self, top: int, meaning: str) -> None:
        self._top, self._meaning = top, meaning
        self._rows = csv.writer(sys.stdout, lineterminator="\n")
        ranks = ["", *(f"_{place}" for place in range(2, top + 1))]
        of_each = ("label", "probability", "score") if meaning == SCORES else ("label", "probability")
        self._columns = [f"{column}{place}" for place in ranks for column in of_each]
        self._columns += ["labels"] if meaning == INDEPENDENT else []
        self._row("image", *self._columns, "error")

    def prediction(self, name: str, ranked: Ranked) -> None:
        """See `Writer`."""
        values: list[object] = []
        for label, score in ranked[: self._top]:
            values += [label, "", score] if self._meaning == SCORES else [label, score]
        labels = [";".join(named(ranked))] if self._meaning == INDEPENDENT else []
        self._row(name, *values, *[""] * (len(self._columns) - len(values) - len(labels)), *labels, "")

    def error(self, name: str, problem: str) -> None:
        """See `Writer`."""
        self._row(name, *[""] * len(self._columns), cli.one_line(problem))

    def _row(self, *values: object) -> None:
        self._rows.writerow(values)
        sys.stdout.flush()


def _write(line: str) -> None:
    print(line, flush=True)  # noqa: T201
