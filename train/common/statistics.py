"""The statistics that figures in this project carry: exact ones, from SciPy."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["accuracy", "average_precision", "chance_p", "fewer", "lost", "lower", "median_rank", "paired"]


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


def chance_p(predicted: NDArray[np.integer], truth: NDArray[np.integer]) -> float:
    """Return the probability that guessing is right at least as often as `predicted`: an exact binomial test.

    Both are class numbers [N], or 0 and 1 [N, labels]. A guess is one that knows how often each class is predicted and
    how often it is true, but not for which image (the chance agreement of Cohen's kappa, 1960), so that a model
    that always gives the most frequent class is no better than guessing.
    """
    from scipy.stats import binomtest

    columns = list(zip(np.atleast_2d(predicted.T), np.atleast_2d(truth.T), strict=True))
    chances = []
    for found, right in columns:
        size = int(max(found.max(), right.max())) + 1
        shares = [np.bincount(each, minlength=size) / len(each) for each in (found, right)]
        chances.append(float(shares[0] @ shares[1]))
    chance = min(1.0, sum(chances) / len(chances))
    correct = int(np.sum(predicted == truth))
    return float(binomtest(correct, truth.size, chance, alternative="greater").pvalue)


def lost(wins: int, losses: int) -> float:
    """Return the one-sided p of McNemar's exact test that there are more losses than wins only by chance."""
    from scipy.stats import binomtest

    return float(binomtest(losses, wins + losses, alternative="greater").pvalue) if wins + losses else 1.0


def fewer(correct: int, total: int, share: float) -> float:
    """Return the one-sided p that so few of `total` are correct only by chance, where `share` is expected."""
    from scipy.stats import binomtest

    return float(binomtest(correct, total, share, alternative="less").pvalue)


def lower(correct: int, images: int, correct_before: int, images_before: int) -> float:
    """Return the one-sided p of Fisher's exact test that a share of correct images is lower only by chance."""
    from scipy.stats import fisher_exact

    table = [[correct, images - correct], [correct_before, images_before - correct_before]]
    return float(fisher_exact(table, alternative="less").pvalue)


def average_precision(scores: NDArray[np.floating], truth: NDArray[np.integer]) -> float | None:
    """Return the mean average precision of scores [N, labels] for 0/1 rows [N, labels].

    Labels that no image has are left out; None if no label is left.
    """
    from sklearn.metrics import average_precision_score

    judged = truth.any(0)
    if not judged.any():
        return None
    return float(average_precision_score(truth[:, judged], scores[:, judged], average="macro"))


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
