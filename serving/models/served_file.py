"""The TFLite file of a version that the server uses with `--prefer_tflite_model`."""

from pathlib import Path
from typing import Any

from tfship.export.conversion.formats import FORMATS, SERVED_FILE
from tfship.export.publishing.cards import CARD
from tfship.train.common.errors import ArtifactError
from tfship.train.common.files import read_json

__all__ = ["find"]


def find(version: Path) -> Path | None:
    """Return `model.tflite` of the directory `version`, or else the file of the format in its card, or None.

    TensorFlow Serving uses only `model.tflite`. A card that is missing or damaged is ignored, and so is a format whose
    file doesn't exist.
    """
    for name in (SERVED_FILE, _named(version / CARD)):
        if name and (version / name).is_file():
            return version / name
    return None


def _named(card: Path) -> str | None:
    """Return the file of the format in the field `serves` of `card`, or None; other fields aren't checked."""
    try:
        found: Any = read_json(card)
    except (ArtifactError, OSError, RecursionError):
        return None
    serves = found.get("serves") if isinstance(found, dict) else None
    row = FORMATS.get(serves) if isinstance(serves, str) else None
    return row.file if row else None
