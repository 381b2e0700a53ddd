"""How the figures of a row differ between two result files, each as a factor beside what noise alone may do.

The rules and their reasons stand in `benchmarks.analysis.regression`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tfship.benchmarks.analysis import correct_images
from tfship.benchmarks.analysis.ratios import Ratio, p50, ratio
from tfship.benchmarks.harness.timer import TOLERANCE
from tfship.export.publishing.gate import MAX_DROP
from tfship.train.common import statistics
from tfship.train.common.errors import ArtifactError

__all__ = ["BETTER", "ELSEWHERE", "NOISE", "UNJUDGED", "WORSE", "Check", "Pair", "found"]

Row = Mapping[str, Any]
Timing = Mapping[str, Any] | None

WORSE: Final = "worse"
BETTER: Final = "better"
NOISE: Final = "noise"
UNJUDGED: Final = "not judged"

# The bands, by how many times worse a figure may seem: a time beside the reference's, the reference's own, a time
# beside the reference's on another machine, a 99th percentile, a rate under load, memory, sizes.
_TIME, _ALONE, ELSEWHERE, _TAIL, _RATE, _MEMORY, _SIZE = TOLERANCE, 1.5, 3.0, 2.0, 1.3, 1.2, 1.01
_SIGNIFICANT = 0.01
# Half an image in ten million is float arithmetic, not a difference.
_ROUNDING = 5e-8
_GONE = "was measured before and isn't any more"


@dataclass(frozen=True)
class Check:
    """One comparison of a `figure` of a row.

    `old` and `new` are what was compared; `worse` and `band` say how many times worse it is and may seem by noise, both
    None where that isn't a factor. `found` is one of `WORSE`, `BETTER`, `NOISE` and `UNJUDGED`. `note` is the unit, or
    says what was found. `shared` figures are noisy in all rows alike: their band grows with what all of them do.
    """

    model: str
    row: str
    figure: str
    old: float | None
    new: float | None
    worse: float | None
    band: float | None
    found: str
    note: str
    shared: bool = False

    def sentence(self) -> str:
        """Return it as a person reads it."""
        name = f"{self.model}: {self.row}: {self.figure}"
        if self.worse is None or self.band is None:
            return f"{name}: {self.note}"
        change = f"{self.worse:.2f} times worse" if self.worse >= 1 else f"{1 / self.worse:.2f} times better"
        return (
            f"{name}: {change} ({self.old:.4g} before, {self.new:.4g} now, {self.note}); noise may make it "
            f"{self.band:.2f} times"
        )


def found(worse: float, band: float) -> str:
    """Return what a factor is, given what noise may do, in both directions."""
    return WORSE if worse > band else BETTER if worse < 1 / band else NOISE


@dataclass(frozen=True)
class Pair:
    """One model in both files, and whether these are of the same machine and bound of latency."""

    name: str
    old: Mapping[str, Any]
    new: Mapping[str, Any]
    same_machine: bool
    same_bound: bool

    def checks(self) -> Iterator[Check]:
        """Return the comparisons of every row of the old file. ArtifactError if a row is damaged."""
        before, now = ({row["name"]: row for row in model["rows"]} for model in (self.old, self.new))
        references = before[self.old["reference"]], now.get(self.new["reference"])
        for name, row in before.items():
            if name not in now:
                yield self._told(name, "row", "is missing", WORSE)
                continue
            yield self._accuracy(row, now[name])
            yield from self._times(row, now[name], *references)
            yield from self._rates(row, now[name], *references)
            yield from self._bytes(row, now[name])

    def _told(self, row: str, figure: str, why: str, found_: str = UNJUDGED) -> Check:
        return Check(self.name, row, figure, None, None, None, None, found_, why)

    def _factor(
        self, row: Row, figure: str, old: float, new: float, worse: float, band: float, unit: str,
        *, shared: bool = False,
    ) -> Check:  # fmt: skip
        judged = found(worse, band)
        return Check(self.name, row["name"], figure, old, new, worse, band, judged, unit, shared)

    def _accuracy(self, old: Row, new: Row) -> Check:
        before, now = old["accuracy"], new["accuracy"]
        if before["images"] != now["images"]:
            worse = now["interval95"][1] < before["interval95"][0]
            better = now["interval95"][0] > before["interval95"][1]
            how = f"of {before['images']:,} images before, of {now['images']:,} now"
        else:
            there, here = _right(old), _right(new)
            paired: dict[str, Any] = statistics.paired(here, there, np.ones_like(here))
            wins, losses, p = paired["wins"], paired["losses"], paired["mcnemar_p"]
            significant = p < _SIGNIFICANT
            most = MAX_DROP * len(here) + _ROUNDING
            worse = losses > wins and (significant or losses - wins > most)
            better = wins > losses and significant
            how = f"{wins} images won, {losses} lost, p {p:.2g}"
        judged = WORSE if worse else BETTER if better else NOISE
        note = f"{before['value']:.4f} before, {now['value']:.4f} now ({how})"
        return Check(
            self.name, old["name"], "accuracy", before["value"], now["value"], None, None, judged, note
        )

    def _times(self, old: Row, new: Row, there: Row, here: Row | None) -> Iterator[Check]:
        for clock in ("query", "end_to_end"):
            timings = old[clock], new[clock], there[clock], here and here[clock]
            yield from self._median(old, clock, *timings)
            yield from self._tail(old, clock, *timings)
        for count in old["batches"]:
            yield from self._median(
                old, f"batch of {count}", *(_batch(row, count) for row in (old, new, there, here))
            )

    def _median(
        self, row: Row, figure: str, old: Timing, new: Timing, there: Timing, here: Timing
    ) -> Iterator[Check]:
        figure, alone = f"{figure} p50", self._alone(row)
        if p50(old) is None:
            return
        if p50(new) is None:
            yield self._told(row["name"], figure, _GONE, WORSE)
            return
        if alone and not self.same_machine:
            yield self._told(row["name"], figure, "another machine")
            return
        before, now = (_itself(old), _itself(new)) if alone else (ratio(old, there), ratio(new, here))
        if before is None or now is None:
            yield self._told(row["name"], figure, "the reference wasn't measured")
            return
        # A value at one end of its span before and at the other now has not changed.
        band = max(self._least(row), (1 + before.spread) * (1 + now.spread))
        worse = now.value / before.value
        yield self._factor(
            row, figure, before.value, now.value, worse, band, self._unit(row), shared=not alone
        )

    def _tail(
        self, row: Row, figure: str, old: Timing, new: Timing, there: Timing, here: Timing
    ) -> Iterator[Check]:
        figure, alone = f"{figure} p99", self._alone(row)
        mine = _p99(old), _p99(new)
        its = (1.0, 1.0) if alone else (_p99(there), _p99(here))
        if mine[0] is None or p50(new) is None or (alone and not self.same_machine):
            return
        if mine[1] is None or its[0] is None or its[1] is None:
            yield self._told(row["name"], figure, "there or in the reference: too few samples for it")
            return
        before, now = mine[0] / its[0], mine[1] / its[1]
        yield self._factor(
            row, figure, before, now, now / before, max(self._least(row), _TAIL), self._unit(row)
        )

    def _alone(self, row: Row) -> bool:
        return bool(row["name"] == self.old["reference"])

    def _least(self, row: Row) -> float:
        return _ALONE if self._alone(row) else _TIME if self.same_machine else ELSEWHERE

    def _unit(self, row: Row) -> str:
        return "µs" if self._alone(row) else f"times {self.old['reference']}'s"

    def _rates(self, old: Row, new: Row, there: Row, here: Row | None) -> Iterator[Check]:
        before, now = (each["scenarios"]["server"] for each in (old, new))
        if before and before["rate"] and self.same_bound:
            figure, gone = "images/s under the bound", now is None
            rates, band = (before["rate"], now and now["rate"]), max(_RATE, _step(before), _step(now))
        else:
            figure, gone = "images/s in a closed loop", not new["sweep"]
            rates, band = (_most(old), _most(new)), _RATE
        if not rates[0]:
            return
        if gone:
            yield self._told(old["name"], figure, _GONE)
            return
        if not rates[1]:
            yield self._told(old["name"], figure, f"{rates[0]:,.0f} before, none now", WORSE)
            return
        clocks = p50(there["query"]), p50(here and here["query"])
        if clocks[0] is None or clocks[1] is None:
            yield self._told(old["name"], figure, "the reference wasn't measured")
            return
        # Images in the time that the reference takes for one: how fast the machine is cancels out.
        images = [rate * us / 1e6 for rate, us in zip(rates, clocks, strict=True)]
        yield self._factor(
            old, figure, *rates, images[0] / images[1], band if self.same_machine else max(band, ELSEWHERE),
            f"or {images[0]:.3g} and {images[1]:.3g} in the time that {self.old['reference']} takes for one",
        )  # fmt: skip

    def _bytes(self, old: Row, new: Row) -> Iterator[Check]:
        figures = (
            ("bytes", "size", _SIZE),
            ("arena_bytes", "arena", _SIZE),
            ("peak_bytes", "peak memory", _MEMORY),
        )
        for field, figure, band in figures:
            if old[field] and new[field]:
                yield self._factor(
                    old, figure, old[field], new[field], new[field] / old[field], band, "bytes"
                )
            elif old[field]:
                yield self._told(old["name"], figure, new["empty"].get(field, _GONE))


def _batch(row: Row | None, count: str) -> Timing:
    batch = row["batches"].get(count) if row else None
    return batch["timing"] if batch else None


def _p99(timing: Timing) -> float | None:
    return timing["p99_us"] if timing and timing["p99_us"] else None


def _itself(timing: Timing) -> Ratio | None:
    """Return a timing in microseconds, with the span of its windows."""
    value = p50(timing)
    if timing is None or value is None:
        return None
    windows = timing["windows_p50_us"]
    return Ratio(value, min([*windows, value]), max([*windows, value]), len(windows))


def _most(row: Row) -> float | None:
    return max((each["rate"] for each in row["sweep"] or ()), default=None)


def _step(server: Mapping[str, Any] | None) -> float:
    """Return how far the rate that kept the bound lies from its neighbours that were tried, as a factor."""
    if not server or not server["rate"]:
        return 1.0
    rate, tried = server["rate"], [each["rate"] for each in server["trials"]]
    lower = max((each for each in tried if each < rate), default=rate)
    higher = min((each for each in tried if each > rate), default=rate)
    return float(max(rate / lower, higher / rate))


def _right(row: Row) -> NDArray[np.int64]:
    """Return for each image whether a row has it right, 1 or 0, [images]."""
    correct, images = row["accuracy"]["correct"], row["accuracy"]["images"]
    try:
        right = correct_images.unpack(row["right"], images)
    except ValueError as error:
        raise ArtifactError(f"{row['name']}: `right` is damaged ({error}); measure again") from error
    if right.sum() != correct:
        raise ArtifactError(
            f"{row['name']}: `right` has {right.sum()} of {images} images right, expected {correct}; measure again"
        )
    return right.astype(np.int64)
