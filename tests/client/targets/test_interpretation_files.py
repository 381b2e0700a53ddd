"""What the answers of model files mean: of Keras's, of TensorFlow's tutorial, and of quantized ones."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client_fixtures import SEVEN, run
from conftest import ROOT
from serving_fixtures import TFLITE, config_of, publish, serving
from tfship.client import Client as Library
from tfship.client import predict
from tfship.client.cli.arguments import choice
from tfship.client.targets.registry import open_target
from tfship.export.conversion.formats import FORMATS
from tfship.export.preprocessing import input_contract as contracts
from tfship.export.preprocessing.input_contract import Contract, Scaling
from tfship.serving.server.model_server import Settings
from tfship.train.common import cli

CASES = ROOT.parent / "shared" / "cases"


def test_a_keras_file_goes_by_the_contract_of_its_name(tmp_path: Path) -> None:
    import keras

    def saved(name: str, units: int, activation: str, outputs: str = "probabilities") -> Any:
        layer = keras.layers.Dense(units, activation, use_bias=False)
        model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), layer])
        layer.set_weights([np.full((64, units), 1 / 64, np.float32)])
        model.save(tmp_path / f"{name}.keras")
        labels = tuple("abc"[: max(units, 2)])
        rules = Contract(name, labels, 8, 8, 1, Scaling.of_range(0, 1, 1), "resize", outputs)
        version = tmp_path / "models" / name / "1"
        version.mkdir(parents=True)
        rules.write(version)
        arguments = ["x.png", "--target", f"keras:{tmp_path / name}.keras", "--model", name]
        return open_target(
            choice(predict._parser().parse_args([*arguments, "--models", str(tmp_path / "models")]))
        )

    half = np.full((1, 8, 8, 1), 0.5, np.float32)
    sigmoid = 1 / (1 + np.exp(-0.5))
    for name, units, activation, outputs, expected in (
        ("sigmoid", 1, "sigmoid", "probabilities", [1 - sigmoid, sigmoid]),
        # Within 0…1, and a logit all the same: the activation tells.
        ("logit", 1, "linear", "probabilities", [1 - sigmoid, sigmoid]),
        ("labels", 3, "sigmoid", "independent", [sigmoid] * 3),
        ("label_logits", 3, "linear", "independent", [sigmoid] * 3),
        ("one_vs_rest", 3, "sigmoid", "probabilities", [sigmoid] * 3),
        ("classes", 3, "linear", "probabilities", [1 / 3] * 3),
    ):
        found = saved(name, units, activation, outputs)
        assert found.contract.model == name
        assert found.predict(half)[0] == pytest.approx(expected, abs=1e-6)
        assert found.interpretation.meaning == (
            "independent" if "label" in name or "rest" in name else "probabilities"
        )


@pytest.mark.skipif(not CASES.is_dir(), reason="the cases aren't here")
def test_logits_of_tensorflows_tutorial() -> None:
    two = SEVEN.with_name("two.png")
    with serving(config_of(logits=CASES / "logits_saved_model")) as client:
        for url in (f"http://localhost:{client.rest_port}", f"localhost:{client.grpc_port}"):
            with Library(url, model="logits") as library:
                found = library.predict(two)
        assert found.label == "2"
        assert found.probability == pytest.approx(0.998, abs=5e-4)
    assert contracts.digits("x").outputs == "probabilities"


@pytest.mark.skipif(not CASES.is_dir(), reason="the cases aren't here")
@pytest.mark.parametrize("kind", ["rest", "grpc"])
def test_a_file_of_integers_answers_behind_a_server_as_in_this_process(
    quantized: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(config_of(small=quantized / "small"), Settings(loader=TFLITE)) as client:
        port = client.grpc_port if kind == "grpc" else client.rest_port
        where = ["--target", kind, "--server", f"localhost:{port}", "--model", "small"]
        assert run(SEVEN, *where, "--models", quantized) == 0
        assert run(SEVEN, "--target", f"tflite:{quantized / 'small/1/model.tflite'}") == 0
        served, local = capsys.readouterr().out.splitlines()
        assert served == local == f"{SEVEN}: 7 (69.9%), then 9 (12.1%)"
        assert run(SEVEN, *where, "--models", "/nowhere") == 5
        (line,) = capsys.readouterr().err.splitlines()
        assert (
            "returns uint8, whose scale no server reports; give the model's contract.json by --contract"
            in line
        )


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models with `digits_small.keras` as int8_uint8, in a version by itself, for servers of TFLite."""
    from tfship.export.command import main as export

    folder, made = tmp_path_factory.mktemp("quantized"), tmp_path_factory.mktemp("exported")
    data = [f"--eval={CASES / 'eval_digits.npz'}", f"--calibration={CASES / 'calibration_digits.npz'}"]
    chosen = ["--name", "small", "--formats", "int8_uint8", "--models", str(made)]
    assert cli.run(export, [str(CASES / "digits_small.keras"), *data, *chosen]) == 0
    publish(folder / "small", 1, (made / "small" / "1" / FORMATS["int8_uint8"].file).read_bytes())
    contracts.digits("small").write(folder / "small" / "1")
    return folder
