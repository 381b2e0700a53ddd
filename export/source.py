"""What is exported: a model as a function, its input contract, and the images to calibrate and to verify it with.

`trained` takes a network that was trained here, `brought` any Keras 3 classifier or SavedModel with one image
input. Loads TensorFlow when it is used.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export import calibration, contract, images
from export.contract import Contract
from export.images import Images
from export.runtime import DEFAULT_SIGNATURE
from train import cards
from train.backend import quiet, tensorflow
from train.data import Digits
from train.errors import ArtifactError, DataError, UsageError
from train.files import sha256

__all__ = ["Brought", "Source", "are_logits", "brought", "digest", "keras_model", "request", "trained"]

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
    loaded = _layers(folder / f"{name}.keras")
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
    loaded = _saved_model(path) if path.is_dir() else _layers(path)
    height, width, channels = _size(path, loaded.shape)
    low, high = asked.value_range or loaded.value_range
    evaluation = images.read(asked.evaluation, (height, width, channels))
    squeezed = len(loaded.shape) == 3

    def call(images: Any, function: Callable[[Any], Any] = loaded.function) -> Any:
        return function(images[..., 0] if squeezed else images)

    probe = Contract(asked.name, (), height, width, channels, low, high, asked.preparation)
    answers = np.asarray(call(tensorflow().constant(probe.scale(evaluation.pixels[:64]))))
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
        answers = call(images, function)
        return tensorflow().nn.softmax(answers) if logits else answers

    found = Contract(asked.name, labels, height, width, channels, low, high, asked.preparation)
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


@dataclass(frozen=True)
class _Loaded:
    function: Callable[[Any], Any]
    exported: Callable[[Any], Any]
    tracked: Any
    layers: tuple[str, ...]
    equalized: list[str]
    shape: tuple[int | None, ...]
    value_range: tuple[float, float]


def are_logits(answers: NDArray[Any]) -> bool:
    """Tell whether scores [N, classes] can't be probabilities, so that they need a softmax."""
    return bool((answers < -_SUM).any() or np.abs(answers.sum(1) - 1).max() > _SUM)


def keras_model(path: Path) -> Any:
    """Load a `.keras` file, not compiled. ArtifactError, with Keras' own reason, if it can't be."""
    if not path.is_file():
        raise ArtifactError(f"{path}: no such file; expected a .keras file or a SavedModel's folder")
    tensorflow()
    import keras

    try:
        with quiet():
            return keras.models.load_model(path, compile=False)
    # Keras raises what its layers raise, TypeError for an unknown one among them.
    except Exception as error:
        reason = str(error).strip().splitlines()
        raise ArtifactError(
            f"{path}: Keras can't load it ({reason[0] if reason else type(error).__name__}); expected a .keras "
            "file of Keras 3 (`make train` writes the examples')"
        ) from error


def _layers(path: Path) -> _Loaded:
    model = keras_model(path)
    import keras

    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise ArtifactError(
            f"{path}: has {len(model.inputs)} inputs and {len(model.outputs)} outputs; expected one image and one "
            "score for each class"
        )
    layers = [
        each
        for each in model._flatten_layers(include_self=False)
        if not isinstance(each, keras.layers.InputLayer)
    ]
    rescales = isinstance(layers[0], (keras.layers.Rescaling, keras.layers.Normalization))
    from export.equalize import equalize

    rescaled = keras_model(path)
    return _Loaded(
        lambda images: model(images, training=False),
        lambda images: rescaled(images, training=False),
        # As TensorFlow knows them: of Keras' own wrappers it would save none.
        [variable.value for variable in rescaled.variables],
        tuple(each.name for each in layers),
        equalize(rescaled),
        tuple(model.inputs[0].shape),
        (0.0, 255.0) if rescales else (0.0, 1.0),
    )


def _saved_model(path: Path) -> _Loaded:
    tf = tensorflow()
    try:
        with quiet():
            loaded = tf.saved_model.load(str(path))
    except (OSError, ValueError, tf.errors.OpError) as error:
        raise ArtifactError(
            f"{path}: TensorFlow can't load it ({' '.join(str(error).split())[:200]})"
        ) from error
    signature = loaded.signatures.get(DEFAULT_SIGNATURE)
    if signature is None:
        raise ArtifactError(
            f"{path}: has no signature {DEFAULT_SIGNATURE}; there are {', '.join(loaded.signatures) or 'none'}"
        )
    inputs, outputs = signature.structured_input_signature[1], list(signature.structured_outputs)
    if len(inputs) != 1 or len(outputs) != 1:
        raise ArtifactError(
            f"{path}: {DEFAULT_SIGNATURE} has inputs {list(inputs)} and outputs {outputs}; expected one of each"
        )
    ((name, spec),) = inputs.items()

    def call(images: Any) -> Any:
        return signature(**{name: images})[outputs[0]]

    return _Loaded(call, call, loaded, (), [], tuple(spec.shape.as_list()), (0.0, 1.0))


def _size(path: Path, shape: Sequence[int | None]) -> tuple[int, int, int]:
    sizes = tuple(shape[1:])
    if len(sizes) == 2:
        sizes = (*sizes, 1)
    match sizes:
        case (int(height), int(width), 1 | 3 as channels) if height > 0 and width > 0:
            return height, width, channels
    raise ArtifactError(
        f"{path}: takes {list(shape)}; expected one image of a fixed size, [None, height, width, 1 or 3]"
    )


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
