"""Local copies of versions in object storage."""

import contextlib
import fcntl
import os
import re
import shutil
from collections.abc import Callable, Container, Iterator
from pathlib import Path
from types import TracebackType

from tfship.export.publishing import cards, store
from tfship.export.storage.remote_versions import RemoteServable
from tfship.train.common.errors import ArtifactError

__all__ = ["VersionCache"]

_LOCK = ".lock"


class VersionCache:
    """Verified copies of a servable's versions, in `<folder>/<scheme>/<bucket>/<path>/<N>/`; a context manager.

    Several processes may share a folder: a version is removed only while no other process has the cache open. Raises
    ArtifactError if the folder can't be written.
    """

    def __init__(self, url: str, folder: Path) -> None:
        self.servable = RemoteServable(url)
        self.base = folder / re.sub("://+", "/", self.servable.url)
        with _written(self.base):
            self.base.mkdir(parents=True, exist_ok=True)
            self._lock: int | None = os.open(self.base / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        fcntl.flock(self._lock, fcntl.LOCK_SH)

    def close(self) -> None:
        """Let other processes remove versions."""
        if self._lock is not None:
            os.close(self._lock)
        self._lock = None

    def __enter__(self) -> "VersionCache":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def versions(self) -> dict[int, Path]:
        """Return the local versions by number. They were verified when they were downloaded."""
        return store.scan(self.base)

    def fetch(self, number: int, folder: str, advance: Callable[[int], object]) -> tuple[Path, bool]:
        """Return the directory of the version `number`, and whether it was downloaded from the remote `folder`.

        A local copy is used if its card is the remote one's and its files have the card's hashes. Raises what
        `RemoteServable.download` does, and ArtifactError if the copy can't be written.
        """
        path = self.base / str(number)
        if path.is_dir():
            card = path / cards.CARD
            if card.is_file() and card.read_bytes() == self.servable.card(folder) and not cards.damage(path):
                return path, False
            _remove(path)
        with _written(self.base):
            self.servable.download(folder, path, advance)
        return path, True

    def keep(self, numbers: Container[int]) -> list[int]:
        """Remove the local versions except `numbers`, unless another process uses the cache; return those removed."""
        others = {number: path for number, path in self.versions().items() if number not in numbers}
        if not others or self._lock is None:
            return []
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            others = {}
        for path in others.values():
            _remove(path)
        # Also after a failure, which may have released the lock.
        fcntl.flock(self._lock, fcntl.LOCK_SH)
        return list(others)


@contextlib.contextmanager
def _written(base: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ArtifactError(
            f"{base}: a copy can't be written ({error.strerror or error}); expected a writable directory with space, "
            "such as --model_cache_dir names"
        ) from None


def _remove(path: Path) -> None:
    """Remove a version's directory; it stops being a version at once."""
    hidden = path.with_name(f".removed-{path.name}-{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):
        path.rename(hidden)
        shutil.rmtree(hidden)
