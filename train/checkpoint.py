"""The state of a training run at the end of an epoch, so that an interrupted run goes on where it was.

In place of `keras.callbacks.BackupAndRestore`, which writes weights and epoch into two files one after the
other, so that a process killed in between loses both, and which doesn't know whose run they are from.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfship.train.common.files import DAMAGED, staged

__all__ = ["Progressed", "clear", "read", "write"]


@dataclass(frozen=True)
class Progressed:
    """How far a run has come: whole epochs, their figures, and the seconds that they took."""

    epochs: int
    seconds: float
    history: list[dict[str, float]]


def path(folder: Path, name: str) -> Path:
    """Return where the checkpoint of network `name` lies."""
    return folder / f"{name}.checkpoint.npz"


def write(
    folder: Path, name: str, identity: dict[str, Any], progressed: Progressed, values: Sequence[NDArray[Any]]
) -> None:
    """Replace the checkpoint, atomically; `identity` says which run it belongs to, as JSON values."""
    state = json.dumps({"identity": identity, "progressed": asdict(progressed)})
    with staged(path(folder, name)) as temporary, temporary.open("wb") as file:
        np.savez(file, np.array(state), *values)


def read(
    folder: Path, name: str, identity: dict[str, Any], shapes: Sequence[tuple[int, ...]]
) -> tuple[Progressed, list[NDArray[Any]]] | None:
    """Return the checkpoint if it is whole, of the run `identity`, and holds arrays of these shapes, else None."""
    try:
        with path(folder, name).open("rb") as file, np.load(file, allow_pickle=False) as archive:
            text, *values = (archive[f"arr_{number}"] for number in range(len(archive.files)))
            state = json.loads(str(text))
        progressed = Progressed(**state["progressed"])
    except (*DAMAGED, TypeError, AttributeError):  # the latter two where it is an archive of something else
        return None
    if state["identity"] != identity or [each.shape for each in values] != list(shapes):
        return None
    return progressed, values


def clear(folder: Path, name: str) -> None:
    """Remove the checkpoint: its run has ended."""
    path(folder, name).unlink(missing_ok=True)
