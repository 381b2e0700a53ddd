"""Versions uploaded to and downloaded from a real S3 server, also one that fails."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from object_storage.s3_server import S3, moto, s3_bucket
from object_storage.versions import exported, same
from tfship.export.publishing import cards
from tfship.export.storage import remote_versions
from tfship.export.storage.remote_versions import RemoteServable, servables
from tfship.train.common.errors import ArtifactError, Refused, Unreachable, UsageError

URL = "s3://bucket/models/m"
KIB = 1024


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with moto() as found:
        yield found


@pytest.fixture
def s3(port: int, request: pytest.FixtureRequest) -> Iterator[S3]:
    with s3_bucket(port, "bucket") as found:
        yield found
        found.fault = lambda path, status, body: (status, body, None)
        import s3fs

        s3fs.S3FileSystem().rm("bucket", recursive=True)


@pytest.fixture
def version(tmp_path: Path) -> Path:
    return exported(tmp_path / "models" / "m", 1, weights=os.urandom(300 * KIB))


def _nothing(count: int) -> None:
    """No progress to show."""


def _download(number: str, folder: Path) -> Path:
    RemoteServable(URL).download(number, folder / number, _nothing)
    return folder / number


def test_errors_of_a_driver_are_not_also_logged(
    port: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
    with pytest.raises(ArtifactError, match="gs://bucket/m: no such object, folder or bucket"):
        RemoteServable("gs://bucket/m").numbers()
    assert not caplog.records


@pytest.mark.usefixtures("s3")
def test_a_version_comes_back_as_it_was(version: Path, tmp_path: Path) -> None:
    sent: list[int] = []
    assert RemoteServable(URL).upload(version, sent.append) == (f"{URL}/1", True)
    assert sum(sent) == sum(path.stat().st_size for path in version.rglob("*") if path.is_file())
    assert RemoteServable(URL).numbers() == {1: "1"}
    assert same(version, _download("1", tmp_path / "copies"))
    assert servables("s3://bucket/models/") == ["m"]


@pytest.mark.usefixtures("s3")
def test_the_same_version_is_uploaded_once_and_another_gets_the_next_number(
    version: Path, tmp_path: Path
) -> None:
    servable = RemoteServable(URL)
    servable.upload(version, _nothing)
    assert servable.upload(version, _nothing) == (f"{URL}/1", False)
    other = exported(tmp_path / "elsewhere", 1, weights=b"other")
    assert servable.upload(other, _nothing) == (f"{URL}/2", True)
    assert servable.upload(exported(tmp_path / "higher", 7), _nothing) == (f"{URL}/7", True)
    assert list(servable.numbers()) == [1, 2, 7]


def test_an_upload_that_breaks_leaves_no_version(s3: S3, version: Path, tmp_path: Path) -> None:
    s3.fault = lambda path, status, body: (503, b"", None) if "weights" in path else (status, body, None)
    with pytest.raises(Unreachable, match="weights"):
        RemoteServable(URL).upload(version, _nothing)
    s3.fault = lambda path, status, body: (status, body, None)
    assert RemoteServable(URL).card("1") is None
    with pytest.raises(ArtifactError, match=r"holds no export\.json"):
        _download("1", tmp_path / "copies")
    # Nobody knows whether the other upload continues.
    assert RemoteServable(URL).upload(version, _nothing) == (f"{URL}/2", True)
    assert same(version, _download("2", tmp_path / "copies"))


def test_the_card_is_the_last_file(s3: S3, version: Path) -> None:
    RemoteServable(URL).upload(version, _nothing)
    puts = [path.partition("/m/1/")[2].partition("?")[0] for path in s3.paths if path.startswith("PUT")]
    names = [name for name in puts if name]
    assert (names[0], names[-1]) == ("upload-in-progress", "export.json")


@pytest.mark.parametrize("removed", ["weights", "assets/labels.txt"])
@pytest.mark.usefixtures("s3")
def test_a_version_whose_card_came_first_is_not_complete(version: Path, tmp_path: Path, removed: str) -> None:
    """Other programs upload files in the order of their names."""
    import s3fs

    RemoteServable(URL).upload(version, _nothing)
    s3fs.S3FileSystem().rm_file(f"bucket/models/m/1/{removed}")
    with pytest.raises(ArtifactError, match=f"{removed} is missing"):
        _download("1", tmp_path / "copies")
    assert not any(path.name.isdigit() for path in (tmp_path / "copies").iterdir())


@pytest.mark.parametrize("change", [b"", b"x" * 300 * KIB], ids=["empty", "other bytes"])
def test_wrong_bytes_are_refused(s3: S3, version: Path, tmp_path: Path, change: bytes) -> None:
    RemoteServable(URL).upload(version, _nothing)
    s3.fault = lambda path, status, body: (
        (status, change[: len(body)], None) if "weights" in path and body else (status, body, None)
    )
    with pytest.raises((ArtifactError, Unreachable)):
        _download("1", tmp_path / "copies")
    assert list((tmp_path / "copies").iterdir()) == []


def test_a_response_that_is_cut_off_is_no_version(s3: S3, version: Path, tmp_path: Path) -> None:
    RemoteServable(URL).upload(version, _nothing)
    s3.fault = lambda path, status, body: (status, body, len(body) // 2 if "weights" in path else None)
    with pytest.raises(Unreachable, match="weights"):
        _download("1", tmp_path / "copies")
    s3.fault = lambda path, status, body: (status, body, None)
    assert same(version, _download("1", tmp_path / "copies"))


def test_a_slow_storage_is_read_to_the_end(s3: S3, version: Path, tmp_path: Path) -> None:
    RemoteServable(URL).upload(version, _nothing)
    s3.seconds_per_block = 0.002
    assert same(version, _download("1", tmp_path / "copies"))


def test_an_unavailable_storage_is_unreachable(s3: S3) -> None:
    s3.fault = lambda path, status, body: (503, b"", None)
    with pytest.raises(Unreachable, match=f"{URL}: the storage can't be read or written"):
        RemoteServable(URL).numbers()


@pytest.mark.usefixtures("s3")
def test_other_buckets_and_prefixes_are_missing() -> None:
    for url in ("s3://bucket/other", "s3://none/models"):
        with pytest.raises(ArtifactError, match=f"{url}: no such object, folder or bucket"):
            RemoteServable(url).numbers()


def test_denied_access_is_refused(s3: S3) -> None:
    denied = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
    s3.fault = lambda path, status, body: (403, denied, None)
    with pytest.raises(Refused, match="access is denied"):
        RemoteServable(URL).numbers()


@pytest.mark.usefixtures("s3")
def test_missing_credentials_are_refused_in_a_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import s3fs

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(Refused, match="credentials") as caught:
        RemoteServable(URL).numbers()
    assert "\n" not in str(caught.value)


def test_a_card_with_paths_outside_the_version_is_refused(version: Path, tmp_path: Path) -> None:
    remote = tmp_path / "remote" / "m"
    shutil.copytree(version, remote / "1")
    card = cards.read(remote / "1")
    card.files["../../escaped"] = "0" * 64
    card.write(remote / "1")
    with pytest.raises(ArtifactError, match="expected a path inside the version"):
        RemoteServable(f"file://{remote}").download("1", tmp_path / "copies" / "1", _nothing)


@given(st.lists(st.sampled_from(["..", "a", ".", "b.c", ""]), max_size=4), st.booleans())
def test_names_that_are_accepted_stay_inside(parts: list[str], absolute: bool) -> None:
    name = "/" * absolute + "/".join(parts)
    try:
        remote_versions._check_name(name, "here")
    except ArtifactError:
        return
    inside = Path("/base") / "version"
    assert os.path.normpath(inside / name).startswith(f"{inside}")


def test_files_of_a_folder_are_versions_too(version: Path, tmp_path: Path) -> None:
    servable = RemoteServable(f"file://{tmp_path}/shared/m")
    assert servable.upload(version, _nothing) == (f"file://{tmp_path}/shared/m/1", True)
    servable.download("1", tmp_path / "copies" / "1", _nothing)
    assert same(version, tmp_path / "copies" / "1")


def test_an_interrupted_download_leaves_nothing(version: Path, tmp_path: Path) -> None:
    def stop(count: int) -> None:
        raise KeyboardInterrupt

    RemoteServable(f"file://{tmp_path}/shared/m").upload(version, _nothing)
    with pytest.raises(KeyboardInterrupt):
        RemoteServable(f"file://{tmp_path}/shared/m").download("1", tmp_path / "copies" / "1", stop)
    assert list((tmp_path / "copies").iterdir()) == []


@pytest.mark.parametrize(
    "url", ["ftp://host/x", "s3://", "s3:///", "file://", "file://host/x", "S3://bucket/x", "models/m"]
)
def test_other_urls_are_wrong_usage(url: str) -> None:
    with pytest.raises(UsageError, match="expected"):
        RemoteServable(url)
