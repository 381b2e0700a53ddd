"""The command `tfship train`: what is up to date, teachers, several seeds, and runs that are killed."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from conftest import ROOT
from processes import Forked, command, forked
from tfship.train import cards
from tfship.train.command import main
from tfship.train.common import cli
from tfship.train.common.errors import ArtifactError, DataError
from tfship.train.data import datasets
from tfship.train.data.corruptions import CORRUPTIONS
from tfship.train.data.datasets import Digits
from tfship.train.recipe import RECIPES, Teachers
from training_fixtures import FAST, files, first_of, old_weights, without_times


@pytest.fixture
def few_npz(sample: Digits, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images as a file, for large networks: a few batches an epoch."""
    few = first_of(sample, 320)
    path = tmp_path_factory.mktemp("few") / "few.npz"
    np.savez(path, x_train=few.x_train, y_train=few.y_train, x_test=few.x_test, y_test=few.y_test)
    return path


def train(folder: Path, *arguments: str) -> int:
    return cli.run(main, [*arguments, "--models", str(folder)])


def test_what_is_up_to_date_is_not_trained_again(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (models / "nn.keras").stat()
    assert train(models, "nn", "--epochs", "12", "--json") == 0
    captured = capsys.readouterr()
    assert "nn: up to date" in captured.err
    (card,) = json.loads(captured.out)
    assert card["model"] == "nn"
    assert (models / "nn.keras").stat() == before


@pytest.mark.parametrize("count", [1, 9, 140])
def test_too_few_images_are_an_error(tmp_path: Path, sample: Digits, count: int) -> None:
    few = tmp_path / "few.npz"
    x_train, y_train = sample.x_train[:count], sample.y_train[:count]
    np.savez(few, x_train=x_train, y_train=y_train, x_test=sample.x_test, y_test=sample.y_test)
    folder = tmp_path / "models"
    folder.mkdir()
    before = old_weights(folder)
    with pytest.raises(DataError, match=rf"{count} training images, .*; expected at least a batch of 128"):
        main(["nn", "--data", str(few), "--models", str(folder)])
    assert files(folder) == before


# The recipe `best` with fewer teachers and views, to save time. Some steps use the originals, also after a resume.
QUICK = {
    name: replace(
        recipe,
        batch_size=64,
        plain=0.25,
        teachers=recipe.teachers and Teachers("teacher", 2, views=2, weight=0.9),
    )
    for name, recipe in RECIPES["best"].items()
}


def train_best(*argv: str) -> None:
    RECIPES["best"].update(QUICK)
    command("train", *argv)


def test_best_trains_the_teachers_first_and_once_and_goes_on_when_killed(
    tmp_path: Path, few_npz: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    best = ("--recipe", "best", "--epochs", "3", "--data", str(few_npz))
    for name, recipe in QUICK.items():
        monkeypatch.setitem(RECIPES["best"], name, recipe)

    def trained(*arguments: str) -> tuple[str, list[tuple[str, str]]]:
        """Return what was said, and each network that was trained with its seed."""
        assert train(whole, *best, *arguments) == 0
        said = capsys.readouterr().err
        return said, re.findall("(.*): training with seed (.*)", said)

    said, names = trained("nn", "--seed", "4")
    assert "nn: 2 teachers are trained first" in said
    assert names == [("teacher", "1"), ("teacher", "2"), ("nn", "4")]
    card = cards.read(whole, "nn")
    teachers = [cards.read(whole / "teachers" / str(seed), "teacher") for seed in (1, 2)]
    assert card.teachers == [each.weights_sha256 for each in teachers]
    assert card.steps == 3 * (288 // 64)
    left = {path.name for path in whole.iterdir()}
    assert left == {"nn.keras", "nn.card.json", "nn.curves.png", "nn.confusion.png", "logs", "teachers"}
    # Neither another network nor another seed needs others.
    assert trained("cnn", "--seed", "5")[1] == [("cnn", "5")]
    said, names = trained("nn", "--seed", "4")
    assert "nn: up to date" in said
    assert names == []

    def start() -> contextlib.AbstractContextManager[Forked]:
        return forked(train_best, "nn", "--seed", "4", *best, "--models", str(killed))

    # Two processes in turn are killed for real, one in a teacher's training, one in the student's.
    shutil.copytree(whole / "teachers" / "2", killed / "teachers" / "2")
    for run, others in ((killed / "teachers" / "1" / "teacher", set()), (killed / "nn", {"teachers"})):
        with start() as process:
            process.reaches(run.with_suffix(".checkpoint.npz").exists)
            assert process.kill() == -signal.SIGKILL
        # Nothing that a later step takes.
        names_left = {path.name for path in run.parent.iterdir() if not path.name.startswith(".stage-")}
        assert names_left == {"logs", f"{run.name}.checkpoint.npz", *others}
    with start() as process:
        assert process.ends() == 0, process.error
        assert re.search(r"nn: resumes from epoch [23] of 3", process.error)
        assert process.error.count("teacher: up to date") == 2
    resumed = cards.read(killed, "nn")
    assert without_times(resumed) == without_times(card)
    assert len(resumed.history) == 3
    assert {path.name for path in killed.iterdir()} == left


def test_several_seeds_are_reported_and_the_best_on_validation_is_kept(
    tmp_path: Path, few_npz: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["nn", "--seeds", "2", "--seed", "5", "--epochs", "2", "--data", str(few_npz)]
    assert train(tmp_path, *arguments) == 0
    captured = capsys.readouterr()
    card = cards.read(tmp_path, "nn")
    runs = {seed: cards.read(tmp_path / "seeds" / str(seed), "nn") for seed in (5, 6)}
    assert [run["seed"] for run in card.seeds] == [5, 6]
    best = max(runs.values(), key=lambda run: (run.validation["value"], -run.validation["loss"]))
    assert (card.seed, card.weights_sha256) == (best.seed, best.weights_sha256)
    assert runs[5].weights_sha256 != runs[6].weights_sha256
    values = [run.accuracy["value"] for run in runs.values()]
    assert f"nn: 2 seeds: accuracy {np.mean(values):.4f} on average" in captured.out
    assert f"seed {best.seed} is the best on validation" in captured.out
    for kind in ("curves", "confusion"):
        assert (tmp_path / f"nn.{kind}.png").read_bytes().startswith(b"\x89PNG")
    # Again: nothing is trained a second time.
    assert train(tmp_path, *arguments) == 0
    assert capsys.readouterr().err.count("nn: up to date") == 2


def test_what_lies_beside_the_weights(models: Path) -> None:
    from PIL import Image
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    card = cards.read(models, "nn")
    for kind in ("curves", "confusion"):
        with Image.open(models / f"nn.{kind}.png") as picture:
            assert min(picture.size) >= 400
            assert len(picture.convert("RGB").getcolors(2**20) or []) > 20
    for part, prefix in (("train", ""), ("validation", "val_")):
        log = EventAccumulator(str(models / "logs" / "nn" / part), size_guidance={"tensors": 0})
        log.Reload()
        events = log.Tensors("epoch_accuracy")
        assert [event.step for event in events] == list(range(12))
        logged = [float(make_ndarray(event.tensor_proto)) for event in events]
        assert logged == pytest.approx([epoch[f"{prefix}accuracy"] for epoch in card.history])
    assert 0.1 < card.corruptions["shift"] < card.accuracy["value"]
    assert set(card.corruptions) == set(CORRUPTIONS)
    assert 0 < card.validation["loss"] < 1
    assert card.validation["images"] == 400


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nm"], 2, "nm: no such network; expected nn or cnn"),
        (["--seeds", "0"], 2, "--seeds 0: expected 1 or more"),
        (["--epochs", "0"], 2, "--epochs 0: expected 1 or more"),
        (["--seed", "-1"], 2, "--seed -1: expected 0 to 4294967295"),
        (["--data", "/no/such/file"], 3, "/no/such/file: no such file or folder"),
    ],
)
def test_wrong_arguments(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, message: str
) -> None:
    assert train(tmp_path, *arguments) == code
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error


def test_unwritable_folder_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("not a folder")
    assert train(tmp_path / "file" / "models", "nn", "--epochs", "1") == 1
    assert re.match(r"error: .*file.*: Not a directory$", capsys.readouterr().err.splitlines()[-1])


def train_until_the_weights_are_renamed(folder: Path) -> None:
    """Train, and kill this process between the card's rename and the weights', the worst moment there is."""
    from tfship.train.common import files
    from tfship.train.trainer import fit

    publish = files.publish

    def publish_all_but_weights(staged_path: Path, final: Path) -> None:
        if final.suffix == ".keras":
            os.kill(os.getpid(), signal.SIGKILL)
        publish(staged_path, final)

    files.publish = publish_all_but_weights
    fit("nn", replace(FAST["nn"], epochs=1, min_steps=0), datasets.load(datasets.find()), 1, folder)


def test_training_killed_while_it_writes_is_noticed(tmp_path: Path, sample: Digits) -> None:
    (tmp_path / "nn.keras").write_text("old weights")
    with forked(train_until_the_weights_are_renamed, tmp_path) as process:
        assert process.ends() == -signal.SIGKILL
    with pytest.raises(ArtifactError, match="doesn't match the hash in nn.card.json"):
        cards.read(tmp_path, "nn")
    recipe = replace(FAST["nn"], epochs=1, min_steps=0)
    assert cards.up_to_date(tmp_path, "nn", sample, recipe, 1) is None
    assert train(tmp_path, "nn", "--epochs", "1") == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "logs",
        "nn.card.json",
        "nn.confusion.png",
        "nn.curves.png",
        "nn.keras",
    ]


def test_help_is_complete_and_quick() -> None:
    process = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "tfship.train.common.entry_point", "train", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for flag in (
        "--recipe",
        "--seeds",
        "TF_CONFIG",
        "--data",
        "--models",
        "--seed",
        "--epochs",
        "--force",
        "--json",
        "exit codes",
    ):
        assert flag in process.stdout
    imported = {line.rpartition("|")[2].strip() for line in process.stderr.splitlines()}
    assert not imported & {"tensorflow", "keras"}
