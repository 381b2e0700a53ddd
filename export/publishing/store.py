"""The model store, `<models>/<name>/<N>/`, in which every version directory is complete.

TensorFlow Serving loads the integer-named folders of a base path and ignores all others. A version is therefore built
in a hidden folder and published by one rename. A rename to `retired-<N>` takes it out of service, because servers that
watch the base path then unload it; the reverse rename restores it.
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
    "version",
    "version_number",
    "versions",
]

# ASCII digits only: `int` accepts more, for example "1_0". Hidden directories and drafts don't match.
_VERSION = re.compile(r"[0-9]+")
_RETIRED = re.compile(r"retired-([0-9]+)")
_LARGEST = 2**63 - 1  # a version is an int64 in the protocol


class Draft:
    """A version being built in `folder`; `publish` gives it the next number."""

    def __init__(self, base: Path, folder: Path) -> None:
        self._base = base
        self.folder = folder

    def publish(self) -> Path:
        """Publish the draft as the highest version number plus one, and return its directory.

        Numbers of retired versions aren't reused: a server that knows the number wouldn't load the new version.
        """
        while True:
            number = max([*versions(self._base), *retired(self._base)], default=0) + 1
            final = self._base / str(number)
            try:
                publish(self.folder, final)
            except OSError:
                # Another export has taken the number in the meantime: try the next one.
                if not final.exists():
                    raise
            else:
                return final


@contextlib.contextmanager
def draft(base: Path) -> Iterator[Draft]:
    """Yield a `Draft` of a new version of the servable at `base`; it is removed at the end unless published."""
    with stage(base, "version") as folder:
        folder.mkdir()
        yield Draft(base, folder)


def scan(base: Path) -> dict[int, Path]:
    """Return the integer-named directories in `base` by number, lowest first. Raises OSError if unreadable."""
    found: dict[int, Path] = {}
    # Sorted, so that the choice between "1" and "01" is always the same.
    for path in sorted(base.iterdir()):
        number = version_number(path.name)
        if number is not None and path.is_dir():
            found.setdefault(number, path)
    return dict(sorted(found.items()))


def version_number(name: str) -> int | None:
    """Return the version number that a directory's `name` is, None if it isn't one."""
    return int(name) if _VERSION.fullmatch(name) and int(name) <= _LARGEST else None


def versions(base: Path) -> dict[int, Path]:
    """Return the result of `scan`, or an empty dict if the base path doesn't exist."""
    return scan(base) if base.is_dir() else {}


def servables(models: Path) -> list[str]:
    """Return the names of the servables in the folder `models`: the directories that hold a version."""
    if not models.is_dir():
        return []
    return sorted(path.name for path in models.iterdir() if path.is_dir() and scan(path))


def retired(base: Path) -> dict[int, Path]:
    """Return the directories of retired versions in `base` by number, lowest first."""
    found = {}
    for path in base.glob("retired-*"):
        match = _RETIRED.fullmatch(path.name)
        if match and path.is_dir():
            found[int(match[1])] = path
    return dict(sorted(found.items()))


def latest(base: Path) -> Path:
    """Return the directory of the highest version in `base`; ArtifactError if there is none."""
    found = versions(base)
    if not found:
        raise ArtifactError(f"{base}: holds no version directory (1, 2, …); run `tfship export` first")
    return found[max(found)]


def version(base: Path, number: int | None) -> Path:
    """Return the directory of the version `number` in `base`; None: the highest. ArtifactError if there is none."""
    if number is None:
        return latest(base)
    found = versions(base)
    if number not in found:
        raise ArtifactError(f"{base}: holds no version {number}; there are {_listed(found)}")
    return found[number]


def retire(base: Path, number: int) -> Path:
    """Take the version `number` out of service and return its new path.

    Raises ArtifactError if there is no such version, and UsageError if it is the only one.
    """
    found = versions(base)
    if number not in found:
        raise ArtifactError(f"{base}: holds no version {number}; there are {_listed(found)}")
    if len(found) == 1:
        raise UsageError(
            f"{found[number]}: is the only version, without which a server has nothing to serve; publish another first"
        )
    return _move(found[number], base / f"retired-{number}")


def rollback(base: Path) -> tuple[Path, Path]:
    """Take the latest version out of service; return its new path and the directory of the new latest version."""
    moved = retire(base, max(versions(base), default=0))
    return moved, latest(base)


def restore(base: Path, number: int | None = None) -> Path:
    """Put the retired version `number`, by default the highest, back into service and return its directory."""
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
