"""Readiness, liveness and the status of all models; preflight requests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from serving_fixtures import TFLITE, Client, config_of, eventually, publish, serving, withdraw
from tfship.serving.protos.messages import model_management_pb2
from tfship.serving.server.settings import Settings

OK = {"error_code": "OK", "error_message": ""}


def _reload(client: Client, **base_paths: Path) -> None:
    client.call(
        "HandleReloadConfigRequest", model_management_pb2.ReloadConfigRequest(config=config_of(**base_paths))
    )


def test_models_come_and_go(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    publish(one, 1)
    publish(two, 2)
    with serving(config_of(two=two, one=one), Settings(loader=TFLITE)) as client:
        assert client.rest("/readyz") == client.rest("/livez") == (200, "ok\n")
        assert (
            client.rest("/v1/models")
            == client.rest("/V1/Models")
            == (
                200,
                {
                    "models": [
                        {
                            "name": name,
                            "model_version_status": [
                                {"version": version, "state": "AVAILABLE", "status": OK}
                            ],
                        }
                        for name, version in (("one", "1"), ("two", "2"))
                    ]
                },
            )
        )
        withdraw(one, 1)
        eventually(lambda: client.states("one") == {"1": "END"})
        assert client.rest("/readyz") == (503, "models without an available version: one\n")
        assert client.rest("/v2/health/ready")[0] == 503
        assert client.rest("/livez")[0] == 200
        assert client.rest("/v1/models")[1]["models"][0]["model_version_status"][0]["state"] == "END"
        # A model that is no longer in the config doesn't count.
        _reload(client, two=two)
        assert client.rest("/readyz")[0] == client.rest("/v2/health/ready")[0] == 200
        assert [each["name"] for each in client.rest("/v1/models")[1]["models"]] == ["two"]
        assert client.states("one") == {"1": "END"}
        publish(one, 3)
        _reload(client, two=two, one=one)
        assert client.rest("/readyz")[0] == 200
        assert [each["name"] for each in client.rest("/v1/models")[1]["models"]] == ["one", "two"]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    folder = tmp_path_factory.mktemp("health")
    publish(folder, 1)
    with serving(config_of(m=folder), Settings(loader=TFLITE)) as started:
        yield started


@pytest.mark.parametrize("path", ["/readyz", "/livez"])
def test_methods_of_health_checks(client: Client, path: str) -> None:
    assert client.headers(path)["content-type"] == "text/plain; charset=utf-8"
    assert client.rest(path, method="HEAD") == (200, "")
    assert client.rest(f"{path}?verbose") == (200, "ok\n")
    assert client.rest(path, b"")[0] == client.rest(path, method="DELETE")[0] == 405


@pytest.mark.parametrize(
    ("path", "method", "status", "message"),
    [
        ("/v1/models/m:PREDICT", "POST", 400, "Malformed request: POST /v1/models/m:PREDICT"),
        ("/v1/models/m?a=b", "GET", 404, "Could not find any versions of model m?a=b"),
        ("/v1/models/m/metadata?a=b", "GET", 400, "Malformed request: GET /v1/models/m/metadata?a=b"),
        ("/v1/models?a=b", "GET", 400, "Malformed request: GET /v1/models?a=b"),
        ("/v1/models/m?a=b:predict", "POST", 404, "Servable not found for request: Latest(m?a=b)"),
        ("/v1/models", "POST", 400, "Malformed request: POST /v1/models"),
        ("/v1/models/versions/1", "GET", 400, "Missing model name in request."),
    ],
)
def test_query_strings_and_letter_case(
    client: Client, path: str, method: str, status: int, message: str
) -> None:
    assert client.rest(path, {"instances": [1]} if method == "POST" else None) == (status, {"error": message})


def test_letter_case_of_paths(client: Client) -> None:
    status, found = client.rest("/V1/MODELS/m/Versions/1")
    assert (status, found["model_version_status"][0]["version"]) == (200, "1")
    assert client.rest("/v1/models/m/METADATA") == (200, found)
    body = {"instances": [[1.0, 2.0]]}
    assert client.rest("/V1/models/m:predict", body)[0] == 200
    assert client.rest("/v1/models/M:predict", body)[0] == 404


@pytest.mark.parametrize(
    ("origin", "status"),
    [("http://a.b", 200), ("https://a.b", 200), ("null", 400), ("HTTP://a.b", 400), ("", 400)],
)
def test_preflight_requests_without_cors(client: Client, origin: str, status: int) -> None:
    for path in ("/v1/models/m:predict", "/v1/anything"):
        assert client.rest(path, method="OPTIONS", Origin=origin)[0] == status
        assert "access-control-allow-origin" not in client.headers(path, Origin=origin)
    assert client.rest("/nope", method="OPTIONS", Origin=origin)[0] == 404
