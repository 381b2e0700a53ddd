"""How time is measured: warm-up apart, windows in turn, pooled samples, percentiles only where they mean something.

The rules and their sources (MLPerf Inference's LoadGen, LiteRT's benchmark_model, NVIDIA's perf_analyzer):

- what is compared is measured in turn, a window each, on the same images in the same order, because machines
  drift;
- a window has enough samples for its share of the 99th percentile, and lasts long enough that a passing
  disturbance doesn't fill it;
- a timing counts when three windows in a row agree within 10 %; at most ten are tried, and what never
  settles is kept and marked unstable;
- percentiles come from the pooled samples of the windows that count, and only above the sample size that the
  percentile needs at 99 % confidence.
"""

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

__all__ = ["FLOORS", "WINDOW", "Timing", "in_turn"]

# Samples that each percentile needs, from LoadGen's early-stopping table at 99 % confidence.
FLOORS = {50: 11, 90: 64, 99: 662}
# Three windows make just enough for the 99th percentile.
WINDOW = 221
_AGREEING, _MOST, _TOLERANCE = 3, 10, 1.10
_WARM_UP = 20
# A window of the fastest models would otherwise last two milliseconds.
_WINDOW_SECONDS = 0.25
_MOST_IN_A_WINDOW = 20_000


@dataclass(frozen=True)
class Timing:
    """One steady-state timing: pooled samples in seconds, and the median of every window in order."""

    samples: tuple[float, ...]
    window_medians: tuple[float, ...]
    stable: bool

    def percentile(self, which: int) -> float | None:
        """Return a percentile in seconds, or None below the sample size that it needs."""
        if len(self.samples) < FLOORS[which]:
            return None
        return float(np.percentile(self.samples, which))

    def describe(self) -> dict[str, object]:
        """Return the timing as a result file records it, in microseconds."""
        figures = {f"p{which}": self.percentile(which) for which in FLOORS}
        return {
            "unit": "us",
            **{name: None if value is None else round(value * 1e6, 2) for name, value in figures.items()},
            "missing": {
                f"p{which}": f"needs {floor} samples for 99 % confidence; there are {len(self.samples)}"
                for which, floor in FLOORS.items()
                if len(self.samples) < floor
            },
            "samples": len(self.samples),
            "stable": self.stable,
            "window_p50": [round(median * 1e6, 2) for median in self.window_medians],
        }


def in_turn(
    calls: Mapping[str, Callable[[int], object]],
    *,
    window: int = WINDOW,
    window_seconds: float = _WINDOW_SECONDS,
    clock: Callable[[], float] = time.perf_counter,
    report: Callable[[str], None] = lambda _: None,
) -> dict[str, Timing]:
    """Time each call, all of them in turn; `report` is told the name of each window that is done.

    A call is given the sample's number, 0, 1, 2 … from the window's start, so that all of them see the same
    images in the same order. The first calls of each are warm-up and not timed. A window has at least
    `window` samples and lasts about `window_seconds` or longer.
    """
    windows: dict[str, list[list[float]]] = {name: [] for name in calls}
    sizes = {}
    for name, call in calls.items():
        warm_up = _sample(call, _WARM_UP, clock)
        wanted = window_seconds / max(float(np.median(warm_up)), 1e-9)
        sizes[name] = max(window, min(_MOST_IN_A_WINDOW, int(wanted)))
    for _ in range(_MOST):
        waiting = [name for name in calls if not _settled(windows[name])]
        for name in waiting:
            windows[name].append(_sample(calls[name], sizes[name], clock))
            report(name)
    return {name: _timing(each) for name, each in windows.items()}


def _sample(call: Callable[[int], object], count: int, clock: Callable[[], float]) -> list[float]:
    samples = [0.0] * count
    # As timeit does: the benchmark's own garbage must not be collected on a model's time.
    collecting = gc.isenabled()
    gc.disable()
    try:
        for number in range(count):
            start = clock()
            call(number)
            samples[number] = clock() - start
    finally:
        if collecting:
            gc.enable()
    return samples


def _settled(windows: list[list[float]]) -> bool:
    if len(windows) < _AGREEING:
        return False
    medians = [float(np.median(samples)) for samples in windows[-_AGREEING:]]
    return max(medians) <= _TOLERANCE * min(medians)


def _timing(windows: list[list[float]]) -> Timing:
    stable = _settled(windows)
    counted = windows[-_AGREEING:] if stable else windows
    return Timing(
        tuple(sample for samples in counted for sample in samples),
        tuple(float(np.median(samples)) for samples in windows),
        stable,
    )
