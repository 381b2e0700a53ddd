import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import __main__ as command
from benchmarks import measure, run
from benchmarks.server import embedded
from client.connection import Connection, Servable
from client.rest import Rest
from conftest import ROOT
from export.formats import FORMATS
from train import cli
from train.data import Digits
from train.errors import ArtifactError, TargetError

ROWS = [*FORMATS, "savedmodel", "rest", "grpc"]


@pytest.fixture(scope="module")
def results(models: Path, sample: Digits) -> dict[str, Any]:
    """Both models, measured for real in windows too short for a 99th percentile."""
    return run.run(models, ["nn", "cnn"], sample, partial(measure.in_turn, window=25, window_seconds=0))


def test_every_format_and_way_of_serving_is_measured(results: dict[str, Any]) -> None:
    assert list(results["models"]) == ["nn", "cnn"]
    for model in results["models"].values():
        assert [row["name"] for row in model["rows"]] == ROWS
        for row in model["rows"]:
            assert row["bytes"] > 50_000
            assert row["first_ms"] > 0
            assert row["accuracy"]["images"] == 1000
            served = row["kind"] in ("rest", "grpc")
            assert (row["model_only"] is None) == served
            assert (row["load_ms"] is None) == served
            for clock in ("model_only", "end_to_end"):
                if row[clock]:
                    assert 0 < row[clock]["p50"] <= row[clock]["p90"]
                    assert row[clock]["samples"] >= 75
            if not served:
                assert row["model_only"]["p50"] < row["end_to_end"]["p50"]


def test_one_model_served_three_ways_answers_the_same(results: dict[str, Any]) -> None:
    for model in results["models"].values():
        rows = {row["name"]: row for row in model["rows"]}
        for name in ("savedmodel", "rest", "grpc"):
            assert rows[name]["against_float32"]["disagreements"] == 0
            assert rows[name]["accuracy"] == rows["float32"]["accuracy"]


def test_results_say_what_ran(results: dict[str, Any], sample: Digits) -> None:
    assert results["data"] == sample.describe()
    assert results["environment"]["cores"] >= 1
    assert results["environment"]["packages"]["tensorflow"]
    assert results["threads"] == 1
    assert json.loads(json.dumps(results, allow_nan=False)) == results


def test_other_data_than_the_training_data_is_refused(
    models: Path, sample: Digits, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.npz"
    np.savez(
        other, x_train=sample.x_train, y_train=sample.y_train, x_test=sample.x_train, y_test=sample.y_train
    )
    code = cli.run(command.main, ["--models", str(models), "--data", str(other), "--out", str(tmp_path)])
    assert code == 3
    assert "was made with sample: 5,000 digits" in capsys.readouterr().err


def test_a_server_that_dies_is_a_clear_error(models: Path, sample: Digits) -> None:
    with pytest.raises(TargetError, match="nothing answers"), embedded(models, ["nn"]) as server:  # noqa: PT012
        target = Rest(Connection(server.rest), Servable("nn"))
        target.predict(np.zeros((1, 28, 28, 1), np.float32))
        server.process.send_signal(signal.SIGKILL)
        server.process.wait()
        # Its workers end when they see that it has: soon, and not at once.
        for _ in range(200):
            target.predict(np.zeros((1, 28, 28, 1), np.float32))
            time.sleep(0.05)


def test_a_server_that_cannot_start_is_a_clear_error(tmp_path: Path) -> None:
    with (
        pytest.raises(TargetError, match=r"the model server ended with exit code \d+: .*nn"),
        embedded(tmp_path, ["nn"]),
    ):
        pytest.fail("it started")


def test_the_server_is_stopped_at_the_end(models: Path) -> None:
    with embedded(models, ["nn"]) as server:
        assert server.process.poll() is None
    assert server.process.poll() == 0


def test_what_is_not_exported_is_refused(tmp_path: Path, sample: Digits) -> None:
    with pytest.raises(ArtifactError, match="run `make export` first"):
        run.run(tmp_path, ["nn"], sample)


@pytest.mark.parametrize(
    "target",
    [
        "install",
        "demo",
        "train",
        "export",
        "serve",
        "serve-docker",
        "predict",
        "benchmark",
        "report",
        "test",
        "lint",
        "clean",
        "help",
    ],
)
def test_every_make_target_is_listed_and_says_what_it_does(target: str, tmp_path: Path) -> None:
    help_text = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert f"  make {target} " in help_text
    # Dry, and with an environment that is up to date, so that nothing is installed.
    (tmp_path / ".installed").touch()
    os.utime(tmp_path / ".installed", (2**31, 2**31))
    dry = ["make", "-n", target, f"VENV={tmp_path}", "IMAGE=x.png"]
    lines = subprocess.run(dry, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert f'echo "{target}: ' in lines or target in ("demo", "help")
    assert "pip" not in lines


def test_make_predict_without_a_picture_says_so(tmp_path: Path) -> None:
    (tmp_path / ".installed").touch()
    os.utime(tmp_path / ".installed", (2**31, 2**31))
    done = subprocess.run(
        ["make", "predict", f"VENV={tmp_path}"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "no picture given; make predict IMAGE=" in done.stderr


def test_help_is_quick() -> None:
    for module in ("benchmarks", "benchmarks.demo"):
        done = subprocess.run(
            [sys.executable, "-X", "importtime", "-m", module, "--help"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        assert "exit codes" in done.stdout
        assert "keras" not in done.stderr
