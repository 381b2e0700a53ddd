"""Rows of a benchmark in headless Chromium."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from conftest import ROOT
from tfship.benchmarks import report
from tfship.benchmarks.harness import timer
from tfship.benchmarks.harness.server_process import Addresses
from tfship.benchmarks.suite import model_selection, runner, serving_backends, system_under_test
from tfship.benchmarks.suite.measured_model import Options
from tfship.benchmarks.suite.modes import Mode
from tfship.benchmarks.suite.system_under_test import Subject
from tfship.train.data.datasets import Digits

SCHEMA = json.loads((ROOT / "benchmarks" / "report" / "results.schema.json").read_text())
FEWER = 100
# As briefly as it goes, without TensorFlow.
BRIEF = Mode(
    "default", "", 200, FEWER, True, False,
    window=22, window_seconds=0.0, most=100, longest=1.0, longest_compared=None, rounds=3,
    patience=0.0, trial_seconds=0.1, trials=1, sweep_seconds=0.1, connections=(1, 4), offline=128,
)  # fmt: skip


def test_rows_in_a_browser(models: Path, sample: Digits, tmp_path: Path, chromium: None) -> None:
    def reference_only(*arguments: Any, **options: Any) -> list[Subject]:
        return system_under_test.in_process(*arguments, **options)[:1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timer, "MOST", BRIEF.rounds)
        patch.setattr(runner, "in_process", reference_only)
        patch.setattr(serving_backends, "SERVERS", ())
        found = runner.run(model_selection.of(models, ["nn"], sample), BRIEF, Options(), tmp_path)
        jsonschema.validate(found, SCHEMA)
    rows = {row["name"]: row for row in found["models"]["nn"]["rows"]}
    # Where there is no GPU, the report says so.
    absent = found["models"]["nn"]["absent"]
    assert set(rows) == {"float32", *system_under_test.BROWSER} - absent.keys()
    assert {"browser, WASM", "browser, WASM threads"} < rows.keys()
    assert absent.get("browser, WebGPU", "WebGPU")
    reference = rows.pop("float32")
    for row in rows.values():
        assert (row["kind"], row["format"], row["server"]) == ("browser", "float32", None)
        assert row["against_float32"]["disagreements"] == 0
        assert row["accuracy"]["images"] == FEWER
        # Timed by the browser: without the way to it, which takes milliseconds.
        assert 0 < row["query"]["p50_us"] < 100 * reference["query"]["p50_us"]
        assert row["cpu_seconds_per_1000"] is None
        assert row["batches"].keys() == {"1"}
        assert row["empty"]["load_ms"] == "the model alone was measured in the browser"
    written = report.markdown(found)
    assert "### In the browser" in written
    assert "`browser, WASM threads`" in report.text(found) + written


def test_why_there_are_no_rows_in_a_browser(models: Path, sample: Digits) -> None:
    (model,) = model_selection.of(models, ["nn"], sample)
    nowhere = Addresses("127.0.0.1:1", "127.0.0.1:1")
    backends = dict.fromkeys(serving_backends.SERVERS[:1], nowhere)
    assert not any(row.kind == "browser" for row in runner.rows(model, BRIEF, backends))
    reasons = runner._absent(model, BRIEF, None)
    assert "needs Chromium" in reasons["browser, WASM"]
    assert (
        runner._absent(model, replace(BRIEF, variants=False), None)["browser, WASM threads"]
        == "left out by --quick"
    )
