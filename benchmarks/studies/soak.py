"""Start and memory of a TFLite-only server with both models: whether it is there soon, and stays small.

The soak asks in rounds. A round asks everything once (`benchmarks.studies.soak_requests`), for a few seconds each:
both models in float32 and in int8, one image and 64, over REST and gRPC at the same time, from generators that count
every answer; then what clients do wrong. Before each of these runs its request must be answered with what the file
answers in this process.

Each process of the server is looked at every second. Rounds are alike, so they are what is compared: memory in one
of them goes up and down with what is asked just then. The slope is that of the rounds' medians of resident memory
over the requests answered, without the first rounds (the warm-up), by Theil and Sen, whom an odd round doesn't
mislead, with their 95 % confidence interval. Growth is "none" where that interval holds 0, "measured" where it lies
above, and "unknown" where there are too few rounds or the interval is too wide to tell.
"""

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tfship.benchmarks.harness import load_generators
from tfship.benchmarks.harness.process_info import Footprint, Look, Watch
from tfship.benchmarks.harness.server_process import PROTOCOLS, Server, embedded
from tfship.benchmarks.studies import cases, server_startup, soak_requests
from tfship.benchmarks.studies.cases import Case
from tfship.benchmarks.studies.registry import Save
from tfship.benchmarks.studies.soak_requests import Mixture
from tfship.export.publishing import store
from tfship.train.common import cli, interruption
from tfship.train.common.files import sha256
from tfship.train.common.progress import Progress
from tfship.train.data import datasets
from tfship.train.data.datasets import Digits
from tfship.train.recipe import NETWORKS

__all__ = ["BARS", "DESCRIPTION", "SoakBars", "SoakPlan", "add_arguments", "measure", "run"]

DESCRIPTION = (
    "Measure how soon a TFLite-only server with both models answers, and its memory over many requests, right ones of "
    "every kind and wrong ones. Needs wrk and h2load (Debian: wrk nghttp2-client), and Linux. Flags after -- are the "
    "server's: -- --workers=1"
)

# Until connections that are closed are gone from the server, too.
_REST_SECONDS = 3.0
# In the first round everything is asked for the first time, in the second by other connections.
_WARM_UP_ROUNDS = 2
# What a slope needs at least, and how wide an interval around 0 says nothing any more, MiB in a million requests.
_LEAST_ROUNDS = 5
_WIDEST = 10.0
_MIB = 2**20
_NAMES = {"rest": "REST", "grpc": "gRPC"}


@dataclass(frozen=True)
class SoakBars:
    """What is asked of the server: seconds until the first answer, MiB of resident memory of a worker."""

    start_seconds: float = 0.8
    worker_mib: float = 150.0


BARS = SoakBars()


@dataclass(frozen=True, kw_only=True)
class SoakPlan:
    """How much is done: whole rounds until there are so many requests, or so many seconds are over.

    `starts` are those of each protocol, `seconds_each` what each thing is asked for in a round, by `connections` of
    each protocol at a time. `flags` are given to the server besides those that it needs.
    """

    requests: int | None = None
    seconds: float | None = 180.0
    starts: int = 5
    seconds_each: int = 2
    connections: int = 4
    formats: Sequence[str] = ("float32", "int8")
    flags: Sequence[str] = ()

    def is_done(self, requests: int, seconds: float) -> bool:
        """Tell whether so much is enough."""
        return (self.requests is not None and requests >= self.requests) or (
            self.seconds is not None and seconds >= self.seconds
        )


@dataclass(frozen=True)
class _Round:
    """Requests answered, those of them that had to be errors, what went wrong, what was seen meanwhile."""

    requests: int
    refused: int
    seconds: float
    problems: list[str]
    looks: list[Look]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See `StudyMeasurement.add_arguments`."""
    parser.add_argument(
        "--requests", type=cli.count, metavar="N", help="whole rounds until N requests are answered"
    )
    parser.add_argument(
        "--seconds", type=cli.count, metavar="S", help="or until S are over; 180 if neither is given"
    )
    parser.add_argument(
        "--starts", type=cli.count, default=5, metavar="N", help="server starts for each protocol"
    )
    parser.add_argument(
        "--seconds-each", type=cli.count, default=2, metavar="S", help="duration of each run in a round"
    )
    parser.add_argument(
        "--connections",
        type=cli.count,
        default=4,
        metavar="N",
        help="concurrent connections of each protocol",
    )


def measure(arguments: argparse.Namespace, flags: Sequence[str], _save: Save) -> dict[str, Any]:
    """See `StudyMeasurement.measure`."""
    load_generators.require()
    plan = SoakPlan(
        requests=arguments.requests,
        seconds=arguments.seconds or (None if arguments.requests else SoakPlan.seconds),
        starts=arguments.starts,
        seconds_each=arguments.seconds_each,
        connections=arguments.connections,
        flags=flags,
    )
    return run(arguments.models, plan, datasets.load(datasets.find(arguments.data, say=cli.say)))


def run(models: Path, plan: SoakPlan, digits: Digits) -> dict[str, Any]:
    """Measure both models' latest versions in `models` and return the results.

    Raises TfshipError if a generator isn't installed or memory can't be measured, ArtifactError if a model or a file
    of it isn't there, TargetError if the server can't be started, dies or hangs, ResultError if it answers wrongly
    when nothing else is asked.
    """
    load_generators.require()
    found = {name: store.latest(models / name) for name in NETWORKS}
    files = {name: {each: cases.tflite(found[name], each) for each in plan.formats} for name in found}
    started = server_startup.measure(models, found, digits, plan.starts, plan.flags)
    with tempfile.TemporaryDirectory(prefix="tfship-") as folder:
        served = {f"{name}_{each}": (found[name], each) for name in found for each in plan.formats}
        cases.stage(Path(folder, "models"), served)
        with embedded(Path(folder, "models"), list(served), *server_startup.FLAGS, *plan.flags) as server:
            images = cases.images(digits, max(soak_requests.BATCHES))
            memory = _soak(server, soak_requests.prepare(server, served, images, Path(folder)), plan)
    return {
        "generators": load_generators.versions(),
        "data": digits.describe(),
        "server_flags": [*server_startup.FLAGS, *plan.flags],
        "models": {
            name: {
                "version": int(found[name].name),
                "sha256": {each: sha256(file) for each, file in by.items()},
            }
            for name, by in files.items()
        },
        "start": started,
        **memory,
        "verdicts": _verdicts(started, memory["processes"]),
    }


def _soak(server: Server, asked: Mixture, plan: SoakPlan) -> dict[str, Any]:
    """Ask until it is enough; return the requests, the rounds, and a row for each of the server's processes."""
    watch = Watch(server.process.pid)
    at_rest = {"start": watch.look()}
    rounds: list[_Round] = []
    begin = time.monotonic()
    by_requests = plan.requests is not None
    with Progress(
        "soak", plan.requests or round(plan.seconds or 0), "requests" if by_requests else "s"
    ) as progress:
        while not plan.is_done(sum(each.requests for each in rounds), time.monotonic() - begin):
            rounds.append(_round(asked, watch, plan))
            last = rounds[-1]
            most = max(each.resident for look in last.looks for each in look.values())
            progress.advance(
                last.requests if by_requests else round(last.seconds),
                note=f"round {len(rounds)}: {last.requests:,} requests, at most {most / _MIB:.0f} MiB",
            )
            if len(rounds) == _WARM_UP_ROUNDS:
                at_rest["warm"] = _look_at_rest(watch)
    at_rest["end"] = _look_at_rest(watch)
    return {
        "seconds_each": plan.seconds_each,
        "connections": plan.connections,
        "requests": sum(each.requests for each in rounds),
        "refused": sum(each.refused for each in rounds),
        "seconds": round(sum(each.seconds for each in rounds), 1),
        "rounds": [
            {"requests": each.requests, "refused": each.refused, "seconds": round(each.seconds, 1)}
            for each in rounds
        ],
        "processes": [
            _row(
                name,
                {when: look[name] for when, look in at_rest.items()},
                [(each.requests, [look[name] for look in each.looks]) for each in rounds],
            )
            for name in watch.names
        ],
        "problems": [problem for each in rounds for problem in each.problems],
    }


def _look_at_rest(watch: Watch) -> Look:
    with interruption.waiting():
        time.sleep(_REST_SECONDS)
    return watch.look()


def _round(asked: Mixture, watch: Watch, plan: SoakPlan) -> _Round:
    requests = refused = 0
    problems: list[str] = []
    begin = time.monotonic()

    def ask(case: Case, size: int) -> load_generators.Run:
        return case.load(plan.connections, plan.seconds_each, size)

    with watch.watching() as looks, ThreadPoolExecutor(len(PROTOCOLS)) as both:
        for pair in asked.pairs():
            interruption.check()
            sizes = [case.ask() for case in pair]
            for case, done in zip(pair, both.map(ask, pair, sizes), strict=True):
                requests += done.requests + 1
                problems += [f"{case.cell.name}: {done.problem}"] if done.problem else []
        for mistakes in asked.mistakes:
            for answers, problem in both.map(lambda mistake: mistake(), mistakes):
                refused += answers
                problems += [problem] if problem else []
    return _Round(requests + refused, refused, time.monotonic() - begin, problems, looks)


def _row(
    name: str, at_rest: Mapping[str, Footprint], rounds: Sequence[tuple[int, Sequence[Footprint]]]
) -> dict[str, Any]:
    """Return what is known of a process.

    `at_rest` are looks when nothing is asked: at the `start`, `warm` after the warm-up if there was so much, at the
    `end`. `rounds` are requests and looks.
    """
    looks = [each for _, seen in rounds for each in seen]
    medians = [statistics.median(each.resident for each in seen) / _MIB for _, seen in rounds]
    ends = list(itertools.accumulate(requests for requests, _ in rounds))
    middles = [end - requests / 2 for end, (requests, _) in zip(ends, rounds, strict=True)]
    # All threads and interpreters have met their largest requests only when many have come together in many ways.
    warm = max(_WARM_UP_ROUNDS, len(rounds) // 2)
    slope = _slope(middles[warm:], medians[warm:])
    return {
        "process": name,
        **{
            what: {
                **{when: value(look) for when, look in at_rest.items()},
                "most": max(map(value, looks)),
            }
            for what, value in _MEASURES.items()
        },
        "resident_by_round": [round(each, 2) for each in medians],
        "slope": slope,
        "growth": _growth(slope),
    }


_MEASURES: dict[str, Callable[[Footprint], float]] = {
    "resident_mib": lambda look: round(look.resident / _MIB, 1),
    "proportional_mib": lambda look: round(look.proportional / _MIB, 1),
    "files": lambda look: look.files,
    "threads": lambda look: look.threads,
}


def _slope(requests: Sequence[float], mib: Sequence[float]) -> dict[str, float] | None:
    """Return MiB in a million requests with its 95 % confidence interval; None if there are too few rounds."""
    from scipy.stats import theilslopes

    if len(requests) < _LEAST_ROUNDS:
        return None
    fit = theilslopes(mib, np.array(requests) / 1e6, 0.95)
    return {
        "mib_per_million": round(float(fit.slope), 3),
        "low": round(float(fit.low_slope), 3),
        "high": round(float(fit.high_slope), 3),
    }


def _growth(slope: dict[str, float] | None) -> str:
    if slope is None:
        return "unknown"
    if slope["low"] > 0:
        return "measured"
    return "none" if slope["high"] <= _WIDEST else "unknown"


def _verdicts(started: dict[str, Any], rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what was asked for, what was found and whether that will do, None where it can't be told."""
    workers = [row for row in rows if row["process"] != "parent"]
    most = max(row["resident_mib"]["most"] for row in workers)
    growth = {row["growth"] for row in rows}
    warm = all("warm" in row["files"] for row in rows)
    more_files = max(row["files"]["end"] - row["files"]["warm" if warm else "start"] for row in rows)
    return [
        *(
            {
                "asked": f"first answer over {_NAMES[protocol]} within {BARS.start_seconds} s",
                "found": f"{each['median']:.2f} s",
                "met": each["median"] <= BARS.start_seconds,
            }
            for protocol, each in started.items()
        ),
        {
            "asked": f"under {BARS.worker_mib:.0f} MiB per worker",
            "found": f"{most:.0f} MiB at most",
            "met": most < BARS.worker_mib,
        },
        {
            "asked": "memory doesn't grow",
            "found": ", ".join(f"{row['process']}: {row['growth']}" for row in rows),
            "met": False if "measured" in growth else None if "unknown" in growth else True,
        },
        {
            "asked": "no more open files at the end than after the warm-up",
            "found": f"{more_files:+d}",
            "met": more_files <= 0 if warm else None,
        },
    ]
