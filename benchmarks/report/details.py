"""Collapsed details of a page: operators, LoadGen's summaries, trials of the Server scenario, changed images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tfship.benchmarks.report.figures import EMPTY, number
from tfship.benchmarks.report.models import Model, Row
from tfship.benchmarks.report.tables import SCENARIOS, Cell, Column, Table, table

__all__ = ["ChangedImage", "changed", "files", "operators", "summaries", "trials"]


@dataclass(frozen=True)
class ChangedImage:
    """An image whose class changed: PNG in base64, true class, predictions before and now, margin, verdict."""

    image: int
    png: str
    truth: str
    before: str
    now: str
    margin: str
    verdict: str


def changed(model: Model) -> dict[str, tuple[int, list[ChangedImage]]]:
    """Return by format the number of changed images, and those that the results contain."""
    return {
        name: (each["count"], [_change(shown, model.entry["labels"]) for shown in each["shown"]])
        for name, each in model.entry["changed"].items()
    }


def operators(model: Model) -> Table | None:
    """Return the microseconds of every operator by format; None if they weren't measured."""
    measured: Mapping[str, Sequence[Mapping[str, Any]]] = model.entry["operators"]
    measured = {name: each for name, each in measured.items() if each}
    if not measured:
        return None
    by_key = {
        name: {(each["name"], each["operator"]): each for each in format_operators}
        for name, format_operators in measured.items()
    }
    # In the order of the format with the most operators.
    keys = list(dict.fromkeys(key for each in sorted(by_key.values(), key=len, reverse=True) for key in each))

    def column(name: str) -> Column:
        def fill(row: Row, _: Model) -> Cell:
            each = by_key[name].get(row["key"])
            if each is None:
                return Cell("")
            if each["delegated"]:
                return Cell(number(each["us"]))
            return Cell(f"° {number(each['us'])}", "°: TFLite's built-in kernel; XNNPACK runs the others")

        total = sum(each["us"] for each in measured[name])
        return Column("µs", name, f"{number(total)} µs in total", fill)

    rows = [{"name": f"{name} {operator}", "key": (name, operator)} for name, operator in keys]
    return table([column(name) for name in measured], rows, model)


def trials(model: Model) -> Table | None:
    """Return all rates that the Server scenario tried; None if no row ran it."""
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
    """Return LoadGen's summaries by row and scenario."""
    return {
        f"{row['name']}, {SCENARIOS[scenario][0]}": each["summary"]
        for row in model.rows
        for scenario, each in (row["loadgen"] or {}).items()
    }


def files(model: Model) -> dict[str, str]:
    """Return the SHA-256 digests of the files by format."""
    return {row["format"]: row["sha256"] for row in model.rows}


def _change(shown: Mapping[str, Any], labels: Sequence[str]) -> ChangedImage:
    truth, before, now = shown["label"], shown["reference"]["class"], shown["here"]["class"]
    verdict = "won" if now == truth else "lost" if before == truth else "both wrong"

    def text(prediction: Mapping[str, Any]) -> str:
        return f"{labels[prediction['class']]} ({prediction['probability']:.2f})"

    return ChangedImage(
        shown["image"], shown["png"], labels[truth], text(shown["reference"]), text(shown["here"]),
        f"{shown['margin']:.3f}", verdict,
    )  # fmt: skip
