"""What a server tells about its requests: metrics, a line in the log, where the time went."""

import json
import logging
import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from serving_fixtures import ROW, TFLITE, Client, config_of, publish, serving
from tfship.serving.metrics.metrics import DEFAULT_PATH
from tfship.serving.protos.messages import predict_pb2
from tfship.serving.protos.stubs import PredictionServiceStub
from tfship.serving.protos.tensors import to_proto
from tfship.serving.server.model_server import Settings


def _page(client: Client, method: str = "GET") -> dict[str, dict[frozenset[tuple[str, str]], float]]:
    status, text = client.rest(DEFAULT_PATH, method=method)
    assert status == 200
    found: dict[str, dict[frozenset[tuple[str, str]], float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            # prometheus_client's parser gives every counter a `_total`.
            found.setdefault(sample.name.removesuffix("_total"), {})[frozenset(sample.labels.items())] = (
                sample.value
            )
    return found


@pytest.mark.parametrize("workers", [0, 2])
def test_metrics_count_what_was_asked_over_all_workers(tmp_path: Path, workers: int) -> None:
    publish(tmp_path, 1)
    settings = Settings(loader=TFLITE, workers=workers, metrics_path=DEFAULT_PATH)
    with serving(config_of(m=tmp_path), settings) as client:
        for _ in range(6):
            assert client.rest("/v1/models/m:predict", {"instances": [[1, 2]]})[0] == 200
            client.predict("m", x=ROW)
        assert client.rest("/v1/models/m:predict", {"instances": 1})[0] == 400
        assert client.rest("/v1/models/nobody-knows:predict", {"instances": [1]})[0] == 404
        for method in ("GET", "POST"):
            page = _page(client, method)
            count = page[":tensorflow:serving:request_count"]
            assert count[frozenset({("model_name", "m"), ("status", "OK")})] == 12
            assert count[frozenset({("model_name", "m"), ("status", "INVALID_ARGUMENT")})] == 1
            assert count[frozenset({("model_name", ""), ("status", "NOT_FOUND")})] == 1
            for api, entrypoint in (("predict", "REST"), ("Predict", "GRPC")):
                labels = frozenset({("model_name", "m"), ("API", api), ("entrypoint", entrypoint)})
                assert page[":tensorflow:serving:request_latency_count"][labels] == 6
                assert page[":tfship:request_bytes"][labels] > 0
            assert page[":tfship:workers"][frozenset()] == max(1, workers)
        assert client.rest(f"{DEFAULT_PATH}/")[0] == 404


def test_no_page_without_being_asked_for(tmp_path: Path) -> None:
    publish(tmp_path, 1)
    with serving(config_of(m=tmp_path), Settings(loader=TFLITE)) as client:
        assert client.rest(DEFAULT_PATH)[0] == 404


def test_each_request_is_a_line_of_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    publish(tmp_path, 1)
    caplog.set_level(logging.INFO, "tfship.serving.requests")
    with serving(config_of(m=tmp_path), Settings(loader=TFLITE, logs_requests=True)) as client:
        client.rest("/v1/models/m:predict", {"instances": [[1, 2]]})
        client.predict("m", x=ROW)
        client.rest("/v1/models/m:predict", {"instances": 1})
    lines = [json.loads(each.message) for each in caplog.records if each.name == "tfship.serving.requests"]
    told = [(each["entrypoint"], each["api"], each["model"], each["status"]) for each in lines]
    assert told == [
        ("REST", "Predict", "m", "OK"),
        ("GRPC", "Predict", "m", "OK"),
        ("REST", "Predict", "m", "INVALID_ARGUMENT"),
    ]
    for line in lines[:2]:
        parts = line["milliseconds"]
        assert 0 < parts["inference"] < parts["total"]
        assert line["sent"] > 0


_PARTS = re.compile(
    r"queue;dur=[\d.]+, decode;dur=[\d.]+, inference;dur=[\d.]+, encode;dur=[\d.]+, total;dur=[\d.]+"
)


def test_answers_say_where_the_time_went(tmp_path: Path) -> None:
    publish(tmp_path, 1)
    with serving(config_of(m=tmp_path), Settings(loader=TFLITE, tells_timing=True)) as client:
        headers = client.headers("/v1/models/m:predict", {"instances": [[1, 2]]})
        assert _PARTS.fullmatch(headers["server-timing"])
        request = predict_pb2.PredictRequest()
        request.model_spec.name = "m"
        request.inputs["x"].CopyFrom(to_proto(ROW))
        with client.channel() as channel:
            _, call = PredictionServiceStub(channel).Predict.with_call(request, timeout=100)
        assert _PARTS.fullmatch(dict(call.trailing_metadata())["server-timing"])
