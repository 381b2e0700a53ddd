"""Parts that the tables of several studies share."""

from collections.abc import Sequence
from typing import Any

from tabulate import tabulate

__all__ = ["load_remark", "table", "verdicts", "wrong_responses"]

_VERDICTS = {True: "met", False: "missed", None: "unknown"}


def table(
    headers: Sequence[str], rows: Sequence[Sequence[Any]], layout: str, align: Sequence[str] | None = None
) -> str:
    """Return a table in one of tabulate's layouts; by default the first column is aligned left, the others right."""
    align = align or ["left", *["right"] * (len(headers) - 1)]
    text: str = tabulate(rows, headers, tablefmt=layout, disable_numparse=True, colalign=align)
    return text


def load_remark(results: dict[str, Any]) -> list[str]:
    """Return a remark if the machine was busy before the study, as a list."""
    load = results["load_before"]
    if load <= 0.3 * results["environment"]["cores"]:
        return []
    return [f"The machine was not idle: its load was {load:.1f} at the start, which makes times longer."]


def verdicts(results: dict[str, Any]) -> list[str]:
    """Return a remark for each requirement of a study, with its verdict."""
    return [f"{each['asked']}: {each['found']}, {_VERDICTS[each['met']]}" for each in results["verdicts"]]


def wrong_responses(problems: Sequence[str], what: str) -> list[str]:
    """Return the failure of a study with wrong responses under load; `what` are "cells" or "runs"."""
    if not problems:
        return []
    return [f"wrong responses in {len(problems)} {what}, marked FAULTY above; the first is {problems[0]}"]
