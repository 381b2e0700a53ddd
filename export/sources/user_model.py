"""A user's own classifier as a `Source`; labelled images determine its range of values and its kind of outputs.

Loads TensorFlow on first use.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfship.export.conversion import calibration
from tfship.export.preprocessing import outputs, range_detection
from tfship.export.preprocessing.input_contract import INDEPENDENT, Contract, Scaling
from tfship.export.preprocessing.range_detection import Detection, NamedScaling, RangeCandidate
from tfship.export.sources import evaluation_data
from tfship.export.sources.evaluation_data import Images
from tfship.export.sources.model_loading import LoadedModel, load
from tfship.export.sources.source import Source, any_batch, digest, scores_of
from tfship.train.common.errors import ArtifactError, DataError, ResultError, UsageError
from tfship.train.common.tensorflow_loader import tensorflow

__all__ = ["UserModel", "source_of"]

_REMEDY = (
    "put the preparation into the model (a Rescaling layer, or preprocess_input), or give it with --range, --mean, "
    "--std and --channel-order"
)
_NO_CLASSIFIER = (
    "; a model with linear outputs that aren't class scores, such as a regression, can't be exported as a classifier; "
    "serve it unchanged: model.export('models/NAME/1') writes a version"
)
# Fewer images than this may be too few to distinguish a model from guessing.
_FEW = 50
# The number of noise images for a user without images.
_NOISE = 100
_DECIDED = {
    "log loss": "by log loss",
    "accuracy": "by accuracy",
    "layers": "by its first layers, since the losses don't differ",
    "named": "as given",
}


@dataclass(frozen=True)
class UserModel:
    """The command line's settings for a user's own model; None for those that aren't given."""

    path: Path
    name: str
    evaluation: Path | None
    calibration: Path | None = None
    labels: Path | None = None
    named: NamedScaling = field(default_factory=NamedScaling)
    preparation: str = "resize"
    outputs: str | None = None
    size: tuple[int, int] | None = None
    imports: tuple[Path, ...] = ()
    unverified: bool = False

    def digest(self) -> str:
        """Return the sha256 of all settings and of the files' contents; ArtifactError for a missing file."""
        files = (self.path, self.evaluation, self.calibration, self.labels, *self.imports)
        settings = [
            self.name, asdict(self.named), self.preparation, self.outputs, self.size, self.unverified,
            *(path and digest(path) for path in files),
        ]  # fmt: skip
        return hashlib.sha256(json.dumps(settings).encode()).hexdigest()


def source_of(model: UserModel, request: str, say: Callable[[str], None]) -> Source:
    """Return the source of a user's own model: a Keras file or a SavedModel's folder.

    `request` is `model.digest()`, which reads all files and is computed once. The range of values is measured with the
    labelled images (`export.preprocessing.range_detection`) unless the user gives it. The kind of outputs follows from
    the last activation and the values (`export.preprocessing.outputs`). `say` reports the results. Raises
    ArtifactError, DataError, ResultError or UsageError with what was found and what was expected.
    """
    loaded = load(model.path, model.size, model.imports)
    if loaded.batch not in (None, 1):
        raise ArtifactError(
            f"{model.path}: has a fixed batch of {loaded.batch} images; expected any number, or 1; save it with None "
            "as the batch in its input's shape"
        )
    height, width, channels = loaded.shape
    named = model.named.candidate(channels)
    given = evaluation_data.read_labels(model.labels) if model.labels else ()
    plain = Contract(
        model.name, given, height, width, channels, Scaling.of_range(0, 1, channels), model.preparation
    )
    evaluation = _evaluation(model, plain, named)
    function = any_batch(loaded.function, loaded.batch)
    detection, kind, names = _detect(model, loaded, function, evaluation, named, given, say)
    scaling = named.scaling if named else detection.chosen.candidate.scaling  # type: ignore[union-attr]
    meaning = outputs.meaning(kind)
    found = Contract(model.name, names, height, width, channels, scaling, model.preparation, meaning)
    pixels, record = (None, {}) if model.calibration is None else calibration.read(model.calibration, found)
    if pixels is not None and (shared := calibration.shared(pixels, evaluation.pixels)):
        record["also_evaluated"] = shared
        say(
            f"{model.name}: {shared:,} of {len(evaluation.pixels):,} evaluation images are also calibration images; "
            "integer formats may seem more accurate than they are"
        )
    return Source(
        found,
        lambda images: _interpreted(function(images), kind),
        lambda images: _interpreted(loaded.exported(images), kind),
        loaded.tracked,
        loaded.layers,
        loaded.equalized,
        digest(model.path),
        request,
        evaluation,
        pixels,
        record,
        loaded.batch,
        loaded.precision,
        {
            "outputs": kind,
            "activation": loaded.activation,
            **({"values": named.name, "by": "named"} if detection is None and named else {}),
            **(detection.describe() if detection else {}),
        },
    )


def _evaluation(model: UserModel, plain: Contract, named: RangeCandidate | None) -> Images:
    """Return the evaluation images, with labels unless `model.unverified` is set."""
    if not model.unverified:
        if model.evaluation is None:
            raise UsageError(
                f"{model.path}: --eval is missing; expected labelled images to verify every format; without labels, "
                "give --unverified-accuracy and --range"
            )
        return evaluation_data.read(model.evaluation, plain)
    if named is None:
        raise UsageError(
            "--unverified-accuracy: without labels the range of values can't be measured; give it with --range (and "
            "--mean, --std, --channel-order)"
        )
    path = model.evaluation or model.calibration
    return _noise(plain.shape) if path is None else evaluation_data.read(path, plain, labelled=False)


def _noise(shape: tuple[int, int, int]) -> Images:
    """Return generated images without labels, for comparing formats with the original."""
    pixels = np.random.default_rng(0).integers(0, 256, (_NOISE, *shape), np.uint8)
    digest = hashlib.sha256(pixels.tobytes()).hexdigest()
    data = {"label": "generated noise", "files": [], "sha256": digest, "test": len(pixels)}
    return Images(data, pixels, np.empty(0, np.int64), None)


def _detect(
    model: UserModel,
    loaded: LoadedModel,
    function: Callable[[Any], Any],
    evaluation: Images,
    named: RangeCandidate | None,
    given: tuple[str, ...],
    say: Callable[[str], None],
) -> tuple[Detection | None, str, tuple[str, ...]]:
    """Return the detected range of values (None if given), the kind of outputs, and the labels' names."""
    height, width, channels = loaded.shape
    images = f"{height} × {width} {'grey' if channels == 1 else 'RGB'} images"
    truth = evaluation.truth
    chosen = range_detection.sample(truth if evaluation.labelled else np.zeros(len(evaluation.pixels), int))
    pixels = evaluation.pixels[chosen]

    def predict(scaling: Scaling) -> NDArray[np.float32]:
        scores = scores_of(function, scaling, pixels, f"{model.name}: range of values")
        if scores.ndim != 2:
            raise ArtifactError(
                f"{model.path}: returns {list(scores.shape)} for {len(pixels)} images; expected scores [N, classes]"
            )
        return scores

    def kind_of(scores: NDArray[np.float32]) -> str:
        several = truth.ndim == 2
        kind = model.outputs or outputs.by_activation(loaded.activation, scores.shape[1], several=several)
        kind = kind or outputs.kind_of(scores, several)
        if evaluation.labelled:
            _check_classes(model, evaluation, kind, scores.shape[1])
        return kind

    if not evaluation.labelled:
        assert named is not None  # noqa: S101 - see _evaluation
        scores = predict(named.scaling)
        if not np.isfinite(scores).all():
            raise ArtifactError(f"{model.path}: returns numbers that aren't finite for values {named.name}")
        kind, detection = kind_of(scores), None
        say(f"{model.name}: {images} with values {named.name}, as given; accuracy isn't verified")
    else:
        tried = range_detection.candidates(channels, integer=loaded.integer, bgr=model.named.bgr)
        try:
            detection = range_detection.detect(
                predict, truth[chosen], tried, kind_of, named=named, suggested=loaded.value_range
            )
        except ValueError as error:
            raise ArtifactError(f"{model.path}: {error}") from error
        kind = detection.kind
        scores = detection.chosen.scores
        _report_values(model, detection, images, say)
    labels = _labels(model, given, evaluation, outputs.width(kind, scores.shape[1]))
    source = f"last activation {loaded.activation}" if loaded.activation else "by its values"
    say(
        f"{model.name}: {len(labels)} {'labels' if outputs.meaning(kind) == INDEPENDENT else 'classes'}, "
        f"{outputs.KINDS[kind]} ({'--outputs' if model.outputs else source})"
    )
    return detection, kind, labels


def _report_values(model: UserModel, detection: Detection, images: str, say: Callable[[str], None]) -> None:
    """Report the detected range of values with its figures; ResultError if the model is no better than guessing."""
    chosen, table = detection.chosen, "; ".join(each.text() for each in detection.measurements)
    if detection.guesses and detection.by != "named":
        few = f", or evaluate on more than {len(chosen.loss)} images" * (len(chosen.loss) < _FEW)
        raise ResultError(
            f"{model.name}: no better than guessing on {len(chosen.loss)} images, with any range of values "
            f"({table}); check that the labels are in the model's order, {_REMEDY}{few}"
            f"{_NO_CLASSIFIER if 'logit' in detection.kind else ''}"
        )
    others = [each.text() for each in detection.measurements if each is not chosen]
    say(
        f"{model.name}: {images} with values {chosen.candidate.name}, {_DECIDED[detection.by]} on {len(chosen.loss)} "
        f"images ({chosen.figures()}{f'; next {others[0]}' if others else ''})"
    )
    if detection.by == "named" and (better := detection.better):
        say(f"warning: {model.name}: the values {better.candidate.name} fit the labels better ({table})")


def _check_classes(model: UserModel, evaluation: Images, kind: str, columns: int) -> None:
    """Raise DataError for labels without a score in the model's outputs."""
    truth = evaluation.truth
    linear = _NO_CLASSIFIER if "logit" in kind else ""
    if truth.ndim == 2:
        expected = f"rows of {columns}" if outputs.meaning(kind) == INDEPENDENT else "class numbers"
        if outputs.meaning(kind) != INDEPENDENT or truth.shape[1] != columns:
            raise DataError(
                f"{model.evaluation}: holds 0/1 rows of {truth.shape[1]} labels, but the model has {columns} scores, "
                f"{outputs.KINDS[kind]}; expected {expected}{linear}"
            )
        return
    classes, folders = outputs.width(kind, columns), evaluation.class_names
    if folders is not None and model.labels is None and len(folders) != classes:
        # With a class missing, the numbers of all later folders would be wrong.
        raise DataError(
            f"{model.evaluation}: holds folders of {len(folders)} classes, but the model has {classes}; expected a "
            f"folder for each class, or the classes' names with --labels{linear}"
        )
    if truth.max() >= classes:
        raise DataError(
            f"{model.evaluation}: holds class {truth.max()}, but the model has {classes} classes{linear}"
        )


def _labels(model: UserModel, given: tuple[str, ...], evaluation: Images, count: int) -> tuple[str, ...]:
    """Return the `count` labels: `given` by a file, else the folders' names, else numbers."""
    if given:
        if len(given) != count:
            raise UsageError(
                f"{model.labels}: contains {len(given)} names; expected {count}, one for each class"
            )
        return given
    names = evaluation.class_names or ()
    return names if len(names) == count else tuple(map(str, range(count)))


def _interpreted(scores: Any, kind: str) -> Any:
    """Return scores of a `kind` as the contract's, like `export.preprocessing.outputs.interpret`, with TensorFlow."""
    tf = tensorflow()
    if kind == outputs.LOGITS:
        return tf.nn.softmax(scores)
    if kind in (outputs.LOGIT, outputs.INDEPENDENT_LOGITS):
        scores = tf.sigmoid(scores)
    return tf.concat([1 - scores, scores], 1) if kind in (outputs.SIGMOID, outputs.LOGIT) else scores
