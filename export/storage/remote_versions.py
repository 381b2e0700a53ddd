"""Versions of a servable in object storage: listing, download and upload.

The export card makes an uploaded folder a version: it is written last, and lists the hash of every other file. A folder
without a card is an upload in progress, or wasn't written by tfship.
"""

import hashlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

from tfship.export.preprocessing.input_contract import BATCHING
from tfship.export.publishing import cards, store
from tfship.export.storage.filesystems import filesystem, translated
from tfship.train.common.errors import ArtifactError
from tfship.train.common.files import publish, stage

__all__ = ["RemoteServable", "servables"]

# Written first, so that two uploads never use the same number.
_CLAIM = "upload-in-progress"
_CHUNK = 4 << 20
_PARALLEL = 4


class RemoteServable:
    """A servable's base path in object storage, which holds a folder for each version.

    Its methods raise the errors of `filesystems.translated`.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._files, self._root = filesystem(self.url)

    def numbers(self) -> dict[int, str]:
        """Return the names of the integer-named folders by number, lowest first. Some may be incomplete."""
        found: dict[int, str] = {}
        for name in _folders(self._files, self._root, self.url):
            number = store.version_number(name)
            if number is not None:
                found.setdefault(number, name)
        return dict(sorted(found.items()))

    def card(self, folder: str) -> bytes | None:
        """Return the contents of the export card in `folder`; None if there is none."""
        try:
            return self.read(folder, cards.CARD)
        except ArtifactError:
            return None

    def read(self, folder: str, name: str) -> bytes:
        """Return the contents of the file `name` in `folder`."""
        with translated(f"{self.url}/{folder}/{name}"):
            contents: bytes = self._files.cat_file(self._path(folder, name))
        return contents

    def download(self, folder: str, final: Path, advance: Callable[[int], object]) -> None:
        """Download the version in `folder` to the directory `final`, which must not exist.

        The files are written to a hidden folder, compared with the card's hashes, and renamed at the end. `advance` is
        called with each number of bytes; what it raises ends the download. Raises ArtifactError if the version isn't
        complete, or a file differs from its card.
        """
        where = f"{self.url}/{folder}"
        contents = self.card(folder)
        if contents is None:
            raise ArtifactError(
                f"{where}: holds no {cards.CARD}; expected a version of `tfship export --publish`"
            )
        with stage(final.parent, final.name) as staged:
            staged.mkdir()
            (staged / cards.CARD).write_bytes(contents)
            files = cards.read(staged).files
            for name in files:
                _check_name(name, where)
            with translated(where):
                sizes = self._files.find(self._path(folder), detail=True)
            missing = [name for name in files if self._path(folder, name) not in sizes]
            if missing:
                raise ArtifactError(
                    f"{where}: {missing[0]} is missing; the upload isn't complete, or files were deleted"
                )
            wanted = [*files, *(name for name in [BATCHING] if self._path(folder, name) in sizes)]

            def fetch(name: str) -> None:
                digest = self._fetch(folder, name, staged / name, advance)
                if files.get(name, digest) != digest:
                    raise ArtifactError(f"{where}: {name} differs from the hash in {cards.CARD}")

            _run_all(fetch, wanted)
            publish(staged, final)

    def _fetch(self, folder: str, name: str, path: Path, advance: Callable[[int], object]) -> str:
        """Download a file and return its sha256."""
        path.parent.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256()
        where = f"{self.url}/{folder}/{name}"
        with path.open("wb") as file:
            with translated(where):
                source = self._files.open(
                    self._path(folder, name), "rb", block_size=_CHUNK, cache_type="readahead"
                )
            with source:
                while True:
                    with translated(where):
                        chunk = source.read(_CHUNK)
                    if not chunk:
                        return digest.hexdigest()
                    digest.update(chunk)
                    file.write(chunk)
                    advance(len(chunk))

    def upload(self, version: Path, advance: Callable[[int], object]) -> tuple[str, bool]:
        """Upload the directory `version` as the next version; return its URL, and whether it had to be uploaded.

        The number is that of `version` if it is higher than all that are there, otherwise the next one. Nothing is
        uploaded if the highest version is the same.
        """
        contents = (version / cards.CARD).read_bytes()
        try:
            taken = self.numbers()
        except ArtifactError:
            taken = {}  # object storage has no empty folders
        if taken and self.card(taken[max(taken)]) == contents:
            return f"{self.url}/{taken[max(taken)]}", False
        number = self._claim(max(int(version.name), max(taken, default=0) + 1))
        folder, where = str(number), f"{self.url}/{number}"
        names = [
            path.relative_to(version).as_posix() for path in sorted(version.rglob("*")) if path.is_file()
        ]

        def put(name: str) -> None:
            with translated(f"{where}/{name}"):
                self._files.put_file(str(version / name), self._path(folder, name))
            advance((version / name).stat().st_size)

        _run_all(put, [name for name in names if name != cards.CARD])
        with translated(where):
            self._files.pipe_file(self._path(folder, cards.CARD), contents, mode="create")
            self._files.rm_file(self._path(folder, _CLAIM))
        advance(len(contents))
        return where, True

    def _claim(self, number: int) -> int:
        """Claim the version `number`, or the next one that is free, and return it."""
        while True:
            with translated(f"{self.url}/{number}"):
                try:
                    self._files.pipe_file(self._path(str(number), _CLAIM), b"", mode="create")
                except FileExistsError:  # another upload, which may have been killed
                    number += 1
                else:
                    return number

    def _path(self, *names: str) -> str:
        return "/".join([self._root, *names])


def servables(url: str) -> list[str]:
    """Return the names of the folders at `url` that hold a version. Raises what `filesystems.translated` does."""
    names = _folders(*filesystem(url), url)
    return [name for name in names if RemoteServable(f"{url.rstrip('/')}/{name}").numbers()]


def _folders(files: Any, root: str, url: str) -> list[str]:
    """Return the sorted names of the folders in `root` of a filesystem; `url` is for messages."""
    with translated(url):
        entries = files.ls(root, detail=True)
    names = [str(each["name"]) for each in entries if each["type"] == "directory"]
    return sorted(name.rstrip("/").rpartition("/")[2] for name in names)


def _check_name(name: str, where: str) -> None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts or "\\" in name or "\0" in name:
        raise ArtifactError(f"{where}: the card lists the file {name!r}; expected a path inside the version")


def _run_all(work: Callable[[str], None], names: Iterable[str]) -> None:
    """Call `work` for all names, some at a time, and raise the first error."""
    with ThreadPoolExecutor(_PARALLEL, thread_name_prefix="storage") as pool:
        try:
            for _ in pool.map(work, names):
                pass
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
