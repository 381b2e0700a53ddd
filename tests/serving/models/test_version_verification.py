"""Versions that are loaded only if their files are those in the export card (--verify_versions)."""

import logging
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from doctor_fixtures import card_of
from serving_fixtures import TFLITE, config_of, eventually, factor, publish, serving
from tfship.serving.models.manager import LoadPolicy
from tfship.serving.server import flag_settings, flags
from tfship.serving.server.model_server import Settings
from tfship.train.common.errors import ArtifactError

SETTINGS = Settings(loader=replace(TFLITE, verify=True))


def _published(base_path: Path, number: int) -> Path:
    """Publish a version with a card, and return its directory."""
    version = base_path / str(number)
    publish(base_path, number)
    (version / "assets").mkdir()
    (version / "assets" / "labels.txt").write_text("a\nb\n")
    card_of(version).write(version)
    return version


def test_the_flag_is_off_by_default() -> None:
    for given, expected in (([], False), (["--verify_versions"], True)):
        loader = flag_settings.settings(flags.parse(["--model_base_path=/x", *given])).loader
        assert loader.verify is expected


def test_a_whole_version_is_loaded_with_a_note(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    version = _published(tmp_path, 1)
    (version / "batching_params.pbtxt").write_text("")  # the operator's
    (version / ".hidden").write_text("")
    with serving(config_of(m=tmp_path), SETTINGS) as client:
        assert factor(client) == 1.0
    assert "model m version 1: verified 2 files by export.json" in caplog.text


def test_a_version_without_a_card_is_loaded_with_a_note(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    publish(tmp_path, 1)
    with serving(config_of(m=tmp_path), SETTINGS) as client:
        assert factor(client) == 1.0
    assert "model m version 1: not verified: it has no export.json" in caplog.text


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda version: _flip(version / "model.tflite"),
            r"/1/model\.tflite: is damaged or not completely copied; its sha256 is [0-9a-f]{12}…, export\.json has "
            r"[0-9a-f]{12}…; copy the version again, or publish it again with `tfship export`",
        ),
        (lambda version: (version / "model.tflite").write_bytes(b""), "not completely copied"),
        (
            lambda version: (version / "assets" / "labels.txt").unlink(),
            r"labels\.txt: is missing, but listed in",
        ),
        (lambda version: (version / "saved_model.pb").write_text(""), r"saved_model\.pb: is not listed in"),
        (lambda version: (version / "export.json").write_text("{"), "not JSON"),
        (
            lambda version: (version / "export.json").write_text(
                (version / "export.json").read_text().replace('"model": ""', '"model": "x"')
            ),
            "was changed since it was written",
        ),
    ],
    ids=["flipped", "truncated", "missing", "added", "broken card", "edited card"],
)
def test_a_version_that_differs_from_its_card_is_refused(
    tmp_path: Path, change: Callable[[Path], object], message: str
) -> None:
    version = _published(tmp_path, 1)
    change(version)
    with pytest.raises(ArtifactError) as error:
        SETTINGS.loader.load(version)
    assert re.search(message, str(error.value))


def test_a_version_whose_copy_is_completed_is_loaded_then(tmp_path: Path) -> None:
    _published(tmp_path, 1)
    loading = LoadPolicy(poll_seconds=0.05, retries=1000, retry_seconds=0)
    with serving(config_of(m=tmp_path), SETTINGS, loading) as client:
        whole = _published(tmp_path / "stage", 2)
        file = whole / "model.tflite"
        content = file.read_bytes()
        file.write_bytes(content[: len(content) // 2])
        whole.rename(tmp_path / "2")
        eventually(lambda: client.states("m") == {"2": "LOADING", "1": "AVAILABLE"})
        _, answer = client.rest("/v1/models/m/versions/2")
        assert "is damaged or not completely copied" in str(answer)
        assert factor(client) == 1.0
        (tmp_path / "2" / "model.tflite").write_bytes(content)
        eventually(lambda: factor(client) == 2.0)
