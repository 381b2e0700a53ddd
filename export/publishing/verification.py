"""Verification of artefacts: each runs in the runtime that will serve it and is compared with the Keras model."""

import queue
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfship.export.conversion.formats import Format
from tfship.export.preprocessing import outputs
from tfship.export.runtimes.litert import LiteRT
from tfship.export.runtimes.protocol import Classifier, Target
from tfship.export.runtimes.saved_model import SavedModel
from tfship.train.common import statistics
from tfship.train.common.errors import ResultError
from tfship.train.common.progress import Progress
from tfship.train.common.tensorflow_loader import quiet

__all__ = [
    "FAR",
    "batch_of",
    "compare",
    "largest_difference",
    "open_saved_model",
    "open_tflite",
    "predict_all",
]

# A difference of scores that float32 rounding doesn't explain.
FAR = 0.01
# Limits of a batch: images, enough to hide the cost of a call, and values, so that large images fit into memory.
_LARGEST_BATCH, _VALUES = 250, 2_000_000


def batch_of(shape: Sequence[int]) -> int:
    """Return the batch size for images of `shape` [H, W, C]."""
    return max(1, min(_LARGEST_BATCH, _VALUES // int(np.prod(shape))))


def open_tflite(
    version: Path, row: Format, threads: int = 1, at_once: int = 1, *, xnnpack: bool = True
) -> Classifier:
    """Return the TFLite file of the format `row` in the directory `version` as a target; see `LiteRT`."""
    path = version / row.file
    with quiet():  # LiteRT prints a line about its delegate
        return Classifier(LiteRT(path, threads, at_once, xnnpack=xnnpack), str(path))


def open_saved_model(version: Path, threads: int = 0) -> Classifier:
    """Return the SavedModel in the directory `version` as a target; see `SavedModel`."""
    return Classifier(SavedModel(version, threads), str(version))


def predict_all(
    targets: Sequence[Target],
    images: NDArray[Any],
    label: str,
    scale: Callable[[NDArray[Any]], NDArray[Any]] = lambda images: images,
) -> NDArray[np.float32]:
    """Return the scores [N, labels] for `images` [N, H, W, C], predicted in batches.

    `targets` are copies of one model that share the batches; each is used by one thread at a time. `label` names the
    progress bar. `scale` converts a batch to the targets' inputs: batch by batch, since float32 values take four times
    the memory of pixels.
    """
    batch = batch_of(images.shape[1:])
    free: queue.SimpleQueue[Target] = queue.SimpleQueue()
    for target in targets:
        free.put(target)

    def predict(start: int) -> NDArray[np.float32]:
        target = free.get()
        try:
            return target.predict(scale(images[start : start + batch]))
        finally:
            free.put(target)

    parts = []
    with Progress(label, len(images), "images") as progress, ThreadPoolExecutor(len(targets)) as pool:
        for scores in pool.map(predict, range(0, len(images), batch)):
            parts.append(scores)
            progress.advance(len(scores))
    return np.concatenate(parts)


def largest_difference(scores: NDArray[np.float32], others: NDArray[np.float32]) -> float:
    """Return the largest difference between two formats' scores [N, labels], of any image and label."""
    return float(np.abs(scores - others).max())


def compare(
    name: str,
    scores: NDArray[np.float32],
    reference: NDArray[np.float32],
    truth: NDArray[np.integer] | None,
    *,
    several: bool = False,
) -> dict[str, Any]:
    """Return figures that compare a format's scores with those of the reference model, image by image.

    `name` is used in messages. `scores` and `reference` are [N, labels]. `truth` are class numbers [N], 0/1 rows
    [N, labels] for `several` labels per image, or None. The figures:

    - `compared`: number of decisions, one per image, or one per image and label.
    - `disagreements`: number of decisions that differ. `agreement`: share of the others.
    - `largest_difference`: of any score. `far`: number of the `images` with a score that differs by more than `FAR`.
    - `accuracy`, `wins`, `losses`, `mcnemar_p`: see `train.common.statistics`; None without labels.
    - `mean_average_precision`: only with several labels per image.

    Raises ResultError if the scores aren't finite or their shape isn't that of the reference.
    """
    if scores.shape != reference.shape or not np.isfinite(scores).all():
        raise ResultError(
            f"{name}: returned scores {scores.shape} with {int((~np.isfinite(scores)).sum())} NaN or infinite "
            f"values; expected {reference.shape}, all finite"
        )
    predicted = outputs.decisions(scores, several=several).ravel()
    expected = outputs.decisions(reference, several=several).ravel()
    right = None if truth is None else truth.ravel()
    differences = np.abs(scores - reference).max(1)
    figures: dict[str, Any] = {
        "compared": len(predicted),
        "agreement": float(np.mean(predicted == expected)),
        "largest_difference": float(differences.max()),
        "images": len(differences),
        "far": int((differences > FAR).sum()),
        "accuracy": None if right is None else statistics.accuracy(predicted, right),
        **statistics.paired(predicted, expected, expected if right is None else right),
    }
    if right is None:
        figures |= {"wins": None, "losses": None, "mcnemar_p": None}
    if truth is not None and several:
        figures["mean_average_precision"] = statistics.average_precision(scores, truth)
    return figures
