"""The images that quantization is calibrated with: a fixed, class-balanced, seeded list of training images."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export import evaluation_data
from export.contract import Contract
from train.backend import tensorflow
from train.errors import DataError
from train.files import sha256

__all__ = ["choose", "read", "record"]

_SEED = 0
_PER_CLASS = 30


def choose(labels: NDArray[np.integer]) -> NDArray[np.int64]:
    """Return sorted indices into training labels [N]: 30 of each class, or all that it has if fewer."""
    generator = np.random.default_rng(_SEED)
    chosen = [
        generator.permutation(np.flatnonzero(labels == label))[:_PER_CLASS] for label in np.unique(labels)
    ]
    return np.sort(np.concatenate(chosen))


def record(indices: NDArray[np.int64]) -> dict[str, Any]:
    """Return what an export card says of the calibration images: how chosen, which, and their digest."""
    return {
        "seed": _SEED,
        "per_class": _PER_CLASS,
        "training_indices": indices.tolist(),
        "sha256": hashlib.sha256(indices.astype("<i8").tobytes()).hexdigest(),
    }


def read(path: Path, rules: Contract) -> tuple[NDArray[np.uint8], dict[str, Any]]:
    """Return 30 images of each class from an `.npz`, or 30 pictures of each folder in `path`, and what cards say.

    Pictures are prepared as `rules` say, with TensorFlow. Raises DataError for what holds none or can't be read.
    """
    if path.is_file():
        found = evaluation_data.read(path, rules)
        chosen = choose(found.truth)
        return found.pixels[chosen], {**record(chosen), "file": path.name}
    pictures = sorted(
        each
        for each in path.rglob("*")
        if each.suffix.lower() in (".png", ".jpg", ".jpeg") and each.is_file()
    )
    if not pictures:
        raise DataError(f"{path}: holds no PNG or JPEG pictures; expected a folder of them, or an .npz")
    folders = {each: number for number, each in enumerate(sorted({each.parent for each in pictures}))}
    chosen = choose(np.array([folders[each.parent] for each in pictures]))
    taken = [pictures[index] for index in chosen]
    from export.prepare import prepared

    pixels = []
    for picture in taken:
        try:
            pixels.append(prepared(rules, [picture.read_bytes()])[0])
        except tensorflow().errors.InvalidArgumentError as error:
            raise DataError(f"{picture}: {' '.join(error.message.split())}") from error
    names = [each.relative_to(path).as_posix() for each in taken]
    return np.stack(pixels), {"pictures": names, "sha256": sha256(*taken)}
