"""The report as text: for a terminal, as `report.md`, as the tables of the README and of benchmarks/README.md."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tabulate import tabulate

from tfship.benchmarks.report import tables
from tfship.benchmarks.report.models import Model, Row, models
from tfship.export.conversion.formats import FORMATS

__all__ = ["headline", "markdown", "readme_block", "text"]

_READ = (
    "≠ float32: images whose class differs from the float32 file's (won/lost), and McNemar's exact p. Model only: a "
    "prepared image to its probabilities, of served rows a request; end to end: an encoded picture to its label; "
    "images/s in batches of 64. All rows in turn in one run; quote the ratios, the microseconds are this machine's."
)


def text(results: Mapping[str, Any], judged: Mapping[str, Any] | None = None) -> str:
    """Return the main figures for a terminal, a table per model, and the verdict (`judged`, by default every use's)."""
    parts = [heading(results)]
    for model in models(results, judged):
        rows = [*model.plain, *model.served]
        parts += [f"{model.name}\n\n{_written(_brief(model, rows), 'simple')}", _verdict(model)]
    return "\n\n".join(parts)


def markdown(results: Mapping[str, Any], judged: Mapping[str, Any] | None = None) -> str:
    """Return the whole report in Markdown, but for what only pictures show; `judged` as for `text`."""
    parts = ["# tfship benchmark", heading(results)]
    for model in models(results, judged):
        parts += [f"## {model.name}", _verdict(model)]
        for title, columns, rows in (
            ("Answers", tables.ANSWERS, [*model.plain, *model.served]),
            ("Time in process", tables.TIME, model.plain),
            ("Throughput and cost in process", tables.COST, model.plain),
            ("More threads, other kernels", tables.TIME, model.variants),
            ("Time of a request", tables.REQUESTS, model.served),
            ("Throughput and cost of a server", tables.SERVED_COST, model.served),
            ("MLPerf's scenarios", tables.scenarios(model.rows), [*model.plain, *model.served]),
        ):
            if rows:
                parts += [f"### {title}", _written(tables.table(columns, rows, model), "github")]
        if lines := absent(model):
            parts += ["### Not measured", _list(lines)]
    return "\n\n".join([*parts, "## What ran", _ran(results)]) + "\n"


def headline(results: Mapping[str, Any]) -> str:
    """Return a line for each format: what it is for, size, accuracy and time of each model, in Markdown."""
    found = models(results)
    heads = ["format", "what for"]
    for model in found:
        heads += [f"{model.name}: size, KiB", "accuracy", "time × float32"]
    rows = []
    for row in FORMATS.values():
        cells = [f"`{row.name}`", row.use]
        for model in found:
            line = next((each for each in model.plain if each["name"] == row.name), None)
            cells += (
                ["", "", ""]
                if line is None
                else [column.fill(line, model).text for column in tables.HEADLINE]
            )
        rows.append(cells)
    aligned = ["left", "left", *["right"] * (len(heads) - 2)]
    table: str = tabulate(rows, heads, tablefmt="github", disable_numparse=True, colalign=aligned)
    return f"{table}\n\n{heading(results)} Time: of an inference, one image, one thread."


def readme_block(results: Mapping[str, Any]) -> str:
    """Return the part of benchmarks/README.md on formats, in Markdown."""
    parts = [_formats(), heading(results)]
    for model in models(results):
        rows = [*model.plain, *model.served]
        said = [each["sentence"] for each in model.verdict["recommendations"]]
        # Why serving takes longer than no serving is for the report.
        said += [
            each["sentence"] for each in model.verdict["slower"] if model.row(each["row"])["kind"] != "served"
        ]
        parts += [f"**{model.name}**", _written(_brief(model, rows), "github"), _list(said)]
    return "\n\n".join([*parts, _READ])


def heading(results: Mapping[str, Any]) -> str:
    """Return in a sentence what was measured where and when."""
    data, environment = results["data"], results["environment"]
    asked = min((model["images"] for model in results["models"].values()), default=data["test"])
    images = f"the first {asked:,} of {data['test']:,}" if asked < data["test"] else f"{asked:,}"
    return (
        f"{data['label']}, {images} test images; {environment['cpu']}, {environment['cores']} cores; "
        f"{results['mode']} run of {results['created'][:10]}."
    )


def _brief(model: Model, rows: Sequence[Row]) -> tables.Table:
    return tables.table(tables.BRIEF, rows, model)


def _written(table: tables.Table, layout: str) -> str:
    """Return a table with its notes below; in a terminal a column's group stands above its head."""
    markdown = layout == "github"
    heads = [f"{column.group}{' ' if markdown else chr(10)}{column.head}".strip() for column in table.columns]
    rows = [
        [f"`{line.row['name']}`" if markdown else line.row["name"], *(_cell(*each) for each in line.cells)]
        for line in table.lines
    ]
    aligned = ["left", *["right"] * len(heads)]
    drawn: str = tabulate(rows, ["format", *heads], tablefmt=layout, disable_numparse=True, colalign=aligned)
    return "\n\n".join(
        [drawn, _list(f"[{number}] {note}" for number, note in enumerate(table.notes, 1))]
    ).strip()


def _cell(cell: tables.Cell, note: int) -> str:
    return f"{cell.text} [{note}]" if note else cell.text


def _verdict(model: Model) -> str:
    return _list(model.sentences)


def absent(model: Model) -> list[str]:
    """Return what isn't in the tables, and why, a line each."""
    return [f"{name}: {reason}" for name, reason in model.found["absent"].items()]


def _list(sentences: Iterable[str]) -> str:
    # A list in Markdown, and just as readable in a terminal.
    return "\n".join(f"- {sentence}" for sentence in sentences)


def _ran(results: Mapping[str, Any]) -> str:
    return _list(f"{what}: {value}" for what, value in ran(results))


def ran(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what a result is worth nothing without: machine, versions, digests; name and value."""
    data, environment = results["data"], results["environment"]
    packages: Mapping[str, str | None] = environment["packages"]
    return [
        ("run", f"{results['mode']}, ended {results['created']}"),
        *(("taken up again", when) for when in results["resumed"]),
        ("processor", f"{environment['cpu']}, {environment['cores']} cores"),
        ("system", f"{environment['system']}, Python {environment['python']}"),
        ("packages", ", ".join(f"{package} {version}" for package, version in packages.items() if version)),
        ("threads", ", ".join(map(str, results["threads"]))),
        ("data", f"{data['label']}, {data['test']:,} test images, sha256 {data['sha256']}"),
        *(
            (name, f"version {model['version']}, weights' sha256 {model['keras_sha256']}")
            for name, model in results["models"].items()
        ),
    ]


def _formats() -> str:
    """Return the table of what can be deployed."""
    rows = [
        [f"`{row.name}`", f"`{row.file}`", row.weights, row.activations, row.edge, row.use]
        for row in FORMATS.values()
    ]
    floats = ["float32"] * 3
    rows += [
        [
            "`savedmodel`",
            "`saved_model.pb`, `variables/`",
            *floats,
            "TensorFlow in this process, or any server",
        ],
        ["`keras`", "`models/<name>.keras`", *floats, "what was trained: to train on, hardly to deploy"],
    ]
    headers = ["format", "in `models/<name>/<N>/`", "weights", "activations", "in and out", "what for"]
    table: str = tabulate(rows, headers, tablefmt="github", disable_numparse=True)
    return table
