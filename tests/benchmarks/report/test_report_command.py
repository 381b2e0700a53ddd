"""The commands that write the report and the README's tables."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from report_fixtures import bare, row, written
from results_fixtures import results as made_up
from tfship.benchmarks import command, readme_command, report
from tfship.benchmarks.studies.registry import STUDIES
from tfship.train.common import cli


@pytest.fixture
def results() -> dict[str, Any]:
    return made_up()


def test_the_command_renders_a_file_again(
    results: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(tmp_path, bare(results))
    assert cli.run(command.main, ["report", str(file)]) == 0
    assert capsys.readouterr().out.strip() == report.text(results).strip()
    assert (tmp_path / "report.md").read_text() == report.markdown(results)
    assert (tmp_path / "report.html").read_text() == report.html(results)
    assert cli.run(command.main, ["report", str(file), "--objective", "size", "--json"]) == 0
    judged = json.loads(capsys.readouterr().out)["verdict"]
    assert [each["use"] for each in judged["models"]["nn"]["recommendations"]] == ["size"]
    assert (tmp_path / "report.md").read_text() == report.markdown(results, judged)
    assert cli.run(command.main, ["report", str(file), "--max-accuracy-drop", "2"]) == 2
    file.write_text('{"schema": 0}')
    assert cli.run(command.main, ["report", str(file)]) == 4
    assert "not a result file of schema" in capsys.readouterr().err


def test_readme_check_finds_a_changed_figure(
    results: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    readme, short = tmp_path / "README.md", tmp_path / "short.md"
    monkeypatch.setattr(readme_command, "_TABLES", readme)
    monkeypatch.setattr(readme_command, "_README", short)
    folder = tmp_path / "results"
    shutil.copytree(readme_command._RESULTS, folder)
    written(tmp_path, results).rename(folder / "formats.json")
    monkeypatch.setattr(readme_command, "_RESULTS", folder)
    markers = [
        f"<!-- {block}: written by `tfship benchmark readme`, not by hand -->\n<!-- end of {block} -->"
        for block in ("formats", "results", "released", *STUDIES)
    ]
    short.write_text(markers.pop(0))
    readme.write_text("\n".join(["before", *markers, "after", ""]))
    assert cli.run(command.main, ["readme", "--check"]) == 6
    assert cli.run(command.main, ["readme"]) == 0
    assert cli.run(command.main, ["readme", "--check"]) == 0
    whole = readme.read_text()
    assert whole.startswith("before\n")
    assert whole.endswith("\nafter\n")
    figure = f"{row(results, 'float32')['accuracy']['value']:.4f} ("
    assert figure in whole
    readme.write_text(whole.replace(figure, "0.9999 (", 1))
    assert cli.run(command.main, ["readme", "--check"]) == 6
    readme.write_text(whole)
    headline = short.read_text()
    assert f"{row(results, 'float32')['accuracy']['value']:.4f} |" in headline
    short.write_text(headline.replace("| `int8` ", "| `int9` "))
    assert cli.run(command.main, ["readme", "--check"]) == 6
    readme.write_text(markers[0])
    assert cli.run(command.main, ["readme", "--check"]) == 4
