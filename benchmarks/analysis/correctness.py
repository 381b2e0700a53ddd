"""Correctness of a format: accuracy, comparison with the reference, calibration error, changed images."""

import base64
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfship.benchmarks.analysis import correct_images
from tfship.benchmarks.suite.system_under_test import png
from tfship.export.sources.evaluation_data import Images
from tfship.train.common import statistics

__all__ = ["BINS", "calibration_error", "changed", "describe"]

BINS = 15
# Maximum number of changed images in the results; their total is reported, too.
_SHOWN = 24


def describe(
    probabilities: NDArray[np.float32], reference: NDArray[np.float32], truth: NDArray[np.int64]
) -> dict[str, Any]:
    """Return a row's correctness figures for the result file.

    `probabilities` and `reference` (the reference row's) are [N, classes], `truth` class indices [N].
    """
    predicted = probabilities.argmax(1)
    return {
        "accuracy": statistics.accuracy(predicted, truth),
        "calibration_error": {"value": round(calibration_error(probabilities, truth), 6), "bins": BINS},
        "against_float32": statistics.paired(predicted, reference.argmax(1), truth),
        "right": correct_images.pack(predicted == truth),
    }


def calibration_error(probabilities: NDArray[np.float32], truth: NDArray[np.int64]) -> float:
    """Return the expected calibration error (0 to 1) of `probabilities` [N, classes] for the classes `truth` [N].

    Images are grouped by confidence, the largest probability, into `BINS` bins of equal width. The error is the mean
    of |accuracy - confidence| over the bins, weighted by their number of images (Guo et al., "On Calibration of Modern
    Neural Networks", 2017).
    """
    confidence = probabilities.max(1).astype(np.float64)
    right = (probabilities.argmax(1) == truth).astype(np.float64)
    bins = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    gaps = np.bincount(bins, right - confidence, BINS)
    return float(np.abs(gaps).sum() / len(truth))


def changed(
    probabilities: NDArray[np.float32], reference: NDArray[np.float32], images: Images
) -> dict[str, Any]:
    """Return the images whose class differs from the reference's, largest margin first.

    The margin is the probability of the new class less that of the reference's class, both by this row.
    """
    predicted, expected = probabilities.argmax(1), reference.argmax(1)
    numbers = np.flatnonzero(predicted != expected)
    margins = probabilities[numbers, predicted[numbers]] - probabilities[numbers, expected[numbers]]
    order = np.argsort(-margins, kind="stable")
    return {
        "count": len(numbers),
        "shown": [
            {
                "image": int(number),
                "png": base64.b64encode(png(images.pixels[number])).decode(),
                "label": int(images.truth[number]),
                "reference": _prediction(reference[number]),
                "here": _prediction(probabilities[number]),
                "margin": round(float(margin), 4),
            }
            for number, margin in zip(numbers[order][:_SHOWN], margins[order][:_SHOWN], strict=True)
        ],
    }


def _prediction(probabilities: NDArray[np.float32]) -> dict[str, Any]:
    best = int(probabilities.argmax())
    return {"class": best, "probability": round(float(probabilities[best]), 4)}
