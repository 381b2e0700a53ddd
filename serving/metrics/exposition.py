"""Prometheus text format (version 0.0.4), formatted as in TensorFlow Serving.

https://prometheus.io/docs/instrumenting/exposition_formats/. prometheus_client doesn't support this formatting: it
appends `_total` to counter names, sorts labels, and writes bounds with all digits.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

__all__ = ["CONTENT_TYPE", "Family", "lines"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


@dataclass(frozen=True)
class Family:
    """A metric: `kind` is counter, gauge or histogram; `bounds` are the upper bounds of a histogram's buckets.

    A series, the metric for certain values of its `labels`, is a row of float64. It has one number. The
    row of a histogram has the sum of the observed values and one count per bucket, the last one above all bounds.
    """

    name: str
    kind: str
    labels: tuple[str, ...]
    help: str
    bounds: tuple[float, ...] = ()

    @property
    def width(self) -> int:
        """The length of a series' row."""
        return len(self.bounds) + 2 if self.bounds else 1

    def observe(self, row: "memoryview[float]", value: float) -> None:
        """Add the observation `value` to the row of a histogram."""
        row[0] += value
        row[1 + bisect_left(self.bounds, value)] += 1


def lines(family: Family, series: Mapping[tuple[str, ...], Sequence[float]]) -> Iterator[str]:
    """Yield the lines of a family; `series` are its rows by label values."""
    yield f"# HELP {family.name} {family.help}"
    yield f"# TYPE {family.name} {family.kind}"
    for values in sorted(series):
        row = series[values]
        labels = tuple(zip(family.labels, values, strict=True))
        if not family.bounds:
            yield _sample(family.name, labels, row[0])
            continue
        count = 0.0
        for bound, observed in zip([*map(_bound, family.bounds), "+Inf"], row[1:], strict=True):
            count += observed
            yield _sample(f"{family.name}_bucket", (*labels, ("le", bound)), count)
        yield _sample(f"{family.name}_sum", labels, row[0])
        yield _sample(f"{family.name}_count", labels, count)


def _sample(name: str, labels: Iterable[tuple[str, str]], value: float) -> str:
    pairs = ",".join(f'{label}="{text.translate(_ESCAPES)}"' for label, text in labels)
    return f"{name}{{{pairs}}} {value:.15g}"


def _bound(value: float) -> str:
    # TensorFlow Serving's format: dashboards aggregate buckets of several servers by this text.
    return f"{value:.6g}"
