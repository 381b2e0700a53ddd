"""Container images that hold a version, as OCI archives (OCI image specification 1.1, image layout in a tar file)."""

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from tfship.export.preprocessing.input_contract import CONTRACT
from tfship.export.publishing import cards
from tfship.train.common.errors import ArtifactError
from tfship.train.common.files import DAMAGED, stage, staged

__all__ = ["write"]

_LAYOUT = {"imageLayoutVersion": "1.0.0"}
_INDEX = "application/vnd.oci.image.index.v1+json"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
# Uncompressed: weights hardly compress, and compressors give other bytes in other releases.
_LAYER = "application/vnd.oci.image.layer.v1.tar"
_PLATFORM = {"architecture": "amd64", "os": "linux"}
_CHUNK = 1 << 20
_LARGEST_JSON = 4 << 20


@dataclass(frozen=True)
class _Base:
    """An image to which files are added: its configuration, and the descriptors of the layers in `archive`."""

    archive: Path | None
    config: Mapping[str, Any]
    layers: tuple[Mapping[str, Any], ...]


_SCRATCH = _Base(
    None, {**_PLATFORM, "config": {}, "rootfs": {"type": "layers", "diff_ids": []}, "history": []}, ()
)


def write(version: Path, model: str, out: Path, base: Path | None = None) -> str:
    """Write the directory `version` of the servable `model` as an image to the file `out`; return the digest.

    The files are in `/models/<N>/`. Labels hold the model's name, the version, the contract and the files' hashes. The
    image adds a layer to that of the OCI archive `base`, if there is one. The same version gives the same bytes. Raises
    ArtifactError if the version differs from its card, or `base` can't be read.
    """
    if damage := cards.damage(version):
        raise ArtifactError(f"{version}: differs from its card ({damage[0]}); export the model again")
    card = cards.read(version)
    under = _SCRATCH if base is None else _read_base(base)
    created = datetime.fromisoformat(card.created)
    with stage(out.parent, f"{out.name}.layer") as layer, staged(out) as archive:
        _write_layer(version, layer, int(created.timestamp()))
        layer_digest = _digest(layer)
        descriptor = {"mediaType": _LAYER, "digest": layer_digest, "size": layer.stat().st_size}
        history = {"created": card.created, "created_by": "tfship export oci"}
        config = dict(under.config)
        config["created"] = card.created
        config["config"] = dict(config.get("config") or {})
        labels = dict(config["config"].get("Labels") or {})
        config["config"]["Labels"] = labels | _labels(version, model, card)
        config["rootfs"] = {"type": "layers", "diff_ids": [*under.config["rootfs"]["diff_ids"], layer_digest]}
        config["history"] = [*(under.config.get("history") or []), history]
        blobs: dict[str, bytes] = {}
        manifest = {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": _add(blobs, _CONFIG, config),
            "layers": [*under.layers, descriptor],
        }
        image = _add(blobs, _MANIFEST, manifest)
        name = {"org.opencontainers.image.ref.name": f"{model}:{version.name}"}
        index = {"schemaVersion": 2, "mediaType": _INDEX, "manifests": [{**image, "annotations": name}]}
        with tarfile.open(archive, "w", format=tarfile.PAX_FORMAT) as tar:
            _put(tar, "oci-layout", _json(_LAYOUT))
            _put(tar, "index.json", _json(index))
            for digest, contents in sorted(blobs.items()):
                _put(tar, _blob(digest), contents)
            if under.archive:
                _copy_layers(under, tar)
            with layer.open("rb") as file:
                tar.addfile(_entry(_blob(layer_digest), layer.stat().st_size), file)
    return str(image["digest"])


def _labels(version: Path, model: str, card: cards.ExportCard) -> dict[str, str]:
    contract = json.loads((version / CONTRACT).read_bytes())
    return {
        "org.opencontainers.image.title": model,
        "org.opencontainers.image.version": version.name,
        "org.opencontainers.image.created": card.created,
        "tfship.blessed": json.dumps(card.blessing["blessed"]),
        "tfship.contract": json.dumps(contract, separators=(",", ":")),
        "tfship.files.sha256": json.dumps(card.files, separators=(",", ":")),
    }


def _write_layer(version: Path, layer: Path, seconds: int) -> None:
    """Write the version's files as a tar file, in the same order and with the same attributes each time."""
    root = f"models/{version.name}"
    paths = sorted(version.rglob("*"))
    with tarfile.open(layer, "w", format=tarfile.PAX_FORMAT) as tar:
        for folder in (
            "models",
            root,
            *(f"{root}/{p.relative_to(version).as_posix()}" for p in paths if p.is_dir()),
        ):
            entry = _entry(folder, 0, seconds)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        for path in paths:
            if path.is_file():
                name = f"{root}/{path.relative_to(version).as_posix()}"
                with path.open("rb") as file:
                    tar.addfile(_entry(name, path.stat().st_size, seconds), file)


def _read_base(path: Path) -> _Base:
    """Return the one image in the OCI archive `path`, or its image for linux/amd64."""
    expected = "expected an OCI archive: skopeo copy docker://busybox oci-archive:busybox.tar"
    try:
        with tarfile.open(path) as tar:
            manifest = _manifest(tar, json.loads(_read(tar, "index.json")))
            config = json.loads(_read(tar, _blob(manifest["config"]["digest"])))
            layers = tuple(manifest["layers"])
            for each in layers:
                tar.getmember(_blob(each["digest"]))
            if len(config["rootfs"]["diff_ids"]) != len(layers):
                raise ArtifactError(f"{path}: the image's configuration doesn't match its layers; {expected}")
    except FileNotFoundError:
        raise ArtifactError(f"{path}: no such file; {expected}") from None
    except (*DAMAGED, tarfile.TarError, TypeError, AttributeError, IndexError) as error:
        raise ArtifactError(f"{path}: can't be read as an image ({error}); {expected}") from None
    return _Base(path, config, layers)


def _manifest(tar: tarfile.TarFile, index: Mapping[str, Any]) -> Any:
    """Return the manifest of the image in `index`, which may hold an index of platforms instead."""
    entries = index["manifests"]
    entry = next(
        (each for each in entries if _PLATFORM.items() <= each.get("platform", {}).items()), entries[0]
    )
    found = json.loads(_read(tar, _blob(entry["digest"])))
    return _manifest(tar, found) if "manifests" in found else found


def _copy_layers(base: _Base, tar: tarfile.TarFile) -> None:
    with tarfile.open(base.archive) as source:
        for digest, size in sorted({(each["digest"], each["size"]) for each in base.layers}):
            file = source.extractfile(_blob(digest))
            if file is None or _digest_of(file) != digest:
                raise ArtifactError(f"{base.archive}: the layer {digest} is damaged; copy the image again")
            file.seek(0)
            tar.addfile(_entry(_blob(digest), size), file)


def _read(tar: tarfile.TarFile, name: str) -> bytes:
    file = tar.extractfile(name)
    if file is None:
        raise KeyError(f"{name} is no file")
    return file.read(_LARGEST_JSON)


def _add(blobs: dict[str, bytes], media_type: str, value: Mapping[str, Any]) -> dict[str, Any]:
    """Add `value` to `blobs` and return its descriptor."""
    contents = _json(value)
    digest = _digest_of(io.BytesIO(contents))
    blobs[digest] = contents
    return {"mediaType": media_type, "digest": digest, "size": len(contents)}


def _put(tar: tarfile.TarFile, name: str, contents: bytes) -> None:
    tar.addfile(_entry(name, len(contents)), io.BytesIO(contents))


def _entry(name: str, size: int, seconds: int = 0) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mtime, entry.mode = size, seconds, 0o644
    return entry


def _blob(digest: str) -> str:
    algorithm, _, value = digest.partition(":")
    return f"blobs/{algorithm}/{value}"


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return _digest_of(file)


def _digest_of(file: IO[bytes]) -> str:
    digest = hashlib.sha256()
    while block := file.read(_CHUNK):
        digest.update(block)
    return f"sha256:{digest.hexdigest()}"
