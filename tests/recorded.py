"""Answers recorded from a real TensorFlow Serving: read, asked for again, compared.

A case is a dictionary as it was recorded: `name`; of REST `method`, `path`, `request_headers`, `request_body`,
`status`, `response_headers` and `response_body`, a body that isn't text as `…_body_b64`; of gRPC `rpc`,
`request_b64`, `status_code`, `details` and `response_b64`.
"""

import base64
import contextlib
import http.client
import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from google.protobuf import text_format

from tfship.serving.metrics.metrics import FAMILIES
from tfship.serving.protos.messages import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    predict_pb2,
    regression_pb2,
)
from tfship.serving.protos.tensors import from_proto

__all__ = [
    *("ALL", "CORS_HEADERS", "KNOWN_DIFFERENCES", "OTHER_TEXTS", "SUBSET", "Case"),
    *("body", "call", "check_cors", "check_grpc", "check_metrics", "check_rest"),
    *("groups", "messages_alike", "read", "reload_request", "shared_metrics"),
]

Case = dict[str, Any]

# All that was recorded, where it is at hand; and what comes with the tests, for models that they make.
ALL = Path(__file__).resolve().parents[2] / "shared" / "tfserving-golden"
SUBSET = Path(__file__).resolve().parent / "golden"

# Why a recorded status or value isn't this server's. A case that starts to match must leave the list.
KNOWN_DIFFERENCES = {
    "str_b64_row": "bytes that aren't UTF-8 are sent as base64, not raw in the middle of JSON",
    "type_int8_over": "out of range is an error, not wrapped",
    "type_uint8_over": "out of range is an error, not wrapped",
    "type_uint8_neg": "out of range is an error, not wrapped",
    "empty_batch": "answered, where the real server hangs when batching is on",
    "reflection": "there is such a service here",
    "status_no_model": "answered with the status of all models",
    **dict.fromkeys(("path_GET_v2", "path_POST_v2"), "the Open Inference Protocol's paths"),
    "empty_dir_v3": "a load that will be tried again says what went wrong",
    "depth_100": "tensors have at most 64 dimensions",
    "depth_1000000": "an error; the real server dies",
    **dict.fromkeys(
        ("batch1_two_rows", "nosig_two_rows", "batch1_predict_two", "nosig_predict_two"),
        "a file with a batch of 1 is run row by row",
    ),
    **dict.fromkeys(
        (f"{name}_wrong_rank" for name in ("batch1", "nosig", "u8", "sigdef")),
        "a client's error, not the server's",
    ),
    **dict.fromkeys(
        (f"{name}_predict_wrong_dtype" for name in ("batch1", "nosig", "u8", "sigdef")),
        "an error; there the bytes are taken for the signature's type",
    ),
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
    "depth_254": "with the reason",
    "depth_256": "with the reason",
    "depth_300": "with the reason",
    "depth_1000": "with the reason",
    "depth_20000": "with the reason",
}
# Neither is about the answer: one depends on the client's clock, one on requests before the recording.
_NOT_COMPARABLE = {"predict_deadline_1us", "predict_counter_get"}

CORS_HEADERS = (
    "access-control-allow-origin",
    "access-control-allow-methods",
    "access-control-allow-headers",
)
# What this server's page of metrics has of TensorFlow Serving's; what else was recorded is TensorFlow's own.
_SHARED_METRICS = tuple(each.name for each in FAMILIES if each.name.startswith(":tensorflow:"))
_BY_EXAMPLES = {
    "Classify": classification_pb2.ClassificationResponse,
    "Regress": regression_pb2.RegressionResponse,
    "MultiInference": inference_pb2.MultiInferenceResponse,
}


def groups(folder: Path) -> set[str]:
    """Return the names of the groups of cases in a folder."""
    return {file.stem for file in folder.glob("*.json")}


def read(folder: Path, group: str) -> list[Case]:
    """Return a group's cases in the order in which they were asked."""
    cases: list[Case] = json.loads((folder / f"{group}.json").read_bytes())
    return [case for case in cases if case["name"] not in _NOT_COMPARABLE]


def body(case: Case, side: str) -> bytes:
    """Return the bytes of the body of a REST case's `request` or `response`."""
    encoded = case.get(f"{side}_body_b64")
    return base64.b64decode(encoded) if encoded else (case.get(f"{side}_body") or "").encode()


def check_rest(case: Case, port: int) -> None:
    """Ask the server at `port`: the status must be the same, and the value or the error's text."""
    mine, theirs = _send(case, port), body(case, "response")
    same = mine.status == case["status"] and (mine.status != 200 or _alike(_json(mine.body), _json(theirs)))
    _check(case["name"], same, f"{mine.status} {mine.body[:300]!r}")
    if case["method"] == "HEAD":
        assert mine.body == b""
    elif mine.status != 200 and mine.status == case["status"]:
        _check_text(case["name"], _error_text(mine.body), _error_text(theirs))


def check_cors(case: Case, port: int) -> None:
    """Ask the server at `port`: the same status and CORS headers, and the same value."""
    mine, theirs = _send(case, port), body(case, "response")
    assert mine.status == case["status"]
    wanted = {name.lower(): value for name, value in case["response_headers"]}
    for name in CORS_HEADERS:
        assert mine.headers.get(name) == wanted.get(name), name
    if case["status"] == 200 and mine.body:
        assert _alike(_json(mine.body), _json(theirs)), mine.body
    else:
        assert bool(mine.body) == bool(theirs)


def check_metrics(case: Case, port: int) -> None:
    """Ask the server at `port` for its metrics: the same types, labels, bounds and counts of what it shares."""
    mine, theirs = _send(case, port), body(case, "response")
    assert mine.status == case["status"]
    if mine.status != 200:
        assert _error_text(mine.body) == _error_text(theirs)
        return
    found, expected = ({_without_time(line) for line in shared_metrics(page)} for page in (mine.body, theirs))
    assert {f"# TYPE {name}" for name in _SHARED_METRICS} <= {line.rpartition(" ")[0] for line in expected}
    assert found == expected


def shared_metrics(page: bytes) -> list[str]:
    """Return the lines of a page of metrics, but for comments, that both servers have."""
    names = "|".join(_SHARED_METRICS)
    shared = re.compile(rf"# TYPE (?:{names}) .*|(?:{names})(?:_bucket|_sum|_count)?\{{.*")
    return [line for line in page.decode().splitlines() if shared.fullmatch(line)]


def _without_time(line: str) -> str:
    """Return a line of a page without its value where that tells how fast a machine was."""
    told = re.search(r"_sum\{|_bucket\{(?!.*\+Inf)", line)
    return line.rpartition(" ")[0] if told else line


def check_grpc(case: Case, port: int) -> None:
    """Ask the server at `port`: the status must be the same, and the message or the error's text."""
    status, answer = call(case["rpc"], base64.b64decode(case["request_b64"] or ""), port)
    same = status == case["status_code"]
    if same and status == "OK":
        assert isinstance(answer, bytes)
        same = messages_alike(case["rpc"], answer, base64.b64decode(case.get("response_b64") or ""))
    _check(case["name"], same, f"{status} {answer!r}")
    if status == case["status_code"] != "OK":
        _check_text(case["name"], str(answer), case["details"])


def call(rpc: str, request: bytes, port: int) -> tuple[str, bytes | str]:
    """Return a gRPC call's status by name, and its answer or its details."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        method = channel.unary_unary(rpc, request_serializer=bytes, response_deserializer=bytes)
        try:
            return "OK", method(request, timeout=100)
        except grpc.RpcError as error:
            return error.code().name, error.details() or ""


def reload_request(case: Case) -> bytes:
    """Return a recorded reload with its base paths absolute again, but for the case that is about relative ones."""
    message = text_format.Parse(case["request_text"], model_management_pb2.ReloadConfigRequest())
    for each in message.config.model_config_list.config:
        if each.base_path and (case["name"], each.name) != ("reload_relative_path", "x"):
            each.base_path = str(ALL / each.base_path)
    serialized: bytes = message.SerializeToString()
    return serialized


def messages_alike(rpc: str, mine: bytes, theirs: bytes) -> bool:
    """Tell whether two answers of a method say the same: numbers to 1e-5, in the same fields."""
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


def _error_text(content: bytes) -> str:
    try:
        return str(json.loads(content)["error"])
    except ValueError:
        return content.decode()


@dataclass(frozen=True)
class _Answer:
    status: int
    headers: dict[str, str]  # names in lower case
    body: bytes


def _send(case: Case, port: int) -> _Answer:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=100)
    with contextlib.closing(connection):
        connection.putrequest(case["method"], case["path"], skip_host=True, skip_accept_encoding=True)
        for name, value in case["request_headers"]:
            connection.putheader(name, value)
        connection.endheaders(body(case, "request"))
        response = connection.getresponse()
        headers = {name.lower(): value for name, value in response.getheaders()}
        return _Answer(response.status, headers, response.read())


def _json(content: bytes) -> Any:
    return json.loads(content.decode(errors="replace"))


def _alike(mine: Any, theirs: Any) -> bool:
    if isinstance(theirs, float) and isinstance(mine, float):
        both_nan = math.isnan(mine) and math.isnan(theirs)
        return both_nan or math.isclose(mine, theirs, rel_tol=1e-5, abs_tol=1e-5)
    if isinstance(theirs, list) and isinstance(mine, list):
        return len(mine) == len(theirs) and all(map(_alike, mine, theirs))
    if isinstance(theirs, dict) and isinstance(mine, dict):
        return mine.keys() == theirs.keys() and all(_alike(mine[key], theirs[key]) for key in theirs)
    return type(mine) is type(theirs) and bool(mine == theirs)


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
