"""Two ends of a channel, both in this process."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection

import pytest

from tfship.serving.protos.status import Code, StatusError
from tfship.serving.server import rpc
from tfship.serving.server.rpc import Channel, ChannelClosed


class _Refusal(Exception):  # noqa: N818
    def __init__(self, code: int, *, detail: str) -> None:
        super().__init__(f"{code}: {detail}")


class _Target:
    def __init__(self) -> None:
        self.free = threading.Event()

    def double(self, number: int) -> int:
        return 2 * number

    def refuse(self) -> None:
        raise StatusError(Code.NOT_FOUND, "größer")

    def fail(self) -> None:
        raise _Refusal(3, detail="no")  # can be pickled, and not be made from that again

    def lock(self) -> None:
        raise ValueError(threading.Lock())  # can't be pickled

    def wait(self) -> None:
        self.free.wait()


@contextlib.contextmanager
def _channels() -> Iterator[tuple[Channel, Channel, _Target]]:
    ours, theirs = (Connection(each.detach()) for each in socket.socketpair())
    target = _Target()
    one, other = Channel(ours, None), Channel(theirs, target)
    try:
        yield one, other, target
    finally:
        target.free.set()
        one.close()
        other.close()


@contextlib.contextmanager
def _running(*serve: Callable[[], bool]) -> Iterator[None]:
    threads = [threading.Thread(target=each) for each in serve]
    for thread in threads:
        thread.start()
    yield
    for thread in threads:
        thread.join()


def test_calls_are_answered_out_of_order() -> None:
    with contextlib.ExitStack() as stack:
        one, other, target = stack.enter_context(_channels())
        with _running(one.serve, other.serve):
            waits = one.start("wait")
            assert [one.call("double", number) for number in range(3)] == [0, 2, 4]
            assert not waits.done()
            target.free.set()
            assert waits.result(30) is None
            one.close()


@pytest.mark.parametrize(
    ("method", "expected"),
    [("fail", "_Refusal: 3: no"), ("lock", "ValueError: <unlocked"), ("nothing", "no attribute 'nothing'")],
)
def test_an_error_that_does_not_survive_the_way_still_comes(method: str, expected: str) -> None:
    with _channels() as (one, other, _), _running(one.serve, other.serve):
        with pytest.raises((RuntimeError, AttributeError), match=expected):
            one.start(method).result(30)
        with pytest.raises(StatusError, match="größer") as refusal:
            one.start("refuse").result(30)
        assert refusal.value.code == Code.NOT_FOUND
        one.close()


def test_whoever_waits_is_told_that_the_other_end_has_gone() -> None:
    with _channels() as (one, other, _):
        with _running(one.serve):
            before = one.start("double", 1)  # nobody reads it
            other.close()
        with pytest.raises(ChannelClosed):
            before.result(0)
        with pytest.raises(ChannelClosed):
            one.call("double", 1)
        one.close()


def test_an_end_that_is_silent_is_given_up_even_by_whoever_writes_to_it() -> None:
    with _channels() as (one, _, _):
        # More than the socket holds, and the other end doesn't read.
        writer = threading.Thread(target=one.start, args=("double", bytes(2**24)))
        writer.start()
        assert one.serve(patience_seconds=1) is False
        writer.join()


def test_beats_are_a_sign_of_life(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc, "_HEARTBEAT_SECONDS", 0.1)  # of these is the patience
    with _channels() as (one, other, _), ThreadPoolExecutor() as threads:
        kept, _ = threads.submit(one.serve, 25), threads.submit(other.serve)
        other.start_heartbeat()
        time.sleep(3)
        assert one.call("double", 2) == 4
        other.close()
        assert kept.result(30) is True
