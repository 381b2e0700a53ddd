"""Files for browsers: the same model, for one image per call."""

from pathlib import Path

import numpy as np
import pytest

from serving_fixtures import to_tflite
from tfship.export.conversion import web_file
from tfship.export.conversion.formats import FORMATS
from tfship.export.runtimes.litert import LiteRT
from tfship.train.common.errors import ConversionError


@pytest.mark.parametrize("name", ["nn", "cnn"])
def test_each_format_computes_the_same_without_a_free_dimension(models: Path, name: str) -> None:
    for row in FORMATS.values():
        original = LiteRT(models / name / "1" / row.file)
        fixed = LiteRT(models / name / "1" / row.web_file)
        ((image, spec),) = fixed.signatures["serving_default"].inputs.items()
        assert spec.reported_shape == (1, 28, 28, 1)
        pixels = np.random.default_rng(0).integers(0, 256, (3, 28, 28, 1), np.uint8)
        images = pixels if row.edge == "uint8" else pixels / np.float32(255)
        expected, found = (each.run("serving_default", {image: images}) for each in (original, fixed))
        np.testing.assert_array_equal(found["probabilities"], expected["probabilities"])


def test_what_the_file_says_of_its_shapes_is_true(tmp_path: Path) -> None:
    path = tmp_path / "double.tflite"
    path.write_bytes(to_tflite(lambda x: {"y": 2.0 * x}, x=[None, 2]))
    path.write_bytes(web_file.fixed_batch(path))
    signature = LiteRT(path).signatures["serving_default"]
    assert [each.reported_shape for each in (*signature.inputs.values(), *signature.outputs.values())] == [
        (1, 2)
    ] * 2


def test_a_file_without_a_signature_is_refused(tmp_path: Path) -> None:
    from ai_edge_litert.tools import flatbuffer_utils

    model = flatbuffer_utils.read_model_from_bytearray(
        bytearray(to_tflite(lambda x: {"y": 2.0 * x}, x=[None, 2]))
    )
    model.signatureDefs = []
    path = tmp_path / "bare.tflite"
    path.write_bytes(bytes(flatbuffer_utils.convert_object_to_bytearray(model)))
    with pytest.raises(ConversionError, match="has no signature to describe"):
        web_file.fixed_batch(path)
