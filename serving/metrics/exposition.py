"""The text format in which Prometheus reads metrics (version 0.0.4), written as TensorFlow Serving writes it.

https://prometheus.io/docs/instrumenting/exposition_formats/. prometheus_client can't be asked for it: it appends
`_total` to the names of counters, sorts labels, and writes bounds with all their digits.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

__all__ = ["CONTENT_TYPE", "Family", "lines"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


@dataclass(frozen=True)
class Family:
    """What is counted under one name: `kind` is counter, gauge or histogram, `bounds` are a histogram's.

    A series, which is the family for certain values of its `labels`, is a row of float64: a number, or for a
    histogram the sum of what was observed, then how often it was at most each bound, but above the one before,
    and how often above all.
    """

    name: str
    kind: str
    labels: tuple[str, ...]
    help: str
    bounds: tuple[float, ...] = ()

    @property
    def width(self) -> int:
        """How many numbers a series has."""
        return len(self.bounds) + 2 if self.bounds else 1

    def observe(self, row: "memoryview[float]", value: float) -> None:
        """Count `value` in the row of a histogram."""
        row[0] += value
        row[1 + bisect_left(self.bounds, value)] += 1


def lines(family: Family, series: Mapping[tuple[str, ...], Sequence[float]]) -> Iterator[str]:
    """Return the lines about a family: its rows by the values of its labels."""
    yield f"# HELP {family.name} {family.help}"
    yield f"# TYPE {family.name} {family.kind}"
    for values in sorted(series):
        row = series[values]
        labels = tuple(zip(family.labels, values, strict=True))
        if not family.bounds:
            yield _sample(family.name, labels, row[0])
            continue
        count = 0.0
        for bound, more in zip([*map(_bound, family.bounds), "+Inf"], row[1:], strict=True):
            count += more
            yield _sample(f"{family.name}_bucket", (*labels, ("le", bound)), count)
        yield _sample(f"{family.name}_sum", labels, row[0])
        yield _sample(f"{family.name}_count", labels, count)


def _sample(name: str, labels: Iterable[tuple[str, str]], value: float) -> str:
    inside = ",".join(f'{label}="{text.translate(_ESCAPES)}"' for label, text in labels)
    return f"{name}{{{inside}}} {value:.15g}"


def _bound(value: float) -> str:
    # As TensorFlow Serving: dashboards add up buckets of several servers by this very text.
    return f"{value:.6g}"
