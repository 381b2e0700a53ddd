"""The statistics that figures in this project carry: exact ones, from SciPy."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["accuracy", "median_rank", "paired"]


def accuracy(predicted: NDArray[np.integer], truth: NDArray[np.integer]) -> dict[str, object]:
    """Return the accuracy of class indices [N] with its 95 % Wilson score interval.

    Keys: `value` and `interval95` (two numbers) as shares 0…1, `correct` and `images` as counts.
    """
    from scipy.stats import binomtest

    correct, images = int(np.sum(predicted == truth)), len(truth)
    interval = binomtest(correct, images).proportion_ci(0.95, method="wilson")
    return {
        "value": correct / images,
        "interval95": [float(interval.low), float(interval.high)],
        "correct": correct,
        "images": images,
    }


def median_rank(count: int) -> int:
    """Return the rank k for which `count` values' k-th from below and from above hold the median with 95 %.

    It lies between them, whatever they come from, unless fewer than k of all are on one side of it, which is a matter
    of tossing coins (the sign test). 0 for fewer than six values, which have no such interval.
    """
    from scipy.stats import binom

    return int(binom.ppf(0.025, count, 0.5))


def paired(
    predicted: NDArray[np.integer], reference: NDArray[np.integer], truth: NDArray[np.integer]
) -> dict[str, object]:
    """Compare class indices [N] with a reference model's, image by image.

    `disagreements` counts images whose class differs; `wins` and `losses` those of them where this or the
    reference is right; `mcnemar_p` is McNemar's exact two-sided p, the binomial test of wins against losses
    (1.0 where there are neither).
    """
    from scipy.stats import binomtest

    right, reference_right = predicted == truth, reference == truth
    wins, losses = int(np.sum(right & ~reference_right)), int(np.sum(~right & reference_right))
    return {
        "disagreements": int(np.sum(predicted != reference)),
        "wins": wins,
        "losses": losses,
        "mcnemar_p": float(binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0,
    }
