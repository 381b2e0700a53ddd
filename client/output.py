"""What is said of each picture: a line for a person, a JSON object or a row of CSV for a machine."""

import csv
import json
import sys
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from train import cli

__all__ = ["KEYS", "Csv", "JsonLines", "Lines", "Ranked", "Writer", "rank", "visible"]

# (label, probability) of each class, most probable first.
Ranked = list[tuple[str, float]]

# The keys of a JSON line; one for a picture that can't be used has "image" and "error".
KEYS = ("image", "label", "probability", "runner_up", "top", "probabilities")


class Writer(Protocol):
    """One form of output, to stdout; a picture is either `answered` or `failed`."""

    def answered(self, name: str, ranked: Ranked) -> None:
        """Say what a picture shows."""

    def failed(self, name: str, problem: str) -> None:
        """Say why a picture has no answer; `problem` names it already."""


def rank(row: NDArray[np.float32], labels: Sequence[str]) -> Ranked:
    """Return probabilities [classes] with the classes' names, most probable first; numbers where there are none."""
    names = labels if len(row) == len(labels) else tuple(map(str, range(len(row))))
    return [(names[index], float(row[index])) for index in np.argsort(-row, kind="stable")]


def visible(name: str) -> str:
    """Return a name as a terminal can show it: what isn't printable, as an escape."""
    if name.isprintable():
        return name
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in name)


class Lines:
    """`<picture>: <class> (<probability>), then …`, of the `top` classes; problems go to `say`, on stderr."""

    def __init__(self, top: int, say: Callable[[str], None]) -> None:
        self._top, self._say = top, say

    def answered(self, name: str, ranked: Ranked) -> None:
        """See `Writer`."""
        first, *others = (f"{label} ({probability:.1%})" for label, probability in ranked[: self._top])
        then = f", then {', '.join(others)}" if others else ""
        _write(f"{visible(name)}: {visible(first + then)}")

    def failed(self, name: str, problem: str) -> None:  # noqa: ARG002
        """See `Writer`."""
        self._say(f"error: {cli.one_line(problem)}")


class JsonLines:
    """A JSON object a line, with `KEYS`; "runner_up" is null where there is but one class."""

    def __init__(self, top: int) -> None:
        self._top = top

    def answered(self, name: str, ranked: Ranked) -> None:
        """See `Writer`."""
        best = [
            {"label": label, "probability": probability} for label, probability in ranked[: max(self._top, 2)]
        ]
        values = (
            name,
            *best[0].values(),
            best[1] if best[1:] else None,
            best[: self._top],
            dict(sorted(ranked)),
        )
        _write(json.dumps(dict(zip(KEYS, values, strict=True))))

    def failed(self, name: str, problem: str) -> None:
        """See `Writer`."""
        _write(json.dumps({"image": name, "error": cli.one_line(problem)}))


class Csv:
    """A row a picture, below a header: image, label and probability of each of the `top` classes, error."""

    def __init__(self, top: int) -> None:
        self._top = top
        self._rows = csv.writer(sys.stdout, lineterminator="\n")
        ranks = ["", *(f"_{place}" for place in range(2, top + 1))]
        columns = [f"{column}{place}" for place in ranks for column in ("label", "probability")]
        self._row("image", *columns, "error")

    def answered(self, name: str, ranked: Ranked) -> None:
        """See `Writer`."""
        values = [value for pair in ranked[: self._top] for value in pair]
        self._row(name, *values, *[""] * (2 * self._top - len(values)), "")

    def failed(self, name: str, problem: str) -> None:
        """See `Writer`."""
        self._row(name, *[""] * (2 * self._top), cli.one_line(problem))

    def _row(self, *values: object) -> None:
        self._rows.writerow(values)
        sys.stdout.flush()


def _write(line: str) -> None:
    print(line, flush=True)  # noqa: T201
