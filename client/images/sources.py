"""Image sources: files, folders, patterns, standard input and URLs. Each is read on demand.

Reading neither blocks nor exhausts memory, whatever a path refers to: only regular files are opened.
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

__all__ = ["MOST_BYTES", "STDIN", "ImageSource", "expand", "read_file"]

# The argument for standard input.
STDIN = "-"
# Limit for an encoded image, larger than any camera's.
MOST_BYTES = 64 << 20

_SCHEMES = ("http://", "https://")
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: f"a pipe, which isn't read ({STDIN} reads an image from standard input)",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


@dataclass(frozen=True)
class ImageSource:
    """An image to read: `read` returns its encoded bytes or raises DataError.

    `name` is its argument, or its path in a folder. `path` is None for a source other than a file.
    """

    name: str
    read: Callable[[], bytes]
    path: Path | None = None


def expand(arguments: Sequence[str]) -> list[ImageSource]:
    """Return the sources that the arguments name, in their order; a folder's images and a pattern's matches by name.

    An invalid argument, such as a folder without images, becomes a source whose `read` raises DataError.
    """
    return [source for each in arguments for source in _expand(each)]


def read_file(path: Path) -> bytes:
    """Return a regular file's bytes, MOST_BYTES at most. Raises DataError for anything else, and never blocks."""
    try:
        _check(path, path.stat())
        # The path may refer to another file by now: don't block, and don't make a terminal the controlling one.
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
        raise DataError(f"{path}: changed while it was read; try again when it is complete")
    return data


def _check(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        kind = _KINDS.get(stat.S_IFMT(found.st_mode), "no file")
        raise DataError(f"{path}: {kind}; expected an image file")
    if found.st_size > MOST_BYTES:
        raise DataError(_too_large(str(path)))


def _too_large(name: str) -> str:
    return f"{name}: more than {MOST_BYTES >> 20} MiB; expected an image"


def _expand(argument: str) -> Iterator[ImageSource]:
    if argument == STDIN:
        yield ImageSource(STDIN, _read_stdin)
    elif argument.lower().startswith(_SCHEMES):
        yield ImageSource(argument, functools.partial(_download, argument))
    elif os.path.isdir(argument):  # noqa: PTH112 - Path.is_dir raises for long names
        yield from _folder(Path(argument))
    elif not os.path.lexists(argument) and glob.has_magic(argument):
        matches = sorted(glob.glob(argument))  # noqa: PTH207 - of a pattern that may begin with /
        if not matches:
            yield _failing(argument, "no file matches this pattern; expected at least one")
        for match in matches:
            yield from _folder(Path(match)) if os.path.isdir(match) else [_file(Path(match))]  # noqa: PTH112
    else:
        yield _file(Path(argument))


def _file(path: Path) -> ImageSource:
    return ImageSource(str(path), functools.partial(read_file, path), path)


def _folder(path: Path) -> Iterator[ImageSource]:
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
        yield _failing(str(path), f"no images in this folder; looked for {', '.join(sorted(SUFFIXES))}")
    for name in names:
        yield _file(path / name)


def _failing(name: str, problem: str) -> ImageSource:
    def read() -> bytes:
        raise DataError(f"{name}: {problem}")

    return ImageSource(name, read)


def _read_stdin() -> bytes:
    name = "standard input"
    if sys.stdin is None or sys.stdin.closed:
        raise DataError(f"{name}: closed; expected an image, piped into this command")
    if sys.stdin.isatty():
        raise DataError(f"{name}: a terminal; expected an image, such as by < digit.png")
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
