"""SIGTERM while clients of both ports send one request after the other: none fails that the server has accepted."""

import json
import signal
import threading
from pathlib import Path

import grpc
import numpy as np
import requests

from serving_fixtures import ROOT, Client, client_of, eventually, process
from tfship.serving.protos.messages import predict_pb2
from tfship.serving.protos.tensors import to_proto
from third_party_clients.server import PREDICT_PATH

IMAGE = np.zeros((1, 28, 28, 1), np.float32)


class _Load:
    """Clients in threads, each until its first failure; `answers` counts their successes."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.answers = {"kept": 0, "new": 0, "grpc": 0}
        self.failures: list[str] = []
        self.threads = [
            *(threading.Thread(target=self._rest, args=(name,)) for name in ("kept", "new") * 2),
            *(threading.Thread(target=self._grpc) for _ in range(2)),
        ]
        for thread in self.threads:
            thread.start()

    def _rest(self, name: str) -> None:
        url = f"http://127.0.0.1:{self._client.rest_port}/v1/models/m:predict"
        body = json.dumps({"instances": IMAGE.tolist()})
        with requests.Session() as session:
            session.trust_env = False  # no proxy
            session.headers["Connection"] = "keep-alive" if name == "kept" else "close"
            while True:
                try:
                    response = session.post(url, data=body, timeout=300)
                except requests.ConnectionError as error:
                    self.failures.append(str(error))
                    return
                if response.status_code != 200:
                    self.failures.append(f"{response.status_code}: {response.text}")
                    return
                self.answers[name] += 1

    def _grpc(self) -> None:
        request = predict_pb2.PredictRequest()
        request.model_spec.name = "m"
        request.inputs["image"].CopyFrom(to_proto(IMAGE))
        content = request.SerializeToString()
        with grpc.insecure_channel(f"127.0.0.1:{self._client.grpc_port}") as channel:
            while True:
                try:
                    channel.unary_unary(PREDICT_PATH, None, None)(content, timeout=300)
                except grpc.RpcError as error:
                    self.failures.append(f"{error.code().name}: {error.details()}")
                    return
                self.answers["grpc"] += 1


def test_sigterm_under_load(tmp_path: Path) -> None:
    model = tmp_path / "m" / "1"
    model.mkdir(parents=True)
    (model / "model.tflite").write_bytes((ROOT / "models/released/nn.int8.tflite").read_bytes())
    ready = tmp_path / "ready.json"
    arguments = ("--model_name=m", "--prefer_tflite_model", "--workers=2", "--port=-1", "--rest_api_port=-1")
    with process(f"--model_base_path={model.parent}", *arguments, ready=ready) as server:
        load = _Load(client_of(server, ready))
        eventually(lambda: min(load.answers.values()) > 20 or bool(load.failures))
        assert load.failures == []
        server.send_signal(signal.SIGTERM)
        for thread in load.threads:
            thread.join()
        _, error = server.communicate()
    assert server.returncode == 0
    assert "Traceback" not in error
    assert len(load.failures) == len(load.threads)
    # Refused by the port: no connection was closed with a request on its way.
    assert [each for each in load.failures if "refused" not in each] == []
