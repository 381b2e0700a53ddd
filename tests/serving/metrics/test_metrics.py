"""What is counted, told as TensorFlow Serving tells it, and added up over processes that come and go."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from conftest import ROOT
from serving_fixtures import eventually
from tfship.serving.metrics.exposition import Family, lines
from tfship.serving.metrics.metrics import DEFAULT_PATH, FAMILIES, FOLDER, Metrics
from tfship.serving.metrics.shared_counters import Tally
from tfship.train.common.errors import UsageError

RECORDED = ROOT.parent / "shared" / "tfserving-golden" / "prom.json"
COUNT = ":tensorflow:serving:request_count"
LATENCY = ":tensorflow:serving:request_latency"

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def parsed(page: str) -> Samples:
    """Read a page as Prometheus does: values by name and labels."""
    return {
        (as_told(sample.name, page), frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


def as_told(name: str, page: str) -> str:
    """Take the `_total` off a counter that prometheus_client's parser gives it."""
    return name if f"{name}{{" in page else name.removesuffix("_total")


def value(metrics: Metrics | str, name: str, **labels: str) -> float | None:
    page = metrics if isinstance(metrics, str) else metrics.page()[0].decode()
    return parsed(page).get((name, frozenset(labels.items())))


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
    models = [f"model-{number}" for number in range(150)]
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


@given(st.text(), st.floats(-1e300, 1e300))
def test_any_label_and_value_can_be_read_back(label: str, number: float) -> None:
    family = Family("a", "gauge", ("b",), "c")
    page = "\n".join([*lines(family, {(label,): [number]}), ""])
    assert parsed(page) == {("a", frozenset({("b", label)})): pytest.approx(number, rel=1e-14)}


@given(st.lists(st.floats(0, 100)))
def test_buckets_are_what_is_at_most_their_bound(values: list[float]) -> None:
    family = Family("a", "histogram", (), "c", bounds=(1.0, 10.0, 50.0))
    row = Tally(None).row(("a",), family.width)
    for each in values:
        family.observe(row, each)
    samples = parsed("\n".join([*lines(family, {(): row}), ""]))
    for bound in ("1", "10", "50", "+Inf"):
        key = ("a_bucket", frozenset({("le", bound)}))
        assert samples[key] == sum(each <= float(bound) for each in values)
    assert samples["a_sum", frozenset()] == pytest.approx(sum(values))
    assert samples["a_count", frozenset()] == len(values)


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


def test_a_directory_that_is_not_there_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER, str(tmp_path / "none"))
    with pytest.raises(
        UsageError, match=r"none: can't hold the workers' metrics \(No such file or directory\)"
    ):
        Metrics()


# Counts as many requests as it is told to on its standard input, -1 for ever, and answers with its page.
WORKER = """
import json, sys
from tfship.serving.metrics.metrics import Metrics

metrics = Metrics()
metrics.versions("nn", {"AVAILABLE": 1})
in_flight = metrics.in_flight("GRPC")
in_flight.__enter__()
for line in sys.stdin:
    left = int(line)
    while left:
        metrics.request(model="nn", api="Predict", entrypoint="GRPC", status="OK", seconds=0.001)
        left -= 1
    print(json.dumps(metrics.page()[0].decode()), flush=True)
"""


class Worker:
    """A process that counts."""

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER], cwd=ROOT, env={**os.environ, FOLDER: str(folder)}, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def tell(self, number: int) -> None:
        assert self.process.stdin
        print(number, file=self.process.stdin, flush=True)

    def count(self, number: int) -> str:
        """Count requests and return the page."""
        assert self.process.stdout
        self.tell(number)
        page: str = json.loads(self.process.stdout.readline())
        return page

    def kill(self) -> None:
        self.process.kill()
        assert self.process.wait() == -signal.SIGKILL


@contextmanager
def workers(folder: Path, number: int) -> Iterator[list[Worker]]:
    started = [Worker(folder) for _ in range(number)]
    try:
        yield started
    finally:
        for worker in started:
            with worker.process:
                worker.process.kill()


def test_any_worker_tells_the_sum_and_the_dead_stay_counted(tmp_path: Path) -> None:
    labels = {"model_name": "nn", "API": "Predict", "entrypoint": "GRPC"}

    def counts(page: str) -> dict[str, float | None]:
        return {
            "requests": value(page, COUNT, model_name="nn", status="OK"),
            "timed": value(page, f"{LATENCY}_bucket", **labels, le="1102"),
            "seconds": (value(page, f"{LATENCY}_sum", **labels) or 0) / 1e6,
            "in flight": value(page, ":tfship:requests_in_flight", entrypoint="GRPC"),
            "versions": value(page, ":tfship:model_versions", model_name="nn", state="AVAILABLE"),
            "workers": value(page, ":tfship:workers"),
        }

    def pids(page: str) -> set[str]:
        return set(re.findall(r'^process_resident_memory_bytes{pid="(\d+)"}', page, re.MULTILINE))

    with workers(tmp_path, 2) as (first, second):
        first.count(3)
        second.count(4)
        page = first.count(0)
        assert page.split("process_")[0] == second.count(0).split("process_")[0]
        both = {
            "requests": 7,
            "timed": 7,
            "seconds": pytest.approx(0.007),
            "in flight": 2,
            "versions": 2,
            "workers": 2,
        }
        assert counts(page) == both
        assert pids(page) == {str(first.process.pid), str(second.process.pid)}
        first.kill()
        page = second.count(1)
        assert counts(page) == {**both, "requests": 8, "timed": 8, "seconds": pytest.approx(0.008)} | {
            "in flight": 1, "versions": 1, "workers": 1,
        }  # fmt: skip
        assert pids(page) == {str(second.process.pid)}
        with workers(tmp_path, 1) as (third,):
            assert counts(third.count(2)) | {"seconds": None} == both | {
                "requests": 10,
                "timed": 10,
                "seconds": None,
            }


def test_a_worker_killed_while_it_counts_leaves_what_it_counted(tmp_path: Path) -> None:
    labels = {"model_name": "nn", "API": "Predict", "entrypoint": "GRPC"}
    with workers(tmp_path, 2) as (busy, other):
        busy.tell(-1)
        eventually(lambda: (value(other.count(0), COUNT, model_name="nn", status="OK") or 0) > 1000)
        busy.kill()
        page = other.count(0)
        requests = value(page, COUNT, model_name="nn", status="OK")
        timed = value(page, f"{LATENCY}_count", **labels)
        assert requests
        assert timed
        assert requests > 1000
        # It may have been in the middle of one.
        assert requests - timed in (0, 1)
        again = other.count(1)
        assert value(again, COUNT, model_name="nn", status="OK") == requests + 1


def test_rows_of_any_size_are_read_by_siblings(tmp_path: Path) -> None:
    ours, theirs = Tally(tmp_path), Tally(tmp_path)
    widths = {("small", "ß"): 1, ("", "name" * 20_000): 3, ("wide",): 9000, ("last", '"\n'): 2}
    # More than a block of them, so that the file grows on the way.
    widths |= {("many", str(number)): 35 for number in range(400)}
    for number, (key, width) in enumerate(widths.items()):
        row = ours.row(key, width)
        assert row.tolist() == [0.0] * width
        row[width - 1] = number + 0.5
    (sibling,) = [worker for worker in theirs.workers() if worker.rows]
    assert sibling.pid == os.getpid()
    assert sibling.lives
    assert {key: len(row) for key, row in sibling.rows.items()} == widths
    assert [row[-1] for row in sibling.rows.values()] == [number + 0.5 for number in range(len(widths))]
    ours.close()
    assert [worker.lives for worker in theirs.workers()] == [False, True]
    theirs.close()


def test_a_full_disk_fails_no_request(tmp_path: Path) -> None:
    # A limit on the size of files stands for the disk: one block fits, the second doesn't.
    script = (
        "import resource\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "from tfship.serving.metrics.metrics import Metrics\n"
        "metrics = Metrics()\n"
        "for number in range(100):\n"
        "    metrics.versions(name := f'model-{number}', {'AVAILABLE': 1})\n"
        "    metrics.request(model=name, api='Predict', entrypoint='GRPC', status='OK', seconds=1)\n"
        "print(metrics.page()[0].decode())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env={**os.environ, FOLDER: str(tmp_path)}, text=True,
        capture_output=True, check=True,
    )  # fmt: skip
    assert value(done.stdout, COUNT, model_name="model-0", status="OK") == 1
    assert value(done.stdout, COUNT, model_name="model-99", status="OK") is None
    assert f"{tmp_path}: No space left on device; the metrics page lacks " in done.stderr
