"""The results of `benchmarks.studies.client_startup` as a table: for the terminal and benchmarks/README.md."""

from typing import Any

from tabulate import tabulate

__all__ = ["failures", "render"]

_HEADERS = [
    "one picture, process and all",
    "median s (95 % interval)",
    "least",
    "most",
    "the usual client's time",
]


def render(results: dict[str, Any], layout: str) -> str:
    """See `StudyTable.render`."""
    return "\n".join([_heading(results), "", _table(results, layout), "", *_remarks(results)])


def failures(results: dict[str, Any]) -> list[str]:
    """See `StudyTable.failures`."""
    return [
        f"{verdict['asked']}: {verdict['found']}" for verdict in results["verdicts"] if not verdict["met"]
    ]


def _table(results: dict[str, Any], layout: str) -> str:
    rows = [
        [
            row["what"],
            _middle(row["median"], 2),
            *(f"{value:.2f}" for value in (min(row["seconds"]), max(row["seconds"]))),
            "" if row["name"] == "usual" else f"× {_middle(row['times'], 1)}",
        ]
        for row in results["rows"]
    ]
    align = ["left", *["right"] * (len(_HEADERS) - 1)]
    table: str = tabulate(rows, _HEADERS, tablefmt=layout, disable_numparse=True, colalign=align)
    return table


def _middle(middle: dict[str, Any], digits: int) -> str:
    interval = middle["interval95"]
    said = "too few" if interval is None else "–".join(f"{value:.{digits}f}" for value in interval)
    return f"{middle['value']:.{digits}f} ({said})"


def _heading(results: dict[str, Any]) -> str:
    environment = results["environment"]
    rounds = len(results["rows"][0]["seconds"])
    return (
        f"{results['picture']}, the cnn; {environment['cpu']}, {environment['cores']} cores, the server on the same "
        f"ones; {rounds} rounds; {results['created'][:10]}."
    )


def _remarks(results: dict[str, Any]) -> list[str]:
    remarks = [
        f"{verdict['asked']}: {verdict['found']}, {'met' if verdict['met'] else 'missed'}"
        for verdict in results["verdicts"]
    ]
    remarks.append(
        "The usual client: benchmarks/studies/usual_client.py, with tensorflow and tensorflow-serving-api over gRPC, "
        "simpler in what it makes of a picture. Multiples are of the times of the same round, in each of which all "
        "run in another order."
    )
    if results["load_before"] > 0.3 * results["environment"]["cores"]:
        remarks.append(
            f"The machine was not idle: its load was {results['load_before']:.1f} at the start; everything took longer "
            "than it would."
        )
    return [f"- {remark}" for remark in remarks]
