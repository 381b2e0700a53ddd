"""Source of an export: a model as a function, its input contract, and its calibration and evaluation images.

`trained` returns a network that was trained here, `export.sources.user_model` any other. Loads TensorFlow on first
use.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfship.export.conversion import calibration
from tfship.export.preprocessing import input_contract as contract
from tfship.export.preprocessing.input_contract import INDEPENDENT, Contract, Scaling
from tfship.export.publishing import verification
from tfship.export.sources.evaluation_data import Images
from tfship.export.sources.model_loading import load
from tfship.train import cards
from tfship.train.common.errors import ArtifactError
from tfship.train.common.files import sha256
from tfship.train.common.progress import Progress
from tfship.train.common.tensorflow_loader import tensorflow
from tfship.train.data.datasets import Digits

__all__ = ["Source", "any_batch", "digest", "request", "scores_of", "trained"]


@dataclass(frozen=True)
class Source:
    """A model to export.

    `function` is the unchanged model. It takes a tensor of images float32 [N, H, W, C] with the contract's values, and
    returns the contract's scores [N, labels]. `exported` computes the same, rescaled to lose less
    accuracy in int8 (`export.conversion.equalization`). `tracked` holds its variables. `layers` are its layers' names,
    `equalized` those of the rescaled ones. `batch` is the fixed number of images per call, None for any number, and
    `precision` the lowest precision in which the model computes.

    `sha256` is the digest of its file, or of a SavedModel's files. `request` is the digest of everything that
    determines the export; an export with the same digest is up to date. Every format is verified on the images of
    `evaluation`, whose `truth` is empty without labels. `calibration` are pixels uint8 [N, H, W, C] for the ranges of
    activations, or None. `calibrated_with` describes them for cards; `detected` describes the range of values and the
    kind of outputs for cards.
    """

    contract: Contract
    function: Callable[[Any], Any]
    exported: Callable[[Any], Any]
    tracked: Any
    layers: tuple[str, ...]
    equalized: list[str]
    sha256: str
    request: str
    evaluation: Images
    calibration: NDArray[np.uint8] | None
    calibrated_with: dict[str, Any]
    batch: int | None = None
    precision: str = "float32"
    detected: dict[str, Any] = field(default_factory=dict)

    @property
    def several(self) -> bool:
        """Whether an image may have several labels, each with a separate decision."""
        one_each = self.evaluation.labelled and self.evaluation.truth.ndim == 1
        return self.contract.outputs == INDEPENDENT and not one_each

    def predict(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the unchanged model's scores [N, labels], the reference for all formats."""
        return scores_of(self.function, self.contract.scaling, pixels, f"{self.contract.model} original")


def trained(name: str, folder: Path, digits: Digits) -> Source:
    """Return the source of the network `folder/name.keras`, with the data `digits` that it was trained on.

    Raises ArtifactError if the file is missing or damaged, DataError if `digits` aren't the network's training data.
    """
    card = cards.read(folder, name)
    cards.check_data(card, folder, digits)
    loaded = load(folder / f"{name}.keras")
    chosen = calibration.choose(digits.y_train)
    return Source(
        contract.digits(name),
        loaded.function,
        loaded.exported,
        loaded.tracked,
        loaded.layers,
        loaded.equalized,
        card.keras_sha256,
        request(card),
        Images(digits.describe(), digits.x_test[..., np.newaxis], digits.y_test.astype(np.int64)),
        digits.x_train[chosen][..., np.newaxis],
        calibration.record(chosen),
        loaded.batch,
        loaded.precision,
    )


def request(card: cards.Card) -> str:
    """Return the digest of everything that determines the export of a trained network: its file and the data."""
    return hashlib.sha256(f"{card.keras_sha256} {card.data['sha256']}".encode()).hexdigest()


def digest(path: Path) -> str:
    """Return the sha256 of a file, or of all files of a folder in order; ArtifactError if `path` doesn't exist."""
    if path.is_dir():
        return sha256(*sorted(each for each in path.rglob("*") if each.is_file()))
    if not path.is_file():
        raise ArtifactError(f"{path}: no such file or folder")
    return sha256(path)


def any_batch(function: Callable[[Any], Any], batch: int | None) -> Callable[[Any], Any]:
    """Return `function` as one for any number of images, if its `batch` is 1; None leaves it unchanged."""
    if batch is None:
        return function
    return lambda images: tensorflow().map_fn(lambda image: function(image[None])[0], images)


def scores_of(
    function: Callable[[Any], Any], scaling: Scaling, pixels: NDArray[np.uint8], label: str
) -> NDArray[np.float32]:
    """Return a model's scores for pixels uint8 [N, H, W, C]; ArtifactError if it fails. `label` names the progress."""
    tf, batch, parts = tensorflow(), verification.batch_of(pixels.shape[1:]), []
    with Progress(label, len(pixels), "images") as progress:
        for start in range(0, len(pixels), batch):
            values = scaling.apply(pixels[start : start + batch].astype(np.float32))
            try:
                parts.append(np.asarray(function(tf.constant(values)), np.float32))
            except (tf.errors.OpError, ValueError, TypeError) as error:
                reason = " ".join(str(error).split())[:300]
                raise ArtifactError(f"the model fails on its images ({reason})") from error
            progress.advance(len(parts[-1]))
    return np.concatenate(parts)
