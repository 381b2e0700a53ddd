"""The server against answers recorded from a real TensorFlow Serving, where they are at hand."""

import base64
import contextlib
import http.client
import json
import math
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf import text_format

from serving.batching_config import BatchingParameters
from serving.config import one_model, parse_config, read_config
from serving.loading import Loader
from serving.models import LoadPolicy
from serving.protos import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    predict_pb2,
    regression_pb2,
)
from serving.server import ANY_PORT, ModelServer, Settings
from serving.tensors import from_proto

GOLDEN = Path(__file__).resolve().parents[2] / "shared" / "tfserving-golden"

if not GOLDEN.is_dir():
    pytest.skip("no recorded answers beside the repository", allow_module_level=True)

# Why a recorded status or value isn't this server's. A case that starts to match must leave the list.
KNOWN_DIFFERENCES = {
    "str_b64_row": "bytes that aren't UTF-8 are sent as base64, not raw in the middle of JSON",
    "type_int8_over": "out of range is an error, not wrapped",
    "type_uint8_over": "out of range is an error, not wrapped",
    "type_uint8_neg": "out of range is an error, not wrapped",
    "reflection": "there is such a service here",
    "empty_batch": "answered, where the real server hangs when batching is on",
}
# Why a recorded error's text isn't this server's, where white space and reasons in brackets don't explain it.
OTHER_TEXTS = {
    "version_overflow": "an empty answer there",
    "method_HEAD_predict": "an answer to HEAD has no body",
    "method_HEAD_status": "an answer to HEAD has no body",
    "gzip_request_bad": "what gunzip didn't like, not what came of parsing nothing",
    "gzip_request_no_header": "bytes that aren't UTF-8 are named as such",
    "gzip_request_truncated": "what gunzip didn't like, not what came of parsing nothing",
    "gzip_two_members": "what gunzip didn't like, not what came of parsing nothing",
    "deflate_request": "an encoding that isn't supported is named as such",
    "predict_empty_tensorproto": "with the reason",
    "predict_overflow_shape": "with the reason",
    "health_unknown": "grpcio's health service says no more than NOT_FOUND",
    "predict_cnn_rank4_wrong_hw": "refused by the signature, before TensorFlow sees it",
    "predict_cnn_rank5": "refused by the signature, before TensorFlow sees it",
}
_BY_EXAMPLES = {
    "Classify": classification_pb2.ClassificationResponse,
    "Regress": regression_pb2.RegressionResponse,
    "MultiInference": inference_pb2.MultiInferenceResponse,
}
# Neither is about the answer: one depends on the client's clock, one on requests before the recording.
NOT_COMPARABLE = {"predict_deadline_1us", "predict_counter_get"}


def _cases(group: str) -> list[Any]:
    cases = json.loads((GOLDEN / f"{group}.json").read_bytes())
    return [pytest.param(each, id=each["name"]) for each in cases if each["name"] not in NOT_COMPARABLE]


def _started(settings: Settings) -> Iterator[ModelServer]:
    with _inside(GOLDEN):  # its base paths are relative
        config = read_config(Path("golden.config"))
    loading = LoadPolicy(labels_for_unavailable=True)
    server = ModelServer(config, replace(settings, grpc_port=ANY_PORT, rest_port=ANY_PORT, loading=loading))
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def server() -> Iterator[ModelServer]:
    yield from _started(Settings())


@pytest.fixture(scope="module")
def with_flags() -> Iterator[ModelServer]:
    """As the groups `cors` and `grpcflags` were recorded."""
    yield from _started(Settings(cors=True, health=True, packed_answers=True))


@pytest.fixture(scope="module")
def with_batching() -> Iterator[ModelServer]:
    """As the groups `batching` and `grpcbatching` were recorded."""
    yield from _started(Settings(loader=Loader(batching=BatchingParameters())))


@contextlib.contextmanager
def _inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


@pytest.mark.parametrize("case", _cases("rest"))
def test_rest(case: dict[str, Any], server: ModelServer) -> None:
    status, body = _send(case, server.rest_port)
    same = status == case["status"] and (
        status != 200 or _alike(_json(body), _json(_bytes(case, "response")))
    )
    _check(case["name"], same, f"{status} {body[:300]!r}")
    if case["method"] == "HEAD":
        assert body == b""
    elif status != 200 and status == case["status"]:
        theirs = _bytes(case, "response")
        _check_text(case["name"], _error_text(body), _error_text(theirs))


@pytest.mark.parametrize("case", _cases("grpc") + _cases("grpccrash2"))
def test_grpc(case: dict[str, Any], server: ModelServer) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        method = channel.unary_unary(case["rpc"], request_serializer=bytes, response_deserializer=bytes)
        try:
            answer = method(base64.b64decode(case["request_b64"] or ""), timeout=20)
            status = "OK"
        except grpc.RpcError as error:
            answer, status = error.details(), error.code().name
    same = status == case["status_code"]
    if same and status == "OK":
        same = _messages_alike(case["rpc"], answer, base64.b64decode(case.get("response_b64") or ""))
    _check(case["name"], same, f"{status} {answer!r}")
    if status == case["status_code"] != "OK":
        _check_text(case["name"], str(answer), case["details"])


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
    settings = Settings(grpc_port=ANY_PORT, loading=LoadPolicy(retries=0))
    server = ModelServer(one_model("hp2", str(GOLDEN / base)), settings)
    try:
        server.start()
        with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
            for case in json.loads((GOLDEN / "grpcreload.json").read_bytes()):
                if case["rpc"].endswith("/HandleReloadConfigRequest"):
                    request = _where_the_models_are(case["name"], case["request_text"])
                else:
                    request = base64.b64decode(case["request_b64"])
                method = channel.unary_unary(
                    case["rpc"], request_serializer=bytes, response_deserializer=bytes
                )
                try:
                    answer: Any = method(request, timeout=20)
                    status = "OK"
                except grpc.RpcError as error:
                    answer, status = error.details(), error.code().name
                if status != case["status_code"]:
                    differing.add(case["name"])
                elif status == "OK":
                    assert _messages_alike(
                        case["rpc"], answer, base64.b64decode(case.get("response_b64") or "")
                    ), case["name"]
                else:
                    assert answer == case["details"], case["name"]
    finally:
        server.stop()
    assert differing == set(OTHER_RELOADS)


def _where_the_models_are(name: str, request: str) -> bytes:
    """Make a recorded request's base paths absolute again, but for the case that is about relative ones."""
    message = text_format.Parse(request, model_management_pb2.ReloadConfigRequest())
    configs = message.config.model_config_list.config
    for each in configs:
        if each.base_path and (name, each.name) != ("reload_relative_path", "x"):
            each.base_path = str(GOLDEN / each.base_path)
    serialized: bytes = message.SerializeToString()
    return serialized


def test_most_error_texts_are_the_same() -> None:
    errors = [
        case["name"] for case in json.loads((GOLDEN / "rest.json").read_bytes()) if case["status"] != 200
    ]
    errors += [
        case["name"]
        for group in ("grpc", "grpccrash2", "grpcflags")
        for case in json.loads((GOLDEN / f"{group}.json").read_bytes())
        if case["status_code"] != "OK"
    ]
    assert set(OTHER_TEXTS) <= set(errors)
    assert len(OTHER_TEXTS) <= 0.1 * len(errors)


@pytest.mark.parametrize("case", _cases("cors"))
def test_cors(case: dict[str, Any], with_flags: ModelServer) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", with_flags.rest_port, timeout=20)
    with contextlib.closing(connection):
        body = (case.get("request_body") or "").encode()
        connection.request(case["method"], case["path"], body, dict(case["request_headers"]))
        response = connection.getresponse()
        headers = {name.lower(): value for name, value in response.getheaders()}
        answer = response.read()
    theirs = {name.lower(): value for name, value in case["response_headers"]}
    assert response.status == case["status"]
    for name in (
        "access-control-allow-origin",
        "access-control-allow-methods",
        "access-control-allow-headers",
    ):
        assert headers.get(name) == theirs.get(name)
    if case["status"] == 200 and answer:
        assert _alike(_json(answer), _json(_bytes(case, "response")))
    else:
        assert bool(answer) == bool(_bytes(case, "response"))


@pytest.mark.parametrize("case", _cases("grpcflags"))
def test_grpc_with_flags(case: dict[str, Any], with_flags: ModelServer) -> None:
    test_grpc(case, with_flags)


@pytest.mark.parametrize("case", _cases("batching"))
def test_rest_with_batching(case: dict[str, Any], with_batching: ModelServer) -> None:
    test_rest(case, with_batching)


@pytest.mark.parametrize("case", _cases("grpcbatching"))
def test_grpc_with_batching(case: dict[str, Any], with_batching: ModelServer) -> None:
    test_grpc(case, with_batching)


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
        f'config {{ name: "{name}" base_path: "{GOLDEN}/models/{folder}" model_platform: "tensorflow" }} '
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


def _check(name: str, same: bool, found: str) -> None:
    if name in KNOWN_DIFFERENCES:
        assert not same, f"{name} matches now: remove it from KNOWN_DIFFERENCES"
    else:
        assert same, found


def _check_text(name: str, found: str, expected: str) -> None:
    if name in OTHER_TEXTS:
        assert found != expected, f"{name} matches now: remove it from OTHER_TEXTS"
    else:
        assert found == expected


def _error_text(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"])
    except ValueError:
        return body.decode()


def _send(case: dict[str, Any], port: int) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    with contextlib.closing(connection):
        connection.putrequest(case["method"], case["path"], skip_host=True, skip_accept_encoding=True)
        for name, value in case["request_headers"]:
            connection.putheader(name, value)
        connection.endheaders(_bytes(case, "request"))
        response = connection.getresponse()
        return response.status, response.read()


def _bytes(case: dict[str, Any], side: str) -> bytes:
    encoded = case.get(f"{side}_body_b64")
    return base64.b64decode(encoded) if encoded else (case.get(f"{side}_body") or "").encode()


def _json(body: bytes) -> Any:
    return json.loads(body.decode(errors="replace"))


def _alike(mine: Any, theirs: Any) -> bool:
    if isinstance(theirs, float) and isinstance(mine, float):
        both_nan = math.isnan(mine) and math.isnan(theirs)
        return both_nan or math.isclose(mine, theirs, rel_tol=1e-5, abs_tol=1e-5)
    if isinstance(theirs, list) and isinstance(mine, list):
        return len(mine) == len(theirs) and all(map(_alike, mine, theirs))
    if isinstance(theirs, dict) and isinstance(mine, dict):
        return mine.keys() == theirs.keys() and all(_alike(mine[key], theirs[key]) for key in theirs)
    return type(mine) is type(theirs) and bool(mine == theirs)


def _messages_alike(rpc: str, mine: bytes, theirs: bytes) -> bool:
    method = rpc.rsplit("/", 1)[1]
    if method == "GetModelStatus":
        kind = get_model_status_pb2.GetModelStatusResponse
        return bool(kind.FromString(mine) == kind.FromString(theirs))
    if method in _BY_EXAMPLES:
        # Labels and numbers as they are: half plus two is exact in float32.
        kind = _BY_EXAMPLES[method]
        return bool(kind.FromString(mine) == kind.FromString(theirs))
    if method == "HandleReloadConfigRequest":
        reloaded = [model_management_pb2.ReloadConfigResponse.FromString(each) for each in (mine, theirs)]
        metrics = [sorted((each.name, each.int64_value_increase) for each in one.metric) for one in reloaded]
        return bool(reloaded[0].status == reloaded[1].status) and metrics[0] == metrics[1]
    if method == "GetModelMetadata":
        return bool(_metadata(mine) == _metadata(theirs))
    if method == "Check":
        return mine == theirs
    ours, real = (predict_pb2.PredictResponse.FromString(each) for each in (mine, theirs))
    if ours.model_spec != real.model_spec or ours.outputs.keys() != real.outputs.keys():
        return False
    return all(_tensors_alike(ours.outputs[key], real.outputs[key]) for key in real.outputs)


def _metadata(answer: bytes) -> Any:
    message = get_model_metadata_pb2.GetModelMetadataResponse.FromString(answer)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert message.metadata["signature_def"].Unpack(signatures)
    return message.model_spec, signatures


def _tensors_alike(mine: Any, theirs: Any) -> bool:
    # The same field must hold the values: clients read `float_val` directly.
    fields = [{field.name for field, _ in each.ListFields()} for each in (mine, theirs)]
    ours, real = from_proto(mine), from_proto(theirs)
    if fields[0] != fields[1] or ours.dtype != real.dtype or ours.shape != real.shape:
        return False
    if real.dtype == np.object_:
        return bool((ours == real).all())
    return bool(
        np.allclose(ours.astype(np.complex128), real.astype(np.complex128), 1e-5, 1e-5, equal_nan=True)
    )
