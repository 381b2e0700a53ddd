"""Exported versions: the signatures, formats and warm-up requests that they hold, measured on test images."""

from pathlib import Path

import numpy as np
import pytest

from conftest import ROOT
from tfship.export.conversion import formats
from tfship.export.preprocessing import input_contract
from tfship.export.publishing import cards, store, verification
from tfship.export.runtimes.litert import LiteRT
from tfship.export.runtimes.protocol import Runtime
from tfship.export.runtimes.saved_model import SavedModel
from tfship.train.common.errors import ArtifactError, ResultError
from tfship.train.data import datasets
from tfship.train.data.datasets import Digits

NAMES = ("nn", "cnn")


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
    assert set(card.seconds) == {"original", "savedmodel", *formats.FORMATS, formats.WEB}
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


def test_every_signature_answers_for_real_images(models: Path, sample: Digits) -> None:
    """The same pictures as floats, as raw pixels, as PNG bytes and in tf.Examples; each export compares them, too."""
    from tfship.export.preprocessing import graph
    from tfship.export.publishing import warmup_requests

    runtime = SavedModel(store.latest(models / "cnn"))
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
    with pytest.raises(ResultError, match="1 NaN or infinite values"):
        verification.compare("x", broken, reference, truth)
    with pytest.raises(ResultError, match=r"returned scores \(1000, 9\)"):
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
