"""Concurrent callers of one subject: how each connects, what it sends, and whether the responses are right."""

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
    """Up to `at_once` concurrent callers of a subject. Queries are the `pixels`, each uint8 [N, H, W, C], by number.

    Requests are encoded here, before any clock starts. `check` decodes the responses after it has stopped.
    """

    def __init__(self, subject: Subject, pixels: Sequence[NDArray[np.uint8]], at_once: int) -> None:
        self.at_once = at_once
        self._name, self._sizes = subject.name, [len(each) for each in pixels]
        with contextlib.ExitStack() as stack:
            target = stack.enter_context(contextlib.closing(subject.open(at_once)))
            queries = [target.prepare(each) for each in pixels]
            self.connect: Connect
            if subject.sender is None:
                self.connect = lambda: contextlib.nullcontext(lambda number: target.run(queries[number]))
                self._decode: Callable[[Any, int], NDArray[np.float32]] = lambda response, _: response
            else:
                sender = stack.enter_context(contextlib.closing(subject.sender()))
                requests = [sender.encode(each) for each in queries]
                self.connect = functools.partial(_connected, subject.sender, requests)
                self._decode = sender.decode
            self._close = stack.pop_all()

    def __len__(self) -> int:
        """Return the number of different queries."""
        return len(self._sizes)

    def __enter__(self) -> "Callers":
        return self

    def __exit__(self, *_: object) -> None:
        self._close.close()

    def check(self, load: Load, classes: Sequence[NDArray[np.integer]]) -> None:
        """Raise ResultError if a response differs from `classes`, the subject's own classes of each query's images."""
        for number, response in load.responses.items():
            found = self._decode(response, self._sizes[number]).argmax(1)
            if not np.array_equal(found, classes[number]):
                raise ResultError(
                    f"{self._name}: query {number} returned the classes {found.tolist()[:10]} under load, and "
                    f"{classes[number].tolist()[:10]} in a single request; is the server serving several versions?"
                )


@contextlib.contextmanager
def _connected(connect: Callable[[], Any], requests: Sequence[bytes]) -> Iterator[Callable[[int], bytes]]:
    with contextlib.closing(connect()) as sender:
        yield lambda number: sender.send(requests[number]).content
