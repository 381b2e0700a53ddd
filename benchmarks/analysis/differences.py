"""Comparison of a row's figures between two result files: factors and their noise bands.

`benchmarks.analysis.regression` describes the rules and their reasons.
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

# Noise bands, as factors: a time relative to the reference, the reference's own time, a time relative to the reference
# on another machine, a 99th percentile, a rate under load, memory, sizes.
_TIME, _ABSOLUTE, ELSEWHERE, _TAIL, _RATE, _MEMORY, _SIZE = TOLERANCE, 1.5, 3.0, 2.0, 1.3, 1.2, 1.01
_SIGNIFICANT = 0.01
# Rounding error of float arithmetic: half an image in ten million.
_ROUNDING = 5e-8
_GONE = "measured before, but not now"


@dataclass(frozen=True)
class Check:
    """One comparison of a `figure` of a row.

    `old` and `new` are the compared values. `worse` is the factor by which the figure got worse, `band` the factor that
    noise explains; both are None for comparisons that aren't factors. `found` is `WORSE`, `BETTER`, `NOISE` or
    `UNJUDGED`. `note` is the unit or the finding. `shared`: the noise affects all rows, so their scatter widens `band`.
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
        """Return the comparison as a sentence."""
        name = f"{self.model}: {self.row}: {self.figure}"
        if self.worse is None or self.band is None:
            return f"{name}: {self.note}"
        change = f"{self.worse:.2f} times worse" if self.worse >= 1 else f"{1 / self.worse:.2f} times better"
        return (
            f"{name}: {change} ({self.old:.4g} before, {self.new:.4g} now, {self.note}); the noise band is a "
            f"factor of {self.band:.2f}"
        )


def found(worse: float, band: float) -> str:
    """Return WORSE, BETTER or NOISE for the factor `worse` and the noise band, which applies in both directions."""
    return WORSE if worse > band else BETTER if worse < 1 / band else NOISE


@dataclass(frozen=True)
class Pair:
    """One model in both files; whether the files have the same machine and the same latency bound."""

    name: str
    old: Mapping[str, Any]
    new: Mapping[str, Any]
    same_machine: bool
    same_bound: bool

    def checks(self) -> Iterator[Check]:
        """Yield the comparisons of all rows of the old file. Raises ArtifactError if a row is damaged."""
        before, now = ({row["name"]: row for row in model["rows"]} for model in (self.old, self.new))
        references = before[self.old["reference"]], now.get(self.new["reference"])
        for name, row in before.items():
            if name not in now:
                yield self._without_factor(name, "row", "is missing", WORSE)
                continue
            yield self._accuracy(row, now[name])
            yield from self._times(row, now[name], *references)
            yield from self._rates(row, now[name], *references)
            yield from self._bytes(row, now[name])

    def _without_factor(self, row: str, figure: str, note: str, found_: str = UNJUDGED) -> Check:
        return Check(self.name, row, figure, None, None, None, None, found_, note)

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
            right_before, right_now = _right(old), _right(new)
            paired: dict[str, Any] = statistics.paired(right_now, right_before, np.ones_like(right_now))
            wins, losses, p = paired["wins"], paired["losses"], paired["mcnemar_p"]
            significant = p < _SIGNIFICANT
            max_losses = MAX_DROP * len(right_now) + _ROUNDING
            worse = losses > wins and (significant or losses - wins > max_losses)
            better = wins > losses and significant
            how = f"{wins} images won, {losses} lost, p {p:.2g}"
        judged = WORSE if worse else BETTER if better else NOISE
        note = f"{before['value']:.4f} before, {now['value']:.4f} now ({how})"
        return Check(
            self.name, old["name"], "accuracy", before["value"], now["value"], None, None, judged, note
        )

    def _times(self, old: Row, new: Row, old_reference: Row, new_reference: Row | None) -> Iterator[Check]:
        for clock in ("query", "end_to_end"):
            timings = old[clock], new[clock], old_reference[clock], new_reference and new_reference[clock]
            yield from self._median(old, clock, *timings)
            yield from self._tail(old, clock, *timings)
        for count in old["batches"]:
            batches = (_batch(row, count) for row in (old, new, old_reference, new_reference))
            yield from self._median(old, f"batch of {count}", *batches)

    def _median(
        self, row: Row, figure: str, old: Timing, new: Timing, old_reference: Timing, new_reference: Timing
    ) -> Iterator[Check]:
        figure, absolute = f"{figure} p50", self._is_reference(row)
        if p50(old) is None:
            return
        if p50(new) is None:
            yield self._without_factor(row["name"], figure, _GONE, WORSE)
            return
        if absolute and not self.same_machine:
            yield self._without_factor(row["name"], figure, "another machine")
            return
        before, now = (
            (_absolute(old), _absolute(new))
            if absolute
            else (ratio(old, old_reference), ratio(new, new_reference))
        )
        if before is None or now is None:
            yield self._without_factor(row["name"], figure, "the reference wasn't measured")
            return
        # A value that moved from one end of its interval to the other hasn't changed.
        band = max(self._min_band(row), (1 + before.spread) * (1 + now.spread))
        worse = now.value / before.value
        yield self._factor(
            row, figure, before.value, now.value, worse, band, self._unit(row), shared=not absolute
        )

    def _tail(
        self, row: Row, figure: str, old: Timing, new: Timing, old_reference: Timing, new_reference: Timing
    ) -> Iterator[Check]:
        figure, absolute = f"{figure} p99", self._is_reference(row)
        own = _p99(old), _p99(new)
        reference = (1.0, 1.0) if absolute else (_p99(old_reference), _p99(new_reference))
        if own[0] is None or p50(new) is None or (absolute and not self.same_machine):
            return
        if own[1] is None or reference[0] is None or reference[1] is None:
            yield self._without_factor(row["name"], figure, "too few samples, now or in the reference")
            return
        before, now = own[0] / reference[0], own[1] / reference[1]
        yield self._factor(
            row, figure, before, now, now / before, max(self._min_band(row), _TAIL), self._unit(row)
        )

    def _is_reference(self, row: Row) -> bool:
        return bool(row["name"] == self.old["reference"])

    def _min_band(self, row: Row) -> float:
        return _ABSOLUTE if self._is_reference(row) else _TIME if self.same_machine else ELSEWHERE

    def _unit(self, row: Row) -> str:
        return "µs" if self._is_reference(row) else f"times {self.old['reference']}'s"

    def _rates(self, old: Row, new: Row, old_reference: Row, new_reference: Row | None) -> Iterator[Check]:
        before, now = (each["scenarios"]["server"] for each in (old, new))
        if before and before["rate"] and self.same_bound:
            figure, gone = "images/s under the bound", now is None
            rates, band = (before["rate"], now and now["rate"]), max(_RATE, _step(before), _step(now))
        else:
            figure, gone = "images/s in a closed loop", not new["sweep"]
            rates, band = (_highest_rate(old), _highest_rate(new)), _RATE
        if not rates[0]:
            return
        if gone:
            yield self._without_factor(old["name"], figure, _GONE)
            return
        if not rates[1]:
            yield self._without_factor(old["name"], figure, f"{rates[0]:,.0f} before, none now", WORSE)
            return
        references = p50(old_reference["query"]), p50(new_reference and new_reference["query"])
        if references[0] is None or references[1] is None:
            yield self._without_factor(old["name"], figure, "the reference wasn't measured")
            return
        # Images per inference of the reference: independent of the machine's speed.
        images = [rate * us / 1e6 for rate, us in zip(rates, references, strict=True)]
        yield self._factor(
            old, figure, *rates, images[0] / images[1], band if self.same_machine else max(band, ELSEWHERE),
            f"{images[0]:.3g} and {images[1]:.3g} images per inference of {self.old['reference']}",
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
                yield self._without_factor(old["name"], figure, new["empty"].get(field, _GONE))


def _batch(row: Row | None, count: str) -> Timing:
    batch = row["batches"].get(count) if row else None
    return batch["timing"] if batch else None


def _p99(timing: Timing) -> float | None:
    return timing["p99_us"] if timing and timing["p99_us"] else None


def _absolute(timing: Timing) -> Ratio | None:
    """Return the median in microseconds, with the extremes of the windows."""
    value = p50(timing)
    if timing is None or value is None:
        return None
    windows = timing["windows_p50_us"]
    return Ratio(value, min([*windows, value]), max([*windows, value]), len(windows))


def _highest_rate(row: Row) -> float | None:
    return max((each["rate"] for each in row["sweep"] or ()), default=None)


def _step(server: Mapping[str, Any] | None) -> float:
    """Return the largest factor between the rate that kept the bound and the next tried rates."""
    if not server or not server["rate"]:
        return 1.0
    rate, tried = server["rate"], [each["rate"] for each in server["trials"]]
    lower = max((each for each in tried if each < rate), default=rate)
    higher = min((each for each in tried if each > rate), default=rate)
    return float(max(rate / lower, higher / rate))


def _right(row: Row) -> NDArray[np.int64]:
    """Return for each image 1 if the row's class is right, else 0, [images]."""
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
