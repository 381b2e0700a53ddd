"""The results of `benchmarks.studies.server_load` as tables: for the terminal and benchmarks/README.md."""

from typing import Any

from tabulate import tabulate

from tfship.benchmarks.studies import reference

__all__ = ["failures", "problems", "render"]

_HEADERS = [
    "cell", "connections", "requests/s", "reference", "× reference", "× scaled", "p50 / p99 ms", "reference",
    "p50 × scaled", "bar", "verdict",
]  # fmt: skip
_ALIGN = ["left", *["right"] * (len(_HEADERS) - 2), "left"]


def render(results: dict[str, Any], layout: str) -> str:
    """See `StudyTable.render`."""
    return "\n".join([_heading(results), *_tables(results, layout), "", *_remarks(results)])


def failures(results: dict[str, Any]) -> list[str]:
    """See `StudyTable.failures`: wrong answers, whatever the figures are."""
    faulty = problems(results)
    return (
        [f"wrong answers in {len(faulty)} cells, marked FAULTY above; the first is {faulty[0]}"]
        if faulty
        else []
    )


def problems(results: dict[str, Any]) -> list[str]:
    """Return what went wrong under load, a line for each cell."""
    return [
        f"{name} {_cell(row)} at {row['connections']} connections: {'; '.join(row['problems'])}"
        for name, rows in results["tables"].items()
        for row in rows
        if row["problems"]
    ]


def _tables(results: dict[str, Any], layout: str) -> list[str]:
    lines = []
    for name, rows in results["tables"].items():
        table = tabulate(
            [_row(row) for row in rows], _HEADERS, tablefmt=layout, disable_numparse=True, colalign=_ALIGN
        )
        lines += ["", f"**{name}**" if layout == "github" else name, "", table]
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
        _ratio(row.get("p50_ratio_scaled")),
        {None: "", "rate": "rate ≥ {}", "p50": "p50 ≤ {}"}[bar and bar["figure"]].format(
            bar and f"{bar['share']:.1f}"
        ),
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
        f"{environment['cpu']}, {environment['cores']} cores, server and load generator on the same ones; "
        f"{results['created'][:10]}. Median of {results['repeats']} runs of {results['seconds']} s; "
        f"server flags: {flags}. Reference: {reference.MACHINE}."
    )


def _remarks(results: dict[str, Any]) -> list[str]:
    remarks = ["One image by LiteRT in process, one thread, taken before, between and after the rounds:"]
    for name, by_format in results["yardsticks"].items():
        for each, stick in by_format.items():
            taken = ", ".join(f"{value:.3g}" for value in stick["taken_us"])
            remarks.append(
                f"{name} {each}: {stick['us']:.3g} µs here (taken: {taken}; drift {100 * (stick['drift'] - 1):.0f} %), "
                f"{stick['reference_us']:.3g} µs there: × {stick['scale']:.3f}"
            )
    remarks += [
        "× reference: requests/s here / there, as measured. × scaled: there is multiplied by the × of the model's "
        f"{reference.FORMAT} yardstick first, its latencies divided by it. Bars are judged by the scaled ratios."
    ]
    if any(not row["stable"] for rows in results["tables"].values() for row in rows):
        remarks.append("~: the runs' rates differ by more than 10 %.")
    if results["load_before"] > 0.3 * results["environment"]["cores"]:
        remarks.append(f"The machine was not idle: its load was {results['load_before']:.1f} at the start.")
    for rows in results["tables"].values():
        judged = [row["met"] for row in rows if row["met"] is not None]
        if judged:
            remarks.append(f"{sum(judged)} of {len(judged)} bars met.")
    return [f"- {remark}" for remark in remarks] + [f"- FAULTY: {problem}" for problem in problems(results)]
