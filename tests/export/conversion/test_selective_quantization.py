"""The format selective: all layers in int8, but for those that lose by it, found within a number of seconds."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert.schema_py_generated import TensorType
from ai_edge_litert.tools import flatbuffer_utils

from tflite_models import Model, small
from tfship.export.conversion import selective_quantization
from tfship.export.preprocessing.input_contract import Scaling
from tfship.export.runtimes.litert import LiteRT
from tfship.export.runtimes.protocol import Classifier
from tfship.train.common.errors import ConversionError


@pytest.fixture(scope="module")
def ruined(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A model whose layer "wide" has one unit 10,000 times as large as the others, which the next one ignores."""
    import keras

    keras.utils.set_random_seed(1)
    layers = small(
        keras.layers.Conv2D(4, 3, activation="relu", name="first"),
        keras.layers.Flatten(),
        keras.layers.Dense(16, name="wide"),
        keras.layers.Dense(8, activation="relu", name="next"),
        keras.layers.Dense(8, activation="relu", name="last"),
    )
    model = Model(tmp_path_factory.mktemp("ruined"), layers, Scaling.of_range(0, 1, 3))
    wide, after = (model.keras.get_layer(name) for name in ("wide", "next"))
    kernel, rows = np.array(wide.kernel), np.array(after.kernel)
    kernel[:, 0] *= 10_000
    rows[0] = 0
    wide.kernel.assign(kernel)
    after.kernel.assign(rows)
    model.write("float32")
    return model


def quantize(model: Model, seconds: float = 60.0, known: Any = ()) -> tuple[Path, list[str], int]:
    path, reference = model.folder / "selective.tflite", model.folder / "float32.tflite"
    kept, calibrated = selective_quantization.write(
        model.tflite._isolation,
        reference,
        model.folder / "calibration.npy",
        model.contract,
        path,
        known,
        seconds,
    )
    return path, kept, calibrated


def moved(model: Model, path: Path) -> float:
    """Return the share of the probability that moves to other classes, over the calibration images."""
    images = model.contract.scale(model.pixels)
    found, expected = (
        Classifier(LiteRT(each), str(each)).predict(images)
        for each in (path, model.folder / "float32.tflite")
    )
    return float(np.abs(found - expected).sum(1).mean() / 2)


def test_only_the_layers_that_lose_stay_in_float32(ruined: Model, capfd: pytest.CaptureFixture[str]) -> None:
    path, kept, calibrated = quantize(ruined, known=[layer.name for layer in ruined.keras.layers])
    assert calibrated == len(ruined.pixels)
    assert {"wide", "next"} & set(kept)
    assert not {"first", "last"} & set(kept)
    assert moved(ruined, path) <= selective_quantization.MOVED
    types = [tensor.type for tensor in flatbuffer_utils.read_model(str(path)).subgraphs[0].tensors]
    assert TensorType.INT8 in types
    assert LiteRT(path).signatures["serving_default"].outputs["probabilities"].shape == (-1, 4)
    assert capfd.readouterr().out == ""


def test_what_was_not_searched_in_time_stays_in_float32(ruined: Model) -> None:
    with pytest.raises(ConversionError, match="raise --selective-seconds"):
        quantize(ruined, seconds=0.0)


class Impatient(selective_quantization._Work):
    """Work whose time is up after a number of measurements."""

    measurements = 3

    @property
    def left(self) -> float:
        return float(self.measurements)

    def damage(self, data: bytes, what: str) -> float:
        self.measurements -= 1
        return super().damage(data, what)


def test_groups_that_were_not_searched_stay_in_float32_as_a_whole(ruined: Model) -> None:
    reference = (ruined.folder / "float32.tflite").read_bytes()
    work = Impatient(reference, ruined.pixels, ruined.contract, 60)
    # Measured: all layers and both halves. One of them has the bad layers.
    data, kept = selective_quantization._search(work)
    count = len(work.scopes)
    assert sorted(kept) in (list(range(count // 2)), list(range(count // 2, count)))
    assert work.damage(data, "result") <= 1
