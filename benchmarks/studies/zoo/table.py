"""The table of `tfship benchmark zoo`, for terminals and benchmarks/README.md."""

from collections.abc import Mapping
from typing import Any

from tfship.benchmarks.analysis.formatting import listed
from tfship.benchmarks.studies.table_layout import table
from tfship.benchmarks.studies.zoo.study import FAILED, MOST_BYTES, MOST_LINES, MOST_SECONDS, REFUSED, RIGHT
from tfship.export.publishing.cards import SAVED_MODEL

__all__ = ["failures", "line", "render"]

_LONGEST_REASON = 120


def render(results: Mapping[str, Any], layout: str) -> str:
    """See `StudyTable.render`."""
    machine = results["environment"]
    bounds = (
        f"Limits for an export: {MOST_SECONDS // 60} minutes, {MOST_BYTES / 1e9:g} GB and {MOST_LINES} lines on the "
        f"terminal; measured on {machine['cpu']}, {machine['cores']} cores."
    )
    return "\n".join([_heading(results), bounds, "", _table(results, layout), *_remarks(results)])


def failures(results: Mapping[str, Any]) -> list[str]:
    """See `StudyTable.failures`."""
    failed = [row["model"] for row in results["models"] if row["verdict"] == FAILED]
    return [f"{', '.join(failed)}: wrong export; see the table and the logs"] if failed else []


def line(row: Mapping[str, Any]) -> str:
    """Return the result of a network in one line."""
    if row["problems"]:
        return f"{row['model']}: {FAILED}: {'; '.join(row['problems'])}"
    export = row["export"]
    cost = f"{export['seconds']:.0f} s, {_gigabytes(row)} GB"
    if row["verdict"] == REFUSED:
        return f"{row['model']}: refused, as expected, {cost}"
    return (
        f"{row['model']}: right, values {row['values']}, agreement with Keras {_agreement(row)}, "
        f"{len(row['formats'])} formats, {cost}"
    )


def _heading(results: Mapping[str, Any]) -> str:
    rows = results["models"]
    counts = [
        f"{count} {verdict}"
        for verdict in (RIGHT, REFUSED, FAILED)
        if (count := sum(row["verdict"] == verdict for row in rows))
    ]
    return (
        f"{len(rows)} networks ({results['data']['label']}): {', '.join(counts)}. Agreement with Keras is the share of "
        "equal decisions on held-out images, given for the SavedModel and for the worst TFLite format."
    )


def _table(results: Mapping[str, Any], layout: str) -> str:
    headers = [
        "network", "values of pixels", "formats", "SavedModel", "worst format", "seconds", "GB", "verdict"
    ]  # fmt: skip
    align = ["left", "left", *["right"] * 5, "left"]
    return table(headers, [_cells(row) for row in results["models"]], layout, align)


def _cells(row: Mapping[str, Any]) -> list[str]:
    export, agreement = row.get("export"), row.get("agreement")
    values = ""
    if agreement:
        values = row["values"] if row["values_right"] else f"{row['values']}, not {row['trained_on']}"
    return [
        row["model"] if row["says"] == row["model"] else f"{row['model']}: {row['says']}",
        values,
        f"{len(row['formats'])} of {len(row['formats']) + len(row['left_out'])}" if "formats" in row else "",
        f"{agreement[SAVED_MODEL]['value']:.3f}" if agreement else "",
        _worst(agreement) if agreement else "",
        f"{export['seconds']:.0f}" if export else "",
        _gigabytes(row) if export else "",
        row["verdict"],
    ]


def _worst(agreement: Mapping[str, Any]) -> str:
    """Return the lowest agreement of a TFLite format, empty without any."""
    values = [each["value"] for name, each in agreement.items() if name != SAVED_MODEL]
    return f"{min(values):.3f}" if values else ""


def _agreement(row: Mapping[str, Any]) -> str:
    worst = _worst(row["agreement"])
    return f"{row['agreement'][SAVED_MODEL]['value']:.3f}" + (f" (formats {worst} or more)" if worst else "")


def _gigabytes(row: Mapping[str, Any]) -> str:
    return f"{row['export']['peak_bytes'] / 1e9:.1f}"


def _remarks(results: Mapping[str, Any]) -> list[str]:
    """Return a line for each reason why formats were left out, networks were refused or networks failed."""
    lines = []
    for row in results["models"]:
        name = row["model"]
        if row["verdict"] == REFUSED:
            lines.append(
                f"- {name}: refused: {_short(row['export']['last_line'].removeprefix('error: '), f'{name}: ')}"
            )
        reasons: dict[str, list[str]] = {}
        for each, reason in row.get("left_out", {}).items():
            reasons.setdefault(_short(reason, f"{each}: "), []).append(each)
        lines += [f"- {name}: without {listed(left)}: {reason}" for reason, left in reasons.items()]
        lines += [f"- {name}: {FAILED}: {each}" for each in row["problems"]]
    return ["", *lines] if lines else []


def _short(reason: str, prefix: str) -> str:
    reason = reason.removeprefix(prefix)
    return reason if len(reason) <= _LONGEST_REASON else f"{reason[: _LONGEST_REASON - 1]}…"
