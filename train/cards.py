"""Training cards: what a `.keras` file was made of, beside it as `<name>.card.json`."""

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from train.data import Source
from train.errors import ArtifactError
from train.files import read_json, sha256, write_json
from train.recipe import Recipe

__all__ = ["Card", "read", "up_to_date"]


@dataclass(frozen=True)
class Card:
    """The record of one training run.

    `accuracy` is that of `train.stats.accuracy` on the data's test images, `seconds` the wall time of the
    training alone, `keras_sha256` the digest of the weights that this card belongs to.
    """

    model: str
    parameters: int
    created: str
    keras_sha256: str
    data: dict[str, Any]
    classes: list[str]
    recipe: dict[str, Any]
    seed: int
    epochs: int
    steps: int
    seconds: float
    accuracy: dict[str, Any]
    environment: dict[str, Any]

    def write(self, folder: Path) -> None:
        """Write the card into `folder`, atomically."""
        write_json(card_path(folder, self.model), asdict(self))


def card_path(folder: Path, name: str) -> Path:
    """Return where the card of network `name` lies."""
    return folder / f"{name}.card.json"


def read(folder: Path, name: str) -> Card:
    """Read the card of a trained network and check that the weights beside it are the ones it names.

    Raises ArtifactError if either is missing or damaged or they don't belong together.
    """
    path, weights = card_path(folder, name), folder / f"{name}.keras"
    if not weights.is_file():
        raise ArtifactError(f"{weights}: no such model; run `make train` first")
    values = read_json(path)
    expected = {field.name for field in fields(Card)}
    if not isinstance(values, dict) or set(values) != expected:
        raise ArtifactError(f"{path}: not a training card of this version; run `make train`")
    card = Card(**values)
    if card.keras_sha256 != sha256(weights):
        raise ArtifactError(
            f"{weights}: not the weights that {path.name} describes (its training was interrupted, or the file "
            "was changed); run `make train`"
        )
    return card


def up_to_date(folder: Path, name: str, source: Source, recipe: Recipe, seed: int) -> Card | None:
    """Return the card if the weights in `folder` come from this data, recipe and seed, else None."""
    try:
        card = read(folder, name)
    except ArtifactError:
        return None
    same = card.data.get("sha256") == source.sha256 and card.recipe == asdict(recipe) and card.seed == seed
    return card if same else None
