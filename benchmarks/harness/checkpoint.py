"""What a run has measured so far, on disk: a run that is interrupted goes on where it was.

A folder of small files, one for each thing that was measured, written whole or not at all. The folder is named by
a digest of everything that decides what is measured, so a run takes up only what it would measure itself.
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

_BEGUN = "begun.json"


class Journal:
    """The record of one run below `folder`.

    `what` is everything that decides what is measured, as JSON. `resumed` are the times at which the run was taken
    up again, this one too, as ISO 8601 in UTC; empty where it begins now.
    """

    def __init__(self, folder: Path, what: dict[str, Any]) -> None:
        digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]
        self.folder = folder / digest
        begun = self.folder / _BEGUN
        now = datetime.now(UTC).isoformat(timespec="seconds")
        times: list[str] = read_json(begun) if begun.is_file() else []
        self.resumed = [*times[1:], now] if times else []
        _write(begun, [*times, now])

    def part(self, name: str) -> MutableMapping[str, Any]:
        """Return a part of the record: JSON values by name. Setting one writes it."""
        return _Part(self.folder, name)

    def __len__(self) -> int:
        """How many things were measured."""
        return sum(1 for _ in self.folder.glob("*/[!.]*.json"))

    def remove(self) -> None:
        """Forget it all: the results are written."""
        shutil.rmtree(self.folder)
        with contextlib.suppress(OSError):  # other runs' records are there
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
                    f"{path}: no record of a benchmark; delete {self._folder.parent}"
                ) from None

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def __setitem__(self, key: str, value: Any) -> None:
        digest = hashlib.sha256(key.encode()).hexdigest()[:16]
        _write(self._folder / f"{digest}.json", {"part": self._name, "key": key, "value": value})
        self._values[key] = value

    def __delitem__(self, key: str) -> None:
        raise TypeError("what was measured stays")

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


def _write(path: Path, value: Any) -> None:
    # Without indentation: a window has up to 20,000 samples.
    write_bytes(path, json.dumps(value, allow_nan=False).encode())
