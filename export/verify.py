"""Every artefact, loaded by the runtime that will serve it and compared with the Keras model on real images."""

import queue
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.formats import Format
from export.litert import LiteRT
from export.runtime import Classifier, Target
from export.savedmodel import SavedModel
from train import stats
from train.backend import quiet
from train.errors import ResultError
from train.progress import Progress

__all__ = ["compare", "open_saved_model", "open_tflite", "predict_all"]

# The batch in which whole data sets are predicted; large enough to hide the cost of a call.
_BATCH = 250


def open_tflite(
    version: Path, row: Format, threads: int = 1, at_once: int = 1, *, xnnpack: bool = True
) -> Classifier:
    """Return the TFLite file of format `row` in a version directory as a target (see `LiteRT` for the rest)."""
    path = version / row.file
    with quiet():  # LiteRT announces its delegate
        return Classifier(LiteRT(path, threads, at_once, xnnpack=xnnpack), str(path))


def open_saved_model(version: Path, threads: int = 0) -> Classifier:
    """Return the SavedModel of a version directory as a target."""
    return Classifier(SavedModel(version, threads), str(version))


def predict_all(
    targets: Sequence[Target],
    images: NDArray[Any],
    label: str,
    scale: Callable[[NDArray[Any]], NDArray[np.float32]] = lambda images: images,
) -> NDArray[np.float32]:
    """Return the targets' probabilities [N, classes] for images [N, H, W, C], asked in batches.

    The targets are of one kind and share the work, each asked by one thread at a time. `scale` makes of a batch
    what they take, float32: of a whole data set, that would be four times the memory of its pixels.
    """
    free: queue.SimpleQueue[Target] = queue.SimpleQueue()
    for target in targets:
        free.put(target)

    def ask(start: int) -> NDArray[np.float32]:
        target = free.get()
        try:
            answer = target.predict(scale(images[start : start + _BATCH]))
        finally:
            free.put(target)
        return answer

    parts = []
    with Progress(label, len(images), "images") as progress, ThreadPoolExecutor(len(targets)) as pool:
        for answer in pool.map(ask, range(0, len(images), _BATCH)):
            parts.append(answer)
            progress.advance(len(answer))
    return np.concatenate(parts)


def compare(
    name: str,
    probabilities: NDArray[np.float32],
    reference: NDArray[np.float32],
    truth: NDArray[np.integer],
) -> dict[str, Any]:
    """Return accuracy, agreement with the reference's classes, paired test and largest difference.

    `probabilities` and `reference` are [N, classes], `truth` class indices [N]. Raises ResultError if what
    came out isn't finite or not of that shape.
    """
    if probabilities.shape != reference.shape or not np.isfinite(probabilities).all():
        raise ResultError(
            f"{name}: answered {probabilities.shape} with {int((~np.isfinite(probabilities)).sum())} values that "
            f"are no numbers; expected finite {reference.shape}"
        )
    predicted, expected = probabilities.argmax(1), reference.argmax(1)
    return {
        "agreement": float(np.mean(predicted == expected)),
        "largest_difference": float(np.abs(probabilities - reference).max()),
        "accuracy": stats.accuracy(predicted, truth),
        **stats.paired(predicted, expected, truth),
    }
