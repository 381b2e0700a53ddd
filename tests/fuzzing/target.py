"""A server of two workers under fire: every case gets an answer that it may have, and no worker is the worse for it."""

import contextlib
import re
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from fuzzing.answers import Sender
from fuzzing.cases import Case, Served
from fuzzing.grpc_cases import PREDICT
from processes import workers_of
from serving_fixtures import ROOT, ROW, SERVE, Client, eventually, publish, tiny_models
from tfship.serving.models.config import read_config
from tfship.serving.protos.messages import predict_pb2, types_pb2
from tfship.serving.protos.tensors import from_proto, to_proto

__all__ = ["MODELS", "Target", "signatures", "target"]

# Of the tests' tiny models.
MODELS = ("double", "texts", "conv", "pair", "examples")

# An answer that takes longer is none.
_SECONDS = 30.0
# What a worker's memory may grow by, at any moment, over what it was when all models were loaded and had run.
_GROWTH_BYTES = 1 << 30
# gRPC connections: so many that each worker has some.
_CHANNELS = 8
_OPTIONS = [
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.enable_retries", 0),
]


@dataclass
class _Worker:
    pid: int
    started: str
    bytes: int
    bound: int


@dataclass
class Target:
    """The server, its clients, and what has come of the cases so far."""

    server: subprocess.Popen[bytes]
    client: Client
    sender: Sender
    log: Path
    config: Any
    served: Sequence[Served]
    channels: Sequence[grpc.Channel]
    statuses: Counter[tuple[str, str]] = field(default_factory=Counter)
    slowest: float = 0.0
    last: Case | None = None
    _workers: list[_Worker] = field(default_factory=list)
    _log_bytes: int = 0

    def __post_init__(self) -> None:
        self.check_health()
        for pid in workers_of(self.server.pid):
            size = _memory(pid, "VmRSS")
            self._workers.append(_Worker(pid, _started(pid), size, size + _GROWTH_BYTES))
        assert len(self._workers) == 2, self.tail()

    def check(self, case: Case) -> None:
        """Send a case; raise AssertionError if it isn't answered as it should be, or harms a worker."""
        self.last = case
        for worker in self._workers:
            # So that the peak is this case's own (proc(5)).
            Path(f"/proc/{worker.pid}/clear_refs").write_text("5")
        begin = time.monotonic()
        try:
            outcome = self.sender.send(case)
        except AssertionError as failure:
            raise AssertionError(f"{failure}\n{self.tail()}") from None
        self.slowest = max(self.slowest, time.monotonic() - begin)
        self.statuses[case.kind, outcome] += 1
        self.check_workers()
        self.check_log()

    def check_log(self) -> None:
        """Raise AssertionError if the log shows a bug."""
        if self.log.stat().st_size > self._log_bytes:
            with self.log.open("rb") as file:
                file.seek(self._log_bytes)
                new = file.read()
            self._log_bytes += len(new)
            text = new.decode(errors="replace")
            assert not re.search("Traceback|unexpected error|has died", text), text[-3000:]

    def check_workers(self) -> None:
        """Raise AssertionError if a worker has died, or has ever needed too much memory."""
        for worker in self._workers:
            assert _started(worker.pid) == worker.started, f"worker {worker.pid} has died\n{self.tail()}"
            peak = _memory(worker.pid, "VmHWM")
            assert peak <= worker.bound, f"worker {worker.pid} has used {peak >> 20} MiB"

    def check_health(self) -> None:
        """Raise AssertionError if good requests aren't answered right by every worker, or the log shows a bug."""
        for _ in range(_CHANNELS):
            assert self.client.rest("/v1/models/double:predict", {"instances": [[1, 2]]}) == (
                200,
                {"predictions": [[2.0, 4.0]]},
            )
            assert self.client.rest("/v1/models/lite:predict", {"instances": [[1, 2]]}) == (
                200,
                {"predictions": [[3.0, 6.0]]},
            )
        for channel in self.channels:
            for model, factor in (("double", 2), ("lite", 3)):
                np.testing.assert_array_equal(_predict(channel, model), ROW * factor)
        self.check_workers()
        self.check_log()

    def tail(self) -> str:
        """Return the end of the server's log."""
        return self.log.read_text(errors="replace")[-3000:]

    def rss(self) -> list[int]:
        """Return each worker's memory in bytes."""
        return [_memory(worker.pid, "VmRSS") for worker in self._workers]

    def growth(self) -> list[int]:
        """Return by how many bytes each worker's memory has grown since the first case."""
        return [_memory(worker.pid, "VmRSS") - worker.bytes for worker in self._workers]


@contextlib.contextmanager
def target(
    exported: Path | None = None, recorded: Path | None = None, flags: Sequence[str] = ()
) -> Iterator[Target]:
    """Run the server with the tests' tiny models on both runtimes and, if given, folders of more of them.

    Models in `exported` run on both runtimes, those in `recorded` are SavedModels.
    """
    with tempfile.TemporaryDirectory(prefix="tfship-fuzz-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        publish(folder / "lite", 3)
        models = {each: tiny_models() / each for each in MODELS}
        models["lite"] = folder / "lite"
        for path in sorted(exported.iterdir()) if exported else ():
            if any(path.glob("[0-9]*/saved_model.pb")):
                models |= {f"{path.name}_lite": path, f"{path.name}_saved": folder / path.name}
                shutil.copytree(path, folder / path.name, ignore=shutil.ignore_patterns("model.tflite"))
        for path in sorted(recorded.iterdir()) if recorded else ():
            models[f"recorded_{path.name}"] = path
        config = "".join(
            f'config {{ name: "{each}" base_path: "{path}" model_platform: "tensorflow" }}\n'
            for each, path in models.items()
        )
        (folder / "models.config").write_text(f"model_config_list {{\n{config}}}\n")
        server = stack.enter_context(_server(folder, flags))
        client = Client.of(folder / "ready.json")
        address = f"127.0.0.1:{client.grpc_port}"
        channels = [stack.enter_context(grpc.insecure_channel(address, _OPTIONS)) for _ in range(_CHANNELS)]
        served = [each for model in models for each in signatures(client, model)]
        sender = Sender(client.rest_port, client.grpc_port, channels)
        yield Target(
            server, client, sender, folder / "log", read_config(folder / "models.config"), served, channels
        )


@contextlib.contextmanager
def _server(folder: Path, flags: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    command = [*SERVE, f"--model_config_file={folder}/models.config"]
    command += ["--port=-1", "--rest_api_port=-1", f"--ready_file={folder}/ready.json", "--workers=2"]
    command += ["--prefer_tflite_model", *flags]
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log) as server,
    ):
        try:
            eventually(lambda: (folder / "ready.json").exists() or server.poll() is not None, 120)
            assert server.poll() is None, (folder / "log").read_text()
            yield server
        finally:
            server.terminate()
            try:
                server.wait(60)
            except subprocess.TimeoutExpired:
                server.kill()


def signatures(client: Client, model: str) -> Iterator[Served]:
    """Yield what can be called of a model, as its metadata say."""
    _, answer = client.rest(f"/v1/models/{model}/metadata")
    for name, signature in answer["metadata"]["signature_def"]["signature_def"].items():
        if signature["method_name"]:
            inputs = {key: _input(each) for key, each in signature["inputs"].items()}
            yield Served(model, name, inputs)


def _input(info: Mapping[str, Any]) -> tuple[int, tuple[int, ...] | None]:
    shape = info["tensor_shape"]
    sizes = None if shape["unknown_rank"] else tuple(int(each["size"]) for each in shape["dim"])
    return types_pb2.DataType.Value(info["dtype"]), sizes


def _predict(channel: grpc.Channel, model: str) -> Any:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    request.inputs["x"].CopyFrom(to_proto(ROW))
    answer = channel.unary_unary(PREDICT, None, None)(request.SerializeToString(), timeout=_SECONDS)
    return from_proto(predict_pb2.PredictResponse.FromString(answer).outputs["y"])


def _started(pid: int) -> str:
    """Return when a process has started, so that it can't be taken for another; "" if it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


def _memory(pid: int, name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found, f"worker {pid} has ended"
    return int(found[1]) * 1024
