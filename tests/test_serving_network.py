"""What else the gRPC side of the server can do: be asked what it offers."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pool, json_format, message_factory
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from serving.server import Settings
from serving_fixtures import TFLITE, Client, client_of, config_of, process, publish, serving

PREDICTION, MODEL = "tensorflow.serving.PredictionService", "tensorflow.serving.ModelService"
HEALTH, REFLECTION = "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"


@pytest.fixture
def base_path(tmp_path: Path) -> Path:
    publish(tmp_path / "m", 1)
    return tmp_path / "m"


def _reflected_call(channel: grpc.Channel, service: str, method: str, request: dict[str, Any]) -> Any:
    """Call a method knowing nothing of it but what reflection tells, as grpcurl does."""
    pool = descriptor_pool.DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
    described = pool.FindServiceByName(service).methods_by_name[method]
    sent = message_factory.GetMessageClass(described.input_type)
    answer = message_factory.GetMessageClass(described.output_type)
    call = channel.unary_unary(
        f"/{service}/{method}",
        request_serializer=sent.SerializeToString,
        response_deserializer=answer.FromString,
    )
    message = json_format.ParseDict(request, sent(), descriptor_pool=pool)
    return json_format.MessageToDict(call(message, timeout=30), descriptor_pool=pool)


def test_reflection_is_enough_to_call_every_service(base_path: Path, tmp_path: Path) -> None:
    ready = tmp_path / "ready.json"
    arguments = (
        "--model_name=m",
        "--prefer_tflite_model",
        "--enable_grpc_healthcheck_service",
        "--workers=1",
    )
    with (
        process(f"--model_base_path={base_path}", "--port=-1", *arguments, ready=ready) as server,
        client_of(server, ready).channel() as channel,
    ):
        services = ProtoReflectionDescriptorDatabase(channel).get_services()
        assert sorted(services) == sorted([PREDICTION, MODEL, HEALTH, REFLECTION])
        tensor = {
            "dtype": "DT_FLOAT",
            "tensorShape": {"dim": [{"size": 1}, {"size": 2}]},
            "floatVal": [1.5, 2.0],
        }
        request = {"modelSpec": {"name": "m"}, "inputs": {"x": tensor}}
        answer = _reflected_call(channel, PREDICTION, "Predict", request)
        assert answer["outputs"]["y"]["floatVal"] == [1.5, 2.0]
        answer = _reflected_call(channel, MODEL, "GetModelStatus", {"modelSpec": {"name": "m"}})
        assert answer["model_version_status"][0]["state"] == "AVAILABLE"
        assert _reflected_call(channel, HEALTH, "Check", {}) == {"status": "SERVING"}


@pytest.fixture
def plain(base_path: Path) -> Iterator[Client]:
    with serving(config_of(m=base_path), Settings(loader=TFLITE)) as client:
        yield client


def test_health_is_not_listed_where_it_is_off(plain: Client) -> None:
    with plain.channel() as channel:
        services = ProtoReflectionDescriptorDatabase(channel).get_services()
    assert sorted(services) == sorted([PREDICTION, MODEL, REFLECTION])


def test_reflection_can_be_switched_off(base_path: Path) -> None:
    with (
        serving(config_of(m=base_path), Settings(loader=TFLITE, reflection=False)) as client,
        client.channel() as channel,
        pytest.raises(grpc.RpcError) as refused,
    ):
        ProtoReflectionDescriptorDatabase(channel).get_services()
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_newer_reflection_is_refused_so_that_clients_fall_back(plain: Client) -> None:
    with plain.channel() as channel:
        method = channel.stream_stream(f"/{REFLECTION.replace('v1alpha', 'v1')}/ServerReflectionInfo")
        with pytest.raises(grpc.RpcError) as refused:
            next(method(iter([b"\x3a\x00"]), timeout=30))
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
