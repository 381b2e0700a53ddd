from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tfship.benchmarks.harness import timer
from tfship.benchmarks.harness.cpu_noise import Processor
from tfship.benchmarks.harness.timer import Schedule, Timing, Window, in_turn


class Work:
    """Calls that take as long as they are told, on a clock that they move themselves."""

    def __init__(self) -> None:
        self.now = 0.0
        self.order: list[tuple[str, int]] = []

    def clock(self) -> int:
        return round(self.now * 1e9)

    @property
    def processor(self) -> Processor:
        return Processor(self.clock)

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
    # The first calls are a hundred times slower.
    slow_start = {name: work.call(name, lambda made: 1.0 if made < 5 else 0.01) for name in "ab"}
    timings = in_turn(slow_start, Schedule(window=5), processor=work.processor)
    for timing in timings.values():
        assert timing.samples == pytest.approx([0.01] * 15)
        assert timing.settled == 0
    a, b = ([(name, n) for n in range(5)] for name in "ab")
    # Warm-up, and a window of five is one slice, whose first call isn't timed as it takes long enough.
    assert work.order == a + b + (a[:1] + a + b[:1] + b) * 3


def test_a_window_is_measured_slice_by_slice_in_turn() -> None:
    work = Work()
    calls = {name: work.call(name, lambda made: 0.01) for name in "ab"}
    kept: dict[str, dict[str, Any]] = {}
    timings = in_turn(calls, Schedule(window={"a": 200, "b": 22}), processor=work.processor, kept=kept)
    sizes = [{name: len(samples) for name, (samples, *_) in each.items()} for each in kept.values()]
    assert len(sizes) == 3 * timer.SLICES
    assert all(each["a"] == 20 for each in sizes)
    # One that asks less often has fewer slices, as far apart as they go.
    assert [each.get("b", 0) for each in sizes[:4]] == [0, 4, 0, 4]
    assert {len(each.samples) for each in timings["a"].windows} == {200}
    assert {len(each.samples) for each in timings["b"].windows} == {22}
    # All of a window's samples, in order, each slice's first once more.
    first = [number for name, number in work.order[20:] if name == "a"][:210]
    assert [number for place, number in enumerate(first) if place % 21] == list(range(200))


def test_fast_calls_of_a_slice_are_not_timed_for_a_moment() -> None:
    work = Work()
    # What ran in between makes the first calls of a slice slow: three of them.
    calls = {"a": work.call("a", lambda made: 0.001 if made < 20 or (made - 20) % 23 >= 3 else 0.01)}
    timing = in_turn(calls, Schedule(window=200), processor=work.processor)["a"]
    assert set(np.round(timing.samples, 6)) == {0.001}
    assert len(timing.samples) == 600


def test_the_reference_is_measured_as_long_as_any() -> None:
    work = Work()
    calls = {
        "drifting": work.call("drifting", lambda made: 0.01 * (1 + max(0, 60 - made) // 10)),
        "reference": work.call("reference", lambda made: 0.005 if made < 46 else 0.02),
        "steady": work.call("steady", lambda made: 0.005),
    }
    timings = in_turn(calls, Schedule(reference="reference", window=10), processor=work.processor)
    assert len(timings["steady"].windows) == 3
    assert len(timings["drifting"].windows) == len(timings["reference"].windows) > 3
    # The first three agreed: they count, and later ones are there for others to stand beside.
    assert timings["reference"].settled == 0
    assert set(timings["reference"].samples) == {0.005}
    assert timings["reference"].windows[-1].median == 0.02


def test_what_is_compared_is_measured_in_all_rounds() -> None:
    work = Work()
    calls = {name: work.call(name, lambda made: 0.01) for name in "abc"}
    timings = in_turn(calls, Schedule(compared=["b"], window=10), processor=work.processor)
    # The reference, a, is there for b to stand beside.
    assert {name: len(each.windows) for name, each in timings.items()} == {
        "a": timer.MOST, "b": timer.MOST, "c": timer.AGREEING,
    }  # fmt: skip
    assert timings["b"].settled == 0
    assert len(timings["b"].samples) == 3 * 10


class Shared(Work):
    """A processor that a neighbour slows down by half for 0.3 s, from 0.2 s of each half second on."""

    spun = 0.0

    def slowed(self) -> float:
        return 2.0 if self.now % 0.5 >= 0.2 else 1.0

    @property
    def processor(self) -> Processor:
        return Processor(self.clock, self.spin)

    def spin(self) -> int:
        took = 1e-5 * self.slowed()
        self.now += took
        self.spun += took
        return round(took * 1e9)

    def call(self, name: str, seconds: Callable[[int], float]) -> Callable[[int], None]:
        return super().call(name, lambda made: seconds(made) * self.slowed())


def test_slices_wait_for_an_undisturbed_processor() -> None:
    def run(patience: float) -> tuple[Shared, Timing]:
        work = Shared()
        calls = {"a": work.call("a", lambda made: 0.001)}
        return work, in_turn(
            calls, Schedule(compared="a", window=100, patience=patience), processor=work.processor
        )["a"]

    work, hasty = run(0.0)
    assert np.mean(hasty.samples > 0.0015) > 0.4
    _, patient = run(100.0)
    assert np.mean(patient.samples > 0.0015) < 0.1
    # Waiting takes so long in all, and no longer.
    short, _ = run(0.2)
    assert 0.1 < short.spun - work.spun < 0.21


def test_undisturbed_samples_are_told_apart() -> None:
    work = Shared()
    calls = {"a": work.call("a", lambda made: 0.001), "b": work.call("b", lambda made: 0.25)}
    timings = in_turn(calls, Schedule(window={"a": 100, "b": 10}), processor=work.processor)
    medians = [each for each in timings["a"].describe()["windows_undisturbed_p50_us"] if each is not None]
    assert medians
    assert {*medians, timings["a"].describe()["undisturbed_p50_us"]} == {1000.0}
    # Its slices never end as undisturbed as they began.
    assert timings["b"].describe()["windows_undisturbed_p50_us"] == [None] * len(timings["b"].windows)
    for window in timings["a"].windows:
        assert len(window.undisturbed) < len(window.samples)


def test_windows_of_fast_calls_have_more_samples() -> None:
    work = Work()
    calls = {"fast": work.call("fast", lambda made: 0.001), "slow": work.call("slow", lambda made: 0.5)}
    timings = in_turn(calls, Schedule(window=5, window_seconds=0.1), processor=work.processor)
    assert len(timings["fast"].samples) == pytest.approx(3 * 100, abs=3)
    assert len(timings["slow"].samples) == 3 * 5


def test_what_drifts_is_tried_until_it_settles_and_only_then_counts() -> None:
    work = Work()
    steps = [0.040, 0.030, 0.020, 0.0205, 0.0201]
    # Ten calls to warm up, and twelve in a window of two slices.
    calls = {
        "drifting": work.call("drifting", lambda made: 1 if made < 10 else steps[min(4, (made - 10) // 12)]),
        "steady": work.call("steady", lambda made: 0.005),
    }
    told: list[str] = []
    timings = in_turn(
        calls, Schedule(reference="drifting", window=10), processor=work.processor, report=told.append
    )
    assert timings["drifting"].settled == 2
    assert [each.median for each in timings["drifting"].windows] == pytest.approx(steps)
    assert set(np.round(timings["drifting"].samples, 6)) == {0.020, 0.0205, 0.0201}
    assert len(timings["steady"].windows) == 3
    assert (told.count("drifting"), told.count("steady")) == (5 * timer.SLICES, 3 * timer.SLICES)


def test_what_never_settles_is_kept_and_marked() -> None:
    work = Work()
    calls = {"wild": work.call("wild", lambda made: 0.01 * (1 + max(0, made - 10) // 12 % 2))}
    timing = in_turn(calls, Schedule(window=10), processor=work.processor)["wild"]
    assert timing.settled is None
    assert len(timing.windows) == 10
    assert len(timing.samples) == 100
    assert timing.describe()["stable"] is False


@pytest.mark.parametrize(
    ("samples", "given"),
    [
        (10, []),
        (11, ["p50"]),
        (63, ["p50"]),
        (64, ["p50", "p90"]),
        (662, ["p50", "p90", "p99"]),
        (6_635, ["p50", "p90", "p99"]),
        (6_636, ["p50", "p90", "p99", "p99.9"]),
    ],
)
def test_percentiles_need_their_sample_size(samples: int, given: list[str]) -> None:
    figures = Timing((Window((1_000_000,) * samples),)).describe()
    names = ["p50", "p90", "p99", "p99.9"]
    assert [name for name in names if figures[f"{name}_us"] is not None] == given
    assert set(figures["missing"]) == set(names) - set(given)
    assert figures["samples"] == samples


def test_percentiles_are_of_pooled_samples() -> None:
    # Three fast windows and a slow one: averaging the windows' own p99 would hide it.
    fast, slow = Window((1_000_000,) * 200), Window((100_000_000,) * 200)
    timing = Timing((fast, fast, slow, fast))
    assert timing.settled is None
    assert timing.percentile("50") == 0.001
    assert timing.percentile("99") == 0.1


def test_three_windows_are_enough_for_the_99th_percentile() -> None:
    assert timer.FLOORS["99"] <= 3 * timer.WINDOW


def test_slow_calls_have_smaller_windows_and_enough_for_the_90th_percentile() -> None:
    work = Work()
    calls = {"slow": work.call("slow", lambda made: 0.01), "slower": work.call("slower", lambda made: 1.0)}
    timings = in_turn(calls, Schedule(window=221, window_seconds=0.1, longest=0.5), processor=work.processor)
    assert len(timings["slow"].samples) == 3 * 50
    assert len(timings["slower"].samples) == 3 * 22
    assert timings["slower"].percentile("90") is not None


def test_what_is_kept_is_not_measured_again() -> None:
    work = Work()
    calls = {"a": work.call("a", lambda made: 0.01), "b": work.call("b", lambda made: 0.02)}
    kept: dict[str, Any] = {}

    def interrupted(name: str) -> None:
        if len(kept) == timer.SLICES + 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        in_turn(calls, Schedule(window=100), processor=work.processor, kept=kept, report=interrupted)
    before = dict(kept)
    work.order.clear()
    timings = in_turn(calls, Schedule(window=100), processor=work.processor, kept=kept)
    assert {key: kept[key] for key in before} == before
    # Warmed up again, and then what was missing: 7 slices of the second window, 10 of the third.
    assert [name for name, _ in work.order] == ["a"] * 20 + ["a"] * 11 + ["b"] * 20 + ["b"] * 11 + (
        ["a"] * 11 + ["b"] * 11
    ) * 16
    assert all(len(each.windows) == 3 for each in timings.values())


def test_processor_time_is_that_of_the_windows_that_count() -> None:
    work = Work()
    calls = {"a": work.call("a", lambda made: 0.01)}
    timing = in_turn(
        calls,
        Schedule(window=10),
        processor=work.processor,
        cpu_seconds=lambda _: (2 * work.now, 3 * work.now),
    )["a"]
    assert timing.cpu() == pytest.approx(0.02)
    assert timing.cpu(server=True) == pytest.approx(0.03)


def test_another_program_may_time_its_calls() -> None:
    asked = []

    def measure(numbers: range, lead_in: int) -> list[int]:
        asked.append((numbers, lead_in))
        return [1_000 * (number + 1) for number in numbers]

    def here(number: int) -> None:
        pass

    calls: dict[str, timer.Call] = {"here": here, "elsewhere": timer.TimedElsewhere(measure)}
    found = timer.in_turn(calls, timer.Schedule(window=20, rounds=3))["elsewhere"]
    assert [sample for each in found.windows for sample in each.samples] == [
        1_000 * (number + 1) for _ in range(3) for number in range(20)
    ]
    # The warm-up has no lead-in; each block has one.
    assert asked[0][1] == 0
    assert all(lead_in > 0 for _, lead_in in asked[1:])
