import numpy as np
import pytest

from train import stats


def test_accuracy_has_the_wilson_interval() -> None:
    truth = np.zeros(10_000, int)
    predicted = np.zeros(10_000, int)
    predicted[:60] = 1
    figures = stats.accuracy(predicted, truth)
    assert (figures["value"], figures["correct"], figures["images"]) == (0.994, 9940, 10_000)
    # Wilson 1927 worked by hand: centre (p + z²/2n) / (1 + z²/n), z = 1.959964.
    assert figures["interval95"] == pytest.approx([0.992285, 0.995336], abs=1e-6)


def test_paired_counts_and_exact_p() -> None:
    truth = np.zeros(20, int)
    reference = np.array([0] * 14 + [1] * 6)
    predicted = np.array([0] * 13 + [1] + [0] * 5 + [2])
    figures = stats.paired(predicted, reference, truth)
    # Binomial(6, ½): P(≤1) twice is 2 · (1 + 6) / 64. The last image is wrong in two ways: no win, no loss.
    assert figures == {"disagreements": 7, "wins": 5, "losses": 1, "mcnemar_p": pytest.approx(14 / 64)}


def test_paired_without_any_difference() -> None:
    same = np.array([1, 2, 3])
    assert stats.paired(same, same, same) == {"disagreements": 0, "wins": 0, "losses": 0, "mcnemar_p": 1.0}
