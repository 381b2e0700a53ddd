"""Targets compared by `--compare`: those that answer alike, and wrong usage."""

import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compare_fixtures import PICTURES, Values, compared, over, right_models, run, save, served, weights
from conftest import ROOT, made_once
from doctor_fixtures import at, card_of, diagnose
from serving_fixtures import Client
from tfship.client.compare import command
from tfship.client.compare import report as compare_report
from tfship.client.compare.comparison import ComparedRow, Comparison
from tfship.client.compare.target_selection import chosen
from tfship.client.targets.connection import Connection, Servable
from tfship.client.targets.registry import TARGETS, Choice
from tfship.export.conversion import signature_metadata
from tfship.serving.models.loader import Loader
from tfship.train.common.errors import UsageError

_FOLDER = tempfile.TemporaryDirectory(prefix="tfship-compare-")


@pytest.fixture(scope="module")
def right(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models with cnn/1, and the retired version 0 of other weights. Nothing may be changed in it."""
    return made_once(tmp_path_factory, "right", right_models)


@pytest.fixture(scope="module")
def client(right: Path) -> Iterator[Client]:
    """A server of `right`: the first request for serving_bytes takes it seconds, the others don't."""
    with served(right / "cnn") as running:
        yield running


def test_all_answer_alike(right: Path, client: Client) -> None:
    code, targets, verdict = compared(right, f"{over(client)},savedmodel")
    assert code == 0
    names = [each.split("@")[0] + each.partition(" ")[2] for each in targets]
    assert names == [
        "rest", "restserving_bytes", "grpc", "grpcserving_bytes", "tflite:float32", "tflite:dynamic", "savedmodel",
    ]  # fmt: skip
    assert verdict.startswith("no skew relative to tflite:float32: 5 exact (")
    assert ", tflite:dynamic; 0.300 is allowed)" in verdict
    for each in targets.values():
        assert each["difference"] <= each["tolerance"]
        assert each["milliseconds"] > 0
        assert each["labels"] == targets["tflite:float32"]["labels"]
    code, out, err = run(PICTURES[0], f"--compare={over(client)},keras", "--models", right)
    assert code == 0
    assert "keras loads TensorFlow" in err
    lines = out.splitlines()
    assert lines[0].split() == ["target", "label", "probability", "ms", "difference"]
    assert sum("reference" in each for each in lines) == 1
    assert any(each.startswith("not available: keras: ") for each in lines)
    assert lines[-1].startswith("no skew relative to ")


def test_a_quantized_file_that_is_served_is_no_skew(tmp_path: Path) -> None:
    # Weights that are large enough for int8 to tell in the answers.
    version = save(tmp_path / "cnn" / "1", weights(3) * 4, tflite=("float32", "dynamic"))
    shutil.copy(version / "tflite" / "dynamic.tflite", version / "model.tflite")
    with served(tmp_path / "cnn", loader=Loader(prefer_tflite=True)) as client:
        code, targets, verdict = compared(tmp_path, over(client))
    assert code == 0
    (rest,) = (each for name, each in targets.items() if name.startswith("rest"))
    assert rest["difference"] > rest["tolerance"]
    assert "returns the scores of tflite:dynamic (it serves that file); differs from" in verdict


def test_a_file_of_integers_from_edge_to_edge_is_no_skew(tmp_path: Path) -> None:
    version = save(tmp_path / "cnn" / "1", weights(3) * 4, tflite=("float32",))
    shutil.copy(integers(weights(3) * 4), version / "model.tflite")
    with served(tmp_path / "cnn", loader=Loader(prefer_tflite=True)) as client:
        targets = f"rest@127.0.0.1:{client.rest_port},grpc@127.0.0.1:{client.grpc_port},tflite:float32"
        code, found, verdict = compared(tmp_path, targets)
        assert code == 0
        assert "no skew relative to tflite:float32: 2 quantized (" in verdict
        in_process = f"{targets},tflite:{version / 'model.tflite'}"
        code, found, verdict = compared(tmp_path, in_process)
        assert code == 0
        served_one, local = (
            next(each["probabilities"] for name, each in found.items() if name.startswith(kind))
            for kind in ("rest", "tflite:/")
        )
        assert served_one == pytest.approx(local, abs=1e-6)
        card_of(version).write(version)
        seen = diagnose(*at(client), "--models", tmp_path)
    assert seen.code == 0
    assert any(
        "it takes pixels; its scores are integers in steps of 1/256" in each for each in seen.level("ok")
    )


def integers(matrix: Values) -> Path:
    """Return a TFLite file of softmax(image @ matrix) that takes and answers uint8, beside nothing else."""
    import tensorflow as tf

    module = tf.Module()
    module.matrix = tf.Variable(matrix)

    @tf.function(input_signature=[tf.TensorSpec([None, 28, 28, 1], tf.float32, "image")])  # type: ignore[untyped-decorator]
    def call(image: Any) -> Any:
        return {"probabilities": tf.nn.softmax(tf.reshape(image, [-1, 784]) @ module.matrix)}

    converter = tf.lite.TFLiteConverter.from_concrete_functions([call.get_concrete_function()], module)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    images = np.random.default_rng(0).random((20, 1, 28, 28, 1)).astype(np.float32)
    images[0], images[1] = 0, 1
    converter.representative_dataset = lambda: ({"image": each} for each in images)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.uint8
    file = Path(tempfile.mkdtemp(dir=_FOLDER.name), "integers.tflite")
    with warnings.catch_warnings():
        # The converter's own calibrator uses the interpreter whose deprecation it announces.
        warnings.filterwarnings("ignore", message=r"\s*Warning: tf.lite.Interpreter is deprecated")
        file.write_bytes(signature_metadata.add(converter.convert()))
    return file


def test_logits_of_one_image_at_a_time_are_no_skew(right: Path, tmp_path: Path) -> None:
    import tensorflow as tf

    module = tf.Module()
    module.matrix = tf.Variable(weights(1))
    spec = tf.TensorSpec([1, 28, 28, 1], tf.float32, "picture")
    module.f = tf.function(lambda picture: {"y": tf.reshape(picture, [-1, 784]) @ module.matrix}, [spec])
    tf.saved_model.save(module, str(tmp_path / "1"), signatures={"serving_default": module.f})
    with served(tmp_path) as client:
        code, _, err = run(*PICTURES, f"--compare={over(client)}", "--models", right)
    assert code == 0
    assert err.count("returns logits; printing their softmax") == 2


def test_several_labels_are_compared_score_by_score_and_as_sets() -> None:
    def row(name: str, scores: list[list[float]], **more: Any) -> ComparedRow:
        array = np.array(scores, np.float32)
        return ComparedRow(name, name, ("sea", "beach"), array, 1.0, meaning="independent", **more)

    here = row("tflite", [[0.9, 0.52], [0.1, 0.2]])
    there = row("rest", [[0.9, 0.48], [0.1, 0.2]], difference=0.04, tolerance=0.1, quantized=True)
    found = Comparison(["a.png", "b.png"], [here, there], "tflite")
    said = list(compare_report.lines(found))
    assert "sea+beach none" in said[1]
    assert "other labels: rest, for 1 of 2 images, such as a.png: sea, not sea+beach" in said
    described = compare_report.describe(found)
    assert described["targets"][0]["label_sets"] == [["sea", "beach"], []]
    assert not described["skew"]


def test_the_reference_without_files(client: Client, tmp_path: Path) -> None:
    save(tmp_path / "1", weights(1), lambda image: 1 - image)
    with served(tmp_path) as other:
        two = f"rest@127.0.0.1:{client.rest_port},rest@127.0.0.1:{other.rest_port}"
        code, _, verdict = compared(tmp_path / "none", two)
    assert code == 6
    assert verdict.splitlines()[0].startswith(f"skew: rest@127.0.0.1:{other.rest_port}: inverts its input")


def test_quantized_files_alone(right: Path) -> None:
    file = right / "cnn" / "1" / "tflite" / "dynamic.tflite"
    code, targets, verdict = compared(right, f"tflite:dynamic,tflite:{file}")
    assert code == 0
    assert verdict.startswith("no skew relative to tflite:dynamic: 1 quantized (")
    # Nothing was measured at an export: each may stray by what is supposed then.
    assert targets["tflite:dynamic"]["tolerance"] > 0.5


def test_an_address_by_the_flag(right: Path, client: Client) -> None:
    for port, protocol in ((client.rest_port, "rest"), (client.grpc_port, "grpc")):
        _, targets, _ = compared(right, "rest,grpc,tflite", f"--server=127.0.0.1:{port}", "--retries=0")
        assert {protocol, f"{protocol} serving_bytes"} <= targets.keys()


def test_fewer_than_two(right: Path, tmp_path: Path) -> None:
    code, out, err = run(
        PICTURES[0], "--compare=rest@127.0.0.1:1,tflite:float32", "--models", right, "--retries=0"
    )
    assert (code, out) == (5, "")
    assert "1 of 2 targets are available, expected two or more (rest@127.0.0.1:1: " in err
    assert len(err.splitlines()) == 1


def test_bad_pictures(right: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no picture")
    code, out, err = run(bad, PICTURES[0], "--compare=tflite", "--models", right)
    assert code == 3
    assert "bad.png: not an image" in err
    assert "no skew" in out
    code, out, err = run(bad, "--compare=tflite", "--models", right)
    assert (code, out) == (3, "")


def test_usage(right: Path) -> None:
    for arguments in (
        ["--compare=nope"], ["--compare=tflite@a:1"], ["--compare=rest:path"], ["--compare", "--csv"],
        ["--compare", "--target=grpc"], ["--compare", "--show"],
    ):  # fmt: skip
        code, out, err = run(PICTURES[0], *arguments, "--models", right)
        assert (code, out) == (2, ""), arguments
        assert len(err.splitlines()) == 1


def test_tensorflow_is_loaded_only_where_it_is_asked_for(right: Path) -> None:
    import subprocess
    import sys

    script = (
        "import sys; from tfship.client import predict; code = predict.main(sys.argv[1:]); "
        "assert 'tensorflow' not in sys.modules; sys.exit(code)"
    )
    arguments = [str(PICTURES[0]), "--compare=tflite", "--models", str(right)]
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


# What parses and what explains, with anything.


@given(
    text=st.text() | st.lists(st.sampled_from([*TARGETS, "tflite:int8", "@", ":", ",", "a:1"])).map("".join)
)
def test_any_list_is_candidates_or_wrong_usage(text: str) -> None:
    choice = Choice(TARGETS["rest"], Servable("cnn"), Path("none"))
    try:
        found = chosen(text, choice, lambda address, port: Connection(address or f"localhost:{port}"))
    except UsageError:
        return
    assert found
    assert len({each.name for each in found}) == len(found)
    slow = [bool(each.choice.kind.slow) for each in found]
    assert slow == sorted(slow)


@given(text=st.text(max_size=40))
def test_any_server_has_a_host(text: str) -> None:
    host, port = command._host(text)
    assert port == "" or port.isdigit()
    assert host.strip("[]") in text
