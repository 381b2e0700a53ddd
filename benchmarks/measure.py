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
import math
import time
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "AGREEING", "FLOORS", "QUANTILES", "WINDOW", "Timing", "Window", "figures", "in_turn", "missing", "window_for",
]  # fmt: skip

# Samples that each percentile needs, from LoadGen's early-stopping table at 99 % confidence.
FLOORS = {"50": 11, "90": 64, "95": 130, "99": 662, "99.9": 6_636}
# Windows in a row that must agree.
AGREEING = 3
# What is told of a distribution: a hundredth apart, and the upper end in finer steps.
QUANTILES = (0.0, *(round(step / 100, 2) for step in range(1, 100)), 0.995, 0.998, 0.999, 1.0)
_REPORTED = ("50", "90", "99", "99.9")
_MOST, _TOLERANCE = 10, 1.10
_WARM_UP = 20
# A window of the fastest models would otherwise last two milliseconds.
_WINDOW_SECONDS = 0.25
# More tell nothing new, and each is kept.
_MOST_IN_A_WINDOW = 20_000


def window_for(which: str) -> int:
    """Return how many samples a window has at least, for those that count to make enough for a percentile."""
    return FLOORS[which] // AGREEING + 1


WINDOW = window_for("99")


@dataclass(frozen=True)
class Window:
    """One window: `samples` in nanoseconds, processor seconds spent `here` and in a `server` meanwhile."""

    samples: tuple[int, ...]
    here: float = 0.0
    server: float = 0.0

    @property
    def median(self) -> float:
        """The median in seconds."""
        return float(np.median(self.samples)) / 1e9


@dataclass(frozen=True)
class Timing:
    """One steady-state timing: `windows` in order, of which the `counted` last ones are pooled."""

    windows: tuple[Window, ...]
    counted: int
    stable: bool

    @property
    def samples(self) -> NDArray[np.float64]:
        """The pooled samples in seconds."""
        return np.concatenate([each.samples for each in self.windows[-self.counted :]]) / 1e9

    def percentile(self, which: str) -> float | None:
        """Return a percentile in seconds, or None below the sample size that it needs."""
        return figures(self.samples)[which]

    def cpu(self, *, server: bool = False) -> float:
        """Return the processor seconds of a sample, in this process or in the server."""
        windows = self.windows[-self.counted :]
        spent = sum(each.server if server else each.here for each in windows)
        return spent / sum(len(each.samples) for each in windows)

    def describe(self) -> dict[str, Any]:
        """Return the timing as a result file records it, in microseconds."""
        samples = self.samples
        return {
            **{f"p{which}_us": _us(value) for which, value in figures(samples).items()},
            "missing": {f"p{which}": reason for which, reason in missing(len(samples)).items()},
            "samples": len(samples),
            "stable": self.stable,
            "windows_p50_us": [_us(each.median) for each in self.windows],
            "quantiles_us": [_us(value) for value in np.quantile(samples, QUANTILES)],
        }


def figures(samples: Sequence[float] | NDArray[np.float64]) -> dict[str, float | None]:
    """Return the percentiles 50, 90, 99 and 99.9 of samples, each None below its floor."""
    return {
        which: float(np.percentile(samples, float(which))) if len(samples) >= FLOORS[which] else None
        for which in _REPORTED
    }


def missing(count: int) -> dict[str, str]:
    """Return why percentiles of so many samples aren't told, by percentile."""
    return {
        which: f"needs {FLOORS[which]:,} samples for 99 % confidence"
        for which in _REPORTED
        if count < FLOORS[which]
    }


def in_turn(
    calls: Mapping[str, Callable[[int], object]],
    *,
    window: int | Mapping[str, int] = WINDOW,
    window_seconds: float = _WINDOW_SECONDS,
    most: int = _MOST_IN_A_WINDOW,
    longest: float = math.inf,
    clock: Callable[[], int] = time.perf_counter_ns,
    spent: Callable[[str], tuple[float, float]] = lambda _: (time.process_time(), 0.0),
    kept: MutableMapping[str, Any] | None = None,
    report: Callable[[str], None] = lambda _: None,
) -> dict[str, Timing]:
    """Time each call, all of them in turn; `report` is told the name of each window that is done.

    A call is given the sample's number, 0, 1, 2 … from the window's start, so that all of them see the same images in
    the same order. The first calls of each are warm-up and not timed. A window has at least `window` samples (one
    number for all, or by the name) and lasts about `window_seconds` or longer, but has no more than `most`; where that
    many samples take more than `longest` seconds it has fewer, as many as the 90th percentile needs or more. `spent`
    returns the processor seconds that a call's process and its server have had so far. What was measured is put into
    `kept`, window by window, and what is there already isn't measured again.
    """
    kept = {} if kept is None else kept
    windows: dict[str, list[Window]] = {name: [] for name in calls}
    sizes: dict[str, int] = {}
    for number in range(_MOST):
        waiting = [name for name in calls if not _settled(windows[name])]
        for name in waiting:
            key = f"{name} {number}"
            if key not in kept:
                if name not in sizes:
                    least = window if isinstance(window, int) else window[name]
                    sizes[name] = _size(calls[name], least, most, window_seconds, longest, clock)
                kept[key] = _window(calls[name], sizes[name], clock, lambda name=name: spent(name))  # type: ignore[misc]
            samples, here, server = kept[key]
            windows[name].append(Window(tuple(samples), here, server))
            report(name)
    return {name: _timing(each) for name, each in windows.items()}


def _size(
    call: Callable[[int], object],
    window: int,
    most: int,
    seconds: float,
    longest: float,
    clock: Callable[[], int],
) -> int:
    """Warm up, and return how many samples a window has."""
    warm_up = _sample(call, min(_WARM_UP, window), clock)
    each = max(float(np.median(warm_up)), 1) / 1e9
    needed = min(window, max(window_for("90"), math.ceil(min(longest / each, window))))
    return max(needed, min(most, math.ceil(seconds / each)))


def _window(
    call: Callable[[int], object],
    size: int,
    clock: Callable[[], int],
    spent: Callable[[], tuple[float, float]],
) -> tuple[list[int], float, float]:
    here, server = spent()
    samples = _sample(call, size, clock)
    here_now, server_now = spent()
    return samples, here_now - here, server_now - server


def _sample(call: Callable[[int], object], count: int, clock: Callable[[], int]) -> list[int]:
    samples = [0] * count
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


def _settled(windows: list[Window]) -> bool:
    if len(windows) < AGREEING:
        return False
    medians = [each.median for each in windows[-AGREEING:]]
    return max(medians) <= _TOLERANCE * min(medians)


def _timing(windows: list[Window]) -> Timing:
    stable = _settled(windows)
    return Timing(tuple(windows), AGREEING if stable else len(windows), stable)


def _us(seconds: float | None) -> float | None:
    return None if seconds is None else round(float(seconds) * 1e6, 2)
