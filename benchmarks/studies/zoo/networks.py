"""The networks of `tfship benchmark zoo`, built and fitted for seconds in a separate process. Loads Keras.

python -m tfship.benchmarks.studies.zoo.networks NAME DIGITS.npz FOLDER    fit a network and write files for the zoo
"""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfship.benchmarks.studies.zoo.study import ARCHITECTURES, FITTED, PROBED, Architecture
from tfship.train.common import cli
from tfship.train.common.errors import ResultError
from tfship.train.common.files import write_json
from tfship.train.common.tensorflow_loader import tensorflow

tensorflow()

import keras  # noqa: E402 - TensorFlow first, quietly
from keras import applications, layers  # noqa: E402

__all__ = ["BUILDERS", "VALUES", "coloured", "fit", "main"]

Values = NDArray[np.float32]
Pixels = NDArray[np.uint8]

_CLASSES = 10
_SEED = 1
# Minimum accuracy on held-out images after the last epoch, by labels.
_ENOUGH = {"digit": 0.6, "thousand": 0.6, "half": 0.8, "several": 0.8}
_MOST_EPOCHS = 15
_BATCH = 32
# Low enough for BatchNormalization to have the statistics of the data after one epoch.
_MOMENTUM = 0.8
_EVALUATION, _CALIBRATION = 300, 200
# The labels "several": even, 5 or more, with a loop.
_SEVERAL = (lambda y: y % 2 == 0, lambda y: y >= 5, lambda y: np.isin(y, (0, 6, 8, 9)))

# Scaling of pixels uint8 [N, H, W, C] before the network, by the names in `export.preprocessing.range_detection`.
VALUES: dict[str, Callable[[Pixels], Values]] = {
    "0…1": lambda pixels: pixels.astype(np.float32) / np.float32(255),
    "0…255": lambda pixels: pixels.astype(np.float32),
    "-1…1": lambda pixels: pixels.astype(np.float32) / np.float32(127.5) - np.float32(1),
    "ImageNet mean and deviation": lambda pixels: _preprocessed(pixels, "torch"),
    "BGR minus ImageNet mean": lambda pixels: _preprocessed(pixels, "caffe"),
}
_TARGETS: dict[str, Callable[[NDArray[np.int64]], NDArray[Any]]] = {
    "digit": lambda digits: digits,
    "thousand": lambda digits: digits * 100,
    "half": lambda digits: (digits >= 5).astype(np.int64),
    "several": lambda digits: np.stack([has(digits) for has in _SEVERAL], 1).astype(np.int64),
    "number": lambda digits: digits,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Fit one network and write its files. Raises ResultError if it misses its minimum accuracy."""
    name, digits, folder = sys.argv[1:] if argv is None else argv
    with np.load(digits) as arrays:
        fit(name, dict(arrays), Path(folder))
    return 0


def fit(name: str, digits: dict[str, NDArray[np.uint8]], folder: Path) -> None:
    """Fit the network `name` on `digits` (x_train, y_train, x_test, y_test) and write its files into `folder`.

    The files are the model, named by `Architecture.file`; `evaluation.npz` and `calibration.npz` with pixels and
    labels; `FITTED`, an .npz with `scores` [N, labels], Keras' scores for the evaluation images scaled as in training,
    and `probe`, the first of these scaled images; and `fit.json` with accuracy, epochs and seconds. Raises ResultError
    if the network misses its minimum accuracy.
    """
    architecture = ARCHITECTURES[name]
    keras.utils.set_random_seed(_SEED)
    parts = _parts(architecture, digits)
    prepare = VALUES[architecture.values]
    x, y = parts["train"]
    values, (pixels, truth) = prepare(x), parts["evaluation"]
    begun = time.perf_counter()
    model = BUILDERS[name]()
    for layer in _layers(model):
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = _MOMENTUM
        if isinstance(layer, layers.Normalization) and layer.input_mean is None:
            layer.adapt(values)
    held_out = prepare(pixels)
    accuracy, epochs = 0.0, 0
    if architecture.fitted:
        model.compile(keras.optimizers.Adam(1e-3), _loss(architecture), jit_compile=False)
        while accuracy < _ENOUGH.get(architecture.labels, 0) or not epochs:
            if epochs == _MOST_EPOCHS:
                raise ResultError(f"{name}: accuracy {accuracy:.3f} after {epochs} epochs of {len(x)} images")
            model.fit(values, y, batch_size=_BATCH, verbose=0)
            scores = _scores(model, architecture, held_out)
            accuracy, epochs = _accuracy(scores, truth), epochs + 1
    scores = _scores(model, architecture, held_out)
    if architecture.saved_model:
        signature = [keras.layers.InputSpec(shape=(None, *held_out.shape[1:]), dtype="float32")]
        model.export(folder / architecture.file, verbose=False, input_signature=signature)
    else:
        model.save(folder / architecture.file)
    for part in ("evaluation", "calibration"):
        np.savez(folder / f"{part}.npz", x=parts[part][0], y=parts[part][1])
    np.savez(folder / FITTED, scores=scores, probe=held_out[:PROBED])
    seconds = time.perf_counter() - begun
    figures = {"parameters": model.count_params(), "accuracy": accuracy, "epochs": epochs}
    write_json(folder / "fit.json", {**figures, "seconds": round(seconds, 1)})


def coloured(digits: Pixels, classes: NDArray[np.int64], side: int, channels: int, seed: int) -> Pixels:
    """Return digits uint8 [N, 28, 28] as images uint8 [N, side, side, channels], enlarged by an integer and padded.

    With 3 channels the ink's hue depends on the class, with some noise, and the paper is dark. Networks learn that in
    seconds, and predict it only from the right order of channels.
    """
    factor = side // digits.shape[1]
    large = digits.repeat(factor, 1).repeat(factor, 2)
    before = (side - large.shape[1]) // 2
    after = side - large.shape[1] - before
    grey = np.pad(large, ((0, 0), (before, after), (before, after)))[..., np.newaxis]
    if channels == 1:
        return grey
    random, count = np.random.default_rng(seed), len(digits)
    hue = (classes + random.uniform(-0.35, 0.35, count)) / _CLASSES
    saturation, value = random.uniform(0.6, 1, count), random.uniform(0.7, 1, count)
    # From hue, saturation and value to red, green and blue: Smith, "Color Gamut Transform Pairs", 1978.
    turns = (np.array([5, 3, 1]) + hue[:, np.newaxis] * 6) % 6
    strength = np.clip(np.minimum(turns, 4 - turns), 0, 1)
    ink = 255 * value[:, np.newaxis] * (1 - saturation[:, np.newaxis] * strength)
    paper = random.uniform(0, 60, (count, 3))
    share = grey.astype(np.float32) / 255
    mixed = paper[:, None, None] + share * (ink - paper)[:, None, None]
    return np.asarray(mixed.round(), np.uint8)


def _parts(
    architecture: Architecture, digits: dict[str, NDArray[np.uint8]]
) -> dict[str, tuple[Pixels, NDArray[Any]]]:
    """Return pixels and labels for training, calibration and evaluation."""
    order = np.random.default_rng(_SEED)
    train = order.permutation(len(digits["x_train"]))[: architecture.images]
    test = order.permutation(len(digits["x_test"]))[:_EVALUATION]
    chosen = {
        "train": ("train", train),
        "calibration": ("train", train[:_CALIBRATION]),
        "evaluation": ("test", test),
    }
    parts = {}
    for seed, (part, (group, indices)) in enumerate(chosen.items()):
        classes = digits[f"y_{group}"][indices].astype(np.int64)
        images = digits[f"x_{group}"][indices]
        pixels = coloured(images, classes, architecture.side, architecture.channels, seed)
        parts[part] = pixels, _TARGETS[architecture.labels](classes)
    return parts


def _preprocessed(pixels: Pixels, mode: str) -> Values:
    values = pixels.astype(np.float32)
    return np.asarray(applications.imagenet_utils.preprocess_input(values, mode=mode), np.float32)


def _layers(model: Any) -> Iterator[Any]:
    for layer in model.layers:
        yield layer
        if isinstance(layer, keras.Model):
            yield from _layers(layer)


def _loss(architecture: Architecture) -> Any:
    if architecture.labels == "number":
        return "mean_squared_error"
    if architecture.labels in ("half", "several"):
        return "binary_crossentropy"
    return keras.losses.SparseCategoricalCrossentropy(from_logits=architecture.logits)


def _scores(model: Any, architecture: Architecture, values: Values) -> Values:
    """Return Keras' outputs as the scores that an exported version returns."""
    raw = model.predict(values, batch_size=_BATCH, verbose=0).astype(np.float32)
    if architecture.logits:
        raw = np.exp(raw - raw.max(1, keepdims=True))
        raw /= raw.sum(1, keepdims=True)
    return np.concatenate([1 - raw, raw], 1) if architecture.labels == "half" else raw


def _accuracy(scores: Values, truth: NDArray[Any]) -> float:
    decided = scores >= 0.5 if truth.ndim == 2 else scores.argmax(1)
    return float(np.mean(decided == truth))


# The networks. All have one image input. The small ones contain the layers to be tested.


def _application(build: Callable[..., Any], side: int, **arguments: Any) -> Any:
    return build(
        weights=None, input_shape=(side, side, 3), classes=_CLASSES, classifier_activation="softmax", **arguments
    )  # fmt: skip


def _xception() -> Any:
    """Return Xception with `preprocess_input` as operators within the model."""
    pixels = keras.Input((71, 71, 3))
    values = applications.xception.preprocess_input(pixels)
    return keras.Model(pixels, _application(applications.Xception, 71)(values))


def _sequential(
    shape: tuple[int, int, int], *stack: Any, outputs: int = _CLASSES, last: Any = "softmax"
) -> Any:
    return keras.Sequential([keras.Input(shape), *stack, layers.Dense(outputs, last)])


def _convolutions(width: int = 16, **arguments: Any) -> list[Any]:
    """Return two convolutions and the mean over the image."""
    return [
        layers.Conv2D(width, 3, 2, activation="relu", padding="same", **arguments),
        layers.Conv2D(2 * width, 3, 2, activation="relu", padding="same", **arguments),
        layers.Flatten(),
    ]


def _vit() -> Any:
    """Return a vision transformer; a depthwise convolution encodes positions (Chu et al., 2021)."""
    image = keras.Input((32, 32, 3))
    patches = layers.Conv2D(48, 4, 4)(image)
    patches = layers.add([patches, layers.DepthwiseConv2D(3, padding="same")(patches)])
    tokens = layers.Reshape((64, 48))(patches)
    for _ in range(2):
        normal = layers.LayerNormalization()(tokens)
        tokens = layers.add([tokens, layers.MultiHeadAttention(3, 16)(normal, normal)])
        normal = layers.LayerNormalization()(tokens)
        tokens = layers.add([tokens, layers.Dense(48)(layers.Dense(96, "gelu")(normal))])
    pooled = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(tokens))
    return keras.Model(image, layers.Dense(_CLASSES, "softmax")(pooled))


def _mlp_mixer() -> Any:
    """Return an MLP-Mixer of two blocks (Tolstikhin et al., 2021)."""
    image = keras.Input((32, 32, 3))
    tokens = layers.Reshape((64, 48))(layers.Conv2D(48, 4, 4)(image))
    for _ in range(2):
        turned = layers.Permute((2, 1))(layers.LayerNormalization()(tokens))
        mixed = layers.Permute((2, 1))(layers.Dense(64)(layers.Dense(64, "gelu")(turned)))
        tokens = layers.add([tokens, mixed])
        normal = layers.LayerNormalization()(tokens)
        tokens = layers.add([tokens, layers.Dense(48)(layers.Dense(96, "gelu")(normal))])
    pooled = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(tokens))
    return keras.Model(image, layers.Dense(_CLASSES, "softmax")(pooled))


def _nested() -> Any:
    """Return a network whose Rescaling is in a nested model."""
    features = keras.Sequential([layers.Rescaling(1 / 127.5, -1), *_convolutions()])
    image = keras.Input((32, 32, 3))
    return keras.Model(image, layers.Dense(_CLASSES, "softmax")(features(image)))


class Subclassed(keras.Model):  # type: ignore[misc]
    """A convolutional network as a class, which only a SavedModel stores completely."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = _convolutions()
        self.scores = layers.Dense(_CLASSES, "softmax")

    def call(self, inputs: Any) -> Any:
        for layer in self.stack:
            inputs = layer(inputs)
        return self.scores(inputs)


def _uint8() -> Any:
    pixels = keras.Input((28, 28, 1), dtype="uint8")
    values = layers.Rescaling(1 / 255)(keras.ops.cast(pixels, "float32"))
    for layer in _convolutions():
        values = layer(values)
    return keras.Model(pixels, layers.Dense(_CLASSES, "softmax")(values))


_GREY, _COLOUR = (28, 28, 1), (32, 32, 3)

BUILDERS: dict[str, Callable[[], Any]] = {
    "mobilenet_v2": lambda: _application(applications.MobileNetV2, 32),
    "mobilenet_v3_small": lambda: _application(applications.MobileNetV3Small, 32),
    "efficientnet_v2_b0": lambda: _application(applications.EfficientNetV2B0, 32),
    "resnet50": lambda: _application(applications.ResNet50, 32),
    "densenet121": lambda: _application(applications.DenseNet121, 32),
    "convnext_tiny": lambda: _application(applications.ConvNeXtTiny, 32),
    "xception": _xception,
    "nasnet_mobile": lambda: _application(applications.NASNetMobile, 32),
    "vit": _vit,
    "mlp_mixer": _mlp_mixer,
    "lstm": lambda: _sequential(_GREY, layers.Reshape((28, 28)), layers.LSTM(48)),
    "gru": lambda: _sequential(_GREY, layers.Rescaling(1 / 255), layers.Reshape((28, 28)), layers.GRU(48)),
    "separable": lambda: _sequential(
        _COLOUR,
        layers.Rescaling(1 / 127.5, -1),
        layers.SeparableConv2D(24, 3, 2, activation="relu"),
        layers.SeparableConv2D(48, 3, 2, activation="relu"),
        layers.Flatten(),
    ),
    "dilated": lambda: _sequential(
        _GREY,
        layers.Conv2D(16, 3, dilation_rate=2, activation="relu"),
        layers.MaxPooling2D(2),
        layers.Conv2D(24, 3, dilation_rate=2, activation="relu"),
        layers.Flatten(),
    ),
    "transposed": lambda: _sequential(
        _GREY,
        layers.Conv2D(24, 3, 2, activation="relu", padding="same"),
        layers.Conv2DTranspose(12, 3, 2, activation="relu", padding="same"),
        layers.MaxPooling2D(4),
        layers.Flatten(),
    ),
    "group_norm": lambda: _sequential(
        _COLOUR,
        layers.Conv2D(16, 3, 2),
        layers.GroupNormalization(4),
        layers.ReLU(),
        layers.Conv2D(32, 3, 2, activation="relu"),
        layers.Flatten(),
    ),
    "mixed_precision": lambda: _sequential(_GREY, *_convolutions(dtype="mixed_float16")),
    "nested": _nested,
    "augmented": lambda: _sequential(
        _COLOUR,
        layers.RandomFlip("horizontal"),
        layers.RandomRotation(0.05),
        layers.Rescaling(1 / 255),
        *_convolutions(),
    ),
    "resized": lambda: _sequential(
        _GREY, layers.Resizing(40, 40), layers.Rescaling(1 / 255), *_convolutions()
    ),
    "normalization": lambda: _sequential(_COLOUR, layers.Normalization(), *_convolutions()),
    "subclassed": Subclassed,
    "uint8_input": _uint8,
    "logits": lambda: _sequential(_GREY, *_convolutions(), last=None),
    "thousand_classes": lambda: _sequential(_COLOUR, *_convolutions(), outputs=1000),
    "one_sigmoid": lambda: _sequential(_GREY, *_convolutions(), outputs=1, last="sigmoid"),
    "several_labels": lambda: _sequential(_GREY, *_convolutions(), outputs=3, last="sigmoid"),
    "untrained": lambda: _sequential(_GREY, *_convolutions()),
    "regression": lambda: _sequential(_GREY, *_convolutions(), outputs=1, last=None),
}


if __name__ == "__main__":
    sys.exit(cli.run(main))
