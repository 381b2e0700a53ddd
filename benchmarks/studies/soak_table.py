"""The results of `benchmarks.studies.soak` as tables: for the terminal and benchmarks/README.md."""

from typing import Any

from tabulate import tabulate

__all__ = ["failures", "problems", "render"]

_STARTS = [
    "first answer over",
    "median s",
    "least",
    "most",
    "workers begin",
    "port opens",
    "answered",
    "processor s",
]
_MEMORY = [
    "process", "MiB at the start", "after the warm-up", "at the end", "most", "shared out, most",
    "MiB per million requests (95 % interval)", "growth", "files, threads",
]  # fmt: skip
_VERDICTS = {True: "met", False: "missed", None: "can't be told"}


def render(results: dict[str, Any], layout: str) -> str:
    """See `StudyTable.render`."""
    return "\n".join([_heading(results), "", *_tables(results, layout), "", *_remarks(results)])


def failures(results: dict[str, Any]) -> list[str]:
    """See `StudyTable.failures`: wrong answers, whatever the figures are."""
    faulty = problems(results)
    return (
        [f"wrong answers in {len(faulty)} runs, marked FAULTY above; the first is {faulty[0]}"]
        if faulty
        else []
    )


def problems(results: dict[str, Any]) -> list[str]:
    """Return what was answered wrongly, a line for each run of a generator."""
    return list(results["problems"])


def _tables(results: dict[str, Any], layout: str) -> list[str]:
    starts = [
        [
            {"rest": "REST", "grpc": "gRPC"}[protocol],
            *(f"{value:.2f}" for value in (each["median"], min(each["seconds"]), max(each["seconds"]))),
            *(f"{value:.2f}" for value in each["parts"].values()),
            f"{each['work']:.2f}",
        ]
        for protocol, each in results["start"].items()
    ]
    memory = [
        [
            row["process"],
            *(_mib(row["resident_mib"].get(when)) for when in ("start", "warm", "end", "most")),
            _mib(row["proportional_mib"]["most"]),
            _slope(row["slope"]),
            row["growth"],
            f"{row['files']['end']}, {row['threads']['end']}",
        ]
        for row in results["processes"]
    ]
    return [_table(_STARTS, starts, layout), "", _table(_MEMORY, memory, layout)]


def _table(headers: list[str], rows: list[list[str]], layout: str) -> str:
    align = ["left", *["right"] * (len(headers) - 1)]
    table: str = tabulate(rows, headers, tablefmt=layout, disable_numparse=True, colalign=align)
    return table


def _mib(value: float | None) -> str:
    return "" if value is None else f"{value:.0f}"


def _slope(slope: dict[str, float] | None) -> str:
    if slope is None:
        return "too few rounds"
    return f"{slope['mib_per_million']:+.2f} ({slope['low']:+.2f} to {slope['high']:+.2f})"


def _heading(results: dict[str, Any]) -> str:
    environment = results["environment"]
    return (
        f"{environment['cpu']}, {environment['cores']} cores, server and load generators on the same ones; "
        f"{results['created'][:10]}. Server flags: {' '.join(results['server_flags'])}. "
        f"{results['requests']:,} requests in {results['seconds'] / 60:.0f} minutes and "
        f"{len(results['rounds'])} rounds, {results['refused']:,} of them to be refused."
    )


def _remarks(results: dict[str, Any]) -> list[str]:
    remarks = [
        f"{verdict['asked']}: {verdict['found']}, {_VERDICTS[verdict['met']]}"
        for verdict in results["verdicts"]
    ]
    remarks += [
        "Start: seconds from the command to the first right answer, both models, files cached; its parts; and the "
        "processor time of the server and its busiest worker until then.",
        "Memory: resident, which counts pages that processes share in each of them; shared out, a page of n counts for "
        "1/n. The warm-up is two rounds; the slope is that of the second half of all, when threads and interpreters "
        "have met their largest requests.",
    ]
    if results["load_before"] > 0.3 * results["environment"]["cores"]:
        remarks.append(
            f"The machine was not idle: its load was {results['load_before']:.1f} at the start; starts took longer "
            "than they would."
        )
    return [f"- {remark}" for remark in remarks] + [f"- FAULTY: {problem}" for problem in problems(results)]
