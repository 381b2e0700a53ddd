"""MLPerf Inference's scenarios (https://github.com/mlcommons/inference_policies), of subjects that many may ask.

SingleStream, the 90th percentile of one query after the other, and MultiStream, the 99th of queries of eight images,
are read off the timings. Server and Offline are run here: queries that arrive by a Poisson process, for which the
highest rate is sought whose 99th percentile keeps a bound; and all images at once.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfship.benchmarks.harness import load_loops, timer
from tfship.benchmarks.harness.callers import Callers
from tfship.benchmarks.harness.timer import FLOORS

__all__ = ["CALLERS", "OFFLINE_BATCH", "offline", "server", "sweep"]

# More than a server that keeps the bound ever has waiting here.
CALLERS = 32
OFFLINE_BATCH = 64
_SEED = 1
Classes = Sequence[NDArray[np.integer]]


def server(
    callers: Callers,
    classes: Classes,
    *,
    at_once: int,
    bound_ms: float,
    seconds: float,
    rates: int,
) -> dict[str, Any]:
    """Seek the highest rate of queries, each of one image, whose p99 stays within `bound_ms`.

    At most `at_once` are under way. The `rates` that are tried halve what is left between the highest that kept the
    bound and the lowest that didn't; a trial has the queries that the 99th percentile needs, and lasts `seconds` or
    longer, unless so many are late that it can't keep the bound.
    """
    rng = np.random.default_rng(_SEED)
    warm = load_loops.closed(callers.connect, min(at_once, 8), seconds / 2, len(callers))
    kept, missed = 0.0, warm.rate * 1.2
    trials: list[dict[str, Any]] = []
    best: dict[str, Any] | None = None
    for _ in range(rates):
        rate = (kept + missed) / 2 if kept else missed * 0.6
        trials.append(trial := _trial(callers, classes, rate, at_once, bound_ms, seconds, rng))
        # Once more where only the tail missed it: a passing disturbance of the machine isn't the server's.
        if not trial["kept"] and (trial["p50_ms"] or 0) <= bound_ms:
            trials.append(trial := _trial(callers, classes, rate, at_once, bound_ms, seconds, rng))
        if trial["kept"]:
            kept, best = rate, trial
        else:
            missed = rate
    return {
        "rate": best["rate"] if best else None,
        "p99_ms": best["p99_ms"] if best else None,
        "queries": best["queries"] if best else trials[-1]["queries"],
        "trials": trials,
    }


def _trial(
    callers: Callers,
    classes: Classes,
    rate: float,
    at_once: int,
    bound_ms: float,
    seconds: float,
    rng: np.random.Generator,
) -> dict[str, Any]:
    due = load_loops.poisson(rate, max(FLOORS["99"], round(rate * seconds)), rng)
    # With more late ones than this the 99th percentile can't keep the bound, however the rest is answered.
    most_late = math.ceil(0.01 * (len(due) - 1))
    load = load_loops.opened(
        callers.connect, at_once, due, len(callers), bound=bound_ms / 1e3, most_late=most_late
    )
    callers.check(load, classes)
    found = timer.figures(load.latencies)
    p99 = found["99"]
    return {
        "rate": round(rate, 1),
        **{f"p{which}_ms": _ms(found[which]) for which in ("50", "99", "99.9")},
        "queries": len(load.latencies),
        "kept": len(load.latencies) == len(due) and p99 is not None and p99 * 1e3 <= bound_ms,
    }


def offline(callers: Callers, classes: Classes, *, at_once: int, images: int) -> dict[str, Any]:
    """Ask all queries at once, each a batch, over and over until there were `images`; `at_once` are under way."""
    queries = -(-images // OFFLINE_BATCH)
    load = load_loops.opened(callers.connect, at_once, np.zeros(queries), len(callers))
    callers.check(load, classes)
    count = queries * OFFLINE_BATCH
    return {
        "rate": round(count / load.seconds, 1),
        "images": count,
        "seconds": round(load.seconds, 3),
        "batch": OFFLINE_BATCH,
    }


def sweep(
    callers: Callers,
    classes: Classes,
    connections: Sequence[int],
    seconds: float,
) -> list[dict[str, Any]]:
    """Return what gets through a closed loop of one image a query, by connections, and how long it takes."""
    steps = []
    for count in connections:
        load = load_loops.closed(callers.connect, count, seconds, len(callers))
        callers.check(load, classes)
        found = timer.figures(load.latencies)
        steps.append(
            {
                "connections": count,
                "rate": round(load.rate, 1),
                "p50_ms": _ms(found["50"]),
                "p99_ms": _ms(found["99"]),
            }
        )
    return steps


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1e3, 3)
