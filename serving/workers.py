"""Several worker processes that act as one `Host`: they share the ports, and are told the same at the same time.

Python runs one thread at a time, so a process per core is what uses a machine. A worker that dies, whatever
killed it, is replaced; the others go on meanwhile.
"""

import contextlib
import logging
import os
import pickle
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from serving.channel import Channel, ChannelClosed
from serving.metrics import FOLDER
from serving.ports import bound
from serving.protos import model_server_config_pb2
from serving.settings import Settings
from serving.status import Code, StatusError
from serving.view import View
from train.errors import ArtifactError, UsageError

__all__ = ["Workers"]

log = logging.getLogger(__name__)

# glibc's allocator, for a server: bodies of a few hundred kilobytes aren't mapped and unmapped each time, which costs
# a page fault per 4 KiB, and threads don't each keep memory of their own.
_MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(64 * 2**20),
    "MALLOC_ARENA_MAX": "2",
}
_ROOT = Path(__file__).resolve().parent.parent
# A worker that dies is replaced at once; one that doesn't live long, time and again, after ever longer pauses.
_PAUSES_SECONDS = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
_LONG_SECONDS = 60.0
# What a worker does at once unless it hangs; then it is killed, and replaced.
_PATIENCE_SECONDS = 30.0


@dataclass(eq=False)
class _Worker:
    number: int
    process: subprocess.Popen[bytes]
    channel: Channel
    reader: threading.Thread
    started: float


class Workers:
    """A `Host` of `settings.workers` processes. `reload` is called with the ModelServerConfig of a reload by RPC."""

    def __init__(self, settings: Settings, reload: Callable[[Any], None]) -> None:
        self._settings = settings
        self._reload = reload
        # Guards the fields below. What all workers must have is in `_loaded`, `_view` and `_ports`; a worker is
        # in `_active` when it has all of it, and from then on gets each change.
        self._lock = threading.RLock()
        self._active: list[_Worker] = []
        self._living: set[_Worker] = set()
        self._loaded: dict[int, Path] = {}
        self._view: View = {}
        self._ports: tuple[int, int] | None = None
        self._held: list[socket.socket] = []
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._stopping = threading.Event()
        self._keepers: list[threading.Thread] = []

    def start(self) -> None:
        """Start the processes. Raises ArtifactError if one doesn't come up."""
        if self._settings.metrics_path is not None:
            self._folder = tempfile.TemporaryDirectory(prefix="tfship-metrics-")
        workers = [self._spawn(number) for number in range(self._settings.workers)]
        for worker in workers:
            try:
                worker.channel.call("publish", {})
            except ChannelClosed:
                code = worker.process.wait()
                raise ArtifactError(
                    f"a worker process ended at its start ({_ended(code)}); its output says why"
                ) from None
        with self._lock:
            self._active = workers
        self._keepers = [
            threading.Thread(target=self._keep, args=(worker,), name=f"worker-{worker.number}", daemon=True)
            for worker in workers
        ]
        for keeper in self._keepers:
            keeper.start()

    def load(self, key: int, path: Path) -> tuple[str, ...]:
        """See `Fleet.load`.

        Once something is served, one worker tries a version before the others do: a model that kills its process
        takes one of them down and not all.
        """
        notes: tuple[str, ...] = ()
        done: set[_Worker] = set()
        while True:
            with self._lock:
                targets = [worker for worker in self._active if worker not in done]
                if done and not targets:
                    self._loaded[key] = path
                    return notes
                careful = bool(self._loaded) and not done
            if not targets:
                if self._stopping.wait(0.1):
                    raise StatusError(Code.UNAVAILABLE, "the server is stopping")
                continue
            targets = targets[:1] if careful else targets
            answers = [(worker, worker.channel.start("load", key, path)) for worker in targets]
            errors = []
            for worker, answer in answers:
                try:
                    notes = answer.result()
                except StatusError as error:
                    errors.append(error)
                except ChannelClosed:
                    # Where another worker has loaded it, it wasn't the version that killed this one.
                    if not done:
                        ended = _ended(worker.process.wait())
                        errors.append(
                            StatusError(Code.INTERNAL, f"{path}: the process that loads it dies ({ended})")
                        )
                else:
                    done.add(worker)
            if errors:
                self._all("unload", done, key)
                raise errors[0]

    def unload(self, key: int) -> None:
        """See `Fleet.unload`."""
        with self._lock:
            self._loaded.pop(key, None)
            workers = list(self._active)
        self._all("unload", workers, key)

    def publish(self, view: View) -> None:
        """See `Fleet.publish`."""
        with self._lock:
            self._view = view
            answers = [(worker, worker.channel.start("publish", view)) for worker in self._active]
            for worker, answer in answers:
                try:
                    answer.result(_PATIENCE_SECONDS)
                except ChannelClosed:
                    pass
                except TimeoutError:
                    log.warning("worker %d doesn't answer, and is killed", worker.number)
                    worker.process.kill()

    def release(self) -> None:
        """See `Fleet.release`."""
        with self._lock:
            self._stopping.set()
            self._all("release", self._active)

    def open(self, grpc_port: int, rest_port: int) -> tuple[int, int]:
        """Open the ports of all workers, and return them. Raises UsageError."""
        ports = []
        for port in (grpc_port, rest_port):
            if port:
                # Bound here for good and never listened at, so that the number stays this server's.
                self._held.append(bound(self._settings.host, max(0, port), shared=True, listening=False))
                ports.append(self._held[-1].getsockname()[1])
            else:
                ports.append(0)
        with self._lock:
            self._ports = (ports[0], ports[1])
            for answer in [worker.channel.start("open", *self._ports) for worker in self._active]:
                with contextlib.suppress(ChannelClosed):
                    answer.result()
        return self._ports

    def close(self, grace_seconds: float = 0.0) -> None:
        """Take no more requests, give those that run `grace_seconds` to end, and end the processes."""
        self._stopping.set()
        with self._lock:
            workers = list(self._living)
        deadline = time.monotonic() + grace_seconds
        answers = [worker.channel.start("close", grace_seconds) for worker in workers]
        for answer in answers:
            with contextlib.suppress(ChannelClosed, TimeoutError):
                answer.result(max(0.0, deadline - time.monotonic()) + 5)
        for worker in workers:
            worker.channel.close()
        for worker in workers:
            try:
                worker.process.wait(max(0.0, deadline - time.monotonic()) + 5)
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()
        for held in self._held:
            held.close()
        if self._folder:
            self._folder.cleanup()

    def reload(self, config: bytes) -> None:
        """Do what a worker was asked for: see `ModelManager.reload`."""
        self._reload(model_server_config_pb2.ModelServerConfig.FromString(config))

    def _spawn(self, number: int) -> _Worker:
        ours, theirs = socket.socketpair()
        environment = dict(os.environ)
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(_ROOT), environment.get("PYTHONPATH")]))
        for name, value in _MALLOC.items():
            environment.setdefault(name, value)
        if self._folder:
            environment[FOLDER] = self._folder.name
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-m", "serving.worker", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env=environment,
                stdin=subprocess.DEVNULL,
            )
        connection = Connection(ours.detach())
        with contextlib.suppress(OSError):
            connection.send_bytes(pickle.dumps(self._settings_of(number)))
        channel = Channel(connection, self)
        reader = threading.Thread(target=channel.serve, name=f"worker-{number}-calls", daemon=True)
        reader.start()
        worker = _Worker(number, process, channel, reader, time.monotonic())
        with self._lock:
            self._living.add(worker)
        return worker

    def _settings_of(self, number: int) -> Settings:
        # Unlike a port, a Unix socket belongs to one process at a time: the first, or who takes its place.
        return self._settings if number == 0 else replace(self._settings, grpc_socket=None)

    def _keep(self, worker: _Worker) -> None:
        """Wait for the worker's end and start the next in its place, for as long as the server runs."""
        deaths = 0
        while True:
            worker.reader.join()
            code = worker.process.wait()
            with self._lock:
                if worker in self._active:
                    self._active.remove(worker)
                self._living.discard(worker)
            if self._stopping.is_set():
                return
            deaths = 0 if time.monotonic() - worker.started > _LONG_SECONDS else deaths
            log.warning("worker %d has died (%s); a new one takes its place", worker.number, _ended(code))
            if self._stopping.wait(_PAUSES_SECONDS[min(deaths, len(_PAUSES_SECONDS) - 1)]):
                return
            deaths += 1
            with self._lock:
                if self._stopping.is_set():
                    return
                worker = self._spawn(worker.number)
            try:
                self._catch_up(worker)
            except (ChannelClosed, StatusError, UsageError) as error:
                if self._stopping.is_set():
                    continue
                log.warning("worker %d can't take its place: %s", worker.number, error or "it has died")
                worker.process.kill()

    def _catch_up(self, worker: _Worker) -> None:
        done: set[int] = set()
        while True:
            with self._lock:
                missing = {key: path for key, path in self._loaded.items() if key not in done}
                if not missing:
                    worker.channel.call("publish", self._view)
                    if self._ports:
                        worker.channel.call("open", *self._ports)
                    self._active.append(worker)
                    break
            for key, path in missing.items():
                worker.channel.call("load", key, path)
                done.add(key)
        log.info("worker %d has taken its place", worker.number)

    def _all(self, method: str, workers: Iterable[_Worker], *arguments: Any) -> None:
        answers: list[Future[Any]] = [worker.channel.start(method, *arguments) for worker in workers]
        for answer in answers:
            with contextlib.suppress(ChannelClosed):
                answer.result()


def _ended(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"
