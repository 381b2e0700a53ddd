from collections.abc import Callable

import numpy as np
import pytest

from benchmarks import measure
from benchmarks.measure import Timing, in_turn


class Work:
    """Calls that take as long as they are told, on a clock that they move themselves."""

    def __init__(self) -> None:
        self.now = 0.0
        self.order: list[tuple[str, int]] = []

    def clock(self) -> float:
        return self.now

    def call(self, name: str, seconds: Callable[[int], float]) -> Callable[[int], None]:
        made = 0

        def run(number: int) -> None:
            nonlocal made
            self.order.append((name, number))
            self.now += seconds(made)
            made += 1

        return run


def test_warm_up_is_not_counted_and_windows_go_in_turn() -> None:
    work = Work()
    # The first twenty calls are a hundred times slower.
    slow_start = {name: work.call(name, lambda made: 1.0 if made < 20 else 0.01) for name in "ab"}
    timings = in_turn(slow_start, window=5, window_seconds=0, clock=work.clock)
    for timing in timings.values():
        assert timing.samples == pytest.approx([0.01] * 15)
        assert timing.stable
    measured = work.order[40:]
    one_round = [("a", n) for n in range(5)] + [("b", n) for n in range(5)]
    assert measured == one_round * 3


def test_windows_of_fast_calls_have_more_samples() -> None:
    work = Work()
    calls = {"fast": work.call("fast", lambda made: 0.001), "slow": work.call("slow", lambda made: 0.5)}
    timings = in_turn(calls, window=5, window_seconds=0.1, clock=work.clock)
    assert len(timings["fast"].samples) == pytest.approx(3 * 100, abs=3)
    assert len(timings["slow"].samples) == 3 * 5


def test_what_drifts_is_tried_until_it_settles_and_only_then_counts() -> None:
    work = Work()
    steps = [0.040, 0.030, 0.020, 0.0205, 0.0201]
    calls = {
        "drifting": work.call("drifting", lambda made: 1 if made < 20 else steps[min(4, (made - 20) // 10)]),
        "steady": work.call("steady", lambda made: 0.005),
    }
    told: list[str] = []
    timings = in_turn(calls, window=10, window_seconds=0, clock=work.clock, report=told.append)
    assert timings["drifting"].stable
    assert timings["drifting"].window_medians == pytest.approx(steps)
    assert set(np.round(timings["drifting"].samples, 6)) == {0.020, 0.0205, 0.0201}
    assert len(timings["steady"].window_medians) == 3
    assert (told.count("drifting"), told.count("steady")) == (5, 3)


def test_what_never_settles_is_kept_and_marked() -> None:
    work = Work()
    calls = {"wild": work.call("wild", lambda made: 0.01 * (1 + (made // 10) % 2))}
    timing = in_turn(calls, window=10, window_seconds=0, clock=work.clock)["wild"]
    assert not timing.stable
    assert len(timing.window_medians) == 10
    assert len(timing.samples) == 100
    assert timing.describe()["stable"] is False


@pytest.mark.parametrize(
    ("samples", "given"),
    [(10, []), (11, ["p50"]), (63, ["p50"]), (64, ["p50", "p90"]), (662, ["p50", "p90", "p99"])],
)
def test_percentiles_need_their_sample_size(samples: int, given: list[str]) -> None:
    figures = Timing(tuple([0.001] * samples), (0.001,), True).describe()
    assert [name for name in ("p50", "p90", "p99") if figures[name] is not None] == given
    missing = figures["missing"]
    assert isinstance(missing, dict)
    assert set(missing) == {"p50", "p90", "p99"} - set(given)
    for reason in missing.values():
        assert f"there are {samples}" in reason


def test_percentiles_are_of_pooled_samples() -> None:
    # Nine fast windows and a slow one: averaging the windows' own p99 would hide it.
    samples = tuple([0.001] * 900 + [0.1] * 100)
    timing = Timing(samples, (), True)
    assert timing.percentile(50) == 0.001
    assert timing.percentile(99) == 0.1


def test_three_windows_are_enough_for_the_99th_percentile() -> None:
    assert measure.FLOORS[99] <= 3 * measure.WINDOW
