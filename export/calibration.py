"""The images that quantization is calibrated with: a fixed, class-balanced, seeded list of training images."""

import hashlib

import numpy as np
from numpy.typing import NDArray

__all__ = ["choose", "record"]

_SEED = 0
_PER_CLASS = 30


def choose(labels: NDArray[np.integer]) -> NDArray[np.int64]:
    """Return sorted indices into training labels [N]: 30 of each class, or all that it has if fewer."""
    generator = np.random.default_rng(_SEED)
    chosen = [
        generator.permutation(np.flatnonzero(labels == label))[:_PER_CLASS] for label in np.unique(labels)
    ]
    return np.sort(np.concatenate(chosen))


def record(indices: NDArray[np.int64]) -> dict[str, object]:
    """Return what an export card says of the calibration images: how chosen, which, and their digest."""
    return {
        "seed": _SEED,
        "per_class": _PER_CLASS,
        "training_indices": indices.tolist(),
        "sha256": hashlib.sha256(indices.astype("<i8").tobytes()).hexdigest(),
    }
