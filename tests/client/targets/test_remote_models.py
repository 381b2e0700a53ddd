"""`--models` with a URL: the commands use copies of versions in object storage."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import ROOT
from object_storage.s3_server import S3, moto, s3_bucket
from object_storage.versions import same
from tfship.client import predict
from tfship.client.compare import command as compare
from tfship.client.targets import remote_models
from tfship.export.storage.cache import VersionCache
from tfship.export.storage.remote_versions import RemoteServable
from tfship.train.common.errors import ArtifactError, Unreachable, UsageError

SEVEN = str(ROOT / "client" / "samples" / "seven.png")
URL = "s3://clients/models"


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with moto() as found:
        yield found


@pytest.fixture
def s3(port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    import s3fs

    monkeypatch.setattr(remote_models, "_FOLDER", tmp_path / "cache")
    with s3_bucket(port, "clients") as found:
        yield found
        found.fault = lambda path, status, body: (status, body, None)
        s3fs.S3FileSystem().rm("clients", recursive=True)


def _upload(version: Path, name: str) -> None:
    RemoteServable(f"{URL}/{name}").upload(version, lambda count: None)


def _predict(*arguments: str) -> None:
    assert predict.main([SEVEN, "--json", "--target", "tflite", "--models", URL, *arguments]) == 0


def test_predict_uses_the_newest_version_and_copies_it_once(
    s3: S3, models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _upload(models / "nn" / "1", "nn")
    _predict()
    first = capsys.readouterr()
    assert json.loads(first.out)["label"] == "7"
    assert "nn: downloaded version 1 from s3://clients/models/nn" in first.err
    assert same(models / "nn" / "1", tmp_path / "cache" / "s3" / "clients" / "models" / "nn" / "1")
    _predict("--model", "nn", "--version", "1")
    assert "downloaded" not in capsys.readouterr().err
    shutil.copytree(models / "nn" / "1", tmp_path / "nn" / "2")
    card = tmp_path / "nn" / "2" / "export.json"
    card.write_bytes(card.read_bytes() + b"\n")  # another card, as of another export
    _upload(tmp_path / "nn" / "2", "nn")
    _predict("--model", "nn")
    assert "downloaded version 2" in capsys.readouterr().err
    copies = tmp_path / "cache" / "s3" / "clients" / "models" / "nn"
    assert [path.name for path in copies.iterdir() if path.name.isdigit()] == ["2"]


@pytest.mark.usefixtures("s3")
def test_no_other_process_removes_the_copy_in_use(models: Path, tmp_path: Path) -> None:
    _upload(models / "nn" / "1", "nn")
    _predict("--model", "nn")
    with VersionCache(f"{URL}/nn", tmp_path / "cache") as other:
        assert other.keep(()) == []
        assert list(other.versions()) == [1]


def test_an_outage_leaves_the_copy(s3: S3, models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _upload(models / "nn" / "1", "nn")
    _predict("--model", "nn")
    s3.fault = lambda path, status, body: (503, b"", None)
    capsys.readouterr()
    _predict("--model", "nn")
    assert "using the copy of version 1" in capsys.readouterr().err
    with pytest.raises(Unreachable):
        _predict("--model", "cnn")


def test_missing_models_and_versions(s3: S3, models: Path) -> None:
    with pytest.raises(ArtifactError, match="no such object"):
        _predict()
    for name in ("one", "two"):
        _upload(models / "nn" / "1", name)
    with pytest.raises(UsageError, match="holds one, two; give one by --model"):
        _predict()
    with pytest.raises(ArtifactError, match="holds no version 5; there are 1"):
        _predict("--model", "one", "--version", "5")


def test_a_server_gets_images_prepared_by_the_contract_in_storage(s3: S3, models: Path) -> None:
    """Only the contract is read, and the error is about the server, of which there is none."""
    _upload(models / "nn" / "1", "nn")
    with pytest.raises(Unreachable, match="127.0.0.1:9"):
        predict.main([SEVEN, "--server", "127.0.0.1:9", "--models", URL, "--model", "nn", "--retries", "0"])
    read = [path for path in s3.paths if path.startswith("GET") and "/models/nn/1/" in path]
    assert [path for path in read if "contract.json" in path]
    assert not [path for path in read if "tflite" in path]

    def changed(path: str, status: int, body: bytes) -> tuple[int, bytes, None]:
        return status, body.replace(b"digit", b"other") if "contract.json" in path else body, None

    s3.fault = changed
    with pytest.raises(ArtifactError, match="differs from the hash"):
        predict.main([SEVEN, "--models", URL, "--model", "nn"])


def test_compare_uses_all_formats_of_the_copy(
    s3: S3, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _upload(models / "nn" / "1", "nn")
    assert compare.main([SEVEN, "--targets", "tflite", "--models", URL, "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["targets"]) == 7
