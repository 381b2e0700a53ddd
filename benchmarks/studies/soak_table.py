"""The results of `benchmarks.studies.soak` as tables: for the terminal and benchmarks/README.md."""

from typing import Any

from tfship.benchmarks.harness.server_process import PROTOCOLS
from tfship.benchmarks.studies.table_layout import load_remark, table, verdicts, wrong_responses

__all__ = ["failures", "render"]

_STARTS = [
    "first response over", "median s", "least", "most", "workers begin", "port opens", "response", "processor s"
]  # fmt: skip
_MEMORY = [
    "process", "MiB at the start", "after the warm-up", "at the end", "most", "proportional, most",
    "MiB per million requests (95 % interval)", "growth", "files, threads",
]  # fmt: skip


def render(results: dict[str, Any], layout: str) -> str:
    """See `StudyTable.render`."""
    return "\n".join([_heading(results), "", *_tables(results, layout), "", *_remarks(results)])


def failures(results: dict[str, Any]) -> list[str]:
    """See `StudyTable.failures`: only wrong responses; missed requirements are no failures."""
    return wrong_responses(results["problems"], "runs")


def _tables(results: dict[str, Any], layout: str) -> list[str]:
    starts = [
        [
            PROTOCOLS[protocol],
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
    return [table(_STARTS, starts, layout), "", table(_MEMORY, memory, layout)]


def _mib(value: float | None) -> str:
    return "" if value is None else f"{value:.0f}"


def _slope(slope: dict[str, float] | None) -> str:
    if slope is None:
        return "too few rounds"
    return f"{slope['mib_per_million']:+.2f} ({slope['low']:+.2f} to {slope['high']:+.2f})"


def _heading(results: dict[str, Any]) -> str:
    environment = results["environment"]
    return (
        f"{environment['cpu']}, {environment['cores']} cores shared by server and load generators; "
        f"{results['created'][:10]}. Server flags: {' '.join(results['server_flags'])}. "
        f"{results['requests']:,} requests in {results['seconds'] / 60:.0f} minutes and "
        f"{len(results['rounds'])} rounds; {results['refused']:,} of them are invalid."
    )


def _remarks(results: dict[str, Any]) -> list[str]:
    remarks = [
        *verdicts(results),
        "Start: seconds from the command to the first valid response, with both models and cached files; its parts; "
        "and the processor time until then of the server, of the imports for its workers, and of the busiest worker.",
        "Memory: resident memory, which counts shared pages in every process; in proportional memory, a page shared by "
        "n processes counts 1/n. The warm-up is two rounds. The slope is that of the second half of the rounds, when "
        "threads and interpreters have had their largest requests.",
        *load_remark(results),
    ]
    return [f"- {remark}" for remark in remarks] + [f"- FAULTY: {problem}" for problem in results["problems"]]
