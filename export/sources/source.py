"""What is exported: a model as a function, its input contract, and the images to calibrate and to verify it with.

`trained` takes a network that was trained here, `export.sources.user_model` any other. Loads TensorFlow when it is
used.
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

    `function` takes a tensor of images float32 [N, H, W, C] with the contract's values and returns its scores [N,
    labels] as the contract describes them: the model as it was given. `exported` computes the same, rescaled to
    lose less in int8 (`export.conversion.equalization`); `tracked` holds its variables, `layers` are its layers'
    names and `equalized` those that were rescaled. `batch` is the number of images that the model takes at a time,
    None for any, and `precision` the coarsest dtype that it computes in.

    `sha256` is the digest of its file, or of a SavedModel's files, and `request` that of all that was asked for, by
    which an export is known to be up to date. `evaluation` is what every format is verified on; its `truth` is None
    where no labels are known. `calibration` are pixels uint8 [N, H, W, C] for the ranges of activations (None: none
    were given), `calibrated_with` what cards say of them. `detected` is what cards say of the values and of the
    kind of outputs.
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
        """Whether an image may have several labels, each of which is decided by itself."""
        one_each = self.evaluation.labelled and self.evaluation.truth.ndim == 1
        return self.contract.outputs == INDEPENDENT and not one_each

    def predict(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the model's own scores [N, labels], the reference for everything exported."""
        return scores_of(self.function, self.contract.scaling, pixels, f"{self.contract.model} original")


def trained(name: str, folder: Path, digits: Digits) -> Source:
    """Return the network `folder/name.keras` with the data that it was trained on.

    Raises ArtifactError if it is missing or damaged, DataError if `digits` are others than it was trained on.
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
    """Return what an export of a trained network depends on, as one digest: its file and the data."""
    return hashlib.sha256(f"{card.keras_sha256} {card.data['sha256']}".encode()).hexdigest()


def digest(path: Path) -> str:
    """Return the sha256 of a file, or of a folder's files one after the other; ArtifactError if it isn't there."""
    if path.is_dir():
        return sha256(*sorted(each for each in path.rglob("*") if each.is_file()))
    if not path.is_file():
        raise ArtifactError(f"{path}: no such file or folder")
    return sha256(path)


def any_batch(function: Callable[[Any], Any], batch: int | None) -> Callable[[Any], Any]:
    """Return `function`, which takes images one at a time if `batch` is 1, as one for any number of them."""
    if batch is None:
        return function
    return lambda images: tensorflow().map_fn(lambda image: function(image[None])[0], images)


def scores_of(
    function: Callable[[Any], Any], scaling: Scaling, pixels: NDArray[np.uint8], label: str
) -> NDArray[np.float32]:
    """Return a model's scores for pixels uint8 [N, H, W, C]; ArtifactError if it refuses them."""
    tf, batch, parts = tensorflow(), verification.batch_of(pixels.shape[1:]), []
    with Progress(label, len(pixels), "images") as progress:
        for start in range(0, len(pixels), batch):
            values = scaling.apply(pixels[start : start + batch].astype(np.float32))
            try:
                parts.append(np.asarray(function(tf.constant(values)), np.float32))
            except (tf.errors.OpError, ValueError, TypeError) as error:
                reason = " ".join(str(error).split())[:300]
                raise ArtifactError(f"the model can't be run on its images ({reason})") from error
            progress.advance(len(parts[-1]))
    return np.concatenate(parts)
