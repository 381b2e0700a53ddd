"""The server against some of the answers recorded from a real TensorFlow Serving, with models made here."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import recorded
from golden_models import golden_config, tflite_config
from recorded import SUBSET, Case, check_cors, check_grpc, check_metrics, check_rest
from serving_fixtures import TFLITE, Client, serving
from tfship.export.runtimes.litert import LiteRT
from tfship.serving.inference.batching_config import BatchingParameters
from tfship.serving.metrics.metrics import DEFAULT_PATH
from tfship.serving.models.loader import Loader
from tfship.serving.server.model_server import Settings


def _cases(group: str) -> list[Any]:
    return [pytest.param(each, id=each["name"]) for each in recorded.read(SUBSET, group)]


def _case(group: str, name: str) -> Case:
    (case,) = (each for each in recorded.read(SUBSET, group) if each["name"] == name)
    return case


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """Of a server with the flag of the group `cors`, which changes no other group's answers."""
    with serving(golden_config(), Settings(cors=True)) as started:
        yield started


@pytest.fixture(scope="module")
def with_batching() -> Iterator[Client]:
    settings = Settings(loader=Loader(batching=BatchingParameters()))
    with serving(golden_config("hp2", "multi", "shapes"), settings) as started:
        yield started


@pytest.fixture(scope="module")
def with_tflite() -> Iterator[Client]:
    with serving(tflite_config(), Settings(loader=TFLITE)) as started:
        yield started


@pytest.mark.parametrize("case", _cases("rest"))
def test_rest(case: Case, client: Client) -> None:
    check_rest(case, client.rest_port)


@pytest.mark.parametrize("case", _cases("grpc"))
def test_grpc(case: Case, client: Client) -> None:
    check_grpc(case, client.grpc_port)


@pytest.mark.parametrize("case", _cases("cors"))
def test_cors(case: Case, client: Client) -> None:
    check_cors(case, client.rest_port)


@pytest.mark.parametrize("case", _cases("batching"))
def test_rest_with_batching(case: Case, with_batching: Client) -> None:
    check_rest(case, with_batching.rest_port)


@pytest.mark.parametrize("case", _cases("grpcbatching"))
def test_grpc_with_batching(case: Case, with_batching: Client) -> None:
    check_grpc(case, with_batching.grpc_port)


@pytest.mark.parametrize("case", _cases("tflite"))
def test_rest_with_tflite(case: Case, with_tflite: Client) -> None:
    check_rest(case, with_tflite.rest_port)


@pytest.mark.parametrize("case", _cases("tflitegrpc"))
def test_grpc_with_tflite(case: Case, with_tflite: Client) -> None:
    check_grpc(case, with_tflite.grpc_port)


@pytest.mark.parametrize(
    ("name", "source", "target"),
    [
        ("batch1", "serving_default_t", "StatefulPartitionedCall"),
        ("nosig", "serving_default_t", "StatefulPartitionedCall"),
        ("u8", "serving_default_pic", "StatefulPartitionedCall_1"),
        ("sigdef", "image", "probabilities"),
    ],
)
def test_tflite_files_answer_any_number_of_rows_as_in_process(
    name: str, source: str, target: str, with_tflite: Client
) -> None:
    (file,) = (Path(each.base_path, "1", "model.tflite") for each in _files() if each.name == name)
    runtime = LiteRT(file)
    random, dtype = np.random.default_rng(0), np.uint8 if name == "u8" else np.float32
    rows = ((255 if name == "u8" else 1) * random.random((3, 28, 28, 1))).astype(dtype)
    apart = [runtime.run("serving_default", {source: rows[index : index + 1]})[target] for index in range(3)]
    expected = np.concatenate(apart)
    assert len(np.unique(expected, axis=0)) == 3
    np.testing.assert_array_equal(runtime.run("serving_default", {source: rows})[target], expected)
    found = with_tflite.predict(name, **{source: rows})[target]
    assert found.dtype == dtype
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    path = f"/v1/models/{name}:predict"
    for body in ({"instances": rows.tolist()}, {"instances": [{source: each.tolist()} for each in rows]}):
        status, answer = with_tflite.rest(path, body)
        assert status == 200
        np.testing.assert_allclose(answer["predictions"], expected, rtol=1e-6)


def _files() -> Any:
    return tflite_config().model_config_list.config


def test_metrics_after_one_request() -> None:
    with serving(golden_config("hp2"), Settings(metrics_path=DEFAULT_PATH)) as client:
        for case in recorded.read(SUBSET, "prom"):
            check = check_metrics if "metrics" in case["name"] else check_rest
            check(case, client.rest_port)


def test_two_workers_answer_as_one_server() -> None:
    """By half_plus_two as a TFLite file, which has one signature, and takes [N, 1] only."""
    with serving(golden_config("hp2"), Settings(workers=2, loader=TFLITE)) as client:
        for name in ("row_unnamed_vectors", "row_named_vec", "json_bad", "label_on_unlabelled_model"):
            check_rest(_case("rest", name), client.rest_port)
        for name in ("predict_tensor_content", "predict_unknown_signature", "metadata_no_field"):
            check_grpc(_case("grpc", name), client.grpc_port)


@pytest.mark.parametrize(
    ("group", "name", "check", "field", "other"),
    [
        ("rest", "row_unnamed_scalars", check_rest, "status", 400),
        ("rest", "row_unnamed_scalars", check_rest, "response_body", '{"predictions":[2.5,3.0,4.6]}'),
        ("rest", "json_bad", check_rest, "response_body", '{"error": "JSON Parse error"}'),
        ("cors", "predict", check_cors, "response_headers", []),
    ],
)
def test_other_answers_than_recorded_are_noticed(
    group: str, name: str, check: Callable[[Case, int], None], field: str, other: Any, client: Client
) -> None:
    with pytest.raises(AssertionError):
        check({**_case(group, name), field: other}, client.rest_port)
