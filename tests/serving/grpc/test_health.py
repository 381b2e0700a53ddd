"""gRPC's health service."""

import threading
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from serving_fixtures import TFLITE, config_of, publish, serving
from tfship.serving.server.model_server import ANY_PORT, ModelServer, Settings

SERVING, NOT_SERVING, UNKNOWN = (
    health_pb2.HealthCheckResponse.SERVING,
    health_pb2.HealthCheckResponse.NOT_SERVING,
    health_pb2.HealthCheckResponse.SERVICE_UNKNOWN,
)


def test_all_services_are_told(tmp_path: Path) -> None:
    publish(tmp_path / "m", 1)
    with (
        serving(config_of(m=tmp_path / "m"), Settings(loader=TFLITE, health=True)) as client,
        client.channel() as channel,
    ):
        stub = health_pb2_grpc.HealthStub(channel)
        listed = stub.List(health_pb2.HealthListRequest(), timeout=100).statuses
        assert {name: each.status for name, each in listed.items()} == {
            "": SERVING,
            "PredictionService": SERVING,
            "ModelService": SERVING,
        }
        with pytest.raises(grpc.RpcError) as refused:
            stub.Check(health_pb2.HealthCheckRequest(service="none"), timeout=100)
        assert refused.value.code() is grpc.StatusCode.NOT_FOUND
        watch = stub.Watch(health_pb2.HealthCheckRequest(service="none"), timeout=100)
        assert next(watch).status == UNKNOWN
        watch.cancel()


def test_a_watch_ends_when_the_server_stops(tmp_path: Path) -> None:
    """It doesn't end by itself, and the server would wait for it as long as for a request."""
    publish(tmp_path / "m", 1)
    settings = Settings(loader=TFLITE, health=True, grpc_port=ANY_PORT)
    server = ModelServer(config_of(m=tmp_path / "m"), settings)
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=1000)
        assert next(watch).status == SERVING
        stopping = threading.Thread(target=server.stop, args=(10_000,))
        stopping.start()
        assert next(watch).status == NOT_SERVING
        with pytest.raises(grpc.RpcError) as ended:
            next(watch)
        assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
        stopping.join()
