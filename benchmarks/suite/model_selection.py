"""The models to measure and their images: MNIST's for the digit networks, the user's for any other model."""

import copy
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from tfship.export.conversion.formats import FORMATS, REFERENCE
from tfship.export.preprocessing import input_contract
from tfship.export.publishing import cards, store
from tfship.export.sources import evaluation_data
from tfship.export.sources.evaluation_data import Images
from tfship.train import cards as trained
from tfship.train.common.errors import ArtifactError, DataError, UsageError
from tfship.train.common.files import sha256
from tfship.train.data import datasets
from tfship.train.data.datasets import Digits
from tfship.train.recipe import NETWORKS

__all__ = ["ExportedModel", "brought", "default", "find", "of"]


class ExportedModel:
    """An exported version and its evaluation images.

    Raises ArtifactError if it lacks the file that the other formats are compared with.
    """

    def __init__(self, models: Path, version: Path, evaluated: Images) -> None:
        if not (version / FORMATS[REFERENCE].file).is_file():
            raise ArtifactError(
                f"{version}: has no {FORMATS[REFERENCE].file}, which benchmarks compare the other formats with; run "
                f"`tfship export` with {REFERENCE} among --formats"
            )
        self.models, self.version = models, version
        self.card, self.contract = cards.read(version), input_contract.read(version)
        self.images = evaluated
        keras = trained.locate(models, self.name) / f"{self.name}.keras"
        # After another training, the file has other weights than the export.
        self.keras = keras if keras.is_file() and sha256(keras) == self.card.keras_sha256 else None

    def limited(self, count: int | None) -> "ExportedModel":
        """Return a copy with the first `count` images only."""
        made = copy.copy(self)
        made.images = Images(self.images.data, self.images.pixels[:count], self.images.truth[:count])
        return made

    @property
    def name(self) -> str:
        """The servable's name."""
        return self.contract.model


def of(models: Path, names: Sequence[str], digits: Digits) -> list[ExportedModel]:
    """Return the latest versions of digit networks, with the test images of the data that they were trained on.

    Raises ArtifactError if a model isn't exported, DataError for other data: its test images may have been trained on.
    """
    found = []
    for name in names:
        version = store.latest(models / name)
        found.append(ExportedModel(models, version, _test_images(digits, version)))
    return found


def brought(models: Path, name: str, eval_: Path) -> ExportedModel:
    """Return the latest version of any other model, with the images and classes from `eval_`, a folder or an .npz file.

    Raises ArtifactError if the model isn't exported, DataError if the images don't fit it.
    """
    version = store.latest(models / name)
    rules = input_contract.read(version)
    evaluated = evaluation_data.read(eval_, rules)
    if evaluated.truth.ndim == 2:
        raise DataError(
            f"{eval_}: has several labels for each image; expected one class, as benchmarks compare classes"
        )
    if evaluated.truth.max() >= len(rules.labels):
        raise DataError(
            f"{eval_}: has class {evaluated.truth.max()}; {name} has {len(rules.labels)} classes, 0 to "
            f"{len(rules.labels) - 1}"
        )
    return ExportedModel(models, version, evaluated)


def default(models: Path) -> list[str]:
    """Return the names of the models to measure by default: the digit networks, or the only model in the folder."""
    found = store.servables(models)
    digits = [name for name in NETWORKS if name in found]
    return digits or (found if len(found) == 1 else list(NETWORKS))


def find(
    models: Path, names: Sequence[str], data_path: str | None, say: Callable[[str], None]
) -> list[ExportedModel]:
    """Return the named models with their images: `of` for the digit networks, `brought` for another model.

    Raises their errors, and UsageError if the images of another model aren't given, or if models have different images.
    """
    others = [name for name in names if name not in NETWORKS]
    for name in names:
        store.latest(models / name)  # fails before any data is loaded
    if not others:
        return of(models, names, datasets.load(datasets.find(data_path, say=say)))
    if len(names) > 1:
        raise UsageError(
            f"--model {' --model '.join(names)}: {others[0]} needs its own images; measure it in a separate run"
        )
    (name,) = others
    if data_path is None:
        shape = ", ".join(map(str, input_contract.read(store.latest(models / name)).shape))
        raise UsageError(
            f"--model {name}: no evaluation images given; expected --data PATH, a folder with a folder of images for "
            f"each class, or an .npz with x [N, {shape}] and class numbers y"
        )
    return [brought(models, name, Path(data_path))]


def _test_images(digits: Digits, version: Path) -> Images:
    card = cards.read(version)
    if card.data["sha256"] != digits.sha256:
        raise DataError(
            f"{version} was made with {card.data['label']} (sha256 {card.data['sha256'][:12]}…), but "
            f"the data found is {digits.source.label} ({digits.sha256[:12]}…); pass the same --data "
            "or MNIST_NPZ: the model may have been trained on other data's test images"
        )
    return Images(digits.describe(), digits.x_test[..., np.newaxis], digits.y_test.astype(np.int64))
