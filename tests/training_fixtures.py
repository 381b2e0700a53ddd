"""What the tests of training share: few images, files that a failing run must leave alone, and comparable cards."""

from dataclasses import asdict, replace
from pathlib import Path

from tfship.train.cards import Card
from tfship.train.data.datasets import Digits
from tfship.train.recipe import RECIPES

FAST = RECIPES["fast"]


def first_of(sample: Digits, count: int) -> Digits:
    """Return the first training images of the sample, and 100 test images."""
    return replace(
        sample,
        x_train=sample.x_train[:count],
        y_train=sample.y_train[:count],
        x_test=sample.x_test[:100],
        y_test=sample.y_test[:100],
    )


def old_weights(folder: Path) -> dict[str, bytes]:
    """Put something into the folder that a failing run must leave alone."""
    (folder / "nn.keras").write_text("old")
    (folder / "nn.card.json").write_text("old card")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def files(folder: Path) -> dict[str, bytes]:
    """Return what lies in the folder, but for the log of a run, which also tells of those that failed."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "logs"}


def without_times(card: Card) -> dict[str, object]:
    """Return a card's fields but for those that tell when and how fast."""
    return {
        key: value for key, value in asdict(card).items() if key not in ("created", "seconds", "keras_sha256")
    }
