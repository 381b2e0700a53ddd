"""A bound on the time of what has none of its own: DNS, or a server that sends a byte now and then."""

import queue
import threading
from collections.abc import Callable
from typing import TypeVar

__all__ = ["within"]

T = TypeVar("T")


def within(seconds: float, function: Callable[[], T]) -> T:
    """Return what `function` returns, or raise what it raises, or TimeoutError if neither comes in `seconds`.

    It runs in a thread of its own, which is left alone when the time is over and keeps nobody from exiting.
    """
    outcome: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            outcome.put((function(), None))
        except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
            outcome.put((None, error))

    threading.Thread(target=run, daemon=True).start()
    try:
        result, error = outcome.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"nothing within {seconds:g} s") from None
    if error is not None:
        raise error
    return result  # type: ignore[return-value]  # None is one of T's values then
