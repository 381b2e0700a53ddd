"""The command `tfship benchmark gate`."""

import json
from pathlib import Path

import pytest

from analysis_fixtures import Results, row, slow_down
from results_fixtures import results
from tfship.benchmarks import command
from tfship.benchmarks.analysis.differences import NOISE, WORSE
from tfship.benchmarks.suite.runner import SCHEMA
from tfship.train.common import cli


@pytest.fixture
def old() -> Results:
    return results()


@pytest.fixture
def new() -> Results:
    return results()


def gate(folder: Path, old: Results, new: Results, *more: str) -> int:
    for name, each in (("old", old), ("new", new)):
        (folder / f"{name}.json").write_text(json.dumps(each))
    files = ["--baseline", str(folder / "old.json"), "--results", str(folder / "new.json")]
    return cli.run(command.main, ["gate", *files, *more])


def test_the_gate_passes_and_shows_what_was_compared(
    old: Results, new: Results, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gate(tmp_path, old, new) == 0
    out = capsys.readouterr().out
    assert out.endswith("\nnone of 726 figures got worse beyond noise\n")
    for model in old["models"]:
        for each in old["models"][model]["rows"]:
            assert (
                sum(
                    line.startswith(f"{model} ") and f"  {each['name']}  " in line
                    for line in out.splitlines()
                )
                == 1
            )


def test_the_gate_fails_with_a_sentence_for_each_regression(
    old: Results, new: Results, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slow_down(row(new, "int8")["query"], 1.5)
    new["models"]["cnn"]["rows"].remove(row(new, "keras"))
    assert gate(tmp_path, old, new) == 1
    out = capsys.readouterr().out
    assert "1.50 WORSE" in out
    assert "2 of 717 figures got worse:\n- cnn: int8: query p50: 1.50 times worse" in out
    assert out.endswith("- cnn: keras: row: is missing\n")


def test_the_gate_writes_json(
    old: Results, new: Results, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gate(tmp_path, old, new, "--json") == 0
    assert json.loads(capsys.readouterr().out)["passed"] is True
    slow_down(row(new, "int8")["query"], 1.5)
    assert gate(tmp_path, old, new, "--json") == 1
    found = json.loads(capsys.readouterr().out)
    assert found["passed"] is False
    assert len(found["regressions"]) == 1
    assert {each["found"] for each in found["checks"]} == {WORSE, NOISE}


def test_the_gate_refuses_what_is_no_result_file(
    old: Results, new: Results, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gate(tmp_path, {**old, "schema": 1}, new) == 4
    assert f"not a result file of schema {SCHEMA}; run `tfship benchmark`" in capsys.readouterr().err
    assert cli.run(command.main, ["gate", "--baseline", str(tmp_path / "none.json")]) == 4
    with pytest.raises(SystemExit, match="2"):
        command.main(["gate"])
