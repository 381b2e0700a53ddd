import json
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from conftest import ROOT
from train import cards, cli, data
from train.__main__ import main
from train.data import Digits
from train.errors import ArtifactError, ResultError
from train.recipe import RECIPES


def train(folder: Path, *arguments: str) -> int:
    return cli.run(main, [*arguments, "--models", str(folder)])


def test_the_same_seed_gives_the_same_weights(tmp_path: Path, sample: Digits) -> None:
    import keras

    from train.fit import fit

    recipe = replace(RECIPES["cnn"], epochs=1, min_steps=0)
    few = replace(sample, x_train=sample.x_train[:640], y_train=sample.y_train[:640])
    weights = []
    for number, seed in enumerate([7, 7, 8]):
        folder = tmp_path / str(number)
        fit("cnn", recipe, few, seed, folder)
        weights.append(keras.models.load_model(folder / "cnn.keras").get_weights())
    for first, second in zip(weights[0], weights[1], strict=True):
        np.testing.assert_array_equal(first, second)
    assert not np.array_equal(weights[0][0], weights[2][0])


def test_card_tells_what_the_weights_were_made_of(models: Path, sample: Digits) -> None:
    card = cards.read(models, "nn")
    assert card.data["label"] == data.SAMPLE
    assert card.data["sha256"] == sample.source.sha256
    assert (card.data["train"], card.data["test"]) == (4000, 1000)
    assert (card.parameters, card.seed, card.epochs, card.steps) == (91_860, 1, 12, 12 * 31)
    assert card.recipe["peak_learning_rate"] == RECIPES["nn"].peak_learning_rate
    assert card.environment["packages"]["tensorflow"]
    low, high = card.accuracy["interval95"]
    assert 0.85 < low < card.accuracy["value"] < high < 1
    assert card.accuracy["value"] == card.accuracy["correct"] / 1000


def test_what_is_up_to_date_is_not_trained_again(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (models / "nn.keras").stat()
    assert train(models, "nn", "--epochs", "12", "--json") == 0
    captured = capsys.readouterr()
    assert "nn: up to date" in captured.err
    (card,) = json.loads(captured.out)
    assert card["model"] == "nn"
    assert (models / "nn.keras").stat() == before


def test_other_seed_recipe_or_data_is_not_up_to_date(models: Path, sample: Digits) -> None:
    recipe = replace(RECIPES["nn"], epochs=12, min_steps=0)
    assert cards.up_to_date(models, "nn", sample.source, recipe, 1)
    assert not cards.up_to_date(models, "nn", sample.source, recipe, 2)
    assert not cards.up_to_date(models, "nn", sample.source, replace(recipe, epochs=13), 1)
    assert not cards.up_to_date(models, "nn", replace(sample.source, sha256="0"), recipe, 1)


def test_weights_that_the_card_does_not_name_are_refused(tmp_path: Path, models: Path) -> None:
    (tmp_path / "nn.card.json").write_bytes((models / "nn.card.json").read_bytes())
    with pytest.raises(ArtifactError, match=r"nn\.keras: no such model; run `make train`"):
        cards.read(tmp_path, "nn")
    (tmp_path / "nn.keras").write_bytes((models / "nn.keras").read_bytes()[:-1])
    with pytest.raises(ArtifactError, match="not the weights that nn.card.json describes"):
        cards.read(tmp_path, "nn")
    (tmp_path / "nn.card.json").write_text('{"model": "nn"}')
    with pytest.raises(ArtifactError, match="not a training card"):
        cards.read(tmp_path, "nn")


def test_a_diverged_run_is_an_error_and_leaves_the_old_weights(tmp_path: Path, sample: Digits) -> None:
    from train.fit import fit

    (tmp_path / "nn.keras").write_text("old")
    wild = replace(RECIPES["nn"], epochs=3, min_steps=0, peak_learning_rate=float("inf"))
    with pytest.raises(ResultError, match="nn: the loss became .* lower the recipe's peak_learning_rate"):
        fit("nn", wild, sample, 1, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["nn.keras"]
    assert (tmp_path / "nn.keras").read_text() == "old"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nm"], 2, "no network is called nm; there are nn, cnn"),
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


def test_killed_training_leaves_nothing_that_a_later_step_takes(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "train", "nn", "--epochs", "500", "--models", str(tmp_path)]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if re.match(r"nn: \d+/", line.replace(",", "")):
            break  # steps are being made
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert list(tmp_path.iterdir()) == []


def test_training_killed_while_it_writes_is_noticed(tmp_path: Path, sample: Digits) -> None:
    """Stop the process between the card's rename and the weights', the worst moment there is."""
    script = f"""
import os, signal
from dataclasses import replace
from pathlib import Path
from train import data, files
from train.backend import tensorflow
tensorflow()
from train import fit
from train.recipe import RECIPES
real = files.publish
def publish(staged, final):
    if final.suffix == ".keras":
        os.kill(os.getpid(), signal.SIGKILL)
    real(staged, final)
files.publish = publish
recipe = replace(RECIPES["nn"], epochs=1, min_steps=0)
fit.fit("nn", recipe, data.load(data.find()), 1, Path({str(tmp_path)!r}))
"""
    (tmp_path / "nn.keras").write_text("old weights")
    process = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False)
    assert process.returncode == -signal.SIGKILL
    with pytest.raises(ArtifactError, match="not the weights that nn.card.json describes"):
        cards.read(tmp_path, "nn")
    recipe = replace(RECIPES["nn"], epochs=1, min_steps=0)
    assert cards.up_to_date(tmp_path, "nn", sample.source, recipe, 1) is None
    assert train(tmp_path, "nn", "--epochs", "1") == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["nn.card.json", "nn.keras"]


def test_ctrl_c_is_exit_code_130(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "train", "nn", "--epochs", "500", "--models", str(tmp_path)]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    while "training with seed" not in process.stderr.readline():
        assert process.poll() is None
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert error.splitlines()[-1] == "interrupted"
    assert "Traceback" not in error
    assert list(tmp_path.iterdir()) == []


def test_help_is_complete_and_quick() -> None:
    process = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "train", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for flag in ("--data", "--models", "--seed", "--epochs", "--force", "--json", "exit codes"):
        assert flag in process.stdout
    assert "tensorflow" not in process.stderr


@pytest.mark.parametrize(("name", "floor"), [("cnn", 0.9922), ("nn", 0.9696)])
def test_full_mnist_reaches_the_accuracy_that_was_asked_for(name: str, floor: float) -> None:
    """Looks at what `make train` left in models/, if that was trained on all of MNIST by the recipe."""
    try:
        card = cards.read(ROOT / "models", name)
    except ArtifactError:
        pytest.skip("models/ holds no trained network")
    if card.data["label"] != "MNIST" or "min_steps" not in card.recipe:
        pytest.skip(f"models/{name}.keras was trained on {card.data['label']}")
    assert card.data["test"] == 10_000
    assert card.accuracy["value"] >= floor
