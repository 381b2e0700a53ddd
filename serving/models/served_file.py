"""The TFLite files of a version that the server uses, with `--runtime=tflite` or with `auto`."""

from pathlib import Path
from typing import Any

from tfship.export.conversion.formats import FORMATS, REFERENCE, SERVED_FILE
from tfship.export.publishing import cards
from tfship.export.publishing.cards import CARD, DIFFERENCE
from tfship.train.common.errors import ArtifactError
from tfship.train.common.files import read_json, sha256

__all__ = ["find", "find_equal"]

# Largest difference of scores between two formats that count as equal. Float32 rounding causes about 1e-6.
_EQUAL = 1e-5


def find(version: Path) -> Path | None:
    """Return `model.tflite` of the directory `version`, or else the file of the format in its card, or None.

    TensorFlow Serving uses only `model.tflite`. A card that is missing or damaged is ignored, and so is a format whose
    file doesn't exist.
    """
    for name in (SERVED_FILE, _named(version / CARD)):
        if name and (version / name).is_file():
            return version / name
    return None


def find_equal(version: Path) -> Path | None:
    """Return the float32 file of the directory `version` if its card shows that it equals the SavedModel, or None.

    The card must be intact and record a difference of scores of at most 1e-5, and it must have the hashes of this file
    and of the SavedModel's graph and variables. Cards of earlier releases don't record the difference.
    """
    row = FORMATS[REFERENCE]
    try:
        card = cards.read(version)
        (figures,) = [each for each in card.artefacts if each["format"] == row.name]
        if not figures[DIFFERENCE] <= _EQUAL:
            return None
        files = [version / row.file, version / "saved_model.pb", *(version / "variables").iterdir()]
        intact = all(sha256(file) == card.files[file.relative_to(version).as_posix()] for file in files)
    except (ArtifactError, OSError, RecursionError, KeyError, TypeError, ValueError):
        return None
    return version / row.file if intact else None


def _named(card: Path) -> str | None:
    """Return the file of the format in the field `serves` of `card`, or None; other fields aren't checked."""
    try:
        found: Any = read_json(card)
    except (ArtifactError, OSError, RecursionError):
        return None
    serves = found.get("serves") if isinstance(found, dict) else None
    row = FORMATS.get(serves) if isinstance(serves, str) else None
    return row.file if row else None
