"""What a page shows folded: operators, LoadGen's words, the Server scenario's trials, images that changed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tfship.benchmarks.report.figures import EMPTY, number
from tfship.benchmarks.report.models import Model, Row
from tfship.benchmarks.report.tables import SCENARIOS, Cell, Column, Table, table

__all__ = ["ChangedImage", "changed", "files", "operators", "summaries", "trials"]


@dataclass(frozen=True)
class ChangedImage:
    """An image whose class changed: its picture, what was said before and now, and whether that's better."""

    image: int
    png: str
    truth: str
    before: str
    now: str
    margin: str
    verdict: str


def changed(model: Model) -> dict[str, tuple[int, list[ChangedImage]]]:
    """Return by format how many images changed, and those that the results show."""
    return {
        name: (each["count"], [_change(shown, model.found["labels"]) for shown in each["shown"]])
        for name, each in model.found["changed"].items()
    }


def operators(model: Model) -> Table | None:
    """Return the microseconds of every operator by format; None where they weren't measured."""
    found: Mapping[str, Sequence[Mapping[str, Any]]] = model.found["operators"]
    found = {name: each for name, each in found.items() if each}
    if not found:
        return None
    spent = {
        name: {(each["name"], each["operator"]): each for each in format_operators}
        for name, format_operators in found.items()
    }
    # In the order of the format that has most of them.
    keys = list(dict.fromkeys(key for each in sorted(spent.values(), key=len, reverse=True) for key in each))

    def column(name: str) -> Column:
        def fill(row: Row, _: Model) -> Cell:
            each = spent[name].get(row["key"])
            if each is None:
                return Cell("")
            if each["delegated"]:
                return Cell(number(each["us"]))
            return Cell(f"° {number(each['us'])}", "°: TFLite's own kernel; XNNPACK runs the others")

        total = sum(each["us"] for each in found[name])
        return Column("µs", name, f"{number(total)} µs in all", fill)

    rows = [{"name": f"{name} {operator}", "key": (name, operator)} for name, operator in keys]
    return table([column(name) for name in found], rows, model)


def trials(model: Model) -> Table | None:
    """Return every rate that the Server scenario tried; None where it was tried with none."""
    rows = [
        {"name": row["name"], "format": row["format"], **trial}
        for row in model.rows
        if row["scenarios"]["server"]
        for trial in sorted(row["scenarios"]["server"]["trials"], key=lambda trial: trial["rate"])
    ]

    def column(head: str, key: str) -> Column:
        return Column("", head, "", lambda row, _: Cell(EMPTY if row[key] is None else number(row[key])))

    columns = [
        column("queries/s", "rate"),
        column("p50, ms", "p50_ms"),
        column("p99, ms", "p99_ms"),
        column("p99.9, ms", "p99.9_ms"),
        Column("", "queries", "", lambda row, _: Cell(f"{row['queries']:,}")),
        Column("", "bound", "", lambda row, _: Cell("kept" if row["kept"] else "missed")),
    ]
    return table(columns, rows, model) if rows else None


def summaries(model: Model) -> dict[str, str]:
    """Return LoadGen's own summaries, by row and scenario."""
    return {
        f"{row['name']}, {SCENARIOS[scenario][0]}": each["summary"]
        for row in model.rows
        for scenario, each in (row["loadgen"] or {}).items()
    }


def files(model: Model) -> dict[str, str]:
    """Return the digests of what was run, by format."""
    return {row["format"]: row["sha256"] for row in model.rows}


def _change(shown: Mapping[str, Any], labels: Sequence[str]) -> ChangedImage:
    truth, before, now = shown["label"], shown["reference"]["class"], shown["here"]["class"]
    verdict = "won" if now == truth else "lost" if before == truth else "wrong either way"

    def guess(said: Mapping[str, Any]) -> str:
        return f"{labels[said['class']]} ({said['probability']:.2f})"

    return ChangedImage(
        shown["image"], shown["png"], labels[truth], guess(shown["reference"]), guess(shown["here"]),
        f"{shown['margin']:.3f}", verdict,
    )  # fmt: skip
