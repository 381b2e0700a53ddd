"""The server against some of the answers recorded from a real TensorFlow Serving, with models made here."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

import recorded
from golden_models import golden_config, tflite_config
from recorded import SUBSET, Case, check_cors, check_grpc, check_metrics, check_rest
from serving.batching_config import BatchingParameters
from serving.loading import Loader
from serving.metrics import DEFAULT_PATH
from serving.server import Settings
from serving_fixtures import TFLITE, Client, serving


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
