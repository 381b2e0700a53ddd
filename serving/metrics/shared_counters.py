"""Counters that each worker writes separately and that every worker can read.

A worker's counters are float64 in a file that it maps into memory. Counting is an addition in memory, and the counters
survive if the worker is killed. A living worker holds a lock on its file, which the kernel releases when it ends, so
that the others know whose gauges are valid. With a single process, all counters stay in memory.

prometheus_client's multiprocess mode is similar, but takes a lock, gets the process ID and looks up a key for each
number: 15 µs per request instead of 4. It also must be notified of ended workers, and a scrape fails while a worker
starts.
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

# Key of a row: the metric's name and the values of its labels.
Key = tuple[str, ...]

_SUFFIX = ".tally"
_WORD = 8  # bytes of a float64, the unit of the file format
# Words by which a file grows: room for about 40 combinations of model, API and entry point. A multiple of page sizes.
_BLOCK = 8192


@dataclass(frozen=True)
class Worker:
    """A process and its rows by key; `lives` is whether it is still running."""

    pid: int
    lives: bool
    rows: dict[Key, Sequence[float]]


class Tally:
    """Counters of this process: in a file in `folder`, which other workers read, or in memory if it is None.

    Raises UsageError if `folder` isn't writable. Only one thread at a time may call the methods and change rows.

    The file consists of blocks of 8,192 words. A block contains rows and ends with a word 0. A row consists of the
    number of counters, the key's length in bytes, the key as JSON padded to whole words, and the counters.
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
                    f"{folder}: can't hold the workers' metrics ({error.strerror}); expected a writable directory, "
                    "created by the main process"
                ) from error

    def row(self, key: Key, width: int) -> "memoryview[float]":
        """Return a new row for `key`, zeros float64 [width], for changes in place."""
        name = json.dumps(key).encode()
        padded = name.ljust(-(-len(name) // _WORD) * _WORD)
        size = 2 * _WORD + len(padded) + width * _WORD
        try:
            if size > len(self._free):
                self._extend(size)
            entry, self._free = self._free[:size], self._free[size:]
        except OSError as error:
            # A full disk must not fail requests: they are counted in memory that the page doesn't show.
            log.warning("%s: %s; the metrics page lacks %s", self._folder, error.strerror, name.decode())
            entry = memoryview(bytearray(size))
        words = entry.cast("d")
        entry[2 * _WORD : 2 * _WORD + len(padded)] = padded
        words[1] = len(name)
        # Written last, by one atomic store that makes the row visible to other processes.
        words[0] = width
        self._rows[key] = row = words[-width:]
        return row

    def workers(self) -> list[Worker]:
        """Return all workers of the server, including this one and ended ones."""
        if self._folder is None:
            return [Worker(os.getpid(), True, {key: row.tolist() for key, row in self._rows.copy().items()})]
        return [_read(path) for path in sorted(self._folder.glob(f"*{_SUFFIX}"))]

    def close(self) -> None:
        """Mark this worker as ended; its counters stay in the folder."""
        if self._file >= 0:
            # Closing isn't enough: the mapping keeps the file open, and with it the lock.
            fcntl.flock(self._file, fcntl.LOCK_UN)
            os.close(self._file)
            self._file = -1

    def _open(self, folder: Path) -> None:
        # Process IDs may be reused, and the counters of the earlier process must be kept.
        name = f"{os.getpid()}-{time.time_ns()}"
        # Other workers look for the suffix, so that they see the file only when it is complete and locked.
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
        # Written, not only extended: on a full disk, access to an unallocated page would kill the process.
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
