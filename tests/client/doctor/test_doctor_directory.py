"""What the doctor says of a directory of models, each fault made for real."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from doctor_fixtures import at, card_of, cut_graph, diagnose, folder_of_models, free_port
from serving_fixtures import (
    config_of,
    serving,
)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A folder of models with the version cnn/1."""
    return folder_of_models(tmp_path)


def _rename(old: str, new: str) -> Callable[[Path], None]:
    def change(cnn: Path) -> None:
        (cnn / new).parent.mkdir(parents=True, exist_ok=True)
        (cnn / old).rename(cnn / new)

    return change


def _remove(pattern: str) -> Callable[[Path], None]:
    def change(cnn: Path) -> None:
        for each in list(cnn.glob(pattern)):
            shutil.rmtree(each) if each.is_dir() else each.unlink()

    return change


def _write(name: str, content: bytes) -> Callable[[Path], None]:
    def change(cnn: Path) -> None:
        (cnn / name).parent.mkdir(parents=True, exist_ok=True)
        (cnn / name).write_bytes(content)

    return change


def _into_base(cnn: Path) -> None:
    for each in list((cnn / "1").iterdir()):
        each.rename(cnn / each.name)
    (cnn / "1").rmdir()


def _one_too_deep(cnn: Path) -> None:
    cnn.rename(cnn.parent / "deep")
    cnn.mkdir()
    (cnn.parent / "deep").rename(cnn / "digits")


def _model_in_version(cnn: Path) -> None:
    (cnn / "1").rename(cnn / "old")
    (cnn / "1").mkdir()
    (cnn / "old").rename(cnn / "1" / "cnn")


def _shards(cnn: Path) -> None:
    old = cnn / "1" / "variables" / "variables.data-00000-of-00001"
    old.rename(old.with_name("variables.data-00000-of-00003"))


LAYOUTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "v1": (
        _rename("1", "v1"),
        "models lie in v1, which aren't version numbers, so no server loads them | rename it to an integer",
    ),
    "v7": (_rename("1", "version_7"), "/version_7 "),
    "decimal": (_rename("1", "1.0"), "models lie in 1.0"),
    "in the base path": (_into_base, "the SavedModel lies in the base path itself | move it into "),
    "deeper": (_one_too_deep, "the versions lie one level deeper, in digits | give the server"),
    "in the version": (_model_in_version, "its SavedModel lies too deep, as cnn/saved_model.pb"),
    "empty version": (_remove("1/*"), "an empty version folder"),
    "nothing": (_remove("1"), 'so a server reports "No versions of servable found"'),
    "a file": (lambda cnn: (_remove("1")(cnn), _write("1", b"x")(cnn), None)[-1], "1 is no folder"),
    "no graph": (_remove("1/saved_model.pb"), "no saved_model.pb in it"),
    "no variables": (
        _remove("1/variables"),
        "incomplete copy: saved_model.pb uses variables, but there is no variables/",
    ),
    "index alone": (_remove("1/variables/*.data-*"), "variables.index without variables.data"),
    "data alone": (_remove("1/variables/*.index"), "variables.data without variables/variables.index"),
    "a part": (_shards, "only variables.data-00000-of-00003 exist"),
    "temporary": (
        _write("1/variables/variables.index.tmp", b"x"),
        "variables.index.tmp has a temporary name",
    ),
    "empty graph": (_write("1/saved_model.pb", b""), "saved_model.pb is empty (0 bytes)"),
    "empty data": (
        _write("1/variables/variables.index", b""),
        "variables/variables.index is empty (0 bytes)",
    ),
    "cut graph": (lambda cnn: cut_graph(cnn / "1"), "damaged or truncated (bytes that are no SavedModel)"),
    "contract": (_write("1/contract.json", b"{"), "not JSON ("),
    "other contract": (_write("1/contract.json", b'{"schema": 1}'), "not an input contract of this version"),
    "deep contract": (_write("1/contract.json", b"[" * 100_000), "recursion depth"),
    "card": (
        _write("1/export.json", b"{}"),
        "changed since it was published: export.json: not an export card",
    ),
    "added": (_write("1/more", b"x"), "changed since it was published: more was added"),
    "flipped": (
        _write("1/fingerprint.pb", b"x"),
        "changed since it was published: fingerprint.pb was changed",
    ),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_directory(models: Path, name: str) -> None:
    change, expected = LAYOUTS[name]
    change(models / "cnn")
    found = diagnose(f"--rest=127.0.0.1:{free_port()}", "--models", models)
    assert any(expected in each for each in found.faults[1:]), found.faults
    # Named by itself, the model's own directory gives the same.
    own = diagnose(f"--rest=127.0.0.1:{free_port()}", "--models", models / "cnn")
    assert own.faults[1:] == found.faults[1:]


def test_directories_that_are_not_there_or_not_the_right_ones(models: Path, tmp_path: Path) -> None:
    rest = f"--rest=127.0.0.1:{free_port()}"
    assert "doesn't exist" in diagnose(rest, "--models", tmp_path / "nope").faults[1]
    assert "holds no model nn; found cnn" in diagnose(rest, "--models", models, "--model=nn").faults[1]
    too_deep = diagnose(rest, "--models", models / "cnn" / "1").faults[1]
    assert (
        f"is a version, so it is one level too deep for a base path | give the server {models / 'cnn'}"
        in too_deep
    )
    assert "no version 3; found 1" in diagnose(rest, "--models", models, "--version=3").faults[1]


def test_the_usual_directory_need_not_be_there(
    models: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with serving(config_of(cnn=models / "cnn")) as client:
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        found = diagnose(*at(client))
        assert found.code == 0
        assert "doesn't exist, so no files were checked" in found.level("warning")[0]


def test_warnings_about_the_directory(models: Path) -> None:
    cnn = models / "cnn"
    with serving(config_of(cnn=cnn)) as client:
        found = diagnose(*at(client), "--models", models)
        assert found.code == 0
        assert not any("serving_bytes prepares" in each for each in found.level("warning"))
        older = json.loads((cnn / "1" / "contract.json").read_text()) | {"schema": 3}
        (cnn / "1" / "contract.json").write_text(json.dumps(older))
        card_of(cnn / "1").write(cnn / "1")
        found = diagnose(*at(client), "--models", models)
        assert found.code == 0
        assert any("serving_bytes prepares images differently" in each for each in found.level("warning"))
        (cnn / "1" / "saved_model.pb").chmod(0o600)
        (cnn / "2.partial").mkdir()
        (cnn / "1" / "contract.json").unlink()
        (cnn / "1" / "export.json").unlink()
        found = diagnose(*at(client), "--models", models)
        assert found.code == 0
        texts = found.level("warning")
        assert any("only its owner can read 1/saved_model.pb" in each for each in texts)
        assert any("a version whose copy hasn't finished" in each for each in texts)
        assert any("no contract.json" in each for each in texts)
