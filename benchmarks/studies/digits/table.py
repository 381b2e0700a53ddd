"""The table of `tfship benchmark digits`, for terminals and benchmarks/README.md."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from tfship.benchmarks.studies.digits.image_sets import BOX, CLIENT, CORRUPTED, GROUPS, NONE, PUBLISHED, UCI
from tfship.benchmarks.studies.digits.mnist_c import MNIST_C
from tfship.benchmarks.studies.table_layout import table
from tfship.train.data.corruptions import CORRUPTIONS, MEDIUM

__all__ = ["BARS", "failures", "render"]

# Requirements by network: the minimum accuracy on corrupted images of medium strength, of all kinds in the mean and of
# each kind, and on UCI's digits through the client.
BARS = {"cnn": {"mean": 0.95, "each": 0.88, "uci": 0.96}}

_PREPARATIONS = {NONE: "", CLIENT: "client", BOX: "box and centre"}
# Groups with a mean: the strength of the rows that it is of, and its description.
_MEANS = {
    CORRUPTED: (MEDIUM, f"of {len(CORRUPTIONS)} kinds, {MEDIUM}"),
    PUBLISHED: ("", f"of {len(MNIST_C)} kinds"),
}


def failures(results: Mapping[str, Any]) -> list[str]:
    """See `StudyTable.failures`."""
    corrupted, found = _averaged(results, CORRUPTED), []
    uci = [row for row in results["rows"] if (row["group"], row["preparation"]) == (UCI, CLIENT)]
    for name, format_name in _columns(results):
        if name not in BARS:
            continue
        bars, what = BARS[name], f"{name} {format_name}: accuracy"
        if corrupted and (mean := _mean(corrupted, name, format_name)) < bars["mean"]:
            found.append(f"{what} {mean:.4f} on corrupted images on average; expected {bars['mean']} or more")
        for bar, rows in ((bars["each"], corrupted), (bars["uci"], uci)):
            found += [
                f"{what} {value:.4f} on {row['kind']}, {row['description']}; expected {bar} or more"
                for row in rows
                if (value := _value(row, name, format_name)) < bar
            ]
    return found


def render(results: Mapping[str, Any], layout: str) -> str:
    """See `StudyTable.render`."""
    data = results["data"]
    heading = (
        f"{data['label']}: {data['test']:,} test images, copies of them, and other digits; accuracy of TFLite files, "
        f"seed {results['seed']}."
    )
    return "\n".join([heading, "", _table(results, layout), "", *_remarks(results)])


def _table(results: Mapping[str, Any], layout: str) -> str:
    columns, lines = _columns(results), []
    for group in GROUPS:
        for row in results["rows"]:
            if row["group"] == group:
                about = row["description"], _PREPARATIONS[row["preparation"]], f"{_count(row):,}"
                lines.append([_label(row), *about, *(f"{_value(row, *each):.4f}" for each in columns)])
        if rows := _averaged(results, group):
            lines.append(
                ["mean", _MEANS[group][1], "", "", *(f"{_mean(rows, *each):.4f}" for each in columns)]
            )
    headers = ["digits", "description", "prepared by", "images", *map(" ".join, columns)]
    return table(headers, lines, layout, ["left", "left", "left", *["right"] * (1 + len(columns))])


def _label(row: Mapping[str, Any]) -> str:
    kind = row["kind"].replace("_", " ")
    if row["group"] == PUBLISHED:
        return f"MNIST-C: {kind}"
    return f"{kind}, {row['strength']}" if row["strength"] else kind


def _remarks(results: Mapping[str, Any]) -> list[str]:
    lines = [
        f"- {name} {format_name}: {results['sources'][name][format_name]}"
        for name, format_name in _columns(results)
    ]
    lines += [
        f"- {_label(row)}, {row['description']}: no digit found on {row['nothing_found']} images, which count as wrong."
        for row in results["rows"]
        if row["nothing_found"]
    ]
    return lines + [f"- missed: {each}" for each in failures(results)]


def _columns(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the pairs of network and format."""
    return [(name, each) for name, files in results["sources"].items() for each in files]


def _averaged(results: Mapping[str, Any], group: str) -> list[Mapping[str, Any]]:
    """Return the rows of a group that its mean is of; empty for a group without a mean."""
    strength, _ = _MEANS.get(group, (None, ""))
    return [row for row in results["rows"] if (row["group"], row["strength"]) == (group, strength)]


def _mean(rows: Sequence[Mapping[str, Any]], name: str, format_name: str) -> float:
    return statistics.mean(_value(row, name, format_name) for row in rows)


def _value(row: Mapping[str, Any], name: str, format_name: str) -> float:
    value: float = row["accuracy"][name][format_name]["value"]
    return value


def _count(row: Mapping[str, Any]) -> int:
    """Return the number of images, which is the same for all files."""
    (count,) = {each["images"] for files in row["accuracy"].values() for each in files.values()}
    return int(count)
