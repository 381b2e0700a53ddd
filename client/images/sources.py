"""Where pictures come from: files, folders, patterns, stdin and URLs, each read when its turn comes.

Nothing that a path may be makes the reader wait or fills the memory: what isn't a file isn't opened.
"""

import errno
import functools
import glob
import os
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tfship.client.images.preprocessing import SUFFIXES
from tfship.train.common.errors import DataError

__all__ = ["MOST_BYTES", "STDIN", "PictureSource", "expand", "read_file"]

# What stands for standard input.
STDIN = "-"
# More than any camera's picture, and a bound on what one of them may take.
MOST_BYTES = 64 << 20

_SCHEMES = ("http://", "https://")
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: f"a pipe, which isn't waited for ({STDIN} reads one picture from standard input)",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


@dataclass(frozen=True)
class PictureSource:
    """One picture: `name` as it was given or found, `read` returns its encoded bytes or raises DataError.

    `path` is that of a file, None for others.
    """

    name: str
    read: Callable[[], bytes]
    path: Path | None = None


def expand(arguments: Sequence[str]) -> list[PictureSource]:
    """Return what the arguments name, in their order; a folder's pictures and a pattern's matches by name.

    What is no picture, such as a folder without any, is a source whose `read` raises DataError.
    """
    return [source for each in arguments for source in _expand(each)]


def read_file(path: Path) -> bytes:
    """Return a file's bytes, MOST_BYTES at most. Raises DataError, and never waits, for whatever else it is."""
    try:
        _check(path, path.stat())
        # Something else may lie there by now: without waiting for it, without making it our terminal.
        flags = (
            os.O_RDONLY
            | getattr(os, "O_NONBLOCK", 0)
            | getattr(os, "O_NOCTTY", 0)
            | getattr(os, "O_BINARY", 0)
        )
        with open(os.open(path, flags), "rb") as file:  # noqa: PTH123 - of a descriptor
            before = os.fstat(file.fileno())
            _check(path, before)
            data = file.read(MOST_BYTES + 1)
            after = os.fstat(file.fileno())
    except OSError as error:
        missing = error.errno == errno.ENOENT
        raise DataError(
            f"{path}: no such file" if missing else f"{path}: can't be read ({error.strerror})"
        ) from error
    if len(data) > MOST_BYTES:
        raise DataError(_too_large(str(path)))
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise DataError(f"{path}: changed while it was read; expected a finished picture, so try again")
    return data


def _check(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        kind = _KINDS.get(stat.S_IFMT(found.st_mode), "no file")
        raise DataError(f"{path}: {kind}; expected a picture file")
    if found.st_size > MOST_BYTES:
        raise DataError(_too_large(str(path)))


def _too_large(name: str) -> str:
    return f"{name}: more than {MOST_BYTES >> 20} MiB; expected a picture"


def _expand(argument: str) -> Iterator[PictureSource]:
    if argument == STDIN:
        yield PictureSource(STDIN, _read_stdin)
    elif argument.lower().startswith(_SCHEMES):
        yield PictureSource(argument, functools.partial(_download, argument))
    elif os.path.isdir(argument):  # noqa: PTH112 - Path's raises for names that are too long
        yield from _folder(Path(argument))
    elif not os.path.lexists(argument) and glob.has_magic(argument):
        matches = sorted(glob.glob(argument))  # noqa: PTH207 - of a pattern that may begin with /
        if not matches:
            yield _failing(argument, "no file matches this pattern; expected one or more")
        for match in matches:
            yield from _folder(Path(match)) if os.path.isdir(match) else [_file(Path(match))]  # noqa: PTH112
    else:
        yield _file(Path(argument))


def _file(path: Path) -> PictureSource:
    return PictureSource(str(path), functools.partial(read_file, path), path)


def _folder(path: Path) -> Iterator[PictureSource]:
    try:
        with os.scandir(path) as entries:
            names = sorted(
                each.name
                for each in entries
                if os.path.splitext(each.name)[1].lower() in SUFFIXES and not each.is_dir()  # noqa: PTH122
            )
    except OSError as error:
        yield _failing(str(path), f"a folder that can't be read ({error.strerror})")
        return
    if not names:
        yield _failing(str(path), f"no pictures in this folder; looked for {', '.join(sorted(SUFFIXES))}")
    for name in names:
        yield _file(path / name)


def _failing(name: str, problem: str) -> PictureSource:
    def read() -> bytes:
        raise DataError(f"{name}: {problem}")

    return PictureSource(name, read)


def _read_stdin() -> bytes:
    name = "standard input"
    if sys.stdin is None or sys.stdin.closed:
        raise DataError(f"{name}: closed; expected a picture, piped into this command")
    if sys.stdin.isatty():
        raise DataError(f"{name}: a terminal; expected a picture, such as by < digit.png")
    try:
        data = sys.stdin.buffer.read(MOST_BYTES + 1)
    except OSError as error:
        raise DataError(f"{name}: can't be read ({error.strerror})") from error
    if len(data) > MOST_BYTES:
        raise DataError(_too_large(name))
    return data


def _download(url: str) -> bytes:
    from tfship.client.images.download import download

    return download(url, MOST_BYTES)
