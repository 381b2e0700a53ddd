"""Export cards: what a version directory holds, in `<N>/export.json`."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from tfship.export.conversion.formats import SERVED_FILE, Format
from tfship.export.preprocessing import input_contract
from tfship.export.preprocessing.input_contract import BATCHING
from tfship.export.publishing import store
from tfship.train.common.errors import ArtifactError
from tfship.train.common.files import read_json, sha256, write_json

__all__ = ["CARD", "LOG", "SAVED_MODEL", "ExportCard", "damage", "listing", "read", "up_to_date"]

CARD = "export.json"
# What converters and other native code say, in the version's folder.
LOG = "export.log"
SAVED_MODEL = "savedmodel"


@dataclass(frozen=True)
class ExportCard:
    """The record of one export.

    `keras_sha256` says which weights, `request` is the digest of everything that was requested
    (`export.sources.source`), `data` says which images the formats were verified with. `detected` tells the values
    that pixels become, the kind of the outputs, and by which figures they were found. `artefacts` is a list in the
    order of writing, each with `format`, `files`, `bytes`, `sha256` (of the files one after the other) and the
    figures of `export.publishing.verification.compare`. `unconverted` gives the reason of each format that can't be
    made or run, `withheld` that of each format that the gate refused. `equalized` are the layers rescaled to lose
    less in int8. `serves` is the format that `model.tflite` is a copy of, or without that file the one that a server
    takes that prefers TFLite; empty if there is none. `blessing` is the gate's record (`export.publishing.gate`),
    `layers` the report on each format that didn't pass it. `keras_accuracy` is the original model's; its value is
    None where no labels were known. `files` are what `listing` returns, and `card_sha256` is that of the card without
    it.
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
    # Not in the cards of earlier versions.
    withheld: dict[str, str] = field(default_factory=dict)
    detected: dict[str, Any] = field(default_factory=dict)

    def write(self, version: Path) -> None:
        """Write the card into a version directory."""
        write_json(version / CARD, {**asdict(self), "card_sha256": _sha256(asdict(self))})

    @property
    def verified(self) -> bool:
        """Whether accuracy was verified, and not only the agreement with the original."""
        return self.keras_accuracy["value"] is not None


def read(version: Path) -> ExportCard:
    """Read the card of a version directory; ArtifactError if there is none or it is damaged."""
    path = version / CARD
    values = read_json(path)
    every = fields(ExportCard)
    needed = {each.name for each in every if each.default_factory is MISSING}
    if not isinstance(values, dict) or not needed <= set(values) - {"card_sha256"} <= {
        each.name for each in every
    }:
        raise ArtifactError(f"{path}: not an export card of this version; run `tfship export`")
    found = values.pop("card_sha256", None)
    if _sha256(values) != found:
        raise ArtifactError(f"{path}: was changed since it was written; export the model again")
    return ExportCard(**values)


def _sha256(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


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
    base: Path,
    request: str,
    rows: Sequence[Format],
    serves: str | None,
    gate: dict[str, float],
    *,
    force: bool,
) -> Path | None:
    """Return the latest version of the servable at `base` if it is whole and what would be written now, else None.

    That is: with a contract of today's schema, made from the same `request`, with these formats, the same
    `model.tflite` (None: without one), judged by the same gate, and blessed, or else forced as it would be now.
    """
    found = store.versions(base)
    if not found:
        return None
    version = found[max(found)]
    if damage(version) or not input_contract.is_current(version):
        return None
    card = read(version)
    formats = {each["format"] for each in card.artefacts} | set(card.unconverted) | set(card.withheld)
    same = (
        (card.request, card.blessing["gate"]) == (request, gate)
        and (card.serves if SERVED_FILE in card.files else None) == serves
        and {row.name for row in rows} <= formats
        and (card.blessing["blessed"] or force)
    )
    return version if same else None
