"""TFLite files of models of many kinds: converted, checked and run once, or refused with one line."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert.schema_py_generated import TensorType
from ai_edge_litert.tools import flatbuffer_utils

from conftest import ROOT
from tflite_models import Model, small
from tfship.export.conversion import converter, layer_divergence, selective_quantization
from tfship.export.conversion.formats import FORMATS
from tfship.export.preprocessing.input_contract import Contract, Scaling
from tfship.export.runtimes.isolation import Isolation
from tfship.export.runtimes.litert import LiteRT
from tfship.export.runtimes.protocol import Classifier
from tfship.export.sources.model_loading import load
from tfship.train.common.errors import ConversionError

CASES = ROOT.parent / "shared" / "cases"


@pytest.fixture(autouse=True)
def _seeded() -> None:
    import keras

    keras.utils.set_random_seed(1)


@pytest.mark.parametrize(
    ("scaling", "folded"),
    [
        (Scaling.of_range(0, 1, 3), False),
        # Pixel 127.5 would be 0: an integer zero point can't say so.
        (Scaling.of_range(-1, 1, 3), True),
        (Scaling((1 / 58.4, 1 / 57.1, 1 / 57.4), (-2.1, -2.0, -1.8)), True),
        (Scaling((1.0, 1.0, 1.0), (-103.9, -116.8, -123.7), bgr=True), True),
    ],
    ids=["0 to 1", "-1 to 1", "torch", "caffe"],
)
def test_a_uint8_input_takes_pixels_as_they_are(tmp_path: Path, scaling: Scaling, folded: bool) -> None:
    import keras

    model = Model(tmp_path, small(keras.layers.Conv2D(4, 3, activation="relu")), scaling)
    # Logits of usual sizes, whatever the values' range.
    model.keras.layers[0].kernel.assign(model.keras.layers[0].kernel / scaling.ends[1])
    path = model.write("int8_uint8")
    target = Classifier(LiteRT(path), str(path))
    assert target.takes_pixels
    np.testing.assert_array_equal(target.prepare(model.pixels), model.pixels)
    if folded:
        with pytest.raises(ValueError, match="takes pixels"):
            target.prepare(model.contract.scale(model.pixels) + np.float32(0.3))
    else:
        np.testing.assert_array_equal(target.prepare(model.contract.scale(model.pixels)), model.pixels)
    assert model.largest_difference(path) < 0.05
    if scaling.bgr:
        compared = layer_divergence.compare(model.write("float32"), path, model.pixels, model.contract)
        assert compared
        assert not any(each.diverges for each in compared)


def test_a_slow_model_is_calibrated_with_fewer_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Model(tmp_path, small(), Scaling.of_range(0, 1, 3))
    model.write("int8")
    assert model.calibrated == len(model.pixels)
    # In this process, where the limit can be changed.
    monkeypatch.setattr(converter, "CALIBRATION_SECONDS", 0.0)
    row = FORMATS["int8"]
    source = model.tflite._source(None, pixels=False)
    what = converter._Conversion(
        source, row, model.contract, tmp_path / "calibration.npy", None, pixels=False, wide=False
    )
    assert converter._write(what, tmp_path / "hasty.tflite") == ("", converter._FIRST)


def test_a_uint8_input_of_another_scale_is_refused(tmp_path: Path) -> None:
    model = Model(tmp_path, small(), Scaling.of_range(0, 1, 3))
    # No black and no white pixel: the calibrated range is shorter than the contract's.
    np.save(tmp_path / "calibration.npy", model.pixels.clip(50, 200))
    with pytest.raises(ConversionError, match=r"^int8_uint8: its uint8 input maps pixels to wrong values"):
        model.write("int8_uint8")
    assert not (tmp_path / "int8_uint8.tflite").exists()


@pytest.mark.parametrize("name", ["LSTM", "GRU"])
def test_a_recurrent_model_gets_a_batch_of_one(tmp_path: Path, name: str) -> None:
    import keras

    rows = [
        keras.Input((8, 8, 1)),
        keras.layers.Reshape((8, 8)),
        getattr(keras.layers, name)(8),
        keras.layers.Dense(4, "softmax"),
    ]
    model = Model(tmp_path, rows, Scaling.of_range(0, 1, 1))
    before, path = model.tflite.batch, model.write("float32")
    assert (before, model.tflite.batch) == (None, 1)
    assert LiteRT(path).signatures["serving_default"].inputs["image"].reported_shape == (1, 8, 8, 1)
    assert model.largest_difference(path) < 1e-6
    assert model.largest_difference(model.write("dynamic")) < 0.05
    with pytest.raises(ConversionError, match="has loops or branches"):
        selective_quantization.write(
            model.tflite._isolation,
            path,
            tmp_path / "calibration.npy",
            model.contract,
            tmp_path / "selective",
        )


def test_int16_activations_get_biases_of_64_bits_where_kernels_want_them(tmp_path: Path) -> None:
    import keras

    model = Model(tmp_path, small(keras.layers.DepthwiseConv2D(3)), Scaling.of_range(0, 1, 3))
    path = model.write("int16x8")
    types = {tensor.type for tensor in flatbuffer_utils.read_model(str(path)).subgraphs[0].tensors}
    assert TensorType.INT64 in types
    assert model.largest_difference(path) < 0.01


def test_a_model_that_takes_whole_numbers_is_integer_throughout(tmp_path: Path) -> None:
    import keras

    class Whole(keras.layers.Layer):  # type: ignore[misc]
        def call(self, images: Any) -> Any:
            return keras.ops.cast(keras.ops.cast(images, "uint8"), "float32")

    whole = small(Whole(), keras.layers.Rescaling(1 / 255), keras.layers.Conv2D(4, 3, activation="relu"))
    model = Model(tmp_path, whole, Scaling.of_range(0, 255, 3))
    for name in ("int8", "int8_uint8"):
        path = model.write(name)
        assert model.largest_difference(path) < 0.05
    target = Classifier(LiteRT(path), str(path))
    np.testing.assert_array_equal(target.prepare(model.contract.scale(model.pixels)), model.pixels)


def test_reasons_are_one_line_and_the_compiler_writes_to_the_log(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    import keras

    class Bessel(keras.layers.Layer):  # type: ignore[misc]
        def call(self, images: Any) -> Any:
            import tensorflow as tf

            return tf.math.bessel_i0(images)

    model = Model(tmp_path, small(Bessel()), Scaling.of_range(0, 1, 3))
    with pytest.raises(ConversionError) as caught:
        model.write("float32")
    assert str(caught.value) == (
        "float32: needs TensorFlow operators that TFLite lacks: BesselI0; replace the layers that use them, or serve "
        "the SavedModel"
    )
    assert "BesselI0" in model.log.read_text()
    assert capfd.readouterr() == ("", "")


def test_a_conversion_that_takes_too_long_is_a_reason(tmp_path: Path) -> None:
    model = Model(tmp_path, small(), Scaling.of_range(0, 1, 3))
    model.tflite._isolation = replace(model.tflite._isolation, seconds=0.05)
    with pytest.raises(ConversionError, match=r"^float32: the converter took more than 0.0\d* s$"):
        model.write("float32")


@pytest.mark.skipif(not CASES.exists(), reason="needs ../shared/cases")
def test_rows_of_other_people_s_lstm(tmp_path: Path) -> None:
    from tfship.export.conversion.converter import TFLite

    loaded = load(CASES / "lstm_rows.keras")
    contract = Contract("lstm", tuple("0123456789"), *loaded.shape, Scaling.of_range(0, 1, 1), "resize")
    path = tmp_path / "float32.tflite"
    made = TFLite(loaded.exported, loaded.tracked, contract, None, tmp_path, Isolation(tmp_path / "log"))
    made.write(FORMATS["float32"], path)
    assert made.batch == 1
    target = Classifier(LiteRT(path), str(path))
    pixels = np.load(CASES / "eval_grey.npz")["x"]
    found = np.concatenate([target.predict(contract.scale(each[np.newaxis])) for each in pixels])
    np.testing.assert_allclose(found, np.load(CASES / "truth_lstm_rows.npz")["p"], atol=1e-6)
