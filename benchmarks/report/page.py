"""The report as a page: one file that fetches nothing and runs nothing."""

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
from tfship.benchmarks.report.drawing import Plot, drawn
from tfship.benchmarks.report.models import Model, models
from tfship.benchmarks.report.prose import absent, heading, ran

__all__ = ["html"]

_FOLDER = Path(__file__).resolve().parent


@dataclass(frozen=True)
class _Picture:
    """A plot as the page shows it."""

    plot: Plot
    wide: Markup
    narrow: Markup


def html(results: Mapping[str, Any], judged: Mapping[str, Any] | None = None) -> str:
    """Return a result file's contents as an HTML page, complete in itself.

    `judged` is what `benchmarks.analysis.recommendation.judge` says of them; by default for every use.
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
        pictures=lambda model: _pictures(model, results),
    )  # fmt: skip
    return environment.get_template("page.html").render(
        # Our own files, and no reader's words in them.
        css=Markup(colours.css() + (_FOLDER / "page.css").read_text()),  # noqa: S704
        results=results,
        heading=heading(results),
        ran=ran(results),
        models=models(results, judged),
    )


def _pictures(model: Model, results: Mapping[str, Any]) -> dict[str, _Picture | str]:
    """Return the model's plots by name, or why there is none."""
    found = {
        "accuracy": plots.accuracy(model),
        "latency": plots.latency(model, results["quantiles"]),
        "layers": plots.layers(model),
        "throughput": served_plots.throughput(model),
        "parts": served_plots.parts(model),
    }
    return {
        name: plot if isinstance(plot, str) else _picture(f"{model.name}-{name}", plot)
        for name, plot in found.items()
    }


def _picture(name: str, plot: Plot) -> _Picture:
    # A model may be called anything; an id may not.
    wide, narrow = drawn(plot, re.sub(r"[^\w-]", "_", name))
    return _Picture(plot, Markup(wide), Markup(narrow))  # noqa: S704 - ElementTree has escaped what is in them
