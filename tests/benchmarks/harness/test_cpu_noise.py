from collections.abc import Iterator

import pytest

from tfship.benchmarks.harness.cpu_noise import Processor


class Clock:
    """A clock that spins move: each takes the next of these nanoseconds, and at last the same for ever."""

    def __init__(self, spins: list[int]) -> None:
        self.now = 0
        self._spins: Iterator[int] = iter([*spins[:-1], *[spins[-1]] * 1_000_000])

    def __call__(self) -> int:
        return self.now

    def spin(self) -> int:
        took = next(self._spins)
        self.now += took
        return took


def test_it_waits_until_a_spin_is_about_as_fast_as_any_was() -> None:
    clock = Clock([1_000, 1_800, 1_700, 1_200, 900])
    processor = Processor(clock, clock.spin)
    assert processor.wait(1.0) == 1_000  # nothing faster is known
    assert processor.wait(1.0) == 1_200
    assert processor.waited == pytest.approx(5.7e-6)
    assert processor.undisturbed(1_250)
    assert processor.wait(1.0) == 900
    assert not processor.undisturbed(1_200)


def test_it_waits_no_longer_than_it_may() -> None:
    clock = Clock([2_000_000])
    processor = Processor(clock, clock.spin)
    processor.record(1_000_000)
    assert processor.wait(0.1) == 2_000_000
    assert processor.waited == pytest.approx(0.1)
    # With no time left, a single spin tells.
    assert processor.wait(-0.05) == 2_000_000
    assert processor.waited == pytest.approx(0.102)


def test_a_spin_is_work_that_takes_time() -> None:
    processor = Processor()
    spins = [processor.spin() for _ in range(100)]
    assert min(spins) > 1_000
    assert processor.undisturbed(min(spins))
    assert not processor.undisturbed(2 * min(spins))
