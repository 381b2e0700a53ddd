"""Export cards, `<N>/export.json`: the records of published versions."""

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

__all__ = [
    "CARD",
    "DIFFERENCE",
    "LOG",
    "SAVED_MODEL",
    "ExportCard",
    "damage",
    "last_blessed",
    "listing",
    "read",
    "up_to_date",
]

CARD = "export.json"
# The output of converters and other native code, in the version directory.
LOG = "export.log"
SAVED_MODEL = "savedmodel"
# Field of the artefact float32: the largest difference of a score between it and the SavedModel's `serving_default`, on
# the images that the formats were verified with.
DIFFERENCE = "saved_model_difference"


@dataclass(frozen=True)
class ExportCard:
    """The record of one export.

    - `keras_sha256`: digest of the weights. `request`: digest of all inputs and options (`export.sources.source`).
    - `data`: the images that the formats were verified with. `calibration`: the calibration set.
    - `detected`: the detected range of values and kind of outputs, with the figures that support them.
    - `artefacts`: one entry per written format, in this order, with `format`, `files`, `bytes`, `sha256` (of the
      concatenated files) and the figures of `export.publishing.verification.compare`. The artefact float32 also has
      `saved_model_difference` (`DIFFERENCE`), which cards of earlier releases lack.
    - `unconverted`: reason by format that can't be made or run. `withheld`: reason by format that the gate refused.
    - `equalized`: names of the layers rescaled to lose less in int8.
    - `serves`: the format of `model.tflite`. Without that file, the format for servers that prefer TFLite, or "".
    - `blessing`: the gate's record (`export.publishing.gate`). `layers`: divergence by layer of refused formats.
    - `keras_accuracy`: the original model's accuracy; its `value` is None without labels.
    - `web`: one entry per file for browsers, with `format`, `file`, `bytes`, `sha256`, the dtype and quantization of
      `input` and `output`, the `browser` in which it was verified ("": in LiteRT only), `native_difference`, the
      largest from the format's file in LiteRT, and the figures of `compare`; or with `format` and `left_out`, the
      reason.
    - `files`: the result of `listing`. The file also holds `card_sha256`, the digest of all other fields.
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
    # Missing in the cards of earlier releases.
    withheld: dict[str, str] = field(default_factory=dict)
    detected: dict[str, Any] = field(default_factory=dict)
    web: list[dict[str, Any]] = field(default_factory=list)

    def write(self, version: Path) -> None:
        """Write the card into a version directory."""
        write_json(version / CARD, {**asdict(self), "card_sha256": _sha256(asdict(self))})

    @property
    def verified(self) -> bool:
        """Whether accuracy was verified, not only the agreement with the original model."""
        return self.keras_accuracy["value"] is not None


def read(version: Path) -> ExportCard:
    """Return the card of the directory `version`; ArtifactError if it is missing or damaged."""
    path = version / CARD
    values = read_json(path)
    known = fields(ExportCard)
    required = {each.name for each in known if each.default_factory is MISSING}
    if not isinstance(values, dict) or not required <= set(values) - {"card_sha256"} <= {
        each.name for each in known
    }:
        raise ArtifactError(
            f"{path}: not an export card of this tfship release; run `tfship export` to write a new version"
        )
    found = values.pop("card_sha256", None)
    if _sha256(values) != found:
        raise ArtifactError(f"{path}: was changed since it was written; export the model again")
    return ExportCard(**values)


def _sha256(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def listing(version: Path) -> dict[str, str]:
    """Return the sha256 of the files in the directory `version`, by relative path.

    The card is left out, and so is the file of batching parameters: an operator may change it, and it doesn't affect
    predictions.
    """
    return {
        path.relative_to(version).as_posix(): sha256(path)
        for path in sorted(version.rglob("*"))
        if path.is_file() and path not in (version / CARD, version / BATCHING)
    }


def damage(version: Path) -> list[str]:
    """Hash the files of a published version again; return one line per difference from its card."""
    try:
        expected = read(version).files
        found = listing(version)
    except (ArtifactError, OSError) as error:
        return [str(error)]
    return (
        [f"{name} is missing" for name in expected if name not in found]
        + [f"{name} was added" for name in found if name not in expected]
        + [f"{name} was changed" for name in found if name in expected and found[name] != expected[name]]
    )


def last_blessed(base: Path, data_sha256: str) -> dict[str, dict[str, Any]]:
    """Return accuracy by format of the highest blessed version at `base` that was verified on the same images."""
    for path in reversed(store.versions(base).values()):
        try:
            card = read(path)
        except ArtifactError:
            continue
        if card.blessing["blessed"] and card.data["sha256"] == data_sha256:
            return {each["format"]: each["accuracy"] for each in card.artefacts if each["accuracy"]}
    return {}


def up_to_date(
    base: Path,
    request: str,
    rows: Sequence[Format],
    serves: str | None,
    gate: dict[str, float],
    *,
    force: bool,
) -> Path | None:
    """Return the latest version at `base` if it is intact and equals what an export would write, otherwise None.

    The version must have a contract of the current schema, the same `request`, the formats `rows`, the same
    `model.tflite` (`serves`, None: no such file), files for browsers, and the same `gate` bounds. It must be blessed,
    unless `force`.
    """
    found = store.versions(base)
    if not found:
        return None
    version = found[max(found)]
    if damage(version) or not input_contract.is_current(version):
        return None
    card = read(version)
    made = {each["format"] for each in card.artefacts} - {SAVED_MODEL}
    formats = made | set(card.unconverted) | set(card.withheld)
    same = (
        (card.request, card.blessing["gate"]) == (request, gate)
        and (card.serves if SERVED_FILE in card.files else None) == serves
        and {row.name for row in rows} <= formats
        and {each["format"] for each in card.web} == made
        and (card.blessing["blessed"] or force)
    )
    return version if same else None
