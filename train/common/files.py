"""Atomic files: written under a temporary name, synced to disk, renamed."""

import contextlib
import hashlib
import json
import os
import re
import shutil
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tfship.train.common import interruption
from tfship.train.common.errors import ArtifactError

__all__ = [
    "DAMAGED",
    "publish",
    "read_json",
    "sha256",
    "stage",
    "staged",
    "sweep",
    "write_bytes",
    "write_json",
]

# Exceptions that zipfile, gzip, zlib and numpy's header parser raise for damaged files.
DAMAGED = (ValueError, KeyError, EOFError, OSError, zipfile.BadZipFile, zlib.error, NotImplementedError)

# Hidden, so that neither globs nor model servers (which look for integers) find it. The process id shows whether the
# writer is still alive.
_STAGE = re.compile(r"\.stage-(\d+)-")


@contextlib.contextmanager
def stage(folder: Path, name: str) -> Iterator[Path]:
    """Yield a temporary path in `folder` for a file or a folder, which is removed at the end unless published.

    Its name ends in `name`, since some writers depend on the suffix. `publish` gives it the final name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sweep(folder)
    path = folder / f".stage-{os.getpid()}-{name}"
    _remove(path)
    try:
        with interruption.cleanup(lambda: _remove(path)):
            yield path
    finally:
        _remove(path)


def publish(staged_path: Path, final: Path) -> None:
    """Sync `staged_path` to disk and rename it to `final`, atomically.

    A file replaces an existing one. A folder must be new: OSError if `final` is a folder with contents.
    """
    sync(staged_path)
    staged_path.rename(final)
    sync(final.parent, contents=False)


@contextlib.contextmanager
def staged(final: Path) -> Iterator[Path]:
    """Yield a temporary path that becomes `final` unless the body raises; then `final` is unchanged."""
    with stage(final.parent, final.name) as path:
        yield path
        publish(path, final)


def sweep(folder: Path) -> None:
    """Remove the stages in `folder` whose writers are no longer alive."""
    for path in folder.glob(".stage-*"):
        match = _STAGE.match(path.name)
        if match and not _alive(int(match[1])):
            _remove(path)


def sync(path: Path, *, contents: bool = True) -> None:
    """Sync `path` to disk, and everything below it unless `contents` is false."""
    for entry in [path, *(sorted(path.rglob("*")) if contents and path.is_dir() else [])]:
        descriptor = os.open(entry, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path` atomically."""
    with staged(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON atomically; ValueError for NaN and infinity."""
    write_bytes(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """Return the contents of a JSON file; ArtifactError if it is missing or damaged."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise ArtifactError(f"{path}: no such file") from None
    except ValueError as error:
        raise ArtifactError(f"{path}: not JSON ({error})") from None


def sha256(*paths: Path) -> str:
    """Return the sha256 of the files' bytes, one after the other (like `cat … | sha256sum`)."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
