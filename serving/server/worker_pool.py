"""Several worker processes that act as one `Host`: they share the ports, and are told the same at the same time.

Python runs one thread at a time, so a process per core is what uses a machine. A worker that dies, whatever
killed it, is replaced; the others go on meanwhile.
"""

import concurrent.futures
import contextlib
import logging
import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tfship.serving.metrics.metrics import FOLDER
from tfship.serving.models.snapshot import ProcessDiedError, View
from tfship.serving.protos.messages import model_server_config_pb2
from tfship.serving.protos.status import Code, StatusError
from tfship.serving.server.rpc import Channel, ChannelClosed
from tfship.serving.server.settings import Settings
from tfship.serving.server.sockets import bound
from tfship.train.common.errors import ArtifactError
from tfship.train.common.tensorflow_loader import WITHOUT_KERAS

__all__ = ["WorkerPool"]

log = logging.getLogger(__name__)

# glibc's allocator, for a server: bodies of a few hundred kilobytes aren't mapped and unmapped each time, which costs
# a page fault per 4 KiB, and not every thread keeps memory of its own.
_MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(64 * 2**20),
    "MALLOC_ARENA_MAX": "4",
}
# A worker that dies is replaced at once; one that doesn't live long, time and again, after ever longer pauses.
_PAUSES_SECONDS = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
_LONG_SECONDS = 60.0
# Until the first heartbeat of a process that starts: what it imports may have to come from a slow disk.
_START_SECONDS = 60
# How long a version that may kill its process waits for a second one, when there is only one left.
_COMPANY_SECONDS = 30.0
# What a worker gets to end by itself once there is nothing left to do.
_END_SECONDS = 5.0


@dataclass(eq=False)
class _Worker:
    number: int
    process: subprocess.Popen[bytes]
    channel: Channel
    reader: threading.Thread
    started: float

    def ended(self) -> str:
        """Return how the process ended, when its channel is closed; one that lives on all the same is killed."""
        try:
            code = self.process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        return f"signal {-code}" if code < 0 else f"exit code {code}"


class WorkerPool:
    """A `Host` of `settings.workers` processes. `reload` is called with the ModelServerConfig of a reload by RPC.

    A process that hangs, in whatever, is killed and replaced like one that dies: it sends a heartbeat every
    second, and nothing here waits for it longer than `settings.worker_timeout_seconds`.
    """

    def __init__(self, settings: Settings, reload: Callable[[Any], None]) -> None:
        self._settings = settings
        self._reload = reload
        # Held while the fields below change, and while all workers are told of it. What they all must have is in
        # `_loaded`, `_view` and `_ports`; a worker is in `_active` when it has all of it, and from then on gets
        # each change.
        self._lock = threading.Lock()
        self._active: list[_Worker] = []
        self._loaded: dict[int, Path] = {}
        self._view: View = {}
        self._ports: tuple[int, int] | None = None
        self._held: list[socket.socket] = []
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        # Used without the lock, for whoever holds it may have to wait for a process that hangs. `_all` has those
        # that are about to take their place, too.
        self._all: set[_Worker] = set()
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
                raise ArtifactError(
                    f"a worker process ended at its start ({worker.ended()}); its output says why"
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
        takes one of them down and not all; nor is the last one risked as long as another is about to come.
        """
        alone_until = time.monotonic() + _COMPANY_SECONDS
        notes: tuple[str, ...] = ()
        done: set[_Worker] = set()
        died: set[_Worker] = set()
        while True:
            with self._lock:
                targets = [worker for worker in self._active if worker not in done and worker not in died]
                if done and not targets:
                    self._loaded[key] = path
                    return notes
                careful = self._ports is not None and not done
                alone = len(self._active) < min(2, self._settings.workers)
            if not targets or (careful and alone and time.monotonic() < alone_until):
                if self._stopping.wait(0.1):
                    raise _stops()
                continue
            targets = targets[:1] if careful else targets
            answers = [(worker, worker.channel.start("load", key, path)) for worker in targets]
            error: StatusError | None = None
            for worker, answer in answers:
                try:
                    notes = answer.result()
                    done.add(worker)
                except StatusError as refusal:
                    error = refusal
                except ChannelClosed:
                    died.add(worker)
                    if self._stopping.is_set():
                        error = _stops()
                    elif not done:
                        # Where another worker has loaded it, it wasn't the version that killed this one.
                        error = ProcessDiedError(f"{path}: the process that loads it dies ({worker.ended()})")
            if error:
                self._tell(done, "unload", key)
                raise error

    def unload(self, key: int) -> None:
        """See `Fleet.unload`."""
        with self._lock:
            self._loaded.pop(key, None)
            workers = list(self._active)
        self._tell(workers, "unload", key)

    def publish(self, view: View) -> None:
        """See `Fleet.publish`."""
        with self._lock:
            self._view = view
            self._tell(self._active, "publish", view)

    def release(self) -> None:
        """See `Fleet.release`."""
        self._stopping.set()
        for worker in self._all.copy():
            worker.channel.start("release")

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
            self._tell(self._active, "open", *self._ports)
        return self._ports

    def close(self, grace_seconds: float = 0.0) -> None:
        """Take no more requests, give those that run `grace_seconds` to end, and end the processes."""
        self._stopping.set()
        workers = self._all.copy()
        answers = []
        for worker in workers:
            if self._ports and worker in self._active:
                answers.append(worker.channel.start("close", grace_seconds))
            else:
                worker.process.kill()  # it serves nothing yet
        concurrent.futures.wait(answers, grace_seconds + _END_SECONDS)
        for worker in workers:
            worker.channel.close()
        for worker in workers:
            worker.ended()
        for keeper in self._keepers:
            keeper.join()
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
        for name, value in {**_MALLOC, **WITHOUT_KERAS}.items():
            environment.setdefault(name, value)
        if self._folder:
            environment[FOLDER] = self._folder.name
        connection = Connection(ours.detach())
        # The new process inherits that they are held, and never takes them: a terminal's Ctrl-C and a service
        # manager's SIGTERM reach every process, and only this one obeys.
        with theirs, _signals_held():
            process = subprocess.Popen(
                [sys.executable, "-m", "tfship.serving.server.worker", str(theirs.fileno()), str(number)],
                pass_fds=[theirs.fileno()],
                env=environment,
                stdin=subprocess.DEVNULL,
            )
            channel = Channel(connection, self)
            reader = threading.Thread(target=self._read, args=(number, process, channel), daemon=True)
            worker = _Worker(number, process, channel, reader, time.monotonic())
            self._all.add(worker)
        with contextlib.suppress(OSError):
            connection.send_bytes(pickle.dumps(self._settings_of(number)))
        reader.start()
        return worker

    def _settings_of(self, number: int) -> Settings:
        # Unlike a port, a Unix socket belongs to one process at a time: the first, or who takes its place.
        return self._settings if number == 0 else replace(self._settings, grpc_socket=None)

    def _read(self, number: int, process: subprocess.Popen[bytes], channel: Channel) -> None:
        patience = self._settings.worker_timeout_seconds
        if not channel.serve(patience, _START_SECONDS):
            log.warning("worker %d: no heartbeat for %d s; killed", number, patience)
            process.kill()

    def _keep(self, worker: _Worker) -> None:
        """Wait for the worker's end and start the next in its place, for as long as the server runs."""
        deaths = 0
        while True:
            worker.reader.join()
            ended = worker.ended()
            with self._lock:
                if worker in self._active:
                    self._active.remove(worker)
            self._all.discard(worker)
            if self._stopping.is_set():
                return
            deaths = 0 if time.monotonic() - worker.started > _LONG_SECONDS else deaths
            log.warning("worker %d has died (%s); a new one takes its place", worker.number, ended)
            if self._stopping.wait(_PAUSES_SECONDS[min(deaths, len(_PAUSES_SECONDS) - 1)]):
                return
            deaths += 1
            try:
                worker = self._spawn(worker.number)
                self._catch_up(worker)
            except Exception as error:  # noqa: BLE001 - whatever it is, the next try may go better
                if not self._stopping.is_set():
                    why = error if str(error) else "it has died"
                    log.warning("worker %d can't take its place: %s", worker.number, why)
                worker.process.kill()

    def _catch_up(self, worker: _Worker) -> None:
        done: set[int] = set()
        while True:
            with self._lock:
                if self._stopping.is_set():
                    raise _stops()
                missing = {key: path for key, path in self._loaded.items() if key not in done}
                if not missing:
                    for key in done - self._loaded.keys():
                        worker.channel.call("unload", key)
                    worker.channel.call("publish", self._view)
                    if self._ports:
                        worker.channel.call("open", *self._ports)
                    self._active.append(worker)
                    break
            for key, path in missing.items():
                try:
                    worker.channel.call("load", key, path)
                except StatusError:
                    # The files of a version that has been retired meanwhile may well be gone.
                    if key in self._loaded:
                        raise
                else:
                    done.add(key)
        log.info("worker %d has taken its place", worker.number)

    def _tell(self, workers: Iterable[_Worker], method: str, *arguments: Any) -> None:
        """Call the method in all of them at the same time, and wait for those that live."""
        for answer in [worker.channel.start(method, *arguments) for worker in workers]:
            with contextlib.suppress(ChannelClosed):
                answer.result()


def _stops() -> StatusError:
    return StatusError(Code.UNAVAILABLE, "the server is stopping")


@contextlib.contextmanager
def _signals_held() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
