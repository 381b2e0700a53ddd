"""What the tests of the results' analysis do to made-up results: find a row, slow it down, list regressions."""

from typing import Any

from tfship.benchmarks.analysis.regression import compare

Results = dict[str, Any]
Row = dict[str, Any]

CLOCKS = ("query", "end_to_end")


def row(made: Results, name: str, model: str = "cnn") -> Row:
    (found,) = [each for each in made["models"][model]["rows"] if each["name"] == name]
    return found  # type: ignore[no-any-return]


def slow_down(timing: dict[str, Any], factor: float) -> None:
    for name in ("p50_us", "p90_us", "p99_us", "p99.9_us"):
        timing[name] = timing[name] and timing[name] * factor
    for name in ("windows_p50_us", "quantiles_us"):
        timing[name] = [each * factor for each in timing[name]]


def worse(old: Results, new: Results) -> list[str]:
    return [f"{each.row}: {each.figure}" for each in compare(old, new).regressions]
