"""Information about processes from the kernel: memory, files, threads, children, age. Linux only."""

import contextlib
import os
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tfship.train.common.errors import TargetError, TfshipError

__all__ = [
    "AVAILABLE",
    "Footprint",
    "Footprints",
    "Watch",
    "age",
    "children",
    "cpu",
    "footprint",
    "peak",
    "tree",
]

_PROC = Path("/proc")
# Fields of /proc/<pid>/stat after the name, which may contain spaces (man 5 proc).
_PARENT, _TIMES, _START = 1, slice(11, 15), 19
_TICKS = os.sysconf("SC_CLK_TCK")
_WATCH_SECONDS = 1.0

# Whether this kernel has the information.
AVAILABLE = (_PROC / "self" / "smaps_rollup").exists()


@dataclass(frozen=True)
class Footprint:
    """A process's memory in bytes, and its numbers of open files and threads.

    `resident` counts every mapped page in memory. In `proportional`, a page shared by n processes counts 1/n, so that
    the sum over processes is their total memory.
    """

    resident: int
    proportional: int
    files: int
    threads: int


# The footprints of a server's processes at one time, by process name.
Footprints = dict[str, Footprint]


def footprint(pid: int) -> Footprint:
    """Return the footprint of a process. Raises TargetError if it has ended, TfshipError without /proc."""
    folder = _PROC / str(pid)
    try:
        memory = dict(
            re.findall(r"^(Rss|Pss): +(\d+) kB$", (folder / "smaps_rollup").read_text(), re.MULTILINE)
        )
        files, threads = (sum(1 for _ in (folder / each).iterdir()) for each in ("fd", "task"))
    except OSError as error:
        raise _unavailable(pid, error) from error
    return Footprint(int(memory["Rss"]) * 1024, int(memory["Pss"]) * 1024, files, threads)


def peak(pid: int) -> int:
    """Return the peak resident memory of a process, in bytes. Raises like `footprint`.

    The kernel counts it from the start of the program; `getrusage` may return the parent's memory before that.
    """
    try:
        status = (_PROC / str(pid) / "status").read_text()
    except OSError as error:
        raise _unavailable(pid, error) from error
    # The status of a zombie process has no memory.
    if (found := re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)) is None:
        raise TargetError(f"process {pid}: it has ended, or this kernel doesn't report its memory")
    return int(found[1]) * 1024


def children(pid: int) -> list[int]:
    """Return the running child processes of `pid`, the oldest first."""
    found = []
    for each in _PROC.glob("[0-9]*"):
        stat = _stat(int(each.name))
        if stat and int(stat[_PARENT]) == pid:
            found.append((int(stat[_START]), int(each.name)))
    return [number for _, number in sorted(found)]


def tree(pid: int) -> list[int]:
    """Return `pid` and its running descendants."""
    parents = {
        int(each.name): int(stat[_PARENT]) for each in _PROC.glob("[0-9]*") if (stat := _stat(int(each.name)))
    }
    found = [pid]
    for each in found:  # the list grows in the loop
        found += [child for child, parent in parents.items() if parent == each]
    return found


def age(pid: int) -> float | None:
    """Return the age of a process in seconds, to 10 ms; None if it has ended."""
    stat = _stat(pid)
    if not stat:
        return None
    return time.clock_gettime(time.CLOCK_BOOTTIME) - int(stat[_START]) / _TICKS


def cpu(pid: int) -> float:
    """Return the processor time of a process and its ended children in seconds, to 10 ms; 0 if it has ended."""
    return sum(map(int, _stat(pid)[_TIMES])) / _TICKS


class Watch:
    """The footprints of a server's processes, named `parent`, `worker 1`, `worker 2` and so on.

    A server without workers has one process, `worker`.
    """

    def __init__(self, pid: int) -> None:
        workers = children(pid)
        many = {"parent": pid, **{f"worker {number}": each for number, each in enumerate(workers, 1)}}
        self.names = many if workers else {"worker": pid}

    def footprints(self) -> Footprints:
        """Return the current footprints. Raises TargetError if a process has ended."""
        return {name: footprint(pid) for name, pid in self.names.items()}

    @contextlib.contextmanager
    def watching(self) -> Iterator[list[Footprints]]:
        """Yield a list that receives the footprints every second and at the end. Raises TargetError at the end."""
        found: list[Footprints] = []
        over = threading.Event()

        def watch() -> None:
            with contextlib.suppress(TargetError):  # raised again at the end
                while not over.wait(_WATCH_SECONDS):
                    found.append(self.footprints())

        thread = threading.Thread(target=watch, name="watch", daemon=True)
        thread.start()
        try:
            yield found
        finally:
            over.set()
            thread.join()
        found.append(self.footprints())


def _unavailable(pid: int, error: OSError) -> TfshipError:
    if AVAILABLE:
        return TargetError(f"process {pid}: it has ended ({error.strerror})")
    return TfshipError("/proc/self/smaps_rollup: missing; memory can be measured on Linux only")


def _stat(pid: int) -> list[str]:
    try:
        return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
