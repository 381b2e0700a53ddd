"""So many cases of each kind in turn, until all are done or one fails."""

import itertools
from collections.abc import Callable, Sequence
from typing import TypeVar

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.strategies import SearchStrategy

from fuzzing import grpc_cases, http_cases, open_inference_cases
from fuzzing.cases import Case
from fuzzing.target import Target

__all__ = ["KINDS", "drawn", "run"]

_T = TypeVar("_T")

KINDS = ("json", "http", "grpc", "v2", "reload", "frames")
_MOST_AT_ONCE = 200


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
    done, at_once = 0, max(1, min(_MOST_AT_ONCE, cases // len(kinds)))
    for number, kind in enumerate(itertools.cycle(kinds)):
        count = min(at_once, cases - done)
        if count <= 0:
            return
        _some(target, strategies[kind], count, start + number)
        target.check_health()
        done += count
        told(done)


def _strategies(target: Target) -> dict[str, SearchStrategy[Case]]:
    return {
        "json": http_cases.json_requests(target.served),
        "http": http_cases.http(target.served),
        "grpc": grpc_cases.calls(target.served),
        "v2": open_inference_cases.requests(target.served),
        "reload": grpc_cases.reloads(target.config),
        "frames": grpc_cases.frames(),
    }


def _some(target: Target, strategy: SearchStrategy[Case], count: int, start: int) -> None:
    _each(target.check, strategy, count, start, [Phase.generate, Phase.shrink])


def drawn(strategy: SearchStrategy[_T], count: int, start: int) -> list[_T]:
    """Return about `count` of what a strategy draws from the seed `start`."""
    found: list[_T] = []
    _each(found.append, strategy, count, start, [Phase.generate])
    return found


def _each(
    use: Callable[[_T], None], strategy: SearchStrategy[_T], count: int, start: int, phases: Sequence[Phase]
) -> None:
    @seed(start)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=phases,
        report_multiple_bugs=False,  # several would be one ExceptionGroup, and the command saves one case
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def each(case: _T) -> None:
        use(case)

    each()
