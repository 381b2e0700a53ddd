"""What a benchmark's results mean: which rows are worth a thought, which to use for what, what is slow and why.

A row is better than another only where that is real:

- accuracy is float32's unless McNemar's exact test tells them apart (p < 0.05) on the images that they were asked;
- the front takes latencies as they were measured, beside float32's in the same rounds; a recommendation takes rows that
  can't be told apart (`Ratio.apart`) for equally fast, and then the smallest of them, with the fewest threads.

So an objective never stands alone. `latency` is the shortest time of one image, model only, in this process, among
rows that settled; `size` the smallest file and arena of a format that a device can run; `throughput` the most images
per second behind a server whose 99th percentile keeps the bound. Each among the rows that lose no more accuracy than
`max_accuracy_drop`, and what is alike in it is decided by what comes next: of `latency` size and threads, of `size`
whether raw pixels go in, of `throughput` latency.
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

__all__ = ["OBJECTIVES", "gain", "judge"]

Row = Mapping[str, Any]

_SIGNIFICANT = 0.05
# Half an image in ten million is float arithmetic, not a difference.
_ROUNDING = 5e-8
# What is no further apart than this, two runs in a row may well find the other way round.
_SAME_RANK = 1.05
# Files that differ by their names' lengths are equally small.
_AS_SMALL = 1.01
_TAILS = (("p99", "p99_ms"), ("p50", "p50_ms"))


def judge(
    results: Mapping[str, Any], objective: str | None = None, max_accuracy_drop: float = MAX_DROP
) -> dict[str, Any]:
    """Return what follows from a result file's contents, by model.

    `{"models": {name: {"ranking", "front", "recommendations", "slower"}}}`: `ranking` are the formats' names from the
    fastest on (p50 of the model alone, one thread), those of each rank in a list; `front` are the names of the rows in
    this process that no other beats (Pareto) in accuracy, p50 of the model alone and size at once; `recommendations`
    are `use` (a key of `OBJECTIVES`), `row` (a name, None where no row will do) and `sentence`, one for each use or for
    the `objective` only; `slower` are `row`, `ratio` (to float32's p50) and `sentence`, see
    `benchmarks.analysis.slowdown_causes`. `max_accuracy_drop` is a share, 0 to 1. Raises UsageError for another
    objective or share.
    """
    if objective is not None and objective not in OBJECTIVES:
        raise UsageError(f"no objective is called {objective!r}; there are {', '.join(OBJECTIVES)}")
    if not 0 <= max_accuracy_drop <= 1:
        raise UsageError(f"an accuracy drop of {max_accuracy_drop:g}: expected a share from 0 to 1")
    return {
        "models": {
            name: _judged(_Field(results, model, max_accuracy_drop), objective)
            for name, model in results["models"].items()
        }
    }


@dataclass(frozen=True)
class _Field:
    """One model's rows, and what all of them are held against."""

    results: Mapping[str, Any]
    model: Mapping[str, Any]
    max_drop: float

    @property
    def reference(self) -> Row:
        rows: Sequence[Row] = self.model["rows"]
        return next(row for row in rows if row["name"] == self.model["reference"])

    @property
    def in_process(self) -> list[Row]:
        """The rows in this process whose time can be trusted."""
        return [
            row
            for row in self.model["rows"]
            if row["kind"] != "served" and p50(row["query"]) and known(row["query"])
        ]

    @property
    def files(self) -> list[Row]:
        """The TFLite files, each once: by the row with one thread and the delegate."""
        return [row for row in self.model["rows"] if row["name"] == row["format"] and row["kind"] == "tflite"]

    def accurate(self, row: Row) -> bool:
        return gain(row) >= -self.max_drop - _ROUNDING

    def accuracy(self, row: Row) -> str:
        value, paired = row["accuracy"]["value"], row["against_float32"]
        name, images = self.model["reference"], row["accuracy"]["images"]
        if row is self.reference:
            return f"accuracy {value:.4f}"
        if images < self.reference["accuracy"]["images"] and not paired["wins"] and not paired["losses"]:
            return f"accuracy {name}'s image by image, of the first {images:,}"
        if not paired["wins"] and not paired["losses"]:
            return f"accuracy {value:.4f}, {name}'s image by image"
        return (
            f"accuracy {value:.4f} against {value - gain(row):.4f} "
            f"(of {images:,} images {paired['wins']} won, {paired['losses']} lost, "
            f"p {paired['mcnemar_p']:.2g})"
        )

    def times(self, row: Row) -> float:
        """How many times the reference's time a row takes: rows are ordered by that, as their p50s have the drift."""
        found = ratio(row["query"], self.reference["query"])
        return found.value if found else math.inf

    def time(self, row: Row) -> str:
        """How long it takes beside the reference, or nothing where that isn't known."""
        found = ratio(row["query"], self.reference["query"])
        if row is self.reference or found is None:
            return ""
        unsteady = "" if known(row["query"]) and known(self.reference["query"]) else ", and never settled"
        return f", {found.text(self.model['reference'])}{unsteady}"


def _judged(field: _Field, objective: str | None) -> dict[str, Any]:
    uses = OBJECTIVES if objective is None else {objective: OBJECTIVES[objective]}
    return {
        "ranking": _ranking(field),
        "front": _front(field),
        "recommendations": [
            {"use": use, "row": row and row["name"], "sentence": sentence}
            for use, recommend in uses.items()
            for row, sentence in [recommend(field)]
        ],
        "slower": slowdown_causes.slower(field.model),
    }


def _ranking(field: _Field) -> list[list[str]]:
    """Return the formats by rank, the fastest first: one that is hardly slower than the one before shares its rank.

    Those of a rank stand in the file's order, as there is none between them.
    """
    ranks: list[list[Row]] = []
    formats = [row for row in field.model["rows"] if row["name"] == row["format"] and p50(row["query"])]
    for row in sorted(formats, key=field.times):
        if ranks and field.times(row) <= _SAME_RANK * field.times(ranks[-1][-1]):
            ranks[-1].append(row)
        else:
            ranks.append([row])
    return [[row["name"] for row in formats if row in rank] for rank in ranks]


def _front(field: _Field) -> list[str]:
    """Return the rows that none beats: at least as good in everything and better in something."""
    costs = {
        row["name"]: (
            -(gain(row) if row["against_float32"]["mcnemar_p"] < _SIGNIFICANT else 0.0),
            field.times(row),
            row["bytes"],
        )
        for row in field.in_process
    }

    def beaten(mine: tuple[float, ...]) -> bool:
        return any(
            its != mine and all(a <= b for a, b in zip(its, mine, strict=True)) for its in costs.values()
        )

    return [name for name, mine in costs.items() if not beaten(mine)]


def gain(row: Row) -> float:
    """Return how much more accurate a row is than the reference, on the images that it was asked: a share.

    Accuracies themselves can't be compared where one is of fewer images.
    """
    paired = row["against_float32"]
    return float(paired["wins"] - paired["losses"]) / float(row["accuracy"]["images"])


def _latency(field: _Field) -> tuple[Row | None, str]:
    rows = [row for row in field.in_process if field.accurate(row)]
    if not rows:
        return None, f"Lowest latency: no row settled and {_lost(field)}; measure again on a quieter machine."
    fastest = min(rows, key=field.times)
    # What looks slower by more than windows that agree may differ isn't preferred, however noisy the figures are.
    alike = [
        row
        for row in rows
        if field.times(row) <= TOLERANCE * field.times(fastest) and not _apart(row, fastest)
    ]
    small = _AS_SMALL * min(row["bytes"] for row in alike)
    best = min(
        (row for row in alike if row["bytes"] <= small),
        # The first of those that are left: formats are listed from the simplest on.
        key=lambda row: row["threads"] or field.results["environment"]["cores"],
    )
    machine = field.results["environment"]
    sentence = (
        f"Lowest latency on this machine ({machine['cpu']}, {machine['cores']} cores): {best['name']} with "
        f"{formatting.microseconds(best['query']['p50_us'])} for an image (p50, model only){field.time(best)}; "
        f"{field.accuracy(best)}."
    )
    if others := [row for row in alike if row is not best]:
        sentence += f" {_listed(others)} can't be told apart from it here; {_preferred(best, others)}."
    return best, sentence


def _apart(row: Row, other: Row) -> bool:
    found = ratio(row["query"], other["query"])
    return found is not None and found.apart


def _preferred(best: Row, others: Sequence[Row]) -> str:
    """Why the best of rows that are equally fast is that."""
    least = min(row["bytes"] for row in others)
    if best["bytes"] * _AS_SMALL < least:
        return f"{best['name']} is smaller ({formatting.size(best['bytes'])} against {formatting.size(least)} or more)"
    small = [row for row in others if row["bytes"] <= best["bytes"] * _AS_SMALL]
    if best["threads"] and all(row["threads"] is None or row["threads"] > best["threads"] for row in small):
        return f"{best['name']} is as small as any of them and needs the fewest threads"
    return f"of those that are as small and need as few threads {best['name']} is the simplest"


def _size(field: _Field) -> tuple[Row | None, str]:
    rows = [row for row in field.files if field.accurate(row)]
    if not rows:
        return None, f"Smallest for a device: no file {_lost(field)}."
    integer = [row for row in rows if FORMATS[row["format"]].integer]
    # An arena that wasn't measured is not a small one: then the files alone decide.
    known = all(row["arena_bytes"] is not None for row in integer)
    footprints = {
        row["name"]: row["bytes"] + (row["arena_bytes"] if integer and known else 0)
        for row in integer or rows
    }
    small = _AS_SMALL * min(footprints.values())
    alike = [row for row in integer or rows if footprints[row["name"]] <= small]
    best = min(alike, key=lambda row: (FORMATS[row["format"]].edge == "float32", footprints[row["name"]]))
    if not integer:
        arena = f"; no integer format {_lost(field)}, so the device must compute in float32"
    elif not known:
        arena = "; its arena wasn't measured"
    else:
        arena = f" and an arena of {formatting.size(best['arena_bytes'])}"
    sentence = (
        f"Smallest for a device: {best['name']} with a file of {formatting.size(best['bytes'])}{arena}; "
        f"{best['bytes'] / field.reference['bytes']:.2f} times float32's size{field.time(best)}; "
        f"{field.accuracy(best)}."
    )
    others = [row for row in alike if row is not best]
    if others and FORMATS[best["format"]].edge != "float32":
        sentence += (
            f" {_listed(others)} {'is' if len(others) == 1 else 'are'} as small; {best['name']} takes "
            f"{FORMATS[best['format']].edge} pixels as they are."
        )
    return best, sentence


def _throughput(field: _Field) -> tuple[Row | None, str]:
    served = [row for row in field.model["rows"] if row["kind"] == "served" and field.accurate(row)]
    rates = {row["name"]: row["scenarios"]["server"]["rate"] for row in served if _has_rate(row)}
    bounded = bool(rates)
    if not bounded:
        rates = {row["name"]: max(each["rate"] for each in row["sweep"]) for row in served if row["sweep"]}
    if not rates:
        return (
            None,
            f"Highest throughput behind a server: no served row was put under load and {_lost(field)}.",
        )
    rows = {row["name"]: row for row in served if row["name"] in rates}
    most = max(rates.values())
    # Trials aren't repeated; what they find comes as near to itself as windows do that agree.
    alike = [row for name, row in rows.items() if max(rates[name] * TOLERANCE, _missed(row) or 0) >= most]
    best = min(alike, key=lambda row: (field.times(row), -rates[row["name"]]))
    sentence = (
        f"Highest throughput behind a server: {best['name']} with {_load(field, best, bounded=bounded)}"
    )
    others = {name: rate for name, rate in rates.items() if name != best["name"]}
    if others:
        behind = max(others, key=lambda name: others[name])
        sentence += (
            f", {rates[best['name']] / others[behind]:.2f} times that of {behind} ({others[behind]:,.0f}/s)"
        )
    sentence += f"; {field.accuracy(best)}."
    if len(alike) > 1:
        sentence += (
            f" {_listed([row for row in alike if row is not best])} can't be told apart from it here; "
            f"{best['name']} answers a single request soonest."
        )
    return best, sentence


def _has_rate(row: Row) -> bool:
    server = row["scenarios"]["server"]
    return bool(server and server["rate"])


def _missed(row: Row) -> float | None:
    """Return the lowest rate above the row's own that was tried and didn't keep the bound."""
    if not _has_rate(row):
        return None
    server = row["scenarios"]["server"]
    missed = [each["rate"] for each in server["trials"] if not each["kept"] and each["rate"] > server["rate"]]
    return min(missed, default=None)


def _load(field: _Field, row: Row, *, bounded: bool) -> str:
    if not bounded:
        best = max(row["sweep"], key=lambda each: each["rate"])
        # A brief run has too few answers for the 99th percentile, and on a busy machine for the median, too.
        tail = next((f"{which} {best[key]:.3g} ms, " for which, key in _TAILS if best[key] is not None), "")
        return (
            f"{best['rate']:,.0f} images/s in a closed loop of {best['connections']} connections "
            f"({tail}one run; no rate kept a bound, or none was sought)"
        )
    server, missed = row["scenarios"]["server"], _missed(row)
    beyond = "no higher rate was tried" if missed is None else f"{missed:,.0f}/s were too many"
    return (
        f"{server['rate']:,.0f} images/s, 99 % of them answered within {field.results['bound_ms']:g} ms "
        f"(p99 {server['p99_ms']:.3g} ms; {beyond})"
    )


def _listed(rows: Sequence[Row]) -> str:
    return formatting.listed([row["name"] for row in rows])


def _lost(field: _Field) -> str:
    return f"keeps float32's accuracy to within {field.max_drop:g}"


# What one may want most, and what then is best.
OBJECTIVES: Mapping[str, Callable[[_Field], tuple[Row | None, str]]] = {
    "latency": _latency,
    "size": _size,
    "throughput": _throughput,
}
