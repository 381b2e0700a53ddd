"""Chunks of images: what a worker scores at a time. A chunk names its images, and reads them when it is scored."""

import contextlib
import functools
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tfship.client.images.sources import MOST_BYTES, ImageSource, read_file
from tfship.export.storage.filesystems import filesystem, is_url, translated
from tfship.train.common import cli
from tfship.train.common.errors import ArtifactError, DataError, Refused, Unreachable

__all__ = ["Chunk", "ImageFiles", "RowGroups", "open_parquet"]

# Objects that a worker requests at a time, since each takes some 20 to 100 ms and little of the processor.
_REQUESTS = 16
# Rows of a Parquet file that are decoded at a time.
_ROWS = 64


@dataclass(frozen=True)
class ImageFiles:
    """Image files: all by path, or all by URL."""

    names: tuple[str, ...]

    @property
    def rows(self) -> int:
        """The number of images."""
        return len(self.names)

    def single(self, row: int) -> "ImageFiles":
        """Return the chunk of one image."""
        return ImageFiles(self.names[row : row + 1])

    def sources(self) -> Iterator[ImageSource]:
        """Yield the images. Objects are requested ahead, `_REQUESTS` at a time. Raises Unreachable."""
        if not is_url(self.names[0]):
            for name in self.names:
                yield ImageSource(name, functools.partial(_read, name))
            return
        with ThreadPoolExecutor(_REQUESTS) as threads:
            ahead: deque[ImageSource] = deque()
            try:
                for name in self.names:
                    ahead.append(ImageSource(name, threads.submit(_read, name).result))
                    if len(ahead) == _REQUESTS:
                        yield ahead.popleft()
                yield from ahead
            finally:
                threads.shutdown(wait=False, cancel_futures=True)


@dataclass(frozen=True)
class RowGroups:
    """The rows `start` to `stop` of a Parquet file's row groups `first` to `last` (exclusive), counted from `before`.

    `column` holds the images, as bytes or as structs with bytes and a path, and `names` their names, None for the
    struct's path, or else the file's name and the row number.
    """

    file: str
    first: int
    last: int
    before: int
    start: int
    stop: int
    column: str
    names: str | None

    @property
    def rows(self) -> int:
        """The number of images."""
        return self.stop - self.start

    def single(self, row: int) -> "RowGroups":
        """Return the chunk of one image."""
        return replace(self, start=self.start + row, stop=self.start + row + 1)

    def sources(self) -> Iterator[ImageSource]:
        """Yield the images; those that can't be read fail, as in a damaged file. Raises Unreachable."""
        following = self.start
        try:
            for row, image, name in self._read():
                following = row + 1
                yield self._source(row, image, name)
        except DataError as error:
            problem = str(error).removeprefix(f"{self.file}: ")
            for row in range(following, self.stop):
                yield _failing(self._name(row), problem)

    def _read(self) -> Iterator[tuple[int, Any, Any]]:
        """Yield each row's number, image and name."""
        columns = [self.column] if self.names is None else [self.column, self.names]
        with open_parquet(self.file) as table:
            row = 0
            for batch in table.iter_batches(_ROWS, list(range(self.first, self.last)), columns):
                images = batch.column(self.column)
                names = None if self.names is None else batch.column(self.names)
                for index in range(len(images)):
                    if self.start <= row < self.stop:
                        yield row, images[index].as_py(), names and names[index].as_py()
                    row += 1

    def _name(self, row: int) -> str:
        return f"{self.file}#{self.before + row}"

    def _source(self, row: int, image: Any, name: Any) -> ImageSource:
        if isinstance(image, dict):
            name = name or image.get("path")
            image = image["bytes"]
        name = self._name(row) if name is None else str(name)

        def read() -> bytes:
            if image is None:
                raise DataError(f"{name}: null; expected an encoded image")
            if len(image) > MOST_BYTES:
                raise DataError(f"{name}: more than {MOST_BYTES >> 20} MiB; expected an image")
            return bytes(image)

        return ImageSource(name, read)


Chunk = ImageFiles | RowGroups


@contextlib.contextmanager
def open_parquet(name: str) -> Iterator[Any]:
    """Open a Parquet file by path or URL. Raises DataError if it can't be read, and what the storage raises."""
    from pyarrow import ArrowException, parquet

    with contextlib.ExitStack() as stack:
        try:
            if is_url(name):
                stack.enter_context(translated(name))
                storage, path = filesystem(name)
                file: Any = stack.enter_context(storage.open(path, "rb"))
            else:
                file = stack.enter_context(Path(name).open("rb"))
            yield stack.enter_context(parquet.ParquetFile(file))
        # pyarrow raises OSError without a number for some damaged files.
        except (ArrowException, OSError) as error:
            if isinstance(error, OSError) and error.errno and is_url(name):
                raise
            reason = getattr(error, "strerror", None) or cli.one_line(error)
            raise DataError(f"{name}: not a Parquet file, or it can't be read ({reason})") from error


def _failing(name: str, problem: str) -> ImageSource:
    def read() -> bytes:
        raise DataError(f"{name}: {problem}")

    return ImageSource(name, read)


def _read(name: str) -> bytes:
    if not is_url(name):
        return read_file(Path(name))
    try:
        storage, path = filesystem(name)
        try:
            with translated(name):
                # One byte more than allowed shows that an object is too large.
                data: bytes = storage.cat_file(path, start=0, end=MOST_BYTES + 1)
        except Unreachable:
            # S3 refuses a range of an empty object.
            with translated(name):
                if storage.size(path):
                    raise
            data = b""
    except (ArtifactError, Refused) as error:
        # Of this image alone: the others are listed, so the storage can be reached.
        raise DataError(str(error)) from error
    if len(data) > MOST_BYTES:
        raise DataError(f"{name}: more than {MOST_BYTES >> 20} MiB; expected an image")
    return data
