"""Which exported models the benchmarks take."""

import shutil
from pathlib import Path

import pytest

from tfship.benchmarks.suite import model_selection
from tfship.export.publishing import store
from tfship.train.common.errors import ArtifactError
from tfship.train.data.datasets import Digits


def test_a_version_without_the_reference_is_refused(models: Path, sample: Digits, tmp_path: Path) -> None:
    version = store.latest(models / "nn")
    shutil.copytree(version, tmp_path / "nn" / version.name)
    (tmp_path / "nn" / version.name / "tflite" / "float32.tflite").unlink()
    with pytest.raises(
        ArtifactError, match=r"has no tflite/float32.tflite.*; run `tfship export` with float32"
    ):
        model_selection.of(tmp_path, ["nn"], sample)
