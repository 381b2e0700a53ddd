"""A user's RGB model with names and logits: exported, benchmarked, and what can't be exported."""

import contextlib
import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from export_fixtures import export
from photo_fixtures import NAMES, SIZE, patches, photos
from tfship.benchmarks import report
from tfship.benchmarks.command import main as benchmark
from tfship.benchmarks.harness import timer
from tfship.benchmarks.suite.modes import MODES
from tfship.client import predict
from tfship.export.conversion import formats
from tfship.export.preprocessing import input_contract
from tfship.export.publishing import cards, store
from tfship.export.runtimes.litert import LiteRT
from tfship.export.runtimes.protocol import Classifier
from tfship.export.runtimes.saved_model import SavedModel
from tfship.export.sources.user_model import UserModel, source_of
from tfship.train.common import cli
from tfship.train.common.errors import DataError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder: photos.keras, trained here; labels.txt, eval.npz, and calibration/<class>/*.png."""
    from tfship.train.common.tensorflow_loader import tensorflow

    tensorflow()
    import keras

    path = tmp_path_factory.mktemp("own")
    keras.utils.set_random_seed(1)
    x, y = patches(600, 0)
    model = keras.Sequential(
        [
            keras.layers.Input((SIZE, SIZE, 3)),
            keras.layers.Rescaling(1 / 127.5, -1),
            keras.layers.Conv2D(16, 3, strides=2, activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Conv2D(32, 3, strides=2, activation="relu"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(len(NAMES)),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(3e-3), loss, metrics=["accuracy"], jit_compile=False)
    model.fit(x.astype(np.float32), y, batch_size=32, epochs=8, verbose=0)
    model.save(path / "photos.keras")
    model.export(path / "saved", verbose=False)
    (path / "labels.txt").write_text("\n".join(NAMES) + "\n")
    x, y = patches(240, 1)
    np.savez(path / "eval.npz", x=x, y=y)
    for number, (image, name) in enumerate(zip(*patches(60, 2), strict=True)):
        file = path / "calibration" / NAMES[name] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(file)
    return path


@pytest.fixture(scope="module")
def exported(folder: Path) -> list[str]:
    """What is said while it is exported in every format, exported again, and in two formats with other names."""
    (folder / "other.txt").write_text("a\nb\nc\n")
    calibrated = ("--calibration", str(folder / "calibration"), "--serve", "int8")
    said = []
    for chosen in (
        ("--labels", str(folder / "labels.txt")),
        ("--labels", str(folder / "labels.txt")),
        ("--labels", str(folder / "other.txt"), "--formats", "float32,int8"),
    ):
        with contextlib.redirect_stderr(io.StringIO()) as error:
            assert export(folder, "photos.keras", *calibrated, *chosen) == 0
        said.append(error.getvalue())
    return said


def test_an_rgb_model_with_logits_answers_in_every_format_with_its_names(
    folder: Path, exported: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    said, again, _ = exported
    assert "photos: 32 × 32 RGB images with values 0…255, by log loss on 200 images" in said
    assert "photos: 3 classes, logits, converted by a softmax (last activation linear)" in said
    version = store.versions(folder / "models" / "photos")[1]
    card, rules = cards.read(version), input_contract.read(version)
    assert card.classes == list(rules.labels) == NAMES
    assert (rules.shape, rules.low, rules.high) == ((SIZE, SIZE, 3), 0, 255)
    assert [each["format"] for each in card.artefacts] == ["savedmodel", *formats.FORMATS]
    assert (version / "model.tflite").read_bytes() == (version / "tflite" / "int8.tflite").read_bytes()
    assert len(card.calibration["pictures"]) == 60
    assert len(card.equalized) == 1

    x, y = patches(60, 3)
    for each in card.artefacts:
        assert each["accuracy"]["value"] > 0.85
        if each["format"] in formats.FORMATS:
            path = version / formats.FORMATS[each["format"]].file
            target = Classifier(LiteRT(path), str(path))
            probabilities = target.predict(rules.scale(x))
            target.close()
            np.testing.assert_allclose(probabilities.sum(1), 1, atol=0.02)
            assert (
                np.mean(
                    [NAMES[row.argmax()] == NAMES[truth] for row, truth in zip(probabilities, y, strict=True)]
                )
                > 0.8
            )

    runtime = SavedModel(version)
    large = [Image.fromarray(picture) for picture in photos()]
    encoded = [io.BytesIO() for _ in large]
    for picture, buffer in zip(large, encoded, strict=True):
        picture.crop((100, 100, 260, 260)).save(buffer, "JPEG", quality=95)
    data = np.array([buffer.getvalue() for buffer in encoded], object)
    answer = runtime.run("serving_bytes", {"image_bytes": data})
    assert [label.decode() for label in answer["label"]] == NAMES
    runtime.close()

    # The client goes by the contract too.
    for number, picture in enumerate(data):
        (folder / f"{number}.jpg").write_bytes(picture)
    files = [str(folder / f"{number}.jpg") for number in range(len(data))]
    for format_name in formats.FORMATS:
        local = ["--target", f"tflite:{format_name}", "--json", "--model", "photos", "--version", "1"]
        local += ["--models", str(folder / "models")]
        assert cli.run(predict.main, [*files, *local]) == 0
        rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [row["label"] for row in rows] == NAMES

    # Asked again, it is up to date; with other names, it isn't.
    assert "is up to date" in again
    assert input_contract.read(folder / "models" / "photos" / "2").labels == ("a", "b", "c")


@pytest.mark.usefixtures("exported")
def test_it_is_benchmarked_on_its_own_images(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    brief = replace(MODES["quick"], trials=1, connections=(1,), offline=64, window_seconds=0.0, patience=0.0)
    monkeypatch.setitem(MODES, "quick", brief)
    monkeypatch.setattr(timer, "MOST", 3)
    ask = ["--models", str(folder / "models"), "--model", "photos", "--out", str(tmp_path)]
    assert cli.run(benchmark, ask) == 2
    assert (
        "expected --data PATH, a folder with a folder of images for each class, or an .npz with x [N, 32, 32, 3]"
        in capsys.readouterr().err
    )
    assert cli.run(benchmark, [*ask, "--model", "nn", "--data", "x.npz"]) == 4
    (tmp_path / "wrong.npz").write_bytes(b"")
    assert cli.run(benchmark, [*ask, "--data", str(tmp_path / "wrong.npz")]) == 3
    np.savez(tmp_path / "classes.npz", x=np.zeros((2, SIZE, SIZE, 3), np.uint8), y=[0, 3])
    assert cli.run(benchmark, [*ask, "--data", str(tmp_path / "classes.npz")]) == 3
    assert "has class 3; photos has 3 classes, 0 to 2" in capsys.readouterr().err
    assert cli.run(benchmark, [*ask, "--data", str(folder / "eval.npz"), "--quick"]) == 0
    results = report.read(tmp_path / "results.json")
    model = results["models"]["photos"]
    assert model["labels"] == ["a", "b", "c"]
    rows = {row["name"]: row for row in model["rows"]}
    assert {"float32", "int8", "embedded TFLite, REST JSON", "embedded TFLite, gRPC"} == set(rows)
    assert all(row["accuracy"]["images"] == 240 for row in rows.values())
    assert all(row["accuracy"]["value"] > 0.85 for row in rows.values())
    assert rows["embedded TFLite, gRPC"]["right"] == rows["int8"]["right"]
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "photos" in page


def test_a_saved_model(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--formats", "int8", "--calibration", str(folder / "eval.npz"))
    assert export(folder, "saved", *arguments, name="from_saved") == 0
    card = cards.read(store.latest(folder / "models" / "from_saved"))
    assert card.classes == ["0", "1", "2"]
    assert [each["accuracy"]["value"] > 0.85 for each in card.artefacts] == [True] * 2


@pytest.mark.parametrize("text", ["1", "a,b", "1,0", "0,1,2"])
def test_impossible_ranges(folder: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    with pytest.raises(SystemExit) as ended:
        export(folder, "photos.keras", f"--range={text}")
    assert ended.value.code == 2
    assert "such as --range=-1,1" in capsys.readouterr().err


def test_without_calibration_the_calibrated_formats_are_left_out(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    calibrated = [row.name for row in formats.FORMATS.values() if row.calibrated]
    # The others that need none are made in the test above.
    names = ",".join(["float32", *calibrated])
    assert export(folder, "photos.keras", "--formats", names, name="uncalibrated") == 0
    assert (
        "int8: left out: needs calibration images for the activations' ranges; pass --calibration"
        in capsys.readouterr().err
    )
    card = cards.read(store.latest(folder / "models" / "uncalibrated"))
    assert set(card.unconverted) == set(calibrated)
    assert [each["format"] for each in card.artefacts] == ["savedmodel", "float32"]


def test_folders_of_images_are_numbered_by_the_labels_file(folder: Path, tmp_path: Path) -> None:
    x, y = patches(90, 5)
    for number, (image, name) in enumerate(zip(x, y, strict=True)):
        file = tmp_path / "eval" / NAMES[name] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(file)
    labels = folder / "labels.txt"
    said: list[str] = []
    model = UserModel(folder / "photos.keras", "photos", tmp_path / "eval", tmp_path / "eval", labels)
    found = source_of(model, "", said.append)
    # The model's order isn't the folders'.
    assert found.contract.labels == tuple(NAMES) != tuple(sorted(NAMES))
    assert np.bincount(found.evaluation.truth).tolist() == np.bincount(y).tolist()
    assert found.detected["by"] == "log loss"
    assert (found.predict(found.evaluation.pixels).argmax(1) == found.evaluation.truth).mean() > 0.85
    assert found.calibration is not None
    assert found.calibrated_with["also_evaluated"] == len(found.calibration) > 60
    assert "evaluation images are also calibration images" in said[-1]
    shutil.rmtree(tmp_path / "eval" / NAMES[0])
    with pytest.raises(DataError, match="holds folders of 2 classes, but the model has 3"):
        source_of(replace(model, labels=None), "", said.append)
    assert source_of(model, "", said.append).evaluation.truth.min() == 1


@pytest.mark.parametrize(
    ("model", "arguments", "code", "message"),
    [
        ("none.keras", [], 2, "no such network or file"),
        ("eval.npz", [], 4, "a zip without config.json, so not a Keras file"),
        ("calibration", [], 4, "a folder without saved_model.pb"),
        ("photos.keras", ["--labels", "eval.npz"], 2, "can't be read"),
        ("photos.keras", ["--labels", "two.txt"], 2, "contains 2 names; expected 3"),
        ("photos.keras", ["--eval", "labels.txt"], 3, "not a readable .npz file"),
        (
            "photos.keras",
            ["--eval", "grey.npz"],
            3,
            "x is uint8 [5, 28, 28]; expected pixels uint8 [N, 32, 32, 3]",
        ),
        ("photos.keras", ["--eval", "many.npz"], 3, "holds class 7, but the model has 3 classes"),
        (
            "photos.keras",
            ["--eval", "odd.npz"],
            3,
            "contains a, b; expected arrays x_test and y_test or x_val and y_val or x and y",
        ),
        ("photos.keras", ["--calibration", "models"], 3, "contains no PNG or JPEG images"),
        ("photos.keras", ["--calibration", "broken"], 3, "neither a PNG nor a JPEG image"),
        ("photos.keras", ["--name", "cnn"], 2, "--name cnn: expected a name"),
        ("photos.keras", ["--name", "../up"], 2, "--name ../up: expected a name"),
        ("photos.keras", ["--eval", "mixed.npz"], 6, "no better than guessing on 60 images, with any range"),
        (
            "photos.keras",
            ["--eval", "mixed.npz", "--range=0,255"],
            6,
            "not blessed, so nothing was published",
        ),
    ],
)
def test_what_cannot_be_exported(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    model: str,
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    (folder / "two.txt").write_text("a\nb\n")
    (folder / "broken").mkdir(exist_ok=True)
    (folder / "broken" / "a.png").write_bytes(b"no picture")
    (folder / "models").mkdir(exist_ok=True)
    x, y = patches(5, 4)
    np.savez(folder / "grey.npz", x=np.zeros((5, 28, 28), np.uint8), y=y)
    np.savez(folder / "many.npz", x=x, y=y + 7 - y.max())
    np.savez(folder / "odd.npz", a=x, b=y)
    x, y = patches(60, 4)
    np.savez(folder / "mixed.npz", x=x, y=(y + 1) % 3)
    values = [str(folder / each) if (folder / each).exists() else each for each in arguments]
    assert export(folder, model, "--formats", "float32", *values, name="wrong") == code
    error = capsys.readouterr().err.splitlines()[-1]
    assert message in error
    assert store.versions(folder / "models" / "wrong") == {}
