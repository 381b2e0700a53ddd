"""Digits that aren't clean MNIST: how they are made and prepared, and both studies on networks trained for seconds."""

import json
from pathlib import Path

import numpy as np
import pytest

from tfship.benchmarks import command
from tfship.benchmarks.studies.digits import client_preparation, photographs_study
from tfship.client.images import preview
from tfship.train.common import cli
from tfship.train.data.datasets import Digits


def test_images_prepared_like_the_clients(sample: Digits) -> None:
    """A blank page has no digit; one in MNIST's form passes unchanged."""
    digit, blank = sample.x_test[0], np.full((40, 40), 255, np.uint8)
    encoded = [preview.png(each[..., np.newaxis]) for each in (digit, blank, digit)]
    images, found = client_preparation.stacked(list(map(client_preparation.prepared, encoded)))
    np.testing.assert_array_equal(images, [digit, np.zeros_like(digit), digit])
    assert found.tolist() == [True, False, True]


def test_study_of_photographs(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "pictures.json"
    code = cli.run(command.main, ["pictures", f"--models={models}", "--count=12", f"--json={file}"])
    results = json.loads(file.read_text())
    assert code == (6 if photographs_study.failures(results) else 0)
    assert "as photographs" in capsys.readouterr().out
    for name in ("nn", "cnn"):
        network = results["networks"][name]
        # Preparing test images for the network changes none of them.
        assert network["untouched"] == {"images": 1000, "changed": 0}
        assert network["photographs"]["images"] == 12
        kinds = network["kinds"]
        assert kinds["dark ink"]["images"] + kinds["light ink"]["images"] == 12
