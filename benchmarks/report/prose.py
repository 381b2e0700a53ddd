"""The report as text: for a terminal, for `report.md`, and for the tables of README.md and benchmarks/README.md."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tabulate import tabulate

from tfship.benchmarks.report import tables
from tfship.benchmarks.report.models import Model, Row, models
from tfship.export.conversion.formats import FORMATS

__all__ = ["headline", "markdown", "readme_block", "text"]

_LEGEND = (
    "≠ float32: images whose class differs from the float32 file's (+won/-lost, McNemar's exact p). Model only: from a "
    "prepared image to its probabilities; served: one request. End to end: from an encoded image to its label. "
    "images/s: in batches of 64. All rows took turns in one run. Compare ratios; absolute times depend on the machine."
)


def text(results: Mapping[str, Any], judged: Mapping[str, Any] | None = None) -> str:
    """Return the main figures for a terminal: a table per model and the verdict `judged`, by default for every use."""
    parts = [heading(results)]
    for model in models(results, judged):
        rows = [*model.plain, *model.in_browser, *model.served]
        parts += [f"{model.name}\n\n{_table_text(_brief(model, rows), 'simple')}", _verdict(model)]
    return "\n\n".join(parts)


def markdown(results: Mapping[str, Any], judged: Mapping[str, Any] | None = None) -> str:
    """Return the whole report in Markdown, without the plots; `judged` as for `text`."""
    parts = ["# tfship benchmark", heading(results)]
    for model in models(results, judged):
        parts += [f"## {model.name}", _verdict(model)]
        for title, columns, rows in (
            ("Accuracy and size", tables.ACCURACY, [*model.plain, *model.in_browser, *model.served]),
            ("Time in process", tables.TIME, model.plain),
            ("Throughput and cost in process", tables.COST, model.plain),
            ("More threads, other kernels", tables.TIME, model.variants),
            ("In the browser", tables.IN_BROWSER, model.in_browser),
            ("Time of a request", tables.REQUESTS, model.served),
            ("Throughput and cost of a server", tables.SERVED_COST, model.served),
            ("MLPerf's scenarios", tables.scenarios(model.rows), [*model.plain, *model.served]),
        ):
            if rows:
                parts += [f"### {title}", _table_text(tables.table(columns, rows, model), "github")]
        if lines := absent(model):
            parts += ["### Not measured", _list(lines)]
    inputs = _list(f"{name}: {value}" for name, value in provenance(results))
    return "\n\n".join([*parts, "## Environment and inputs", inputs]) + "\n"


def headline(results: Mapping[str, Any]) -> str:
    """Return a Markdown table with a line per format: use, and each model's size, accuracy and time."""
    all_models = models(results)
    heads = ["format", "use"]
    for model in all_models:
        heads += [f"{model.name}: size, KiB", "accuracy", "time × float32"]
    rows = []
    for row in FORMATS.values():
        cells = [f"`{row.name}`", row.use]
        for model in all_models:
            line = next((each for each in model.plain if each["name"] == row.name), None)
            cells += (
                ["", "", ""]
                if line is None
                else [column.fill(line, model).text for column in tables.HEADLINE]
            )
        rows.append(cells)
    aligned = ["left", "left", *["right"] * (len(heads) - 2)]
    table: str = tabulate(rows, heads, tablefmt="github", disable_numparse=True, colalign=aligned)
    return f"{table}\n\n{heading(results)} Time: inference of one image, one thread."


def readme_block(results: Mapping[str, Any]) -> str:
    """Return the section on formats of benchmarks/README.md, in Markdown."""
    parts = [_formats(), heading(results)]
    for model in models(results):
        rows = [*model.plain, *model.in_browser, *model.served]
        sentences = [each["sentence"] for each in model.verdict["recommendations"]]
        # The overhead of serving is explained in the report only.
        sentences += [
            each["sentence"] for each in model.verdict["slower"] if model.row(each["row"])["kind"] != "served"
        ]
        parts += [f"**{model.name}**", _table_text(_brief(model, rows), "github"), _list(sentences)]
    return "\n\n".join([*parts, _LEGEND])


def heading(results: Mapping[str, Any]) -> str:
    """Return a phrase with data, machine, mode and date of the run."""
    data, environment = results["data"], results["environment"]
    used = min((model["images"] for model in results["models"].values()), default=data["test"])
    images = f"the first {used:,} of {data['test']:,}" if used < data["test"] else f"{used:,}"
    return (
        f"{data['label']}, {images} test images; {environment['cpu']}, {environment['cores']} cores; "
        f"{results['mode']} run of {results['created'][:10]}."
    )


def _brief(model: Model, rows: Sequence[Row]) -> tables.Table:
    return tables.table(tables.BRIEF, rows, model)


def _table_text(table: tables.Table, layout: str) -> str:
    """Return a table followed by its notes; in a terminal a column's group is above its head."""
    markdown = layout == "github"
    heads = [f"{column.group}{' ' if markdown else chr(10)}{column.head}".strip() for column in table.columns]
    rows = [
        [f"`{line.row['name']}`" if markdown else line.row["name"], *(_cell(*each) for each in line.cells)]
        for line in table.lines
    ]
    aligned = ["left", *["right"] * len(heads)]
    body: str = tabulate(rows, ["format", *heads], tablefmt=layout, disable_numparse=True, colalign=aligned)
    notes = _list(f"[{number}] {note}" for number, note in enumerate(table.notes, 1))
    return f"{body}\n\n{notes}".strip()


def _cell(cell: tables.Cell, note: int) -> str:
    return f"{cell.text} [{note}]" if note else cell.text


def _verdict(model: Model) -> str:
    return _list(model.sentences)


def absent(model: Model) -> list[str]:
    """Return the rows missing in the tables, with the reasons, one line each."""
    return [f"{name}: {reason}" for name, reason in model.entry["absent"].items()]


def _list(sentences: Iterable[str]) -> str:
    # A Markdown list, which is also readable in a terminal.
    return "\n".join(f"- {sentence}" for sentence in sentences)


def provenance(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return names and values that identify a result's environment and inputs: machine, versions, digests."""
    data, environment = results["data"], results["environment"]
    packages: Mapping[str, str | None] = environment["packages"]
    return [
        ("run", f"{results['mode']}, ended {results['created']}"),
        *(("resumed", when) for when in results["resumed"]),
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
    """Return the Markdown table of the formats that can be deployed."""
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
            "for TensorFlow in process, and for any server",
        ],
        ["`keras`", "`models/<name>.keras`", *floats, "the trained model, for further training"],
    ]
    headers = ["format", "in `models/<name>/<N>/`", "weights", "activations", "input and output", "use"]
    table: str = tabulate(rows, headers, tablefmt="github", disable_numparse=True)
    return table
