"""The report's figures and tables."""

from typing import Any

import pytest

from report_fixtures import row
from results_fixtures import results as made_up
from tfship.benchmarks.report import figures, tables
from tfship.benchmarks.report.models import Model, models


@pytest.fixture
def results() -> dict[str, Any]:
    return made_up()


def test_figures_have_the_digits_that_they_deserve() -> None:
    assert [figures.number(value) for value in (0.009, 0.0112, 0.5, 5.2, 11.13, 99.94, 99.96, 2024.4)] == [
        "0.009", "0.0112", "0.500", "5.20", "11.1", "99.9", "100", "2,024",
    ]  # fmt: skip
    assert [figures.duration(value) for value in (4.55, 826, 999.6, 1160, 2.4e6)] == [
        "4.55 µs", "826 µs", "1.00 ms", "1.16 ms", "2.40 s",
    ]  # fmt: skip
    assert [figures.probability(value) for value in (1.0, 0.377, 1e-9)] == ["1", "0.38", "< 0.0001"]


def model_of(results: dict[str, Any], name: str = "nn") -> Model:
    (found,) = [model for model in models(results) if model.name == name]
    return found


def cells(model: Model, columns: Any, name: str) -> dict[str, str]:
    table = tables.table(columns, [model.row(name)], model)
    return {
        f"{column.group} {column.head}".strip(): cell.text
        for column, (cell, _) in zip(table.columns, table.lines[0].cells, strict=True)
    }


def test_cells_say_what_was_measured(results: dict[str, Any]) -> None:
    int8 = row(results, "int8")
    int8["query"].update({"p50_us": 5.25, "p90_us": 5.37, "p99_us": 12.0, "p99.9_us": 123.4})
    # Twice as fast in each round, whatever the medians of all are.
    row(results, "float32")["query"]["windows_p50_us"] = [
        2 * each for each in int8["query"]["windows_p50_us"]
    ]
    int8["cpu_seconds_per_1000"] = {"here": 0.0051, "server": None}
    int8["batches"]["64"]["rate"] = 650_473.4
    model = model_of(results)
    assert cells(model, tables.ACCURACY, "int8") == {
        "accuracy": "0.9801", "95 % interval": "0.9772–0.9827", "against float32 changed": "7",
        "against float32 won": "3", "against float32 lost": "4", "against float32 p": "1",
        "calibration error": "0.0054", "size, KiB": "99.9", "arena, KiB": "6.27",
    }  # fmt: skip
    assert cells(model, tables.ACCURACY, "float32")["against float32 changed"] == ""
    time = cells(model, tables.TIME, "int8")
    assert [time[f"model only {which}"] for which in ("p50, µs", "p90, µs", "p99, µs", "p99.9, µs", "× float32")] == [
        "5.25", "5.37", "12.0", "123", "0.50",
    ]  # fmt: skip
    cost = cells(model, tables.COST, "int8")
    assert (cost["images/s in batches of 64"], cost["CPU s per 1,000 here"]) == ("650,473", "0.0051")


def test_rows_are_grouped_by_what_can_be_compared(results: dict[str, Any]) -> None:
    model = model_of(results)
    assert [each["name"] for each in model.plain] == [
        "float32", "dynamic", "float16", "int8", "int8_uint8", "int16x8", "selective", "savedmodel", "keras",
    ]  # fmt: skip
    assert all("threads" in each["name"] or "no XNNPACK" in each["name"] for each in model.variants)
    assert all(each["server"] for each in model.served)
    assert len(model.plain) + len(model.variants) + len(model.served) == len(model.rows)


def test_offline_is_that_of_all_cores_and_loadgen_stands_beside_ours(results: dict[str, Any]) -> None:
    row(results, "int8, 2 threads")["scenarios"]["offline"]["rate"] = 777_777.0
    model = model_of(results)
    columns = tables.scenarios(model.rows)
    found = cells(model, columns, "int8")
    assert found["Offline images/s"] == "777,777"
    assert found["SingleStream LoadGen's"] == figures.number(
        row(results, "int8")["loadgen"]["single_stream"]["loadgen"]
    )
    assert [column.group for column in columns if column.head == "LoadGen's"] == ["SingleStream"]
    row(results, "int8")["loadgen"]["single_stream"]["valid"] = False
    assert cells(model, columns, "int8")["SingleStream LoadGen's"].startswith("! ")


def test_a_missing_figure_says_why_and_once(results: dict[str, Any]) -> None:
    why = "needs 662 samples for 99 % confidence"
    for name in ("int8", "dynamic"):
        query = row(results, name)["query"]
        query.update({"p99_us": None, "p99.9_us": None, "missing": {"p99": why, "p99.9": why}})
    row(results, "float16")["query"]["stable"] = False
    row(results, "float16")["load_ms"] = None
    row(results, "float16")["empty"]["load_ms"] = "the process died"
    model = model_of(results)
    table = tables.table(tables.TIME, model.plain, model)
    by_name = {line.row["name"]: line.cells for line in table.lines}
    (cell, note) = by_name["int8"][4]
    assert (cell.text, table.notes[note - 1]) == ("–", why)
    assert by_name["dynamic"][5][1] == note
    assert (by_name["float16"][0][0].text, by_name["float16"][0][0].note) == ("–", "the process died")
    assert by_name["float16"][2][0].text.startswith("~ ")
    assert len(table.notes) == 3
    assert by_name["float32"][4][1] == 0
