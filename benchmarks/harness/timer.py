"""Latency timing: calls measured in turn, in windows that must agree, with percentiles from pooled samples.

The rules and their sources (MLPerf Inference's LoadGen, LiteRT's benchmark_model, NVIDIA's perf_analyzer):

- Calls that are compared run in turn, on the same images in the same order, because machines drift. A turn is a tenth
  of a window: a core slows down from one second to the next when its other hardware thread becomes busy.
- A window has enough samples for its share of the 99th percentile. It lasts long enough to outlast short disturbances.
- A timing has settled when three consecutive windows agree within 10 %. At most ten windows are measured. A timing
  that never settles keeps all of them and is marked unstable.
- The reference is measured as long as any other call. Calls that are ranked are measured in all ten rounds.
- A slice waits, within a limit, until the processor is undisturbed (`cpu_noise`). Undisturbed samples are also
  recorded separately, and ratios use them.
- Percentiles come from the pooled samples of the windows that count. Each needs its sample size at 99 % confidence.
"""

import functools
import gc
import math
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfship.benchmarks.harness.cpu_noise import Processor

__all__ = [
    "AGREEING", "FLOORS", "MOST", "QUANTILES", "SLICES", "TOLERANCE", "WINDOW", "Call", "Schedule", "TimedElsewhere",
    "Timing", "Window", "in_turn", "missing", "percentiles", "settled", "window_for",
]  # fmt: skip

# Number of samples that each percentile needs, from LoadGen's early-stopping table at 99 % confidence.
FLOORS = {"50": 11, "90": 64, "95": 130, "99": 662, "99.9": 6_636}
# Number of consecutive windows that must agree.
AGREEING = 3
# Maximum number of windows.
MOST = 10
# Quantiles in a result file: steps of a hundredth, finer at the upper end.
QUANTILES = (0.0, *(round(step / 100, 2) for step in range(1, 100)), 0.995, 0.998, 0.999, 1.0)
_REPORTED = ("50", "90", "99", "99.9")
# Maximum quotient of the medians of windows that agree. A smaller difference between two calls isn't significant.
TOLERANCE = 1.10
# Number of slices in a window. Windows with few samples have fewer.
SLICES = 10
_LEAST_IN_A_SLICE = 4
_WARM_UP = 20
# Untimed start of a slice: the previous call has replaced the contents of caches and branch predictors, and a network's
# weights need a few inferences to return to the caches.
_LEAD_IN_SECONDS = 0.003
# Interval between checks for disturbances. A call that takes longer is checked after each sample.
_BLOCK_SECONDS = 0.005


def window_for(percentile: str) -> int:
    """Return the number of samples in a window that gives `AGREEING` windows enough for a `percentile`."""
    return FLOORS[percentile] // AGREEING + 1


WINDOW = window_for("99")


@dataclass(frozen=True)
class Schedule:
    """Sizes of windows, number of rounds, and the wait for an undisturbed processor.

    `window` is the minimum number of samples in a window, one number or a mapping by call. A window takes about
    `window_seconds` or longer, with at most `most` samples. If `window` samples take more than `longest` seconds (one
    number or a mapping), the window has fewer, at least what the 90th percentile needs.

    Calls are measured until they settle, in at most `rounds` rounds, and the `compared` ones in `MOST` rounds. The
    `reference` (None: the first call) is measured in every round, so that every window has one to be compared with.
    `patience` is the total wait in seconds for an undisturbed processor in `MOST` rounds.
    """

    window: int | Mapping[str, int] = WINDOW
    window_seconds: float = 0.0
    most: int = sys.maxsize
    longest: float | Mapping[str, float] = math.inf
    rounds: int = MOST
    compared: Collection[str] = ()
    reference: str | None = None
    patience: float = 0.0

    def patience_until(self, window: int, turn: int) -> float:
        """Return the maximum total wait in seconds, up to slice `turn` of a window."""
        return self.patience * (window * SLICES + turn + 1) / (MOST * SLICES)


@dataclass(frozen=True)
class TimedElsewhere:
    """A call that another program makes and times, such as a browser, since sending each call would take longer.

    `measure` takes the numbers of the samples and the number of untimed calls before them, and returns the times in
    nanoseconds.
    """

    measure: Callable[[range, int], list[int]]


# What is timed: a function of the sample's number, or a call that is timed elsewhere.
Call = Callable[[int], object] | TimedElsewhere


@dataclass(frozen=True)
class Window:
    """One window: `samples` in nanoseconds, and processor seconds in this process (`here`) and in the `server`.

    `undisturbed` has the samples taken while nothing else slowed the processor.
    """

    samples: tuple[int, ...]
    here: float = 0.0
    server: float = 0.0
    undisturbed: tuple[int, ...] = ()

    @property
    def median(self) -> float:
        """The median in seconds."""
        return float(np.median(self.samples)) / 1e9


@dataclass(frozen=True)
class _Slice:
    """A part of a window. `spins` has, for each `block` of samples, the slower spin before or after, in nanoseconds."""

    samples: tuple[int, ...]
    here: float
    server: float
    block: int
    spins: tuple[int, ...]

    def undisturbed(self, processor: Processor) -> Iterator[int]:
        """Yield the samples of undisturbed blocks, judged by the fastest spin so far."""
        for number, spin in enumerate(self.spins):
            if processor.undisturbed(spin):
                yield from self.samples[number * self.block : (number + 1) * self.block]


@dataclass(frozen=True)
class _Size:
    """The number of samples in a window, of untimed calls before a slice, and of samples in a block."""

    samples: int
    lead_in: int
    block: int

    def part(self, turn: int) -> range:
        """Return the numbers of the samples in slice `turn`; empty if the window has fewer slices."""
        slices = min(SLICES, max(1, self.samples // _LEAST_IN_A_SLICE))
        return range(*(number * slices // SLICES * self.samples // slices for number in (turn, turn + 1)))


@dataclass(frozen=True)
class Timing:
    """A steady-state timing: `windows` in order. The first `AGREEING` that agree count, or all if none do."""

    windows: tuple[Window, ...]

    @functools.cached_property
    def settled(self) -> int | None:
        """The number of the first window that counts, None if the timing never settled."""
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
        """Return a percentile in seconds, or None if there are too few samples for it."""
        return percentiles(self.samples)[which]

    def cpu(self, *, server: bool = False) -> float:
        """Return the processor seconds per sample, in this process or in the server."""
        spent = sum(each.server if server else each.here for each in self.counted)
        return spent / len(self.samples)

    def describe(self) -> dict[str, Any]:
        """Return the timing for a result file, in microseconds."""
        samples, undisturbed = self.samples, [each.undisturbed for each in self.windows]
        return {
            **{f"p{which}_us": _us(value) for which, value in percentiles(samples).items()},
            "missing": {f"p{which}": reason for which, reason in missing(len(samples)).items()},
            "samples": len(samples),
            "stable": self.settled is not None,
            "windows_p50_us": [_us(each.median) for each in self.windows],
            "undisturbed_p50_us": _median_us([sample for each in undisturbed for sample in each]),
            "windows_undisturbed_p50_us": [_median_us(each) for each in undisturbed],
            "quantiles_us": [_us(value) for value in np.quantile(samples, QUANTILES)],
        }


def percentiles(samples: Sequence[float] | NDArray[np.float64]) -> dict[str, float | None]:
    """Return the percentiles 50, 90, 99 and 99.9 of samples, each None if there are too few samples for it."""
    return {
        which: float(np.percentile(samples, float(which))) if len(samples) >= FLOORS[which] else None
        for which in _REPORTED
    }


def missing(count: int) -> dict[str, str]:
    """Return the percentiles that `count` samples are too few for, with the reason."""
    return {
        which: f"needs {FLOORS[which]:,} samples for 99 % confidence"
        for which in _REPORTED
        if count < FLOORS[which]
    }


def in_turn(
    calls: Mapping[str, Call],
    schedule: Schedule,
    *,
    processor: Processor | None = None,
    cpu_seconds: Callable[[str], tuple[float, float]] = lambda _: (time.process_time(), 0.0),
    kept: MutableMapping[str, Any] | None = None,
    report: Callable[[str], None] = lambda _: None,
) -> dict[str, Timing]:
    """Time each of `calls`, all of them in turn, and return the timings by name.

    A call receives the sample's number, counted from 0 in each window, so that all calls use the same images in the
    same order. Warm-up calls and the first calls of each slice aren't timed. `cpu_seconds` returns the processor
    seconds used so far by a call's process and by its server. `report` receives a call's name after each of its slices.

    Each slice of all calls is stored in `kept`, and slices found there aren't measured again.
    """
    kept = {} if kept is None else kept
    processor = Processor() if processor is None else processor
    clock = processor.clock
    reference = next(iter(calls)) if schedule.reference is None else schedule.reference
    windows: dict[str, list[list[_Slice]]] = {name: [] for name in calls}
    medians: dict[str, list[float]] = {name: [] for name in calls}

    @functools.cache
    def size(name: str) -> _Size:
        return _size(calls[name], name, schedule, clock)

    for number in range(MOST):
        waiting = {
            name
            for name in calls
            if name in schedule.compared or (number < schedule.rounds and settled(medians[name]) is None)
        }
        if not waiting:
            break
        measured = [name for name in calls if name in waiting or name == reference]
        slices: dict[str, list[_Slice]] = {name: [] for name in measured}
        for turn in range(SLICES):
            key = f"window {number}, slice {turn}"
            if key not in kept:
                patience = schedule.patience_until(number, turn)
                kept[key] = {
                    name: _slice(
                        calls[name],
                        part,
                        size(name),
                        processor,
                        patience,
                        functools.partial(cpu_seconds, name),
                    )
                    for name in measured
                    if (part := size(name).part(turn))
                }
            for name, (samples, here, server, block, spins) in kept[key].items():
                slices[name].append(_Slice(tuple(samples), here, server, block, tuple(spins)))
                for each in spins:
                    processor.record(each)
            for name in measured:
                report(name)
        for name in measured:
            windows[name].append(slices[name])
            medians[name].append(_joined(slices[name], processor).median)
    return {name: Timing(tuple(_joined(each, processor) for each in mine)) for name, mine in windows.items()}


def settled(medians: Sequence[float]) -> int | None:
    """Return the number of the first of `AGREEING` consecutive medians that agree, None if there are none."""
    for first in range(len(medians) - AGREEING + 1):
        some = medians[first : first + AGREEING]
        if max(some) <= TOLERANCE * min(some):
            return first
    return None


def _size(call: Call, name: str, schedule: Schedule, clock: Callable[[], int]) -> _Size:
    """Warm up, and return the size of a window."""
    window = schedule.window if isinstance(schedule.window, int) else schedule.window[name]
    longest = schedule.longest[name] if isinstance(schedule.longest, Mapping) else schedule.longest
    warm_up = _sample(call, range(min(_WARM_UP, window)), clock)
    each = max(float(np.median(warm_up)), 1) / 1e9
    needed = min(window, max(window_for("90"), math.ceil(min(longest / each, window))))
    return _Size(
        max(needed, min(schedule.most, math.ceil(schedule.window_seconds / each))),
        lead_in=math.ceil(_LEAD_IN_SECONDS / each),
        block=math.ceil(_BLOCK_SECONDS / each),
    )


def _slice(
    call: Call,
    part: range,
    size: _Size,
    processor: Processor,
    patience: float,
    cpu_seconds: Callable[[], tuple[float, float]],
) -> tuple[list[int], float, float, int, list[int]]:
    """Measure a slice, after a wait for an undisturbed processor; all waits take at most `patience` seconds."""
    samples: list[int] = []
    here = server = 0.0
    spins = [processor.wait(patience - processor.waited)]
    if not isinstance(call, TimedElsewhere):
        for _ in range(size.lead_in):
            call(part.start)
    for start in part[:: size.block]:
        here_before, server_before = cpu_seconds()
        block = range(start, min(start + size.block, part.stop))
        samples += _sample(call, block, processor.clock, size.lead_in)
        here_now, server_now = cpu_seconds()
        here, server = here + here_now - here_before, server + server_now - server_before
        spins.append(processor.spin())
    return samples, here, server, size.block, list(map(max, spins, spins[1:]))


def _joined(slices: Sequence[_Slice], processor: Processor) -> Window:
    """Return slices as one window, with the samples that count as undisturbed so far."""
    return Window(
        tuple(sample for each in slices for sample in each.samples),
        sum(each.here for each in slices),
        sum(each.server for each in slices),
        tuple(sample for each in slices for sample in each.undisturbed(processor)),
    )


def _sample(call: Call, numbers: range, clock: Callable[[], int], lead_in: int = 0) -> list[int]:
    """Return the times of calls in nanoseconds; `lead_in` calls before them if they are timed elsewhere."""
    if isinstance(call, TimedElsewhere):
        return call.measure(numbers, lead_in)
    samples = [0] * len(numbers)
    # Like timeit: garbage collection of the benchmark's own objects must not count as the model's time.
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


def _median_us(samples: Sequence[int]) -> float | None:
    return _us(float(np.median(samples)) / 1e9) if samples else None


def _us(seconds: float | None) -> float | None:
    return None if seconds is None else round(float(seconds) * 1e6, 2)
