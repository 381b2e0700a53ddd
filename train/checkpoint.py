"""Checkpoint of a training run after each epoch, from which an interrupted run resumes.

Replaces `keras.callbacks.BackupAndRestore`, which writes weights and epoch into two files, one after the other. A
process killed between the two loses both. It also doesn't record which run the files belong to.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfship.train.common.files import DAMAGED, staged

__all__ = ["RunProgress", "clear", "read", "write"]


@dataclass(frozen=True)
class RunProgress:
    """Progress of a run: complete `epochs`, their `seconds` in all, and their figures (`history`)."""

    epochs: int
    seconds: float
    history: list[dict[str, float]]


def path(folder: Path, name: str) -> Path:
    """Return the path of network `name`'s checkpoint in `folder`."""
    return folder / f"{name}.checkpoint.npz"


def write(
    folder: Path, name: str, identity: dict[str, Any], progress: RunProgress, values: Sequence[NDArray[Any]]
) -> None:
    """Replace the checkpoint atomically with `values`; `identity` identifies the run, in JSON values."""
    state = json.dumps({"identity": identity, "progressed": asdict(progress)})
    with staged(path(folder, name)) as temporary, temporary.open("wb") as file:
        np.savez(file, np.array(state), *values)


def read(
    folder: Path, name: str, identity: dict[str, Any], shapes: Sequence[tuple[int, ...]]
) -> tuple[RunProgress, list[NDArray[Any]]] | None:
    """Return the checkpoint if it is complete, belongs to the run `identity` and has arrays of `shapes`, else None."""
    try:
        with path(folder, name).open("rb") as file, np.load(file, allow_pickle=False) as archive:
            text, *values = (archive[f"arr_{number}"] for number in range(len(archive.files)))
            state = json.loads(str(text))
        progress = RunProgress(**state["progressed"])
    except (*DAMAGED, TypeError, AttributeError):  # the last two for an archive of something else
        return None
    if state["identity"] != identity or [each.shape for each in values] != list(shapes):
        return None
    return progress, values


def clear(folder: Path, name: str) -> None:
    """Remove the checkpoint, after its run has ended."""
    path(folder, name).unlink(missing_ok=True)
