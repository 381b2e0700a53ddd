import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tfship.benchmarks import command
from tfship.benchmarks.studies import training_time
from tfship.train.common import cli
from tfship.train.data.datasets import Digits
from tfship.train.recipe import RECIPES


def test_both_recipes_are_trained_and_compared(
    sample: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Real training on the sample, towards accuracies that it reaches, and one that nothing does."""
    targets = {"nn": 0.8}
    monkeypatch.setattr(training_time, "NETWORKS", ("nn",))  # the cnn would take a minute and go the same way
    # As many images and steps as that accuracy needs, not as the whole of MNIST's does.
    few = replace(
        sample, x_train=sample.x_train[:2000], y_train=sample.y_train[:2000],
        x_test=sample.x_test[:300], y_test=sample.y_test[:300],
    )  # fmt: skip
    monkeypatch.setitem(RECIPES["fast"], "nn", replace(RECIPES["fast"]["nn"], epochs=4, min_steps=0))
    results = training_time.compare(few, repeats=1, targets=targets)
    assert list(results["networks"]) == ["nn"]
    for name, network in results["networks"].items():
        (run,) = network["runs"]
        for recipe in ("plain", "fast"):
            assert run[recipe]["reached"]
            assert targets[name] <= run[recipe]["accuracy"] <= 1
            assert run[recipe]["seconds"] > 0
        assert run["ratio"] == run["fast"]["seconds"] / run["plain"]["seconds"]
    about = {"environment": {"cpu": "a processor", "cores": 2}}
    table = training_time.render({**about, **results}, "simple")
    assert "nn: 0.8000 by fast in" in table
    assert "of plain training's time (medians of 1 runs; 0 missed the target)" in table

    monkeypatch.setattr(training_time, "_MOST_EPOCHS", 1)
    monkeypatch.setitem(training_time.TARGETS, "nn", 1.0)
    monkeypatch.setitem(RECIPES["fast"], "nn", replace(RECIPES["fast"]["nn"], epochs=1, min_steps=0))
    file, data = tmp_path / "training.json", tmp_path / "few.npz"
    np.savez(data, **{name: getattr(few, name) for name in ("x_train", "y_train", "x_test", "y_test")})
    asked = ["training", "--repeats", "1", "--json", str(file), "--data", str(data)]
    assert cli.run(command.main, asked) == 0
    (run,) = json.loads(file.read_text())["networks"]["nn"]["runs"]
    assert (run["plain"]["epochs"], run["plain"]["reached"], run["fast"]["reached"], run["ratio"]) == (
        1,
        False,
        False,
        None,
    )
    shown = capsys.readouterr().out
    assert "not in" in shown
    assert "; 1 missed the target" in shown


def test_wrong_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="^2$"):
        cli.run(command.main, ["training", "--repeats", "0"])
    assert "--repeats: '0': expected a whole number, 1 or more" in capsys.readouterr().err
