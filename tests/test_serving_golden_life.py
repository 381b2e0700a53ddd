"""The server's life against answers recorded from a real TensorFlow Serving: versions come, go and break.

And what only needs a model or two: requests nested deeply, signatures of another method.
"""

import base64
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

import test_serving_golden as golden
from serving.config import one_model
from serving.models import LoadPolicy
from serving.protos import model_management_pb2
from serving.server import ANY_PORT, ModelServer, Settings
from serving_fixtures import Client, config_of, eventually, serving
from test_serving_golden import GOLDEN

# Why a recorded status or value isn't this server's, and why a text isn't.
KNOWN_DIFFERENCES = {
    "empty_dir_v3": "a load that will be tried again says what went wrong",
    "depth_100": "tensors have at most 64 dimensions",
    "depth_1000000": "an error; the real server dies",
}
OTHER_TEXTS = {
    "depth_254": "with the reason",
    "depth_256": "with the reason",
    "depth_300": "with the reason",
    "depth_1000": "with the reason",
    "depth_20000": "with the reason",
}


def _group(name: str) -> list[dict[str, Any]]:
    cases: list[dict[str, Any]] = json.loads((GOLDEN / f"{name}.json").read_bytes())
    return cases


def _cases(group: str) -> list[Any]:
    return [pytest.param(each, id=each["name"]) for each in _group(group)]


def _rest(case: dict[str, Any], port: int) -> tuple[bool, str]:
    """Send a recorded request, and return whether the answer is the recorded one, and what it was."""
    status, body = golden._send(case, port)
    theirs = golden._bytes(case, "response")
    same = status == case["status"]
    if same and status == 200:
        same = golden._alike(golden._json(body), golden._json(theirs))
    elif same:
        assert (golden._error_text(body) != golden._error_text(theirs)) == (case["name"] in OTHER_TEXTS), body
    return same, f"{status} {body[:300]!r}"


def _grpc(case: dict[str, Any], port: int, request: bytes) -> tuple[bool, str]:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        method = channel.unary_unary(case["rpc"], request_serializer=bytes, response_deserializer=bytes)
        try:
            answer = method(request, timeout=20)
        except grpc.RpcError as error:
            same = (error.code().name, error.details()) == (case["status_code"], case["details"])
            return same, f"{error.code().name} {error.details()}"
    theirs = base64.b64decode(case.get("response_b64") or "")
    return case["status_code"] == "OK" and golden._messages_alike(case["rpc"], answer, theirs), repr(answer)


def _check(case: dict[str, Any], same: bool, found: str) -> None:
    if case["name"] in KNOWN_DIFFERENCES:
        assert not same, f"{case['name']} matches now: remove it from KNOWN_DIFFERENCES"
    else:
        assert same, found


def test_versions_come_and_go(tmp_path: Path) -> None:
    source = GOLDEN / "models" / "div" / "1"

    def publish(version: int) -> None:
        shutil.copytree(source, tmp_path / f".stage-{version}")
        (tmp_path / f".stage-{version}").rename(tmp_path / str(version))

    # What was done before a request was sent.
    before = {
        "after_v2": lambda: publish(2),
        "after_v2_removed": lambda: shutil.rmtree(tmp_path / "2"),
        "after_all_removed": lambda: shutil.rmtree(tmp_path / "1"),
        "empty_dir_v3": lambda: (tmp_path / "3").mkdir(),
    }
    publish(1)
    with serving(config_of(m=tmp_path)) as client:
        for case in _group("hot"):
            if case["name"] in before:
                before.pop(case["name"])()
            if case["name"] not in KNOWN_DIFFERENCES:
                eventually(lambda case=case: _rest(case, client.rest_port)[0])  # type: ignore[misc]
                continue
            eventually(lambda: client.states("m") == {"3": "LOADING", "2": "END", "1": "END"})
            _check(case, *_rest(case, client.rest_port))
    assert before == {}


def test_a_reload_that_fails_says_why() -> None:
    base = GOLDEN / "models" / "saved_model_half_plus_two_cpu"
    settings = Settings(grpc_port=ANY_PORT, rest_port=ANY_PORT, loading=LoadPolicy(retries=0))
    server = ModelServer(one_model("hp2", str(base)), settings)
    try:
        server.start()
        client = Client(server.grpc_port, server.rest_port)
        reload = model_management_pb2.ReloadConfigRequest()
        both = config_of(hp2=base, broken=GOLDEN / "models_broken")
        reload.config.CopyFrom(both)
        # Time and again: what is known of it is what was found last.
        for _ in range(2):
            code, details = client.refusal("HandleReloadConfigRequest", reload)
            assert code == "FAILED_PRECONDITION"
            assert f"{GOLDEN}/models_broken/1/saved_model.pb: damaged" in details
            for case in _group("grpcbroken"):
                if case["rpc"].endswith("/HandleReloadConfigRequest"):
                    request = golden._where_the_models_are(case["name"], case["request_text"])
                else:
                    request = base64.b64decode(case["request_b64"])
                _check(case, *_grpc(case, server.grpc_port, request))
            for case in _group("grpcbroken_rest"):
                _check(case, *_rest(case, server.rest_port))
        assert client.states("hp2") == {"123": "AVAILABLE"}
    finally:
        server.stop()


def test_a_model_that_a_reload_removes_is_remembered() -> None:
    hp2, div = GOLDEN / "models" / "saved_model_half_plus_two_cpu", GOLDEN / "models" / "div"
    with serving(config_of(hp2=hp2)) as client:
        for models in ({"hp2": hp2, "div": div}, {"hp2": hp2}):
            client.call(
                "HandleReloadConfigRequest",
                model_management_pb2.ReloadConfigRequest(config=config_of(**models)),
            )
        (case,) = _group("grpcreload_rest")
        _check(case, *_rest(case, client.rest_port))


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """A server that checks signatures' methods, as the group `namecheck` was recorded."""
    models = GOLDEN / "models"
    config = config_of(hp2=models / "saved_model_half_plus_two_cpu", shapes=models / "shapes")
    with serving(config, Settings(checks_methods=True)) as client:
        yield client


@pytest.mark.parametrize("case", _cases("namecheck"))
def test_signatures_of_another_method(case: dict[str, Any], client: Client) -> None:
    _check(case, *_rest(case, client.rest_port))


@pytest.mark.parametrize("case", _cases("deep"))
def test_deep_json(case: dict[str, Any], client: Client) -> None:
    depth = int(case["name"].removeprefix("depth_"))
    body = f'{{"signature_name": "anyrank", "instances": {"[" * depth}1.0{"]" * depth}}}'
    length = dict(case["request_headers"])["Content-Length"]
    assert len(body) in (int(length), int(length) + 1)
    case = {**case, "request_body": body, "request_headers": [["Content-Length", str(len(body))]]}
    _check(case, *_rest(case, client.rest_port))
    assert client.states("shapes") == {"1": "AVAILABLE"}


def test_the_lists_name_recorded_cases() -> None:
    groups = ("hot", "grpcbroken", "grpcbroken_rest", "grpcreload_rest", "namecheck", "deep")
    names = {case["name"] for group in groups for case in _group(group)}
    assert names >= KNOWN_DIFFERENCES.keys() | OTHER_TEXTS.keys()
