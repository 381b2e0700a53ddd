"""The model store: `<models>/<name>/<N>/`, where a version directory that exists is whole.

TensorFlow Serving loads the integer-named folders of a base path and skips everything else, so a version is
built in a hidden stage and appears by one rename.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from train.errors import ArtifactError
from train.files import publish, stage

__all__ = ["Draft", "draft", "latest", "versions"]


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


def versions(base: Path) -> dict[int, Path]:
    """Return the version directories of the servable at `base` by number, lowest first.

    The names that TensorFlow Serving takes: digits alone.
    """
    if not base.is_dir():
        return {}
    found = {
        int(path.name): path
        for path in base.iterdir()
        if path.name.isascii() and path.name.isdigit() and path.is_dir()
    }
    return dict(sorted(found.items()))


def latest(base: Path) -> Path:
    """Return the directory of the highest version; ArtifactError if there is none."""
    found = versions(base)
    if not found:
        raise ArtifactError(f"{base}: holds no version directory (1, 2, …); run `make export` first")
    return found[max(found)]
