"""Which file of a version is served with --prefer_tflite_model."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving_fixtures import ROW, TFLITE, config_of, serving, tflite_times, tiny_models
from tfship.client.doctor import version_files
from tfship.serving.models import served_file
from tfship.serving.server.model_server import Settings

CARD = "export.json"
# The version below has no file for the format selective.
NO_FORMATS: list[Any] = ["", "selective", "nope", "../../x", None, 3, ["int8"], {}]


@pytest.fixture
def version(tmp_path: Path) -> Path:
    """A version whose SavedModel doubles, and whose TFLite files take 3 and 5 times their input."""
    path = tmp_path / "m" / "1"
    shutil.copytree(tiny_models() / "double" / "1", path)
    (path / "tflite").mkdir()
    for name, factor in (("int8", 3), ("float32", 5)):
        (path / "tflite" / f"{name}.tflite").write_bytes(tflite_times(factor))
    return path


def factor(version: Path) -> float:
    """Return what a server that prefers TFLite multiplies by."""
    with serving(config_of(m=version.parent), Settings(loader=TFLITE)) as client:
        value: float = client.predict("m", x=ROW)["y"][0, 0] / ROW[0, 0]
    return value


def test_card_names_the_file_unless_there_is_a_model_tflite(version: Path) -> None:
    (version / CARD).write_text('{"serves": "int8"}')
    assert served_file.find(version) == version / "tflite" / "int8.tflite"
    assert factor(version) == 3
    (version / "model.tflite").write_bytes(tflite_times(7))
    assert served_file.find(version) == version / "model.tflite"
    assert factor(version) == 7


@pytest.mark.parametrize(
    "card",
    [
        None,
        "",
        "{",
        "[" * 100_000,
        "[]",
        "{}",
        *(json.dumps({"serves": each}) for each in NO_FORMATS),
    ],
    ids=lambda card: repr(card)[:20],
)
def test_any_other_card_names_none(version: Path, card: str | None) -> None:
    if card is not None:
        (version / CARD).write_text(card)
    assert served_file.find(version) is None


def test_bytes_that_are_no_text_name_none(version: Path) -> None:
    (version / CARD).write_bytes(b"\xff\xfe\x00")
    assert served_file.find(version) is None
    (version / CARD).unlink()
    (version / CARD).mkdir()
    assert served_file.find(version) is None


def test_without_one_the_saved_model_is_served(version: Path) -> None:
    (version / CARD).write_text('{"serves":')
    assert factor(version) == 2


def test_doctor_names_the_file_that_needs_the_flag(version: Path) -> None:
    shutil.rmtree(version / "variables")
    (version / "saved_model.pb").unlink()
    (version / CARD).write_text('{"serves": "int8"}')
    said: Any = version_files.examine(version)[0]
    assert [(each.found, each.remedy) for each in said] == [
        (
            "holds tflite/int8.tflite and no SavedModel",
            "start the embedded server with --prefer_tflite_model; TensorFlow Serving needs model.tflite or a "
            "SavedModel",
        )
    ]
    shutil.copy(version / "tflite" / "int8.tflite", version / "model.tflite")
    assert "holds model.tflite and no SavedModel" in str(version_files.examine(version)[0])
    assert factor(version) == np.float32(3)
