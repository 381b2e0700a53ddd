"""What the tests of `--compare` share: models to compare, a server for them, and the command as a function."""

import io
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving_fixtures import Client, config_of, serving
from tfship.client import predict
from tfship.client.images.draw_samples import FOLDER
from tfship.export.conversion import signature_metadata
from tfship.export.preprocessing import input_contract as contracts
from tfship.serving.models.manager import LoadPolicy
from tfship.serving.server.model_server import Settings
from tfship.train.common import cli

PICTURES = [FOLDER / "seven.png", FOLDER / "two.png"]
CONTRACT = contracts.digits("cnn")
Values = NDArray[np.float32]


def weights(seed: int, classes: int = 10) -> Values:
    return np.random.default_rng(seed).normal(0, 0.06, (784, classes)).astype(np.float32)


def save(
    folder: Path,
    matrix: Values,
    before: Callable[[Any], Any] = lambda image: image,
    bytes_by: Any = None,
    tflite: Sequence[str] = (),
) -> Path:
    """Save softmax(before(image) @ matrix) as the SavedModel of a version, with contract and `tflite` files.

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
    CONTRACT.write(folder)
    if not tflite:
        return folder
    with tempfile.TemporaryDirectory() as plain:
        tf.saved_model.save(module, plain, signatures={"serving_default": module.f})
        (folder / "tflite").mkdir()
        for name in tflite:
            converter = tf.lite.TFLiteConverter.from_saved_model(plain)
            if name == "dynamic":
                converter.optimizations = [tf.lite.Optimize.DEFAULT]
            (folder / "tflite" / f"{name}.tflite").write_bytes(signature_metadata.add(converter.convert()))
    return folder


def right_models(folder: Path) -> None:
    """Fill `folder` with models: cnn/1, and the retired version 0 of other weights."""
    save(folder / "cnn" / "1", weights(1), bytes_by=CONTRACT, tflite=("float32", "dynamic"))
    save(folder / "cnn" / "retired-0", weights(0), tflite=("float32",))


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
