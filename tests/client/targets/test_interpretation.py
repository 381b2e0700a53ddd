"""What the answers of any model mean, behind a server and in this process: nothing is called a probability but one."""

import asyncio
import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from client_fixtures import SEVEN, run, send, web
from serving_fixtures import Client, config_of, serving
from tfship.client import AsyncClient, Prediction, Refused
from tfship.client import Client as Library
from tfship.client.targets.binding import Binding
from tfship.client.targets.interpretation import Interpretation
from tfship.export.preprocessing.input_contract import Contract, Scaling

SHADES = (0, 102, 255)  # 0.0, 0.4 and 1.0
THREE = Contract("kinds", ("a", "b", "c"), 28, 28, 1, Scaling.of_range(0, 1, 1), "resize")


def answers(name: str, bright: Any) -> Any:
    """Return what the signature `name` answers for images of brightness 0.0 to 1.0."""
    import tensorflow as tf

    one = tf.ones_like(bright)
    logits = tf.stack([-3 * bright, 4 * bright, one], 1)
    return {
        "logits": logits,
        "small_logits": tf.stack([bright / 10, 0.3 * one, 2 * bright], 1),
        "sigmoid": bright[:, None],
        "logit": 10 * bright[:, None] - 4,
        "independent": tf.stack([bright, 1 - bright / 2, 0.2 * one], 1),
        "pixels": tf.cast(tf.round(tf.nn.softmax(logits) * 256), tf.uint8),
        "labels": tf.cast(tf.stack([bright * 200, 250 * one, one], 1), tf.uint8),
        "one": tf.nn.softmax(logits),
        "two": tf.nn.softmax(logits),
    }[name]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models with a SavedModel `kinds/1`, a signature for each kind of outputs; the default is `one`."""
    import tensorflow as tf

    folder = tmp_path_factory.mktemp("models")
    module = tf.Module()
    signatures = {}
    batches = {"one": 1, "two": 2}

    def signature(name: str) -> Any:
        dtype = tf.uint8 if name == "pixels" else tf.float32
        spec = tf.TensorSpec([batches.get(name), 28, 28, 1], dtype, "image")

        def call(image: Any) -> Any:
            scale = 255.0 if name == "pixels" else 1.0
            return {"scores": answers(name, tf.reduce_mean(tf.cast(image, tf.float32) / scale, [1, 2, 3]))}

        return tf.function(call, input_signature=[spec])

    for name in (
        "logits",
        "small_logits",
        "sigmoid",
        "logit",
        "independent",
        "pixels",
        "labels",
        "one",
        "two",
    ):
        signatures[name] = signature(name)
    signatures["serving_default"] = signatures["one"]
    module.functions = signatures
    tf.saved_model.save(module, str(folder / "kinds" / "1"), signatures=signatures)
    return folder


@pytest.fixture(scope="module")
def served(models: Path) -> Iterator[Client]:
    with serving(config_of(kinds=models / "kinds")) as client:
        yield client


@pytest.fixture(scope="module")
def shades(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("shades")
    paths = [folder / f"{shade}.png" for shade in SHADES]
    for shade, path in zip(SHADES, paths, strict=True):
        Image.fromarray(np.full((28, 28), shade, np.uint8)).save(path)
    return paths


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    """A folder with three contracts of the model: classes, labels and two classes."""
    for name, contract in (
        ("classes", THREE),
        ("labels", Contract(**{**vars(THREE), "outputs": "independent"})),
        ("two", Contract(**{**vars(THREE), "labels": ("dark", "bright")})),
    ):
        (tmp_path / name).mkdir()
        contract.write(tmp_path / name)
    return tmp_path


def softmax(rows: Any) -> NDArray[np.float64]:
    powers = np.exp(np.array(rows, np.float64))
    return np.asarray(powers / powers.sum(1, keepdims=True))


BRIGHT = np.array(SHADES) / 255
LOGITS = softmax([[-3 * each, 4 * each, 1] for each in BRIGHT])


def asked(kind: str, client: Client, signature: str, *more: object) -> list[object]:
    port = client.grpc_port if kind == "grpc" else client.rest_port
    server = ("--target", kind, "--server", f"localhost:{port}", "--models", "/nowhere")
    return [*server, "--model", "kinds", "--signature", signature, *more]


@pytest.mark.parametrize("kind", ["rest", "grpc"])
def test_without_a_contract_the_values_of_all_answers_tell(served: Client, kind: str) -> None:
    expected = {
        "logits": LOGITS,
        # The last image tells that the others' are logits, too.
        "small_logits": softmax([[each / 10, 0.3, 2 * each] for each in BRIGHT]),
        "sigmoid": np.stack([1 - BRIGHT, BRIGHT], 1),
        "logit": softmax([[0 * each, 10 * each - 4] for each in BRIGHT]),
        "one": LOGITS,
        "two": LOGITS,
    }
    url = f"localhost:{served.grpc_port}" if kind == "grpc" else f"http://localhost:{served.rest_port}"
    images = [np.full((28, 28, 1), each, np.float32) for each in BRIGHT]
    for signature, probabilities in expected.items():
        with Library(url, model="kinds", signature=signature) as client:
            found = client.predict_many(images)
            again = client.predict(images[0])
        for each, row in zip([*found, again], [*probabilities, probabilities[0]], strict=True):
            assert list(each.probabilities.values()) == pytest.approx(sorted(row, reverse=True), abs=1e-5)
            assert each.label == str(int(np.argmax(row)))
            assert each.probability == each.score == max(each.scores.values())
            assert (each.meaning, each.labels) == ("probabilities", (each.label,))
    with Library(url, model="kinds", signature="independent") as client:
        found = client.predict_many(images)
    assert [(each.label, each.probability, each.probabilities) for each in found] == [
        ("1", None, {}), ("1", None, {}), ("0", None, {}),
    ]  # fmt: skip
    assert [each.score for each in found] == pytest.approx([1.0, 0.8, 1.0])
    for signature in ("pixels", "labels"):
        with Library(url, model="kinds", signature=signature) as client, pytest.raises(Refused) as refused:
            client.predict(images[0] if signature == "labels" else SEVEN)
        assert "returns uint8, whose scale no server reports; give the model's contract.json" in str(
            refused.value
        )

    async def at_once() -> list[Prediction]:
        async with AsyncClient(url, model="kinds", signature="two") as client:
            return await client.predict_many(images)

    assert [each.probability for each in asyncio.run(at_once())] == pytest.approx(LOGITS.max(1), abs=1e-5)


@pytest.mark.parametrize("kind", ["rest", "grpc"])
def test_with_a_contract_the_signature_is_still_the_servers(
    served: Client, shades: list[Path], rules: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    independent = np.stack([BRIGHT, 1 - BRIGHT / 2, np.full(3, 0.2)], 1)
    for signature, contract, expected, note in (
        ("one", "classes", LOGITS, ""),
        ("pixels", "classes", np.round(LOGITS * 256) / 256, ""),
        ("sigmoid", "two", np.stack([1 - BRIGHT, BRIGHT], 1), ""),
        ("logits", "classes", LOGITS, "returns logits; printing their softmax"),
        ("independent", "labels", independent, ""),
        ("independent", "classes", independent, "that don't sum to 1; printing them as scores"),
    ):
        labels = ("dark", "bright") if contract == "two" else THREE.labels
        where = asked(kind, served, signature, "--contract", rules / contract)
        assert run(*shades, *where, "--json") == 0, signature
        captured = capsys.readouterr()
        for line, row in zip(captured.out.splitlines(), expected, strict=True):
            answer = json.loads(line)
            found = answer["probabilities"] or answer["scores"]
            assert found == pytest.approx(dict(zip(labels, row, strict=True)), abs=1e-5)
            assert answer["label"] == labels[int(np.argmax(row))]
        assert len(captured.err.splitlines()) == bool(note)
        assert note in captured.err
    assert run(*shades, *asked(kind, served, "independent", "--contract", rules / "labels")) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{shades[0]}: b (100.0%)",
        f"{shades[1]}: b (80.0%)",
        f"{shades[2]}: a (100.0%), b (50.0%)",
    ]
    assert run(shades[1], *asked(kind, served, "independent", "--contract", rules / "classes")) == 0
    assert capsys.readouterr().out == f"{shades[1]}: b (score 0.8), then a (score 0.4)\n"
    assert run(*shades, *asked(kind, served, "labels", "--contract", rules / "labels")) == 5
    assert "returns uint8 that aren't a softmax's, so their scale is unknown" in capsys.readouterr().err


def test_labels_and_scores_for_machines(
    served: Client, shades: list[Path], rules: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = asked("rest", served, "independent", "--contract", rules / "labels")
    scores = asked("rest", served, "independent", "--contract", rules / "classes")
    assert run(shades[1], *labels, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["labels"], found["label"]) == (["b"], "b")
    assert found["probability"] == pytest.approx(0.8)
    assert found["probabilities"] == pytest.approx({"a": 0.4, "b": 0.8, "c": 0.2})
    assert run(shades[1], *scores, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["label"], found["probability"], found["probabilities"]) == ("b", None, None)
    assert found["runner_up"] == {"label": "a", "probability": None, "score": pytest.approx(0.4)}
    assert found["scores"] == pytest.approx({"a": 0.4, "b": 0.8, "c": 0.2})
    assert found["score"] == pytest.approx(0.8)
    assert run("missing.png", shades[2], *labels, "--csv") == 3
    missing, bright = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert (bright["label"], bright["labels"], missing["labels"]) == ("a", "a;b", "")
    assert missing["error"] == "missing.png: no such file"
    assert run(shades[1], *scores, "--csv") == 0
    (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert (row["label"], row["probability"], row["label_2"]) == ("b", "", "a")
    assert float(row["score_2"]) == pytest.approx(0.4)


def test_no_label_reaches_the_threshold(capsys: pytest.CaptureFixture[str]) -> None:
    from tfship.client.cli.output import Lines

    Lines(2, "independent", lambda _: None).prediction("photo.jpg", [("beach", 0.31), ("sea", 0.2)])
    Lines(2, "independent", lambda _: None).prediction(
        "photo.jpg", [("beach", 0.971), ("sea", 0.81), ("x", 0.4)]
    )
    assert capsys.readouterr().out.splitlines() == [
        "photo.jpg: no label reaches 50% (best: beach, 31.0%)",
        "photo.jpg: beach (97.1%), sea (81.0%)",
    ]


def test_a_fixed_batch_is_asked_part_by_part(shades: list[Path], rules: Path) -> None:
    """The number of images in each request is the one that the metadata give."""
    metadata = {
        "model_spec": {"version": "1"},
        "metadata": {
            "signature_def": {
                "signature_def": {
                    "serving_default": {
                        "inputs": {"x": {"dtype": "DT_FLOAT", "tensor_shape": _shape(2, 28, 28, 1)}},
                        "outputs": {"y": {"dtype": "DT_FLOAT", "tensor_shape": _shape(2, 3)}},
                        "method_name": "tensorflow/serving/predict",
                    }
                }
            }
        },
    }

    def answer(handler: Any, before: int) -> None:
        body = {"predictions": [[0.5, 0.25, 0.25]] * 2} if handler.path.endswith(":predict") else metadata
        send(handler, 200, json.dumps(body).encode())

    with web(answer) as server:
        assert run(*shades, "--server", server.address, "--contract", rules / "classes") == 0
        with Library(server.url, contract=THREE) as client:
            assert len(client.predict_many(shades)) == 3
            assert client.predict(shades[0]).label == "a"
        sizes = [len(json.loads(each.body)["instances"]) for each in server.asked if each.body]
        assert sizes == [2, 2] * 2 + [2]
        assert sum(each.path.endswith("/metadata") for each in server.asked) == 2


def _shape(*sizes: int) -> dict[str, Any]:
    return {"dim": [{"size": str(size), "name": ""} for size in sizes], "unknown_rank": False}


def test_streamed_answers_of_another_kind_are_an_error(shades: list[Path], rules: Path) -> None:
    first = [[0.5, 0.25, 0.25]] * 64

    def answer(handler: Any, before: int) -> None:
        if not handler.path.endswith(":predict"):
            send(handler, 404)
        else:
            send(handler, 200, json.dumps({"predictions": first if before == 1 else [[-3, 4, 1]]}).encode())

    with web(answer) as server:
        assert run(*[shades[0]] * 65, "--server", server.address, "--contract", rules / "classes") == 5


def test_what_shows_later_counts_for_all() -> None:
    found = Interpretation("here", Binding())
    values = found.read(np.array([[0.2, 0.8]], np.float32))
    assert (found.kind, found.meaning, found.settled) == ("probabilities", "probabilities", False)
    found.read(np.array([[0.2, 0.9]], np.float32))
    assert (found.kind, found.meaning, found.settled) == ("independent", "scores", False)
    found.read(np.array([[0.2, 0.8]], np.float32))
    assert found.kind == "independent"
    found.read(np.array([[-0.2, 0.8]], np.float32))
    assert (found.kind, found.meaning, found.settled) == ("logits", "probabilities", True)
    assert found.note == "here: returns logits; printing their softmax"
    assert found.scores(values)[0] == pytest.approx(softmax([[0.2, 0.8]])[0])
    with pytest.raises(Refused, match="returned 2 numbers per image before, and 3 now"):
        found.read(np.zeros((1, 3), np.float32))
