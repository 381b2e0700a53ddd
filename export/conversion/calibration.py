"""Calibration sets for quantization: fixed, seeded, class-balanced selections of training images."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfship.export.preprocessing.input_contract import Contract
from tfship.export.sources import evaluation_data

__all__ = ["MOST", "choose", "order", "read", "record", "shared", "write"]

# Calibration time and memory grow with the number of images; the ranges hardly change beyond a few hundred.
MOST = 500
_SEED = 0
_PER_CLASS = 30


def choose(labels: NDArray[np.integer], most: int = MOST) -> NDArray[np.int64]:
    """Return sorted indices of the calibration images, int64 [n], at most `most`.

    `labels` are class numbers [N], or 0/1 rows [N, labels], in which equal rows form a class. The images of each
    class are shuffled, in class order, with one generator (seed 0). The first 30 of each class are chosen, or all of
    a smaller class. If these are more than `most`, they are taken in rounds: the first of each class, then the
    second, and so on. The same generator draws the classes of the last round if there isn't room for all. Class
    counts thus differ by at most 1, except for classes that have no more images.
    """
    generator = np.random.default_rng(_SEED)
    _, classes = np.unique(labels, axis=0, return_inverse=True)
    classes = classes.reshape(-1)
    chosen = [
        generator.permutation(np.flatnonzero(classes == each))[:_PER_CLASS]
        for each in range(classes.max(initial=-1) + 1)
    ]
    if sum(map(len, chosen)) > most:
        chosen = _take_rounds(chosen, most, generator)
    return np.sort(np.concatenate(chosen))


def order(count: int) -> list[int]:
    """Return the indices of `count` images in a seeded random order, so that a prefix is a fair sample.

    The first image stays first, because `write` adds a black and a white pixel to it.
    """
    return [0, *(1 + np.random.default_rng(_SEED).permutation(count - 1)).tolist()]


def record(indices: NDArray[np.int64]) -> dict[str, Any]:
    """Return the card's record of the calibration images chosen from MNIST: the rule, `indices` and their digest."""
    return {
        "seed": _SEED,
        "per_class": _PER_CLASS,
        "most": MOST,
        "training_indices": indices.tolist(),
        "sha256": hashlib.sha256(indices.astype("<i8").tobytes()).hexdigest(),
    }


def read(path: Path, rules: Contract, most: int = MOST) -> tuple[NDArray[np.uint8], dict[str, Any]]:
    """Return a calibration set, pixels uint8 [n, H, W, C], read from the folder or `.npz` file `path`, and its record.

    At most `most` images are chosen with `choose` by their labels: the folders' names, or `y` of the file. Without
    labels they are drawn at random (seed 0). Only the chosen images are read, and prepared by the contract `rules`.
    The record is for the export card; its `sha256` is the digest of the pixels. Raises DataError if there are no
    images, or one can't be read.
    """
    found = evaluation_data.find(path, rules, labelled=False, training=True)
    truth = found.truth
    chosen = _draw(len(found), most) if truth is None else choose(truth, most)
    pixels = evaluation_data.pixels(found, path, chosen)
    return pixels, {
        "seed": _SEED,
        "per_class": None if truth is None else _PER_CLASS,
        "most": most,
        **found.describe(chosen),
        "sha256": hashlib.sha256(pixels.data).hexdigest(),
    }


def write(pixels: NDArray[np.uint8] | None, folder: Path) -> Path | None:
    """Write calibration images, pixels uint8 [N, H, W, C], into `folder` and return the file's path; None for None.

    One pixel of the first image becomes black and one white, so that a quantization step of the input equals one
    pixel step.
    """
    if pixels is None:
        return None
    marked = pixels.copy()
    marked[0, 0, 0], marked[0, -1, -1] = 0, 255
    path = folder / "calibration.npy"
    np.save(path, marked)
    return path


def shared(calibration: NDArray[np.uint8], evaluation: NDArray[np.uint8]) -> int:
    """Return the number of `evaluation` images [N, H, W, C] that are also `calibration` images [n, H, W, C].

    The ranges of quantized formats fit these images, so accuracy measured on them may be too high.
    """
    calibrated = {_digest(each) for each in calibration}
    return sum(_digest(each) in calibrated for each in evaluation)


def _draw(count: int, most: int) -> NDArray[np.int64]:
    return np.sort(np.random.default_rng(_SEED).permutation(count)[:most])


def _take_rounds(
    chosen: list[NDArray[np.int64]], most: int, generator: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Return the first index of each class, then the second, …: `most` in all, one array per round."""
    taken, left = [], most
    for place in range(_PER_CLASS):
        of_round = np.array([each[place] for each in chosen if len(each) > place], np.int64)
        if len(of_round) > left:
            of_round = generator.permutation(of_round)[:left]
        taken.append(of_round)
        left -= len(of_round)
    return taken


def _digest(image: NDArray[np.uint8]) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(image).data).digest()
