"""What is exported: a model as a function, its input contract, and the images to calibrate and to verify it with.

`trained` takes a network that was trained here, `brought` any Keras 3 classifier or SavedModel with one image
input. Loads TensorFlow when it is used.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export import calibration, contract, images
from export.contract import Contract, Scaling
from export.images import Images
from export.loading import load
from train import cards
from train.backend import tensorflow
from train.data import Digits
from train.errors import ArtifactError, DataError, UsageError
from train.files import sha256

__all__ = ["Brought", "Source", "are_logits", "brought", "digest", "request", "trained"]

# How far a softmax's sum may be from one, in float32 or after a half-precision layer.
_SUM = 1e-2


@dataclass(frozen=True)
class Source:
    """A model to export.

    `function` takes a tensor of images as the contract says and returns probabilities [N, classes]: the model as it
    was given. `exported` computes the same, rescaled to lose less in int8 (`export.equalize`); `tracked` holds its
    variables, `layers` are its layers' names and `equalized` those that were rescaled. `sha256` is the digest of
    its file, or of a SavedModel's files, and `request` that of all that was asked for, by which an export is known
    to be up to date. `evaluation` is what every artefact is verified on, `calibration` pixels uint8 [N, H, W, C]
    for the ranges of activations (None: none were given), `calibrated_with` what cards say of them.
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

    def predict(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the model's own probabilities [N, classes], the reference for everything exported."""
        batch = 500
        parts = [
            self.function(self.contract.scale(pixels[start : start + batch])).numpy()
            for start in range(0, len(pixels), batch)
        ]
        return np.concatenate(parts).astype(np.float32)


@dataclass(frozen=True)
class Brought:
    """What the command line says of a model that wasn't trained here; None where it says nothing."""

    path: Path
    name: str
    evaluation: Path
    calibration: Path | None = None
    labels: Path | None = None
    value_range: tuple[float, float] | None = None
    preparation: str = "resize"

    def digest(self) -> str:
        """Return the sha256 over all of it and over what the files hold; ArtifactError for a missing one."""
        files = (self.path, self.evaluation, self.calibration, self.labels)
        settings = [self.name, self.value_range, self.preparation, *(path and digest(path) for path in files)]
        return hashlib.sha256(json.dumps(settings).encode()).hexdigest()


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
    )


def request(card: cards.Card) -> str:
    """Return what an export of a trained network depends on, as one digest: its file and the data."""
    return hashlib.sha256(f"{card.keras_sha256} {card.data['sha256']}".encode()).hexdigest()


def brought(asked: Brought, request: str, say: Callable[[str], None]) -> Source:
    """Return a user's own model, told apart by its file: a `.keras` file or a SavedModel's folder.

    `request` is `asked.digest()`, which reads all the files once.

    Its outputs may be probabilities or logits, which get a softmax; its input one image, grey or RGB, of a
    fixed size, with the channels last or, of a grey one, with no axis for them. Where the command line gives no
    range of values, it is 0 to 255 for a model that begins by rescaling, else 0 to 1. Raises ArtifactError,
    DataError or UsageError with what was found and what is needed.
    """
    path = asked.path
    loaded = load(path)
    height, width, channels = loaded.shape
    low, high = asked.value_range or loaded.value_range or (0.0, 1.0)
    evaluation = images.read(asked.evaluation, loaded.shape)
    scaling = Scaling.of_range(low, high, channels)
    probe = Contract(asked.name, (), height, width, channels, scaling, asked.preparation)
    answers = np.asarray(loaded.function(tensorflow().constant(probe.scale(evaluation.pixels[:64]))))
    if answers.ndim != 2 or answers.shape[1] < 2 or not np.isfinite(answers).all():
        raise ArtifactError(
            f"{path}: answers {answers.shape} for 64 images; expected finite scores [64, classes] of 2 classes or more"
        )
    labels = _labels(asked.labels, answers.shape[1])
    if evaluation.classes.max() >= len(labels):
        raise DataError(
            f"{asked.evaluation}: holds class {evaluation.classes.max()}, but the model has {len(labels)} classes"
        )
    logits = are_logits(answers)
    say(
        f"{asked.name}: {height} × {width} {'grey' if channels == 1 else 'RGB'} images with values {low:g} to "
        f"{high:g}, {len(labels)} classes, {'logits, which get a softmax' if logits else 'probabilities'}"
    )

    def probabilities(images: Any, function: Callable[[Any], Any] = loaded.function) -> Any:
        answers = function(images)
        return tensorflow().nn.softmax(answers) if logits else answers

    found = Contract(asked.name, labels, height, width, channels, scaling, asked.preparation)
    pixels, record = (None, {}) if asked.calibration is None else calibration.read(asked.calibration, found)
    return Source(
        found,
        probabilities,
        lambda images: probabilities(images, loaded.exported),
        loaded.tracked,
        loaded.layers,
        loaded.equalized,
        digest(path),
        request,
        evaluation,
        pixels,
        record,
    )


def digest(path: Path) -> str:
    """Return the sha256 of a file, or of a folder's files one after the other; ArtifactError if it isn't there."""
    if path.is_dir():
        return sha256(*sorted(each for each in path.rglob("*") if each.is_file()))
    if not path.is_file():
        raise ArtifactError(f"{path}: no such file or folder")
    return sha256(path)


def are_logits(answers: NDArray[Any]) -> bool:
    """Tell whether scores [N, classes] can't be probabilities, so that they need a softmax."""
    return bool((answers < -_SUM).any() or np.abs(answers.sum(1) - 1).max() > _SUM)


def _labels(path: Path | None, classes: int) -> tuple[str, ...]:
    if path is None:
        return tuple(map(str, range(classes)))
    try:
        labels = tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{path}: can't be read ({error}); expected a text file with a class name on each line"
        ) from None
    if len(labels) != classes or len(set(labels)) != classes:
        raise UsageError(
            f"{path}: names {len(labels)} classes, {len(set(labels))} of them different; the model has {classes}"
        )
    return labels
