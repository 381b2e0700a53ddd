"""Several callers of one subject: what each of them connects to, what it sends, and whether it is answered rightly."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfship.benchmarks.harness.load_loops import Connect, Load
from tfship.benchmarks.suite.system_under_test import Subject
from tfship.train.common.errors import ResultError

__all__ = ["Callers"]


class Callers:
    """Up to `at_once` callers of a subject, who ask the queries `pixels`, each uint8 [N, H, W, C], by their numbers.

    What is sent is made ready here, before any clock starts; `check` looks at the answers after it has stopped.
    """

    def __init__(self, subject: Subject, pixels: Sequence[NDArray[np.uint8]], at_once: int) -> None:
        self.at_once = at_once
        self._name, self._sizes = subject.name, [len(each) for each in pixels]
        with contextlib.ExitStack() as stack:
            asked = subject.open(at_once)
            stack.callback(asked.close)
            prepared = [asked.prepared(each) for each in pixels]
            self.connect: Connect
            if subject.sender is None:
                self.connect = lambda: contextlib.nullcontext(lambda number: asked.ask(prepared[number]))
                self._understood: Callable[[Any, int], NDArray[np.float32]] = lambda answer, _: answer
            else:
                opened = subject.sender
                spare = opened()
                stack.callback(spare.close)
                requests = [spare.encoded(each) for each in prepared]
                self.connect = functools.partial(_connected, opened, requests)
                self._understood = spare.understood
            self._close = stack.pop_all()

    def __len__(self) -> int:
        """How many queries there are."""
        return len(self._sizes)

    def __enter__(self) -> "Callers":
        return self

    def __exit__(self, *_: object) -> None:
        self._close.close()

    def check(self, load: Load, classes: Sequence[NDArray[np.integer]]) -> None:
        """Raise ResultError if an answer isn't of the classes that each query's images have by this subject."""
        for number, answer in load.answers.items():
            found = self._understood(answer, self._sizes[number]).argmax(1)
            if not np.array_equal(found, classes[number]):
                raise ResultError(
                    f"{self._name}: under load it answers query {number} with the classes {found.tolist()[:10]}; "
                    f"asked alone it said {classes[number].tolist()[:10]}: it isn't one model that answers"
                )


@contextlib.contextmanager
def _connected(opened: Callable[[], Any], requests: Sequence[bytes]) -> Iterator[Callable[[int], bytes]]:
    sender = opened()
    try:
        yield lambda number: sender.send(requests[number]).content
    finally:
        sender.close()
