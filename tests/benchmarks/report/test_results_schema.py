import json
from typing import Any

import jsonschema
import numpy as np
import pytest

from conftest import ROOT
from results_fixtures import MODELS, results
from tfship.export.conversion.formats import FORMATS

SCHEMA = json.loads((ROOT / "benchmarks" / "report" / "results.schema.json").read_text())


def test_the_made_up_results_are_what_the_schema_describes() -> None:
    made = results()
    jsonschema.Draft202012Validator(SCHEMA).validate(made)
    assert json.loads(json.dumps(made, allow_nan=False)) == made == results()
    for name in MODELS:
        rows = made["models"][name]["rows"]
        assert {row["format"] for row in rows if row["kind"] == "tflite"} == set(FORMATS)
        assert {row["kind"] for row in rows} == {"tflite", "keras", "savedmodel", "served"}
        assert len({row["name"] for row in rows}) == len(rows)


def test_the_schema_refuses_what_it_does_not_describe() -> None:
    made = results()
    made["models"]["nn"]["rows"][0]["query"]["p50"] = 1.0
    with pytest.raises(jsonschema.ValidationError, match="'p50' was unexpected"):
        jsonschema.Draft202012Validator(SCHEMA).validate(made)


def test_made_up_figures_that_belong_together_agree() -> None:
    made: dict[str, Any] = results()
    for model in made["models"].values():
        for row in model["rows"]:
            timing = row["query"]
            assert np.isclose(np.median(timing["windows_p50_us"]), timing["p50_us"], rtol=0.05)
            assert len(timing["quantiles_us"]) == len(made["quantiles"])
            assert sorted(timing["quantiles_us"]) == timing["quantiles_us"]
        for name, operators in model["operators"].items():
            (row,) = [row for row in model["rows"] if row["name"] == name]
            assert np.isclose(sum(each["us"] for each in operators), row["query"]["p50_us"], rtol=0.15)
            if name != model["reference"]:
                assert model["changed"][name]["count"] == row["against_float32"]["disagreements"]
