"""Pool of worker processes that acts as one `Host`: the workers share the ports and get the same calls.

Python runs one thread at a time, so that one process per core is needed to use all cores. A worker that dies is
replaced, while the others continue to serve.
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

# Settings of glibc's allocator. Mapping and unmapping bodies of a few hundred kilobytes each time would cost a page
# fault per 4 KiB. Fewer arenas need less memory.
_MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(64 * 2**20),
    "MALLOC_ARENA_MAX": "4",
}
# Pauses before a dead worker is replaced. Each death within `_LONG_SECONDS` of the start uses the next one.
_PAUSES_SECONDS = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
_LONG_SECONDS = 60.0
# Additional time until the first heartbeat, because imports may come from a slow disk.
_START_SECONDS = 60
# If only one worker is alive, the time that a new version waits for a second one before it is loaded.
_SECOND_WORKER_SECONDS = 30.0
# Time for a worker to exit after the connection is closed; then it is killed.
_END_SECONDS = 5.0


@dataclass(eq=False)
class _Worker:
    number: int
    process: subprocess.Popen[bytes]
    channel: Channel
    reader: threading.Thread
    started: float

    def wait_ended(self) -> str:
        """Wait for the process to end after its channel was closed, kill it after 5 s, and return how it ended."""
        try:
            code = self.process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        return f"signal {-code}" if code < 0 else f"exit code {code}"


class WorkerPool:
    """A `Host` of `settings.workers` processes. `reload` is called with the ModelServerConfig of a reload request.

    Workers send a heartbeat every second. One without a heartbeat for `settings.worker_timeout_seconds` is killed and
    replaced, so that no method waits longer for it.
    """

    def __init__(self, settings: Settings, reload: Callable[[Any], None]) -> None:
        self._settings = settings
        self._reload = reload
        # Held while the fields below change, and while the change is sent to the workers. `_loaded`, `_view` and
        # `_ports` are the common state. Workers in `_active` have all of it and get each change.
        self._lock = threading.Lock()
        self._active: list[_Worker] = []
        self._loaded: dict[int, Path] = {}
        self._view: View = {}
        self._ports: tuple[int, int] | None = None
        self._held: list[socket.socket] = []
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        # Used without the lock, because its holder may be waiting for a hanging process. `_all` also contains workers
        # that aren't active yet.
        self._all: set[_Worker] = set()
        self._stopping = threading.Event()
        self._supervisors: list[threading.Thread] = []

    def start(self) -> None:
        """Start the processes. Raises ArtifactError if one ends during its start."""
        if self._settings.metrics_path is not None:
            self._folder = tempfile.TemporaryDirectory(prefix="tfship-metrics-")
        workers = [self._spawn(number) for number in range(self._settings.workers)]
        for worker in workers:
            try:
                worker.channel.call("publish", {})
            except ChannelClosed:
                raise ArtifactError(
                    f"a worker process ended during its start ({worker.wait_ended()}); see its output for the reason"
                ) from None
        with self._lock:
            self._active = workers
        self._supervisors = [
            threading.Thread(
                target=self._supervise, args=(worker,), name=f"worker-{worker.number}", daemon=True
            )
            for worker in workers
        ]
        for supervisor in self._supervisors:
            supervisor.start()

    def load(self, key: int, path: Path) -> tuple[str, ...]:
        """See `Fleet.load`.

        Once the ports are open, one worker loads a version before the others do. A version that kills its process then
        ends only one of them. If one worker is left, the load waits up to 30 s for a second one.
        """
        alone_until = time.monotonic() + _SECOND_WORKER_SECONDS
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
                    raise _stopping_error()
                continue
            targets = targets[:1] if careful else targets
            futures = [(worker, worker.channel.start("load", key, path)) for worker in targets]
            error: StatusError | None = None
            for worker, future in futures:
                try:
                    notes = future.result()
                    done.add(worker)
                except StatusError as refusal:
                    error = refusal
                except ChannelClosed:
                    died.add(worker)
                    if self._stopping.is_set():
                        error = _stopping_error()
                    elif not done:
                        # If another worker has loaded the version, the version isn't the cause of the death.
                        error = ProcessDiedError(
                            f"{path}: the process that loaded it died ({worker.wait_ended()})"
                        )
            if error:
                self._call_all(done, "unload", key)
                raise error

    def unload(self, key: int) -> None:
        """See `Fleet.unload`."""
        with self._lock:
            self._loaded.pop(key, None)
            workers = list(self._active)
        self._call_all(workers, "unload", key)

    def publish(self, view: View) -> None:
        """See `Fleet.publish`."""
        with self._lock:
            self._view = view
            self._call_all(self._active, "publish", view)

    def release(self) -> None:
        """See `Fleet.release`."""
        self._stopping.set()
        for worker in self._all.copy():
            worker.channel.start("release")

    def open(self, grpc_port: int, rest_port: int) -> tuple[int, int]:
        """Open the ports of all workers and return their numbers. Raises UsageError."""
        ports = []
        for port in (grpc_port, rest_port):
            if port:
                # Bound here without listening, so that the port stays reserved for this server.
                self._held.append(bound(self._settings.host, max(0, port), shared=True, listening=False))
                ports.append(self._held[-1].getsockname()[1])
            else:
                ports.append(0)
        with self._lock:
            self._ports = (ports[0], ports[1])
            self._call_all(self._active, "open", *self._ports)
        return self._ports

    def close(self, grace_seconds: float = 0.0) -> None:
        """Refuse new requests, wait `grace_seconds` for those in flight, and end the processes."""
        self._stopping.set()
        workers = self._all.copy()
        futures = []
        for worker in workers:
            if self._ports and worker in self._active:
                futures.append(worker.channel.start("close", grace_seconds))
            else:
                worker.process.kill()  # it serves nothing yet
        concurrent.futures.wait(futures, grace_seconds + _END_SECONDS)
        for worker in workers:
            worker.channel.close()
        for worker in workers:
            worker.wait_ended()
        for supervisor in self._supervisors:
            supervisor.join()
        for held in self._held:
            held.close()
        if self._folder:
            self._folder.cleanup()

    def reload(self, config: bytes) -> None:
        """Reload on behalf of a worker; see `ModelManager.reload`."""
        self._reload(model_server_config_pb2.ModelServerConfig.FromString(config))

    def _spawn(self, number: int) -> _Worker:
        ours, theirs = socket.socketpair()
        environment = dict(os.environ)
        for name, value in {**_MALLOC, **WITHOUT_KERAS}.items():
            environment.setdefault(name, value)
        if self._folder:
            environment[FOLDER] = self._folder.name
        connection = Connection(ours.detach())
        # The new process inherits the blocked signals: Ctrl-C on a terminal and a service manager's SIGTERM reach all
        # processes, but only the main process handles them.
        with theirs, _signals_blocked():
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
        # A Unix socket, unlike a port, can't be shared: worker 0 or its replacement serves it.
        return self._settings if number == 0 else replace(self._settings, grpc_socket=None)

    def _read(self, number: int, process: subprocess.Popen[bytes], channel: Channel) -> None:
        patience = self._settings.worker_timeout_seconds
        if not channel.serve(patience, _START_SECONDS):
            log.warning("worker %d: no heartbeat for %d s; killed", number, patience)
            process.kill()

    def _supervise(self, worker: _Worker) -> None:
        """Replace the worker each time that it ends, until the server stops."""
        deaths = 0
        while True:
            worker.reader.join()
            ended = worker.wait_ended()
            with self._lock:
                if worker in self._active:
                    self._active.remove(worker)
            self._all.discard(worker)
            if self._stopping.is_set():
                return
            deaths = 0 if time.monotonic() - worker.started > _LONG_SECONDS else deaths
            log.warning("worker %d has died (%s); starting a replacement", worker.number, ended)
            if self._stopping.wait(_PAUSES_SECONDS[min(deaths, len(_PAUSES_SECONDS) - 1)]):
                return
            deaths += 1
            try:
                worker = self._spawn(worker.number)
                self._catch_up(worker)
            except Exception as error:  # noqa: BLE001 - the next attempt may succeed
                if not self._stopping.is_set():
                    why = error if str(error) else "it has died"
                    log.warning("worker %d: the replacement failed: %s; trying again", worker.number, why)
                worker.process.kill()

    def _catch_up(self, worker: _Worker) -> None:
        """Load the current versions in a new worker, open its ports and make it active."""
        done: set[int] = set()
        while True:
            with self._lock:
                if self._stopping.is_set():
                    raise _stopping_error()
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
                    # If the version was unloaded in the meantime, its files may no longer exist.
                    if key in self._loaded:
                        raise
                else:
                    done.add(key)
        log.info("worker %d: the replacement is serving", worker.number)

    def _call_all(self, workers: Iterable[_Worker], method: str, *arguments: Any) -> None:
        """Call `method` in all `workers` concurrently and wait for the results; dead workers are ignored."""
        for future in [worker.channel.start(method, *arguments) for worker in workers]:
            with contextlib.suppress(ChannelClosed):
                future.result()


def _stopping_error() -> StatusError:
    return StatusError(Code.UNAVAILABLE, "the server is stopping")


@contextlib.contextmanager
def _signals_blocked() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
