"""Export cards: what a version directory holds, in `<N>/export.json`."""

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from export import store
from export.formats import Format
from train.errors import ArtifactError
from train.files import read_json, sha256, write_json

__all__ = ["CARD", "ExportCard", "read", "up_to_date"]

CARD = "export.json"
SAVED_MODEL = "savedmodel"


@dataclass(frozen=True)
class ExportCard:
    """The record of one export.

    `keras_sha256` says which weights; `data` which images the artefacts were checked with. `artefacts` is a
    list in the order of writing, each with `format`, `files`, `bytes`, `sha256` (of the files one after the
    other) and the figures of `export.verify.compare`.
    """

    model: str
    created: str
    keras_sha256: str
    classes: list[str]
    data: dict[str, Any]
    calibration: dict[str, Any]
    keras_accuracy: dict[str, Any]
    artefacts: list[dict[str, Any]]
    environment: dict[str, Any]

    def write(self, version: Path) -> None:
        """Write the card into a version directory."""
        write_json(version / CARD, asdict(self))


def read(version: Path) -> ExportCard:
    """Read the card of a version directory; ArtifactError if there is none or it is damaged."""
    path = version / CARD
    values = read_json(path)
    if not isinstance(values, dict) or set(values) != {field.name for field in fields(ExportCard)}:
        raise ArtifactError(f"{path}: not an export card of this version; run `make export`")
    return ExportCard(**values)


def up_to_date(base: Path, keras_sha256: str, rows: list[Format]) -> Path | None:
    """Return the latest version of the servable at `base` if it holds these weights in these formats."""
    found = store.versions(base)
    if not found:
        return None
    version = found[max(found)]
    try:
        card = read(version)
        whole = all(
            sha256(*(version / file for file in each["files"])) == each["sha256"] for each in card.artefacts
        )
    except (ArtifactError, OSError):
        return None
    formats = {each["format"] for each in card.artefacts}
    wanted = {row.name for row in rows}
    return version if whole and card.keras_sha256 == keras_sha256 and wanted <= formats else None
