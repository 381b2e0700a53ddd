"""The report as an HTML page: one file without scripts or external resources."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from tfship.benchmarks.analysis import formatting
from tfship.benchmarks.report import colours, plots, served_plots, tables
from tfship.benchmarks.report.details import changed, files, operators, summaries, trials
from tfship.benchmarks.report.drawing import Plot, render
from tfship.benchmarks.report.models import Model, models
from tfship.benchmarks.report.prose import absent, heading, provenance

__all__ = ["html"]

_FOLDER = Path(__file__).resolve().parent


@dataclass(frozen=True)
class _Drawing:
    """A plot and its SVG elements for wide and narrow pages."""

    plot: Plot
    wide: Markup
    narrow: Markup


def html(results: Mapping[str, Any], judged: Mapping[str, Any] | None = None) -> str:
    """Return the contents of a result file as a self-contained HTML page.

    `judged` is the verdict of `benchmarks.analysis.recommendation.judge`, by default that for every objective.
    """
    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(
        tables=tables, table=tables.table, colour=colours.of_format, times=formatting.times,
        absent=absent, changed=changed, operators=operators, trials=trials, summaries=summaries, files=files,
        drawings=lambda model: _drawings(model, results),
    )  # fmt: skip
    return environment.get_template("page.html").render(
        # From this package's files, without any user input.
        css=Markup(colours.css() + (_FOLDER / "page.css").read_text()),  # noqa: S704
        results=results,
        heading=heading(results),
        provenance=provenance(results),
        models=models(results, judged),
    )


def _drawings(model: Model, results: Mapping[str, Any]) -> dict[str, _Drawing | str]:
    """Return the model's plots by name, or the reasons why they are missing."""
    by_name = {
        "accuracy": plots.accuracy(model),
        "latency": plots.latency(model, results["quantiles"]),
        "layers": plots.layers(model),
        "throughput": served_plots.throughput(model),
        "parts": served_plots.parts(model),
    }
    return {
        name: plot if isinstance(plot, str) else _drawing(f"{model.name}-{name}", plot)
        for name, plot in by_name.items()
    }


def _drawing(name: str, plot: Plot) -> _Drawing:
    # A model's name may contain characters that an id may not.
    wide, narrow = render(plot, re.sub(r"[^\w-]", "_", name))
    return _Drawing(plot, Markup(wide), Markup(narrow))  # noqa: S704 - ElementTree has escaped the texts
