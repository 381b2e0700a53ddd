import json
import subprocess
import sys
from pathlib import Path

import pytest

from tfship.train.common import files
from tfship.train.common.errors import ArtifactError


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.txt"
    files.write_bytes(path, b"one")
    with pytest.raises(RuntimeError), files.staged(path) as stage:  # noqa: PT012
        stage.write_bytes(b"tw")
        raise RuntimeError
    assert path.read_bytes() == b"one"
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_appears_whole(tmp_path: Path) -> None:
    final = tmp_path / "1"
    with files.staged(final) as stage:
        (stage / "variables").mkdir(parents=True)
        (stage / "variables" / "x").write_text("x")
        assert not final.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["1"]
    assert (final / "variables" / "x").read_text() == "x"


def test_stages_of_the_dead_are_swept_and_those_of_the_living_kept(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    living = tmp_path / f".stage-{process.pid}-model"
    living.mkdir()
    files.sweep(tmp_path)
    assert living.is_dir()
    process.communicate(b"\n")
    (living / "half").write_text("half")
    (tmp_path / ".stage-note").write_text("not one of ours")
    files.sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".stage-note"]


def test_json(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    files.write_json(path, {"a": [1, 2.5]})
    assert files.read_json(path) == json.loads(path.read_text()) == {"a": [1, 2.5]}
    with pytest.raises(ValueError, match="Out of range float"):
        files.write_json(path, float("nan"))
    assert files.read_json(path) == {"a": [1, 2.5]}
    path.write_text("{")
    with pytest.raises(ArtifactError, match="a.json: not JSON"):
        files.read_json(path)
    with pytest.raises(ArtifactError, match="b.json: no such file"):
        files.read_json(tmp_path / "b.json")


def test_sha256_is_that_of_the_concatenation(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"ab")
    (tmp_path / "b").write_bytes(b"c")
    # FIPS 180-2's test vector for "abc".
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert files.sha256(tmp_path / "a", tmp_path / "b") == expected
