"""What a soak says of memory: growth where there is some, and nothing where there are too few rounds."""

import pytest

from tfship.benchmarks.harness.process_info import Footprint
from tfship.benchmarks.studies import soak

MIB = 2**20


@pytest.mark.parametrize(
    ("mib", "growth"),
    [
        # Warming up takes long; then it is flat.
        ([100 + min(index, 9) + 0.1 * (index % 2) for index in range(20)], "none"),
        ([100 + index for index in range(20)], "measured"),
        ([100 - index for index in range(20)], "none"),
        # So noisy that it could be anything.
        ([100 + 40 * (index % 2) for index in range(20)], "unknown"),
        # Flat, but too few to tell.
        ([100.0] * 6, "unknown"),
    ],
)
def test_growth_is_that_of_the_second_half(mib: list[float], growth: str) -> None:
    rounds = [(50_000, [Footprint(round(each * MIB), MIB, 10, 10)] * 3) for each in mib]
    row = soak._row("worker 1", {"start": rounds[0][1][0], "end": rounds[-1][1][0]}, rounds)
    assert row["growth"] == growth
    assert row["resident_by_round"] == [round(each, 2) for each in mib]
    assert row["resident_mib"]["most"] == pytest.approx(max(mib), abs=0.1)
