"""Start time and memory growth of a TFLite-only server with both models.

The soak runs in rounds. A round sends each kind of request once (`benchmarks.studies.soak_requests`), for a few seconds
each: both models in float32 and int8, one image and 64, over REST and gRPC at the same time, from generators that count
every response. Then it sends invalid requests. Before each run, the response to its request must equal that of the file
in this process.

The memory of each process is measured every second. Within a round it varies with the requests, so rounds are compared.
The slope is that of the rounds' median resident memory over the number of requests, without the warm-up rounds. The
Theil-Sen estimator, which is robust against outliers, gives it with a 95 % confidence interval. Growth is "measured" if
that interval is above 0. Otherwise it is "none", or "unknown" if there are too few rounds or the interval is too wide.
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
from tfship.benchmarks.harness.process_info import Footprint, Footprints, Watch
from tfship.benchmarks.harness.server_process import PROTOCOLS, Server, embedded
from tfship.benchmarks.studies import cases, server_startup, soak_requests
from tfship.benchmarks.studies.cases import Case
from tfship.benchmarks.studies.registry import Save
from tfship.benchmarks.studies.soak_requests import SoakRequests
from tfship.export.publishing import store
from tfship.train.common import cli, interruption
from tfship.train.common.files import sha256
from tfship.train.common.progress import Progress
from tfship.train.data import datasets
from tfship.train.data.datasets import Digits
from tfship.train.recipe import NETWORKS

__all__ = ["BARS", "DESCRIPTION", "SoakBars", "SoakPlan", "add_arguments", "measure", "run"]

DESCRIPTION = (
    "Measure the start time of a TFLite-only server with both models, and its memory over many valid and invalid "
    "requests. Needs wrk and h2load (Debian: wrk nghttp2-client), and Linux. Flags after -- are the server's: -- "
    "--workers=1"
)

# Time for the server to close its side of the connections.
_REST_SECONDS = 3.0
# In the first round every request is new; the second round repeats them over other connections.
_WARM_UP_ROUNDS = 2
# Minimum number of rounds for a slope, and the largest upper bound that counts as no growth, in MiB per million
# requests.
_LEAST_ROUNDS = 5
_WIDEST = 10.0
_MIB = 2**20


@dataclass(frozen=True)
class SoakBars:
    """Requirements: seconds until the first response, MiB of a worker's resident memory."""

    start_seconds: float = 0.55
    worker_mib: float = 130.0


BARS = SoakBars()


@dataclass(frozen=True, kw_only=True)
class SoakPlan:
    """The extent of a soak: whole rounds until there are `requests` responses, or `seconds` are over.

    `starts` is the number of server starts for each protocol. In a round each kind of request is sent for
    `seconds_each`, over `connections` of each protocol. `flags` are additional flags for the server.
    """

    requests: int | None = None
    seconds: float | None = 180.0
    starts: int = 5
    seconds_each: int = 2
    connections: int = 4
    formats: Sequence[str] = ("float32", "int8")
    flags: Sequence[str] = ()

    def is_done(self, requests: int, seconds: float) -> bool:
        """Return whether the soak is over after this number of requests and seconds."""
        return (self.requests is not None and requests >= self.requests) or (
            self.seconds is not None and seconds >= self.seconds
        )


@dataclass(frozen=True)
class _Round:
    """The number of responses, the number of `refused` requests among them, problems, and the measured footprints."""

    requests: int
    refused: int
    seconds: float
    problems: list[str]
    footprints: list[Footprints]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See `StudyMeasurement.add_arguments`."""
    parser.add_argument(
        "--requests", type=cli.count, metavar="N", help="run whole rounds until N requests are done"
    )
    parser.add_argument(
        "--seconds", type=cli.count, metavar="S", help="or until S seconds are over (180 if neither is given)"
    )
    parser.add_argument(
        "--starts", type=cli.count, default=5, metavar="N", help="server starts for each protocol"
    )
    parser.add_argument(
        "--seconds-each", type=cli.count, default=2, metavar="S", help="duration of each run in a round"
    )
    parser.add_argument(
        "--connections", type=cli.count, default=4, metavar="N", help="connections of each protocol"
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
    """Measure the latest versions of both models in `models` and return the results.

    Raises TfshipError if a generator isn't installed or memory can't be measured, ArtifactError if a model or a file is
    missing, TargetError if the server can't be started, dies or hangs, ResultError for a wrong response between the
    runs.
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


def _soak(server: Server, requests: SoakRequests, plan: SoakPlan) -> dict[str, Any]:
    """Run all rounds; return their figures, and a row for each of the server's processes."""
    watch = Watch(server.process.pid)
    at_rest = {"start": watch.footprints()}
    rounds: list[_Round] = []
    begin = time.monotonic()
    by_requests = plan.requests is not None
    with Progress(
        "soak", plan.requests or round(plan.seconds or 0), "requests" if by_requests else "s"
    ) as progress:
        while not plan.is_done(sum(each.requests for each in rounds), time.monotonic() - begin):
            rounds.append(_round(requests, watch, plan))
            last = rounds[-1]
            most = max(each.resident for by_name in last.footprints for each in by_name.values())
            progress.advance(
                last.requests if by_requests else round(last.seconds),
                note=f"round {len(rounds)}: {last.requests:,} requests, at most {most / _MIB:.0f} MiB",
            )
            if len(rounds) == _WARM_UP_ROUNDS:
                at_rest["warm"] = _at_rest(watch)
    at_rest["end"] = _at_rest(watch)
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
                {when: by_name[name] for when, by_name in at_rest.items()},
                [(each.requests, [by_name[name] for by_name in each.footprints]) for each in rounds],
            )
            for name in watch.names
        ],
        "problems": [problem for each in rounds for problem in each.problems],
    }


def _at_rest(watch: Watch) -> Footprints:
    with interruption.waiting():
        time.sleep(_REST_SECONDS)
    return watch.footprints()


def _round(requests: SoakRequests, watch: Watch, plan: SoakPlan) -> _Round:
    valid = refused = 0
    problems: list[str] = []
    begin = time.monotonic()

    def run(case: Case, size: int) -> load_generators.Run:
        return case.load(plan.connections, plan.seconds_each, size)

    with watch.watching() as footprints, ThreadPoolExecutor(len(PROTOCOLS)) as both:
        for pair in requests.pairs():
            interruption.check()
            sizes = [case.verify() for case in pair]
            for case, done in zip(pair, both.map(run, pair, sizes), strict=True):
                valid += done.requests + 1
                problems += [f"{case.cell.name}: {done.problem}"] if done.problem else []
        for invalid in requests.invalid:
            for responses, problem in both.map(lambda send: send(), invalid):
                refused += responses
                problems += [problem] if problem else []
    return _Round(valid + refused, refused, time.monotonic() - begin, problems, footprints)


def _row(
    name: str, at_rest: Mapping[str, Footprint], rounds: Sequence[tuple[int, Sequence[Footprint]]]
) -> dict[str, Any]:
    """Return the figures of a process.

    `at_rest` has footprints without load: at the `start`, after the warm-up if the soak was long enough (`warm`), and
    at the `end`. `rounds` has the number of requests and the footprints of each round.
    """
    every = [each for _, footprints in rounds for each in footprints]
    medians = [statistics.median(each.resident for each in footprints) / _MIB for _, footprints in rounds]
    ends = list(itertools.accumulate(requests for requests, _ in rounds))
    middles = [end - requests / 2 for end, (requests, _) in zip(ends, rounds, strict=True)]
    # It takes many rounds until every thread and interpreter has had its largest request.
    warm = max(_WARM_UP_ROUNDS, len(rounds) // 2)
    slope = _slope(middles[warm:], medians[warm:])
    return {
        "process": name,
        **{
            what: {
                **{when: value(each) for when, each in at_rest.items()},
                "most": max(map(value, every)),
            }
            for what, value in _MEASURES.items()
        },
        "resident_by_round": [round(each, 2) for each in medians],
        "slope": slope,
        "growth": _growth(slope),
    }


_MEASURES: dict[str, Callable[[Footprint], float]] = {
    "resident_mib": lambda each: round(each.resident / _MIB, 1),
    "proportional_mib": lambda each: round(each.proportional / _MIB, 1),
    "files": lambda each: each.files,
    "threads": lambda each: each.threads,
}


def _slope(requests: Sequence[float], mib: Sequence[float]) -> dict[str, float] | None:
    """Return the MiB per million requests with its 95 % confidence interval, None for too few rounds."""
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
    """Return each requirement (`asked`), the figure (`found`), and whether it is `met`; None if that is unknown."""
    workers = [row for row in rows if row["process"] != "parent"]
    most = max(row["resident_mib"]["most"] for row in workers)
    growth = {row["growth"] for row in rows}
    warm = all("warm" in row["files"] for row in rows)
    more_files = max(row["files"]["end"] - row["files"]["warm" if warm else "start"] for row in rows)
    return [
        *(
            {
                "asked": f"first response over {PROTOCOLS[protocol]} within {BARS.start_seconds} s",
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
