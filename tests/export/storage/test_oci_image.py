"""Container images of versions, read by skopeo and umoci where they are installed."""

import hashlib
import json
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from object_storage.versions import exported, same
from tfship.export.publishing import cards
from tfship.export.storage import image_command, oci_image
from tfship.train.common.errors import ArtifactError, UsageError


@pytest.fixture
def version(tmp_path: Path) -> Path:
    found = exported(
        tmp_path / "models" / "m", 3, **{"contract.json": b'{"schema": 3, "labels": ["a", "b"]}'}
    )
    (found / ("a" * 120)).write_bytes(b"a name too long for the plain tar format")
    card = cards.read(found)
    card.files.update(cards.listing(found))
    card.write(found)
    return found


def _read(archive: Path) -> tuple[Any, Any, dict[str, bytes]]:
    """Return manifest, configuration and blobs by digest; each blob has the digest and the size in its descriptor."""
    with tarfile.open(archive) as tar:
        names = tar.getnames()
        contents = {name: _bytes(tar, name) for name in names}
    assert json.loads(contents["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}
    blobs = {
        f"sha256:{name.rpartition('/')[2]}": value
        for name, value in contents.items()
        if name.startswith("blobs/")
    }
    for digest, value in blobs.items():
        assert digest == f"sha256:{hashlib.sha256(value).hexdigest()}"
    (entry,) = json.loads(contents["index.json"])["manifests"]
    manifest = json.loads(blobs[entry["digest"]])
    for each in [entry, manifest["config"], *manifest["layers"]]:
        assert each["size"] == len(blobs[each["digest"]])
    return manifest, json.loads(blobs[manifest["config"]["digest"]]), blobs


def _bytes(tar: tarfile.TarFile, name: str) -> bytes:
    file = tar.extractfile(name)
    assert file is not None
    return file.read()


def _extracted(manifest: Any, blobs: dict[str, bytes], folder: Path) -> Path:
    for layer in manifest["layers"]:
        (folder.parent / "layer.tar").write_bytes(blobs[layer["digest"]])
        with tarfile.open(folder.parent / "layer.tar") as tar:
            tar.extractall(folder, filter="data")
    return folder


def test_the_image_holds_the_version(version: Path, tmp_path: Path) -> None:
    digest = oci_image.write(version, "m", tmp_path / "m.tar")
    manifest, config, blobs = _read(tmp_path / "m.tar")
    assert digest in blobs
    assert config["rootfs"]["diff_ids"] == [layer["digest"] for layer in manifest["layers"]]
    assert same(version, _extracted(manifest, blobs, tmp_path / "root") / "models" / "3")


def test_labels_hold_the_contract_and_the_hashes(version: Path, tmp_path: Path) -> None:
    oci_image.write(version, "m", tmp_path / "m.tar")
    labels = _read(tmp_path / "m.tar")[1]["config"]["Labels"]
    assert labels["org.opencontainers.image.version"] == "3"
    assert json.loads(labels["tfship.contract"]) == {"schema": 3, "labels": ["a", "b"]}
    assert json.loads(labels["tfship.files.sha256"]) == cards.listing(version)


def test_the_same_version_gives_the_same_bytes(version: Path, tmp_path: Path) -> None:
    oci_image.write(version, "m", tmp_path / "one.tar")
    copied = Path(shutil.copytree(version, tmp_path / "copy" / "3", copy_function=shutil.copyfile))
    for path in copied.rglob("*"):
        path.chmod(0o700)
    oci_image.write(copied, "m", tmp_path / "other.tar")
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "other.tar").read_bytes()


def test_a_base_keeps_its_layers_and_settings(version: Path, tmp_path: Path) -> None:
    """The base is an image of another version, with an environment added."""
    oci_image.write(exported(tmp_path / "b", 1, **{"contract.json": b"{}"}), "b", tmp_path / "base.tar")
    oci_image.write(version, "m", tmp_path / "m.tar", tmp_path / "base.tar")
    manifest, config, blobs = _read(tmp_path / "m.tar")
    assert len(manifest["layers"]) == len(config["rootfs"]["diff_ids"]) == len(config["history"]) == 2
    root = _extracted(manifest, blobs, tmp_path / "root")
    assert same(version, root / "models" / "3")
    assert same(tmp_path / "b" / "1", root / "models" / "1")


@pytest.mark.parametrize("content", [b"", b"text", b"\0" * 1024])
def test_another_file_is_no_base(version: Path, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "base.tar").write_bytes(content)
    with pytest.raises(ArtifactError, match="expected an OCI archive"):
        oci_image.write(version, "m", tmp_path / "m.tar", tmp_path / "base.tar")
    with pytest.raises(ArtifactError, match="no such file"):
        oci_image.write(version, "m", tmp_path / "m.tar", tmp_path / "missing.tar")
    assert not (tmp_path / "m.tar").exists()


def test_a_damaged_base_is_refused(version: Path, tmp_path: Path) -> None:
    oci_image.write(version, "m", tmp_path / "base.tar")
    content = (tmp_path / "base.tar").read_bytes()
    place = content.index(b"times") if b"times" in content else content.index(b"a name too long")
    (tmp_path / "base.tar").write_bytes(content[:place] + b"X" + content[place + 1 :])
    with pytest.raises(ArtifactError, match="is damaged"):
        oci_image.write(version, "m", tmp_path / "m.tar", tmp_path / "base.tar")
    assert not (tmp_path / "m.tar").exists()


def test_a_changed_version_is_refused(version: Path, tmp_path: Path) -> None:
    (version / "model.tflite").write_bytes(b"changed")
    with pytest.raises(ArtifactError, match="differs from its card"):
        oci_image.write(version, "m", tmp_path / "m.tar")


def test_the_command_writes_the_newest_version(
    version: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(version.parent.parent.parent)
    assert image_command.main(["m"]) == 0
    assert capsys.readouterr().out.startswith("m.tar: m version 3 in /models/3, sha256:")
    with pytest.raises(UsageError, match="has these models: m"):
        image_command.main(["other"])
    with pytest.raises(ArtifactError, match="no version 4; there are 3"):
        image_command.main(["m", "--version", "4"])


def test_skopeo_and_umoci_read_it(version: Path, tmp_path: Path) -> None:
    for program in ("skopeo", "umoci"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} isn't installed (Debian: apt-get install {program})")
    digest = oci_image.write(version, "m", tmp_path / "m.tar")

    def run(*command: str) -> str:
        return subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout

    inspected = json.loads(run("skopeo", "inspect", "oci-archive:m.tar"))
    assert inspected["Digest"] == digest
    assert json.loads(inspected["Labels"]["tfship.contract"])["labels"] == ["a", "b"]
    run("skopeo", "copy", "oci-archive:m.tar", "oci:layout:3")
    run("umoci", "unpack", "--rootless", "--image", "layout:3", "bundle")
    assert same(version, tmp_path / "bundle" / "rootfs" / "models" / "3")
