"""The report as text: for a terminal, in Markdown, and in the README."""

from typing import Any

import pytest

from report_fixtures import row
from results_fixtures import results as made_up
from tfship.benchmarks import report
from tfship.benchmarks.analysis import recommendation


@pytest.fixture
def results() -> dict[str, Any]:
    return made_up()


def test_a_terminal_gets_a_table_per_model_and_the_verdict(results: dict[str, Any]) -> None:
    said = report.text(results)
    judged = recommendation.judge(results)["models"]
    for name in ("nn", "cnn"):
        assert f"\n{name}\n" in said
        for each in (*judged[name]["recommendations"], *judged[name]["slower"]):
            assert f"- {each['sentence']}" in said
    for each in ("float32", "savedmodel", "embedded TFLite, gRPC"):
        assert sum(line.startswith(f"{each}  ") for line in said.splitlines()) == 2
    assert "no XNNPACK  " not in said
    row(results, "int8")["query"].update({"stable": False})
    (line,) = [
        line for line in report.text(results).splitlines() if line.startswith("int8  ") and "~" in line
    ]
    assert "[1]" in line
    assert "- [1] ~: unstable" in report.text(results)


def test_markdown_has_every_row_and_what_ran(results: dict[str, Any]) -> None:
    said = report.markdown(results)
    for name, model in results["models"].items():
        assert f"\n## {name}\n" in said
        assert model["keras_sha256"] in said
        for each in model["rows"]:
            assert f"| `{each['name']}` " in said
    assert results["data"]["sha256"] in said
    assert "tensorflow 2.21.0" in said


def test_the_readme_describes_the_formats_and_shows_what_they_are_worth(results: dict[str, Any]) -> None:
    said = report.readme_block(results)
    assert "| `int8_uint8` | `tflite/int8_uint8.tflite` " in said
    assert said.count("| `int8_uint8`") == 3
    assert "2 threads`" not in said
    for model in recommendation.judge(results)["models"].values():
        for each in model["recommendations"]:
            assert f"\n- {each['sentence']}\n" in said
