"""Result files, read only where they are valid."""

from pathlib import Path
from typing import Any

import pytest

from report_fixtures import bare, written
from results_fixtures import results as made_up
from tfship.benchmarks import report
from tfship.train.common.errors import ArtifactError


@pytest.fixture
def results() -> dict[str, Any]:
    return made_up()


def test_a_valid_file_is_read_as_it_is(results: dict[str, Any], tmp_path: Path) -> None:
    assert report.read(written(tmp_path, results)) == results
    assert report.read(written(tmp_path, bare(results))) == results


def test_what_is_no_result_file_is_refused(results: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no such file"):
        report.read(tmp_path / "none.json")
    (tmp_path / "results.json").write_text('{"schema": 2,')
    with pytest.raises(ArtifactError, match="not JSON"):
        report.read(tmp_path / "results.json")
    with pytest.raises(ArtifactError, match="not a result file of schema 3; run `tfship benchmark`"):
        report.read(written(tmp_path, results | {"schema": 1}))


def test_what_the_schema_forbids_is_refused_and_the_place_is_named(
    results: dict[str, Any], tmp_path: Path
) -> None:
    results["models"]["cnn"]["rows"][3]["bytes"] = "many"
    with pytest.raises(
        ArtifactError, match=r"\$\.models\.cnn\.rows\[3\]\.bytes: 'many' is not of type 'integer'"
    ):
        report.read(written(tmp_path, results))
    del results["models"]["cnn"]["rows"][3]["bytes"]
    with pytest.raises(ArtifactError, match=r"\$\.models\.cnn\.rows\[3\]: 'bytes' is a required property"):
        report.read(written(tmp_path, results))


def test_a_reference_that_is_no_row_is_refused(results: dict[str, Any], tmp_path: Path) -> None:
    results["models"]["nn"]["reference"] = "float64"
    with pytest.raises(ArtifactError, match="nn: the row of the reference, 'float64', is missing"):
        report.read(written(tmp_path, results))
