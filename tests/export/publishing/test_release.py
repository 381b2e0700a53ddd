import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from statistics import mean

import numpy as np
import pytest

from conftest import ROOT
from tfship.client import predict
from tfship.client.images.draw_samples import FOLDER
from tfship.export.command import main as export
from tfship.export.conversion import formats
from tfship.export.publishing import cards as export_cards
from tfship.export.publishing import release, store
from tfship.export.runtimes.litert import LiteRT
from tfship.export.runtimes.protocol import Classifier
from tfship.train import cards
from tfship.train.cards import RELEASED
from tfship.train.common import cli
from tfship.train.data.datasets import Digits, to_input

NAMES = ("nn", "cnn")
# Mean test accuracy over the seeds, as the issue that asked for these weights puts it.
FLOORS = {"nn": 0.9920, "cnn": 0.9950}
PARAMETERS = {"nn": 91_860, "cnn": 544_522}
IN_REPOSITORY = ROOT / "models" / RELEASED


def released(folder: Path, source: Path) -> Path:
    """Make a folder of models that holds nothing but released ones."""
    shutil.copytree(source, folder / RELEASED)
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_released_cards_hold_the_evidence(name: str) -> None:
    card = cards.read(IN_REPOSITORY, name)  # checks that the weights are the card's
    assert card.parameters == PARAMETERS[name]
    assert (card.data["label"], card.data["train"], card.data["test"]) == ("MNIST", 60_000, 10_000)
    assert len({run["seed"] for run in card.seeds}) >= 5
    assert mean(run["accuracy"] for run in card.seeds) >= FLOORS[name]
    best = max(card.seeds, key=lambda run: (run["validation"], -run["validation_loss"]))
    assert (card.seed, card.weights_sha256) == (best["seed"], best["weights_sha256"])
    assert card.accuracy["value"] == best["accuracy"]


@pytest.mark.parametrize("name", NAMES)
def test_released_files_are_of_the_same_network(name: str, sample: Digits) -> None:
    from tfship.train.common.tensorflow_loader import tensorflow

    tensorflow()
    import keras

    model = keras.models.load_model(IN_REPOSITORY / f"{name}.keras", compile=False)
    assert model.count_params() == PARAMETERS[name]
    images = to_input(sample.x_test)
    expected = model.predict(images, verbose=0)
    file = IN_REPOSITORY / f"{name}.{formats.RELEASED}.tflite"
    target = Classifier(LiteRT(file), str(file))
    found = target.predict(images)
    target.close()
    assert np.mean(found.argmax(1) == expected.argmax(1)) >= 0.99
    assert np.mean(expected.argmax(1) == sample.y_test) >= 0.99


def test_the_samples_are_recognised_in_a_fresh_clone(tmp_path: Path) -> None:
    """No data, no training, no export: the command of the README, in a copy of what the repository holds."""
    files = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\0")
    for name in filter(None, files):
        if (ROOT / name).is_file():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tmp_path / name)
    for model in NAMES:
        asked = ["client/predict.py", "client/samples", "--target", "tflite", "--json", "--model", model]
        done = subprocess.run(
            [sys.executable, *asked], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        answers = {
            Path(each["image"]).stem: each["label"] for each in map(json.loads, done.stdout.splitlines())
        }
        assert answers == {"two": "2", "three": "3", "five": "5", "seven": "7"}
        assert f"models/{model} holds no version; using the released model" in done.stderr


def test_an_exported_version_comes_before_the_released_model(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = released(tmp_path, IN_REPOSITORY)
    arguments = [str(FOLDER / "seven.png"), "--models", str(folder), "--target"]
    assert cli.run(predict.main, [*arguments, "tflite:float16"]) == 4
    assert "holds no version directory" in capsys.readouterr().err
    shutil.copytree(models / "cnn", folder / "cnn")
    assert cli.run(predict.main, [*arguments, "tflite"]) == 0
    assert capsys.readouterr().err == ""


def test_releasing_and_exporting_what_is_released(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The whole way with weights whose data is at hand: trained, exported, released, exported from there."""
    assert cli.run(release.main, ["--models", str(models)]) == 4
    assert "trained on the sample digits" in capsys.readouterr().err

    monkeypatch.setattr(release, "SAMPLE", "something else")
    source = tmp_path / "source"
    shutil.copytree(models, source)
    assert cli.run(release.main, ["nn", "--models", str(source)]) == 0
    assert {Path(line).name for line in capsys.readouterr().out.splitlines()} == {
        "nn.keras",
        "nn.card.json",
        "nn.int8.tflite",
        "nn.curves.png",
        "nn.confusion.png",
    }
    folder = released(tmp_path / "clone", source / RELEASED)
    assert cards.read(folder / RELEASED, "nn") == cards.read(models, "nn")
    assert cli.run(export, ["nn", "--models", str(folder), "--formats", "int8"]) == 0
    assert "nn: not trained here; exporting the released weights" in capsys.readouterr().err
    exported = export_cards.read(store.latest(folder / "nn"))
    assert exported.keras_sha256 == cards.read(models, "nn").keras_sha256

    replace(export_cards.read(source / "nn" / "1"), keras_sha256="0" * 64).write(source / "nn" / "1")
    assert cli.run(release.main, ["nn", "--models", str(source)]) == 4
    assert "was exported from other weights than nn.keras" in capsys.readouterr().err


def test_released_weights_are_not_exported_with_other_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = released(tmp_path, IN_REPOSITORY)
    assert cli.run(export, ["--models", str(folder)]) == 3
    error = capsys.readouterr().err.splitlines()[-1]
    assert "was trained on MNIST" in error
    assert "but the data found is sample" in error
