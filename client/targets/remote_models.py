"""Models in object storage: local copies of the chosen version, for targets in this process."""

import functools
from dataclasses import dataclass
from pathlib import Path

from tfship.export.preprocessing.input_contract import CONTRACT
from tfship.export.publishing import cards
from tfship.export.storage.cache import VersionCache
from tfship.export.storage.filesystems import CACHE_FOLDER
from tfship.train.common import cli, files
from tfship.train.common.errors import ArtifactError, Unreachable

__all__ = ["LocalCopy", "local_contract", "local_copy"]

# Apart from servers' copies, which are removed by other rules.
_FOLDER = CACHE_FOLDER / "client"


@dataclass(frozen=True)
class LocalCopy:
    """A version's copy in the folder of models `models`, and its number."""

    models: Path
    version: int


def local_copy(url: str, name: str, version: int | None) -> LocalCopy:
    """Return a verified copy of the version of the servable `name` in the folder of models `url`; None: the newest.

    If the storage can't be reached, an earlier copy is used, with a message. Older copies are removed. Raises
    ArtifactError if there is no such complete version, and what `filesystems.translated` does.
    """
    cache = _cache(f"{url.rstrip('/')}/{name}", _FOLDER)
    try:
        number, folder = _chosen(cache, version)
        size = 0

        def count(more: int) -> None:
            nonlocal size
            size += more

        _, downloaded = cache.fetch(number, folder, count)
        if downloaded:
            cli.say(f"{name}: downloaded version {number} from {cache.servable.url} ({size / 1e6:.1f} MB)")
    except Unreachable as error:
        copies = {n: path for n, path in cache.versions().items() if version in (None, n)}
        intact = [n for n, path in copies.items() if not cards.damage(path)]
        if not intact:
            raise
        number = max(intact)
        cli.say(f"{name}: {cli.one_line(error)}; using the copy of version {number}")
    else:
        cache.keep({number})
    return LocalCopy(cache.base.parent, number)


def local_contract(url: str, name: str, version: int | None) -> Path:
    """Return a copy of the contract of the version that `local_copy` would return; raises what it does."""
    cache = _cache(f"{url.rstrip('/')}/{name}", _FOLDER)
    number, folder = _chosen(cache, version)
    copy = cache.base / f"contract-{number}"
    for file in (cards.CARD, CONTRACT):
        files.write_bytes(copy / file, cache.servable.read(folder, file))
    if cards.read(copy).files.get(CONTRACT) != files.sha256(copy / CONTRACT):
        raise ArtifactError(
            f"{cache.servable.url}/{folder}: {CONTRACT} differs from the hash in {cards.CARD}"
        )
    return copy / CONTRACT


@functools.cache
def _cache(url: str, folder: Path) -> VersionCache:
    """Return the cache, which stays open: another process must not remove the copy while this one uses it."""
    return VersionCache(url, folder)


def _chosen(cache: VersionCache, version: int | None) -> tuple[int, str]:
    """Return number and folder of the chosen version; without a number, of the newest that is complete."""
    remote = cache.servable.numbers()
    if version is None:
        for number, folder in reversed(remote.items()):
            if cache.servable.card(folder) is not None:
                return number, folder
        raise ArtifactError(f"{cache.servable.url}: holds no version of `tfship export --publish`")
    if version not in remote:
        listed = ", ".join(map(str, remote)) or "none"
        raise ArtifactError(f"{cache.servable.url}: holds no version {version}; there are {listed}")
    return version, remote[version]
