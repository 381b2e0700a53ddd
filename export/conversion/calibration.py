"""The images that quantization is calibrated with: a fixed, class-balanced, seeded list of training images."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfship.export.preprocessing.input_contract import Contract
from tfship.export.sources import evaluation_data

__all__ = ["MOST", "choose", "order", "read", "record", "shared", "write"]

# A calibration's time and memory grow with its images, and its ranges hardly change beyond some hundreds.
MOST = 500
_SEED = 0
_PER_CLASS = 30


def choose(labels: NDArray[np.integer], most: int = MOST) -> NDArray[np.int64]:
    """Return sorted indices into labels: class numbers [N], or 0/1 rows [N, labels], of which equal ones are a class.

    The rule: each class's images are shuffled with one generator (seed 0), in the order of the classes, and the first
    30 of each are taken, or all that it has if fewer. If that makes more than `most`, the first of every class are
    taken, then the second of every class, until the next round would exceed `most`; which classes still get one of
    that round is drawn with the same generator. So no class has over one image more than another that isn't used up.
    """
    generator = np.random.default_rng(_SEED)
    _, classes = np.unique(labels, axis=0, return_inverse=True)
    classes = classes.reshape(-1)
    chosen = [
        generator.permutation(np.flatnonzero(classes == each))[:_PER_CLASS]
        for each in range(classes.max(initial=-1) + 1)
    ]
    if sum(map(len, chosen)) > most:
        chosen = _rounds(chosen, most, generator)
    return np.sort(np.concatenate(chosen))


def order(count: int) -> list[int]:
    """Return the indices of `count` images in an order of which any beginning has all classes.

    The first image, to which the export adds a black and a white pixel, stays the first.
    """
    return [0, *(1 + np.random.default_rng(_SEED).permutation(count - 1)).tolist()]


def record(indices: NDArray[np.int64]) -> dict[str, Any]:
    """Return what a card says of the chosen images of the digit networks' training data, with a digest of `indices`."""
    return {
        "seed": _SEED,
        "per_class": _PER_CLASS,
        "most": MOST,
        "training_indices": indices.tolist(),
        "sha256": hashlib.sha256(indices.astype("<i8").tobytes()).hexdigest(),
    }


def read(path: Path, rules: Contract, most: int = MOST) -> tuple[NDArray[np.uint8], dict[str, Any]]:
    """Return pixels uint8 [n, H, W, C] of at most `most` images of a folder or an `.npz` file, and what cards say.

    The images are chosen by their labels, which are the folders that they lie in, or those in the file; without any,
    `most` of all. Only the chosen ones are read, prepared as `rules` say. Raises DataError for what holds none or
    can't be read. The record's `sha256` is that of the pixels.
    """
    found = evaluation_data.find(path, rules, labelled=False, training=True)
    truth = found.truth
    chosen = _any(len(found), most) if truth is None else choose(truth, most)
    pixels = evaluation_data.pixels(found, path, chosen)
    return pixels, {
        "seed": _SEED,
        "per_class": None if truth is None else _PER_CLASS,
        "most": most,
        **found.describe(chosen),
        "sha256": hashlib.sha256(pixels.data).hexdigest(),
    }


def write(pixels: NDArray[np.uint8] | None, folder: Path) -> Path | None:
    """Write calibration images, pixels uint8 [N, H, W, C], into `folder` for the converters; None if there are none.

    Adds a black and a white pixel, so that one step of a quantized input is one step of a pixel.
    """
    if pixels is None:
        return None
    marked = pixels.copy()
    marked[0, 0, 0], marked[0, -1, -1] = 0, 255
    path = folder / "calibration.npy"
    np.save(path, marked)
    return path


def shared(calibration: NDArray[np.uint8], evaluation: NDArray[np.uint8]) -> int:
    """Return how many of the evaluation images [N, H, W, C] are also among the calibration images [n, H, W, C].

    Quantized formats have seen these: their ranges fit them, and accuracy on them may flatter.
    """
    seen = {_digest(each) for each in calibration}
    return sum(_digest(each) in seen for each in evaluation)


def _any(count: int, most: int) -> NDArray[np.int64]:
    return np.sort(np.random.default_rng(_SEED).permutation(count)[:most])


def _rounds(
    chosen: list[NDArray[np.int64]], most: int, generator: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Return the first of every class, the second of every class … until there are `most`."""
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
