import subprocess
import sys
from pathlib import Path

import pytest

from conftest import ROOT
from tfship.export.publishing import store
from tfship.train.common.errors import ArtifactError, ConversionError, UsageError


def publish(base: Path, text: str = "x") -> Path:
    with store.draft(base) as draft:
        (draft.folder / "file").write_text(text)
        return draft.publish()


def test_only_integers_are_versions(tmp_path: Path) -> None:
    for name in ("1", "10", "2", "x", "-3", "1.5", "٣", ".stage-1-version", "retired-4"):
        (tmp_path / name).mkdir()
    (tmp_path / "7").write_text("a file")
    assert list(store.versions(tmp_path)) == [1, 2, 10]
    assert store.latest(tmp_path) == tmp_path / "10"
    with pytest.raises(ArtifactError, match="holds no version directory .*run `tfship export` first"):
        store.latest(tmp_path / "x")


def test_two_drafts_never_take_the_same_number(tmp_path: Path) -> None:
    """Two processes publish fifty versions each, at once."""
    script = f"""
from pathlib import Path
from tfship.export.publishing import store
for _ in range(50):
    with store.draft(Path({str(tmp_path)!r})) as draft:
        (draft.folder / "file").write_text("x")
        draft.publish()
"""
    processes = [subprocess.Popen([sys.executable, "-c", script], cwd=ROOT) for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    assert list(store.versions(tmp_path)) == list(range(1, 101))
    assert all((path / "file").read_text() == "x" for path in tmp_path.iterdir())


def test_an_unpublished_draft_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConversionError), store.draft(tmp_path / "nn") as draft:  # noqa: PT012
        (draft.folder / "saved_model.pb").write_text("half")
        raise ConversionError("no")
    assert list((tmp_path / "nn").iterdir()) == []


def test_rolling_back_is_what_a_server_sees_and_can_be_undone(tmp_path: Path) -> None:
    for text in "abc":
        publish(tmp_path, text)
    assert store.rollback(tmp_path) == (tmp_path / "retired-3", tmp_path / "2")
    # What TensorFlow Serving scans for: integer names, and nothing else.
    assert list(store.versions(tmp_path)) == [1, 2]
    assert store.rollback(tmp_path)[1] == tmp_path / "1"
    assert store.restore(tmp_path) == tmp_path / "3"
    assert store.restore(tmp_path, 2) == tmp_path / "2"
    assert [(tmp_path / name / "file").read_text() for name in "123"] == ["a", "b", "c"]
    assert store.retired(tmp_path) == {}


def test_the_number_of_a_retired_version_is_not_given_again(tmp_path: Path) -> None:
    publish(tmp_path)
    publish(tmp_path)
    store.rollback(tmp_path)
    assert publish(tmp_path) == tmp_path / "3"
    assert store.retire(tmp_path, 1) == tmp_path / "retired-1"
    assert list(store.versions(tmp_path)) == [3]


def test_what_cannot_be_taken_or_put_back(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="holds no version 0; there are none"):
        store.rollback(tmp_path)
    publish(tmp_path)
    with pytest.raises(UsageError, match="is the only version"):
        store.rollback(tmp_path)
    with pytest.raises(ArtifactError, match="holds no version 5; there are 1"):
        store.retire(tmp_path, 5)
    with pytest.raises(ArtifactError, match="has no retired version; there are none"):
        store.restore(tmp_path)
    publish(tmp_path)
    store.retire(tmp_path, 1)
    with pytest.raises(ArtifactError, match="has no retired version 2; there are 1"):
        store.restore(tmp_path, 2)
