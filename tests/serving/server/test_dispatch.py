"""Places of requests that wait: a cancelled one frees its own."""

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from serving_fixtures import eventually
from tfship.serving.protos.status import Code, StatusError
from tfship.serving.server.dispatch import Dispatcher, Place, Waiting


@dataclass(frozen=True)
class _Done:
    is_ok: bool = True


def _dispatch(place: Place, check: Callable[[Dispatcher, Callable[..., Waiting | None]], None]) -> list[int]:
    """Call `check` on a loop, with a dispatcher of one thread and four places; return the numbers of those that ran."""
    ran: list[int] = []

    async def run() -> None:
        dispatcher = Dispatcher(asyncio.get_running_loop(), "test", 1, 4, measures=True)

        def request(number: int, work: Callable[[], object] = lambda: None) -> Waiting | None:
            def answer() -> _Done:
                work()
                return _Done()

            return dispatcher.run(place, "key", 1, answer, lambda _: ran.append(number))

        try:
            check(dispatcher, request)
            while dispatcher._running:
                await asyncio.sleep(0.01)
        finally:
            dispatcher.close()

    asyncio.run(run())
    return ran


def test_a_cancelled_request_frees_its_place_and_never_runs() -> None:
    gate, begun = threading.Event(), threading.Event()

    def check(dispatcher: Dispatcher, request: Callable[..., Waiting | None]) -> None:
        def hold() -> None:
            begun.set()
            gate.wait()

        first = request(0, hold)
        assert first is not None
        eventually(begun.is_set)
        waiting = [request(number) for number in (1, 2, 3)]
        with pytest.raises(StatusError) as refused:
            dispatcher.check_room()
        assert refused.value.code is Code.RESOURCE_EXHAUSTED
        for each in waiting:
            assert each is not None
            each.cancel()
            each.cancel()  # once more changes nothing
        first.cancel()  # it has begun
        for number in (4, 5, 6):
            dispatcher.check_room()
            request(number)
        with pytest.raises(StatusError):
            dispatcher.check_room()
        gate.set()

    assert _dispatch("threads", check) == [0, 4, 5, 6]


def test_a_request_that_waits_for_its_turn_is_cancelled_too() -> None:
    def check(dispatcher: Dispatcher, request: Callable[..., Waiting | None]) -> None:
        assert request(0, lambda: threading.Event().wait(0.01)) is None  # the turn has ended with it
        waiting = [request(number) for number in (1, 2, 3, 4)]
        with pytest.raises(StatusError):
            dispatcher.check_room()
        for each in waiting[:3]:
            assert each is not None
            each.cancel()
        dispatcher.check_room()

    assert _dispatch("loop", check) == [0, 4]
