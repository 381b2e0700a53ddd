"""Export cards: what a version directory holds, in `<N>/export.json`."""

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from export import contract, store
from export.contract import BATCHING
from export.formats import Format
from train.errors import ArtifactError
from train.files import read_json, sha256, write_json

__all__ = ["CARD", "SAVED_MODEL", "ExportCard", "damage", "listing", "read", "up_to_date"]

CARD = "export.json"
SAVED_MODEL = "savedmodel"


@dataclass(frozen=True)
class ExportCard:
    """The record of one export.

    `keras_sha256` says which weights, `request` is the digest of all that was asked with (`export.source`), `data`
    says which images the artefacts were verified with. `artefacts` is a
    list in the order of writing, each with `format`, `files`, `bytes`, `sha256` (of the files one after the
    other) and the figures of `export.verify.compare`; `unconverted` gives the converter's reason by format.
    `equalized` are the layers rescaled to lose less in int8,
    `serves` is the format that `model.tflite` is a copy of. `blessing` is the gate's record (`export.gate`),
    `layers` the report on each format that didn't pass it. `files` are what `listing` returns, and
    `card_sha256` is that of the card without it.
    """

    model: str
    created: str
    keras_sha256: str
    request: str
    classes: list[str]
    data: dict[str, Any]
    calibration: dict[str, Any]
    equalized: list[str]
    keras_accuracy: dict[str, Any]
    artefacts: list[dict[str, Any]]
    unconverted: dict[str, str]
    serves: str
    warmup: list[str]
    blessing: dict[str, Any]
    layers: dict[str, list[dict[str, Any]]]
    seconds: dict[str, float]
    files: dict[str, str]
    environment: dict[str, Any]

    def write(self, version: Path) -> None:
        """Write the card into a version directory."""
        write_json(version / CARD, {**asdict(self), "card_sha256": self._sha256()})

    def _sha256(self) -> str:
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


def read(version: Path) -> ExportCard:
    """Read the card of a version directory; ArtifactError if there is none or it is damaged."""
    path = version / CARD
    values = read_json(path)
    if not isinstance(values, dict) or set(values) - {"card_sha256"} != {
        field.name for field in fields(ExportCard)
    }:
        raise ArtifactError(f"{path}: not an export card of this version; run `make export`")
    found = values.pop("card_sha256", None)
    card = ExportCard(**values)
    if card._sha256() != found:
        raise ArtifactError(f"{path}: was changed since it was written; export the model again")
    return card


def listing(version: Path) -> dict[str, str]:
    """Return the sha256 of every file in a version directory, by path within it, but of its card.

    And but of how a server is to batch requests, which its operator may set, and which changes no answer.
    """
    return {
        path.relative_to(version).as_posix(): sha256(path)
        for path in sorted(version.rglob("*"))
        if path.is_file() and path not in (version / CARD, version / BATCHING)
    }


def damage(version: Path) -> list[str]:
    """Hash a published version again; return what differs from its card, a line each."""
    try:
        expected = read(version).files
        found = listing(version)
    except (ArtifactError, OSError) as error:
        return [str(error)]
    return (
        [f"{name} is gone" for name in expected if name not in found]
        + [f"{name} was added" for name in found if name not in expected]
        + [f"{name} was changed" for name in found if name in expected and found[name] != expected[name]]
    )


def up_to_date(
    base: Path, request: str, rows: list[Format], serves: str, gate: dict[str, float], *, force: bool
) -> Path | None:
    """Return the latest version of the servable at `base` if it is whole and what would be written now, else None.

    That is: with a contract of today's schema, made from the same `request`, with these formats and `model.tflite`,
    judged by the same gate, and blessed, or else forced as it would be now.
    """
    found = store.versions(base)
    if not found:
        return None
    version = found[max(found)]
    if damage(version) or not _is_prepared_as_now(version):
        return None
    card = read(version)
    formats = {each["format"] for each in card.artefacts} | set(card.unconverted)
    same = (
        (card.request, card.serves, card.blessing["gate"]) == (request, serves, gate)
        and {row.name for row in rows} <= formats
        and (card.blessing["blessed"] or force)
    )
    return version if same else None


def _is_prepared_as_now(version: Path) -> bool:
    """Tell whether the client prepares pictures as the graph of this version does."""
    try:
        contract.read(version)
    except ArtifactError:
        return False
    return True
