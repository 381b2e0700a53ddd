"""Models served from object storage: a real S3 server, also one that fails."""

import importlib.util
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from object_storage.s3_server import S3, moto, s3_bucket
from object_storage.versions import exported
from serving_fixtures import TFLITE, Client, client_of, eventually, factor, process, serving
from tfship.export.storage.remote_versions import RemoteServable
from tfship.serving.models import mirror
from tfship.serving.models.config import parse_config
from tfship.serving.models.manager import LoadPolicy
from tfship.serving.protos.messages import model_management_pb2
from tfship.serving.server import flag_settings, flags
from tfship.serving.server.settings import Settings
from tfship.train.common.errors import ArtifactError, Refused, Unreachable, UsageError

URL = "s3://served/models/m"
SETTINGS = Settings(loader=TFLITE)


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with moto() as found:
        yield found


@pytest.fixture
def s3(port: int) -> Iterator[S3]:
    import s3fs

    with s3_bucket(port, "served") as found:
        yield found
        _mend(found)
        s3fs.S3FileSystem().rm("served", recursive=True)


@pytest.fixture
def loading(tmp_path: Path) -> LoadPolicy:
    return LoadPolicy(poll_seconds=0.1, cache_folder=tmp_path / "cache")


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait less between attempts."""
    monkeypatch.setattr(mirror, "_FIRST_DELAY", 0)
    monkeypatch.setattr(mirror, "_FIRST_SECONDS", 1)
    monkeypatch.setattr(mirror, "_SECONDS_WITH_COPIES", 0.5)
    monkeypatch.setattr(mirror, "_LONGEST_DELAY", 0.3)


def _mend(s3: S3) -> None:
    s3.fault, s3.seconds_per_block = (lambda path, status, body: (status, body, None)), 0.0


def _config(policy: str = "", url: str = URL) -> Any:
    text = f'name: "m" base_path: "{url}" model_platform: "tensorflow" {policy}'
    return parse_config(f"model_config_list {{ config {{ {text} }} }}", "test")


def _upload(folder: Path, number: int, url: str = URL) -> None:
    version = exported(folder / "models", number)
    RemoteServable(url).upload(version, lambda count: None)


def _versions(client: Client) -> dict[str, str]:
    return client.states("m")


@pytest.mark.usefixtures("s3")
def test_new_versions_are_served_and_old_copies_removed(tmp_path: Path, loading: LoadPolicy) -> None:
    _upload(tmp_path, 1)
    with serving(_config(), SETTINGS, loading) as client:
        assert factor(client) == 1.0
        _upload(tmp_path, 2)
        eventually(lambda: factor(client) == 2.0)
        copies = tmp_path / "cache" / "s3" / "served" / "models" / "m"
        eventually(lambda: [path.name for path in copies.iterdir() if path.name.isdigit()] == ["2"])


@pytest.mark.usefixtures("s3")
def test_a_withdrawn_version_is_replaced_by_the_one_before(tmp_path: Path, loading: LoadPolicy) -> None:
    import s3fs

    for number in (1, 2):
        _upload(tmp_path, number)
    with serving(_config(), SETTINGS, loading) as client:
        assert factor(client) == 2.0
        s3fs.S3FileSystem().rm("served/models/m/2", recursive=True)
        eventually(lambda: factor(client) == 1.0)


@pytest.mark.usefixtures("s3")
def test_the_version_policy_selects_what_is_copied(tmp_path: Path, loading: LoadPolicy) -> None:
    for number in (1, 2, 3):
        _upload(tmp_path, number)
    with serving(
        _config("model_version_policy { specific { versions: 1 versions: 3 } }"), SETTINGS, loading
    ) as client:
        assert (factor(client, "m/versions/1"), factor(client, "m/versions/3")) == (1.0, 3.0)
        assert "2" not in _versions(client)
    with serving(_config("model_version_policy { all {} }"), SETTINGS, loading) as client:
        assert sorted(_versions(client)) == ["1", "2", "3"]


@pytest.mark.usefixtures("s3")
def test_a_half_uploaded_version_is_never_loaded(
    tmp_path: Path, loading: LoadPolicy, caplog: pytest.LogCaptureFixture
) -> None:
    import s3fs

    _upload(tmp_path, 1)
    version = exported(tmp_path / "models", 2)
    storage = s3fs.S3FileSystem()
    with serving(_config(), SETTINGS, loading) as client:
        storage.put_file(str(version / "model.tflite"), "served/models/m/2/model.tflite")
        eventually(lambda: "2 holds no export.json" in caplog.text)
        # Also where a program uploads the card first.
        storage.put_file(str(version / "export.json"), "served/models/m/2/export.json")
        eventually(lambda: "assets/labels.txt is missing" in caplog.text)
        assert (_versions(client), factor(client)) == ({"1": "AVAILABLE"}, 1.0)
        storage.put_file(str(version / "assets" / "labels.txt"), "served/models/m/2/assets/labels.txt")
        eventually(lambda: factor(client) == 2.0)


def test_wrong_bytes_are_never_loaded(
    s3: S3, tmp_path: Path, loading: LoadPolicy, caplog: pytest.LogCaptureFixture
) -> None:
    for number in (1, 2):
        _upload(tmp_path, number)

    def wrong(path: str, status: int, body: bytes) -> tuple[int, bytes, None]:
        return status, body[:-1] + b"X" if body and "/2/model.tflite" in path else body, None

    s3.fault = wrong
    with serving(_config(), SETTINGS, loading) as client:
        assert factor(client) == 1.0
        assert (
            "version 2: not loaded: s3://served/models/m/2: model.tflite differs from the hash" in caplog.text
        )
        _mend(s3)
        eventually(lambda: factor(client) == 2.0)


def test_an_outage_changes_nothing_and_ends(
    s3: S3, tmp_path: Path, loading: LoadPolicy, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    _upload(tmp_path, 1)
    with serving(_config(), SETTINGS, loading) as client:
        s3.fault = lambda path, status, body: (503, b"", None)
        eventually(lambda: "serving the loaded versions" in caplog.text)
        assert factor(client) == 1.0
        _mend(s3)
        eventually(lambda: "can be read again" in caplog.text)
        s3.fault = lambda path, status, body: (
            status,
            body,
            len(body) // 2 if "model.tflite" in path else None,
        )
        _upload(tmp_path, 2)
        eventually(lambda: "model.tflite: the storage can't be read" in caplog.text)
        assert factor(client) == 1.0
        _mend(s3)
        eventually(lambda: factor(client) == 2.0)


def test_everything_that_is_gone_changes_nothing(
    s3: S3, tmp_path: Path, loading: LoadPolicy, caplog: pytest.LogCaptureFixture
) -> None:
    import s3fs

    _upload(tmp_path, 1)
    with serving(_config(), SETTINGS, loading) as client:
        s3fs.S3FileSystem().rm("served/models", recursive=True)
        eventually(lambda: "no such object, folder or bucket" in caplog.text)
        assert factor(client) == 1.0


def test_a_server_that_starts_in_an_outage_waits_for_its_end(
    s3: S3,
    tmp_path: Path,
    loading: LoadPolicy,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(mirror, "_FIRST_SECONDS", 3600)
    _upload(tmp_path, 1)
    failures = iter(range(4))
    s3.fault = lambda path, status, body: (
        (status, body, None) if next(failures, None) is None else (503, b"", None)
    )
    with serving(_config(), SETTINGS, loading) as client:
        assert factor(client) == 1.0
    assert "next try in" in caplog.text


def test_the_copies_of_an_earlier_start_are_served_in_an_outage(
    s3: S3, tmp_path: Path, loading: LoadPolicy, caplog: pytest.LogCaptureFixture
) -> None:
    _upload(tmp_path, 1)
    with serving(_config(), SETTINGS, loading):
        pass
    s3.fault = lambda path, status, body: (503, b"", None)
    with serving(_config(), SETTINGS, loading) as client:
        assert factor(client) == 1.0
    assert "serving the copies of an earlier start" in caplog.text
    copy = tmp_path / "cache" / "s3" / "served" / "models" / "m" / "1"
    (copy / "assets" / "labels.txt").write_text("damaged")
    with pytest.raises(Unreachable), serving(_config(), SETTINGS, loading):
        pass


def test_a_server_that_finds_nothing_doesnt_start(s3: S3, tmp_path: Path, loading: LoadPolicy) -> None:
    with pytest.raises(ArtifactError, match="no such object"), serving(_config(), SETTINGS, loading):
        pass
    version = exported(tmp_path / "models", 1)
    import s3fs

    s3fs.S3FileSystem().put_file(str(version / "model.tflite"), "served/models/m/1/model.tflite")
    with (
        pytest.raises(ArtifactError, match=r"can be used: .*holds no export\.json"),
        serving(_config(), SETTINGS, loading),
    ):
        pass
    s3.fault = lambda path, status, body: (503, b"", None)
    with pytest.raises(Unreachable), serving(_config(), SETTINGS, loading):
        pass
    denied = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
    s3.fault = lambda path, status, body: (403, denied, None)
    with pytest.raises(Refused), serving(_config(), SETTINGS, loading):
        pass


def test_a_reload_copies_what_the_new_config_selects(s3: S3, tmp_path: Path, loading: LoadPolicy) -> None:
    for number in (1, 2):
        _upload(tmp_path, number)
    other = "s3://served/models/other"
    with serving(_config(), SETTINGS, loading) as client:
        _reload(client, _config("model_version_policy { specific { versions: 1 } }"))
        assert (_versions(client)["1"], factor(client)) == ("AVAILABLE", 1.0)
        # What can't be copied changes nothing.
        for config in (_config("model_version_policy { specific { versions: 9 } }"), _config(url=other)):
            request = model_management_pb2.ReloadConfigRequest(config=config)
            assert client.refusal("HandleReloadConfigRequest", request)[0] == "FAILED_PRECONDITION"
            assert factor(client) == 1.0
        _upload(tmp_path / "other", 3, other)
        _reload(client, _config(url=other))
        assert factor(client) == 3.0
        _upload(tmp_path / "other", 4, other)
        eventually(lambda: factor(client) == 4.0)


def _reload(client: Client, config: Any) -> None:
    request = model_management_pb2.ReloadConfigRequest(config=config)
    assert client.call("HandleReloadConfigRequest", request).status.error_code == 0


def test_a_server_process_with_workers(s3: S3, tmp_path: Path) -> None:
    """It stops at once also while the storage doesn't respond."""
    _upload(tmp_path, 1)
    ready = tmp_path / "ready.json"
    flags = ["--model_name=m", f"--model_base_path={URL}", "--port=-1", "--rest_api_port=-1", "--workers=2"]
    flags += [f"--model_cache_dir={tmp_path / 'cache'}", "--runtime=tflite"]
    with process(*flags, ready=ready) as started:
        client = client_of(started, ready)
        assert factor(client) == 1.0
        _upload(tmp_path, 2)
        eventually(lambda: factor(client) == 2.0)
        started.terminate()
        assert started.wait() == 0
    shutil.rmtree(tmp_path / "cache")
    s3.seconds_per_block = 1000.0
    with process(*flags) as started:
        eventually(lambda: any("list-type" in path for path in s3.paths[-1:]))
        started.terminate()
        assert started.wait() == 0


@pytest.mark.parametrize("url", ["ftp://host/m", "hdfs://x/y", "s3://"])
def test_other_urls_are_refused_at_the_start(url: str) -> None:
    with pytest.raises(UsageError, match="model m: base_path .*expected"):
        _config(url=url)


def test_a_missing_driver_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "gcsfs" else find(name))
    with pytest.raises(UsageError, match=r"gs:// needs gcsfs, .*pip install 'tfship\[gcs\]'"):
        _config(url="gs://bucket/m")


def test_the_flag_names_the_folder_of_copies(tmp_path: Path) -> None:
    given = flags.parse([f"--model_base_path={URL}", f"--model_cache_dir={tmp_path}"])
    assert flag_settings.settings(given).loading.cache_folder == tmp_path
