"""Verdict on benchmark results: ranking, Pareto front, recommended rows, and causes of slow rows.

Only significant differences between rows count:

- Accuracy counts as float32's unless McNemar's exact test finds a difference (p < 0.05) on the row's images.
- The front uses the measured latencies, relative to float32 in the same rounds. A recommendation treats rows without a
  significant difference (`Ratio.apart`) as equally fast.

There are three objectives, which consider only rows that lose at most `max_accuracy_drop`:

- `latency`: the shortest time of one image, model only, in this process, among stable rows. Ties: size, then threads.
- `size`: the smallest file and arena of a format that a device can run. Ties: raw pixels as input.
- `throughput`: the most images per second behind a server whose 99th percentile keeps the bound. Ties: latency.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tfship.benchmarks.analysis import formatting, slowdown_causes
from tfship.benchmarks.analysis.ratios import known, p50, ratio
from tfship.benchmarks.harness.timer import TOLERANCE
from tfship.export.conversion.formats import FORMATS
from tfship.export.publishing.gate import MAX_DROP
from tfship.train.common.errors import UsageError

__all__ = ["ELSEWHERE", "OBJECTIVES", "gain", "judge"]

Row = Mapping[str, Any]
# Kinds of rows that don't run in this process.
ELSEWHERE = ("browser", "served")

_SIGNIFICANT = 0.05
# Rounding error of float arithmetic: half an image in ten million.
_ROUNDING = 5e-8
# Formats within this factor may change places from one run to the next.
_SAME_RANK = 1.05
# Sizes within this factor are equal: files may differ by the lengths of names in them.
_SAME_SIZE = 1.01
_TAILS = (("p99", "p99_ms"), ("p50", "p50_ms"))


def judge(
    results: Mapping[str, Any], objective: str | None = None, max_accuracy_drop: float = MAX_DROP
) -> dict[str, Any]:
    """Return the verdict on the contents of a result file, by model.

    `{"models": {name: {"ranking", "front", "recommendations", "slower"}}}`:

    - `ranking`: the formats' names, fastest first (p50, model only, one thread), one list per rank.
    - `front`: names of the rows in this process that are Pareto-optimal in accuracy, p50 (model only) and size.
    - `recommendations`: `use` (a key of `OBJECTIVES`), `row` (a name, or None) and `sentence`, for each use or for
      `objective` only.
    - `slower`: `row`, `ratio` (to float32's p50) and `sentence`, see `benchmarks.analysis.slowdown_causes`.

    `max_accuracy_drop` is a share, 0 to 1. Raises UsageError for an unknown objective or an invalid share.
    """
    if objective is not None and objective not in OBJECTIVES:
        raise UsageError(f"unknown objective {objective!r}; expected one of {', '.join(OBJECTIVES)}")
    if not 0 <= max_accuracy_drop <= 1:
        raise UsageError(f"accuracy drop {max_accuracy_drop:g}: expected a share from 0 to 1")
    return {
        "models": {
            name: _verdict(_ModelRows(results, model, max_accuracy_drop), objective)
            for name, model in results["models"].items()
        }
    }


@dataclass(frozen=True)
class _ModelRows:
    """One model's rows and the criteria for them."""

    results: Mapping[str, Any]
    entry: Mapping[str, Any]
    max_drop: float

    @property
    def reference(self) -> Row:
        rows: Sequence[Row] = self.entry["rows"]
        return next(row for row in rows if row["name"] == self.entry["reference"])

    @property
    def in_process(self) -> list[Row]:
        """The rows in this process with stable times."""
        return [
            row
            for row in self.entry["rows"]
            if row["kind"] not in ELSEWHERE and p50(row["query"]) and known(row["query"])
        ]

    @property
    def files(self) -> list[Row]:
        """The TFLite files, each by its row with one thread and the delegate."""
        return [row for row in self.entry["rows"] if row["name"] == row["format"] and row["kind"] == "tflite"]

    def is_accurate(self, row: Row) -> bool:
        return gain(row) >= -self.max_drop - _ROUNDING

    def accuracy_text(self, row: Row) -> str:
        value, paired = row["accuracy"]["value"], row["against_float32"]
        name, images = self.entry["reference"], row["accuracy"]["images"]
        if row is self.reference:
            return f"accuracy {value:.4f}"
        if not paired["wins"] and not paired["losses"]:
            if images < self.reference["accuracy"]["images"]:
                return f"the same images right as with {name} (first {images:,} only)"
            return f"accuracy {value:.4f}, the same images right as with {name}"
        return (
            f"accuracy {value:.4f}, {name} {value - gain(row):.4f} "
            f"({images:,} images: {paired['wins']} won, {paired['losses']} lost, p {paired['mcnemar_p']:.2g})"
        )

    def relative_time(self, row: Row) -> float:
        """Return the row's time relative to the reference's; rows are ordered by it, as drift affects their p50s."""
        found = ratio(row["query"], self.reference["query"])
        return found.value if found else math.inf

    def time_text(self, row: Row) -> str:
        """Return the row's time relative to the reference's as a clause; "" if it is unknown."""
        found = ratio(row["query"], self.reference["query"])
        if row is self.reference or found is None:
            return ""
        stable = known(row["query"]) and known(self.reference["query"])
        return f", {found.text(self.entry['reference'])}{'' if stable else ', unstable'}"

    @property
    def bound_text(self) -> str:
        return f"with an accuracy loss of at most {self.max_drop:g}"


def _verdict(rows: _ModelRows, objective: str | None) -> dict[str, Any]:
    uses = OBJECTIVES if objective is None else {objective: OBJECTIVES[objective]}
    return {
        "ranking": _ranking(rows),
        "front": _front(rows),
        "recommendations": [
            {"use": use, "row": row and row["name"], "sentence": sentence}
            for use, recommend in uses.items()
            for row, sentence in [recommend(rows)]
        ],
        "slower": slowdown_causes.slower(rows.entry),
    }


def _ranking(model: _ModelRows) -> list[list[str]]:
    """Return the formats by rank, fastest first. A format within 5 % of the one before it shares its rank.

    Ties keep file order.
    """
    ranks: list[list[Row]] = []
    formats = [row for row in model.entry["rows"] if row["name"] == row["format"] and p50(row["query"])]
    for row in sorted(formats, key=model.relative_time):
        if ranks and model.relative_time(row) <= _SAME_RANK * model.relative_time(ranks[-1][-1]):
            ranks[-1].append(row)
        else:
            ranks.append([row])
    return [[row["name"] for row in formats if row in rank] for rank in ranks]


def _front(model: _ModelRows) -> list[str]:
    """Return the names of the rows that no other row dominates in accuracy, time and size."""
    costs = {
        row["name"]: (
            -(gain(row) if row["against_float32"]["mcnemar_p"] < _SIGNIFICANT else 0.0),
            model.relative_time(row),
            row["bytes"],
        )
        for row in model.in_process
    }

    def is_dominated(cost: tuple[float, ...]) -> bool:
        return any(
            other != cost and all(a <= b for a, b in zip(other, cost, strict=True))
            for other in costs.values()
        )

    return [name for name, cost in costs.items() if not is_dominated(cost)]


def gain(row: Row) -> float:
    """Return the row's accuracy less the reference's on the row's images, as a share.

    Accuracies themselves can't be compared if one is of fewer images.
    """
    paired = row["against_float32"]
    return float(paired["wins"] - paired["losses"]) / float(row["accuracy"]["images"])


def _latency(model: _ModelRows) -> tuple[Row | None, str]:
    rows = [row for row in model.in_process if model.is_accurate(row)]
    if not rows:
        return None, (
            f"Lowest latency: no row {model.bound_text} has stable times; measure again on a quieter machine."
        )
    fastest = min(rows, key=model.relative_time)
    # However noisy the figures are, a row slower by more than the tolerance of windows isn't a tie.
    tied = [
        row
        for row in rows
        if model.relative_time(row) <= TOLERANCE * model.relative_time(fastest) and not _apart(row, fastest)
    ]
    small = _SAME_SIZE * min(row["bytes"] for row in tied)
    best = min(
        (row for row in tied if row["bytes"] <= small),
        # Remaining ties: the first in file order, which lists the simplest format first.
        key=lambda row: row["threads"] or model.results["environment"]["cores"],
    )
    machine = model.results["environment"]
    sentence = (
        f"Lowest latency on this machine ({machine['cpu']}, {machine['cores']} cores): {best['name']} with "
        f"{formatting.microseconds(best['query']['p50_us'])} per image (p50, model only){model.time_text(best)}; "
        f"{model.accuracy_text(best)}."
    )
    if others := [row for row in tied if row is not best]:
        verb = "is" if len(others) == 1 else "are"
        sentence += f" {_listed(others)} {verb} equally fast within noise; {_tie_break(best, others)}."
    return best, sentence


def _apart(row: Row, other: Row) -> bool:
    found = ratio(row["query"], other["query"])
    return found is not None and found.apart


def _tie_break(best: Row, others: Sequence[Row]) -> str:
    """Return the reason for choosing `best` among equally fast rows."""
    smallest = min(row["bytes"] for row in others)
    if best["bytes"] * _SAME_SIZE < smallest:
        own, other = formatting.size(best["bytes"]), formatting.size(smallest)
        return f"{best['name']} is smaller ({own} instead of at least {other})"
    small = [row for row in others if row["bytes"] <= best["bytes"] * _SAME_SIZE]
    if best["threads"] and all(row["threads"] is None or row["threads"] > best["threads"] for row in small):
        return f"{best['name']} is as small and needs the fewest threads"
    return f"among those of the same size and number of threads, {best['name']} is the simplest"


def _size(model: _ModelRows) -> tuple[Row | None, str]:
    rows = [row for row in model.files if model.is_accurate(row)]
    if not rows:
        return None, f"Smallest for a device: there is no file {model.bound_text}."
    integer = [row for row in rows if FORMATS[row["format"]].integer]
    # If an arena wasn't measured, only the files are compared.
    known = all(row["arena_bytes"] is not None for row in integer)
    footprints = {
        row["name"]: row["bytes"] + (row["arena_bytes"] if integer and known else 0)
        for row in integer or rows
    }
    small = _SAME_SIZE * min(footprints.values())
    tied = [row for row in integer or rows if footprints[row["name"]] <= small]
    best = min(tied, key=lambda row: (FORMATS[row["format"]].edge == "float32", footprints[row["name"]]))
    if not integer:
        arena = f"; there is no integer format {model.bound_text}, so the device must compute in float32"
    elif not known:
        arena = "; its arena wasn't measured"
    else:
        arena = f" and an arena of {formatting.size(best['arena_bytes'])}"
    sentence = (
        f"Smallest for a device: {best['name']} with a file of {formatting.size(best['bytes'])}{arena}; "
        f"{best['bytes'] / model.reference['bytes']:.2f} times float32's size{model.time_text(best)}; "
        f"{model.accuracy_text(best)}."
    )
    others = [row for row in tied if row is not best]
    if others and FORMATS[best["format"]].edge != "float32":
        sentence += (
            f" {_listed(others)} {'is' if len(others) == 1 else 'are'} equally small; {best['name']} takes "
            f"{FORMATS[best['format']].edge} pixels without conversion."
        )
    return best, sentence


def _throughput(model: _ModelRows) -> tuple[Row | None, str]:
    served = [row for row in model.entry["rows"] if row["kind"] == "served" and model.is_accurate(row)]
    rates = {row["name"]: row["scenarios"]["server"]["rate"] for row in served if _has_rate(row)}
    bounded = bool(rates)
    if not bounded:
        rates = {row["name"]: max(each["rate"] for each in row["sweep"]) for row in served if row["sweep"]}
    if not rates:
        return None, (
            f"Highest throughput behind a server: no served row {model.bound_text} was measured under load."
        )
    rows = {row["name"]: row for row in served if row["name"] in rates}
    highest = max(rates.values())
    # Trials aren't repeated; their noise is assumed to be the tolerance of windows.
    tied = [
        row
        for name, row in rows.items()
        if max(rates[name] * TOLERANCE, _lowest_missed_rate(row) or 0) >= highest
    ]
    best = min(tied, key=lambda row: (model.relative_time(row), -rates[row["name"]]))
    sentence = (
        f"Highest throughput behind a server: {best['name']} with {_rate_text(model, best, bounded=bounded)}"
    )
    others = {name: rate for name, rate in rates.items() if name != best["name"]}
    if others:
        second = max(others, key=lambda name: others[name])
        sentence += (
            f", {rates[best['name']] / others[second]:.2f} times the rate of {second} "
            f"({others[second]:,.0f}/s)"
        )
    sentence += f"; {model.accuracy_text(best)}."
    if len(tied) > 1:
        equal = [row for row in tied if row is not best]
        sentence += (
            f" {_listed(equal)} {'is' if len(equal) == 1 else 'are'} equally fast within noise; "
            f"{best['name']} has the lowest latency for a single request."
        )
    return best, sentence


def _has_rate(row: Row) -> bool:
    server = row["scenarios"]["server"]
    return bool(server and server["rate"])


def _lowest_missed_rate(row: Row) -> float | None:
    """Return the lowest tried rate above the row's own, which therefore missed the bound; None if there is none."""
    if not _has_rate(row):
        return None
    server = row["scenarios"]["server"]
    missed = [each["rate"] for each in server["trials"] if not each["kept"] and each["rate"] > server["rate"]]
    return min(missed, default=None)


def _rate_text(model: _ModelRows, row: Row, *, bounded: bool) -> str:
    if not bounded:
        best = max(row["sweep"], key=lambda each: each["rate"])
        # A short run has too few responses for the 99th percentile, and on a busy machine even for the median.
        tail = next((f"{which} {best[key]:.3g} ms, " for which, key in _TAILS if best[key] is not None), "")
        return (
            f"{best['rate']:,.0f} images/s in a closed loop of {best['connections']} connections "
            f"({tail}one run; no result of the Server scenario)"
        )
    server, missed = row["scenarios"]["server"], _lowest_missed_rate(row)
    higher = "no higher rate was tried" if missed is None else f"{missed:,.0f}/s missed the bound"
    return (
        f"{server['rate']:,.0f} images/s, 99 % of responses within {model.results['bound_ms']:g} ms "
        f"(p99 {server['p99_ms']:.3g} ms; {higher})"
    )


def _listed(rows: Sequence[Row]) -> str:
    return formatting.listed([row["name"] for row in rows])


# Each objective's function returns the recommended row, or None, and a sentence.
OBJECTIVES: Mapping[str, Callable[[_ModelRows], tuple[Row | None, str]]] = {
    "latency": _latency,
    "size": _size,
    "throughput": _throughput,
}
