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
            by_version = {
                tuple(
                    dict(labels)[name] for name in ("model_name", "version", "API", "entrypoint", "status")
                ): value
                for labels, value in page[":tfship:request_count"].items()
            }
            assert by_version == {
                ("m", "1", "predict", "REST", "OK"): 6,
                ("m", "1", "Predict", "GRPC", "OK"): 6,
                ("m", "", "predict", "REST", "INVALID_ARGUMENT"): 1,
                ("", "", "predict", "REST", "NOT_FOUND"): 1,
            }
            for api, entrypoint in (("predict", "REST"), ("Predict", "GRPC")):
                labels = frozenset({("model_name", "m"), ("API", api), ("entrypoint", entrypoint)})
                assert page[":tensorflow:serving:request_latency_count"][labels] == 6
                assert page[":tfship:request_bytes"][labels] > 0
            assert page[":tfship:workers"][frozenset()] == max(1, workers)
        assert client.rest(f"{DEFAULT_PATH}/")[0] == 404


def test_requests_are_counted_by_the_version_that_answers(tmp_path: Path) -> None:
    config = config_of(m=tmp_path)
    (model,) = config.model_config_list.config
    model.model_version_policy.all.SetInParent()
    model.version_labels["old"] = 1
    for version in (1, 2):
        publish(tmp_path, version)
    with serving(config, Settings(loader=TFLITE, metrics_path=DEFAULT_PATH)) as client:
        for target in ("m", "m", "m/versions/1", "m/labels/old", "m/versions/9"):
            client.rest(f"/v1/models/{target}:predict", {"instances": [[1, 2]]})
        client.rest("/v1/models/m/versions/1:predict", {"instances": ["a"]})
        client.rest("/v1/models/m:regress", {"examples": [{"x": 1.0}]})
        client.rest("/v2/models/m/versions/1/infer", {"inputs": []})
        found = {
            (dict(labels)["version"], dict(labels)["API"], dict(labels)["status"]): value
            for labels, value in _page(client)[":tfship:request_count"].items()
        }
    assert found == {
        ("2", "predict", "OK"): 2,
        ("1", "predict", "OK"): 2,
        ("", "predict", "NOT_FOUND"): 1,
        ("1", "predict", "INVALID_ARGUMENT"): 1,
        ("2", "regress", "INVALID_ARGUMENT"): 1,
        ("1", "modelinfer", "INVALID_ARGUMENT"): 1,
    }


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
    told = [
        (each["entrypoint"], each["api"], each["model"], each["version"], each["status"]) for each in lines
    ]
    assert told == [
        ("REST", "Predict", "m", 1, "OK"),
        ("GRPC", "Predict", "m", 1, "OK"),
        ("REST", "Predict", "m", None, "INVALID_ARGUMENT"),
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
