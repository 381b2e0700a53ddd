"""A request that nobody waits for any more isn't run."""

import threading
import time

import grpc
import numpy as np
import pytest

from serving_fixtures import Client, config_of, serving, slow_steps, tiny_models
from tfship.serving.metrics.metrics import DEFAULT_PATH
from tfship.serving.protos.messages import predict_pb2
from tfship.serving.protos.stubs import PredictionServiceStub
from tfship.serving.protos.tensors import to_proto
from tfship.serving.server.model_server import Settings


def _runs(client: Client) -> int:
    """Return how often the model has been run."""
    page = client.rest(DEFAULT_PATH)[1]
    counts = [
        line for line in page.splitlines() if line.startswith(":tensorflow:serving:runtime_latency_count{")
    ]
    return sum(int(float(line.split()[-1])) for line in counts)


def test_over_grpc_within_the_clients_deadline() -> None:
    settings = Settings(grpc_threads=1, metrics_path=DEFAULT_PATH)
    with serving(config_of(m=tiny_models() / "slow"), settings) as client:
        long = np.array([slow_steps(client, 1.5)], np.int32)
        thread = threading.Thread(target=client.predict, args=("m",), kwargs={"n": long})
        thread.start()
        time.sleep(0.2)
        request = predict_pb2.PredictRequest()
        request.model_spec.name = "m"
        request.inputs["n"].CopyFrom(to_proto(np.array([1], np.int32)))
        with client.channel() as channel, pytest.raises(grpc.RpcError) as error:
            PredictionServiceStub(channel).Predict(request, timeout=0.3)
        assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        thread.join()
        # The only thread is free again for this one, after the one that nobody waits for.
        client.predict("m", n=np.array([1], np.int32))
        assert _runs(client) == 4


def test_over_rest_within_the_servers_limit() -> None:
    settings = Settings(rest_threads=1, rest_timeout_seconds=0.3, metrics_path=DEFAULT_PATH)
    with serving(config_of(m=tiny_models() / "slow"), settings) as client:
        long = {"inputs": [slow_steps(client, 1.5)]}
        answers = []
        thread = threading.Thread(target=lambda: answers.append(client.rest("/v1/models/m:predict", long)))
        thread.start()
        time.sleep(0.2)
        status, answer = client.rest("/v1/models/m:predict", {"inputs": [1]})
        assert (status, answer["error"]) == (504, "Deadline exceeded before the model was run")
        thread.join()
        # What has begun is finished.
        assert [status for status, _ in answers] == [200]
        assert _runs(client) == 3
