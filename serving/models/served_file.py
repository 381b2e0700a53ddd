"""The TFLite file of a version that a server takes with `--prefer_tflite_model`."""

from pathlib import Path
from typing import Any

from tfship.export.conversion.formats import FORMATS, SERVED_FILE
from tfship.export.publishing.cards import CARD
from tfship.train.common.errors import ArtifactError
from tfship.train.common.files import read_json

__all__ = ["find"]


def find(version: Path) -> Path | None:
    """Return `model.tflite`, or else the file of the format that the version's card names, or None.

    TensorFlow Serving knows `model.tflite` only. A card that is missing or damaged, or names a format whose file
    isn't there, names none.
    """
    for name in (SERVED_FILE, _named(version / CARD)):
        if name and (version / name).is_file():
            return version / name
    return None


def _named(card: Path) -> str | None:
    """Return the file of the format in the card's field `serves`; the rest of the card may be of any schema."""
    try:
        found: Any = read_json(card)
    except (ArtifactError, OSError, RecursionError):
        return None
    serves = found.get("serves") if isinstance(found, dict) else None
    row = FORMATS.get(serves) if isinstance(serves, str) else None
    return row.file if row else None
