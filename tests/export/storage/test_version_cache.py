"""Local copies of versions in object storage, which several processes may share."""

from pathlib import Path

import pytest

from object_storage.versions import exported, same
from tfship.export.storage.cache import VersionCache
from tfship.export.storage.remote_versions import RemoteServable


@pytest.fixture
def remote(tmp_path: Path) -> Path:
    """A storage with the versions 1 and 2."""
    for number in (1, 2):
        version = exported(tmp_path / "models" / "m", number)
        RemoteServable(f"file://{tmp_path}/remote/m").upload(version, _nothing)
    return tmp_path / "remote" / "m"


@pytest.fixture
def cache(remote: Path, tmp_path: Path) -> VersionCache:
    return VersionCache(f"file://{remote}", tmp_path / "cache")


def _nothing(count: int) -> None:
    """No progress to show."""


def test_a_copy_is_downloaded_once(cache: VersionCache, remote: Path) -> None:
    path, downloaded = cache.fetch(1, "1", _nothing)
    assert downloaded
    assert same(path, remote / "1")
    assert cache.fetch(1, "1", _nothing) == (path, False)
    assert cache.versions() == {1: path}


def test_a_damaged_copy_is_downloaded_again(cache: VersionCache, remote: Path) -> None:
    path, _ = cache.fetch(1, "1", _nothing)
    (path / "model.tflite").write_bytes(b"damaged")
    assert cache.fetch(1, "1", _nothing) == (path, True)
    assert same(path, remote / "1")


def test_a_copy_of_another_version_with_the_number_is_replaced(
    cache: VersionCache, remote: Path, tmp_path: Path
) -> None:
    path, _ = cache.fetch(1, "1", _nothing)
    (remote / "1").rename(tmp_path / "old")
    exported(tmp_path / "new", 3).rename(remote / "1")
    assert cache.fetch(1, "1", _nothing) == (path, True)
    assert same(path, remote / "1")


def test_other_versions_are_removed(cache: VersionCache) -> None:
    for number in (1, 2):
        cache.fetch(number, str(number), _nothing)
    assert cache.keep({2}) == [1]
    assert list(cache.versions()) == [2]
    assert cache.keep({2}) == []


def test_nothing_is_removed_while_another_process_uses_the_cache(
    cache: VersionCache, remote: Path, tmp_path: Path
) -> None:
    cache.fetch(1, "1", _nothing)
    with VersionCache(f"file://{remote}", tmp_path / "cache"):
        assert cache.keep(()) == []
        assert list(cache.versions()) == [1]
    assert cache.keep(()) == [1]


def test_urls_have_folders_of_their_own(remote: Path, tmp_path: Path) -> None:
    one = VersionCache(f"file://{remote}", tmp_path / "cache")
    other = VersionCache(f"file://{remote}2/", tmp_path / "cache")
    assert one.base != other.base
    assert one.base.is_relative_to(tmp_path / "cache")
