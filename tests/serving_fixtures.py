"""What the server's tests share: tiny models, made once a run, servers, and the clients that ask them."""

import contextlib
import functools
import gc
import http.client
import json
import shutil
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray
from prometheus_client.parser import text_string_to_metric_families

from tfship.export.conversion import signature_metadata
from tfship.serving.metrics.metrics import Metrics
from tfship.serving.models.config import parse_config
from tfship.serving.models.loader import Loader
from tfship.serving.models.manager import LoadPolicy
from tfship.serving.protos.messages import predict_pb2
from tfship.serving.protos.stubs import ModelServiceStub, PredictionServiceStub
from tfship.serving.protos.tensors import from_proto, to_proto
from tfship.serving.server.model_server import ANY_PORT, ModelServer, Settings

ROOT = Path(__file__).resolve().parent.parent
# Deleted when the interpreter ends.
_FOLDER = tempfile.TemporaryDirectory(prefix="tfship-serving-")
TFLITE = Loader(prefer_tflite=True)
NEVER = 10**15  # microseconds: a batch runs when it is full
POOL = "batching_test"
_TEMPLATE = 7777
COUNT = ":tensorflow:serving:request_count"
LATENCY = ":tensorflow:serving:request_latency"

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@functools.cache
def tiny_models() -> Path:
    """Return a folder of SavedModels: double, texts, conv, slow, pair, examples."""
    import tensorflow as tf

    folder = Path(_FOLDER.name, "saved")

    def save(name: str, function: Callable[..., Any], *specs: Any) -> None:
        module = tf.Module()
        module.f = tf.function(function, input_signature=specs)
        tf.saved_model.save(module, str(folder / name / "1"), signatures={"serving_default": module.f})

    row = tf.TensorSpec([None, 2], tf.float32, "x")
    save("double", lambda x: {"y": 2.0 * x}, row)
    save(
        "texts",
        lambda s: {"upper": tf.strings.upper(s), "copy_bytes": tf.identity(s)},
        tf.TensorSpec([None], tf.string, "s"),
    )
    kernel = tf.ones([3, 3, 1, 1])
    save(
        "conv",
        lambda image: {"y": tf.nn.conv2d(image, kernel, 1, "VALID")},
        tf.TensorSpec([None, 4, 4, 1], tf.float32, "image"),
    )
    # Counts to n in a few microseconds a step: a request that lasts as long as the test wants.
    save(
        "slow",
        lambda n: {"n": tf.while_loop(lambda i: i < n[0], lambda i: [i + 1], [0])[0] + tf.zeros_like(n)},
        tf.TensorSpec([1], tf.int32, "n"),
    )
    save(
        "pair",
        lambda a, b: {"total": a + tf.cast(b, tf.float32), "a": tf.identity(a)},
        tf.TensorSpec([None], tf.float32, "a"),
        tf.TensorSpec([None], tf.int64, "b"),
    )
    _save_examples(folder / "examples" / "1")
    return folder


def _save_examples(folder: Path) -> None:
    """Save a model of tf.Examples with the float feature x: signatures that are right, and some that aren't."""
    import tensorflow as tf

    module = tf.Module()

    def signature(function: Callable[[Any], Any]) -> Any:
        def serve(inputs: Any) -> Any:
            features = tf.io.parse_example(inputs, {"x": tf.io.FixedLenFeature([1], tf.float32)})
            return function(features["x"])

        return tf.function(serve, input_signature=[tf.TensorSpec([None], tf.string, "inputs")])

    def labels(x: Any) -> Any:
        return tf.tile([["small", "gro\u00df"]], [tf.shape(x)[0], 1])

    signatures = {
        "classify": signature(lambda x: {"classes": labels(x), "scores": tf.concat([1 - x, x], 1)}),
        "scores": signature(lambda x: {"scores": tf.concat([1 - x, x], 1)}),
        "classes": signature(lambda x: {"classes": labels(x)}),
        "regress": signature(lambda x: {"outputs": x / 2 + 2}),
        "flat": signature(lambda x: {"outputs": x[:, 0]}),
        "wide": signature(lambda x: {"outputs": tf.concat([x, x], 1)}),
        "flat_scores": signature(lambda x: {"scores": x[:, 0]}),
        "integers": signature(lambda x: {"outputs": tf.cast(x, tf.int64)}),
        "one_row": signature(lambda x: {"scores": x[:1]}),
        "not_text": signature(lambda x: {"classes": tf.fill(tf.shape(x), b"\xff")}),
    }
    module.functions = signatures
    tf.saved_model.save(module, str(folder), signatures=signatures)


def tflite_times(factor: int) -> bytes:
    """Return a TFLite file whose output y is its input x, float32 [batch, 2], times `factor`."""
    if factor == 1:
        return _converted_times(1)  # a copy without an operator, of which LiteRT writes nothing to stderr
    # The number is all that differs, and a conversion takes half a second.
    content, known = _converted_times(_TEMPLATE), struct.pack("<f", _TEMPLATE)
    assert content.count(known) == 1
    return content.replace(known, struct.pack("<f", factor))


@functools.cache
def _converted_times(factor: int) -> bytes:
    return to_tflite(lambda x: {"y": x * float(factor)}, x=[None, 2])


def to_tflite(function: Callable[..., Any], **inputs: list[int | None]) -> bytes:
    """Return a function of float32 tensors as a TFLite file with one signature, `signature_defs_metadata` too."""
    import tensorflow as tf

    module = tf.Module()
    specs = [tf.TensorSpec(shape, tf.float32, name) for name, shape in inputs.items()]
    module.f = tf.function(function, input_signature=specs)
    with tempfile.TemporaryDirectory(prefix="tfship-") as folder:
        tf.saved_model.save(module, folder, signatures={"serving_default": module.f})
        data: bytes = tf.lite.TFLiteConverter.from_saved_model(folder).convert()
    return signature_metadata.add(data)


def poison() -> bytes:
    """Return a TFLite file that LiteRT verifies and then dies of: it has no subgraphs."""
    content = bytearray(tflite_times(1))
    (table,) = struct.unpack_from("<I", content)
    fields = table - struct.unpack_from("<i", content, table)[0]
    struct.pack_into("<H", content, fields + 4 + 2 * 2, 0)  # the third one of Model in tflite/schema.fbs
    return bytes(content)


def publish(base_path: Path, version: int, content: bytes | None = None) -> None:
    """Make a version appear at once, as `tfship export` does: `times version`, or a file with `content`."""
    stage = base_path / f".stage-{version}"
    stage.mkdir(parents=True)
    (stage / "model.tflite").write_bytes(tflite_times(version) if content is None else content)
    stage.rename(base_path / str(version))


def withdraw(base_path: Path, version: int) -> None:
    """Make a version disappear."""
    shutil.rmtree(base_path / str(version))


def config_of(**base_paths: Path) -> Any:
    """Return the ModelServerConfig of models by name."""
    entries = (
        f'config {{ name: "{name}" base_path: "{path}" model_platform: "tensorflow" }}'
        for name, path in base_paths.items()
    )
    return parse_config(f"model_config_list {{ {' '.join(entries)} }}", "test")


@dataclass(frozen=True)
class Client:
    """Both ways to a server on this machine."""

    grpc_port: int
    rest_port: int

    @staticmethod
    def of(ready: Path) -> "Client":
        """Return a client of the server that has written the ready file."""
        ports = json.loads(ready.read_text())
        return Client(ports["grpc_port"], ports["rest_port"])

    def rest(self, path: str, body: Any = None, method: str | None = None, **headers: str) -> tuple[int, Any]:
        """Return the status and the answer, parsed if it is JSON; `body` is sent as it is if bytes, else as JSON."""
        status, found, answer = self._ask(path, body, method, headers)
        is_json = found.get("content-type", "").startswith("application/json")
        return status, json.loads(answer) if is_json else answer.decode()

    def headers(self, path: str, body: Any = None, **headers: str) -> dict[str, str]:
        """Return the headers of an answer, names in lower case."""
        return self._ask(path, body, None, headers)[1]

    def _ask(
        self, path: str, body: Any, method: str | None, headers: dict[str, str]
    ) -> tuple[int, dict[str, str], bytes]:
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        connection = http.client.HTTPConnection("127.0.0.1", self.rest_port, timeout=100)
        with contextlib.closing(connection):
            names = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method or ("GET" if body is None else "POST"), path, data, names)
            response = connection.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            return response.status, found, response.read()

    @contextlib.contextmanager
    def channel(self) -> Iterator[grpc.Channel]:
        with grpc.insecure_channel(
            f"127.0.0.1:{self.grpc_port}", options=[("grpc.max_receive_message_length", -1)]
        ) as channel:
            yield channel

    def predict(self, model: str, **inputs: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Predict over gRPC; raises grpc.RpcError."""
        request = predict_pb2.PredictRequest()
        request.model_spec.name = model
        for name, array in inputs.items():
            request.inputs[name].CopyFrom(to_proto(array))
        return {name: from_proto(each) for name, each in self.call("Predict", request).outputs.items()}

    def call(self, rpc: str, request: Any) -> Any:
        with self.channel() as channel:
            models = rpc in ("GetModelStatus", "HandleReloadConfigRequest")
            stub = (ModelServiceStub if models else PredictionServiceStub)(channel)
            return getattr(stub, rpc)(request, timeout=100)

    def refusal(self, rpc: str, request: Any) -> tuple[str, str]:
        """Return the status code's name and the details of a call that fails."""
        try:
            answer = self.call(rpc, request)
        except grpc.RpcError as error:
            return error.code().name, error.details() or ""
        raise AssertionError(f"{rpc} was answered: {answer}")

    def states(self, model: str) -> dict[str, str]:
        """Return each version's state."""
        status, answer = self.rest(f"/v1/models/{model}")
        assert status == 200, answer
        return {each["version"]: each["state"] for each in answer["model_version_status"]}


@contextlib.contextmanager
def serving(
    config: Any, settings: Settings | None = None, loading: LoadPolicy | None = None
) -> Iterator[Client]:
    """Run a server in this process, on free ports."""
    settings = replace(settings or Settings(), grpc_port=ANY_PORT, rest_port=ANY_PORT)
    server = ModelServer(config, replace(settings, loading=loading or LoadPolicy(poll_seconds=0.05)))
    try:
        server.start()
        yield Client(server.grpc_port, server.rest_port)
    finally:
        server.stop(5)


SERVE = [sys.executable, "-m", "tfship.serving.command"]


@contextlib.contextmanager
def process(*argv: str, ready: Path | None = None) -> Iterator[subprocess.Popen[str]]:
    """Start `tfship serve`, and see to it that it doesn't outlive the test."""
    command = [*SERVE, *argv, *([f"--ready_file={ready}"] if ready else [])]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as started:
        try:
            yield started
        finally:
            if started.poll() is None:
                started.kill()


def client_of(started: subprocess.Popen[str], ready: Path) -> Client:
    """Return a client of the server that `process` has started, when it is ready."""
    eventually(lambda: ready.exists() or started.poll() is not None)
    assert started.poll() is None, started.communicate()
    content = json.loads(ready.read_text())
    assert content["pid"] == started.pid
    return Client(content["grpc_port"], content["rest_port"])


def eventually(check: Callable[[], bool], seconds: float = 200.0) -> None:
    """Wait until `check` holds."""
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, "didn't come true in time"
        time.sleep(0.02)


@contextlib.contextmanager
def only_new_objects() -> Iterator[Callable[[], list[Any]]]:
    """Yield what returns the objects made since that are still there: looking at TensorFlow's, too, takes seconds."""
    gc.collect()
    gc.freeze()

    def new() -> list[Any]:
        gc.collect()
        return gc.get_objects()

    try:
        yield new
    finally:
        gc.unfreeze()


def slow_steps(client: Client, seconds: float, model: str = "m") -> int:
    """Return how many steps of `slow`, served as `model`, take at least so long on this machine."""
    steps = 20_000
    times = []
    for _ in range(5):
        begin = time.monotonic()
        client.predict(model, n=np.array([steps], np.int32))
        times.append(time.monotonic() - begin)
    # Other programs make some take longer, and a number by those would take too short a time later.
    return int(steps * seconds / min(times))


def factor(client: Client, target: str = "m") -> float:
    """Return what the model multiplies with, which is its version."""
    status, answer = client.rest(f"/v1/models/{target}:predict", {"instances": [[1, 0]]})
    assert status == 200, answer
    return float(answer["predictions"][0][0])


@contextlib.contextmanager
def asked(client: Client) -> Iterator[list[float]]:
    """Ask the model all the time, in a thread, and yield the answers so far; each must be one."""
    seen: list[float] = []
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            seen.append(factor(client))

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        eventually(lambda: len(seen) > 5)
        yield seen
    finally:
        done.set()
        thread.join()


def at_once(call: Callable[[Any], Any], arguments: Iterable[Any]) -> list[Any]:
    """Make a call with each argument, each in a thread of its own, and return what they returned or raised."""

    def made(argument: Any) -> Any:
        try:
            return call(argument)
        except Exception as error:  # noqa: BLE001
            return error

    listed = list(arguments)
    with ThreadPoolExecutor(len(listed)) as callers:
        return list(callers.map(made, listed))


def pool_threads() -> list[str]:
    """Return the names of the threads that run batches."""
    return [each.name for each in threading.enumerate() if each.name.startswith(POOL)]


def parsed(page: str) -> Samples:
    """Read a metrics page as Prometheus does: values by name and labels."""
    return {
        (as_told(sample.name, page), frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


def as_told(name: str, page: str) -> str:
    """Take the `_total` off a counter that prometheus_client's parser gives it."""
    return name if f"{name}{{" in page else name.removesuffix("_total")


def value(metrics: Metrics | str, name: str, **labels: str) -> float | None:
    """Return the value that a metrics page, or the page of `metrics`, gives a metric with these labels."""
    page = metrics if isinstance(metrics, str) else metrics.page()[0].decode()
    return parsed(page).get((name, frozenset(labels.items())))


def run(*argv: str | Path, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    """Run a command in the root of the repository."""
    return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False, timeout=timeout)


ROW = np.array([[1.0, 2.0]], np.float32)
