"""The server against all answers recorded from a real TensorFlow Serving, where they are at hand."""

import base64
import contextlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import choose_golden
import recorded
from conftest import ROOT
from recorded import ALL, OTHER_TEXTS, Case, check_cors, check_grpc, check_metrics, check_rest
from serving_fixtures import TFLITE
from tfship.serving.inference.batching_config import BatchingParameters
from tfship.serving.metrics.metrics import DEFAULT_PATH
from tfship.serving.models.config import one_model, parse_config, read_config
from tfship.serving.models.loader import Loader
from tfship.serving.models.manager import LoadPolicy
from tfship.serving.server.model_server import ANY_PORT, ModelServer, Settings

if not ALL.is_dir():
    pytest.skip("no recorded answers beside the repository", allow_module_level=True)


def _cases(group: str) -> list[Any]:
    return [pytest.param(each, id=each["name"]) for each in recorded.read(ALL, group)]


@contextlib.contextmanager
def _started(settings: Settings, file: str = "golden.config") -> Iterator[ModelServer]:
    with _inside(ALL):  # its base paths are relative
        config = read_config(Path(file))
    loading = LoadPolicy(labels_for_unavailable=True)
    server = ModelServer(config, replace(settings, grpc_port=ANY_PORT, rest_port=ANY_PORT, loading=loading))
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def server() -> Iterator[ModelServer]:
    with _started(Settings()) as started:
        yield started


@pytest.fixture(scope="module")
def with_flags() -> Iterator[ModelServer]:
    """As the groups `cors` and `grpcflags` were recorded."""
    with _started(Settings(cors=True, health=True, packed_answers=True)) as started:
        yield started


@pytest.fixture(scope="module")
def with_batching() -> Iterator[ModelServer]:
    """As the groups `batching` and `grpcbatching` were recorded."""
    with _started(Settings(loader=Loader(batching=BatchingParameters()))) as started:
        yield started


@pytest.fixture(scope="module")
def with_tflite() -> Iterator[ModelServer]:
    """As the groups `tflite` and `tflitegrpc` were recorded."""
    with _started(Settings(loader=TFLITE), "tflite.config") as started:
        yield started


@contextlib.contextmanager
def _inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def test_every_recorded_group_is_run() -> None:
    tests = [file.read_text() for file in (ROOT / "tests").rglob("test_*.py")]
    of_all = "".join(text for text in tests if "\nfrom recorded import ALL" in text)
    assert recorded.groups(ALL) == set(re.findall(r'(?:_cases|read)\((?:ALL, )?"(\w+)"\)', of_all))


def test_subset_in_the_repository_is_what_was_recorded() -> None:
    assert recorded.groups(recorded.SUBSET) == set(choose_golden.CHOSEN)
    for group in choose_golden.CHOSEN:
        assert recorded.read(recorded.SUBSET, group) == choose_golden.chosen(group)


@pytest.mark.parametrize("case", _cases("rest"))
def test_rest(case: Case, server: ModelServer) -> None:
    check_rest(case, server.rest_port)


@pytest.mark.parametrize("case", _cases("grpc") + _cases("grpccrash2"))
def test_grpc(case: Case, server: ModelServer) -> None:
    check_grpc(case, server.grpc_port)


# Why a case of the reloads, which depend on those before them, isn't answered as it was there.
OTHER_RELOADS = {
    "reload_labels_now": "a reload returns when all versions are available, so that their labels can be given at once",
    "reload_label_predict": "as the label was given",
    "reload_no_name": "a model without a name could never be asked for",
    "reload_missing_path": "an error at once, where the real server waits for the path for ever",
}


def test_reloads_in_their_order() -> None:
    base = "models/saved_model_half_plus_two_cpu"
    differing = set()
    settings = Settings(grpc_port=ANY_PORT, rest_port=ANY_PORT, loading=LoadPolicy(retries=0))
    server = ModelServer(one_model("hp2", str(ALL / base)), settings)
    try:
        server.start()
        for case in recorded.read(ALL, "grpcreload"):
            if case["rpc"].endswith("/HandleReloadConfigRequest"):
                request = recorded.reload_request(case)
            else:
                request = base64.b64decode(case["request_b64"])
            status, answer = recorded.call(case["rpc"], request, server.grpc_port)
            if status != case["status_code"]:
                differing.add(case["name"])
            elif isinstance(answer, bytes):
                theirs = base64.b64decode(case.get("response_b64") or "")
                assert recorded.messages_alike(case["rpc"], answer, theirs), case["name"]
            else:
                assert answer == case["details"], case["name"]
        for case in recorded.read(ALL, "grpcreload_rest"):
            check_rest(case, server.rest_port)
    finally:
        server.stop()
    assert differing == set(OTHER_RELOADS)


def test_most_error_texts_are_the_same() -> None:
    cases = [case for group in recorded.groups(ALL) for case in recorded.read(ALL, group)]
    errors = [
        each["name"]
        for each in cases
        if each.get("status", 200) != 200 or each.get("status_code", "OK") != "OK"
    ]
    assert set(OTHER_TEXTS) <= set(errors)
    assert len(OTHER_TEXTS) <= 0.1 * len(errors)


@pytest.mark.parametrize("case", _cases("cors"))
def test_cors(case: Case, with_flags: ModelServer) -> None:
    check_cors(case, with_flags.rest_port)


@pytest.mark.parametrize("case", _cases("grpcflags"))
def test_grpc_with_flags(case: Case, with_flags: ModelServer) -> None:
    check_grpc(case, with_flags.grpc_port)


@pytest.mark.parametrize("case", _cases("batching"))
def test_rest_with_batching(case: Case, with_batching: ModelServer) -> None:
    check_rest(case, with_batching.rest_port)


@pytest.mark.parametrize("case", _cases("grpcbatching"))
def test_grpc_with_batching(case: Case, with_batching: ModelServer) -> None:
    check_grpc(case, with_batching.grpc_port)


@pytest.mark.parametrize("case", _cases("tflite"))
def test_rest_with_tflite(case: Case, with_tflite: ModelServer) -> None:
    check_rest(case, with_tflite.rest_port)


@pytest.mark.parametrize("case", _cases("tflitegrpc"))
def test_grpc_with_tflite(case: Case, with_tflite: ModelServer) -> None:
    check_grpc(case, with_tflite.grpc_port)


def test_metrics_after_one_request() -> None:
    with _started(Settings(metrics_path=DEFAULT_PATH)) as server:
        for case in recorded.read(ALL, "prom"):
            check = check_metrics if "metrics" in case["name"] else check_rest
            check(case, server.rest_port)


# As TensorFlow Serving's documentation prints them ("RESTful API", "TensorFlow Serving with Docker"): the arguments
# of curl, and the answer; /v1/models/half_plus_… on localhost:8501 there. The half_plus_three at hand takes no
# examples, so they go to half_plus_two.
DOCUMENTED = (
    (
        ("-d", '{"instances": [1.0, 2.0, 5.0]}', "-X", "POST", "half_plus_two:predict"),
        {"predictions": [2.5, 3.0, 4.5]},
    ),
    (
        ("-d", '{"inputs": [[1.0], [2.0], [5.0]]}', "half_plus_two:predict"),
        {"outputs": [[2.5], [3.0], [4.5]]},
    ),
    (
        (
            "-d",
            '{"signature_name": "regress_x_to_y", "examples": [{"x": 1.0}, {"x": 2.0}]}',
            "-X",
            "POST",
            "half_plus_two:regress",
        ),
        {"results": [2.5, 3.0]},
    ),
    (
        ("half_plus_three",),
        {
            "model_version_status": [
                {"version": "123", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
            ]
        },
    ),
)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl isn't installed")
def test_documented_commands_work_as_printed() -> None:
    models = {
        "half_plus_two": "saved_model_half_plus_two_cpu",
        "half_plus_three": "saved_model_half_plus_three",
    }
    entries = "".join(
        f'config {{ name: "{name}" base_path: "{ALL}/models/{folder}" model_platform: "tensorflow" }} '
        for name, folder in models.items()
    )
    server = ModelServer(
        parse_config(f"model_config_list {{ {entries} }}", "test"),
        Settings(grpc_port=ANY_PORT, rest_port=ANY_PORT),
    )
    try:
        server.start()
        for (*arguments, target), expected in DOCUMENTED:
            url = f"http://localhost:{server.rest_port}/v1/models/{target}"
            done = subprocess.run(["curl", "-s", *arguments, url], capture_output=True, check=True)
            assert json.loads(done.stdout) == expected
        url = f"http://localhost:{server.rest_port}/v1/models/half_plus_three/metadata"
        metadata = json.loads(subprocess.run(["curl", "-s", url], capture_output=True, check=True).stdout)
        assert metadata["model_spec"] == {"name": "half_plus_three", "signature_name": "", "version": "123"}
        signature = metadata["metadata"]["signature_def"]["signature_def"]["serving_default"]
        assert signature["method_name"] == "tensorflow/serving/predict"
        assert signature["inputs"]["x"]["dtype"] == "DT_FLOAT"
    finally:
        server.stop()
