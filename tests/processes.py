"""Processes of commands, and of servers' workers: commands start at once, forked from one that has loaded TensorFlow.

A test that kills a command needs a real process, but not the five seconds in which each would import the same. So
Python's fork server imports it for all of them. It runs nothing of TensorFlow itself, which couldn't be forked then.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from conftest import ROOT
from tfship.benchmarks.harness import process_info
from tfship.export.runtimes import isolation

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [*isolation.PRELOAD, "tfship.train.trainer", "tfship.train.plots", "tfship.export.publishing.pipeline"]
)


@dataclass(frozen=True)
class Forked:
    """A process and what it writes."""

    process: ForkServerProcess
    _out: Path
    _error: Path

    @property
    def out(self) -> str:
        """What it has written to stdout so far."""
        return self._out.read_text()

    @property
    def error(self) -> str:
        """What it has written to stderr so far."""
        return self._error.read_text()

    def reaches(self, check: Callable[[], bool], seconds: float = 1000) -> None:
        """Wait until `check` holds; the process must not end before."""
        deadline = time.monotonic() + seconds
        while True:
            ended = self.process.exitcode is not None
            if check():
                return
            assert not ended, self.error
            assert time.monotonic() < deadline, self.error
            time.sleep(0.02)

    def ends(self, seconds: float = 1000) -> int:
        """Wait until it has ended and return its exit code, or the signal's number below zero."""
        self.process.join(seconds)
        assert self.process.exitcode is not None, self.error
        return self.process.exitcode

    def kill(self) -> int:
        """Kill it and return how it has ended, as `ends` does: it may have been faster."""
        self.process.kill()
        return self.ends()


@contextlib.contextmanager
def forked(
    target: Callable[..., object], *arguments: object, environment: Mapping[str, str] | None = None
) -> Iterator[Forked]:
    """Call a module's function in a process of its own, which is killed at the end."""
    with tempfile.TemporaryDirectory() as folder:
        out, error = Path(folder, "out"), Path(folder, "error")
        for path in (out, error):
            path.touch()
        everything = {**os.environ, **(environment or {})}
        # No daemon: an export has child processes.
        process = _CONTEXT.Process(target=_begin, args=(out, error, everything, target, arguments))
        process.start()
        try:
            yield Forked(process, out, error)
        finally:
            process.kill()
            process.join()


def command(name: str, *argv: str) -> None:
    """Do what `tfship command argv…` does."""
    from tfship.train.common import entry_point as command

    sys.argv = ["tfship", name, *argv]
    sys.exit(command.run())


def _begin(
    out: Path,
    error: Path,
    environment: dict[str, str],
    target: Callable[..., object],
    arguments: tuple[Any, ...],
) -> None:
    for path, stream in ((out, 1), (error, 2)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND), stream)
    # A shell ignores it in its background jobs, and their processes inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # The fork server blocks it if an export has started the server.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    # An export has a fork server of its own, which needs no more than that of a command.
    multiprocessing.set_forkserver_preload(list(isolation.PRELOAD))
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(ROOT)
    target(*arguments)


def workers_of(pid: int) -> set[int]:
    """Return the process ids of a server's workers that live."""
    found = set()
    for child in process_info.children(pid):
        with contextlib.suppress(OSError):
            # During a start, the process that forks the workers is a child, too.
            if Path(f"/proc/{child}/comm").read_text().startswith("worker-"):
                found.add(child)
    return found
