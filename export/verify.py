"""Every artefact, loaded by the runtime that will serve it and compared with the Keras model on real images."""

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

__all__ = ["MIN_AGREEMENT", "compare", "open_saved_model", "open_tflite", "predict_all"]

# Below this share of equal predictions a file is broken, not merely rounded: int8 keeps over 0.995 here.
MIN_AGREEMENT = 0.97
# The batch in which whole data sets are predicted; large enough to hide the cost of a call.
_BATCH = 250


def open_tflite(version: Path, row: Format, threads: int = 1) -> Classifier:
    """Return the TFLite file of format `row` in a version directory as a target."""
    path = version / row.file
    with quiet():  # LiteRT announces its delegate
        return Classifier(LiteRT(path, threads), str(path))


def open_saved_model(version: Path, threads: int = 0) -> Classifier:
    """Return the SavedModel of a version directory as a target."""
    return Classifier(SavedModel(version, threads), str(version))


def predict_all(target: Target, images: NDArray[np.float32], label: str) -> NDArray[np.float32]:
    """Return the target's probabilities [N, classes] for images [N, H, W, C], asked in batches."""
    with Progress(label, len(images), "images") as progress:
        parts = []
        for start in range(0, len(images), _BATCH):
            parts.append(target.predict(images[start : start + _BATCH]))
            progress.advance(len(parts[-1]))
    return np.concatenate(parts)


def compare(
    name: str,
    probabilities: NDArray[np.float32],
    reference: NDArray[np.float32],
    truth: NDArray[np.integer],
) -> dict[str, Any]:
    """Return accuracy, agreement with the reference's classes, paired test and largest difference.

    `probabilities` and `reference` are [N, classes], `truth` class indices [N]. Raises ResultError if what
    came out is no distribution over the classes or agrees with the reference less than a usable file does.
    """
    if probabilities.shape != reference.shape or not np.isfinite(probabilities).all():
        raise ResultError(
            f"{name}: answered {probabilities.shape} with {int((~np.isfinite(probabilities)).sum())} values that "
            f"are no numbers; expected finite {reference.shape}"
        )
    predicted, expected = probabilities.argmax(1), reference.argmax(1)
    agreement = float(np.mean(predicted == expected))
    if agreement < MIN_AGREEMENT:
        raise ResultError(
            f"{name}: agrees with the Keras model on {agreement:.1%} of {len(truth):,} images, less than "
            f"{MIN_AGREEMENT:.0%}: the conversion broke it, so nothing was published"
        )
    return {
        "agreement": agreement,
        "largest_difference": float(np.abs(probabilities - reference).max()),
        "accuracy": stats.accuracy(predicted, truth),
        **stats.paired(predicted, expected, truth),
    }
