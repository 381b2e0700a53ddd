"""SavedModels whose graph is a text file, `saved_model.pbtxt`, and TFLite files without signatures."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import text_format

from golden_models import tflite_config
from serving_fixtures import TFLITE, config_of, serving, tiny_models
from tfship.serving.inference.batching_config import BatchingParameters
from tfship.serving.models import loader
from tfship.serving.models.loader import Loader
from tfship.serving.models.registry import Servables
from tfship.serving.protos.messages import saved_model_pb2
from tfship.serving.protos.status import Code, StatusError
from tfship.serving.server.settings import Settings


def _as_text(name: str, base_path: Path) -> Path:
    """Return a version of a tiny model with saved_model.pbtxt instead of saved_model.pb."""
    version = base_path / "1"
    shutil.copytree(tiny_models() / name / "1", version)
    binary = version / "saved_model.pb"
    model = saved_model_pb2.SavedModel.FromString(binary.read_bytes())
    binary.with_suffix(".pbtxt").write_text(text_format.MessageToString(model))
    binary.unlink()
    return version


def test_operators_are_the_same(tmp_path: Path) -> None:
    for name in ("double", "conv"):
        text = _as_text(name, tmp_path / name) / "saved_model.pbtxt"
        binary = tiny_models() / name / "1" / "saved_model.pb"
        found, expected = (loader._operators(loader._tagged(path, ("serve",))) for path in (text, binary))
        assert found == expected


@pytest.mark.parametrize("content", [b"nonsense { }", b"\xff", b"meta_graphs {"])
def test_damaged_text(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "saved_model.pbtxt").write_bytes(content)
    with pytest.raises(StatusError) as refused:
        Servables(Loader()).load(1, tmp_path)
    assert (refused.value.code, refused.value.message) == (
        Code.DATA_LOSS,
        "Can't parse saved_model.pbtxt as text proto",
    )


def test_requests(tmp_path: Path) -> None:
    for name in ("double", "conv"):
        _as_text(name, tmp_path / name)
    with serving(config_of(double=tmp_path / "double", conv=tmp_path / "conv")) as client:
        # Shapes are checked as for saved_model.pb: only graphs of known operators get others than the signature's.
        assert client.rest("/v1/models/double:predict", {"instances": [1.0]}) == (200, {"predictions": [2.0]})
        assert client.rest("/v1/models/conv:predict", {"inputs": np.zeros((4, 4, 1)).tolist()})[0] == 400


def test_the_binary_file_comes_first(tmp_path: Path) -> None:
    version = tmp_path / "double" / "1"
    shutil.copytree(tiny_models() / "double" / "1", version)
    (version / "saved_model.pbtxt").write_text("nonsense { }")
    with serving(config_of(double=tmp_path / "double")) as client:
        assert client.rest("/v1/models/double:predict", {"instances": [1.0]}) == (200, {"predictions": [2.0]})


@pytest.mark.parametrize("batching", [None, BatchingParameters()])
def test_tflite_files_without_signatures(batching: BatchingParameters | None) -> None:
    config = tflite_config()
    models = [each for each in config.model_config_list.config if each.name == "nosig"]
    del config.model_config_list.config[:]
    config.model_config_list.config.extend(models)
    source, target = "serving_default_t", "StatefulPartitionedCall"
    rows = np.random.default_rng(0).random((2, 28, 28, 1)).astype(np.float32)
    with serving(config, Settings(loader=replace(TFLITE, batching=batching))) as client:
        expected = client.predict("nosig", **{source: rows})[target]
        assert expected.shape == (2, 10)
        for body in (
            {"instances": rows.tolist()},
            {"instances": [{source: each.tolist()} for each in rows]},
            {"signature_name": "serving_default", "instances": rows.tolist()},
        ):
            status, found = client.rest("/v1/models/nosig:predict", body)
            assert status == 200
            np.testing.assert_allclose(found["predictions"], expected, rtol=1e-6)
        for inputs in (rows.tolist(), {source: rows.tolist()}):
            status, found = client.rest("/v1/models/nosig/versions/1:predict", {"inputs": inputs})
            assert status == 200
            np.testing.assert_allclose(found["outputs"], expected, rtol=1e-6)
        data = {"name": source, "datatype": "FP32", "shape": [2, 28, 28, 1], "data": rows.ravel().tolist()}
        status, found = client.rest("/v2/models/nosig/infer", {"inputs": [data]})
        assert status == 200
        (output,) = found["outputs"]
        assert (output["name"], output["shape"]) == (target, [2, 10])
        np.testing.assert_allclose(output["data"], expected.ravel(), rtol=1e-6)
        described = client.rest("/v2/models/nosig")[1]
        assert [each["name"] for each in described["inputs"] + described["outputs"]] == [source, target]
        signatures = client.rest("/v1/models/nosig/metadata")[1]["metadata"]["signature_def"]["signature_def"]
        assert list(signatures) == ["serving_default"]
        assert list(signatures["serving_default"]["inputs"]) == [source]
        assert client.rest("/v1/models/nosig:predict", {"instances": [{"t": rows[0].tolist()}]})[0] == 400
        assert client.rest("/v1/models/nosig:classify", {"examples": [{}]})[0] == 400
