"""What the kernel says about a process: memory, files, threads, children, when it began. Linux only."""

import contextlib
import os
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tfship.train.common.errors import TargetError, TfshipError

__all__ = ["AVAILABLE", "Footprint", "Look", "Watch", "age", "children", "cpu", "footprint", "peak", "tree"]

_PROC = Path("/proc")
# Fields of /proc/<pid>/stat after the name, which may hold spaces (man 5 proc).
_PARENT, _USER, _SYSTEM, _START = 1, 11, 12, 19
_TICKS = os.sysconf("SC_CLK_TCK")
_LOOK_SECONDS = 1.0

# Whether this kernel says it.
AVAILABLE = (_PROC / "self" / "smaps_rollup").exists()


@dataclass(frozen=True)
class Footprint:
    """What a process holds: bytes of memory, numbers of the rest.

    `resident` counts every page that is mapped and in memory; in `proportional` a page that n processes share counts
    for 1/n, so that the sum over processes is what they take together.
    """

    resident: int
    proportional: int
    files: int
    threads: int


# What the processes of a server hold at one time, by their names.
Look = dict[str, Footprint]


def footprint(pid: int) -> Footprint:
    """Look at a process once. Raises TargetError if it has ended, TfshipError where there is no /proc."""
    folder = _PROC / str(pid)
    try:
        memory = dict(
            re.findall(r"^(Rss|Pss): +(\d+) kB$", (folder / "smaps_rollup").read_text(), re.MULTILINE)
        )
        files, threads = (sum(1 for _ in (folder / each).iterdir()) for each in ("fd", "task"))
    except OSError as error:
        raise _unseen(pid, error) from error
    return Footprint(int(memory["Rss"]) * 1024, int(memory["Pss"]) * 1024, files, threads)


def peak(pid: int) -> int:
    """Return the largest resident memory that a process has had, in bytes. Raises as `footprint`.

    The kernel counts it from the program's start; what `getrusage` tells may be the parent's, from before.
    """
    try:
        status = (_PROC / str(pid) / "status").read_text()
    except OSError as error:
        raise _unseen(pid, error) from error
    # A process that has ended and that nobody has waited for has a status without memory.
    if (found := re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)) is None:
        raise TargetError(f"process {pid}: it has ended, or this kernel doesn't count its memory")
    return int(found[1]) * 1024


def children(pid: int) -> list[int]:
    """Return the processes that `pid` has started and that live, the oldest first."""
    found = []
    for each in _PROC.glob("[0-9]*"):
        stat = _stat(int(each.name))
        if stat and int(stat[_PARENT]) == pid:
            found.append((int(stat[_START]), int(each.name)))
    return [number for _, number in sorted(found)]


def tree(pid: int) -> list[int]:
    """Return `pid` and the living processes that descend from it."""
    parents = {
        int(each.name): int(stat[_PARENT]) for each in _PROC.glob("[0-9]*") if (stat := _stat(int(each.name)))
    }
    found = [pid]
    for each in found:  # which grows meanwhile
        found += [child for child, parent in parents.items() if parent == each]
    return found


def age(pid: int) -> float | None:
    """Return for how many seconds a process has lived, to 10 ms; None if it has ended."""
    stat = _stat(pid)
    if not stat:
        return None
    return time.clock_gettime(time.CLOCK_BOOTTIME) - int(stat[_START]) / _TICKS


def cpu(pid: int) -> float:
    """Return the seconds of processor time that a process has had, to 10 ms; 0 if it has ended."""
    stat = _stat(pid)
    return (int(stat[_USER]) + int(stat[_SYSTEM])) / _TICKS if stat else 0.0


class Watch:
    """Looks at a server's processes, by the names `parent`, `worker 1`, `worker 2` and so on.

    A server without workers is one, `worker`.
    """

    def __init__(self, pid: int) -> None:
        workers = children(pid)
        many = {"parent": pid, **{f"worker {number}": each for number, each in enumerate(workers, 1)}}
        self.names = many if workers else {"worker": pid}

    def look(self) -> Look:
        """Look once. Raises TargetError if one of them has ended."""
        return {name: footprint(pid) for name, pid in self.names.items()}

    @contextlib.contextmanager
    def watching(self) -> Iterator[list[Look]]:
        """Yield a list that grows by a look every second, and at the end. Raises TargetError as `look`, at the end."""
        looks: list[Look] = []
        over = threading.Event()

        def watch() -> None:
            with contextlib.suppress(TargetError):  # which the last look tells
                while not over.wait(_LOOK_SECONDS):
                    looks.append(self.look())

        thread = threading.Thread(target=watch, name="watch", daemon=True)
        thread.start()
        try:
            yield looks
        finally:
            over.set()
            thread.join()
        looks.append(self.look())


def _unseen(pid: int, error: OSError) -> TfshipError:
    if AVAILABLE:
        return TargetError(f"process {pid}: it has ended ({error.strerror})")
    return TfshipError("/proc/self/smaps_rollup: not there; memory can be measured on Linux only")


def _stat(pid: int) -> list[str]:
    try:
        return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
