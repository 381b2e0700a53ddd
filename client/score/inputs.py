"""Images to score: files, folders, patterns, Parquet files and object storage, divided into chunks.

The order is that of the arguments; a folder's and a pattern's files are sorted by path. A chunk names images and holds
none, so that workers on other machines read them there.
"""

import glob
import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tfship.client.images.preprocessing import SUFFIXES
from tfship.client.images.sources import STDIN
from tfship.client.score.chunks import Chunk, ImageFiles, RowGroups, open_parquet
from tfship.export.storage.filesystems import filesystem, is_url, translated
from tfship.train.common import interruption
from tfship.train.common.errors import DataError, UsageError

__all__ = ["BATCH", "Inputs", "find"]

# Images per chunk, by default: enough to make the engine's part small, few enough for a smooth end.
BATCH = 256

_TABLES = (".parquet", ".pq")
_IMAGES = tuple(SUFFIXES)
_MAGIC = "*?["
# The names of columns that are taken for an image's name, if a table has one.
_NAMES = ("path", "file_name", "filename", "image_id", "id")


@dataclass(frozen=True)
class Inputs:
    """All images of a job: their `chunks` in order, and a `digest` of names, sizes and times of change.

    `options` are those that the chunks were made with.
    """

    chunks: tuple[Chunk, ...]
    digest: str
    options: Mapping[str, Any]

    @property
    def rows(self) -> int:
        """The number of images."""
        return sum(each.rows for each in self.chunks)


@dataclass(frozen=True)
class _Found:
    """A file, `stamp` changes with its contents."""

    name: str
    stamp: str

    @property
    def is_table(self) -> bool:
        return self.name.lower().endswith(_TABLES)


def find(
    arguments: Sequence[str], batch: int, image_column: str, name_column: str | None, without: Sequence[Path]
) -> Inputs:
    """Return the images that the arguments name, in chunks of `batch` images.

    A Parquet file is divided between its row groups. Files that are named twice are scored once. Files in folders are
    left out if they are one of `without` or below it. Raises DataError if an argument names no image, UsageError for
    standard input and for web pages, and what the storage raises.
    """
    found = {each.name: each for argument in arguments for each in _expand(argument, without)}
    digest = hashlib.sha256()
    for each in found.values():
        digest.update(f"{each.name}\0{each.stamp}\n".encode(errors="surrogateescape"))
    chunks = _chunks(found.values(), batch, image_column, name_column)
    options = {"batch": batch, "image_column": image_column, "name_column": name_column}
    return Inputs(tuple(chunks), digest.hexdigest(), options)


def _chunks(
    found: Iterable[_Found], batch: int, image_column: str, name_column: str | None
) -> Iterator[Chunk]:
    names: list[str] = []
    for each in found:
        interruption.check()
        if names and (each.is_table or len(names) == batch or is_url(each.name) != is_url(names[0])):
            yield ImageFiles(tuple(names))
            names = []
        if each.is_table:
            yield from _row_groups(each.name, batch, image_column, name_column)
        else:
            names.append(each.name)
    if names:
        yield ImageFiles(tuple(names))


def _row_groups(name: str, batch: int, image_column: str, name_column: str | None) -> Iterator[Chunk]:
    with open_parquet(name) as table:
        schema, metadata = table.schema_arrow, table.metadata
    _check_columns(schema, name, image_column, name_column)
    names = name_column or next((each for each in _NAMES if each in schema.names), None)
    chunk = RowGroups(name, 0, 0, 0, 0, 0, image_column, names)
    for group in range(metadata.num_row_groups):
        rows = metadata.row_group(group).num_rows
        if chunk.rows and chunk.rows + rows > batch:
            yield chunk
            chunk = replace(chunk, first=group, before=chunk.before + chunk.rows, stop=0)
        chunk = replace(chunk, last=group + 1, stop=chunk.rows + rows)
    if chunk.rows:
        yield chunk


def _check_columns(schema: Any, name: str, image_column: str, name_column: str | None) -> None:
    import pyarrow as pa

    def is_bytes(kind: Any) -> bool:
        return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))

    if image_column in schema.names:
        kind = schema.field(image_column).type
        nested = pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0
        if is_bytes(kind) or (nested and is_bytes(kind.field("bytes").type)):
            if name_column is None or name_column in schema.names:
                return
            image_column = name_column
    columns = ", ".join(f"{each.name} ({each.type})" for each in schema)
    raise DataError(
        f"{name}: expected a column {image_column} with encoded images, or names; found {columns}. Choose columns by "
        "--image-column and --name-column"
    )


def _expand(argument: str, without: Sequence[Path]) -> Iterator[_Found]:
    if argument == STDIN or argument.lower().startswith(("http://", "https://")):
        raise UsageError(
            f"{argument}: expected files, folders, patterns or object storage; use tfship predict"
        )
    found = _remote(argument) if is_url(argument) else _local(argument, without)
    empty = True
    for each in found:
        interruption.check()
        empty = False
        yield each
    if empty:
        raise DataError(f"{argument}: no images found; expected {', '.join(sorted(_IMAGES))} or {_TABLES[0]}")


def _local(argument: str, without: Sequence[Path]) -> Iterator[_Found]:
    if os.path.lexists(argument):
        matches = [argument]
    elif glob.has_magic(argument):
        matches = sorted(glob.glob(argument, recursive=True))  # noqa: PTH207 - of a pattern that may begin with /
    else:
        raise DataError(f"{argument}: no such file or folder")
    for match in matches:
        path = Path(match)
        if path.is_dir():
            for each in _walk(path, without):
                yield _stamped(each)
        elif matches == [argument] or path.resolve() not in without:
            yield _stamped(path)


def _walk(folder: Path, without: Sequence[Path]) -> list[Path]:
    """Return the images and tables below a folder, sorted by path; hidden files and folders are left out."""
    found = []
    for parent, folders, names in os.walk(folder):
        interruption.check()
        here = Path(parent).resolve()
        folders[:] = [each for each in folders if not each.startswith(".") and here / each not in without]
        left_out = {each.name for each in without if each.parent == here}
        found += [
            os.path.join(parent, name)  # noqa: PTH118 - many
            for name in names
            if name.lower().endswith((*_IMAGES, *_TABLES))
            and not name.startswith(".")
            and name not in left_out
        ]
    return list(map(Path, sorted(found)))


def _stamped(path: Path) -> _Found:
    try:
        status = path.stat()
    except OSError:  # a row with an error, when it is read
        return _Found(str(path), "")
    return _Found(str(path), f"{status.st_size} {status.st_mtime_ns}")


def _remote(url: str) -> Iterator[_Found]:
    storage, path = filesystem(url)
    scheme = url.partition("://")[0]
    pattern = any(each in path for each in _MAGIC)
    suffixes = (*_IMAGES, *_TABLES)
    with translated(url):
        if pattern:
            listed = storage.glob(path, detail=True)
        elif path.lower().endswith(suffixes) and storage.isfile(path):
            listed = {path: storage.info(path)}
        else:
            listed = storage.find(path, detail=True)
    if pattern:
        listed = {name: each for name, each in listed.items() if each["type"] == "file"}
    elif list(listed) != [path]:
        listed = {
            name: each
            for name, each in listed.items()
            if name.lower().endswith(suffixes) and "/." not in name.removeprefix(path)
        }
    for name, each in sorted(listed.items()):
        # Each storage has its own name for what changes with the contents.
        stamps = [
            each.get(key)
            for key in ("size", "ETag", "etag", "md5Hash", "generation", "mtime", "LastModified")
        ]
        yield _Found(f"{scheme}://{name}", " ".join(str(stamp) for stamp in stamps if stamp is not None))
