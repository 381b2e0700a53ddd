"""What got worse from one result file to the next, beyond what measuring twice does.

Each figure of each row is compared as a factor: how many times worse it is, beside the band, how many times worse noise
may make it. What is beyond the band is a regression.

Times (p50 of `query`, `end_to_end`, batches) are quotients to the same run's reference row, float32 by one thread, so
that a machine that is faster or slower today changes nothing. Their band is the largest of

- 10 %, as windows that agree may differ;
- how far the rounds of both files lie apart, together. So a row that never settled needs no rule of its own: its band
  is as wide as it is unsteady;
- how far two runs of this machine differ: the scatter of a model's factors of that figure around their median (1.4826
  times the median absolute deviation, a normal distribution's standard deviation; the few rows that did get worse
  hardly move it), times √2, as the reference that all of them stand beside is as noisy as any, times as many deviations
  as the worst of so many comparisons exceeds once in a hundred pairs of runs (Bonferroni), by Student's distribution:
  of few rows the scatter isn't well known. Simulated runs whose rows vary by a standard deviation of 5 % pass. It
  counts for at most 50 %: what is more must not pass as noise.

The reference itself has only the clock. Its times are compared where processor and cores are the same, and must be more
than 50 % longer. On another machine the quotients are others, too, as processors are good at different things: there a
time must triple.

A 99th percentile is made by whatever else the machine does: it must double, beside the reference's. The rate behind a
server (the Server scenario's, else the best of the sweep) counts in images for each inference of the reference; it must
fall by more than a factor of 1.3, and by more than lies between the rates that were tried. Peak memory must grow by
more than 20 %, a file or an arena by more than 1 %.

Accuracy has no noise in the same file on the same images, so it's compared image by image: a regression are more losses
than wins at p < 0.01 (McNemar's exact test), or a drop of more than 0.005. Where the images are other ones, the 95 %
intervals must be apart.

A row that is missing, or isn't timed any more, is a regression; a new one isn't. Any other figure that was there and
isn't any more is told, as are other weights and new rows.
"""

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from tfship.benchmarks.analysis.differences import ELSEWHERE, UNJUDGED, WORSE, Check, Pair, found
from tfship.benchmarks.analysis.ratios import known
from tfship.train.common.errors import ArtifactError, DataError

__all__ = ["FileComparison", "compare"]

Results = Mapping[str, Any]

_CHANCE = 0.01
# The median absolute deviation of a normal distribution times this is its standard deviation.
_NORMAL = 1.4826
# And it's as good as the standard deviation of so much fewer values.
_EFFICIENCY = 0.37
_SCATTER_AT_MOST = 1.5
# Of fewer rows a median of deviations says nothing.
_SCATTER_ROWS = 8


@dataclass(frozen=True)
class FileComparison:
    """All that was compared, in the old file's order, and `remarks` on what couldn't be, or is new."""

    checks: Sequence[Check]
    remarks: Sequence[str]

    @property
    def regressions(self) -> list[Check]:
        """What got worse."""
        return [each for each in self.checks if each.found == WORSE]

    def describe(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {
            "passed": not self.regressions,
            "regressions": [each.sentence() for each in self.regressions],
            "remarks": list(self.remarks),
            "checks": [asdict(each) for each in self.checks],
        }


def compare(old: Results, new: Results) -> FileComparison:
    """Compare the contents of two result files of the same schema.

    Raises DataError if they are about other data, ArtifactError if their modes or references differ, as their figures
    then mean different things, or if one is damaged.
    """
    _refuse(old, new)
    same_machine, same_bound = _machine(old) == _machine(new), old["bound_ms"] == new["bound_ms"]
    checks: list[Check] = []
    for name, model in old["models"].items():
        if name in new["models"]:
            checks += Pair(name, model, new["models"][name], same_machine, same_bound).checks()
        else:
            why = f"the model is gone, and its {len(model['rows'])} rows with it"
            checks.append(Check(name, "all rows", "row", None, None, None, None, WORSE, why))
    return FileComparison(_with_scatter(checks), list(_remarks(old, new, checks)))


def _refuse(old: Results, new: Results) -> None:
    before, now = old["data"], new["data"]
    if before["sha256"] != now["sha256"]:
        raise DataError(
            f"the baseline was measured on {before['label']} (sha256 {before['sha256'][:12]}…), the new results on "
            f"{now['label']} ({now['sha256'][:12]}…); measure both on the same data"
        )
    if old["mode"] != new["mode"]:
        raise ArtifactError(
            f"the baseline was measured in mode {old['mode']}, the new results in mode {new['mode']}: other rows, "
            "other numbers of samples; measure both in the same mode"
        )
    for name in old["models"].keys() & new["models"].keys():
        references = [each["models"][name]["reference"] for each in (old, new)]
        if references[0] != references[1]:
            raise ArtifactError(
                f"{name}: the baseline's times stand beside {references[0]}'s, the new ones beside {references[1]}'s; "
                "measure both with the same reference"
            )


def _machine(results: Results) -> str:
    return f"{results['environment']['cpu']}, {results['environment']['cores']} cores"


def _remarks(old: Results, new: Results, checks: Sequence[Check]) -> Iterator[str]:
    if _machine(old) != _machine(new):
        yield (
            f"another machine: {_machine(old)} before, {_machine(new)} now; the reference's own times aren't judged, "
            f"others only where they are {ELSEWHERE:g} times as long beside it"
        )
    if old["bound_ms"] != new["bound_ms"]:
        yield (
            f"another bound: {old['bound_ms']:g} ms before, {new['bound_ms']:g} ms now; Server isn't judged"
        )
    for name, model in new["models"].items():
        before = old["models"].get(name)
        if before is None:
            yield f"{name}: new, with {len(model['rows'])} rows"
            continue
        if model["keras_sha256"] != before["keras_sha256"]:
            yield f"{name}: other weights than before"
        there = {row["name"] for row in before["rows"]}
        if added := [row["name"] for row in model["rows"] if row["name"] not in there]:
            yield f"{name}: new: {'; '.join(added)}"
        if unsteady := [row["name"] for row in model["rows"] if _unsteady(row)]:
            yield f"{name}: never settled, and judged by as wide a band: {'; '.join(unsteady)}"
    yield from (f"not judged: {each.sentence()}" for each in checks if each.found == UNJUDGED)


def _unsteady(row: Mapping[str, Any]) -> bool:
    return any(row[clock] and not known(row[clock]) for clock in ("query", "end_to_end"))


def _with_scatter(checks: Sequence[Check]) -> list[Check]:
    """Widen the bands of what is noisy in all rows alike by how far a model's rows lie apart."""
    factors: dict[tuple[str, str], list[float]] = {}
    for each in checks:
        if each.shared and each.worse:
            factors.setdefault((each.model, each.figure), []).append(math.log(each.worse))
    count = sum(map(len, factors.values()))
    bands = {key: _scatter(each, count) for key, each in factors.items()}
    return [
        replace(each, band=band, found=found(each.worse, band))
        if each.shared and each.worse and each.band and (band := bands[each.model, each.figure]) > each.band
        else each
        for each in checks
    ]


def _scatter(factors: Sequence[float], comparisons: int) -> float:
    """Return the factor that the worst of so many comparisons hardly exceeds by chance, from logarithms of factors."""
    if len(factors) < _SCATTER_ROWS:
        return 1.0
    from scipy.stats import t as student

    middle = statistics.median(factors)
    deviation = _NORMAL * statistics.median(abs(each - middle) for each in factors)
    deviations = float(student.isf(_CHANCE / comparisons, _EFFICIENCY * len(factors)))
    return min(math.exp(deviations * math.sqrt(2) * deviation), _SCATTER_AT_MOST)
