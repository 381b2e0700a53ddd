"""The measurements of an unfinished run, on disk, so that an interrupted run can be resumed.

A folder of small files, one for each measurement, written atomically. The folder's name is a digest of all inputs of
the run, so a run uses only measurements that it would make itself.
"""

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterator, MutableMapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tfship.train.common.errors import ArtifactError
from tfship.train.common.files import read_json, write_bytes

__all__ = ["Journal"]

_STARTS = "begun.json"


class Journal:
    """The measurements of one run below `folder`.

    `inputs` has all inputs of the run, as JSON. `resumed` has the times at which the run was resumed, including this
    time, as ISO 8601 in UTC; empty for a new run.
    """

    def __init__(self, folder: Path, inputs: dict[str, Any]) -> None:
        digest = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:16]
        self.folder = folder / digest
        starts = self.folder / _STARTS
        now = datetime.now(UTC).isoformat(timespec="seconds")
        times: list[str] = read_json(starts) if starts.is_file() else []
        self.resumed = [*times[1:], now] if times else []
        _write(starts, [*times, now])

    def part(self, name: str) -> MutableMapping[str, Any]:
        """Return a part of the journal: JSON values by name. Setting one writes it to disk."""
        return _Part(self.folder, name)

    def __len__(self) -> int:
        """Return the number of files with measurements."""
        return sum(1 for _ in self.folder.glob("*/[!.]*.json"))

    def remove(self) -> None:
        """Delete the journal, after the results are written."""
        shutil.rmtree(self.folder)
        with contextlib.suppress(OSError):  # journals of other runs are there
            self.folder.parent.rmdir()


class _Part(MutableMapping[str, Any]):
    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder / hashlib.sha256(name.encode()).hexdigest()[:16]
        self._name = name
        self._values: dict[str, Any] = {}
        for path in sorted(self._folder.glob("[!.]*.json")):
            entry = read_json(path)
            try:
                self._values[entry["key"]] = entry["value"]
            except (TypeError, KeyError):
                raise ArtifactError(
                    f"{path}: not a measurement of a benchmark; delete {self._folder.parent}"
                ) from None

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def __setitem__(self, key: str, value: Any) -> None:
        digest = hashlib.sha256(key.encode()).hexdigest()[:16]
        _write(self._folder / f"{digest}.json", {"part": self._name, "key": key, "value": value})
        self._values[key] = value

    def __delitem__(self, key: str) -> None:
        raise TypeError("measurements can't be deleted")

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


def _write(path: Path, value: Any) -> None:
    # No indentation, as a window has up to 20,000 samples.
    write_bytes(path, json.dumps(value, allow_nan=False).encode())
