"""What the kernel says about a process: memory, files, threads, children, when it began. Linux only."""

import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

from train.errors import TargetError, TfshipError

__all__ = ["Footprint", "age", "children", "footprint"]

_PROC = Path("/proc")
# Fields of /proc/<pid>/stat after the name, which may hold spaces (man 5 proc).
_PARENT, _START = 1, 19


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


def footprint(pid: int) -> Footprint:
    """Look at a process once. Raises TargetError if it has ended, TfshipError where there is no /proc."""
    folder = _PROC / str(pid)
    try:
        memory = dict(
            re.findall(r"^(Rss|Pss): +(\d+) kB$", (folder / "smaps_rollup").read_text(), re.MULTILINE)
        )
        files, threads = (sum(1 for _ in (folder / each).iterdir()) for each in ("fd", "task"))
    except OSError as error:
        if not (_PROC / "self" / "smaps_rollup").exists():
            raise TfshipError(
                "/proc/self/smaps_rollup: not there; memory can be measured on Linux only"
            ) from None
        raise TargetError(f"process {pid}: it has ended ({error.strerror})") from error
    return Footprint(int(memory["Rss"]) * 1024, int(memory["Pss"]) * 1024, files, threads)


def children(pid: int) -> list[int]:
    """Return the processes that `pid` has started and that live, the oldest first."""
    found = []
    for each in _PROC.glob("[0-9]*"):
        stat = _stat(int(each.name))
        if stat and int(stat[_PARENT]) == pid:
            found.append((int(stat[_START]), int(each.name)))
    return [number for _, number in sorted(found)]


def age(pid: int) -> float | None:
    """Return for how many seconds a process has lived, to 10 ms; None if it has ended."""
    stat = _stat(pid)
    if not stat:
        return None
    return time.clock_gettime(time.CLOCK_BOOTTIME) - int(stat[_START]) / os.sysconf("SC_CLK_TCK")


def _stat(pid: int) -> list[str]:
    try:
        return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
