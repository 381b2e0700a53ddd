"""So many cases of each kind in turn, until all are done or one fails."""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.strategies import SearchStrategy

from fuzzing import grpc_cases, http_cases
from fuzzing.cases import Case
from fuzzing.target import Target

__all__ = ["KINDS", "run"]

KINDS = ("json", "http", "grpc", "reload", "frames")
_AT_ONCE = 200
_SAMPLES = Path(__file__).resolve().parents[2] / "client" / "samples"


def run(
    target: Target,
    cases: int,
    start: int,
    kinds: Sequence[str] = KINDS,
    told: Callable[[int], None] = lambda _: None,
) -> None:
    """Send `cases` cases, drawn from the seed `start`; raise AssertionError, with the least case that fails.

    `told` is called with the number of cases so far.
    """
    strategies = _strategies(target)
    done = 0
    for number, kind in enumerate(itertools.cycle(kinds)):
        count = min(_AT_ONCE, cases - done)
        if count <= 0:
            return
        _some(target, strategies[kind], count, start + number)
        target.check_health()
        done += count
        told(done)


def _strategies(target: Target) -> dict[str, SearchStrategy[Case]]:
    pictures = [path.read_bytes() for path in sorted(_SAMPLES.glob("*.png"))]
    return {
        "json": http_cases.json_requests(target.served),
        "http": http_cases.http(target.served),
        "grpc": grpc_cases.calls(target.served, pictures),
        "reload": grpc_cases.reloads(target.config),
        "frames": grpc_cases.frames(),
    }


def _some(target: Target, strategy: SearchStrategy[Case], count: int, start: int) -> None:
    @seed(start)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def each(case: Case) -> None:
        target.check(case)

    each()
