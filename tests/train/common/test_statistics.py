import numpy as np
import pytest

from tfship.train.common import statistics


def test_accuracy_has_the_wilson_interval() -> None:
    truth = np.zeros(10_000, int)
    predicted = np.zeros(10_000, int)
    predicted[:60] = 1
    figures = statistics.accuracy(predicted, truth)
    assert (figures["value"], figures["correct"], figures["images"]) == (0.994, 9940, 10_000)
    # Wilson 1927 worked by hand: centre (p + z²/2n) / (1 + z²/n), z = 1.959964.
    assert figures["interval95"] == pytest.approx([0.992285, 0.995336], abs=1e-6)


def test_paired_counts_and_exact_p() -> None:
    truth = np.zeros(20, int)
    reference = np.array([0] * 14 + [1] * 6)
    predicted = np.array([0] * 13 + [1] + [0] * 5 + [2])
    figures = statistics.paired(predicted, reference, truth)
    # Binomial(6, ½): P(≤1) twice is 2 · (1 + 6) / 64. The last image is wrong in two ways: no win, no loss.
    assert figures == {"disagreements": 7, "wins": 5, "losses": 1, "mcnemar_p": pytest.approx(14 / 64)}


def test_paired_without_any_difference() -> None:
    same = np.array([1, 2, 3])
    assert statistics.paired(same, same, same) == {
        "disagreements": 0,
        "wins": 0,
        "losses": 0,
        "mcnemar_p": 1.0,
    }


def test_a_constant_answer_is_no_better_than_guessing() -> None:
    truth = np.repeat([0, 1], [180, 20])
    assert statistics.chance_p(np.zeros(200, int), truth) > 0.4
    assert statistics.chance_p(np.where(np.arange(200) % 10 == 0, 1 - truth, truth), truth) < 1e-3
    shuffled = np.random.default_rng(0).permutation(truth)
    assert statistics.chance_p(shuffled, truth) > 0.05
    rows = np.stack([truth, 1 - truth], 1)
    assert statistics.chance_p(np.tile([0, 1], (200, 1)), rows) > 0.4
    assert statistics.chance_p(rows, rows) < 1e-6


def test_losses_count_against_wins() -> None:
    assert statistics.lost(0, 0) == 1
    assert statistics.lost(0, 2) == 0.25
    assert statistics.lost(0, 5) == pytest.approx(1 / 32)
    assert statistics.fewer(199, 200, 0.999) > 0.05 > statistics.fewer(197, 200, 0.999)


def test_average_precision_leaves_out_labels_without_images() -> None:
    truth = np.array([[1, 0], [0, 0], [1, 0]])
    scores = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3]])
    assert statistics.average_precision(scores, truth) == pytest.approx((1 + 2 / 3) / 2)
    assert statistics.average_precision(scores, truth * 0) is None
