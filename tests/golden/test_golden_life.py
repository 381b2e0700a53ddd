"""The server's life against answers recorded from a real TensorFlow Serving: versions come, go and break.

And what only needs a model or two: requests nested deeply, signatures of another method.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import recorded
from recorded import ALL, KNOWN_DIFFERENCES, Case, check_grpc, check_rest
from serving_fixtures import Client, config_of, eventually, serving
from tfship.serving.models.config import one_model
from tfship.serving.models.manager import LoadPolicy
from tfship.serving.protos.messages import model_management_pb2
from tfship.serving.server.model_server import ANY_PORT, ModelServer, Settings

if not ALL.is_dir():
    pytest.skip("no recorded answers beside the repository", allow_module_level=True)


def _cases(group: str) -> list[Any]:
    return [pytest.param(each, id=each["name"]) for each in recorded.read(ALL, group)]


def test_versions_come_and_go(tmp_path: Path) -> None:
    def publish(version: int) -> None:
        stage = tmp_path / f".stage-{version}"
        shutil.copytree(ALL / "models" / "div" / "1", stage)
        stage.rename(tmp_path / str(version))

    # What was done before a request was sent.
    before = {
        "after_v2": lambda: publish(2),
        "after_v2_removed": lambda: shutil.rmtree(tmp_path / "2"),
        "after_all_removed": lambda: shutil.rmtree(tmp_path / "1"),
        "empty_dir_v3": lambda: (tmp_path / "3").mkdir(),
    }

    def answered(case: Case, client: Client) -> bool:
        if case["name"] in KNOWN_DIFFERENCES:
            return client.states("m") == {"3": "LOADING", "2": "END", "1": "END"}
        try:
            check_rest(case, client.rest_port)
        except AssertionError:
            return False
        return True

    publish(1)
    with serving(config_of(m=tmp_path)) as client:
        for case in recorded.read(ALL, "hot"):
            before.pop(case["name"], lambda: None)()
            eventually(lambda case=case: answered(case, client))  # type: ignore[misc]
            check_rest(case, client.rest_port)
    assert before == {}


def test_a_reload_that_fails_says_why() -> None:
    base = ALL / "models" / "saved_model_half_plus_two_cpu"
    settings = Settings(grpc_port=ANY_PORT, rest_port=ANY_PORT, loading=LoadPolicy(retries=0))
    server = ModelServer(one_model("hp2", str(base)), settings)
    try:
        server.start()
        client = Client(server.grpc_port, server.rest_port)
        both = config_of(hp2=base, broken=ALL / "models_broken")
        # Time and again: what is known of it is what was found last.
        for _ in range(2):
            code, details = client.refusal(
                "HandleReloadConfigRequest", model_management_pb2.ReloadConfigRequest(config=both)
            )
            assert code == "FAILED_PRECONDITION"
            assert f"{ALL}/models_broken/1/saved_model.pb: damaged" in details
            *asked, platform = recorded.read(ALL, "grpcbroken")
            for case in asked:
                check_grpc(case, server.grpc_port)
            status = recorded.call(platform["rpc"], recorded.reload_request(platform), server.grpc_port)
            assert status == (platform["status_code"], platform["details"])
            for case in recorded.read(ALL, "grpcbroken_rest"):
                check_rest(case, server.rest_port)
        assert client.states("hp2") == {"123": "AVAILABLE"}
    finally:
        server.stop()


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """A server that checks signatures' methods, as the group `namecheck` was recorded."""
    models = ALL / "models"
    config = config_of(hp2=models / "saved_model_half_plus_two_cpu", shapes=models / "shapes")
    with serving(config, Settings(checks_methods=True)) as client:
        yield client


@pytest.mark.parametrize("case", _cases("namecheck"))
def test_signatures_of_another_method(case: Case, client: Client) -> None:
    check_rest(case, client.rest_port)


@pytest.mark.parametrize("case", _cases("deep"))
def test_deep_json(case: Case, client: Client) -> None:
    depth = int(case["name"].removeprefix("depth_"))
    # The recording only tells what was sent.
    body = f'{{"signature_name": "anyrank", "instances": {"[" * depth}1.0{"]" * depth}}}'
    headers = [["Content-Length", str(len(body))]]
    check_rest({**case, "request_body": body, "request_headers": headers}, client.rest_port)
    assert client.states("shapes") == {"1": "AVAILABLE"}
