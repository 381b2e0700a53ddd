import contextlib
import json
import random
import shutil
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from conftest import ROOT
from processes import Forked, command, forked
from tfship.export import versions_command
from tfship.export.command import main
from tfship.export.conversion import formats
from tfship.export.preprocessing import input_contract
from tfship.export.publishing import cards, store, verification
from tfship.export.runtimes.litert import LiteRT
from tfship.export.runtimes.protocol import Runtime
from tfship.export.runtimes.saved_model import SavedModel
from tfship.train.common import cli
from tfship.train.common.errors import ArtifactError, ResultError
from tfship.train.data import datasets
from tfship.train.data.datasets import Digits

NAMES = ("nn", "cnn")


def export(folder: Path, *arguments: str) -> int:
    return cli.run(main, [*arguments, "--models", str(folder)])


def versions(folder: Path, *arguments: str) -> int:
    return cli.run(versions_command.main, [*arguments, "--models", str(folder)])


@pytest.fixture
def trained(tmp_path: Path, models: Path) -> Path:
    """A folder of its own with the trained nn, not yet exported."""
    for name in ("nn.keras", "nn.card.json"):
        (tmp_path / name).write_bytes((models / name).read_bytes())
    return tmp_path


def export_tiny(folder: Path, *arguments: str) -> int:
    own = [f"--{flag}={folder / 'eval.npz'}" for flag in ("eval", "calibration")]
    return export(folder, str(folder / "tiny.keras"), *own, *arguments)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a network that is exported in a second, its images, and its first version in float32."""
    import keras

    folder = tmp_path_factory.mktemp("first")
    keras.utils.set_random_seed(1)
    layers = [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(3, "softmax")]
    model = keras.Sequential(layers)
    # Sure of itself, so that int8 decides as it does.
    model.layers[-1].kernel.assign(model.layers[-1].kernel * 8)
    model.save(folder / "tiny.keras")
    images = np.random.default_rng(0).integers(0, 256, (1000, 8, 8, 1), np.uint8)
    classes = model.predict(images.astype(np.float32) / 255, verbose=0).argmax(1)
    classes[::20] = (classes[::20] + 1) % 3  # so that 50 answers are wrong
    np.savez(folder / "eval.npz", x=images, y=classes)
    assert export_tiny(folder, "--formats", "float32") == 0
    return folder


@pytest.fixture
def exported(tmp_path: Path, first: Path) -> Path:
    """A copy of `first` of its own."""
    shutil.copytree(first, tmp_path, dirs_exist_ok=True)
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
    methods = {
        key: (list(each.inputs), sorted(each.outputs), each.method_name.rpartition("/")[2])
        for key, each in saved.signatures.items()
        if each.method_name
    }
    assert methods == {
        "serving_default": (["image"], ["probabilities"], "predict"),
        "serving_uint8": (["image"], ["probabilities"], "predict"),
        "serving_bytes": (["image_bytes"], ["label", "probabilities", "score"], "predict"),
        "classify": (["inputs"], ["classes", "scores"], "classify"),
    }
    # The contract says the same, for those who can't ask TensorFlow.
    described = input_contract.read(version).describe()["signatures"]
    assert {key: (sorted(each["inputs"]), sorted(each["outputs"])) for key, each in described.items()} == {
        key: (inputs, outputs) for key, (inputs, outputs, _) in methods.items()
    }
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
    assert set(card.seconds) == {"original", "savedmodel", *formats.FORMATS}
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
    there = {path.relative_to(version).as_posix() for path in version.rglob("*") if path.is_file()}
    assert there == {*card.files, cards.CARD}
    assert {file for each in card.artefacts for file in each["files"]} < there
    assert {"contract.json", "assets/labels.txt", "saved_model.pb"} < there
    assert "model.tflite" not in there
    assert card.serves == "float32"
    assert (version / "assets" / "labels.txt").read_text().split() == list("0123456789")
    assert card.blessing["blessed"]
    assert not card.blessing["why_not"]
    assert card.warmup == ["serving_default", "serving_uint8", "serving_bytes", "classify"]


def test_saved_model_is_plain_tensorflow(models: Path, sample: Digits) -> None:
    """Anyone's TensorFlow loads and calls it, with nothing of ours."""
    import tensorflow as tf

    loaded = tf.saved_model.load(str(store.latest(models / "nn")))
    answer = loaded.signatures["serving_default"](image=tf.constant(datasets.to_input(sample.x_test[:5])))
    assert set(answer) == {"probabilities"}
    assert answer["probabilities"].shape == (5, 10)


def test_versions_count_up_and_up_to_date_is_left_alone(
    exported: Path, models: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert export(models, "nn") == 0
    assert "nn/1 is up to date" in capsys.readouterr().err
    assert export_tiny(exported, "--formats", "float32") == 0
    assert "tiny/1 is up to date" in capsys.readouterr().err
    # More formats than there are: a new version.
    assert export_tiny(exported, "--formats", "float32,int8", "--json") == 0
    (card,) = json.loads(capsys.readouterr().out)
    assert [each["format"] for each in card["artefacts"]] == ["savedmodel", "float32", "int8"]
    assert export_tiny(exported, "--formats", "int8", "--new") == 0
    assert list(store.versions(exported / "tiny")) == [1, 2, 3]
    # Damage is noticed by the hash.
    path = exported / "tiny" / "3" / "tflite" / "int8.tflite"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    assert export_tiny(exported, "--formats", "int8") == 0
    assert list(store.versions(exported / "tiny")) == [1, 2, 3, 4]
    # So is a contract by which pictures were prepared otherwise.
    newest = store.latest(exported / "tiny")
    made = cards.read(newest)
    asked = (made.request, [formats.FORMATS["int8"]], None, made.blessing["gate"])
    assert cards.up_to_date(exported / "tiny", *asked, force=False) == newest
    monkeypatch.setattr(input_contract, "SCHEMA", 4)
    assert cards.up_to_date(exported / "tiny", *asked, force=False) is None


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
        (["nm"], 2, "no network is called that (nn, cnn), and there is no such file"),
        (["nn", "--labels", "x"], 2, "--labels: for a model of your own"),
        (["nn", "--serve", "int8", "--formats", "float32"], 2, "--serve int8: not among the formats"),
        (["nn", "--max-drop", "2"], 2, "--max-drop 2: expected a share"),
        (["--formats", "int4"], 2, "no format is called int4; there are float32, dynamic"),
        (["cnn"], 4, "cnn.keras: no such model; run `tfship train` first"),
    ],
)
def test_wrong_arguments(
    trained: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, message: str
) -> None:
    assert export(trained, *arguments) == code
    assert message in capsys.readouterr().err.splitlines()[-1]


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


@pytest.mark.parametrize("name", NAMES)
def test_every_signature_answers_for_real_images(models: Path, sample: Digits, name: str) -> None:
    """The same pictures as floats, as raw pixels, as PNG bytes and in tf.Examples."""
    from tfship.export.preprocessing import graph
    from tfship.export.publishing import warmup_requests

    runtime = SavedModel(store.latest(models / name))
    pixels = sample.x_test[::10, ..., np.newaxis]
    expected = runtime.run("serving_default", {"image": datasets.to_input(pixels[..., 0])})["probabilities"]
    raw = runtime.run("serving_uint8", {"image": pixels})["probabilities"]
    np.testing.assert_allclose(raw, expected, atol=1e-6)
    pictures = np.array([graph.png(each) for each in pixels], object)
    answer = runtime.run("serving_bytes", {"image_bytes": pictures})
    # MNIST's images pass through the preparation unchanged.
    np.testing.assert_allclose(answer["probabilities"], expected, atol=1e-6)
    assert [each.decode() for each in answer["label"]] == [str(each) for each in expected.argmax(1)]
    np.testing.assert_allclose(answer["score"], expected.max(1), atol=1e-6)
    examples = np.array([warmup_requests.example(each) for each in pictures], object)
    classified = runtime.run("classify", {"inputs": examples})
    np.testing.assert_allclose(classified["scores"], expected, atol=1e-6)
    assert classified["classes"].tolist() == [[str(digit).encode() for digit in range(10)]] * len(pictures)
    with pytest.raises(ValueError, match="neither a PNG nor a JPEG image"):
        runtime.run("serving_bytes", {"image_bytes": np.array([b"no picture"], object)})
    with pytest.raises(ValueError, match="image/encoded"):
        runtime.run("classify", {"inputs": np.array([b""], object)})
    runtime.close()


def test_warm_up_requests_are_as_tensorflow_serving_reads_them(models: Path) -> None:
    """Read with nothing of ours: a TFRecord of PredictionLog, in the place it looks in."""
    import tensorflow as tf
    from tensorflow_serving.apis import prediction_log_pb2

    path = store.latest(models / "cnn") / "assets.extra" / "tf_serving_warmup_requests"
    logs = [
        prediction_log_pb2.PredictionLog.FromString(record)
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator()
    ]
    requests = [getattr(log, log.WhichOneof("log_type")).request for log in logs]
    assert [
        (log.WhichOneof("log_type"), each.model_spec.signature_name)
        for log, each in zip(logs, requests, strict=True)
    ] == [
        ("predict_log", "serving_default"),
        ("predict_log", "serving_uint8"),
        ("predict_log", "serving_bytes"),
        ("classify_log", "classify"),
        *[("predict_log", "serving_bytes"), ("classify_log", "classify")] * 9,
    ]
    assert all(each.model_spec.name == "cnn" for each in requests)


def test_killed_exports_leave_whole_versions_only(tmp_path: Path, first: Path) -> None:
    """Four exports in two folders at a time, each killed at a random point of another quarter of its life."""
    source = (str(first / "tiny.keras"), "--eval", str(first / "eval.npz"))
    arguments = (*source, "--formats", "float32", "--new")
    folders = [tmp_path / "one", tmp_path / "two"]

    @contextlib.contextmanager
    def begun(folder: Path) -> Iterator[Forked]:
        """Start an export and yield it at its first step: what comes before has written nothing."""
        with forked(command, "export", *arguments, "--models", str(folder)) as process:
            process.reaches(lambda: "tiny original:" in process.error)
            yield process

    with begun(folders[0]) as process:
        start = time.monotonic()
        assert process.ends() == 0, process.error
        life = time.monotonic() - start

    def kill_two(number: int) -> int:
        folder, generator = folders[number], random.Random(number)
        killed = 0
        for part in range(number, 4, 2):
            with begun(folder) as process:
                time.sleep((part + generator.random()) / 4 * life)
                killed += process.kill() == -signal.SIGKILL
            for version in store.versions(folder / "tiny").values():
                assert cards.damage(version) == []
        return killed

    with ThreadPoolExecutor(2) as pool:
        killed = sum(pool.map(kill_two, range(2)))
    assert killed, "every export had ended before it was killed"
    for folder in folders:
        finished = len(store.versions(folder / "tiny"))
        assert export(folder, *arguments) == 0
        # No number was lost to one that didn't finish, and no stage is left.
        assert list(store.versions(folder / "tiny")) == list(range(1, finished + 2))
        assert sorted(path.name for path in (folder / "tiny").iterdir()) == sorted(
            map(str, range(1, finished + 2))
        )


def test_what_is_not_blessed_is_not_published(exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(exported / "tiny")  # the first version, which is blessed
    strict = ["--formats", "float32", "--min-accuracy", "0.999"]
    assert export_tiny(exported, *strict) == 6
    error = capsys.readouterr().err.splitlines()[-1]
    assert (
        "tiny: not blessed, so nothing was published: the model itself fails: model: accuracy: 0.95" in error
    )
    assert "--force publishes nonetheless and records it" in error
    assert list((exported / "tiny").iterdir()) == []
    record = json.loads((exported / "tiny.not-blessed.json").read_text())
    assert (record["blessed"], record["gate"]["min_accuracy"]) == (False, 0.999)
    assert record["why_not"] == ["model: accuracy: 0.9500 found, 0.9990 wanted"]

    assert export_tiny(exported, *strict, "--force") == 0
    card = cards.read(store.latest(exported / "tiny"))
    assert (card.blessing["blessed"], card.blessing["forced"]) == (False, True)
    assert not (exported / "tiny.not-blessed.json").exists()
    # A forced version is no measure for the next one, and isn't taken for up to date.
    assert export_tiny(exported, "--formats", "float32") == 0
    assert cards.read(exported / "tiny" / "2").blessing["blessed"]


def test_a_worse_version_is_held_against_the_last_blessed_one(
    exported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = exported / "tiny" / "1" / cards.CARD
    card = cards.read(path.parent)
    for artefact in card.artefacts:
        artefact["accuracy"] |= {"value": 0.98, "correct": 980}  # as if the version before had been better
    card.write(path.parent)
    assert export_tiny(exported, "--formats", "float32", "--new") == 6
    assert "accuracy relative to the last blessed version" in capsys.readouterr().err
    assert export_tiny(exported, "--formats", "float32", "--new", "--max-drop", "0.04") == 0


def test_versions_are_listed_verified_rolled_back_and_restored(
    exported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def done(*arguments: str) -> str:
        assert versions(exported, *arguments) == 0
        return capsys.readouterr().out

    shutil.copytree(exported / "tiny" / "1", exported / "tiny" / "2")
    assert "tiny/1 is the latest version now" in done("rollback", "tiny")
    listed = json.loads(done("list", "--json"))
    assert [(row["version"], row["state"]) for row in listed] == [(1, "in service"), (2, "retired")]
    assert "retired" in done("list")
    assert "tiny/2 is in service again" in done("restore", "tiny")
    # How a server is to batch requests is for its operator to add.
    (exported / "tiny" / "2" / input_contract.BATCHING).write_text("max_batch_size { value: 8 }")
    assert done("verify").count("as it was published") == 2
    assert "version 1 is out of service" in done("retire", "tiny", "1")
    # One flipped bit anywhere is found.
    path = exported / "tiny" / "2" / "variables" / "variables.data-00000-of-00001"
    damaged = bytearray(path.read_bytes())
    damaged[100] ^= 1
    path.write_bytes(damaged)
    assert versions(exported, "verify", "tiny", "2") == 6
    assert "variables/variables.data-00000-of-00001 was changed" in capsys.readouterr().out
    card = exported / "tiny" / "retired-1" / cards.CARD
    card.write_text(card.read_text().replace('"blessed": true', '"blessed": false'))
    assert versions(exported, "verify", "tiny") == 6
    assert "export.json: was changed since it was written" in capsys.readouterr().out
    assert versions(exported, "retire", "tiny", "7") == 4
    assert versions(exported, "list", "cnn") == 4


def test_model_tflite_is_written_for_tensorflow_serving_on_demand(
    exported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export_tiny(exported, "--formats", "float32,int8", "--serve", "int8") == 0
    version = store.latest(exported / "tiny")
    assert (version / "model.tflite").read_bytes() == (version / "tflite" / "int8.tflite").read_bytes()
    card = cards.read(version)
    assert card.serves == "int8"
    # Its server fails on warm-up requests for signatures that the file lacks.
    assert card.warmup == ["serving_default"]
    assert export_tiny(exported, "--formats", "float32,int8", "--serve", "int8") == 0
    assert "2 is up to date" in capsys.readouterr().err
    assert export_tiny(exported, "--formats", "float32,int8") == 0
    assert list(store.versions(exported / "tiny")) == [1, 2, 3]


def test_broken_answers_are_found() -> None:
    generator = np.random.default_rng(0)
    reference = generator.dirichlet(np.ones(10), 1000).astype(np.float32)
    truth = reference.argmax(1)
    same = verification.compare("x", reference, reference, truth)
    assert (same["agreement"], same["images"], same["far"]) == (1, len(reference), 0)
    flatter = np.full_like(reference, 0.1) + 0.001 * reference
    other = verification.compare("x", flatter, reference, truth)
    assert (other["agreement"], other["far"]) == (1, len(reference))
    assert verification.compare("x", np.roll(reference, 1, axis=1), reference, truth)["agreement"] == 0
    broken = reference.copy()
    broken[3, 4] = np.nan
    with pytest.raises(ResultError, match="1 values that are no numbers"):
        verification.compare("x", broken, reference, truth)
    with pytest.raises(ResultError, match=r"answered \(1000, 9\)"):
        verification.compare("x", reference[:, :9], reference, truth)


@pytest.mark.parametrize(("name", "floor"), [("cnn", 0.9922), ("nn", 0.9696)])
def test_on_all_of_mnist_no_format_loses_anything(name: str, floor: float) -> None:
    """Of the last export of this checkout, where that was on MNIST itself, as CI makes one."""
    found = store.versions(ROOT / "models" / name)
    if not found or cards.read(found[max(found)]).data["label"] != "MNIST":
        pytest.skip("not exported on MNIST here (MNIST_NPZ=… make export)")
    card = cards.read(found[max(found)])
    measured = {each["format"]: each for each in card.artefacts}
    if set(measured) != {"savedmodel", *formats.FORMATS}:
        pytest.skip(f"{found[max(found)]} holds some formats only")
    assert card.blessing["blessed"]
    assert card.keras_accuracy["images"] == 10_000
    assert card.keras_accuracy["value"] >= floor
    for exact in ("savedmodel", "float32"):
        assert measured[exact]["disagreements"] == 0
    assert measured["float16"]["disagreements"] <= 2
    # Of the dynamic format 0 or 1 image was seen to change with the default seed, and 4 with others: what it is on
    # a processor that trains other weights is chance.
    for quantized in ("dynamic", "int8", "int8_uint8"):
        figures = measured[quantized]
        assert figures["accuracy"]["value"] >= card.keras_accuracy["value"] - 0.001
        assert figures["losses"] <= figures["wins"] or figures["mcnemar_p"] > 0.05
