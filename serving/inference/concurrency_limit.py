"""Limit of concurrent runs, for which requests wait until their deadline."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from numpy.typing import NDArray

from tfship.export.runtimes.protocol import Runtime, Signature
from tfship.serving.inference.execution import DEADLINE, until
from tfship.serving.protos.status import Code, StatusError

__all__ = ["LimitedRuntime", "on_event_loop", "slot"]


@contextlib.contextmanager
def slot(slots: threading.Semaphore) -> Iterator[None]:
    """Hold one of `slots` within the context.

    Raises StatusError if none is free until `execution.DEADLINE`.
    """
    if not slots.acquire(timeout=until(DEADLINE.get())):
        raise StatusError(Code.DEADLINE_EXCEEDED, "Deadline exceeded before the model was run")
    try:
        yield
    finally:
        slots.release()


def on_event_loop() -> bool:
    """Return whether this is the thread of an event loop, which must not wait."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


class LimitedRuntime:
    """A `Runtime` that runs at most `at_once` inferences by `runtime`, which it owns, at a time, and one more.

    The additional one is the event loop's, which must never wait. LiteRT itself waits for an idle interpreter without
    a limit of time. With `at_once` + 1 interpreters, one is always idle.
    """

    def __init__(self, runtime: Runtime, at_once: int) -> None:
        self._runtime = runtime
        self._slots = threading.Semaphore(at_once)

    @property
    def signatures(self) -> Mapping[str, Signature]:
        """The signatures of `runtime`."""
        return self._runtime.signatures

    def run(self, signature: str, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """See `Runtime.run`. Raises StatusError, too, if the deadline passes before an inference may begin."""
        if on_event_loop():
            return self._runtime.run(signature, inputs)
        with slot(self._slots):
            return self._runtime.run(signature, inputs)

    def close(self) -> None:
        """Free the model's memory after the running inferences have ended."""
        self._runtime.close()
