import json
from pathlib import Path

import pytest

from tfship.benchmarks.harness.checkpoint import Journal
from tfship.train.common.errors import ArtifactError


def test_what_was_measured_is_there_again(tmp_path: Path) -> None:
    first = Journal(tmp_path, {"mode": "quick"})
    assert first.resumed == []
    first.part("cnn: one image")["int8 0"] = [[1, 2, 3], 0.5, 0.0]
    first.part("cnn: accuracy")["int8, 2 threads"] = "…"
    again = Journal(tmp_path, {"mode": "quick"})
    assert len(again) == 2
    assert len(again.resumed) == 1
    assert dict(again.part("cnn: one image")) == {"int8 0": [[1, 2, 3], 0.5, 0.0]}
    assert again.part("nn: one image") == {}
    assert len(Journal(tmp_path, {"mode": "quick"}).resumed) == 2


def test_another_run_takes_nothing_of_it(tmp_path: Path) -> None:
    Journal(tmp_path, {"models": ["a"]}).part("stage")["row"] = 1
    other = Journal(tmp_path, {"models": ["b"]})
    assert len(other) == 0
    assert other.resumed == []
    other.part("stage")["row"] = 2
    assert Journal(tmp_path, {"models": ["a"]}).part("stage") == {"row": 1}


def test_a_finished_run_leaves_nothing(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "partial", {})
    journal.part("stage")["row"] = 1
    journal.remove()
    assert list(tmp_path.iterdir()) == []


def test_a_file_half_written_is_no_figure(tmp_path: Path) -> None:
    journal = Journal(tmp_path, {})
    journal.part("stage")["row"] = 1
    (file,) = journal.folder.glob("*/*.json")
    # As a process that was killed while it wrote leaves it.
    (file.parent / f".stage-999999999-{file.name}").write_text('{"part": "st')
    assert Journal(tmp_path, {}).part("stage") == {"row": 1}
    file.write_text(json.dumps([1, 2]))
    with pytest.raises(ArtifactError, match="not a measurement of a benchmark; delete"):
        Journal(tmp_path, {}).part("stage")
    file.write_text("{")
    with pytest.raises(ArtifactError, match="not JSON"):
        Journal(tmp_path, {}).part("stage")


def test_what_was_measured_stays(tmp_path: Path) -> None:
    part = Journal(tmp_path, {}).part("stage")
    part["row"] = 1
    with pytest.raises(TypeError):
        del part["row"]
    with pytest.raises(ValueError, match="Out of range"):
        part["other"] = float("nan")
    assert dict(part) == {"row": 1}
