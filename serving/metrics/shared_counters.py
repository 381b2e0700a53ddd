"""Numbers that each worker of a server counts for itself, and that any of them can read from all.

A worker's numbers are float64 in a file that it maps into its memory: to count is to add in memory, and what was
counted is still there when the worker has been killed. While it lives it holds a lock on its file, which the kernel
lifts however it ends: so the others know whose gauges still hold. Where there is one process only, all of it stays
in memory.

prometheus_client's multiprocess mode works much alike, but takes a lock, asks for the process's number and looks a
key up for every single number: what a request counts took 15 µs, and takes 4 here. It also needs to be told who has
ended, and fails a scrape that comes while a worker starts.
"""

import errno
import fcntl
import json
import logging
import mmap
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tfship.train.common.errors import UsageError

__all__ = ["Key", "Tally", "Worker"]

log = logging.getLogger(__name__)

# What a row of numbers is: a metric's name and the values of its labels.
Key = tuple[str, ...]

_SUFFIX = ".tally"
_WORD = 8  # bytes of a float64; everything in a file is made of these
# Words by which a file grows: some 40 triples of model, API and entry point. A multiple of any page size.
_BLOCK = 8192


@dataclass(frozen=True)
class Worker:
    """A process and its numbers by key; whether it `lives`."""

    pid: int
    lives: bool
    rows: dict[Key, Sequence[float]]


class Tally:
    """The numbers of this process, in `folder` for its siblings to read, or without one in memory.

    Raises UsageError if `folder` can't be written to. One thread at a time may call it and change its rows.

    The file: blocks of 8,192 words; in a block, one after the other, rows of a word that says how many numbers, a
    word that says how many bytes of key, the key as JSON filled up to whole words, the numbers. A 0 ends a block.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._rows: dict[Key, memoryview[float]] = {}
        self._free = memoryview(b"")
        self._file = -1
        if folder:
            try:
                self._open(folder)
            except OSError as error:
                self.close()
                raise UsageError(
                    f"{folder}: can't hold the workers' metrics ({error.strerror}); expected a directory to write "
                    "in, made by whoever starts the workers"
                ) from error

    def row(self, key: Key, width: int) -> "memoryview[float]":
        """Return a new row of zeros, float64 [width], to be changed in place."""
        name = json.dumps(key).encode()
        padded = name.ljust(-(-len(name) // _WORD) * _WORD)
        size = 2 * _WORD + len(padded) + width * _WORD
        try:
            if size > len(self._free):
                self._extend(size)
            entry, self._free = self._free[:size], self._free[size:]
        except OSError as error:
            # A full disk must not fail requests: they are counted where nobody looks.
            log.warning("%s: %s; the metrics page lacks %s", self._folder, error.strerror, name.decode())
            entry = memoryview(bytearray(size))
        words = entry.cast("d")
        entry[2 * _WORD : 2 * _WORD + len(padded)] = padded
        words[1] = len(name)
        # Last of all, and at once: from here on others see the row.
        words[0] = width
        self._rows[key] = row = words[-width:]
        return row

    def workers(self) -> list[Worker]:
        """Return all workers of the server, this one among them, those that have ended too."""
        if self._folder is None:
            return [Worker(os.getpid(), True, {key: row.tolist() for key, row in self._rows.copy().items()})]
        return [_read(path) for path in sorted(self._folder.glob(f"*{_SUFFIX}"))]

    def close(self) -> None:
        """Count as ended from now on. What was counted stays in the folder."""
        if self._file >= 0:
            # The mapping holds the file open too, and with it the lock.
            fcntl.flock(self._file, fcntl.LOCK_UN)
            os.close(self._file)
            self._file = -1

    def _open(self, folder: Path) -> None:
        # A process's number may come again; what was counted under it must stay.
        name = f"{os.getpid()}-{time.time_ns()}"
        # The others look for the suffix: they see the file when it is whole, and locked.
        hidden = folder / name
        self._file = os.open(hidden, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        fcntl.flock(self._file, fcntl.LOCK_EX)
        self._extend(1)
        hidden.rename(folder / f"{name}{_SUFFIX}")

    def _extend(self, size: int) -> None:
        size = -(-size // (_BLOCK * _WORD)) * _BLOCK * _WORD
        if self._folder is None:
            self._free = memoryview(bytearray(size))
            return
        end = os.fstat(self._file).st_size
        # Written, not only made longer: a page that the disk has no room for kills the process that touches it.
        if os.pwrite(self._file, bytes(size), end) < size:
            os.ftruncate(self._file, end)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._free = memoryview(mmap.mmap(self._file, size, offset=end))


def _read(path: Path) -> Worker:
    with path.open("rb") as file:
        content = memoryview(file.read())
        lives = _is_locked(file.fileno())
    return Worker(int(path.name.partition("-")[0]), lives, dict(_rows(content)))


def _rows(content: memoryview) -> Iterator[tuple[Key, Sequence[float]]]:
    words = content.cast("d")
    at = 0
    while at < len(words):
        width = int(words[at])
        if not width:
            at = (at // _BLOCK + 1) * _BLOCK
            continue
        length = int(words[at + 1])
        name = bytes(content[(at + 2) * _WORD :][:length])
        first = at + 2 + -(-length // _WORD)
        yield tuple(json.loads(name)), words[first : first + width].tolist()
        at = first + width


def _is_locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False
