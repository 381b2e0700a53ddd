"""The results of `benchmarks.studies.client_startup` as a table: for the terminal and benchmarks/README.md."""

from typing import Any

from tfship.benchmarks.studies.table_layout import load_remark, table, verdicts

__all__ = ["failures", "render"]

_HEADERS = [
    "one image, whole process",
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
            _median(row["median"], 2),
            *(f"{value:.2f}" for value in (min(row["seconds"]), max(row["seconds"]))),
            "" if row["name"] == "usual" else f"× {_median(row['times'], 1)}",
        ]
        for row in results["rows"]
    ]
    return table(_HEADERS, rows, layout)


def _median(median: dict[str, Any], digits: int) -> str:
    interval = median["interval95"]
    text = "too few" if interval is None else "–".join(f"{value:.{digits}f}" for value in interval)
    return f"{median['value']:.{digits}f} ({text})"


def _heading(results: dict[str, Any]) -> str:
    environment = results["environment"]
    rounds = len(results["rows"][0]["seconds"])
    return (
        f"{results['picture']}, model cnn; {environment['cpu']}, {environment['cores']} cores shared with the server; "
        f"{rounds} rounds; {results['created'][:10]}."
    )


def _remarks(results: dict[str, Any]) -> list[str]:
    remarks = [
        *verdicts(results),
        "The usual client: benchmarks/studies/usual_client.py, with tensorflow and tensorflow-serving-api over gRPC, "
        "and simpler preprocessing. Multiples are computed within a round; each round has a random order.",
        *load_remark(results),
    ]
    return [f"- {remark}" for remark in remarks]
