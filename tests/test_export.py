import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from conftest import ROOT
from export import calibration, cards, formats, store, verify
from export.__main__ import main
from export.litert import LiteRT
from export.runtime import Runtime
from export.savedmodel import SavedModel
from train import cli, data
from train.data import Digits
from train.errors import ArtifactError, ConversionError, ResultError

NAMES = ("nn", "cnn")


def export(folder: Path, *arguments: str) -> int:
    return cli.run(main, [*arguments, "--models", str(folder)])


@pytest.fixture
def trained(tmp_path: Path, models: Path) -> Path:
    """A folder of its own with the trained nn, not yet exported."""
    for name in ("nn.keras", "nn.card.json"):
        (tmp_path / name).write_bytes((models / name).read_bytes())
    return tmp_path


@pytest.mark.parametrize("name", NAMES)
def test_names_are_stable_and_the_batch_is_free(models: Path, name: str) -> None:
    version = store.latest(models / name)
    saved: Runtime = SavedModel(version)
    files: dict[str, Runtime] = {row.name: LiteRT(version / row.file) for row in formats.FORMATS.values()}
    for runtime in (saved, *files.values()):
        signature = runtime.signatures["serving_default"]
        assert list(signature.inputs) == ["image"]
        assert list(signature.outputs) == ["probabilities"]
        assert signature.inputs["image"].shape == (-1, 28, 28, 1)
        assert signature.outputs["probabilities"].shape == (-1, 10)
    saved.close()
    # The numbers are TensorFlow's DataType: 1 is float, 4 is uint8.
    edges = {
        key: runtime.signatures["serving_default"].inputs["image"].dtype for key, runtime in files.items()
    }
    assert edges == dict.fromkeys(formats.FORMATS, 1) | {"int8_uint8": 4}


def test_uint8_takes_raw_pixels(models: Path, sample: Digits) -> None:
    """The point of that format: a device hands over the camera's bytes, no scaling by hand."""
    runtime = LiteRT(store.latest(models / "nn") / formats.FORMATS["int8_uint8"].file)
    raw = sample.x_test[:200, ..., np.newaxis]
    quantization = runtime.signatures["serving_default"].inputs["image"].quantization
    assert quantization is not None
    assert quantization.scale == pytest.approx(1 / 255)
    assert quantization.zero_point == 0
    scores = runtime.run("serving_default", {"image": raw})["probabilities"]
    assert scores.dtype == np.uint8
    assert (scores.argmax(1) == sample.y_test[:200]).mean() > 0.8


@pytest.mark.parametrize("name", NAMES)
def test_every_artefact_was_compared_on_all_test_images(models: Path, name: str) -> None:
    card = cards.read(store.latest(models / name))
    assert [each["format"] for each in card.artefacts] == ["savedmodel", *formats.FORMATS]
    for each in card.artefacts:
        assert each["accuracy"]["images"] == 1000
        assert each["agreement"] == 1 - each["disagreements"] / 1000
    exact = {each["format"]: each for each in card.artefacts}
    for lossless in ("savedmodel", "float32"):
        assert exact[lossless]["disagreements"] == 0
        assert exact[lossless]["largest_difference"] < 1e-4
    assert exact["int8"]["bytes"] < 0.3 * exact["float32"]["bytes"]
    # Rounding was really done: a float32 file under an int8 name would agree to the last digit.
    assert exact["int8"]["largest_difference"] > 1e-3


def test_artefacts_are_what_the_card_says(models: Path) -> None:
    version = store.latest(models / "cnn")
    card = cards.read(version)
    assert cards.up_to_date(models / "cnn", card.keras_sha256, list(formats.FORMATS.values())) == version
    assert cards.up_to_date(models / "cnn", "another", []) is None
    listed = {file for each in card.artefacts for file in each["files"]} | {cards.CARD}
    there = {path.relative_to(version).as_posix() for path in version.rglob("*") if path.is_file()}
    assert there == listed


def test_saved_model_is_plain_tensorflow(models: Path, sample: Digits) -> None:
    """Anyone's TensorFlow loads and calls it, with nothing of ours."""
    import tensorflow as tf

    loaded = tf.saved_model.load(str(store.latest(models / "nn")))
    answer = loaded.signatures["serving_default"](image=tf.constant(data.to_input(sample.x_test[:5])))
    assert set(answer) == {"probabilities"}
    assert answer["probabilities"].shape == (5, 10)


def test_versions_count_up_and_up_to_date_is_left_alone(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export(trained, "nn", "--formats", "float32") == 0
    assert export(trained, "nn", "--formats", "float32") == 0
    assert "nn/1 is up to date" in capsys.readouterr().err
    # More formats than there are: a new version.
    assert export(trained, "nn", "--formats", "float32,int8", "--json") == 0
    (card,) = json.loads(capsys.readouterr().out)
    assert [each["format"] for each in card["artefacts"]] == ["savedmodel", "float32", "int8"]
    assert export(trained, "nn", "--formats", "int8", "--force") == 0
    assert list(store.versions(trained / "nn")) == [1, 2, 3]
    # Damage is noticed by the hash.
    path = trained / "nn" / "3" / "tflite" / "int8.tflite"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    assert export(trained, "nn", "--formats", "int8") == 0
    assert list(store.versions(trained / "nn")) == [1, 2, 3, 4]


def test_only_integers_are_versions(tmp_path: Path) -> None:
    for name in ("1", "10", "2", "x", "-3", "1.5", "٣", ".stage-1-version"):
        (tmp_path / name).mkdir()
    (tmp_path / "7").write_text("a file")
    assert list(store.versions(tmp_path)) == [1, 2, 10]
    assert store.latest(tmp_path) == tmp_path / "10"
    with pytest.raises(ArtifactError, match="holds no version directory .*run `make export` first"):
        store.latest(tmp_path / "x")


def test_two_drafts_never_take_the_same_number(tmp_path: Path) -> None:
    """Two processes publish fifty versions each, at once."""
    script = f"""
from pathlib import Path
from export import store
for _ in range(50):
    with store.draft(Path({str(tmp_path)!r})) as draft:
        (draft.folder / "file").write_text("x")
        draft.publish()
"""
    processes = [subprocess.Popen([sys.executable, "-c", script], cwd=ROOT) for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    assert list(store.versions(tmp_path)) == list(range(1, 101))
    assert all((path / "file").read_text() == "x" for path in tmp_path.iterdir())


def test_killed_export_leaves_no_version_and_the_next_one_cleans_up(trained: Path) -> None:
    command = [sys.executable, "-m", "export", "nn", "--models", str(trained)]
    generator = random.Random(0)
    killed = 0
    for _ in range(4):
        process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        # Anywhere between the first artefact and the last: each takes some tenths of a second.
        while "written and checked" not in process.stderr.readline():
            assert process.poll() is None
        time.sleep(generator.uniform(0, 2))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        for version in store.versions(trained / "nn").values():
            card = cards.read(version)  # whatever is there is whole
            assert len(card.artefacts) == 1 + len(formats.FORMATS)
        killed += not store.versions(trained / "nn")
    assert killed, "every export was finished before it was killed"
    assert export(trained, "nn") == 0
    assert not list((trained / "nn").glob(".stage-*"))
    assert len(store.versions(trained / "nn")) == 1


def test_other_data_than_the_training_data_is_refused(
    trained: Path, sample: Digits, capsys: pytest.CaptureFixture[str]
) -> None:
    other = trained / "other.npz"
    np.savez(
        other, x_train=sample.x_train, y_train=sample.y_train, x_test=sample.x_train, y_test=sample.y_train
    )
    assert export(trained, "nn", "--data", str(other)) == 3
    error = capsys.readouterr().err.splitlines()[-1]
    assert "nn.keras was trained on sample: 5,000 digits" in error
    assert not (trained / "nn").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nm"], 2, "no network is called nm; there are nn, cnn"),
        (["--formats", "int4"], 2, "no format is called int4; there are float32, dynamic"),
        (["cnn"], 4, "cnn.keras: no such model; run `make train` first"),
    ],
)
def test_wrong_arguments(
    trained: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, message: str
) -> None:
    assert export(trained, *arguments) == code
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_an_unpublished_draft_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConversionError), store.draft(tmp_path / "nn") as draft:  # noqa: PT012
        (draft.folder / "saved_model.pb").write_text("half")
        raise ConversionError("no")
    assert list((tmp_path / "nn").iterdir()) == []


def test_a_broken_conversion_is_found() -> None:
    generator = np.random.default_rng(0)
    reference = generator.dirichlet(np.ones(10), 1000).astype(np.float32)
    truth = reference.argmax(1)
    assert verify.compare("x", reference, reference, truth)["agreement"] == 1
    with pytest.raises(
        ResultError, match=r"x: agrees with the Keras model on \d+\.\d% of 1,000 images, less than 97%"
    ):
        verify.compare("x", np.roll(reference, 1, axis=1), reference, truth)
    broken = reference.copy()
    broken[3, 4] = np.nan
    with pytest.raises(ResultError, match="1 values that are no numbers"):
        verify.compare("x", broken, reference, truth)
    with pytest.raises(ResultError, match=r"answered \(1000, 9\)"):
        verify.compare("x", reference[:, :9], reference, truth)


def test_calibration_is_balanced_fixed_and_training_only(sample: Digits) -> None:
    chosen = calibration.choose(sample.y_train)
    assert np.bincount(sample.y_train[chosen]).tolist() == [30] * 10
    np.testing.assert_array_equal(chosen, calibration.choose(sample.y_train))
    assert len(set(chosen.tolist())) == 300
    assert calibration.record(chosen)["training_indices"] == chosen.tolist()
    assert len(calibration.choose(np.array([0, 0, 1]))) == 3


@pytest.mark.parametrize("content", [b"", b"TFL3", b"\0" * 100, b"\x1c\0\0\0TFL3" + bytes(64)])
def test_litert_refuses_what_is_no_model(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.tflite"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"model\.tflite"):
        LiteRT(path)


def test_litert_refuses_a_truncated_model(tmp_path: Path, models: Path) -> None:
    whole = (store.latest(models / "nn") / "tflite" / "float32.tflite").read_bytes()
    path = tmp_path / "model.tflite"
    for share in (0.1, 0.5, 0.9, 0.99):
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(ArtifactError, match=r"model\.tflite"):
            LiteRT(path)


def test_saved_model_that_is_damaged(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"holds no saved_model\.pb"):
        SavedModel(tmp_path)
    (tmp_path / "saved_model.pb").write_bytes(b"not a protobuf")
    with pytest.raises(ArtifactError, match="TensorFlow can't load it"):
        SavedModel(tmp_path)


def test_runtimes_refuse_inputs_with_the_runtimes_words(models: Path) -> None:
    version = store.latest(models / "cnn")
    wrong = np.zeros((1, 27, 28, 1), np.float32)
    for runtime in (SavedModel(version), LiteRT(version / "tflite" / "float32.tflite")):
        with pytest.raises(ValueError, match=r"\S"):
            runtime.run("serving_default", {"image": wrong})
        right = runtime.run("serving_default", {"image": np.zeros((2, 28, 28, 1), np.float32)})
        assert right["probabilities"].shape == (2, 10)
        runtime.close()
