"""The server started with the manifests' flags: probes, metrics, and the protocols that KServe calls."""

from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from serving_fixtures import Client, client_of, eventually, process, publish, withdraw
from tfship.serving.kubernetes import manifests
from tfship.serving.kubernetes.manifests import FOLDER, Manifest
from tfship.serving.open_inference.messages import ModelInferRequest, ModelInferResponse

CONFIG = FOLDER / "base" / "monitoring.config"


def server_flags(container: Manifest, base_path: Path, **values: str) -> list[str]:
    """Return a container's flags, with paths and ports of this machine, and without TensorFlow."""
    # KServe fills in the name.
    arguments = [each.replace("{{.Name}}", "cnn") for each in container["args"]]
    mine = [
        f"--model_base_path={base_path}", f"--monitoring_config_file={CONFIG}", "--port=-1",
        "--rest_api_port=-1", "--workers=1", "--prefer_tflite_model",
    ]  # fmt: skip
    return [*arguments, *mine]


def paths(container: Manifest) -> dict[str, str]:
    probes = ("startupProbe", "readinessProbe", "livenessProbe")
    return {
        each: container[each]["httpGet"]["path"] for each in probes if "httpGet" in container.get(each, {})
    }


def of_kind(overlay: str, kind: str) -> list[Manifest]:
    return [each for each in manifests.documents(overlay) if each["kind"] == kind]


def test_probes_and_metrics(tmp_path: Path) -> None:
    (deployment,) = of_kind("volume", "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    (monitor,) = of_kind("volume", "ServiceMonitor")
    (official,) = of_kind("official", "Deployment")
    metadata = paths(official["spec"]["template"]["spec"]["containers"][0])
    assert set(metadata.values()) == {"/v1/models/cnn/metadata"}
    publish(tmp_path / "m", 1)
    ready = tmp_path / "ready.json"
    with process(*server_flags(container, tmp_path / "m"), ready=ready) as started:
        client = client_of(started, ready)
        assert {probe: client.rest(path)[0] for probe, path in paths(container).items()} == {
            "startupProbe": 200, "readinessProbe": 200, "livenessProbe": 200
        }  # fmt: skip
        assert client.rest(metadata["readinessProbe"])[0] == 200
        assert client.rest("/v1/models/cnn:predict", {"instances": [[1.0, 2.0]]})[0] == 200
        status, page = client.rest(monitor["spec"]["endpoints"][0]["path"])
        assert status == 200
        # The page has the autoscaler's metric, from the first request on.
        assert ":tfship:requests_in_flight{" in page
        with client.channel() as channel:
            health: Any = health_pb2_grpc.HealthStub(channel)
            assert health.Check(health_pb2.HealthCheckRequest(), timeout=100).status == 1
        withdraw(tmp_path / "m", 1)
        eventually(lambda: client.rest(paths(container)["readinessProbe"])[0] == 503)
        assert client.rest(paths(container)["livenessProbe"])[0] == 200
        # The official image's readiness probe, too, fails without an available version.
        assert client.rest(metadata["readinessProbe"])[0] in (404, 503)


@pytest.mark.parametrize("protocol", ["v1", "v2", "grpc-v2"])
def test_kserves_protocols(protocol: str, tmp_path: Path) -> None:
    (runtime,) = (
        each
        for each in of_kind("kserve-runtimes", "ClusterServingRuntime")
        if protocol in each["spec"]["protocolVersions"]
    )
    (container,) = runtime["spec"]["containers"]
    # The contents of a storageUri: versions, not a folder of a model.
    publish(tmp_path / "mnt" / "models", 1)
    ready = tmp_path / "ready.json"
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 2]}
    with process(*server_flags(container, tmp_path / "mnt" / "models"), ready=ready) as started:
        client = client_of(started, ready)
        assert {client.rest(path)[0] for path in paths(container).values()} == {200}
        match protocol:
            case "v1":
                answer = client.rest("/v1/models/cnn:predict", {"instances": [[1.0, 2.0]]})
                assert answer == (200, {"predictions": [[1.0, 2.0]]})
            case "v2":
                body = {"inputs": [{**tensor, "data": [1.0, 2.0]}]}
                status, answer = client.rest("/v2/models/cnn/infer", body)
                assert (status, answer["outputs"][0]["data"]) == (200, [1.0, 2.0])
            case "grpc-v2":
                assert container["ports"] == [{"name": "h2c", "containerPort": 8500, "protocol": "TCP"}]
                assert _infer(client, tensor) == [1.0, 2.0]


def _infer(client: Client, tensor: dict[str, Any]) -> list[float]:
    request = ModelInferRequest(model_name="cnn")
    request.inputs.add(**tensor).contents.fp32_contents.extend([1.0, 2.0])
    with client.channel() as channel:
        call = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer", None, ModelInferResponse.FromString
        )
        try:
            response = call(request.SerializeToString(), timeout=100)
        except grpc.RpcError as error:
            raise AssertionError(error) from None
    (output,) = response.outputs
    return list(output.contents.fp32_contents)
