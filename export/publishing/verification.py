"""Every artefact, loaded by the runtime that will serve it and compared with the Keras model on real images."""

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

__all__ = ["FAR", "batch_of", "compare", "open_saved_model", "open_tflite", "predict_all"]

# More than the order of float32 arithmetic makes of a score.
FAR = 0.01
# Data sets are predicted in batches that hide the cost of a call, and of so many values that large images fit.
_LARGEST_BATCH, _VALUES = 250, 2_000_000


def batch_of(shape: Sequence[int]) -> int:
    """Return how many images of a shape are predicted at a time."""
    return max(1, min(_LARGEST_BATCH, _VALUES // int(np.prod(shape))))


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
    scale: Callable[[NDArray[Any]], NDArray[Any]] = lambda images: images,
) -> NDArray[np.float32]:
    """Return the targets' scores [N, labels] for images [N, H, W, C], predicted in batches.

    The targets are of one kind and share the work, each used by one thread at a time. `scale` turns a batch into what
    they take: a whole data set of float32 values would need four times the memory of its pixels.
    """
    batch = batch_of(images.shape[1:])
    free: queue.SimpleQueue[Target] = queue.SimpleQueue()
    for target in targets:
        free.put(target)

    def ask(start: int) -> NDArray[np.float32]:
        target = free.get()
        try:
            answer = target.predict(scale(images[start : start + batch]))
        finally:
            free.put(target)
        return answer

    parts = []
    with Progress(label, len(images), "images") as progress, ThreadPoolExecutor(len(targets)) as pool:
        for answer in pool.map(ask, range(0, len(images), batch)):
            parts.append(answer)
            progress.advance(len(answer))
    return np.concatenate(parts)


def compare(
    name: str,
    scores: NDArray[np.float32],
    reference: NDArray[np.float32],
    truth: NDArray[np.integer] | None,
    *,
    several: bool = False,
) -> dict[str, Any]:
    """Return what a format's scores decide, compared with the reference's, image by image.

    `scores` and `reference` are [N, labels], `truth` class numbers [N], or with `several` labels an image 0/1 rows
    [N, labels]; None where no labels are known. The figures: `compared` counts the decisions, one per image or one per
    image and label, `disagreements` those that differ from the reference's, `agreement` is the share of the others, and
    `largest_difference` that of a score, and `far` how many of the `images` have a score that differs by more than
    `FAR`. `accuracy`, `wins`, `losses` and `mcnemar_p` are those of `train.common.statistics`, None
    without labels; `mean_average_precision` is there with several labels an image. Raises ResultError if the scores
    aren't finite or not of the reference's shape.
    """
    if scores.shape != reference.shape or not np.isfinite(scores).all():
        raise ResultError(
            f"{name}: answered {scores.shape} with {int((~np.isfinite(scores)).sum())} values that "
            f"are no numbers; expected finite {reference.shape}"
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
