"""What can answer: each kind of target, by each way of naming it, and models that aren't ours."""

import json
import shutil
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client_fixtures import RELEASED_MODELS, SEVEN, digits_served, run, send, web
from serving_fixtures import Client, config_of, serving
from tfship.client import predict
from tfship.client.cli.arguments import choice
from tfship.client.images.draw_samples import FOLDER
from tfship.client.targets.binding import Binding
from tfship.client.targets.connection import Connection, Servable
from tfship.client.targets.grpc import Grpc
from tfship.client.targets.registry import open_target
from tfship.client.targets.rest import Rest
from tfship.export.preprocessing import input_contract
from tfship.train.common.errors import Refused

INT8 = RELEASED_MODELS / "cnn.int8.tflite"
BRIGHT = np.full((2, 28, 28, 1), 0.75, np.float32)


def brightness(model_input: Any) -> dict[str, Any]:
    """Tell, of pixels 0 to 1, whether they are bright: a model that a test can compute by hand."""
    import tensorflow as tf

    mean = tf.reduce_mean(tf.reshape(model_input, [tf.shape(model_input)[0], -1]), axis=1)
    return {"probabilities": tf.stack([1 - mean, mean], axis=1), "label": tf.fill(tf.shape(mean), "x")}


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SavedModel with other names, shapes and signatures than ours, as `foreign/1` in a folder of models."""
    import tensorflow as tf

    folder = tmp_path_factory.mktemp("models")

    def decoded(pictures: Any) -> Any:
        def one(data: Any) -> Any:
            return tf.image.resize(tf.io.decode_png(data, channels=1), [28, 28])

        return tf.map_fn(one, pictures, fn_output_signature=tf.TensorSpec([28, 28, 1], tf.float32)) / 255.0

    def signature(function: Any, shape: list[int | None], dtype: Any, name: str) -> Any:
        return tf.function(function, input_signature=[tf.TensorSpec(shape, dtype, name)])

    signatures = {
        "serving_default": signature(brightness, [None, 784], tf.float32, "flat"),
        "halves": signature(lambda x: brightness(tf.cast(x, tf.float32)), [None, 28, 28], tf.float16, "rows"),
        "bytes": signature(lambda x: brightness(decoded(x)), [None], tf.string, "pictures"),
        "pixels": signature(
            lambda x: {"scores": brightness(tf.cast(x, tf.float32) / 255)["probabilities"]},
            [None, 28, 28, 1], tf.uint8, "image",
        ),
        "other_size": signature(brightness, [None, 32, 32, 3], tf.float32, "image"),
        "integers": signature(lambda x: brightness(tf.cast(x, tf.float32)), [None, 28, 28, 1], tf.int32, "image"),
        "two_outputs": signature(
            lambda x: {"a": brightness(x)["probabilities"], "b": brightness(x)["probabilities"]},
            [None, 28, 28, 1], tf.float32, "image",
        ),
        "vector": signature(
            lambda x: {"scores": tf.concat([tf.reduce_sum(x, [1, 2, 3])] * 2, 0)[:1][tf.newaxis]},
            [None, 28, 28, 1], tf.float32, "image",
        ),
    }  # fmt: skip
    module = tf.Module()
    module.functions = signatures
    tf.saved_model.save(module, str(folder / "foreign" / "1"), signatures=signatures)
    return folder


@pytest.fixture(scope="module")
def served(foreign: Path) -> Iterator[Client]:
    with serving(config_of(foreign=foreign / "foreign")) as client:
        yield client


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with digits_served(tmp_path_factory.mktemp("digits")) as client:
        yield client


@pytest.fixture(scope="module")
def grey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture that is a quarter white, and of MNIST's size; prepared by `resize` it stays as it is."""
    from PIL import Image

    pixels = np.zeros((28, 28), np.uint8)
    pixels[:14, :14] = 255
    path = tmp_path_factory.mktemp("grey") / "grey.png"
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture(scope="module")
def rules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A contract for the foreign model: two classes with names, pictures resized."""
    folder = tmp_path_factory.mktemp("contract")
    scaling = input_contract.Scaling.of_range(0, 1, 1)
    input_contract.Contract("foreign", ("dark", "bright"), 28, 28, 1, scaling, "resize").write(folder)
    return folder


def asked(kind: str, client: Client, models: Path = Path("/nowhere")) -> list[str]:
    if kind == "savedmodel":
        return ["--target", kind, "--models", str(models)]
    port = client.grpc_port if kind == "grpc" else client.rest_port
    return ["--target", kind, "--server", f"localhost:{port}"]


@pytest.mark.parametrize(
    ("kind", "signature"),
    [
        (kind, signature)
        for kind in ("rest", "grpc", "savedmodel")
        for signature in ("serving_default", "halves", "pixels", "bytes")
        if (kind, signature) != ("rest", "halves")  # JSON has none, says the server
    ],
)
def test_a_foreign_model_is_asked_by_what_it_says_of_itself(
    foreign: Path, served: Client, grey: Path, rules: Path, kind: str, signature: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    where = asked(kind, served, foreign)
    model = ["--model", "foreign", "--signature", signature]
    assert run(grey, *where, *model, "--contract", rules, "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["label"] == "dark"
    assert answer["probabilities"] == pytest.approx({"dark": 0.75, "bright": 0.25}, abs=1e-3)
    # Without a contract it gets a digit, white on black, and its classes are numbers; as it is, it is on white paper.
    assert run(SEVEN, *where, *model) == 0
    assert capsys.readouterr().out.startswith(f"{SEVEN}: {int(signature == 'bytes')} (")


@pytest.mark.parametrize("kind", ["rest", "grpc", "savedmodel"])
def test_signatures_of_no_use(
    foreign: Path, served: Client, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    where = asked(kind, served, foreign)
    for signature, code, message in (
        ("nothing", 2, "has no signature nothing; there are bytes, halves, integers"),
        (
            "other_size",
            2,
            "takes image [32, 32, 3], but images are prepared as [28, 28, 1]; give the model's",
        ),
        ("integers", 2, "takes image of DataType 3; expected float32, float64, uint8, string, float16"),
        ("two_outputs", 2, "returns a, b; expected probabilities, or one matrix"),
        ("vector", 5, "returned [1, 1] for 2 images"),
    ):
        pictures = (FOLDER / "two.png", FOLDER / "three.png")
        assert run(*pictures, *where, "--model", "foreign", "--signature", signature) == code
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line


@pytest.mark.parametrize("kind", ["rest", "grpc", "savedmodel"])
def test_a_picture_that_the_model_cannot_decode_does_not_cost_the_others_their_answer(
    foreign: Path, served: Client, grey: Path, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    where = asked(kind, served, foreign)
    bad = tmp_path / "bad.png"
    bad.write_bytes(Path(SEVEN).read_bytes()[:60])  # cut off behind its header
    model = ["--model", "foreign", "--signature", "bytes"]
    assert run(grey, bad, SEVEN, *where, *model, "--json") == 3
    good, failed, also = map(json.loads, capsys.readouterr().out.splitlines())
    assert (good["label"], also["label"]) == ("0", "1")
    assert failed["error"].startswith(f"{bad}: ")
    assert run(bad, *where, *model) == 5


def test_a_contract_is_read_from_a_file_or_its_folder_and_checked(
    served: Client, rules: Path, grey: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copied = tmp_path / "my rules.json"
    shutil.copy(rules / input_contract.CONTRACT, copied)
    for path in (rules, rules / input_contract.CONTRACT, copied):
        assert run(grey, *asked("rest", served), "--model", "foreign", "--contract", path) == 0
        assert capsys.readouterr().out == f"{grey}: dark (75.0%), then bright (25.0%)\n"
    copied.write_text("{}")
    assert run(grey, *asked("rest", served), "--model", "foreign", "--contract", copied) == 4
    assert f"{copied}: not an input contract" in capsys.readouterr().err


def test_a_gateway_that_lets_nothing_through_but_predictions(rules: Path) -> None:
    def answer(handler: BaseHTTPRequestHandler, before: int) -> None:
        if handler.path.endswith(":predict"):
            send(handler, 200, b'{"predictions": [[0.75, 0.25]]}')
        else:
            send(handler, 404)

    with web(answer) as server:
        where = ("--server", server.address, "--models", "/nowhere")
        assert run(SEVEN, *where, "--contract", rules) == 0
        assert run(SEVEN, *where) == 5
        assert [each.path for each in server.asked] == [
            "/v1/models/cnn/metadata", "/v1/models/cnn:predict", "/v1/models/cnn/metadata",
        ]  # fmt: skip


def test_the_digit_networks_need_no_contract(digits: Client, capsys: pytest.CaptureFixture[str]) -> None:
    for kind in ("rest", "grpc"):
        assert run(FOLDER, *asked(kind, digits), "--models", "/nowhere", "--json") == 0
        found = {
            Path(each["image"]).stem: each["label"]
            for each in map(json.loads, capsys.readouterr().out.splitlines())
        }
        assert found == {"two": "2", "three": "3", "five": "5", "seven": "7"}


def test_both_protocols_describe_the_same_signatures(served: Client) -> None:
    servable = Servable("foreign", 1)
    rest = Rest(Connection(f"localhost:{served.rest_port}"), servable)
    grpc = Grpc(Connection(f"localhost:{served.grpc_port}"), servable)
    found = rest.signatures()
    for name, each in grpc.signatures().items():
        assert found[name].method_name == each.method_name
        if name != "integers":
            assert {key: (spec.dtype, spec.shape) for key, spec in found[name].inputs.items()} == {
                key: (spec.dtype, spec.shape) for key, spec in each.inputs.items()
            }
    rest.close()
    grpc.close()
    with pytest.raises(Refused, match="Servable not found"):
        Rest(Connection(f"localhost:{served.rest_port}"), Servable("nope")).signatures()
    with pytest.raises(Refused, match="Servable not found"):
        Grpc(Connection(f"localhost:{served.grpc_port}"), Servable("nope")).signatures()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of models whose cnn has versions 1 and 2, which differ in their files' contents."""
    for number, name in ((1, "nn"), (2, "cnn")):
        version = tmp_path / "cnn" / str(number)
        (version / "tflite").mkdir(parents=True)
        shutil.copy(RELEASED_MODELS / f"{name}.int8.tflite", version / "tflite" / "float32.tflite")
        shutil.copy(RELEASED_MODELS / f"{name}.int8.tflite", version / "tflite" / "int8.tflite")
        rules = input_contract.digits(name)
        input_contract.Contract(
            **{**vars(rules), "labels": tuple(f"{name}{each}" for each in range(10))}
        ).write(version)
    (tmp_path / "cnn" / "1" / "tflite" / "int8.tflite").unlink()
    return tmp_path


def opened(*arguments: str) -> Any:
    return open_target(choice(predict._parser().parse_args(["x.png", *arguments])))


def test_tflite_files_by_every_name(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = folder / "cnn"
    models = ["--models", str(folder)]
    for arguments, where, network in (
        (["tflite", *models], base / "2/tflite/float32.tflite", "cnn"),
        (["tflite", *models, "--version", "1"], base / "1/tflite/float32.tflite", "nn"),
        (["tflite:int8", *models], base / "2/tflite/int8.tflite", "cnn"),
        ([f"tflite:{base}"], base / "2/tflite/float32.tflite", "cnn"),
        ([f"tflite:{base}", "--version", "1"], base / "1/tflite/float32.tflite", "nn"),
        ([f"tflite:{base / '1'}"], base / "1/tflite/float32.tflite", "nn"),
        ([f"tflite:{base / '2/tflite/int8.tflite'}"], base / "2/tflite/int8.tflite", "cnn"),
    ):
        found = opened("--target", *arguments)
        assert (found.where, found.contract.labels[7]) == (str(where), f"{network}7")
        found.target.close()
    for arguments, message in (
        (["tflite", *models, "--version", "3"], "holds no version 3; there are 1, 2"),
        (["tflite:int8", *models, "--version", "1"], "int8.tflite: no such TFLite file"),
        (["tflite:nowhere"], "nowhere: no such file or folder"),
        ([f"tflite:{folder}"], "holds no version directory"),
        ([f"tflite:{SEVEN}"], "LiteRT can't load it"),
    ):
        assert run(SEVEN, "--target", *arguments) == 4
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line
    assert run(SEVEN, "--target", f"tflite:{INT8}", "--signature", "serving_bytes") == 2
    assert "has no signature serving_bytes; there are serving_default" in capsys.readouterr().err


def test_the_released_file_where_nothing_was_exported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(RELEASED_MODELS, tmp_path / "released")
    assert run(SEVEN, "--target", "tflite", "--models", tmp_path) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith(f"{SEVEN}: 7 (")
    assert "holds no version; using the released model" in captured.err
    assert run(SEVEN, "--target", "tflite", "--models", tmp_path, "--version", "1") == 4


def test_saved_models_by_every_name(foreign: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = foreign / "foreign"
    for path in (base, base / "1", base / "1" / "saved_model.pb"):
        found = opened("--target", f"savedmodel:{path}", "--model", "foreign")
        assert found.where == str(base / "1")
        assert found.binding == Binding("flat", "probabilities", "float32", (784,))
        np.testing.assert_allclose(found.predict(BRIGHT), [[0.25, 0.75]] * 2, atol=1e-6)
        found.target.close()
    assert run(SEVEN, "--target", f"savedmodel:{SEVEN}") == 4
    assert "holds no saved_model.pb" in capsys.readouterr().err


def test_keras_files_by_every_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import keras

    for path in (RELEASED_MODELS, RELEASED_MODELS / "cnn.keras"):
        assert run(FOLDER / "two.png", "--target", f"keras:{path}") == 0
        assert capsys.readouterr().out.startswith(f"{FOLDER / 'two.png'}: 2 (")
    assert (
        run(SEVEN, "--target", "keras", "--models", RELEASED_MODELS.parent / "released", "--model", "nn") == 0
    )
    assert ": 7 (" in capsys.readouterr().out
    # Logits become probabilities, rows of pixels are laid out as the model takes them.
    model = keras.Sequential([keras.Input((784,)), keras.layers.Dense(3, use_bias=False)])
    model.layers[0].set_weights([np.ones((784, 3), np.float32) * [0.0, 0.01, 0.02]])
    model.save(tmp_path / "logits.keras")
    found = opened("--target", f"keras:{tmp_path / 'logits.keras'}")
    expected = np.exp([0.0, 5.88, 11.76]) / np.exp([0.0, 5.88, 11.76]).sum()
    np.testing.assert_allclose(found.predict(BRIGHT), [expected] * 2, atol=1e-4)
    for arguments, code, message in (
        (["keras", "--models", tmp_path], 4, "cnn.keras: no such file"),
        ([f"keras:{SEVEN}"], 4, "not a Keras file"),
        (["keras", "--version", "1"], 2, "--version with --target keras"),
        (["keras", "--signature", "serving_uint8"], 2, "--signature with --target keras"),
    ):
        assert run(SEVEN, "--target", *arguments) == code
        assert message in capsys.readouterr().err.splitlines()[-1]
