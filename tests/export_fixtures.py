"""What the export's tests share: evaluation images in an archive, and the command on a user's folder."""

from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, settings
from numpy.typing import NDArray

from tfship.export.command import main
from tfship.export.preprocessing.input_contract import Contract, Scaling
from tfship.train.common import cli

RGB = Contract("rgb", (), 6, 5, 3, Scaling.of_range(0, 1, 3), "resize")
GREY = Contract("grey", (), 6, 5, 1, Scaling.of_range(0, 1, 1), "resize")
# Files made anew for every example: that they share a folder does no harm.
relaxed = settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def some(count: int = 4, channels: int = 3) -> NDArray[np.uint8]:
    """Return images of noise, as `RGB` and `GREY` take them."""
    generator = np.random.default_rng(count)
    return generator.integers(0, 256, (count, 6, 5, channels), np.uint8)


def saved(folder: Path, **values: Any) -> Path:
    """Save arrays as eval.npz."""
    path = folder / "eval.npz"
    np.savez(path, **values)
    return path


def export(folder: Path, model: str, *arguments: str, name: str = "photos") -> int:
    """Export a model of the folder, evaluated on its eval.npz, to its folder of models."""
    own = ["--name", name, "--eval", str(folder / "eval.npz"), "--models", str(folder / "models")]
    return cli.run(main, [str(folder / model), *own, *arguments])
