"""The finished parts of a job, from which an interrupted job goes on, and their union, the result.

Parts lie in a folder next to the result, `NAME.parts`, with `job.json`, which identifies the job. Each part is written
under a temporary name and renamed, so a part that exists is complete.
"""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfship.client.score.chunks import Chunk
from tfship.client.score.scorer import schema
from tfship.export.preprocessing.input_contract import INDEPENDENT
from tfship.train.common import interruption
from tfship.train.common.errors import ArtifactError, UsageError
from tfship.train.common.files import read_json, staged, sweep, write_json

__all__ = ["KEY", "Part", "Parts", "folder_of", "parts_of"]

# The key of the job's description in the metadata of the Parquet file.
KEY = b"tfship"
_JOB = "job.json"


@dataclass(frozen=True)
class Part:
    """A run of chunks, from number `first`, whose rows are written at once."""

    number: int
    first: int
    chunks: tuple[Chunk, ...]

    @property
    def rows(self) -> int:
        """The number of images."""
        return sum(each.rows for each in self.chunks)

    @property
    def numbers(self) -> range:
        """The numbers of the chunks."""
        return range(self.first, self.first + len(self.chunks))


def parts_of(chunks: Sequence[Chunk], rows: int) -> list[Part]:
    """Divide chunks into parts of at most `rows` images, or one chunk."""
    parts: list[Part] = []
    first, size = 0, 0
    for number, chunk in enumerate(chunks):
        if number > first and size + chunk.rows > rows:
            parts.append(Part(len(parts), first, tuple(chunks[first:number])))
            first, size = number, 0
        size += chunk.rows
    if chunks:
        parts.append(Part(len(parts), first, tuple(chunks[first:])))
    return parts


def folder_of(out: Path) -> Path:
    """Return the folder of the parts of the result `out`."""
    return out.with_name(f"{out.name}.parts")


class Parts:
    """The parts of the job that writes `out`.

    `job` describes it by name: all that decides the rows. With `restart`, the parts of another job are removed. Raises
    UsageError without it.
    """

    def __init__(self, out: Path, job: Mapping[str, Any], parts: Sequence[Part], *, restart: bool) -> None:
        self._out, self._folder, self._job, self._parts = out, folder_of(out), dict(job), parts
        self.kind: str | None = None
        if self._folder.exists():
            sweep(self._folder)
            found = self._read()
            if restart:
                shutil.rmtree(self._folder)
            elif found is not None:
                self.kind = found.pop("kind")
                self._check_same(found)
                return
        write_json(self._folder / _JOB, {**self._job, "kind": None})

    def _read(self) -> dict[str, Any] | None:
        """Return the description of the folder's job, None for an empty folder. Raises UsageError for another one."""
        if not any(self._folder.iterdir()):
            return None
        try:
            found = read_json(self._folder / _JOB)
            if isinstance(found, dict) and "kind" in found:
                return found
        except ArtifactError:
            pass
        raise UsageError(f"{self._folder}: not the parts of a job; remove it, or choose another --out")

    def _check_same(self, found: Mapping[str, Any]) -> None:
        changed = [name for name in {**found, **self._job} if found.get(name) != self._job.get(name)]
        if changed:
            raise UsageError(
                f"{self._folder}: holds parts of another job, with {_differences(found, self._job, changed)}; use "
                "--restart to discard them, or another --out"
            )

    def settle(self, kind: str) -> None:
        """Record the kind of the model's raw outputs."""
        if kind != self.kind:
            self.kind = kind
            write_json(self._folder / _JOB, {**self._job, "kind": kind})

    def unfinished(self) -> list[Part]:
        """Return the parts that aren't finished."""
        return [each for each in self._parts if not self._is_finished(each)]

    def write(self, part: Part, tables: Sequence[Any]) -> None:
        """Write a part's rows; `tables` are those of its chunks, in order."""
        import pyarrow as pa
        from pyarrow import parquet

        rows = pa.concat_tables(tables)
        if rows.num_rows != part.rows:
            raise ArtifactError(
                f"part {part.number}: expected {part.rows} rows, found {rows.num_rows}: the images have changed since "
                "the job began; start it again with --restart"
            )
        with staged(self._path(part)) as path:
            parquet.write_table(rows, path, compression="zstd")

    def join(self, meaning: str, about: Mapping[str, Any]) -> tuple[int, int]:
        """Write the result and remove the parts. Return the numbers of rows and of errors.

        `meaning` is that of the scores, and `about` is stored in the file's metadata, as JSON.
        """
        from pyarrow import parquet

        columns = [name for name in schema().names if name != "labels" or meaning == INDEPENDENT]
        rows = errors = 0
        with staged(self._out) as path:
            final = schema().remove_metadata()
            for name in set(final.names) - set(columns):
                final = final.remove(final.get_field_index(name))
            final = final.with_metadata({KEY: json.dumps(dict(about)).encode()})
            with parquet.ParquetWriter(path, final, compression="zstd") as writer:
                for table in self._tables(columns):
                    interruption.check()
                    writer.write_table(table.replace_schema_metadata(final.metadata))
                    rows += table.num_rows
                    errors += table.num_rows - table.column("error").null_count
        shutil.rmtree(self._folder)
        return rows, errors

    def _tables(self, columns: Sequence[str]) -> Iterator[Any]:
        from pyarrow import parquet

        for part in self._parts:
            yield parquet.read_table(self._path(part), columns=columns)

    def _path(self, part: Part) -> Path:
        return self._folder / f"part-{part.number:06}.parquet"

    def _is_finished(self, part: Part) -> bool:
        from pyarrow import ArrowException, parquet

        path = self._path(part)
        try:
            return bool(parquet.read_metadata(path).num_rows == part.rows)
        except (ArrowException, OSError):  # missing, or damaged by a full disk
            return False


def _differences(found: Mapping[str, Any], job: Mapping[str, Any], changed: Sequence[str]) -> str:
    words = [f"{name} {_short(found.get(name))} instead of {_short(job.get(name))}" for name in changed]
    return ", ".join(words)


def _short(value: object) -> str:
    """Return a value in a few characters; hashes are cut."""
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) < 64 else f"{text[:12]}…"
