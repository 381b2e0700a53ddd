"""A result file as a table: for the terminal, for `report.md`, for the README."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tabulate import tabulate

from benchmarks import result_files
from benchmarks.run import SCHEMA
from export.formats import FORMATS, REFERENCE

__all__ = ["markdown", "read", "readme_block", "text"]

# Ratios closer to 1 than the tolerance of a stable timing say nothing.
_SLOWER = 1.10


def read(path: Path) -> dict[str, Any]:
    """Read a result file; ArtifactError if it is missing, damaged or of another schema."""
    return result_files.read(path, SCHEMA, "make benchmark")


def text(results: dict[str, Any]) -> str:
    """Return one table for a terminal, all models in it, and what must be said about it."""
    rows = [[name, *row] for name, model in results["models"].items() for row in _rows(model["rows"], str)]
    table = tabulate(rows, ["model", *_HEADERS], disable_numparse=True, colalign=("left", "left", *_ALIGNED))
    return "\n".join([_heading(results), "", table, "", *_remarks(results)])


def markdown(results: dict[str, Any]) -> str:
    """Return the whole report in Markdown."""
    environment = results["environment"]
    packages = ", ".join(f"{name} {version}" for name, version in environment["packages"].items())
    data = results["data"]
    models = "\n".join(
        f"- `{name}`: version {model['version']}, weights sha256 `{model['keras_sha256']}`"
        for name, model in results["models"].items()
    )
    return "\n".join(
        [
            "# tfship benchmark",
            "",
            f"{results['created']}, {environment['cpu']}, {environment['cores']} cores, {environment['system']}, "
            f"Python {environment['python']}, {packages}.",
            "",
            f"Data: {data['label']}, {data['test']:,} test images, sha256 `{data['sha256']}`.",
            "",
            models,
            "",
            _tables(results),
            "",
            *_remarks(results),
            "",
        ]
    )


def readme_block(results: dict[str, Any]) -> str:
    """Return the README's part on formats, in Markdown."""
    return "\n".join([_formats(), "", _heading(results), "", _tables(results), "", *_remarks(results)])


def _formats() -> str:
    """Return the table of what can be deployed, in the order of the measurements."""
    rows = [
        [f"`{row.name}`", f"`{row.file}`", row.weights, row.activations, row.edge, row.use]
        for row in FORMATS.values()
    ]
    rows += [
        ["`savedmodel`", "`saved_model.pb`, `variables/`", *["float32"] * 3, "TensorFlow in this process"],
        ["`rest`", "the SavedModel, served", *["float32"] * 3, "behind the embedded server, REST with JSON"],
        ["`grpc`", "the SavedModel, served", *["float32"] * 3, "behind the embedded server, gRPC"],
    ]
    headers = ["format", "in `models/<name>/<N>/`", "weights", "activations", "in and out", "what for"]
    table: str = tabulate(rows, headers, tablefmt="github", disable_numparse=True)
    return table


_HEADERS = [
    "format", "size", "accuracy (95 % interval)", "≠ float32", "model only p50 / p90 / p99 µs",
    "× float32", "end to end p50 / p90 / p99 µs", "× float32",
]  # fmt: skip
_ALIGNED = ["right"] * (len(_HEADERS) - 1)


def _rows(rows: list[dict[str, Any]], name: Callable[[str], str]) -> list[list[str]]:
    reference = next((row for row in rows if row["name"] == REFERENCE), None)
    return [
        [
            name(row["name"]),
            f"{row['bytes'] / 1024:,.0f} KiB",
            _accuracy(row["accuracy"]),
            _difference(row["against_float32"]) if row is not reference else "",
            _timing(row["model_only"]),
            _ratio(row, reference, "model_only"),
            _timing(row["end_to_end"]),
            _ratio(row, reference, "end_to_end"),
        ]
        for row in rows
    ]


def _tables(results: dict[str, Any]) -> str:
    parts = []
    for name, model in results["models"].items():
        table = tabulate(
            _rows(model["rows"], lambda row: f"`{row}`"),
            _HEADERS,
            tablefmt="github",
            disable_numparse=True,
            colalign=("left", *_ALIGNED),
        )
        parts.append(f"**{name}**\n\n{table}")
    return "\n\n".join(parts)


def _heading(results: dict[str, Any]) -> str:
    data, environment = results["data"], results["environment"]
    return (
        f"{data['label']}, {data['test']:,} test images; {environment['cpu']}, {environment['cores']} cores, "
        f"{results['threads']} thread per inference, TFLite with the {results['delegate']} delegate, "
        f"one image at a time; {results['created'][:10]}."
    )


def _remarks(results: dict[str, Any]) -> list[str]:
    remarks = [
        "≠ float32: images whose class differs from the float32 file's (won/lost), and McNemar's exact p. "
        "Latencies: all formats in turn in one run; quote the ratios, the microseconds are this machine's.",
    ]
    for name, model in results["models"].items():
        rows = model["rows"]
        reference = next(row for row in rows if row["name"] == REFERENCE)
        for row in rows:
            if row["kind"] == "tflite" and row is not reference:
                ratio = _quotient(row, reference, "model_only")
                if ratio is not None and ratio > _SLOWER:
                    remarks.append(
                        f"{name}: {row['name']} is {ratio:.1f}× slower than float32 on this machine."
                    )
            unstable = [
                clock.replace("_", " ")
                for clock in ("model_only", "end_to_end")
                if row[clock] and not row[clock]["stable"]
            ]
            if unstable:
                remarks.append(f"{name}: {row['name']} never settled ({', '.join(unstable)}), marked ~.")
    # A list in Markdown, and just as readable in a terminal.
    return [f"- {remark}" for remark in remarks]


def _accuracy(accuracy: dict[str, Any]) -> str:
    low, high = accuracy["interval95"]
    return f"{accuracy['value']:.4f} ({low:.4f}–{high:.4f})"


def _difference(paired: dict[str, Any]) -> str:
    return f"{paired['disagreements']} (+{paired['wins']}/-{paired['losses']}, p {paired['mcnemar_p']:.2g})"


def _timing(timing: dict[str, Any] | None) -> str:
    if timing is None:
        return ""
    figures = " / ".join(_microseconds(timing[name]) for name in ("p50", "p90", "p99"))
    return figures if timing["stable"] else f"~ {figures}"


def _microseconds(value: float | None) -> str:
    if value is None:
        return "too few"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _quotient(row: dict[str, Any], reference: dict[str, Any] | None, clock: str) -> float | None:
    if reference is None or row[clock] is None or reference[clock] is None:
        return None
    mine, its = row[clock]["p50"], reference[clock]["p50"]
    return mine / its if mine is not None and its else None


def _ratio(row: dict[str, Any], reference: dict[str, Any] | None, clock: str) -> str:
    ratio = _quotient(row, reference, clock)
    return "" if ratio is None else f"{ratio:.2f}"
