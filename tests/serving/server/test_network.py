"""What else the ports can do: gRPC reflection, a Unix socket, gRPC's own arguments, a time limit for REST."""

import logging
import os
import signal
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import grpc
import numpy as np
import pytest
from google.protobuf import descriptor_pool, json_format, message_factory
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from processes import workers_of
from serving_fixtures import (
    ROW,
    TFLITE,
    Client,
    client_of,
    config_of,
    eventually,
    only_new_objects,
    process,
    publish,
    serving,
)
from tfship.serving.protos.messages import predict_pb2
from tfship.serving.protos.stubs import PredictionServiceStub
from tfship.serving.protos.tensors import from_proto, to_proto
from tfship.serving.server import flag_settings, flags
from tfship.serving.server.model_server import ModelServer, Settings
from tfship.train.common.errors import UsageError

PREDICTION, MODEL = "tensorflow.serving.PredictionService", "tensorflow.serving.ModelService"
HEALTH, REFLECTION = "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"
NEW_REFLECTION = "grpc.reflection.v1.ServerReflection"
OPEN_INFERENCE = "inference.GRPCInferenceService"


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
    return json_format.MessageToDict(call(message, timeout=100), descriptor_pool=pool)


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
        assert sorted(services) == sorted(
            [PREDICTION, MODEL, OPEN_INFERENCE, HEALTH, REFLECTION, NEW_REFLECTION]
        )
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
    assert sorted(services) == sorted([PREDICTION, MODEL, OPEN_INFERENCE, REFLECTION, NEW_REFLECTION])


def test_reflection_can_be_switched_off(base_path: Path) -> None:
    with (
        serving(config_of(m=base_path), Settings(loader=TFLITE, reflection=False)) as client,
        client.channel() as channel,
        pytest.raises(grpc.RpcError) as refused,
    ):
        ProtoReflectionDescriptorDatabase(channel).get_services()
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_calls_of_bytes_that_are_no_message_are_forgotten(
    base_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """grpcio, where it parses requests itself, keeps them for ever."""
    methods = (
        f"{PREDICTION}/Predict",
        f"{HEALTH}/Check",
        f"{HEALTH}/Watch",
        f"{REFLECTION}/ServerReflectionInfo",
    )
    with (
        serving(config_of(m=base_path), Settings(loader=TFLITE, health=True)) as client,
        client.channel() as channel,
        only_new_objects() as new,
    ):

        def ask(method: str, times: int) -> None:
            for _ in range(times):
                # Whether a method takes and answers streams can't be seen from its bytes.
                answers = channel.stream_stream(f"/{method}", None, None)(iter([b"\xff\xff"]), timeout=100)
                with pytest.raises(grpc.RpcError, match="Error parsing message") as refusal:
                    list(answers)
                assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT

        for method in methods:
            ask(method, 5)  # what is made once
            before = len(new())
            ask(method, 50)
            # A call that is kept is a dozen objects.
            eventually(lambda before=before: len(new()) < before + 50)  # type: ignore[misc]
    assert not [each for each in caplog.records if each.levelno > logging.INFO]


def test_newer_reflection_answers_alike(plain: Client) -> None:
    """v1 has v1alpha's messages, and describes itself by its own name."""
    names = []
    for service in (REFLECTION, NEW_REFLECTION):
        with plain.channel() as channel:
            method = channel.stream_stream(f"/{service}/ServerReflectionInfo", None, None)
            requests = [
                reflection_pb2.ServerReflectionRequest(list_services=""),
                reflection_pb2.ServerReflectionRequest(file_containing_symbol=NEW_REFLECTION),
                reflection_pb2.ServerReflectionRequest(file_by_filename="none.proto"),
            ]
            asked = iter([each.SerializeToString() for each in requests])
            listed, file, missing = (
                reflection_pb2.ServerReflectionResponse.FromString(each)
                for each in method(asked, timeout=100)
            )
        names.append([each.name for each in listed.list_services_response.service])
        assert b"grpc.reflection.v1.ServerReflectionRequest" in b"".join(
            file.file_descriptor_response.file_descriptor_proto
        )
        assert missing.error_response.error_code == 5
    assert names[0] == names[1]


def _predict(path: Path) -> Any:
    with grpc.insecure_channel(f"unix:{quote(str(path))}") as channel:
        request = predict_pb2.PredictRequest()
        request.model_spec.name = "m"
        request.inputs["x"].CopyFrom(to_proto(ROW))
        answer = PredictionServiceStub(channel).Predict(request, timeout=100)
        return from_proto(answer.outputs["y"])


def _answers(path: Path) -> bool:
    try:
        return bool((_predict(path) == ROW).all())
    except grpc.RpcError:
        return False


@pytest.mark.parametrize("name", ["socket", "with space %20 and ?#ü"])
def test_a_socket_beside_the_port(base_path: Path, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    before = os.umask(0o077)
    try:
        with serving(config_of(m=base_path), Settings(loader=TFLITE, grpc_socket=path)) as client:
            np.testing.assert_array_equal(_predict(path), ROW)
            np.testing.assert_array_equal(client.predict("m", x=ROW)["y"], ROW)
            # Who may write to it may connect.
            assert stat.S_IMODE(path.stat().st_mode) == 0o700
    finally:
        os.umask(before)
    assert not path.exists()


def test_only_a_socket_which_the_next_worker_takes_over(base_path: Path, tmp_path: Path) -> None:
    path, ready = tmp_path / "socket", tmp_path / "ready.json"
    # What a server leaves behind that was killed.
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    arguments = ("--model_name=m", "--prefer_tflite_model", "--workers=2", "--rest_api_port=-1")
    with process(
        f"--model_base_path={base_path}", "--port=0", f"--grpc_socket_path={path}", *arguments, ready=ready
    ) as server:
        client = client_of(server, ready)
        assert client.grpc_port == 0
        assert client.states("m") == {"1": "AVAILABLE"}
        assert _answers(path)
        for pid in workers_of(server.pid):
            os.kill(pid, signal.SIGKILL)
        eventually(lambda: _answers(path))
        server.terminate()
        out, err = server.communicate()
    assert (server.returncode, err) == (0, "")
    assert not path.exists()
    assert f"gRPC: unix:{path}, by one of 2 workers" in out
    assert "gRPC: 127.0.0.1" not in out


@pytest.mark.parametrize(
    ("ports", "workers"), [(("--port=0",), 1), (("--port=0", "--rest_api_port=1"), 3), ((), 3)]
)
def test_no_worker_has_nothing_to_do(ports: tuple[str, ...], workers: int) -> None:
    settings = flag_settings.settings(flags.parse(["--grpc_socket_path=socket", "--workers=3", *ports]))
    assert settings.workers == workers


def test_paths_that_can_not_be_had_are_found_before_anything_is_loaded(
    base_path: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("precious")
    for path, message in (
        (tmp_path / "file", "can't listen there .Address already in use"),
        (tmp_path / "none" / "socket", "can't listen there .No such file or directory"),
        (tmp_path / ("x" * 200), "can't listen there .AF_UNIX path too long"),
    ):
        server = ModelServer(config_of(m=tmp_path / "no models"), Settings(grpc_port=0, grpc_socket=path))
        with pytest.raises(UsageError, match=message):
            server.start()
        server.stop()
    assert (tmp_path / "file").read_text() == "precious"


def test_the_path_of_another_server_is_taken_over_with_a_warning(
    base_path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "taken"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        settings = Settings(loader=TFLITE, grpc_socket=path)
        with serving(config_of(m=base_path), settings):
            assert f"{path}: another server listens there; this one takes the path over" in caplog.text
            assert _answers(path)
    assert not path.exists()


def test_grpcs_own_arguments(base_path: Path) -> None:
    text = "grpc.max_receive_message_length=1000,a.b=c=d,large=9999999999"
    arguments = flag_settings.settings(
        flags.parser().parse_args([f"--grpc_channel_arguments={text}"])
    ).grpc_arguments
    assert arguments == (
        ("grpc.max_receive_message_length", 1000),
        ("a.b", "c=d"),
        ("large", "9999999999"),
    )
    with serving(config_of(m=base_path), Settings(loader=TFLITE, grpc_arguments=arguments)) as client:
        assert client.predict("m", x=ROW)["y"].shape == (1, 2)
        with pytest.raises(grpc.RpcError) as refused:
            client.predict("m", x=np.zeros((1000, 2), np.float32))
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("text", ["x", "a=1,", "=1", ",", "grpc.so_reuseport=1"])
def test_arguments_that_are_none(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        flags.parser().parse_args([f"--grpc_channel_arguments={text}"])
    assert "--grpc_channel_arguments: " in capsys.readouterr().err


@pytest.mark.parametrize(("milliseconds", "seconds"), [("500", 0.5), ("0", None), ("-1", None)])
def test_the_time_limit_for_rest(milliseconds: str, seconds: float | None) -> None:
    parsed = flags.parser().parse_args([f"--rest_api_timeout_in_ms={milliseconds}"])
    assert flag_settings.settings(parsed).rest_timeout_seconds == seconds


def test_rest_requests_have_their_time(base_path: Path) -> None:
    body = {"instances": ROW.tolist()}
    for seconds, status in ((None, 200), (30.0, 200), (-1.0, 504)):
        settings = Settings(loader=TFLITE, rest_timeout_seconds=seconds)
        with serving(config_of(m=base_path), settings) as client:
            assert client.rest("/v1/models/m:predict", body)[0] == status
