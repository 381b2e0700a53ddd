"""The table of studies: each row's modules have what a study needs."""

import inspect
import json
from pathlib import Path

import pytest

from conftest import ROOT
from tfship.benchmarks import command
from tfship.benchmarks.studies.registry import STUDIES, StudyMeasurement, StudyTable
from tfship.train.common import cli
from tfship.train.common.errors import ArtifactError


@pytest.mark.parametrize("name", STUDIES)
def test_modules_have_what_a_study_needs(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    study = STUDIES[name]
    for protocol, module in ((StudyMeasurement, study.measurement()), (StudyTable, study.table())):
        for method, expected in inspect.getmembers(protocol, inspect.isfunction):
            if not method.startswith("_"):
                found = inspect.signature(getattr(module, method))
                assert len(found.parameters) == len(inspect.signature(expected).parameters) - 1
    with pytest.raises(SystemExit, match="^0$"):
        command.main([name, "--help"])
    assert f"usage: tfship benchmark {name} " in capsys.readouterr().out


@pytest.mark.parametrize("name", [name for name, study in STUDIES.items() if study.committed])
def test_committed_results_are_shown(name: str) -> None:
    study = STUDIES[name]
    results = study.read(ROOT / "benchmarks" / "results" / f"{name}.json")
    for layout in ("simple", "github"):
        assert len(study.table().render(results, layout).splitlines()) > 3


@pytest.mark.parametrize("name", STUDIES)
def test_results_of_another_schema_are_refused(name: str, tmp_path: Path) -> None:
    file = tmp_path / f"{name}.json"
    file.write_text(json.dumps({"schema": 0}))
    study = STUDIES[name]
    message = f"not a result file of schema {study.schema}; run `tfship benchmark {name}`"
    with pytest.raises(ArtifactError, match=message):
        study.read(file)


def test_flags_of_a_server_need_a_study_that_starts_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(command.main, ["client", "--", "--workers=2"]) == 2
    assert "starts no server; remove --workers=2" in capsys.readouterr().err
