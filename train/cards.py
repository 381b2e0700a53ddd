"""Training cards: the record of how a `.keras` file was trained, written next to it as `<name>.card.json`."""

import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tfship.train.common.errors import ArtifactError, DataError
from tfship.train.common.files import read_json, sha256, staged, write_json
from tfship.train.data.datasets import Digits
from tfship.train.recipe import Recipe

__all__ = ["FIGURES", "RELEASED", "Card", "check_data", "copy", "figure_path", "locate", "read", "up_to_date"]

# The figures written with a card, <name>.<kind>.png.
FIGURES = ("curves", "confusion")
# The subfolder of the models' folder with the weights that are part of the repository.
RELEASED = "released"


@dataclass(frozen=True)
class Card:
    """The record of one training run.

    `validation` holds `train.common.statistics.accuracy` and the loss on the validation images, and `corruptions`, the
    share of correct predictions for each corrupted copy of them. Recipes and seeds are chosen by these. `accuracy` and
    `corruptions` are the same for the test images, which are used once, at the end. `seconds` is the wall time of the
    training alone, `history` its figures by epoch, and `precision` Keras' dtype policy. `teachers` holds the
    `weights_sha256` of each teacher. `keras_sha256` is the digest of the file that this card describes;
    `weights_sha256` is the digest of its weights, equal for equal weights. `seeds` lists the runs from which this one
    was selected, if any, and `tried` the alternatives to its recipe.
    """

    model: str
    parameters: int
    data: dict[str, Any]
    classes: list[str]
    recipe: dict[str, Any]
    seed: int
    precision: str
    workers: int
    teachers: list[str]
    epochs: int
    steps: int
    environment: dict[str, Any]
    # Filled in when the run has ended.
    created: str = ""
    keras_sha256: str = ""
    weights_sha256: str = ""
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)
    validation: dict[str, Any] = field(default_factory=dict)
    accuracy: dict[str, Any] = field(default_factory=dict)
    corruptions: dict[str, float] = field(default_factory=dict)
    seeds: list[dict[str, Any]] = field(default_factory=list)
    tried: list[dict[str, Any]] = field(default_factory=list)

    def write(self, folder: Path) -> None:
        """Write the card into `folder`, atomically, and before the weights that it names.

        If the process dies between the two writes, the card's hash doesn't match the weights, and `read` refuses
        them.
        """
        write_json(card_path(folder, self.model), asdict(self))


def card_path(folder: Path, name: str) -> Path:
    """Return the path of network `name`'s card in `folder`."""
    return folder / f"{name}.card.json"


def figure_path(folder: Path, name: str, kind: str) -> Path:
    """Return the path of network `name`'s figure of a `kind` in `FIGURES`."""
    return folder / f"{name}.{kind}.png"


def copy(card: Card, source: Path, folder: Path) -> list[Path]:
    """Copy the weights and figures of `card` from `source` into `folder`, write the card there, return all paths."""
    figures = [figure_path(folder, card.model, kind) for kind in FIGURES]
    weights = folder / f"{card.model}.keras"
    for path in figures:
        with staged(path) as temporary:
            shutil.copyfile(source / path.name, temporary)
    with staged(weights) as temporary:
        shutil.copyfile(source / weights.name, temporary)
        card.write(folder)
    return [weights, card_path(folder, card.model), *figures]


def locate(models: Path, name: str) -> Path:
    """Return the folder of network `name`'s weights: `models`, or `models/released` if only that has them."""
    trained, released = (folder / f"{name}.keras" for folder in (models, models / RELEASED))
    return released.parent if released.is_file() and not trained.is_file() else models


def read(folder: Path, name: str) -> Card:
    """Read the card of a trained network and check that it matches the weights in the same folder.

    Raises ArtifactError if either is missing or damaged, or if the card's hash doesn't match the weights.
    """
    path, weights = card_path(folder, name), folder / f"{name}.keras"
    if not weights.is_file():
        raise ArtifactError(f"{weights}: no such file; run `tfship train` first")
    values = read_json(path)
    try:
        card = Card(**values)
    except TypeError as error:
        raise ArtifactError(f"{path}: not a training card of this version; run `tfship train`") from error
    if card.keras_sha256 != sha256(weights):
        raise ArtifactError(
            f"{weights}: doesn't match the hash in {path.name} (an interrupted training, or a changed file); "
            "run `tfship train`"
        )
    return card


def check_data(card: Card, folder: Path, digits: Digits) -> None:
    """Raise DataError if `digits` aren't the data that the network of `card` in `folder` was trained on.

    The test images of other data may be among its training images, which would overstate its accuracy.
    """
    if card.data["sha256"] != digits.sha256:
        raise DataError(
            f"{folder / card.model}.keras was trained on {card.data['label']} (sha256 {card.data['sha256'][:12]}…), "
            f"but the data found is {digits.source.label} ({digits.sha256[:12]}…); pass the same --data or "
            "MNIST_NPZ, or run `tfship train` again"
        )


def up_to_date(
    folder: Path, name: str, digits: Digits, recipe: Recipe, seed: int, teachers: Iterable[Card] = ()
) -> Card | None:
    """Return the card if the weights in `folder` were made from this data, recipe, seed and teachers, else None."""
    try:
        card = read(folder, name)
    except ArtifactError:
        return None
    same = (
        card.data.get("sha256") == digits.sha256
        and card.recipe == asdict(recipe)
        and card.seed == seed
        and card.teachers == [each.weights_sha256 for each in teachers]
    )
    return card if same else None
