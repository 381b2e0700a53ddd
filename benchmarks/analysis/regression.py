"""Regressions between two result files.

Each figure of each row is compared as a factor: how many times worse it is. It is a regression if the factor exceeds
the figure's noise band.

Times (p50 of `query`, `end_to_end`, batches) are relative to the same run's reference row, float32 with one thread. So
the machine's speed on that day cancels out. Their band is the largest of

- 10 %, the tolerance within which windows agree;
- the combined spread of the rounds in both files. It is wide for unstable rows, which need no separate rule;
- the scatter between two runs on this machine, at most 50 %, so that large changes never pass as noise.

The scatter is computed from a model's factors for the figure: 1.4826 times their median absolute deviation, which is
the standard deviation of a normal distribution. The few rows with regressions hardly affect it. A factor √2 accounts
for the reference, which is as noisy as the other rows. The number of deviations is chosen so that the worst comparison
of two equal runs exceeds the band once in a hundred pairs of runs (Bonferroni). It comes from Student's distribution,
because a scatter of few rows is uncertain. Simulated runs whose rows vary by a standard deviation of 5 % pass.

The reference's own times are absolute. They are compared only if processor and cores are the same, and must be more
than 50 % longer. On another machine the ratios differ, too, as processors have different strengths: a time must triple.

A 99th percentile, which other programs on the machine influence, must double relative to the reference's. The rate
behind a server (from the Server scenario, else the best of the sweep) is measured in images per inference of the
reference. It must fall by more than a factor of 1.3 and by more than one step between the tried rates. Peak memory must
grow by more than 20 %, a file or an arena by more than 1 %.

Accuracy has no noise for the same file and images, so it is compared image by image. A regression is more losses than
wins at p < 0.01 (McNemar's exact test), or a drop of more than 0.005. If the images differ, the 95 % intervals must not
overlap.

A row that is missing, or no longer timed, is a regression; a new row isn't. Other figures that are no longer measured,
changed weights and new rows are reported as remarks.
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
# Standard deviation of a normal distribution divided by its median absolute deviation.
_NORMAL = 1.4826
# Efficiency of the median absolute deviation relative to the standard deviation: the share of effective values.
_EFFICIENCY = 0.37
_MAX_SCATTER = 1.5
# With fewer rows a median of deviations isn't meaningful.
_MIN_SCATTER_ROWS = 8


@dataclass(frozen=True)
class FileComparison:
    """All comparisons, in the old file's order, and `remarks` on figures not compared and on new rows."""

    checks: Sequence[Check]
    remarks: Sequence[str]

    @property
    def regressions(self) -> list[Check]:
        """The comparisons that got worse."""
        return [each for each in self.checks if each.found == WORSE]

    def describe(self) -> dict[str, Any]:
        """Return the comparison as JSON data."""
        return {
            "passed": not self.regressions,
            "regressions": [each.sentence() for each in self.regressions],
            "remarks": list(self.remarks),
            "checks": [asdict(each) for each in self.checks],
        }


def compare(old: Results, new: Results) -> FileComparison:
    """Compare the contents of two result files of the same schema.

    Raises DataError if their data differ, ArtifactError if their modes or references differ or a file is damaged.
    """
    _check_comparable(old, new)
    same_machine, same_bound = _machine(old) == _machine(new), old["bound_ms"] == new["bound_ms"]
    checks: list[Check] = []
    for name, model in old["models"].items():
        if name in new["models"]:
            checks += Pair(name, model, new["models"][name], same_machine, same_bound).checks()
        else:
            note = f"the model is missing, with its {len(model['rows'])} rows"
            checks.append(Check(name, "all rows", "row", None, None, None, None, WORSE, note))
    return FileComparison(_with_scatter(checks), list(_remarks(old, new, checks)))


def _check_comparable(old: Results, new: Results) -> None:
    before, now = old["data"], new["data"]
    if before["sha256"] != now["sha256"]:
        raise DataError(
            f"the baseline was measured on {before['label']} (sha256 {before['sha256'][:12]}…), the new results on "
            f"{now['label']} ({now['sha256'][:12]}…); measure both on the same data"
        )
    if old["mode"] != new["mode"]:
        raise ArtifactError(
            f"the baseline was measured in mode {old['mode']}, the new results in mode {new['mode']}, with different "
            "rows and numbers of samples; measure both in the same mode"
        )
    for name in old["models"].keys() & new["models"].keys():
        references = [each["models"][name]["reference"] for each in (old, new)]
        if references[0] != references[1]:
            raise ArtifactError(
                f"{name}: the baseline's times are relative to {references[0]}, the new ones to {references[1]}; "
                "measure both with the same reference"
            )


def _machine(results: Results) -> str:
    return f"{results['environment']['cpu']}, {results['environment']['cores']} cores"


def _remarks(old: Results, new: Results, checks: Sequence[Check]) -> Iterator[str]:
    if _machine(old) != _machine(new):
        yield (
            f"another machine: {_machine(old)} before, {_machine(new)} now; the reference's own times aren't judged, "
            f"other times only count if they are more than {ELSEWHERE:g} times as long relative to it"
        )
    if old["bound_ms"] != new["bound_ms"]:
        yield (
            f"another latency bound: {old['bound_ms']:g} ms before, {new['bound_ms']:g} ms now; the Server scenario "
            "isn't judged"
        )
    for name, model in new["models"].items():
        before = old["models"].get(name)
        if before is None:
            yield f"{name}: new, with {len(model['rows'])} rows"
            continue
        if model["keras_sha256"] != before["keras_sha256"]:
            yield f"{name}: the weights differ from the baseline's"
        names_before = {row["name"] for row in before["rows"]}
        if added := [row["name"] for row in model["rows"] if row["name"] not in names_before]:
            yield f"{name}: new: {'; '.join(added)}"
        if unstable := [row["name"] for row in model["rows"] if _is_unstable(row)]:
            yield f"{name}: unstable, judged with a wider band: {'; '.join(unstable)}"
    yield from (f"not judged: {each.sentence()}" for each in checks if each.found == UNJUDGED)


def _is_unstable(row: Mapping[str, Any]) -> bool:
    return any(row[clock] and not known(row[clock]) for clock in ("query", "end_to_end"))


def _with_scatter(checks: Sequence[Check]) -> list[Check]:
    """Return `checks` with the bands of shared figures widened to the scatter of each model's rows."""
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
    """Return the band for one figure's `factors` (logarithms).

    By chance the worst of `comparisons` comparisons exceeds it with probability `_CHANCE`.
    """
    if len(factors) < _MIN_SCATTER_ROWS:
        return 1.0
    from scipy.stats import t as student

    middle = statistics.median(factors)
    deviation = _NORMAL * statistics.median(abs(each - middle) for each in factors)
    deviations = float(student.isf(_CHANCE / comparisons, _EFFICIENCY * len(factors)))
    return min(math.exp(deviations * math.sqrt(2) * deviation), _MAX_SCATTER)
