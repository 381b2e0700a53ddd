"""How time is measured: warm-up apart, windows in turn, pooled samples, percentiles only where they mean something.

The rules and their sources (MLPerf Inference's LoadGen, LiteRT's benchmark_model, NVIDIA's perf_analyzer):

- what is compared is measured in turn, on the same images in the same order, because machines drift: not a window
  each but a twentieth of one, as a processor whose other thread begins to work is slower from one second to the next;
- a window has enough samples for its share of the 99th percentile, and lasts long enough that a passing
  disturbance doesn't fill it;
- a timing counts when three windows in a row agree within 10 %; at most ten are tried, and what never
  settles is kept and marked unstable; the reference is measured as long as any is;
- percentiles come from the pooled samples of the windows that count, and only above the sample size that the
  percentile needs at 99 % confidence.
"""

import functools
import gc
import math
import sys
import time
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "AGREEING", "FLOORS", "QUANTILES", "SLICES", "TOLERANCE", "WINDOW", "Timing", "Window", "figures", "in_turn",
    "missing", "settled", "window_for",
]  # fmt: skip

# Samples that each percentile needs, from LoadGen's early-stopping table at 99 % confidence.
FLOORS = {"50": 11, "90": 64, "95": 130, "99": 662, "99.9": 6_636}
# Windows in a row that must agree.
AGREEING = 3
# What is told of a distribution: a hundredth apart, and the upper end in finer steps.
QUANTILES = (0.0, *(round(step / 100, 2) for step in range(1, 100)), 0.995, 0.998, 0.999, 1.0)
_REPORTED = ("50", "90", "99", "99.9")
_MOST = 10
# By how many times their medians may differ then: what is no further apart than this isn't known to be apart.
TOLERANCE = 1.10
# In how many parts a window is measured, all rows' in turn, unless it has too few samples.
SLICES = 20
_LEAST_IN_A_SLICE = 4
_WARM_UP = 20


def window_for(which: str) -> int:
    """Return how many samples a window has at least, for those that count to make enough for a percentile."""
    return FLOORS[which] // AGREEING + 1


WINDOW = window_for("99")


@dataclass(frozen=True)
class Window:
    """One window, or a slice of it: `samples` in nanoseconds, processor seconds `here` and in a `server` meanwhile."""

    samples: tuple[int, ...]
    here: float = 0.0
    server: float = 0.0

    @property
    def median(self) -> float:
        """The median in seconds."""
        return float(np.median(self.samples)) / 1e9


@dataclass(frozen=True)
class Timing:
    """One steady-state timing: `windows` in order. The earliest ones in a row that agree count, or else all."""

    windows: tuple[Window, ...]

    @functools.cached_property
    def settled(self) -> int | None:
        """The number of the first window that counts, None if it never settled."""
        return settled([each.median for each in self.windows])

    @property
    def counted(self) -> tuple[Window, ...]:
        """The windows that count."""
        return self.windows if self.settled is None else self.windows[self.settled : self.settled + AGREEING]

    @functools.cached_property
    def samples(self) -> NDArray[np.float64]:
        """The pooled samples in seconds."""
        return np.concatenate([each.samples for each in self.counted]) / 1e9

    def percentile(self, which: str) -> float | None:
        """Return a percentile in seconds, or None below the sample size that it needs."""
        return figures(self.samples)[which]

    def cpu(self, *, server: bool = False) -> float:
        """Return the processor seconds of a sample, in this process or in the server."""
        spent = sum(each.server if server else each.here for each in self.counted)
        return spent / len(self.samples)

    def describe(self) -> dict[str, Any]:
        """Return the timing as a result file records it, in microseconds."""
        samples = self.samples
        return {
            **{f"p{which}_us": _us(value) for which, value in figures(samples).items()},
            "missing": {f"p{which}": reason for which, reason in missing(len(samples)).items()},
            "samples": len(samples),
            "stable": self.settled is not None,
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
    reference: str | None = None,
    window: int | Mapping[str, int],
    window_seconds: float,
    most: int = sys.maxsize,
    longest: float = math.inf,
    clock: Callable[[], int] = time.perf_counter_ns,
    spent: Callable[[str], tuple[float, float]] = lambda _: (time.process_time(), 0.0),
    kept: MutableMapping[str, Any] | None = None,
    report: Callable[[str], None] = lambda _: None,
) -> dict[str, Timing]:
    """Time each call, all of them in turn; `report` is told each name `SLICES` times a window, as it goes on.

    A call is given the sample's number, 0, 1, 2 … from the window's start, so that all of them see the same images in
    the same order. The first calls of each are warm-up and not timed, and so is the first of each slice. A window has
    at least `window` samples (one number for all, or by the name) and lasts about `window_seconds` or longer, but has
    no more than `most`; where that many samples take more than `longest` seconds it has fewer, as many as the 90th
    percentile needs or more. The `reference`, one of the names, is measured for as long as any is, so that each window
    of another has one beside it. `spent` returns the processor seconds that a call's process and its server have had
    so far. What was measured is put into `kept`, a slice of all windows at a time, and what is there already isn't
    measured again.
    """
    kept = {} if kept is None else kept
    reference = next(iter(calls)) if reference is None else reference
    windows: dict[str, list[Window]] = {name: [] for name in calls}
    sizes: dict[str, int] = {}

    def size(name: str) -> int:
        if name not in sizes:
            least = window if isinstance(window, int) else window[name]
            sizes[name] = _size(calls[name], least, most, window_seconds, longest, clock)
        return sizes[name]

    for number in range(_MOST):
        waiting = {name for name in calls if settled([each.median for each in windows[name]]) is None}
        if not waiting:
            break
        measured = [name for name in calls if name in waiting or name == reference]
        slices: dict[str, list[Window]] = {name: [] for name in measured}
        for turn in range(SLICES):
            key = f"window {number}, slice {turn}"
            if key not in kept:
                kept[key] = {
                    name: _slice(calls[name], part, clock, functools.partial(spent, name))
                    for name in measured
                    if (part := _part(size(name), turn))
                }
            for name, (samples, here, server) in kept[key].items():
                slices[name].append(Window(tuple(samples), here, server))
            for name in measured:
                report(name)
        for name in measured:
            windows[name].append(_joined(slices[name]))
    return {name: Timing(tuple(each)) for name, each in windows.items()}


def settled(medians: Sequence[float]) -> int | None:
    """Return the first of the earliest `AGREEING` windows in a row whose medians agree, None where there are none."""
    for first in range(len(medians) - AGREEING + 1):
        some = medians[first : first + AGREEING]
        if max(some) <= TOLERANCE * min(some):
            return first
    return None


def _size(
    call: Callable[[int], object],
    window: int,
    most: int,
    seconds: float,
    longest: float,
    clock: Callable[[], int],
) -> int:
    """Warm up, and return how many samples a window has."""
    warm_up = _sample(call, range(min(_WARM_UP, window)), clock)
    each = max(float(np.median(warm_up)), 1) / 1e9
    needed = min(window, max(window_for("90"), math.ceil(min(longest / each, window))))
    return max(needed, min(most, math.ceil(seconds / each)))


def _part(size: int, turn: int) -> range:
    """Return which samples of a window are measured when it's its turn the `turn`-th time, perhaps none."""
    slices = min(SLICES, max(1, size // _LEAST_IN_A_SLICE))
    return range(*(number * slices // SLICES * size // slices for number in (turn, turn + 1)))


def _slice(
    call: Callable[[int], object],
    part: range,
    clock: Callable[[], int],
    spent: Callable[[], tuple[float, float]],
) -> tuple[list[int], float, float]:
    call(part.start)  # what others ran in between has taken its place in the processor's caches
    here, server = spent()
    samples = _sample(call, part, clock)
    here_now, server_now = spent()
    return samples, here_now - here, server_now - server


def _joined(slices: Sequence[Window]) -> Window:
    return Window(
        tuple(sample for each in slices for sample in each.samples),
        sum(each.here for each in slices),
        sum(each.server for each in slices),
    )


def _sample(call: Callable[[int], object], numbers: range, clock: Callable[[], int]) -> list[int]:
    samples = [0] * len(numbers)
    # As timeit does: the benchmark's own garbage must not be collected on a model's time.
    collecting = gc.isenabled()
    gc.disable()
    try:
        for place, number in enumerate(numbers):
            start = clock()
            call(number)
            samples[place] = clock() - start
    finally:
        if collecting:
            gc.enable()
    return samples


def _us(seconds: float | None) -> float | None:
    return None if seconds is None else round(float(seconds) * 1e6, 2)
