"""The results of `benchmarks.studies.server_load` as tables: for the terminal and benchmarks/README.md."""

from typing import Any

from tfship.benchmarks.studies import reference
from tfship.benchmarks.studies.table_layout import load_remark, table, wrong_responses

__all__ = ["failures", "problems", "render"]

_HEADERS = [
    "cell", "connections", "requests/s", "reference", "× reference", "× scaled", "p50 / p99 ms", "reference",
    "bar", "verdict",
]  # fmt: skip
_ALIGN = ["left", *["right"] * (len(_HEADERS) - 2), "left"]


def render(results: dict[str, Any], layout: str) -> str:
    """See `StudyTable.render`."""
    return "\n".join([_heading(results), *_tables(results, layout), "", *_remarks(results)])


def failures(results: dict[str, Any]) -> list[str]:
    """See `StudyTable.failures`: only wrong responses; missed bars are no failures."""
    return wrong_responses(problems(results), "cells")


def problems(results: dict[str, Any]) -> list[str]:
    """Return the problems under load, a line for each cell."""
    return [
        f"{name} {_cell(row)} at {row['connections']} connections: {'; '.join(row['problems'])}"
        for name, rows in results["tables"].items()
        for row in rows
        if row["problems"]
    ]


def _tables(results: dict[str, Any], layout: str) -> list[str]:
    lines = []
    for name, rows in results["tables"].items():
        title = f"**{name}**" if layout == "github" else name
        lines += ["", title, "", table(_HEADERS, [_row(row) for row in rows], layout, _ALIGN)]
    return lines


def _row(row: dict[str, Any]) -> list[str]:
    its = row["reference"]
    bar = row["bar"]
    return [
        _cell(row),
        str(row["connections"]),
        f"{'' if row['stable'] else '~ '}{_rate(row['rate'])}",
        _rate(its["rate"]) if its else "",
        _ratio(row.get("rate_ratio")),
        _ratio(row.get("rate_ratio_scaled")),
        f"{_ms(row['p50_ms'])} / {_ms(row['p99_ms'])}",
        f"{_ms(its['p50_ms'])} / {_ms(its['p99_ms'])}" if its else "",
        "" if bar is None else f"≥ {bar:g}",
        "FAULTY" if row["problems"] else {None: "", True: "met", False: "missed"}[row["met"]],
    ]


def _cell(row: dict[str, Any]) -> str:
    return reference.LoadCell(row["model"], row["batch"], row["protocol"]).name


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _ms(value: float | None) -> str:
    if value is None:
        return "too few"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _heading(results: dict[str, Any]) -> str:
    environment = results["environment"]
    flags = " ".join(results["server_flags"]) or "none"
    return (
        f"{environment['cpu']}, {environment['cores']} cores shared by server and load generator; "
        f"{results['created'][:10]}. Median of {results['repeats']} runs of {results['seconds']} s; "
        f"server flags: {flags}. Reference: {reference.SERVER} on "
        f"{results['reference']}."
    )


def _remarks(results: dict[str, Any]) -> list[str]:
    remarks = [
        "Yardsticks: one image by LiteRT in process, one thread, before, between and after the rounds:"
    ]
    for name, by_format in results["yardsticks"].items():
        for each, stick in by_format.items():
            measured = ", ".join(f"{value:.3g}" for value in stick["taken_us"])
            remarks.append(
                f"{name} {each}: {stick['us']:.3g} µs here (median of {measured}; drift "
                f"{100 * (stick['drift'] - 1):.0f} %), {stick['reference_us']:.3g} µs on the reference machine: "
                f"× {stick['scale']:.3f}"
            )
    remarks += [
        f"{name}: the server's processes take {mebibytes:,.0f} MiB (proportional set size) after the runs."
        for name, mebibytes in results["memory_mib"].items()
    ]
    remarks += [
        "× reference: measured requests/s relative to the reference. × scaled: relative to the reference times the × "
        f"of the model's {reference.FORMAT} yardstick. Bars apply to scaled ratios."
    ]
    if any(not row["stable"] for rows in results["tables"].values() for row in rows):
        remarks.append("~: the rates of the runs differ by more than 10 %.")
    remarks += load_remark(results)
    for rows in results["tables"].values():
        judged = [row["met"] for row in rows if row["met"] is not None]
        if judged:
            remarks.append(f"{sum(judged)} of {len(judged)} bars met.")
    return [f"- {remark}" for remark in remarks] + [f"- FAULTY: {problem}" for problem in problems(results)]
