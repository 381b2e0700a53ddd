"""Ratios of two timings, and how far their rounds lie apart."""

import statistics
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tfship.benchmarks.analysis.ratios import ratio
from tfship.benchmarks.harness.timer import settled


@given(
    st.lists(st.floats(1, 1e6), min_size=1, max_size=10), st.lists(st.floats(1, 1e6), min_size=1, max_size=10)
)
def test_a_ratio_lies_within_its_span_and_is_the_inverse_of_the_other(
    mine: list[float], its: list[float]
) -> None:
    # Steady from the first round on, or never.
    assume(not settled(mine) and not settled(its))
    here, there = _timing(mine), _timing(its)
    found, inverse = ratio(here, there), ratio(there, here)
    assert found
    assert inverse
    assert found.low <= found.value <= found.high
    assert found.rounds == min(len(mine), len(its))
    assert found.value * inverse.value == pytest.approx(1)
    assert found.low * inverse.high == pytest.approx(1)
    assert ratio(here, here).apart is False  # type: ignore[union-attr]


def _timing(medians: list[float], undisturbed: Sequence[float | None] = ()) -> dict[str, Any]:
    there = [each for each in undisturbed if each]
    return {
        "p50_us": sorted(medians)[len(medians) // 2] if medians else None,
        "windows_p50_us": medians,
        "undisturbed_p50_us": statistics.median(there) if there else None,
        "windows_undisturbed_p50_us": list(undisturbed) or [None] * len(medians),
    }


def test_of_many_rounds_the_span_holds_the_median_with_95_percent() -> None:
    reference = _timing([1.0] * 10)
    rounds = [0.3, 1.2, 1.9, 1.3, 1.5, 1.6, 1.7, 1.8, 1.4, 9.0]
    found = ratio(_timing(rounds), reference)
    assert found
    # The lowest and the highest of ten may be chance (98 %), of eight neither (93 % would be left).
    assert (found.low, found.high, found.rounds) == (1.2, 1.9, 10)
    fewer = ratio(_timing(rounds[:8]), reference)
    assert fewer
    assert (fewer.low, fewer.high) == (0.3, 1.9)


def test_a_ratio_is_of_what_was_undisturbed() -> None:
    # Half of the time a neighbour slows both down, one of them more than the other.
    here = _timing([8.0, 4.0, 8.0, 4.0, 8.0], [None, 4.0, None, 4.0, 4.0])
    there = _timing([12.0, 8.0, 12.0, 8.0, 12.0], [8.0, 8.0, None, 8.0, 8.0])
    found = ratio(here, there)
    assert found
    assert (found.value, found.low, found.high, found.rounds) == (0.5, 0.5, 0.5, 3)
    # Two such rounds are too few.
    here["windows_undisturbed_p50_us"][1] = None
    found = ratio(here, there)
    assert found
    assert found.rounds == 5
    assert found.value > 0.6


def test_only_rounds_that_count_for_both_are_the_span() -> None:
    # One settled at once; the other was slow for two rounds, which don't count.
    here = _timing([50.0, 40.0, 10.0, 10.0, 10.5])
    there = _timing([20.0, 20.0, 20.0])
    found = ratio(here, there)
    assert found
    assert (found.low, found.value, found.high) == (0.5, 0.5, 0.5)
    # They have no round in common: every window of one beside every one of the other.
    later = _timing([50.0, 40.0, 30.0, 10.0, 10.0, 11.0])
    there = _timing([20.0, 20.0, 22.0])
    found = ratio(later, there)
    assert found
    assert found.low == pytest.approx(10 / 22)
    assert found.high == pytest.approx(11 / 20)


def test_there_is_no_ratio_to_nothing() -> None:
    timing = _timing([3.0])
    assert ratio(None, timing) is None
    assert ratio(timing, {**_timing([]), "p50_us": None}) is None
