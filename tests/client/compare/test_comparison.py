"""`--compare`: targets that answer alike, and skews made for real, each of which must be called by its name."""

import io
import json
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from doctor_fixtures import at, card_of, diagnose
from serving_fixtures import Client, config_of, serving
from tfship.client import predict
from tfship.client.compare import command, divergence_causes
from tfship.client.compare import report as compare_report
from tfship.client.compare.comparison import ComparedRow, Comparison
from tfship.client.compare.target_selection import chosen
from tfship.client.images.draw_samples import FOLDER
from tfship.client.targets.connection import Connection, Servable
from tfship.client.targets.registry import TARGETS, Choice
from tfship.export.conversion import signature_metadata
from tfship.export.preprocessing import input_contract as contracts
from tfship.serving.models.loader import Loader
from tfship.serving.models.manager import LoadPolicy
from tfship.serving.server.model_server import Settings
from tfship.train.common import cli
from tfship.train.common.errors import UsageError

_FOLDER = tempfile.TemporaryDirectory(prefix="tfship-compare-")
PICTURES = [FOLDER / "seven.png", FOLDER / "two.png"]
CONTRACT = contracts.digits("cnn")
Values = NDArray[np.float32]


def weights(seed: int, classes: int = 10) -> Values:
    return np.random.default_rng(seed).normal(0, 0.06, (784, classes)).astype(np.float32)


def save(
    folder: Path, matrix: Values, before: Callable[[Any], Any] = lambda image: image, bytes_by: Any = None
) -> Path:
    """Save softmax(before(image) @ matrix) as the SavedModel of a version, and as float32 TFLite file, with contract.

    With `bytes_by`, a contract, there is a signature serving_bytes that prepares pictures by it.
    """
    import tensorflow as tf

    module = tf.Module()
    module.matrix = tf.Variable(matrix)

    def probabilities(image: Any) -> Any:
        return tf.nn.softmax(tf.reshape(before(image), [-1, 784]) @ module.matrix)

    image = tf.TensorSpec([None, 28, 28, 1], tf.float32, "image")
    module.f = tf.function(lambda image: {"probabilities": probabilities(image)}, input_signature=[image])
    signatures = {"serving_default": module.f}
    if bytes_by is not None:
        from tfship.export.preprocessing.graph import preparation

        pixels = preparation(bytes_by)

        def encoded(image_bytes: Any) -> Any:
            images = tf.map_fn(pixels, image_bytes, fn_output_signature=tf.uint8)
            return {"probabilities": probabilities(bytes_by.scaling.apply(tf.cast(images, tf.float32)))}

        spec = tf.TensorSpec([None], tf.string, "image_bytes")
        signatures["serving_bytes"] = module.g = tf.function(encoded, input_signature=[spec])
    tf.saved_model.save(module, str(folder), signatures=signatures)
    with tempfile.TemporaryDirectory() as plain:
        tf.saved_model.save(module, plain, signatures={"serving_default": module.f})
        (folder / "tflite").mkdir()
        for name in ("float32", "dynamic"):
            converter = tf.lite.TFLiteConverter.from_saved_model(plain)
            if name == "dynamic":
                converter.optimizations = [tf.lite.Optimize.DEFAULT]
            (folder / "tflite" / f"{name}.tflite").write_bytes(signature_metadata.add(converter.convert()))
    CONTRACT.write(folder)
    return folder


@pytest.fixture(scope="module")
def right(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models with cnn/1, and the retired version 0 of other weights."""
    models = tmp_path_factory.mktemp("right")
    save(models / "cnn" / "1", weights(1), bytes_by=CONTRACT)
    save(models / "cnn" / "retired-0", weights(0))
    return models


@contextmanager
def served(base: Path, **settings: Any) -> Iterator[Client]:
    with serving(config_of(cnn=base), Settings(**settings), LoadPolicy(poll_seconds=0)) as client:
        yield client


def compared(models: Path, targets: str, *arguments: object) -> tuple[int, dict[str, Any], str]:
    """Run the command; return its exit code, its JSON by target, and its verdict."""
    patient = "--timeout=60"  # TensorFlow's first request by a signature takes a while on a busy machine
    code, out, _ = run(*PICTURES, f"--compare={targets}", "--models", models, "--json", patient, *arguments)
    report = json.loads(out)
    assert report["skew"] == (code == 6) == any(each["skew"] for each in report["targets"])
    return code, {each["target"]: each for each in report["targets"]}, "\n".join(report["verdict"])


def run(*arguments: object) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = cli.run(predict.main, [str(each) for each in arguments])
    return code, out.getvalue(), err.getvalue()


def over(client: Client) -> str:
    return f"rest@127.0.0.1:{client.rest_port},grpc@127.0.0.1:{client.grpc_port},tflite"


def test_all_answer_alike(right: Path) -> None:
    with served(right / "cnn") as client:
        code, targets, verdict = compared(right, f"{over(client)},savedmodel")
        assert code == 0
        names = [each.split("@")[0] + each.partition(" ")[2] for each in targets]
        assert names == [
            "rest", "restserving_bytes", "grpc", "grpcserving_bytes", "tflite:float32", "tflite:dynamic", "savedmodel",
        ]  # fmt: skip
        assert verdict.startswith("no skew beside tflite:float32: 5 exact (")
        assert ", 1 quantized (tflite:dynamic within " in verdict
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
    assert any(each.startswith("not asked: keras: ") for each in lines)
    assert lines[-1].startswith("no skew beside ")


SKEWS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "rescaled": (
        lambda image: image / 255,
        "divides its input by 255 (the wrong scale: it takes values of 0 to 255)",
    ),
    "not rescaled": (lambda image: image * 255, "multiplies its input by 255 (the wrong scale"),
    "to -1…1": (lambda image: image * 2 - 1, "maps 0…1 to -1…1 (the wrong scale"),
    "from -1…1": (
        lambda image: (image + 1) / 2,
        "maps -1…1 to 0…1 (the wrong scale: it takes values of -1 to 1)",
    ),
    "inverted": (lambda image: 1 - image, "inverts its input (dark and light are swapped)"),
    "transposed": (
        lambda image: _tf().transpose(image, [0, 2, 1, 3]),
        "swaps rows and columns (the layout is another)",
    ),
    "mirrored": (lambda image: _tf().reverse(image, [2]), "mirrors left and right (the layout is another)"),
}


def _tf() -> Any:
    import tensorflow as tf

    return tf


@pytest.mark.parametrize("name", SKEWS)
def test_a_skew_is_called_by_its_name(right: Path, tmp_path: Path, name: str) -> None:
    before, expected = SKEWS[name]
    save(tmp_path / "1", weights(1), before)
    with served(tmp_path) as client:
        code, targets, verdict = compared(right, over(client))
    assert code == 6
    # One reason, told once for both ports.
    (line,) = verdict.splitlines()
    assert line.startswith(
        f"skew: rest@127.0.0.1:{client.rest_port}, grpc@127.0.0.1:{client.grpc_port}: {expected}"
    )
    assert ", or " not in line
    assert not targets["tflite:dynamic"]["skew"]


def test_a_stale_version(right: Path, tmp_path: Path) -> None:
    models = tmp_path / "models"
    shutil.copytree(right / "cnn" / "retired-0", models / "cnn" / "1")
    with served(models / "cnn") as client:
        shutil.copytree(right / "cnn" / "1", models / "cnn" / "2")
        code, _, verdict = compared(models, over(client))
        assert code == 6
        assert ": answers as version 1 does; differs from tflite:float32 by " in verdict
        assert "the server says that it serves version 1; the newest on this disk is 2" in verdict
        # Gone from the disk, nothing but the server's word is left.
        shutil.rmtree(models / "cnn" / "1")
        code, _, verdict = compared(models, over(client))
        assert code == 6
        assert "no other scale, layout, preparation or version on this disk gives that answer" in verdict
        assert "the server says that it serves version 1" in verdict


def test_an_older_version_that_was_retired(right: Path, tmp_path: Path) -> None:
    shutil.copytree(right / "cnn" / "retired-0", tmp_path / "1")
    with served(tmp_path) as client:
        assert ": answers as version 0 does; " in compared(right, over(client))[2]


def test_a_picture_that_is_merely_resized(right: Path, tmp_path: Path) -> None:
    save(tmp_path / "1", weights(1), bytes_by=replace(CONTRACT, preparation="resize"))
    with served(tmp_path) as client:
        code, targets, verdict = compared(right, over(client))
    assert code == 6
    assert [name.partition(" ")[2] for name, each in targets.items() if each["skew"]] == ["serving_bytes"] * 2
    assert "gets the picture merely resized, not brought into the form of MNIST's digits; " in verdict


def test_a_quantized_file_that_is_served_is_no_skew(tmp_path: Path) -> None:
    # Weights that are large enough for int8 to tell in the answers.
    version = save(tmp_path / "cnn" / "1", weights(3) * 4)
    shutil.copy(version / "tflite" / "dynamic.tflite", version / "model.tflite")
    with served(tmp_path / "cnn", loader=Loader(prefer_tflite=True)) as client:
        code, targets, verdict = compared(tmp_path, over(client))
    assert code == 0
    (rest,) = (each for name, each in targets.items() if name.startswith("rest"))
    assert rest["difference"] > rest["tolerance"]
    assert "answers as tflite:dynamic does (that file is what is served); differs from" in verdict


def test_a_file_of_integers_from_edge_to_edge_is_no_skew(tmp_path: Path) -> None:
    version = save(tmp_path / "cnn" / "1", weights(3) * 4)
    shutil.copy(integers(weights(3) * 4), version / "model.tflite")
    with served(tmp_path / "cnn", loader=Loader(prefer_tflite=True)) as client:
        targets = f"rest@127.0.0.1:{client.rest_port},grpc@127.0.0.1:{client.grpc_port},tflite:float32"
        code, found, verdict = compared(tmp_path, targets)
        assert code == 0
        assert "no skew beside tflite:float32: 2 quantized (" in verdict
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
        "takes pixels as they are; its scores are integers in steps of 1/256" in each
        for each in seen.level("ok")
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
    assert err.count("answers logits; their softmax is printed") == 2


CAFFE = contracts.Scaling((1.0, 1.0, 1.0), (-103.939, -116.779, -123.68), bgr=True)


@pytest.mark.parametrize(
    ("scaling", "does"),
    [
        (
            replace(CAFFE, bgr=False),
            "leaves the channels in RGB order before it scales them (the contract's order",
        ),
        (
            replace(CAFFE, offset=(0.0,) * 3),
            "doesn't subtract the mean (its scaling lacks the contract's offset)",
        ),
        (contracts.Scaling.of_range(0, 1, 3), "scales pixels to 0…1 (it lacks the contract's scaling)"),
    ],
)
def test_another_scaling_of_the_channels_is_called_by_its_name(
    tmp_path: Path, scaling: contracts.Scaling, does: str
) -> None:
    import tensorflow as tf

    rules = contracts.Contract("cnn", tuple("abcd"), 8, 8, 3, CAFFE, "resize")
    module = tf.Module()
    module.matrix = tf.Variable(np.random.default_rng(0).normal(0, 0.002, (192, 4)).astype(np.float32))

    def scores(values: Any) -> Any:
        return {"probabilities": tf.nn.softmax(tf.reshape(values, [-1, 192]) @ module.matrix)}

    module.f = tf.function(scores, [tf.TensorSpec([None, 8, 8, 3], tf.float32, "image")])
    module.g = tf.function(
        lambda image: scores(scaling.apply(tf.cast(image, tf.float32))),
        [tf.TensorSpec([None, 8, 8, 3], tf.uint8, "image")],
    )
    version = tmp_path / "cnn" / "1"
    tf.saved_model.save(module, str(version), {"serving_default": module.f, "serving_uint8": module.g})
    rules.write(version)
    picture = tmp_path / "colours.png"
    Image.fromarray(np.random.default_rng(1).integers(0, 255, (8, 8, 3), np.uint8)).save(picture)
    code, out, _ = run(picture, f"--compare=savedmodel,savedmodel:{version}", "--models", tmp_path)
    assert code == 0, out
    with served(tmp_path / "cnn") as client:
        code, out, _ = run(
            picture, f"--compare=rest@127.0.0.1:{client.rest_port},savedmodel", "--models", tmp_path
        )
    assert code == 6
    assert f"rest@127.0.0.1:{client.rest_port} serving_uint8: {does}" in out
    assert ", or " not in out.splitlines()[-1]


def test_several_labels_are_compared_score_by_score_and_as_sets() -> None:
    def row(name: str, scores: list[list[float]], **more: Any) -> ComparedRow:
        array = np.array(scores, np.float32)
        return ComparedRow(name, name, ("sea", "beach"), array, 1.0, meaning="independent", **more)

    here = row("tflite", [[0.9, 0.52], [0.1, 0.2]])
    there = row("rest", [[0.9, 0.48], [0.1, 0.2]], difference=0.04, tolerance=0.1, quantized=True)
    found = Comparison(["a.png", "b.png"], [here, there], "tflite")
    said = list(compare_report.lines(found))
    assert "sea+beach none" in said[1]
    assert "other labels: rest, for 1 of 2 pictures, such as a.png: sea, not sea+beach" in said
    described = compare_report.describe(found)
    assert described["targets"][0]["label_sets"] == [["sea", "beach"], []]
    assert not described["skew"]


def test_what_no_change_explains(right: Path, tmp_path: Path) -> None:
    save(tmp_path / "unlike" / "1", weights(7))
    save(tmp_path / "fewer" / "1", weights(7, 7))
    with served(tmp_path / "unlike") as client:
        code, targets, verdict = compared(right, over(client))
    assert code == 6
    assert "no other scale, layout, preparation or version on this disk gives that answer" in verdict
    rest = next(each for name, each in targets.items() if name.startswith("rest"))
    assert rest["explanations"] == []
    with served(tmp_path / "fewer") as client:
        code, targets, verdict = compared(right, over(client))
    assert code == 6
    assert "another model: it answers 7 classes, tflite:float32 10" in verdict
    rest = next(each for name, each in targets.items() if name.startswith("rest"))
    assert rest["difference"] is None


def test_the_reference_without_files(right: Path, tmp_path: Path) -> None:
    save(tmp_path / "1", weights(1), lambda image: 1 - image)
    with served(right / "cnn") as one, served(tmp_path) as other:
        two = f"rest@127.0.0.1:{one.rest_port},rest@127.0.0.1:{other.rest_port}"
        code, _, verdict = compared(tmp_path / "none", two)
    assert code == 6
    assert verdict.splitlines()[0].startswith(f"skew: rest@127.0.0.1:{other.rest_port}: inverts its input")


def test_quantized_files_alone(right: Path) -> None:
    file = right / "cnn" / "1" / "tflite" / "dynamic.tflite"
    code, targets, verdict = compared(right, f"tflite:dynamic,tflite:{file}")
    assert code == 0
    assert verdict.startswith("no skew beside tflite:dynamic: 1 quantized (")
    # Nothing was measured at an export: each may stray by what is supposed then.
    assert targets["tflite:dynamic"]["tolerance"] > 0.5


def test_an_address_by_the_flag(right: Path) -> None:
    with served(right / "cnn") as client:
        for port, protocol in ((client.rest_port, "rest"), (client.grpc_port, "grpc")):
            _, targets, _ = compared(right, "rest,grpc,tflite", f"--server=127.0.0.1:{port}", "--retries=0")
            assert {protocol, f"{protocol} serving_bytes"} <= targets.keys()


def test_fewer_than_two(right: Path, tmp_path: Path) -> None:
    code, out, err = run(
        PICTURES[0], "--compare=rest@127.0.0.1:1,tflite:float32", "--models", right, "--retries=0"
    )
    assert (code, out) == (5, "")
    assert "1 of 2 targets can be asked, expected two or more (rest@127.0.0.1:1: " in err
    assert len(err.splitlines()) == 1


def test_bad_pictures(right: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no picture")
    code, out, err = run(bad, PICTURES[0], "--compare=tflite", "--models", right)
    assert code == 3
    assert "bad.png: not a picture" in err
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

    from conftest import ROOT

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
    assert [each.slow for each in found] == sorted(each.slow for each in found)


@given(text=st.text(max_size=40))
def test_any_server_has_a_host(text: str) -> None:
    host, port = command._host(text)
    assert port == "" or port.isdigit()
    assert host.strip("[]") in text


def _net(matrix: Values) -> divergence_causes.Ask:
    def ask(values: Values) -> Values:
        logits = values.reshape(len(values), -1).astype(np.float64) @ matrix
        powers = np.exp(logits - logits.max(1, keepdims=True))
        scores: Values = (powers / powers.sum(1, keepdims=True)).astype(np.float32)
        return scores

    return ask


SCALINGS = (
    contracts.Scaling.of_range(0, 1, 1), contracts.Scaling.of_range(0, 1, 3), contracts.Scaling.of_range(0, 255, 3),
    contracts.Scaling.of_range(-1, 1, 3), contracts.Scaling((0.0171, 0.0175, 0.0174), (-2.118, -2.036, -1.804)), CAFFE,
)  # fmt: skip


@given(seed=st.integers(0, 2**32 - 1), place=st.integers(0, 19), scaling=st.sampled_from(SCALINGS))
def test_every_change_is_found(seed: int, place: int, scaling: contracts.Scaling) -> None:
    generator, channels = np.random.default_rng(seed), len(scaling.scale)
    values = scaling.apply(generator.integers(0, 256, (3, 6, 6, channels)).astype(np.float32))
    spread = max(map(abs, scaling.ends))
    reference = _net(generator.normal(0, 0.3 / spread, (36 * channels, 4)).astype(np.float32))
    tried = divergence_causes.changes(scaling)
    assert len({each.does for each in tried}) == len(tried) >= 8
    change = tried[place % len(tried)]
    for each in tried:
        np.testing.assert_allclose(each.undo(each.apply(values)), values, atol=1e-4 * spread)

    def target(given: Values) -> Values:
        return reference(change.apply(given))

    found = divergence_causes.explain(target(values), values, reference, tried, {}, 1e-3, target)
    assert change.does in [each.what for each in found]
    assert found == sorted(found, key=lambda each: each.difference)
    # Of other weights, nothing of it holds both ways.
    other = _net(generator.normal(0, 0.3 / spread, (36 * channels, 4)).astype(np.float32))
    if divergence_causes.differences(other(values), reference(values)) > 0.05:
        assert divergence_causes.explain(other(values), values, reference, tried, {}, 1e-5, other) == []
