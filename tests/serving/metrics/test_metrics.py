"""The metrics of a server, told as TensorFlow Serving tells them."""

import json
import re
import sys
import threading
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from conftest import ROOT
from serving_fixtures import COUNT, LATENCY, parsed, value
from tfship.serving.metrics.metrics import DEFAULT_PATH, FAMILIES, Metrics
from tfship.train.common.errors import UsageError

RECORDED = ROOT.parent / "shared" / "tfserving-golden" / "prom.json"


def request(metrics: Metrics, **changes: Any) -> None:
    given = {"model": "nn", "api": "Predict", "entrypoint": "GRPC", "status": "OK", "seconds": 0.001}
    metrics.request(**{**given, **changes})


@pytest.fixture
def metrics() -> Metrics:
    made = Metrics()
    made.versions("nn", {"AVAILABLE": 1})
    return made


@pytest.mark.skipif(not RECORDED.exists(), reason="no recorded answers beside the repository")
def test_the_page_is_tensorflow_servings() -> None:
    recorded = next(case for case in json.loads(RECORDED.read_bytes()) if case["name"] == "metrics")
    theirs = recorded["response_body"].splitlines()
    metrics = Metrics()
    metrics.versions("hp2", {"AVAILABLE": 1})
    # The one request before that page was recorded, with the times that it took.
    metrics.request(
        model="hp2", api="Predict", entrypoint="REST", status="OK", seconds=0.008591, inference=0.008275, runtime="TF1"
    )  # fmt: skip
    ours = metrics.page()[0].decode().splitlines()
    names = [family.name for family in FAMILIES if family.name.startswith(":tensorflow:")]
    assert len(names) == 6
    for name in names:
        about = re.compile(rf"(# TYPE )?{name}(_bucket|_sum|_count)?[ {{]")
        assert [line for line in ours if about.match(line)] == [line for line in theirs if about.match(line)]
    assert recorded["path"] == metrics.path == DEFAULT_PATH


def test_everything_that_is_told_about_a_request_is_on_the_page(metrics: Metrics) -> None:
    for seconds in (0.5, 0.25):
        request(
            metrics, entrypoint="REST", seconds=seconds, queue=2e-3, decode=3e-3, inference=4e-3, encode=5e-3,
            runtime="TFLite", examples=3, received=70, sent=7,
        )  # fmt: skip
    metrics.batch("batches", (1e-3, 3e-3))
    labels = {"model_name": "nn", "API": "predict", "entrypoint": "REST"}
    assert value(metrics, COUNT, model_name="nn", status="OK") == 2
    assert value(metrics, f"{LATENCY}_sum", **labels) == 750_000
    assert value(metrics, f"{LATENCY}_count", **labels) == 2
    assert value(metrics, f"{LATENCY}_bucket", **labels, le="218591") == 0
    assert value(metrics, f"{LATENCY}_bucket", **labels, le="393464") == 1
    assert value(metrics, f"{LATENCY}_bucket", **labels, le="708235") == 2
    assert value(metrics, f"{LATENCY}_bucket", **labels, le="+Inf") == 2
    assert value(metrics, ":tfship:queue_latency_sum", **labels) == 4_000
    assert value(metrics, ":tfship:decode_latency_sum", **labels) == 6_000
    assert value(metrics, ":tfship:encode_latency_sum", **labels) == 10_000
    assert value(metrics, ":tfship:request_bytes", **labels) == 140
    assert value(metrics, ":tfship:response_bytes", **labels) == 14
    runtime = {"model_name": "nn", "API": "Predict", "runtime": "TFLite"}
    assert value(metrics, ":tensorflow:serving:runtime_latency_sum", **runtime) == 8_000
    waited = ":tensorflow:serving:batching_session:queuing_latency"
    assert value(metrics, f"{waited}_sum", thread_pool_name="batches") == 4_000
    assert value(metrics, f"{waited}_count", thread_pool_name="batches") == 2
    assert value(metrics, ":tensorflow:serving:request_example_count_total", model="nn") == 6
    assert value(metrics, ":tensorflow:serving:request_example_counts_bucket", model="nn", le="4") == 2


def test_requests_that_fail_are_counted_but_not_timed(metrics: Metrics) -> None:
    request(metrics, status="INVALID_ARGUMENT", decode=1.0, received=9)
    labels = {"model_name": "nn", "API": "Predict", "entrypoint": "GRPC"}
    assert value(metrics, COUNT, model_name="nn", status="INVALID_ARGUMENT") == 1
    assert value(metrics, ":tfship:request_bytes", **labels) == 9
    assert value(metrics, f"{LATENCY}_count", **labels) is None
    assert value(metrics, ":tfship:decode_latency_count", **labels) is None


def test_steps_that_a_request_did_not_have_are_not_timed(metrics: Metrics) -> None:
    request(metrics)
    page = metrics.page()[0].decode()
    assert not re.search(r"^:tfship:(queue|decode|encode)_latency_", page, re.MULTILINE)
    assert ":runtime_latency_" not in page


def test_names_that_clients_invent_make_no_series(metrics: Metrics) -> None:
    for number in range(1000):
        request(metrics, model=f"invented-{number}", status="NOT_FOUND")
    request(metrics, model="", status="INVALID_ARGUMENT")
    assert value(metrics, COUNT, model_name="", status="NOT_FOUND") == 1000
    assert value(metrics, COUNT, model_name="", status="INVALID_ARGUMENT") == 1
    assert b"invented" not in metrics.page()[0]


def test_versions_by_state(metrics: Metrics) -> None:
    metrics.versions("nn", {"AVAILABLE": 1, "LOADING": 2})
    assert value(metrics, ":tfship:model_versions", model_name="nn", state="LOADING") == 2
    metrics.versions("nn", {"AVAILABLE": 3})
    assert value(metrics, ":tfship:model_versions", model_name="nn", state="LOADING") == 0
    assert value(metrics, ":tfship:model_versions", model_name="nn", state="AVAILABLE") == 3
    request(metrics)
    metrics.versions("nn", {})
    assert value(metrics, ":tfship:model_versions", model_name="nn", state="AVAILABLE") == 0
    assert value(metrics, COUNT, model_name="nn", status="OK") == 1


def test_requests_in_flight(metrics: Metrics) -> None:
    with metrics.in_flight("REST"), metrics.in_flight("REST"), metrics.in_flight("GRPC"):
        assert value(metrics, ":tfship:requests_in_flight", entrypoint="REST") == 2
        assert value(metrics, ":tfship:requests_in_flight", entrypoint="GRPC") == 1
    with pytest.raises(KeyError), metrics.in_flight("REST"):
        raise KeyError
    assert value(metrics, ":tfship:requests_in_flight", entrypoint="REST") == 0


def test_no_count_is_lost_between_threads(metrics: Metrics) -> None:
    # What goes wrong between threads goes wrong where a series is new.
    models = [f"model-{number}" for number in range(60)]
    for model in models:
        metrics.versions(model, {"AVAILABLE": 1})
    together = threading.Barrier(4)

    def work() -> None:
        together.wait()
        for model in models:
            with metrics.in_flight(model):
                request(metrics, model=model, decode=0.002)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            metrics.page()
    finally:
        sys.setswitchinterval(before)
    samples = parsed(metrics.page()[0].decode())
    for model in models:
        labels = {"model_name": model, "API": "Predict", "entrypoint": "GRPC"}
        assert samples[COUNT, frozenset({("model_name", model), ("status", "OK")})] == 4
        assert samples[":tfship:decode_latency_sum", frozenset(labels.items())] == 8_000
        assert samples[":tfship:requests_in_flight", frozenset({("entrypoint", model)})] == 0


def test_the_document_lists_what_is_on_the_page(metrics: Metrics) -> None:
    with metrics.in_flight("GRPC"):
        request(metrics, queue=1, decode=1, inference=1, encode=1, runtime="TF1", examples=1)
        metrics.batch("p", [1])
    page = metrics.page()[0].decode()
    told = []
    for family in text_string_to_metric_families(page):
        labels = ", ".join(f"`{label}`" for label in family.samples[0].labels if label != "le")
        # The parser takes `_total` off a counter's name, and puts it on.
        name = next(
            line.split()[2] for line in page.splitlines() if line.endswith(f" {family.documentation}")
        )
        told.append(f"| `{name}` | {family.type} | {labels + ' ' * bool(labels)}| {family.documentation} |")
    document = (ROOT / "serving" / "METRICS.md").read_text()
    assert [line for line in document.splitlines() if line.startswith("| `")] == told


def test_where_the_page_is() -> None:
    assert Metrics.at(None).path is None
    assert Metrics.at("").path == DEFAULT_PATH
    assert Metrics.at("/metrics").path == "/metrics"
    with pytest.raises(UsageError, match="path is 'metrics'; expected one that begins with /"):
        Metrics.at("metrics")


def test_disabled_metrics_take_every_call_and_tell_nothing() -> None:
    metrics = Metrics.disabled()
    metrics.versions("nn", {"AVAILABLE": 1})
    with metrics.in_flight("REST"):
        request(metrics, queue=1.0, examples=1)
    assert metrics.page()[0] == b""
    metrics.close()
