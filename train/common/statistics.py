"""Statistics of this project's results: exact tests and intervals, from SciPy."""

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
    """Return the probability that guessing is correct at least as often as `predicted`: an exact binomial test.

    Both arrays are class numbers [N], or 0 and 1 [N, labels]. Guessing knows how often each class is predicted and how
    often it is true, but not for which image: the chance agreement of Cohen's kappa (1960). A model that always
    predicts the most frequent class is therefore no better than guessing.
    """
    from scipy.stats import binomtest

    columns = list(zip(np.atleast_2d(predicted.T), np.atleast_2d(truth.T), strict=True))
    chances = []
    for guessed, expected in columns:
        size = int(max(guessed.max(), expected.max())) + 1
        shares = [np.bincount(each, minlength=size) / len(each) for each in (guessed, expected)]
        chances.append(float(shares[0] @ shares[1]))
    chance = min(1.0, sum(chances) / len(chances))
    correct = int(np.sum(predicted == truth))
    return float(binomtest(correct, truth.size, chance, alternative="greater").pvalue)


def lost(wins: int, losses: int) -> float:
    """Return the one-sided p of McNemar's exact test: the probability of at least `losses` losses by chance."""
    from scipy.stats import binomtest

    return float(binomtest(losses, wins + losses, alternative="greater").pvalue) if wins + losses else 1.0


def fewer(correct: int, total: int, share: float) -> float:
    """Return the one-sided p that at most `correct` of `total` are correct, if the expected share is `share`."""
    from scipy.stats import binomtest

    return float(binomtest(correct, total, share, alternative="less").pvalue)


def lower(correct: int, images: int, correct_before: int, images_before: int) -> float:
    """Return the one-sided p of Fisher's exact test that the share of correct images is lower only by chance."""
    from scipy.stats import fisher_exact

    table = [[correct, images - correct], [correct_before, images_before - correct_before]]
    return float(fisher_exact(table, alternative="less").pvalue)


def average_precision(scores: NDArray[np.floating], truth: NDArray[np.integer]) -> float | None:
    """Return the mean average precision of `scores` [N, labels] for `truth`, 0/1 rows [N, labels].

    Labels that no image has are left out; None if no label is left.
    """
    from sklearn.metrics import average_precision_score

    judged = truth.any(0)
    if not judged.any():
        return None
    return float(average_precision_score(truth[:, judged], scores[:, judged], average="macro"))


def median_rank(count: int) -> int:
    """Return the rank k of the 95 % confidence interval of the median of `count` values, by the sign test.

    The interval is from the k-th lowest to the k-th highest value, for any distribution. 0 for fewer than six values,
    which have no such interval.
    """
    from scipy.stats import binom

    return int(binom.ppf(0.025, count, 0.5))


def paired(
    predicted: NDArray[np.integer], reference: NDArray[np.integer], truth: NDArray[np.integer]
) -> dict[str, object]:
    """Compare class indices `predicted` [N] with those of a `reference` model, image by image.

    `disagreements` is the number of images whose class differs. In `wins` of them this model is correct, in `losses`
    the reference. `mcnemar_p` is McNemar's exact two-sided p, the binomial test of wins against losses (1.0 if both
    are 0).
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
