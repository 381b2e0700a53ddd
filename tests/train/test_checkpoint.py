from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tfship.train import checkpoint
from tfship.train.checkpoint import RunProgress

IDENTITY: dict[str, Any] = {"seed": 1, "recipe": {"epochs": 3}}
PROGRESS = RunProgress(2, 1.5, [{"loss": 0.5}, {"loss": 0.25}])
VALUES: list[np.ndarray[Any, Any]] = [
    np.arange(6, dtype=np.float32).reshape(2, 3),
    np.array(7, np.int64),
    np.array([1, 2**32 - 1], np.uint32),
]
SHAPES: list[tuple[int, ...]] = [(2, 3), (), (2,)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    checkpoint.write(tmp_path, "nn", IDENTITY, PROGRESS, VALUES)
    return tmp_path


def test_what_was_written_is_read(folder: Path) -> None:
    assert [path.name for path in folder.iterdir()] == ["nn.checkpoint.npz"]
    found = checkpoint.read(folder, "nn", IDENTITY, SHAPES)
    assert found is not None
    progressed, values = found
    assert progressed == PROGRESS
    for value, expected in zip(values, VALUES, strict=True):
        assert value.dtype == expected.dtype
        np.testing.assert_array_equal(value, expected)
    checkpoint.clear(folder, "nn")
    checkpoint.clear(folder, "nn")
    assert list(folder.iterdir()) == []


def test_another_run_is_not_gone_on_from(folder: Path) -> None:
    assert checkpoint.read(folder, "cnn", IDENTITY, SHAPES) is None
    assert checkpoint.read(folder, "nn", {**IDENTITY, "seed": 2}, SHAPES) is None
    assert checkpoint.read(folder, "nn", IDENTITY, [(3, 2), (), (2,)]) is None
    assert checkpoint.read(folder, "nn", IDENTITY, SHAPES[:2]) is None


@pytest.mark.parametrize("keep", [0, 10, 200, -1])
def test_a_damaged_file_is_not_gone_on_from(folder: Path, keep: int) -> None:
    path = folder / "nn.checkpoint.npz"
    path.write_bytes(path.read_bytes()[:keep])
    assert checkpoint.read(folder, "nn", IDENTITY, SHAPES) is None
    path.write_bytes(b"not an archive")
    assert checkpoint.read(folder, "nn", IDENTITY, SHAPES) is None
    with path.open("wb") as file:
        np.save(file, np.zeros(3))
    assert checkpoint.read(folder, "nn", IDENTITY, SHAPES) is None
