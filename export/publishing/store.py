"""The model store: `<models>/<name>/<N>/`, where a version directory that exists is whole.

TensorFlow Serving loads the integer-named folders of a base path and skips everything else. So a version is
built in a hidden stage and appears by one rename; and it is taken out of service by one, to `retired-<N>`, which
a server that watches the folder unloads, and back.
"""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

from tfship.train.common.errors import ArtifactError, UsageError
from tfship.train.common.files import publish, stage, sync

__all__ = [
    "Draft",
    "draft",
    "latest",
    "restore",
    "retire",
    "retired",
    "rollback",
    "scan",
    "servables",
    "versions",
]

# ASCII digits only: `int` takes much more, such as "1_0". Hidden and staged directories don't match.
_VERSION = re.compile(r"[0-9]+")
_RETIRED = re.compile(r"retired-([0-9]+)")
_LARGEST = 2**63 - 1  # a version is an int64 in the protocol


class Draft:
    """A version that is being built in `folder`; `publish` gives it the next number."""

    def __init__(self, base: Path, folder: Path) -> None:
        self._base = base
        self.folder = folder

    def publish(self) -> Path:
        """Make the draft visible as one above the highest version there ever was, and return its directory.

        The number of a retired version isn't given again: a server that has seen it would take the new one for
        the old.
        """
        while True:
            number = max([*versions(self._base), *retired(self._base)], default=0) + 1
            final = self._base / str(number)
            try:
                publish(self.folder, final)
            except OSError:
                # Another export took the number between the look and the rename: take the next one.
                if not final.exists():
                    raise
            else:
                return final


@contextlib.contextmanager
def draft(base: Path) -> Iterator[Draft]:
    """Yield a `Draft` of a new version of the servable at `base`; unpublished, it is removed at the end."""
    with stage(base, "version") as folder:
        folder.mkdir()
        yield Draft(base, folder)


def scan(base: Path) -> dict[int, Path]:
    """Return the integer-named directories in `base` by number, lowest first. Raises OSError if unreadable."""
    found: dict[int, Path] = {}
    # Sorted, so that of "1" and "01" it is always the same one that counts.
    for path in sorted(base.iterdir()):
        if _VERSION.fullmatch(path.name) and path.is_dir() and int(path.name) <= _LARGEST:
            found.setdefault(int(path.name), path)
    return dict(sorted(found.items()))


def versions(base: Path) -> dict[int, Path]:
    """Return what `scan` finds, or nothing where the servable has no base path yet."""
    return scan(base) if base.is_dir() else {}


def servables(models: Path) -> list[str]:
    """Return the names of the servables in a folder of models: those that have a version."""
    if not models.is_dir():
        return []
    return sorted(path.name for path in models.iterdir() if path.is_dir() and scan(path))


def retired(base: Path) -> dict[int, Path]:
    """Return the directories of retired versions by number, lowest first."""
    found = {}
    for path in base.glob("retired-*"):
        match = _RETIRED.fullmatch(path.name)
        if match and path.is_dir():
            found[int(match[1])] = path
    return dict(sorted(found.items()))


def latest(base: Path) -> Path:
    """Return the directory of the highest version; ArtifactError if there is none."""
    found = versions(base)
    if not found:
        raise ArtifactError(f"{base}: holds no version directory (1, 2, …); run `tfship export` first")
    return found[max(found)]


def retire(base: Path, number: int) -> Path:
    """Take a version out of service and return where it lies now. The last one there is isn't taken."""
    found = versions(base)
    if number not in found:
        raise ArtifactError(f"{base}: holds no version {number}; there are {_listed(found)}")
    if len(found) == 1:
        raise UsageError(
            f"{found[number]}: the only version there is; without it a server has nothing to serve, so it stays"
        )
    return _move(found[number], base / f"retired-{number}")


def rollback(base: Path) -> tuple[Path, Path]:
    """Take the latest version out of service; return where it lies now, and the version that is latest then."""
    moved = retire(base, max(versions(base), default=0))
    return moved, latest(base)


def restore(base: Path, number: int | None = None) -> Path:
    """Put a retired version, by default the highest one, back into service and return its directory."""
    found = retired(base)
    if number is None:
        number = max(found, default=0)
    if number not in found:
        raise ArtifactError(
            f"{base}: has no retired version{f' {number}' * bool(number)}; there are {_listed(found)}"
        )
    return _move(found[number], base / str(number))


def _move(path: Path, final: Path) -> Path:
    path.rename(final)
    sync(final.parent, contents=False)
    return final


def _listed(found: dict[int, Path]) -> str:
    return ", ".join(map(str, found)) or "none"
