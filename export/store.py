"""The model store: `<models>/<name>/<N>/`, where a version directory that exists is whole.

TensorFlow Serving loads the integer-named folders of a base path and skips everything else, so a version is
built in a hidden stage and appears by one rename.
"""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

from train.errors import ArtifactError
from train.files import publish, stage

__all__ = ["Draft", "draft", "latest", "scan", "versions"]

# ASCII digits only: `int` takes much more, such as "1_0". Hidden and staged directories don't match.
_VERSION = re.compile(r"[0-9]+")
_LARGEST = 2**63 - 1  # a version is an int64 in the protocol


class Draft:
    """A version that is being built in `folder`; `publish` gives it the next number."""

    def __init__(self, base: Path, folder: Path) -> None:
        self._base = base
        self.folder = folder

    def publish(self) -> Path:
        """Make the draft visible as one above the highest version there is, and return its directory."""
        while True:
            number = max(versions(self._base), default=0) + 1
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


def latest(base: Path) -> Path:
    """Return the directory of the highest version; ArtifactError if there is none."""
    found = versions(base)
    if not found:
        raise ArtifactError(f"{base}: holds no version directory (1, 2, …); run `make export` first")
    return found[max(found)]
