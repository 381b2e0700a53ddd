"""How time is measured: warm-up apart, windows in turn, pooled samples, percentiles only where they mean something.

The rules and their sources (MLPerf Inference's LoadGen, LiteRT's benchmark_model, NVIDIA's perf_analyzer):

- what is compared is measured in turn, on the same images in the same order, because machines drift: not a window
  each but a tenth of one, as a processor whose other thread begins to work is slower from one second to the next;
- a window has enough samples for its share of the 99th percentile, and lasts long enough that a passing
  disturbance doesn't fill it;
- a timing counts when three windows in a row agree within 10 %; at most ten are tried, and what never
  settles is kept and marked unstable; the reference is measured as long as any is;
- what is compared for its own sake is measured in all ten, and every slice, with some patience, when the processor
  runs undisturbed (`quiet`); which of them were is kept, for ratios to be theirs;
- percentiles come from the pooled samples of the windows that count, and only above the sample size that the
  percentile needs at 99 % confidence.
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
    "AGREEING", "FLOORS", "MOST", "QUANTILES", "SLICES", "TOLERANCE", "WINDOW", "Timing", "Window", "figures",
    "in_turn", "missing", "settled", "window_for",
]  # fmt: skip

# Samples that each percentile needs, from LoadGen's early-stopping table at 99 % confidence.
FLOORS = {"50": 11, "90": 64, "95": 130, "99": 662, "99.9": 6_636}
# Windows in a row that must agree.
AGREEING = 3
# Windows that are tried at most.
MOST = 10
# What is told of a distribution: a hundredth apart, and the upper end in finer steps.
QUANTILES = (0.0, *(round(step / 100, 2) for step in range(1, 100)), 0.995, 0.998, 0.999, 1.0)
_REPORTED = ("50", "90", "99", "99.9")
# By how many times their medians may differ then: what is no further apart than this isn't known to be apart.
TOLERANCE = 1.10
# In how many parts a window is measured, all rows' in turn, unless it has too few samples.
SLICES = 10
_LEAST_IN_A_SLICE = 4
_WARM_UP = 20
# For so long the calls of a slice aren't timed at first: what ran in between has taken their place in the processor's
# caches and in the memory of its branches, and a network's weights need a few inferences to come back.
_LEAD_IN_SECONDS = 0.003
# After so long, or one call that takes longer, it is asked whether the processor is still undisturbed.
_BLOCK_SECONDS = 0.005


def window_for(which: str) -> int:
    """Return how many samples a window has at least, for those that count to make enough for a percentile."""
    return FLOORS[which] // AGREEING + 1


WINDOW = window_for("99")


@dataclass(frozen=True)
class Window:
    """One window: `samples` in nanoseconds, processor seconds `here` and in a `server` meanwhile.

    `undisturbed` are those of the samples that were taken while nothing else slowed the processor.
    """

    samples: tuple[int, ...]
    here: float = 0.0
    server: float = 0.0
    undisturbed: tuple[int, ...] = ()

    @property
    def median(self) -> float:
        """The median in seconds."""
        return float(np.median(self.samples)) / 1e9

    @property
    def undisturbed_median(self) -> float | None:
        """The undisturbed samples' median in seconds, None where there are none."""
        return float(np.median(self.undisturbed)) / 1e9 if self.undisturbed else None


@dataclass(frozen=True)
class _Slice:
    """A part of a window; `spins` are, for each `block` of samples, the slower one before and after, in nanoseconds."""

    samples: tuple[int, ...]
    here: float
    server: float
    block: int
    spins: tuple[int, ...]

    def undisturbed(self, processor: Processor) -> Iterator[int]:
        """Yield the samples of the blocks that were, as far as is known now."""
        for number, spin in enumerate(self.spins):
            if processor.undisturbed(spin):
                yield from self.samples[number * self.block : (number + 1) * self.block]


@dataclass(frozen=True)
class _Size:
    """How many samples a window has, how many calls of a slice aren't timed at first, and how many are a block."""

    samples: int
    lead_in: int
    block: int


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

    @property
    def undisturbed_median(self) -> float | None:
        """The median in seconds of what was undisturbed in all windows, None where nothing was."""
        samples = [sample for each in self.windows for sample in each.undisturbed]
        return float(np.median(samples)) / 1e9 if samples else None

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
            "undisturbed_p50_us": _us(self.undisturbed_median),
            "windows_undisturbed_p50_us": [_us(each.undisturbed_median) for each in self.windows],
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
    compared: Collection[str] = (),
    window: int | Mapping[str, int],
    window_seconds: float,
    most: int = sys.maxsize,
    longest: float | Mapping[str, float] = math.inf,
    rounds: int = MOST,
    clock: Callable[[], int] = time.perf_counter_ns,
    patience: float = 0.0,
    spin: Callable[[], int] | None = None,
    spent: Callable[[str], tuple[float, float]] = lambda _: (time.process_time(), 0.0),
    kept: MutableMapping[str, Any] | None = None,
    report: Callable[[str], None] = lambda _: None,
) -> dict[str, Timing]:
    """Time each call, all of them in turn; `report` is told each name `SLICES` times a window, as it goes on.

    A call is given the sample's number, 0, 1, 2 … from the window's start, so that all of them see the same images in
    the same order. The first calls of each are warm-up and not timed, and so are the first of each slice. A window has
    at least `window` samples (one number for all, or by the name) and lasts about `window_seconds` or longer, but has
    no more than `most`; where that many samples take more than `longest` seconds it has fewer, as many as the 90th
    percentile needs or more. In at most so many `rounds` it is waited for windows that agree. The `reference`, one of
    the names, is measured for as long as any is, so that each window of another has one beside it, and those `compared`
    in `MOST` rounds, come what may. Slices wait until nothing else disturbs the processor, `patience` seconds in all if
    there are `MOST` rounds; `spin` returns the nanoseconds of work that is always the same, `spent` the processor
    seconds that a call's process and its server have had so far. What was measured is put into `kept`, a slice of all
    windows at a time, and what is there already isn't measured again.
    """
    kept = {} if kept is None else kept
    reference = next(iter(calls)) if reference is None else reference
    processor = Processor(clock, spin)
    found: dict[str, list[list[_Slice]]] = {name: [] for name in calls}
    medians: dict[str, list[float]] = {name: [] for name in calls}
    sizes: dict[str, _Size] = {}

    def size(name: str) -> _Size:
        if name not in sizes:
            least = window if isinstance(window, int) else window[name]
            limit = longest[name] if isinstance(longest, Mapping) else longest
            sizes[name] = _size(calls[name], least, most, window_seconds, limit, clock)
        return sizes[name]

    for number in range(MOST):
        waiting = {
            name for name in calls if name in compared or (number < rounds and settled(medians[name]) is None)
        }
        if not waiting:
            break
        measured = [name for name in calls if name in waiting or name == reference]
        slices: dict[str, list[_Slice]] = {name: [] for name in measured}
        for turn in range(SLICES):
            key = f"window {number}, slice {turn}"
            if key not in kept:
                allowed = patience * (number * SLICES + turn + 1) / (MOST * SLICES)
                kept[key] = {
                    name: _slice(
                        calls[name],
                        part,
                        size(name),
                        clock,
                        processor,
                        allowed,
                        functools.partial(spent, name),
                    )
                    for name in measured
                    if (part := _part(size(name), turn))
                }
            for name, (samples, here, server, block, spins) in kept[key].items():
                slices[name].append(_Slice(tuple(samples), here, server, block, tuple(spins)))
                for each in spins:
                    processor.saw(each)
            for name in measured:
                report(name)
        for name in measured:
            found[name].append(slices[name])
            medians[name].append(_joined(slices[name], processor).median)
    return {name: Timing(tuple(_joined(each, processor) for each in mine)) for name, mine in found.items()}


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
) -> _Size:
    """Warm up, and return how long a window is."""
    warm_up = _sample(call, range(min(_WARM_UP, window)), clock)
    each = max(float(np.median(warm_up)), 1) / 1e9
    needed = min(window, max(window_for("90"), math.ceil(min(longest / each, window))))
    return _Size(
        max(needed, min(most, math.ceil(seconds / each))),
        lead_in=math.ceil(_LEAD_IN_SECONDS / each),
        block=math.ceil(_BLOCK_SECONDS / each),
    )


def _part(size: _Size, turn: int) -> range:
    """Return which samples of a window are measured when it's its turn the `turn`-th time, perhaps none."""
    slices = min(SLICES, max(1, size.samples // _LEAST_IN_A_SLICE))
    return range(*(number * slices // SLICES * size.samples // slices for number in (turn, turn + 1)))


def _slice(
    call: Callable[[int], object],
    part: range,
    size: _Size,
    clock: Callable[[], int],
    processor: Processor,
    patience: float,
    spent: Callable[[], tuple[float, float]],
) -> tuple[list[int], float, float, int, list[int]]:
    """Measure a slice, once it needn't wait or `patience` seconds have been waited in all."""
    samples: list[int] = []
    here = server = 0.0
    spins = [processor.wait(patience - processor.waited)]
    for _ in range(size.lead_in):
        call(part.start)
    for start in part[:: size.block]:
        here_before, server_before = spent()
        samples += _sample(call, range(start, min(start + size.block, part.stop)), clock)
        here_now, server_now = spent()
        here, server = here + here_now - here_before, server + server_now - server_before
        spins.append(processor.spin())
    return samples, here, server, size.block, list(map(max, spins, spins[1:]))


def _joined(slices: Sequence[_Slice], processor: Processor) -> Window:
    """Return slices as one window, with what was undisturbed as far as is known now."""
    return Window(
        tuple(sample for each in slices for sample in each.samples),
        sum(each.here for each in slices),
        sum(each.server for each in slices),
        tuple(sample for each in slices for sample in each.undisturbed(processor)),
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
