"""What pixels become and what outputs mean, found for models that hide it. Their weights are known to be right."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tfship.export import versions_command
from tfship.export.command import main
from tfship.export.conversion.formats import FORMATS
from tfship.export.preprocessing import input_contract, outputs
from tfship.export.preprocessing.input_contract import Scaling
from tfship.export.preprocessing.range_detection import NamedScaling, candidates
from tfship.export.publishing import cards, store, verification
from tfship.export.sources.user_model import UserModel, source_of
from tfship.train.common import cli
from tfship.train.common.errors import UsageError

COUNT, CLASSES, SIDE = 200, 3, 8
COLOURS = np.array([[150, 110, 100], [100, 145, 110], [110, 105, 155]])
DEVIATION = 20
PIXELS, UNIT, SYMMETRIC, TORCH, CAFFE = (
    next(each.scaling for each in candidates(3) if each.name == name)
    for name in ("0…255", "0…1", "-1…1", "ImageNet mean and deviation", "BGR minus ImageNet mean")
)


def images(seed: int = 0) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images of three classes, each of a colour that varies from image to image by `DEVIATION`."""
    generator = np.random.default_rng(seed)
    truth = generator.integers(0, CLASSES, COUNT)
    means = COLOURS[truth] + generator.normal(0, DEVIATION, (COUNT, 3))
    pixels = means[:, None, None] + generator.normal(0, 20, (COUNT, SIDE, SIDE, 3))
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8), truth


def head(scaling: Scaling, kind: str) -> Any:
    """Return a layer that scores the classes by an image's mean colour, as discriminant analysis does."""
    import keras

    means = scaling.apply(COLOURS.astype(np.float32)).astype(np.float64)
    variances = np.square(np.array(scaling.scale) * DEVIATION)
    kernel, bias = (means / variances).T, -(np.square(means) / variances).sum(1) / 2
    if kind in ("sigmoid", "logit"):
        kernel, bias = kernel[:, :1] - kernel[:, 1:2], bias[:1] - bias[1:2]
    if kind in ("independent", "independent-logits"):
        kernel, bias = kernel - kernel.mean(1, keepdims=True), bias - bias.mean()
    activation = {"probabilities": "softmax", "sigmoid": "sigmoid", "independent": "sigmoid"}.get(kind)
    layer = keras.layers.Dense(kernel.shape[1], activation)
    layer.build((None, 3))
    layer.set_weights([kernel.astype(np.float32), bias.astype(np.float32)])
    return layer


def plain(scaling: Scaling, kind: str = "probabilities", first: Callable[[Any], Any] | None = None,
          **said: Any) -> Any:  # fmt: skip
    """Return a model that takes these values; `first` comes before, and gives them."""
    import keras

    image = keras.Input((SIDE, SIDE, 3), **said)
    hidden = first(image) if first else image
    return keras.Model(image, head(scaling, kind)(keras.layers.GlobalAveragePooling2D()(hidden)))


def nested() -> Any:
    import keras

    inner = plain(UNIT, "logits", keras.layers.Rescaling(1 / 255))
    return keras.Sequential([keras.Input((SIDE, SIDE, 3)), inner, keras.layers.Softmax()])


def augmented() -> Any:
    import keras

    def first(image: Any) -> Any:
        flipped = keras.layers.RandomContrast(0.2)(keras.layers.RandomFlip()(image))
        return keras.layers.Rescaling(1 / 127.5, -1)(flipped)

    return plain(SYMMETRIC, "logits", first)


def normalized() -> Any:
    import keras

    layer = keras.layers.Normalization(mean=[0.5, 0.5, 0.5], variance=[0.25, 0.25, 0.25])
    return plain(SYMMETRIC, "probabilities", layer)


def takes_pixels() -> Any:
    import keras

    return plain(UNIT, "probabilities", keras.layers.Rescaling(1 / 255), dtype="uint8")


MODELS: dict[str, tuple[Callable[[], Any], str, str]] = {
    "nested, rescales inside": (nested, "0…255", "probabilities"),
    "augmented, then rescales": (augmented, "0…255", "logits"),
    "normalization adapted on 0…1": (normalized, "0…1", "probabilities"),
    "uint8 input": (takes_pixels, "0…255", "probabilities"),
    "torch": (lambda: plain(TORCH, "logits"), "ImageNet mean and deviation", "logits"),
    "caffe": (lambda: plain(CAFFE), "BGR minus ImageNet mean", "probabilities"),
    "one sigmoid": (lambda: plain(UNIT, "sigmoid"), "0…1", "sigmoid"),
    "one logit": (lambda: plain(SYMMETRIC, "logit"), "-1…1", "logit"),
    "one-vs-rest": (lambda: plain(UNIT, "independent"), "0…1", "independent"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("user")
    x, y = images()
    np.savez(path / "eval.npz", x=x, y=y)
    np.savez(path / "two.npz", x=x[y < 2], y=1 - y[y < 2])
    return path


def export(folder: Path, model: Path, *arguments: str, data: str = "eval.npz") -> int:
    own = ["--eval", str(folder / data), "--calibration", str(folder / data), "--name", "own"]
    return cli.run(main, [str(model), *own, "--models", str(model.parent / "models"), *arguments])


@pytest.mark.parametrize("name", MODELS)
def test_the_values_and_the_meaning_are_found(folder: Path, tmp_path: Path, name: str) -> None:
    from tfship.train.common.tensorflow_loader import tensorflow

    tensorflow()
    build, values, kind = MODELS[name]
    model = build()
    model.save(tmp_path / "own.keras")
    data = folder / ("two.npz" if kind in ("sigmoid", "logit") else "eval.npz")
    found = source_of(UserModel(tmp_path / "own.keras", "own", data), "", lambda text: None)
    assert (found.detected["values"], found.detected["outputs"]) == (values, kind)
    assert found.contract.outputs == outputs.meaning(kind)
    with np.load(data) as arrays:
        x, truth = arrays["x"], arrays["y"]
    right = outputs.interpret(np.asarray(model(found.contract.scale(x), training=False)), kind)
    np.testing.assert_allclose(found.predict(x), right, atol=1e-5)
    published = found.exported(found.contract.scale(x))
    np.testing.assert_allclose(published, right, atol=1e-4)
    assert (right.argmax(1) == truth).mean() > 0.8


@pytest.mark.parametrize("name", ["caffe", "one logit"])
def test_what_is_published_answers_alike(folder: Path, tmp_path: Path, name: str) -> None:
    build, values, kind = MODELS[name]
    model = build()
    model.save(tmp_path / "own.keras")
    data = "two.npz" if kind == "logit" else "eval.npz"
    assert export(folder, tmp_path / "own.keras", "--formats", "float32,int8_uint8", data=data) == 0
    version = store.latest(tmp_path / "models" / "own")
    card, rules = cards.read(version), input_contract.read(version)
    assert (card.detected["values"], rules.outputs) == (values, outputs.meaning(kind))
    assert card.keras_accuracy["value"] > 0.8
    with np.load(folder / data) as arrays:
        x = arrays["x"]
    right = outputs.interpret(np.asarray(model(rules.scale(x), training=False)), kind)
    for target in (
        verification.open_saved_model(version),
        verification.open_tflite(version, FORMATS["float32"]),
    ):
        np.testing.assert_allclose(target.predict(rules.scale(x)), right, atol=1e-4)
        target.close()
    pixels = verification.open_tflite(version, FORMATS["int8_uint8"])
    assert pixels.takes_pixels
    assert (pixels.predict(x).argmax(1) == right.argmax(1)).mean() > 0.95
    pixels.close()


def test_what_is_named_is_obeyed_with_a_warning(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain(TORCH, "logits").save(tmp_path / "own.keras")
    named = ["--mean=0.485,0.456,0.406", "--std=0.229,0.224,0.225"]
    # Refused as soon as the values are known.
    assert export(folder, tmp_path / "own.keras", *named, "--min-accuracy=1") == 6
    said = capsys.readouterr().err
    assert "own: 8 × 8 RGB images with values ImageNet mean and deviation, as given" in said
    assert "warning" not in said
    wrong = ("--formats", "float32", "--range=0,255", "--name", "named")
    assert export(folder, tmp_path / "own.keras", *wrong) == 0
    said = capsys.readouterr().err
    assert "named: 8 × 8 RGB images with values 0…255, as given" in said
    assert "warning: named: the values ImageNet mean and deviation fit the labels better" in said
    card = cards.read(store.latest(tmp_path / "models" / "named"))
    assert (card.detected["values"], card.detected["by"]) == ("0…255", "named")


def test_labels_that_are_only_guessed_are_refused_with_the_table(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain(UNIT).save(tmp_path / "own.keras")
    x, y = images(1)
    np.savez(folder / "wrong.npz", x=x, y=np.random.default_rng(5).permutation(y))
    assert export(folder, tmp_path / "own.keras", "--formats", "float32", data="wrong.npz") == 6
    error = capsys.readouterr().err.splitlines()[-1]
    assert "own: no better than guessing on 200 images, with any range of values (" in error
    assert error.count("log loss") == 5
    assert "--range, --mean, --std and --channel-order" in error


def test_without_labels_only_the_agreement_is_verified(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain(UNIT).save(tmp_path / "own.keras")
    np.savez(tmp_path / "unlabelled.npz", x=images(3)[0])
    command = [str(tmp_path / "own.keras"), "--models", str(tmp_path / "models"), "--formats", "float32"]
    assert cli.run(main, command) == 2
    assert "--eval is missing" in capsys.readouterr().err
    assert cli.run(main, [*command, "--unverified-accuracy"]) == 2
    assert "give it with --range" in capsys.readouterr().err
    for more, label, count in (
        ([], "generated noise", 100),
        (["--eval", str(tmp_path / "unlabelled.npz")], "unlabelled.npz", COUNT),
    ):
        assert cli.run(main, [*command, "--unverified-accuracy", "--range=0,1", *more]) == 0
        assert f"accuracy unverified; agreement on {count} images ({label})" in capsys.readouterr().out
        card = cards.read(store.latest(tmp_path / "models" / "own"))
        assert not card.verified
        assert [each["accuracy"] for each in card.artefacts] == [None] * 2
        assert {each["rule"] for each in card.blessing["checks"]} == {
            "agreement with the model",
            "images with the model's scores",
        }
    assert cli.run(versions_command.main, ["list", "--models", str(tmp_path / "models")]) == 0
    assert capsys.readouterr().out.count("unverified") == 2


@pytest.mark.parametrize(
    ("said", "scaling"),
    [
        (NamedScaling(value_range=(0, 255)), PIXELS),
        (NamedScaling(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)), TORCH),
        (NamedScaling((0, 255), mean=(103.939, 116.779, 123.68), bgr=True), CAFFE),
        (NamedScaling(mean=(0.5,), std=(0.5,)), SYMMETRIC),
        (NamedScaling(bgr=True), None),
    ],
)
def test_named_scalings(said: NamedScaling, scaling: Scaling | None) -> None:
    found = said.candidate(3)
    assert (found and found.scaling) == scaling


def test_impossible_scalings() -> None:
    with pytest.raises(UsageError, match="--channel-order: the model has 1 channel"):
        NamedScaling(bgr=False).candidate(1)
    with pytest.raises(UsageError, match="--mean: 2 numbers"):
        NamedScaling(mean=(1.0, 2.0)).candidate(3)
